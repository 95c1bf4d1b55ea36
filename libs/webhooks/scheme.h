// SPDX-License-Identifier: Apache-2.0
// Signature schemes as data: what is signed, where the signature, its timestamp and its keys stand, and how each is
// written.
//
// A scheme is compiled once per catalog from a preset and what the catalog overrides. Verification works on the raw
// bytes received and on the raw header text, never on a parsed value printed again: senders' own libraries that do so
// accept "123abc" as a timestamp. The compare takes constant time, secrets and signatures are tried in all combinations
// (rotation on both sides), both are capped. Immutable, thread-safe. Template tokens: README.md.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libs/catalog/model.h"
#include "libs/webhooks/delivery.h"

namespace mainstay::webhooks {

struct Verdict {
  bool authentic = false;
  // Why not, a stable word for logs and metrics, never told to the sender: signature_missing signature_malformed
  // timestamp_missing timestamp_malformed too_old too_new header_missing mismatch no_usable_secret.
  std::string_view reason;
  int secret = -1;  // index of the secret that matched
};

class Scheme {
 public:
  // InvalidArgument names the wrong word and what would be right.
  static absl::StatusOr<Scheme> Compile(const catalog::SignatureScheme& declared);

  // `url`: the public address the sender was told, with the target it called; only schemes that sign it look at it.
  Verdict Verify(const Delivery& delivery, std::string_view url, absl::Span<const std::string> secrets,
                 absl::Time now) const;

  // Where the preset's sender puts the event's id, type and time; used where the source declares nothing.
  const catalog::ValueSource& default_event_id() const;
  const catalog::ValueSource& default_event_type() const;
  const catalog::ValueSource& default_event_time() const;
  std::string_view default_event_time_unit() const;

 private:
  struct Compiled;
  explicit Scheme(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
  std::shared_ptr<const Compiled> compiled_;
};

// Names of the presets, sorted.
std::vector<std::string> PresetNames();

}  // namespace mainstay::webhooks
