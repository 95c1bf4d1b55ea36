// SPDX-License-Identifier: Apache-2.0
// What reading and writing over HTTP have in common: the plans of a model, the caller's rights, headers and
// preconditions. Inside libs/records only.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/http/server.h"
#include "libs/postgres/async.h"
#include "libs/records/http.h"
#include "libs/records/query.h"
#include "libs/records/runner.h"

namespace mainstay::records {

class ReadPlan;

// What one thread has worked out for one model.
struct ModelCache {
  catalog::ModelPtr model;
  std::shared_ptr<SqlCache> sql = std::make_shared<SqlCache>();
  std::unordered_map<std::string, AccessPtr> access;
  // By resource, roles, whether of all tenants, and the query's form.
  std::unordered_map<std::string, std::shared_ptr<ReadPlan>> records, lists;

  AccessPtr AccessOf(const catalog::Resource& resource, const Principal& principal);
};
using CachePtr = std::shared_ptr<ModelCache>;

// This thread's cache. Requests keep the one they began with, so a swap of the model in the middle of one changes
// nothing for it.
CachePtr CacheFor(const catalog::ModelPtr& model);

// The resource of that name as it can be served now; not-found or resource-unavailable.
absl::StatusOr<const catalog::Resource*> FindResource(const catalog::ModelPtr& model, std::string_view name);

absl::Status NotFound();
absl::Status BadHeader(std::string_view name, std::string_view detail);
absl::Status BadParameter(std::string_view name, std::string_view detail);
absl::Status NotAllowed(std::string_view allow);

std::string_view Trim(std::string_view text);

// If-Match or If-None-Match.
struct Tags {
  bool present = false, any = false;
  std::vector<std::pair<std::string, bool>> tags;  // opaque text, weak
};
absl::StatusOr<Tags> ParseTags(const http::Request& request, std::string_view name);
// The row versions that If-Match names. Weak tags name none.
std::vector<std::string> VersionsOf(const Tags& tags);
bool Matches(const Tags& tags, std::string_view etag);

// Which of the offered media types the client wants most; not-acceptable: none. Without a wish the first.
struct Accepted {
  size_t offer = 0;
  std::string parameters;  // of the range that won: "escape=formulas"
};
absl::StatusOr<Accepted> Negotiate(const http::Request& request, absl::Span<const std::string_view> offers);
// JSON is all there is.
absl::Status CheckAccept(const http::Request& request);
absl::Status CheckContentType(const http::Request& request, bool patch);

http::Response Json(int status, std::string body, std::string etag);
http::Response NotModified(std::string etag);

// Cancels what a session runs when the client goes away.
void CancelOnDisconnect(const http::Request* request, const std::shared_ptr<postgres::Session>& session);

}  // namespace mainstay::records
