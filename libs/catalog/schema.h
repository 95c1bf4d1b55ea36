// SPDX-License-Identifier: Apache-2.0
// The JSON Schema (draft 2020-12) of the YAML files, for editors: catalog.schema.json, compiled in.
#pragma once

#include <string_view>

namespace mainstay::catalog {

std::string_view JsonSchema();

}  // namespace mainstay::catalog
