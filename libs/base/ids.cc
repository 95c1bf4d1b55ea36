// SPDX-License-Identifier: Apache-2.0
#include "libs/base/ids.h"

#include <array>
#include <cstring>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "libs/base/crypto.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay {
namespace {

constexpr char kAlphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";  // Crockford base32
constexpr size_t kIdLength = 26;                                  // 130 bits: two zero bits, then the UUID

const std::array<int, 256>& Values() {
  static const std::array<int, 256> values = [] {
    std::array<int, 256> v;
    v.fill(-1);
    for (int i = 0; i < 32; ++i) v[uint8_t(kAlphabet[i])] = i;
    return v;
  }();
  return values;
}

}  // namespace

std::string Uuid::ToString() const {
  const std::string hex = HexEncode({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  return StrCat(hex.substr(0, 8), "-", hex.substr(8, 4), "-", hex.substr(12, 4), "-", hex.substr(16, 4), "-",
                hex.substr(20));
}

Uuid NewUuid() {
  // Random bytes are drawn in blocks: a call to the system's generator costs more than the rest of this function.
  thread_local std::string block;
  thread_local size_t used = 0;
  if (used + 10 > block.size()) {
    block = RandomBytes(640);
    used = 0;
  }
  Uuid uuid;
  const uint64_t millis = uint64_t(absl::ToUnixMillis(absl::Now()));
  for (int i = 0; i < 6; ++i) uuid.bytes[size_t(i)] = uint8_t(millis >> (40 - 8 * i));
  std::memcpy(uuid.bytes.data() + 6, block.data() + used, 10);
  used += 10;
  uuid.bytes[6] = uint8_t((uuid.bytes[6] & 0x0f) | 0x70);
  uuid.bytes[8] = uint8_t((uuid.bytes[8] & 0x3f) | 0x80);
  return uuid;
}

absl::StatusOr<Uuid> ParseUuid(std::string_view text) {
  std::string hex;
  if (text.size() == 36 && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-') {
    hex = StrCat(text.substr(0, 8), text.substr(9, 4), text.substr(14, 4), text.substr(19, 4), text.substr(24));
  }
  const auto bytes = HexDecode(hex);
  if (!bytes || bytes->size() != 16)
    return absl::InvalidArgumentError("not a UUID; expected e.g. 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b");
  Uuid uuid;
  std::memcpy(uuid.bytes.data(), bytes->data(), 16);
  return uuid;
}

std::string FormatId(std::string_view prefix, const Uuid& uuid) {
  std::string out = StrCat(prefix, "_");
  uint32_t bits = 0;
  int count = 2;  // the two leading zero bits
  for (uint8_t byte : uuid.bytes) {
    bits = bits << 8 | byte;
    count += 8;
    while (count >= 5) {
      count -= 5;
      out += kAlphabet[bits >> count & 31];
    }
  }
  return out;
}

absl::StatusOr<Uuid> ParseId(std::string_view prefix, std::string_view id) {
  const absl::Status refused =
      absl::InvalidArgumentError(StrCat("not an id of this kind; expected ", prefix, "_ and 26 characters"));
  if (id.size() != prefix.size() + 1 + kIdLength || id.substr(0, prefix.size()) != prefix || id[prefix.size()] != '_')
    return refused;
  id.remove_prefix(prefix.size() + 1);
  Uuid uuid;
  uint32_t bits = 0;
  int count = -2;
  size_t at = 0;
  for (char c : id) {
    const int value = Values()[uint8_t(c)];
    if (value < 0 || (at == 0 && count < 0 && value > 7)) return refused;
    bits = bits << 5 | uint32_t(value);
    count += 5;
    if (count >= 8) {
      count -= 8;
      uuid.bytes[at++] = uint8_t(bits >> count);
    }
  }
  return uuid;
}

}  // namespace mainstay
