// SPDX-License-Identifier: Apache-2.0
// Internal: whether a cron expression can be one. Five fields: minute, hour, day of month, month, day of week; lists,
// ranges, steps, names of months and days.
#pragma once

#include <string>
#include <string_view>

namespace mainstay::catalog {

// "" when fine, else a sentence.
std::string CronProblem(std::string_view cron);

}  // namespace mainstay::catalog
