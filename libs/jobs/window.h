// SPDX-License-Identifier: Apache-2.0
// How much work a stream holds: about a second or two of what its workers take.
//
// Priority, fairness, pauses and limits are decided in PostgreSQL; what has been published can't be taken back cheaply.
// So a slow queue gets a small window, in which an urgent job waits for little, and a fast one a large window, that
// does not run dry between two looks. Grows at once when workers found the stream empty while there was a backlog;
// follows the rate otherwise. Pure; not thread-safe.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace mainstay::jobs {

struct WindowOptions {
  // Entries, between which the size stays. Equal: it does not adapt.
  int floor = 500, ceiling = 20000;
  // Work held ahead.
  absl::Duration ahead = absl::Milliseconds(1500);
  // The stream's entries weigh at most this much, whatever their number.
  int64_t max_bytes = 64 << 20;
};

class WindowSize {
 public:
  explicit WindowSize(const WindowOptions& options) : options_(options), target_(options.floor) {}

  // `read`: entries given to workers since the group was made; `live`: entries not acknowledged yet, or not delivered;
  // `backlog`: more could have been published.
  void Sample(int64_t read, int64_t live, bool backlog, absl::Time now);
  // An entry of this size was published.
  void Weigh(size_t bytes);

  int target() const;  // entries
  double rate() const { return rate_; }

 private:
  WindowOptions options_;
  double target_, rate_ = 0, bytes_ = 0;
  std::optional<int64_t> read_;
  absl::Time sampled_;
};

}  // namespace mainstay::jobs
