// SPDX-License-Identifier: Apache-2.0
#include "libs/tabular/detect.h"

#include <catch2/catch.hpp>

#include "libs/base/strings.h"

namespace mainstay::tabular {
namespace {

Detection Found(std::string_view text, std::function<bool(std::string_view)> known = nullptr) {
  const auto detection = Detect(text, true, {.known_name = std::move(known)});
  INFO(detection.status());
  REQUIRE(detection.ok());
  return *detection;
}
std::string RefusedFor(std::string_view text) {
  const auto detection = Detect(text, true, {});
  return detection.ok() ? "" : GetRefusal(detection.status()).value_or(Refusal{}).code;
}
std::vector<std::vector<std::string>> Rows(std::string_view text, const Detection& detection) {
  auto records = OpenRecords(std::make_unique<MemorySource>(text, 3), detection, {});
  REQUIRE(records.ok());
  std::vector<std::vector<std::string>> out;
  Record record;
  while (true) {
    const auto more = (*records)->Next(&record);
    REQUIRE(more.ok());
    if (!*more) return out;
    out.emplace_back();
    for (const Cell& cell : record.cells) out.back().push_back(cell.text);
  }
}

using Names = std::vector<std::string>;

TEST_CASE("the delimiter is the one that splits evenly") {
  CHECK(Found("a,b\n1,2\n3,4\n").dialect.delimiter == ',');
  CHECK(Found("a;b\n1,5;2,5\n3,5;4,5\n").dialect.delimiter == ';');
  CHECK(Found("name,x;price\nq,w;1,5\ne,r;2,5\n").dialect.delimiter == ';');
  CHECK(Found("a\tb\nx, y\t2\nz\t4\n").dialect.delimiter == '\t');
  CHECK(Found("a|b|c\n1|2|3\n").dialect.delimiter == '|');
  CHECK(Found("name\n1\n2\n").width == 1);
  CHECK(Found("a,b\n'x,y',1\n'z,w',2\n").dialect.quote == '\'');
  CHECK(Found("a,b\n\"x \\\"y\\\", z\",1\n\"p\",2\n").dialect.backslash_escape);
}

TEST_CASE("sep= is obeyed, skipped, and counted as a line") {
  const std::string text = "sep=|\r\nid|name\r\n1|a,b\r\n";
  const Detection detection = Found(text);
  CHECK(detection.separator_line);
  CHECK(detection.dialect.delimiter == '|');
  CHECK(detection.columns == Names{"id", "name"});
  CHECK(detection.header_line == 2);
  auto records = OpenRecords(std::make_unique<MemorySource>(text), detection, {});
  REQUIRE(records.ok());
  Record record;
  REQUIRE((*records)->Next(&record).value());
  CHECK(record.line == 3);
}

TEST_CASE("preamble and header") {
  const std::string text = "Customers of 2026\n# made by hand\n\nid,name,total\n1,Ada,5\n2,Bob,6\n";
  const Detection detection = Found(text);
  CHECK(detection.preamble == 2);
  CHECK(detection.header == Detection::Header::kPresent);
  CHECK(detection.header_line == 4);
  CHECK(detection.columns == Names{"id", "name", "total"});
  CHECK(Rows(text, detection) == std::vector<Names>{{"1", "Ada", "5"}, {"2", "Bob", "6"}});

  CHECK(Found("1,2\n3,4\n").header == Detection::Header::kAbsent);
  CHECK(Found("name,city\nAda,Rome\n").header == Detection::Header::kUnknown);
  CHECK(Found("name,city\nAda,Rome\n", [](std::string_view name) { return name == "name"; }).header ==
        Detection::Header::kPresent);
  CHECK(Found("name\n", [](std::string_view name) { return name == "name"; }).header == Detection::Header::kPresent);
}

TEST_CASE("header cells are cleaned; blank ones named by place or dropped at the edge") {
  const std::string text = "\xEF\xBB\xBF  Order   No. ,,a\xCC\x88,a\xCC\x88,,\n1,2,3,4,,\n";
  const Detection detection = Found(text);
  CHECK(detection.columns == Names{"Order No.", "column_2", "\xC3\xA4", "\xC3\xA4"});
  CHECK(detection.width == 4);
  CHECK(detection.warnings == Names{"header.duplicate"});
  CHECK(Rows(text, detection) == std::vector<Names>{{"1", "2", "3", "4"}});
}

TEST_CASE("other containers are refused by what they are, never by their name") {
  CHECK(RefusedFor("") == "file.empty");
  CHECK(RefusedFor("  \r\n\n") == "file.no_rows");
  CHECK(RefusedFor("PK\x03\x04....[Content_Types].xml") == "file.unsupported_format");
  CHECK(RefusedFor("\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1") == "file.unsupported_format");
  CHECK(RefusedFor("\x1F\x8B\x08") == "file.unsupported_format");
  CHECK(RefusedFor("{\"a\": 1}\n{\"a\": 2}\n") == "file.unsupported_format");
  CHECK(RefusedFor(std::string(3000, ',')) == "file.too_many_columns");
}

TEST_CASE("windows-1252 is read and warned about") {
  const std::string text =
      "name;ort\nM\xFCller;K\xF6ln\nSchr\xF6"
      "der;1\n";
  const Detection detection = Found(text, [](std::string_view name) { return name == "name"; });
  CHECK(detection.encoding == "windows-1252");
  CHECK(detection.warnings == Names{"file.encoding_guessed"});
  CHECK(Rows(text, detection)[0] == Names{"M\xC3\xBCller", "K\xC3\xB6ln"});
}

}  // namespace
}  // namespace mainstay::tabular
