// SPDX-License-Identifier: Apache-2.0
// The migrations of every domain, in the order in which they are applied.
#pragma once

#include <vector>

#include "libs/postgres/migrations.h"

namespace mainstay::cli {

std::vector<std::vector<postgres::Migration>> AllMigrations();

}  // namespace mainstay::cli
