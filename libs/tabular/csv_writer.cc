// SPDX-License-Identifier: Apache-2.0
#include "libs/tabular/csv_writer.h"

namespace mainstay::tabular {
namespace {

bool Begins(std::string_view text, std::string_view with) {
  return text.substr(0, with.size()) == with;
}

// A formula behind any number of quotation marks: what needs the escape, and what an escaped cell looks like.
bool Escapable(std::string_view text) {
  while (!text.empty() && text.front() == '\'') text.remove_prefix(1);
  return LooksLikeFormula(text);
}

}  // namespace

bool LooksLikeFormula(std::string_view text) {
  if (text.empty()) return false;
  if (text.front() == '\t' || text.front() == '\r' || text.front() == '\n') return true;
  // Blanks in front do not stop a spreadsheet: space, NBSP, ideographic space, byte order mark.
  while (true) {
    if (Begins(text, " ") || Begins(text, "\t") || Begins(text, "\r") || Begins(text, "\n")) {
      text.remove_prefix(1);
    } else if (Begins(text, "\xC2\xA0")) {
      text.remove_prefix(2);
    } else if (Begins(text, "\xE3\x80\x80") || Begins(text, "\xEF\xBB\xBF") || Begins(text, "\xE2\x80\x8B")) {
      text.remove_prefix(3);
    } else {
      break;
    }
  }
  for (std::string_view sign : {"=", "+", "-", "@", "\xEF\xBC\x9D", "\xEF\xBC\x8B", "\xEF\xBC\x8D", "\xEF\xBC\xA0"})
    if (Begins(text, sign)) return true;
  return false;
}

std::string_view RemoveEscape(std::string_view text) {
  if (!text.empty() && text.front() == '\'' && Escapable(text)) text.remove_prefix(1);
  return text;
}

void CsvWriter::Cell(std::optional<std::string_view> text, bool is_text) {
  if (cells_++ > 0) out_ += options_.delimiter;
  if (!text) return;
  const bool escape = is_text && options_.escape_formulas && Escapable(*text);
  bool quote = escape || text->empty() || text->front() == ' ' || text->back() == ' ';
  if (!quote) {
    for (const char c : *text) {
      if (c == options_.delimiter || c == '"' || c == '\r' || c == '\n') {
        quote = true;
        break;
      }
    }
  }
  if (!quote) {
    out_.append(*text);
    return;
  }
  out_ += '"';
  if (escape) out_ += '\'';
  for (const char c : *text) {
    if (c == '"') out_ += '"';
    out_ += c;
  }
  out_ += '"';
}

void CsvWriter::EndRow() {
  out_ += "\r\n";
  cells_ = 0;
}

}  // namespace mainstay::tabular
