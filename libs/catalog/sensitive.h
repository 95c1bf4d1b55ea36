// SPDX-License-Identifier: Apache-2.0
// Internal: column names that usually hold what should not be shown. A guess for drafts, masking and warnings; never a
// permission.
#pragma once

#include <string_view>

namespace mainstay::catalog {

bool LooksSensitive(std::string_view column);

}  // namespace mainstay::catalog
