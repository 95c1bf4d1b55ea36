// SPDX-License-Identifier: Apache-2.0
// A first catalog for a database that Mainstay has never seen (`mainstay init`).
//
// A draft errs on the closed side: columns that look sensitive are hidden, what has no key is only mentioned in a
// comment. The result parses and checks as it stands.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::catalog {

// YAML text. Empty `schemas`: all but the system's.
absl::StatusOr<std::string> Draft(pqxx::transaction_base& tx, const std::vector<std::string>& schemas = {});

}  // namespace mainstay::catalog
