// SPDX-License-Identifier: Apache-2.0
// Cursors: what was not sealed here is never a position, and what was comes back as it was.
#include "libs/records/cursor.h"

#include <string>

#include "libs/base/problem.h"
#include "libs/base/text.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mainstay;
  using namespace mainstay::records;
  static const std::string key(32, 'k');
  const CursorBinding binding{.key = key,
                              .shape = std::string(16, 's'),
                              .view = std::string(16, 'v'),
                              .now = absl::FromUnixSeconds(1800000000)};
  const std::string input(reinterpret_cast<const char*>(data), size);
  // As sent by a client: the key is secret, so none of it opens.
  const auto opened = OpenCursor(binding, input, input.size() % 5);
  FUZZ_REQUIRE(!opened.ok());
  FUZZ_REQUIRE(ProblemFromStatus(opened.status()).type == "cursor-invalid");
  // As a position: values cut from the input.
  Position position{.backward = size % 2 == 1};
  for (size_t at = 0; at < input.size();) {
    const size_t length = static_cast<unsigned char>(input[at]) % 64;
    position.values.emplace_back(length == 0 ? std::nullopt : std::optional(input.substr(at + 1, length)));
    at += 1 + length;
  }
  const auto sealed = SealCursor(binding, position);
  if (!sealed.ok()) return 0;
  FUZZ_REQUIRE(sealed->size() <= kMaxCursor);
  const auto back = OpenCursor(binding, *sealed, position.values.size());
  FUZZ_REQUIRE(back.ok());
  FUZZ_REQUIRE(back->backward == position.backward && back->values == position.values);
  // With one bit changed, for another query, another caller, too late: none.
  if (!input.empty()) {
    std::string bytes = Base64UrlDecode(*sealed).value();
    bytes[input.size() % bytes.size()] = static_cast<char>(bytes[input.size() % bytes.size()] ^ (1 << (input[0] & 7)));
    FUZZ_REQUIRE(!OpenCursor(binding, Base64UrlEncode(bytes), position.values.size()).ok());
  }
  CursorBinding other = binding;
  other.view[0] = 'w';
  FUZZ_REQUIRE(!OpenCursor(other, *sealed, position.values.size()).ok());
  other = binding;
  other.now += absl::Hours(25);
  FUZZ_REQUIRE(!OpenCursor(other, *sealed, position.values.size()).ok());
  ++fuzz::accepted;
  return 0;
}
