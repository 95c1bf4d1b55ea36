// SPDX-License-Identifier: Apache-2.0
// Internal: what validation needs beyond a value's form: declared patterns, and the order of two values of a type.
#pragma once

#include <string>
#include <string_view>

#include "libs/catalog/model.h"

namespace mainstay::records {

// Whole value against an RE2 pattern, compiled once in the process. A pattern that does not compile matches nothing:
// publish refuses those.
bool FullMatch(const std::string& pattern, std::string_view text);

// <0, 0, >0 in the type's own order; both texts are of the form ConvertText gives, or as declared in the catalog.
// Decimals and integers are compared by their digits.
int CompareValues(const catalog::ColumnType& type, std::string_view a, std::string_view b);

}  // namespace mainstay::records
