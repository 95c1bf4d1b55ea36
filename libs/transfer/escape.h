// SPDX-License-Identifier: Apache-2.0
// The escape of our exports against formulas: a leading ' in text cells that a spreadsheet would run (tabular's
// CsvWriter writes it). The tag in the file's name says that it was done, so an import of that file takes off exactly
// what was put on; from any other file nothing is taken off.
#pragma once

#include <string_view>

#include "libs/catalog/model.h"

namespace mainstay::transfer {

inline constexpr std::string_view kEscapedTag = ".mainstay-escaped=1";

inline bool IsEscaped(std::string_view file_name) {
  return file_name.find(kEscapedTag) != std::string_view::npos;
}

// Only these are escaped: a number that starts with '-' is no formula.
bool MayHoldFormula(const catalog::ColumnType& type);

}  // namespace mainstay::transfer
