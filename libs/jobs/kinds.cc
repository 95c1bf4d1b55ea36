// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/kinds.h"

#include <pqxx/pqxx>

#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/sql.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {

absl::Status AnnounceKinds(pqxx::transaction_base& tx, std::string_view by, absl::Span<const KindSpec> kinds) {
  PgArray names, versions, schemas;
  for (const KindSpec& spec : kinds) {
    std::vector<FieldError> errors;
    if (!IsKind(spec.kind)) errors.push_back({.name = "/kind", .code = "invalid_format", .detail = kKindForm});
    if (spec.version < 0 || spec.version > 32767)
      errors.push_back({.name = "/version", .code = "out_of_range", .detail = "expected 0 to 32767"});
    if (!spec.schema.empty()) {
      if (const auto schema = JsonSchema::Compile(spec.schema); !schema.ok()) {
        errors.push_back(
            {.name = "/schema", .code = "invalid_value", .detail = std::string(schema.status().message())});
      }
    }
    if (!errors.empty()) {
      const std::string detail = StrCat("kind ", spec.kind.substr(0, 100), ": ", errors[0].detail);
      return MakeProblem("validation-failed", detail, std::move(errors));
    }
    names.Add(spec.kind);
    versions.Add(StrCat(spec.version));
    spec.schema.empty() ? schemas.AddNull() : schemas.Add(spec.schema);
  }
  try {
    Run(tx, sql::kAnnounceKinds, std::move(names).Finish(), std::move(versions).Finish(), std::move(schemas).Finish(),
        std::string(by));
    return absl::OkStatus();
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::StatusOr<std::vector<KindView>> ListKinds(pqxx::transaction_base& tx) {
  try {
    std::vector<KindView> kinds;
    for (const auto& row : Run(tx, sql::kListKinds)) {
      KindView& view = kinds.emplace_back();
      view.spec = {
          .kind = row[0].c_str(), .version = row[1].as<int>(), .schema = row[2].is_null() ? "" : row[2].c_str()};
      view.announced_by = row[3].c_str();
      view.announced_at = absl::FromUnixMicros(row[4].as<int64_t>());
      view.alive = row[5].as<bool>();
    }
    return kinds;
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

void Kinds::CheckArgs(std::string_view kind, int version, const std::string& args, std::string_view at,
                      std::vector<FieldError>& errors) const {
  if (args.size() > kMaxArgs) return;  // refused by enqueue, with the size
  const std::string place = StrCat(at, "/args");
  const auto document = JsonDocument::Parse(args);
  if (!document.ok()) {
    errors.push_back({.name = place, .code = "invalid_format", .detail = "not JSON"});
    return;
  }
  const auto it = schemas_.find(std::pair<std::string, int>(kind, version));
  if (it != schemas_.end() && it->second.schema != nullptr) it->second.schema->Check(document->root(), place, errors);
}

KindBook::KindBook(postgres::Pool& pool, std::vector<KindSpec> own, absl::Duration max_age)
    : pool_(pool), own_(std::move(own)), max_age_(max_age) {}

absl::StatusOr<std::shared_ptr<const Kinds>> KindBook::Current(absl::Time deadline) {
  std::shared_ptr<const Kinds> before;
  {
    absl::MutexLock lock(&mu_);
    if (current_ != nullptr && (reading_ || absl::Now() - read_at_ < max_age_)) return current_;
    before = current_;
    reading_ = true;
  }
  auto read = Read(before.get(), deadline);
  absl::MutexLock lock(&mu_);
  reading_ = false;
  if (read.ok()) {
    current_ = *read;
    read_at_ = absl::Now();
  } else if (current_ == nullptr) {
    return read.status();
  }
  return current_;
}

absl::StatusOr<std::shared_ptr<const Kinds>> KindBook::Read(const Kinds* before, absl::Time deadline) {
  // Only schemas that this copy does not have travel.
  PgArray have;
  if (before != nullptr) {
    for (const auto& [key, checked] : before->schemas_) have.Add(checked.hash);
  }
  const std::string hashes = std::move(have).Finish();
  auto kinds = std::make_shared<Kinds>();
  RETURN_IF_ERROR(pool_.Autocommit(deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
    *kinds = Kinds();
    for (const KindSpec& spec : own_) {
      kinds->known_.insert(spec.kind);
      if (spec.schema.empty()) continue;
      auto schema = JsonSchema::Compile(spec.schema);
      if (schema.ok())
        kinds->schemas_[{spec.kind, spec.version}].schema = std::make_shared<const JsonSchema>(*std::move(schema));
    }
    try {
      for (const auto& row : Run(tx, sql::kKinds, hashes)) {
        const std::pair<std::string, int> key(row[0].c_str(), row[1].as<int>());
        if (row[2].as<bool>()) kinds->known_.insert(key.first);
        if (row[5].as<bool>()) continue;  // a worker's word only: it has no row of its own
        if (row[3].is_null()) {
          kinds->schemas_.erase(key);
          continue;
        }
        Kinds::Checked& checked = kinds->schemas_[key];
        checked.hash = row[3].c_str();
        if (row[4].is_null()) {
          for (const auto& [other, has] : before->schemas_)
            if (has.hash == checked.hash) checked.schema = has.schema;
          continue;
        }
        checked.schema = nullptr;
        auto schema = JsonSchema::Compile(row[4].c_str());
        if (schema.ok()) {
          checked.schema = std::make_shared<const JsonSchema>(*std::move(schema));
        } else {  // of a newer release
          log::Warn("the arguments of a kind of job are not checked: this version does not understand their schema",
                    {{"kind", key.first}, {"version", key.second}, {"reason", std::string(schema.status().message())}});
        }
      }
      return absl::OkStatus();
    } catch (...) {
      return postgres::StatusFromCurrentException();
    }
  }));
  return kinds;
}

}  // namespace mainstay::jobs
