// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/handler.h"

#include <cstdio>
#include <cstdlib>

#include "libs/base/json_schema.h"
#include "libs/base/problem.h"
#include "libs/jobs/keys.h"

namespace mainstay::jobs {

Outcome Outcome::Done(std::string result_json) {
  Outcome o;
  o.kind = Kind::kDone;
  o.result = std::move(result_json);
  return o;
}

Outcome Outcome::Retry(std::string code, std::string message, std::optional<absl::Duration> after) {
  Outcome o;
  o.kind = Kind::kRetry;
  o.code = std::move(code);
  o.message = std::move(message);
  o.after = after;
  return o;
}

Outcome Outcome::Snooze(absl::Duration after) {
  Outcome o;
  o.kind = Kind::kSnooze;
  o.after = after;
  return o;
}

Outcome Outcome::Discard(std::string reason) {
  Outcome o;
  o.kind = Kind::kDiscard;
  o.code = "discarded";
  o.message = std::move(reason);
  return o;
}

Outcome Outcome::Dead(std::string code, std::string message) {
  Outcome o;
  o.kind = Kind::kDead;
  o.code = std::move(code);
  o.message = std::move(message);
  return o;
}

Outcome Outcome::FromStatus(const absl::Status& status) {
  if (status.ok()) return Done();
  const Problem problem = ProblemFromStatus(status);
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kCancelled:
      return Retry(problem.type, std::string(status.message()), problem.retry_after);
    default:
      return Dead(problem.type, std::string(status.message()));
  }
}

void Registry::Register(const std::string& kind, Handler handler, const std::vector<int>& versions) {
  for (const int version : versions) {
    const auto [it, added] = handlers_.emplace(Route(kind, version), handler);
    if (!added) {
      std::fprintf(stderr, "job kind \"%s\" is registered twice\n", it->first.c_str());
      std::abort();
    }
    schemas_.try_emplace({kind, version});
  }
}

const Handler* Registry::Find(std::string_view route) const {
  const auto it = handlers_.find(route);
  return it == handlers_.end() ? nullptr : &it->second;
}

std::vector<std::string> Registry::routes() const {
  std::vector<std::string> routes;
  for (const auto& handler : handlers_) routes.push_back(handler.first);
  return routes;
}

void Registry::SetSchema(const std::string& kind, std::string schema, int version) {
  if (const absl::Status status = JsonSchema::Compile(schema).status(); !status.ok()) {
    std::fprintf(stderr, "schema of job kind \"%s\": %s\n", kind.c_str(), std::string(status.message()).c_str());
    std::abort();
  }
  schemas_[{kind, version}] = std::move(schema);
}

std::vector<KindSpec> Registry::specs() const {
  std::vector<KindSpec> specs;
  for (const auto& [key, schema] : schemas_)
    specs.push_back({.kind = key.first, .version = key.second, .schema = schema});
  return specs;
}

}  // namespace mainstay::jobs
