// SPDX-License-Identifier: Apache-2.0
// Row security of PostgreSQL: who asks, told to the transaction that serves them, for policies to look at
// (mainstay.current_tenant(), current_subject(), current_roles(); migrations/0003). Only where the catalog has a
// resource with `row_security: true`; then every transaction of a request carries them.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/postgres/async.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::records {

// For the rest of this transaction. Nothing where the model needs none.
absl::Status SetClaims(pqxx::transaction_base& tx, const catalog::Model& model, const CallContext& context);

// The same connections; each transaction on them begins with the claims, in the round trip of its first statement. A
// statement outside of a transaction gets one. `inner` outlives it; sessions may outlive it. Null where the model needs
// none.
std::unique_ptr<postgres::AsyncPostgres> WithClaims(postgres::AsyncPostgres& inner, const catalog::Model& model,
                                                    const CallContext& context);

}  // namespace mainstay::records
