// SPDX-License-Identifier: Apache-2.0
// Internal: rows written by the API: bodies → checked values → merge → the rows as they are now.
//
// One operation is about one item or many of one resource; lists of children in bodies become operations of their own,
// one per relation, whatever the number of parents. Everything that can be wrong without the database is found before
// the first statement, for all items at once.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/base/json.h"
#include "libs/records/merge_run.h"
#include "libs/records/query.h"
#include "libs/records/runner.h"

namespace mainstay::records {

// {"$ref":"0.id"}: a field of an earlier result. Null: it is none.
const JsonValue* FindRef(const JsonValue& value);

struct WriteItem {
  std::vector<std::string> key;       // of the path; empty on create and upsert
  const JsonValue* body = nullptr;    // not on delete and undelete by path
  std::vector<std::string> versions;  // If-Match; empty: none was sent, or "*"
  std::string pointer;                // of the body in the request: "", "/items/3", "/operations/2/body"
};

struct WriteRequest {
  enum class Kind : uint8_t { kCreate, kPatch, kPut, kDelete, kUpsert, kUndelete };
  Kind kind = Kind::kCreate;
  const catalog::Resource* resource = nullptr;
  AccessPtr access;
  std::vector<WriteItem> items;
  std::vector<std::string> natural_key;  // kUpsert: fields; empty: the primary key
  bool create_only = false;              // PUT with If-None-Match: *
  bool must_exist = false;               // PUT with If-Match
  // Items name their row by the key's fields in the body, and the version they expect by "@etag".
  bool keys_inside = false;
  // Fields may be {"$ref":…}: what they will be is checked later.
  bool refs = false;
  // Set by us: fields of children that point at their parent.
  std::vector<int> ours;
  bool is_batch() const { return !items.empty() && !items[0].pointer.empty(); }
};
Action ActionOf(WriteRequest::Kind kind);
// May the caller do this to any row at all?
bool MayWrite(const WriteRequest& request);

struct CheckedWrite {
  MergeRows rows;
  std::vector<std::string> row_versions;  // by item; empty: no item expects one
  struct Children {
    const catalog::Relation* relation = nullptr;
    WriteRequest request;
    std::vector<size_t> parents;  // by child: the item it came with
    std::shared_ptr<CheckedWrite> checked;
  };
  std::vector<Children> children;
};

using AccessSource = std::function<AccessPtr(const catalog::Resource&)>;

// Everything that is wrong with the bodies, at once, as pointers into the request. Nothing is sent to PostgreSQL.
// `request.items` of keys_inside get their keys.
absl::Status CheckWrite(WriteRequest& request, const catalog::Model& model, const AccessSource& access_of,
                        bool all_tenants, CheckedWrite& out);

struct WriteAnswer {
  bool created = false;
  std::string id;    // as in the path
  std::string json;  // the row by its default fields; empty when the caller can't see it (any more), and after a delete
  std::string etag;
};

// Inside a transaction that the caller commits when this is OK, and rolls back otherwise. One answer per item.
boost::asio::awaitable<absl::StatusOr<std::vector<WriteAnswer>>> RunWrite(Runner& runner, const catalog::Model& model,
                                                                          const CallContext& context,
                                                                          const WriteRequest& request,
                                                                          const CheckedWrite& checked);

// "<version>.<digest of what is shown>", with quotes.
std::string EntityTag(const ListQuery& projection, std::string_view version, std::string_view json);
// The version in a tag as above.
std::string_view VersionOfTag(std::string_view tag);

// What a read by id shows by default.
ListQuery DefaultProjection(const catalog::Resource& resource, AccessPtr access);

// The problem that these errors are together; `name` holds the whole pointer. `batch`: they keep their places where the
// problem would have none for a single row.
absl::Status WriteFailure(std::vector<FieldError> errors, bool batch);

}  // namespace mainstay::records
