// SPDX-License-Identifier: Apache-2.0
#include "libs/tabular/csv_writer.h"

#include <catch2/catch.hpp>
#include <random>

#include "tests/unit/tabular/read_all.h"

namespace mainstay::tabular {
namespace {

std::string Row(std::initializer_list<std::optional<std::string_view>> cells, CsvWriterOptions options = {}) {
  std::string out;
  CsvWriter writer(out, options);
  for (const auto& cell : cells) writer.Cell(cell);
  writer.EndRow();
  return out;
}

TEST_CASE("quotes stand where they must; no value differs from empty text") {
  CHECK(Row({"a", "b c", std::nullopt, ""}) == "a,b c,,\"\"\r\n");
  CHECK(Row({"a,b", "say \"hi\"", "x\ny", "x\ry"}) == "\"a,b\",\"say \"\"hi\"\"\",\"x\ny\",\"x\ry\"\r\n");
  CHECK(Row({" a", "b "}) == "\" a\",\"b \"\r\n");
  CHECK(Row({"a,b", "c;d"}, {.delimiter = ';'}) == "a,b;\"c;d\"\r\n");
}

TEST_CASE("what a spreadsheet would run gets a leading quote mark, in text cells only") {
  for (const char* text : {"=1+1", "+49 30 1", "-1", "@SUM(A1)", "\t=1", "\rx", "\nx", "  =1", "\xC2\xA0=1",
                           "\xEF\xBC\x9D"
                           "1",
                           "\xEF\xBC\xA0x"}) {
    INFO(text);
    CHECK(LooksLikeFormula(text));
    const std::string row = Row({text});
    CHECK(row.substr(0, 2) == "\"'");
    CHECK(Row({text}, {.escape_formulas = false}).find('\'') == std::string::npos);
  }
  for (const char* text : {"", "a=1", "1-1", "'tis", "\xC3\xA4=", "x@y.z"}) {
    INFO(text);
    CHECK_FALSE(LooksLikeFormula(text));
    CHECK(Row({text}).find("\"'") == std::string::npos);
  }
  std::string number;
  CsvWriter writer(number, {});
  writer.Cell("-12.50", false);
  writer.EndRow();
  CHECK(number == "-12.50\r\n");
}

TEST_CASE("random rows written read back equal, with and without the escape") {
  std::mt19937 random(7);
  const std::vector<std::string> pieces = {"a",
                                           "\"",
                                           "\"\"",
                                           ",",
                                           ";",
                                           "\r",
                                           "\n",
                                           "\r\n",
                                           "'",
                                           "=",
                                           "+",
                                           "-",
                                           "@",
                                           " ",
                                           "\t",
                                           "\xC3\xA4",
                                           "\xF0\x9F\x8D\x94",
                                           "\xEF\xBC\x9D",
                                           "\xC2\xA0",
                                           "0",
                                           "x"};
  for (const bool escape : {true, false}) {
    for (const char delimiter : {',', ';', '\t'}) {
      std::string out;
      CsvWriter writer(out, {.delimiter = delimiter, .escape_formulas = escape});
      std::vector<std::vector<std::optional<std::string>>> rows;
      for (int r = 0; r < 2000; ++r) {
        std::vector<std::optional<std::string>> row = {"r" + std::to_string(r)};
        for (int c = 0; c < 4; ++c) {
          if (random() % 8 == 0) {
            row.push_back(std::nullopt);
            continue;
          }
          std::string text;
          for (auto n = random() % 7; n > 0; --n) text += pieces[random() % pieces.size()];
          row.push_back(text);
        }
        for (const auto& cell : row) writer.Cell(cell);
        writer.EndRow();
        rows.push_back(std::move(row));
      }
      const auto records = ReadAll(out, {delimiter, '"', false}, 1 + random() % 100);
      REQUIRE(records.size() == rows.size());
      for (size_t r = 0; r < rows.size(); ++r) {
        INFO("row " << r);
        CHECK(records[r].issues.empty());
        REQUIRE(records[r].cells.size() == rows[r].size());
        for (size_t c = 0; c < rows[r].size(); ++c) {
          const Cell& cell = records[r].cells[c];
          std::optional<std::string> back;
          if (cell.quoted || !cell.text.empty()) back = std::string(escape ? RemoveEscape(cell.text) : cell.text);
          CHECK(back == rows[r][c]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace mainstay::tabular
