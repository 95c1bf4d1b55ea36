// SPDX-License-Identifier: Apache-2.0
// Files that other people wrote, with what several established readers agree is in them (manifest.json beside them).
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/tabular/detect.h"

namespace mainstay::tabular {
namespace {

namespace fs = std::filesystem;

fs::path DataFolder() {
  if (const char* dir = std::getenv("MAINSTAY_IMPORT_DATA")) return dir;
  const char* source = std::getenv("MAINSTAY_SOURCE_DIR");
  return fs::path(source != nullptr ? source : ".") / ".." / "shared" / "data" / "import";
}

std::string ReadFile(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

int64_t Number(const JsonValue& object, std::string_view key, int64_t fallback) {
  const JsonValue* value = object.Find(key);
  return value != nullptr && value->is_number() ? std::stoll(std::string(value->text())) : fallback;
}
std::string Text(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.Find(key);
  return value != nullptr && value->is_string() ? std::string(value->text()) : std::string();
}

std::string Unified(std::string_view cell) {
  std::string out;
  for (size_t i = 0; i < cell.size(); ++i) {
    if (cell[i] != '\r') out += cell[i];
    if (cell[i] == '\r' && (i + 1 == cell.size() || cell[i + 1] != '\n')) out += '\n';
  }
  return out;
}

std::string RowsHash(const std::vector<std::vector<std::string>>& rows, size_t width) {
  std::string all;
  for (const auto& row : rows) {
    all += '[';
    for (size_t c = 0; c < width; ++c) {
      if (c > 0) all += ',';
      all += JsonQuote(c < row.size() ? row[c] : "");
    }
    all += "]\n";
  }
  return HexEncode(Sha256(all));
}

bool AllEmpty(const Record& record) {
  for (const Cell& cell : record.cells)
    if (!cell.text.empty()) return false;
  return true;
}

TEST_CASE("real files are read as their annotations say") {
  const fs::path folder = DataFolder();
  if (!fs::exists(folder / "manifest.json")) {
    WARN("skipped: no import data at " << folder << " (MAINSTAY_IMPORT_DATA)");
    return;
  }
  const auto manifest = JsonDocument::Parse(ReadFile(folder / "manifest.json"));
  REQUIRE(manifest.ok());
  int read = 0, headers_known = 0, headers_unsure = 0;
  for (const JsonValue& file : manifest->root().Find("files")->items()) {
    if (Text(file, "format") != "delimited") continue;
    const std::string name = Text(file, "file");
    INFO(name);
    const std::string text = ReadFile(folder / name);
    const auto detection = Detect(std::string_view(text).substr(0, kSampleBytes), text.size() <= kSampleBytes, {});
    INFO(detection.status());
    REQUIRE(detection.ok());
    ++read;

    std::string encoding = Text(file, "encoding");
    if (encoding == "iso-8859-1") encoding = "windows-1252";  // its superset
    if (encoding == "utf-16-le") encoding = "utf-16le";
    if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
      encoding = "utf-8";
    CHECK(detection->encoding == encoding);
    const int64_t columns = Number(file, "column_count", 2);
    if (columns > 1) CHECK(std::string(1, detection->dialect.delimiter) == Text(file, "delimiter"));
    CHECK(std::string(1, detection->dialect.quote) == Text(file, "quote"));

    // Where the header is sure it is right; unsure is an answer too (the user is asked).
    const bool has_header = Number(file, "header_rows", 0) == 1;
    if (detection->header == Detection::Header::kUnknown) {
      ++headers_unsure;
    } else {
      ++headers_known;
      CHECK((detection->header == Detection::Header::kPresent) == has_header);
    }

    // An apostrophe as quote, and apostrophes within: the annotations know what no reader can.
    if (name == "pollock/file_quotation_char_0x27.csv") continue;

    // Content: every record in front of the data is skipped by count, as the annotations tell.
    Detection known = *detection;
    known.header = has_header ? Detection::Header::kPresent : Detection::Header::kAbsent;
    known.preamble = detection->header == Detection::Header::kUnknown ? detection->preamble : known.preamble;
    auto records = OpenRecords(std::make_unique<MemorySource>(text, 4096), known, {.columns = 4096});
    REQUIRE(records.ok());
    std::vector<std::vector<std::string>> all, clean;
    size_t width = static_cast<size_t>(Number(file, "column_count", known.width));
    Record record;
    while (true) {
      const auto more = (*records)->Next(&record);
      INFO(more.status());
      REQUIRE(more.ok());
      if (!*more) break;
      if (AllEmpty(record)) continue;
      std::vector<std::string> row;
      for (const Cell& cell : record.cells) row.push_back(Unified(cell.text));
      if (record.issues.empty()) clean.push_back(row);
      if (record.issues.empty() || Text(file, "expect") == "ok") width = std::max(width, row.size());
      all.push_back(std::move(row));
    }
    if (Text(file, "expect") == "ok") {
      CHECK(static_cast<int64_t>(all.size()) == Number(file, "row_count", -1));
      CHECK(RowsHash(all, width) == Text(file, "rows_sha256"));
      if (file.Find("ragged_count") == nullptr) CHECK(clean.size() == all.size());
    } else if (Text(file, "expect") == "ok_except_dirty") {
      // The record that was damaged is reported (or read as it was meant); the others are untouched.
      const bool loaded = clean.size() == all.size() && RowsHash(all, width) == Text(file, "rows_sha256");
      if (!loaded) {
        CHECK(static_cast<int64_t>(clean.size()) == Number(file, "clean_row_count", -1));
        CHECK(RowsHash(clean, width) == Text(file, "clean_rows_sha256"));
      }
    }
  }
  CHECK(read > 90);
  CHECK(headers_known > headers_unsure);
}

}  // namespace
}  // namespace mainstay::tabular
