// SPDX-License-Identifier: Apache-2.0
#include "libs/tabular/encoding.h"

#include <catch2/catch.hpp>

namespace mainstay::tabular {
namespace {

std::string Decode(std::string_view bytes, std::string_view encoding, size_t piece = 0) {
  auto source = DecodeToUtf8(std::make_unique<MemorySource>(bytes, piece), encoding);
  REQUIRE(source.ok());
  std::string out;
  while (true) {
    const auto next = (*source)->Next();
    REQUIRE(next.ok());
    if (next->empty()) return out;
    out += *next;
  }
}

TEST_CASE("encodings are told apart") {
  using namespace std::string_view_literals;
  CHECK(DetectEncoding("abc", true).name == "utf-8");
  CHECK(DetectEncoding("\xEF\xBB\xBF"
                       "abc",
                       true)
            .bom == 3);
  CHECK(DetectEncoding("gr\xC3\xBC\xC3\x9F"
                       "e",
                       true)
            .certain);
  CHECK(DetectEncoding("\xFF\xFE"
                       "a\0b\0"sv,
                       true)
            .name == "utf-16le");
  CHECK(DetectEncoding("\xFE\xFF\0a\0b"sv, true).name == "utf-16be");
  CHECK(DetectEncoding("a\0,\0b\0\n\0c\0"sv, true).name == "utf-16le");
  CHECK(DetectEncoding("\0a\0,\0b\0\n"sv, true).name == "utf-16be");
  const EncodingGuess western = DetectEncoding(
      "Gr\xF6\xDF"
      "e,Stra\xDF"
      "e\n",
      true);
  CHECK(western.name == "windows-1252");
  CHECK_FALSE(western.certain);
  // A sample that ends inside a character is still UTF-8; a file that does is not.
  CHECK(DetectEncoding("gr\xC3\xBC\xC3", false).name == "utf-8");
  CHECK(DetectEncoding("gr\xC3\xBC\xC3", true).name == "windows-1252");
}

TEST_CASE("Japanese without a mark is recognised when there is enough of it") {
  // 商品名,価格,数量 and two rows, in Shift_JIS.
  std::string text = "\x8F\xA4\x95\x69\x96\xBC,\x89\xBF\x8A\x69,\x90\x94\x97\xCA\r\n";
  for (int i = 0; i < 20; ++i)
    text += "\x82\xE8\x82\xF1\x82\xB2,100,\x8C\xC2\r\n\x82\xDD\x82\xA9\x82\xF1,80,\x8C\xC2\r\n";
  const EncodingGuess guess = DetectEncoding(text, true);
  CHECK(guess.name == "shift_jis");
  CHECK(Decode(text, guess.name).substr(0, 9) == "\xE5\x95\x86\xE5\x93\x81\xE5\x90\x8D");
}

TEST_CASE("conversion is strict and the same in any pieces") {
  using namespace std::string_view_literals;
  for (const size_t piece : {0, 1, 2, 3}) {
    INFO(piece);
    CHECK(Decode("\xEF\xBB\xBF"
                 "a\xC3\xA4",
                 "utf-8", piece) == "a\xC3\xA4");
    CHECK(Decode("\xEF\xBB", "utf-8", piece) == "\xEF\xBB");
    CHECK(Decode("\xFF\xFE"
                 "a\0\xE4\0=\xD8T\xDF"sv,
                 "utf-16le", piece) == "a\xC3\xA4\xF0\x9F\x9D\x94");
    CHECK(Decode("Gr\xF6\xDF"
                 "e \x80",
                 "windows-1252", piece) ==
          "Gr\xC3\xB6\xC3\x9F"
          "e \xE2\x82\xAC");
    // Undefined bytes and broken sequences become the mark 0xFF.
    CHECK(Decode("a\x81"
                 "b",
                 "windows-1252", piece) ==
          "a\xFF"
          "b");
    CHECK(Decode("a\0=\xD8"
                 "b\0"sv,
                 "utf-16le", piece) ==
          "a\xFF"
          "b");
    CHECK(Decode("a\0b"sv, "utf-16le", piece) == "a\xFF");
  }
  CHECK_FALSE(DecodeToUtf8(std::make_unique<MemorySource>("x"), "klingon-8").ok());
}

TEST_CASE("NFC") {
  CHECK(NormalizeNfc("a\xCC\x88") == "\xC3\xA4");
}

}  // namespace
}  // namespace mainstay::tabular
