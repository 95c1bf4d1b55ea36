// SPDX-License-Identifier: Apache-2.0
#include "libs/catalog/schema.h"

namespace mainstay::catalog {

std::string_view JsonSchema() {
  static constexpr char kSchema[] =
#include "catalog_schema.inc"
      ;
  return {kSchema, sizeof(kSchema) - 1};
}

}  // namespace mainstay::catalog
