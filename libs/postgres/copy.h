// SPDX-License-Identifier: Apache-2.0
// Many rows in and out inside a transaction of the pool, in bounded memory.
//
// In: COPY … FROM STDIN in pieces of 64 KiB, columns known only at run time, the same transaction as the SQL before and
// after it (staging, then merge). Out: a cursor, since COPY takes no bind parameters. While a CopyIn is open no other
// statement may run in its transaction.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"

namespace pqxx {
class transaction_base;
class result;
}  // namespace pqxx

namespace mainstay::postgres {

// "order" → "\"order\"", as PostgreSQL quotes names.
std::string QuoteIdentifier(std::string_view name);
// "shop.orders" → "\"shop\".\"orders\""; a name without a dot stays unqualified.
std::string QuoteQualified(std::string_view name);

class CopyIn {
 public:
  // `table`: "schema.name" or a temporary table's name; both are quoted here.
  CopyIn(pqxx::transaction_base& tx, std::string_view table, absl::Span<const std::string> columns);
  // Without Finish: the COPY is abandoned; the transaction is then good for nothing but rolling back.
  ~CopyIn();
  // A cell per column; nullopt is NULL. InvalidArgument for a NUL byte or a wrong number of cells: that row is not
  // sent, the copy goes on.
  absl::Status Row(absl::Span<const std::optional<std::string_view>> cells);
  // Sends the rest and waits for PostgreSQL's verdict on all rows.
  absl::Status Finish();
  int64_t rows() const { return rows_; }

 private:
  absl::Status Send();
  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::string buffer_;
  const size_t columns_;
  int64_t rows_ = 0;
};

// Calls `rows` with results of at most `batch` rows until all are read or it returns an error, which is passed on.
// Parameters are text; nullopt is NULL.
absl::Status StreamRows(pqxx::transaction_base& tx, std::string_view sql,
                        absl::Span<const std::optional<std::string>> parameters,
                        absl::FunctionRef<absl::Status(const pqxx::result&)> rows, int batch = 2000);

}  // namespace mainstay::postgres
