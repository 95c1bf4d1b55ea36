// SPDX-License-Identifier: Apache-2.0
// Reads a whole text in pieces, for the tests of this folder.
#pragma once

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "libs/tabular/csv_reader.h"

namespace mainstay::tabular {

inline std::vector<Record> ReadAll(std::string_view text, Dialect dialect = {}, size_t piece = 0, int width = -1,
                                   int widest = 0) {
  CsvReader reader(std::make_unique<MemorySource>(text, piece), dialect);
  if (width > 0) reader.ExpectWidth(width, widest);
  std::vector<Record> out;
  Record record;
  while (true) {
    const auto more = reader.Next(&record);
    INFO(more.status());
    REQUIRE(more.ok());
    if (!*more) return out;
    out.push_back(record);
  }
}

inline std::vector<std::vector<std::string>> Texts(const std::vector<Record>& records) {
  std::vector<std::vector<std::string>> out;
  for (const Record& record : records) {
    out.emplace_back();
    for (const Cell& cell : record.cells) out.back().push_back(cell.text);
  }
  return out;
}

}  // namespace mainstay::tabular
