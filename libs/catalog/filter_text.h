// SPDX-License-Identifier: Apache-2.0
// Internal: checks the text of a declared filter ("filter[status][ne]=draft&filter[owner]={subject}") against the
// resource it is for, so that a misspelt row predicate is found by `check` and not by the first request. The reader
// that serves requests is libs/records.
#pragma once

#include <string>
#include <string_view>

#include "libs/catalog/model.h"

namespace mainstay::catalog {

struct FilterTextOptions {
  bool placeholders = false;  // {tenant} and {subject} may stand as values
  bool fields = false;        // {field}, another field of the row, may stand as a value
  bool hidden = false;        // hidden fields may be named
  bool sort = false;          // sort=… may stand beside the filters
};

// "" when fine, else a sentence.
std::string FilterTextProblem(const Model& model, const Resource& resource, std::string_view text,
                              const FilterTextOptions& options);

}  // namespace mainstay::catalog
