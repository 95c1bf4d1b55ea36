// SPDX-License-Identifier: Apache-2.0
// RFC 4180 text: CRLF, quotes where needed; no value is an empty cell, a text of no characters is "".
//
// Spreadsheet mode (the default for people) keeps a text cell from being run as a formula by a leading '. It is exact:
// RemoveEscape takes away precisely what was put there, so a marked export reads back as it was. Numbers and dates are
// never touched.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mainstay::tabular {

struct CsvWriterOptions {
  char delimiter = ',';
  bool escape_formulas = true;
};

class CsvWriter {
 public:
  // Appends to `out`, which the caller empties as it likes between rows.
  CsvWriter(std::string& out, CsvWriterOptions options) : out_(out), options_(options) {}
  void Cell(std::optional<std::string_view> text, bool is_text = true);
  void EndRow();

 private:
  std::string& out_;
  const CsvWriterOptions options_;
  int cells_ = 0;
};

// Whether a spreadsheet could take this text for a formula.
bool LooksLikeFormula(std::string_view text);
// Undoes the leading ' of spreadsheet mode; anything else stays.
std::string_view RemoveEscape(std::string_view text);

}  // namespace mainstay::tabular
