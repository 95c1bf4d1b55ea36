// SPDX-License-Identifier: Apache-2.0
#include "libs/tabular/csv_reader.h"

#include <catch2/catch.hpp>

#include "tests/unit/tabular/read_all.h"

namespace mainstay::tabular {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::vector<std::string> Codes(const Record& record) {
  std::vector<std::string> out;
  for (const Issue& issue : record.issues) out.push_back(issue.code);
  return out;
}

TEST_CASE("records are what RFC 4180 says, whatever the newline and the size of the pieces") {
  struct Case {
    std::string name, text;
    Rows rows;
  };
  const std::vector<Case> cases = {
      {"plain", "a,b\nc,d\n", {{"a", "b"}, {"c", "d"}}},
      {"no newline at the end", "a,b\nc,d", {{"a", "b"}, {"c", "d"}}},
      {"CRLF", "a,b\r\nc,d\r\n", {{"a", "b"}, {"c", "d"}}},
      {"CR alone", "a,b\rc,d\r", {{"a", "b"}, {"c", "d"}}},
      {"a mixture", "a\r\nb\rc\nd", {{"a"}, {"b"}, {"c"}, {"d"}}},
      {"newlines inside quotes are data", "\"a\r\nb\",\"c\rd\"\n\"e\nf\",g", {{"a\r\nb", "c\rd"}, {"e\nf", "g"}}},
      {"doubled quotes", "\"say \"\"hi\"\"\",\"\"\"\"\n", {{"say \"hi\"", "\""}}},
      {"delimiters inside quotes", "\"a,b\",c", {{"a,b", "c"}}},
      {"empty cells", ",a,\n,,x\n", {{"", "a", ""}, {"", "", "x"}}},
      {"a last empty cell without newline", "a,", {{"a", ""}}},
      {"blank records are skipped", "a\n\n,\n  \nb\n\n", {{"a"}, {"b"}}},
      {"quoted nothing is something", "\"\"\na", {{""}, {"a"}}},
      {"nothing", "", {}},
      {"only newlines", "\n\r\n\r", {}},
  };
  for (const Case& c : cases) {
    for (const size_t piece : {0, 1, 2, 3, 7}) {
      INFO(c.name << ", pieces of " << piece);
      CHECK(Texts(ReadAll(c.text, {}, piece)) == c.rows);
    }
  }
}

TEST_CASE("a quoted empty cell differs from an empty one") {
  const auto records = ReadAll("\"\",,x");
  REQUIRE(records.size() == 1);
  CHECK(records[0].cells[0].quoted);
  CHECK_FALSE(records[0].cells[1].quoted);
}

TEST_CASE("line numbers are physical lines") {
  const auto records = ReadAll("h\r\n\"a\nb\rc\"\n\nd\re\n", {}, 1);
  REQUIRE(records.size() == 4);
  CHECK(records[0].line == 1);
  CHECK(records[1].line == 2);
  CHECK(records[2].line == 6);
  CHECK(records[3].line == 7);
}

TEST_CASE("a stray quote inside a quoted cell is reported and the text kept; in a bare cell it is text") {
  for (const size_t piece : {0, 1}) {
    const auto records = ReadAll("5\" pipe,x\n\"a\"b,c\nd,e\n", {}, piece);
    REQUIRE(records.size() == 3);
    CHECK(records[0].issues.empty());
    CHECK(records[0].cells[0].text == "5\" pipe");
    CHECK(Codes(records[1]) == std::vector<std::string>{"row.stray_quote"});
    CHECK(records[1].issues[0].column == 0);
    CHECK(Texts(records)[1] == std::vector<std::string>{"a\"b", "c"});
    CHECK(records[2].issues.empty());
  }
}

TEST_CASE("an unclosed quote ends with its line; the records behind it are not swallowed") {
  for (const size_t piece : {0, 1, 5}) {
    const auto records = ReadAll("a,b\n1,\"x\n2,y\n3,z\n", {}, piece, 2);
    REQUIRE(records.size() == 4);
    CHECK(Codes(records[1]) == std::vector<std::string>{"row.unclosed_quote"});
    CHECK(records[1].line == 2);
    CHECK(Texts(records)[1] == std::vector<std::string>{"1", "x"});
    CHECK(Texts(records)[2] == std::vector<std::string>{"2", "y"});
    CHECK(records[2].line == 3);
    CHECK(Texts(records)[3] == std::vector<std::string>{"3", "z"});
  }
  // A quote further down closes it by accident: the text behind that one gives it away, or the width does.
  auto records = ReadAll("1,\"x\n2,\"y\"\n3,z\n", {}, 0, 2);
  REQUIRE(records.size() == 3);
  CHECK(Codes(records[0]) == std::vector<std::string>{"row.unclosed_quote"});
  CHECK(Texts(records)[1] == std::vector<std::string>{"2", "y"});
  records = ReadAll("1,\"x\n2,y\n3,z\",w\n4,v\n", {}, 0, 2);
  REQUIRE(records.size() == 4);
  CHECK(Codes(records[0]) == std::vector<std::string>{"row.unclosed_quote"});
  CHECK(Texts(records)[1] == std::vector<std::string>{"2", "y"});
  CHECK(Texts(records)[3] == std::vector<std::string>{"4", "v"});
}

TEST_CASE("a quote unclosed for a mebibyte is given up there") {
  std::string text = "a,\"b\n";
  for (int i = 0; i < 200000; ++i) text += "c,dddddddd\n";
  const auto records = ReadAll(text, {}, 65536, 2);
  REQUIRE(records.size() == 200001);
  CHECK(Codes(records[0]) == std::vector<std::string>{"row.unclosed_quote"});
  CHECK(records.back().issues.empty());
}

TEST_CASE("too many and too few cells are reported; a usual delimiter at the end of lines is not") {
  const auto records = ReadAll("1,2\n1\n1,2,3\n1,2,\n1,2,,\n", {}, 0, 2, 3);
  REQUIRE(records.size() == 5);
  CHECK(records[0].issues.empty());
  CHECK(Codes(records[1]) == std::vector<std::string>{"row.too_few_cells"});
  CHECK(Codes(records[2]) == std::vector<std::string>{"row.too_many_cells"});
  CHECK(records[3].issues.empty());
  CHECK(records[3].cells.size() == 2);
  CHECK(Codes(records[4]) == std::vector<std::string>{"row.too_many_cells"});
}

TEST_CASE("bytes that are no UTF-8 are reported at their cell, never replaced") {
  const auto records = ReadAll("a,b\nx,\xFF\xFE\ny,z\n");
  REQUIRE(records.size() == 3);
  CHECK(Codes(records[1]) == std::vector<std::string>{"row.invalid_encoding"});
  CHECK(records[1].issues[0].column == 1);
  CHECK(records[2].issues.empty());
}

TEST_CASE("backslash escapes and no quotes at all are dialects") {
  CHECK(Texts(ReadAll(R"("a\"b",c)", {',', '"', true})) == Rows{{"a\"b", "c"}});
  CHECK(Texts(ReadAll("\"a;b\";c", {';', 0, false})) == Rows{{"\"a", "b\"", "c"}});
  CHECK(Texts(ReadAll("'a,b',c", {',', '\'', false})) == Rows{{"a,b", "c"}});
}

TEST_CASE("limits refuse the file by name") {
  const auto refusal = [](std::string_view text, Limits limits) {
    CsvReader reader(std::make_unique<MemorySource>(text, 1000), {}, limits);
    Record record;
    while (true) {
      const auto more = reader.Next(&record);
      if (!more.ok()) return GetRefusal(more.status()).value_or(Refusal{}).code;
      if (!*more) return std::string("none");
    }
  };
  CHECK(refusal(std::string(1023, ','), {}) == "none");
  CHECK(refusal(std::string(1024, ','), {}) == "file.too_many_columns");
  CHECK(refusal(std::string((1 << 20) + 1, 'x'), {}) == "file.cell_too_large");
  CHECK(refusal("\"" + std::string((1 << 20) + 1, 'x') + "\"", {}) == "file.cell_too_large");
  CHECK(refusal("aaaa,aaaa,aaaa", {.record_bytes = 8}) == "file.cell_too_large");
}

}  // namespace
}  // namespace mainstay::tabular
