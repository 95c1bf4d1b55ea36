// SPDX-License-Identifier: Apache-2.0
// Lists for callers that may wait on a thread: the suite's own resources (jobs, events, imports …) and exports.
//
// The same reader as the HTTP API's: query resolved against the resource, permissions and tenant in the statement,
// keyset cursors, one plan. What the client asked wrongly comes back as its problem, before any SQL is sent. Pure but
// for the statements on `tx`; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "mainstay/common/v1/common.pb.h"

namespace google::protobuf {
class Message;
}
namespace pqxx {
class transaction_base;
}

namespace mainstay::records {

struct RowsPage {
  std::vector<std::string> fields;                            // public names, in the order of the cells
  std::vector<catalog::ColumnType> types;                     // of the same
  std::vector<std::vector<std::optional<std::string>>> rows;  // as PostgreSQL prints them
  common::v1::Page page;
};

// One page. A resource that is not the model's own object (catalog::SystemResource) is readable by every caller, within
// its tenant; the caller has checked the scope. `cursor_key`: 32 bytes, the same in every copy of the service.
// Expansions are refused. A count needs a second statement: run it in Pool::Snapshot to see one state.
absl::StatusOr<RowsPage> ListRows(pqxx::transaction_base& tx, const catalog::Resource& resource,
                                  const catalog::Model& model, const CallContext& context,
                                  const common::v1::ListQuery& query, std::string_view cursor_key);

// All fields of the row with this key (as PostgreSQL prints it); no row where the caller sees none.
absl::StatusOr<RowsPage> GetRow(pqxx::transaction_base& tx, const catalog::Resource& resource,
                                const catalog::Model& model, const CallContext& context,
                                const std::vector<std::string>& key);

// Sets the fields of `message` that are named like the page's: text, typed ids and JSON → string (or bytes), enums by
// their lower-case name, timestamps → Timestamp, numbers and booleans, JSON objects → messages and maps, arrays →
// repeated. NULL leaves a field unset. Fields of the page that the message does not have are left out.
absl::Status FillMessage(const RowsPage& page, size_t row, google::protobuf::Message* message);

// A permissioned SELECT over everything that matches, to be streamed: no limit but the query's own (0: none), no page.
// Parameters are text.
struct ExportPlan {
  std::string sql;
  std::vector<std::optional<std::string>> params;
  std::vector<std::string> fields;
  std::vector<catalog::ColumnType> types;
};
absl::StatusOr<ExportPlan> PlanExport(const catalog::Resource& resource, const catalog::Model& model,
                                      const CallContext& context, const common::v1::ListQuery& query);

// The value as JSON text by the conventions of the API (bigint and numeric as strings, RFC 3339 times, base64url …),
// appended. `text` is as PostgreSQL printed it.
void AppendJsonValue(const catalog::ColumnType& type, std::string_view text, std::string& out);
// The same value as plain text for CSV and spreadsheets: booleans true/false, RFC 3339 times, arrays and JSON as JSON.
std::string PlainText(const catalog::ColumnType& type, std::string_view text);

}  // namespace mainstay::records
