// SPDX-License-Identifier: Apache-2.0
// Identifiers of the suite's own objects: UUIDv7 (RFC 9562) in rows, "job_" + 26 characters of base32 outside.
//
// Sorted by time of creation to the millisecond, random within it: not a sequence, and no secret either.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace mainstay {

struct Uuid {
  std::array<uint8_t, 16> bytes{};
  friend bool operator==(const Uuid&, const Uuid&) = default;
  friend auto operator<=>(const Uuid&, const Uuid&) = default;
  // "0190a1b2-…" as PostgreSQL prints it.
  std::string ToString() const;
  template <typename H>
  friend H AbslHashValue(H h, const Uuid& u) {
    return H::combine(std::move(h), u.bytes);
  }
};

Uuid NewUuid();  // version 7, from the real clock and the system's random source; thread-safe
absl::StatusOr<Uuid> ParseUuid(std::string_view text);  // the 36-character form

// Prefixes of the suite: job evt imp exp blob conn ep src key aud flow sch dlv.
std::string FormatId(std::string_view prefix, const Uuid& uuid);  // "job_01jc…" (Crockford base32, lower-case)
// Refuses another prefix, other characters and other lengths, with a message that names what was expected.
absl::StatusOr<Uuid> ParseId(std::string_view prefix, std::string_view id);
inline std::string NewId(std::string_view prefix) {
  return FormatId(prefix, NewUuid());
}

}  // namespace mainstay
