// SPDX-License-Identifier: Apache-2.0
#include "libs/base/text.h"

#include <catch2/catch.hpp>

#include "libs/base/crypto.h"

namespace mainstay {

TEST_CASE("encodings read back every length") {
  for (size_t n = 0; n < 70; ++n) {
    const std::string bytes = RandomBytes(n);
    REQUIRE(HexDecode(HexEncode(bytes)) == bytes);
    REQUIRE(Base64Decode(Base64Encode(bytes)) == bytes);
    REQUIRE(Base64UrlDecode(Base64UrlEncode(bytes)) == bytes);
    REQUIRE(PercentDecode(PercentEncode(bytes), false) == bytes);
  }
  CHECK(Base64Encode("\xfb\xff") == "+/8=");
  CHECK(Base64UrlEncode("\xfb\xff") == "-_8");
}

TEST_CASE("malformed encodings are refused, also those that mean the same bytes twice") {
  CHECK_FALSE(HexDecode("abc"));
  CHECK_FALSE(HexDecode("zz"));
  CHECK_FALSE(Base64Decode("+/8"));   // no padding
  CHECK_FALSE(Base64Decode("+/9="));  // spare bits
  CHECK_FALSE(Base64Decode("+ 8="));
  CHECK_FALSE(Base64Decode("===="));
  CHECK_FALSE(Base64UrlDecode("-_8="));
  CHECK_FALSE(Base64UrlDecode("A"));
  CHECK_FALSE(PercentDecode("%4", false));
  CHECK_FALSE(PercentDecode("%zz", false));
  CHECK(PercentDecode("a+b%20", true) == "a b ");
}

TEST_CASE("UTF-8 is checked as RFC 3629 says") {
  CHECK(IsValidUtf8("héé€😀"));
  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "a\xff"})
    CHECK_FALSE(IsValidUtf8(bad));
  CHECK(TruncateUtf8("a€b", 3) == "a");
  CHECK(TruncateUtf8("a€b", 4) == "a€");
  CHECK(TruncateUtf8("ab", 4) == "ab");
}

TEST_CASE("array literals quote every element") {
  PgArray array;
  array.Add("a");
  array.Add("q\"\\,{}");
  array.AddNull();
  array.Add("NULL");
  CHECK(std::move(array).Finish() == R"({"a","q\"\\,{}",NULL,"NULL"})");
  CHECK(PgArray().Finish() == "{}");
}

}  // namespace mainstay
