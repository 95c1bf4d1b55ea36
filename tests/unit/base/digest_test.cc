// SPDX-License-Identifier: Apache-2.0
#include "libs/base/digest.h"

#include <catch2/catch.hpp>
#include <set>

#include "libs/base/text.h"

namespace mainstay {
namespace {

TEST_CASE("a quick digest depends on every byte and on the key, and never changes") {
  // https://github.com/Cyan4973/xxHash: XXH3_128bits of nothing.
  CHECK(HexEncode(QuickDigest(0, "")) == "99aa06d3014798d86001c324468d497f");
  std::set<std::string> seen;
  for (const size_t size : {0, 1, 3, 8, 16, 17, 128, 129, 240, 241, 5000}) {
    std::string text(size, 'a');
    CHECK(seen.insert(QuickDigest(1, text)).second);
    CHECK(seen.insert(QuickDigest(2, text)).second);
    CHECK(QuickDigest(1, text) == QuickDigest(1, std::string(size, 'a')));
    if (size == 0) continue;
    text.back() = 'b';
    CHECK(seen.insert(QuickDigest(1, text)).second);
  }
}

TEST_CASE("the key of a quick digest comes from a secret and a purpose") {
  CHECK(QuickDigestKey("secret", "tags") == QuickDigestKey("secret", "tags"));
  CHECK(QuickDigestKey("secret", "tags") != QuickDigestKey("secret", "others"));
  CHECK(QuickDigestKey("secret", "tags") != QuickDigestKey("terces", "tags"));
}

}  // namespace
}  // namespace mainstay
