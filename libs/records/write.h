// SPDX-License-Identifier: Apache-2.0
// Internal: one row written by the API: body → checked values → merge → the row as it is now.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/base/json.h"
#include "libs/records/merge_run.h"
#include "libs/records/query.h"
#include "libs/records/runner.h"

namespace mainstay::records {

struct WriteRequest {
  enum class Kind : uint8_t { kCreate, kPatch, kPut, kDelete };
  Kind kind = Kind::kCreate;
  const catalog::Resource* resource = nullptr;
  AccessPtr access;
  std::vector<std::string> key;       // of the path; empty on create
  const JsonValue* body = nullptr;    // not on delete
  std::vector<std::string> versions;  // If-Match; empty: none was sent, or "*"
  bool create_only = false;           // PUT with If-None-Match: *
  bool must_exist = false;            // PUT with If-Match
};

struct WriteAnswer {
  bool created = false;
  std::string id;    // as in the path
  std::string json;  // the row by its default fields; empty when the caller can't see it (any more), and after a delete
  std::string etag;
};

// Everything that is wrong with the body, at once. Nothing is sent to PostgreSQL.
absl::Status CheckBody(const WriteRequest& request, bool all_tenants, MergeRows& rows);

// Inside a transaction that the caller commits when this is OK, and rolls back otherwise.
boost::asio::awaitable<absl::StatusOr<WriteAnswer>> RunWrite(Runner& runner, const catalog::Model& model,
                                                             const CallContext& context, const WriteRequest& request,
                                                             MergeRows rows, const ListQuery& projection);

// "<version>.<digest of what is shown>", with quotes.
std::string EntityTag(const ListQuery& projection, std::string_view version, std::string_view json);

}  // namespace mainstay::records
