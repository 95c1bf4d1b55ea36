// SPDX-License-Identifier: Apache-2.0
// PostgreSQL for the commands that go there: one connection, as the owner of the tables, for the length of a command.
#pragma once

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/command.h"

namespace pqxx {
class transaction_base;
}
namespace mainstay::postgres {
class Pool;
}

namespace mainstay::cli {

// From --database or MAINSTAY_DATABASE_URL.
absl::StatusOr<std::unique_ptr<postgres::Pool>> OpenDatabase(const Arguments& arguments);
absl::Status InTransaction(const Arguments& arguments, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body);

}  // namespace mainstay::cli
