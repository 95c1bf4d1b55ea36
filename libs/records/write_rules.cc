// SPDX-License-Identifier: Apache-2.0
#include "libs/records/write_rules.h"

#include <algorithm>

#include "absl/time/time.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/http/list_query.h"
#include "libs/records/value.h"

namespace mainstay::records {
namespace {

using catalog::Field;
using catalog::Resource;
using catalog::TypeFamily;

// How long the changes feed can be resumed.
constexpr absl::Duration kFeedLife = absl::Hours(24);

// Publish refuses what can't be read; should it happen all the same, the rule errs on the side of refusing.
std::shared_ptr<const Predicate> Compile(const catalog::Model& model, const Resource& resource,
                                         const std::string& filter, bool otherwise) {
  if (filter.empty()) return nullptr;
  if (const auto query = http::ParseListQuery(std::string_view(filter)); query.ok()) {
    int leaves = 50;
    auto predicate = ResolveFilter(model, resource, nullptr, nullptr, query->filter(), &leaves, nullptr);
    if (predicate.ok()) return std::make_shared<const Predicate>(*std::move(predicate));
  }
  Predicate constant;
  constant.kind = otherwise ? Predicate::Kind::kAnd : Predicate::Kind::kOr;
  return std::make_shared<const Predicate>(std::move(constant));
}

// A column as JSON in the form of the API.
std::string JsonOf(const Field& field, const std::string& column) {
  if (!field.type.array) {
    switch (field.type.family) {
      case TypeFamily::kInt64:
      case TypeFamily::kDecimal:
        return StrCat("to_json(", column, "::text)");
      case TypeFamily::kTimestampTz:
        return StrCat("to_json(to_char(", column, R"( AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))");
      default:
        break;
    }
  }
  return StrCat("to_json(", column, ")");
}

}  // namespace

std::shared_ptr<const WriteRules> CompileRules(const catalog::Model& model, const Resource& resource) {
  if (resource.checks.empty() && resource.jobs.empty()) return nullptr;
  auto rules = std::make_shared<WriteRules>();
  for (const catalog::RowCheck& check : resource.checks)
    rules->checks.push_back(
        {&check, Compile(model, resource, check.condition, true), Compile(model, resource, check.that, false)});
  for (const catalog::WriteJob& job : resource.jobs)
    rules->jobs.push_back({&job, Compile(model, resource, job.when, true)});
  return rules;
}

std::string BreaksCheck(SqlBuilder& sql, const std::string& alias, const Resource& resource,
                        const WriteRules::Check& check) {
  sql.row = alias;
  std::string out = StrCat("(", sql.Where(alias, resource, *check.that), ") IS FALSE");
  if (check.condition != nullptr)
    out = StrCat("((", sql.Where(alias, resource, *check.condition), ") IS TRUE AND ", out, ")");
  return out;
}

std::string_view WrittenName(Written written) {
  static constexpr std::string_view kNames[] = {"created", "updated", "deleted", "restored"};
  return kNames[static_cast<int>(written)];
}

bool LeavesTraces(const Resource& resource, const WriteRules* rules, Written written) {
  if (resource.keeps_images()) return true;
  if (rules == nullptr) return false;
  return std::any_of(rules->jobs.begin(), rules->jobs.end(), [&](const WriteRules::Job& job) {
    return written == Written::kCreated   ? job.declared->created
           : written == Written::kDeleted ? job.declared->deleted
                                          : job.declared->updated;
  });
}

std::string WholeRow(const std::string& alias, const Resource& resource) {
  return StrCat("(", alias, ".*)::", TableOf(resource));
}

std::string WithTraces(SqlBuilder& sql, const Resource& resource, const WriteRules* rules, const CallContext& context,
                       Written written, const std::string& event, std::string_view write, std::string_view columns) {
  // A hard delete leaves no new row; everything else does.
  const bool before = written != Written::kCreated;
  const bool after = write.substr(0, 6) != "DELETE";
  const std::string row = after ? "(w.after_row)" : "(w.before_row)";
  std::string key, tenant = "''";
  for (int p : resource.key)
    StrAppend(&key, key.empty() ? "" : ", ", Column(row, resource.fields[static_cast<size_t>(p)]), "::text");
  if (resource.tenant >= 0)
    tenant = StrCat("coalesce(", Column(row, resource.fields[static_cast<size_t>(resource.tenant)]), "::text, '')");
  std::string out = StrCat("WITH w AS (", write, ")");
  if (resource.keeps_images()) {
    PgArray secret;
    for (const Field& field : resource.fields)
      if (field.hidden && field.sensitive) secret.Add(field.column);
    const std::string without = StrCat(" - ", sql.Bind(std::move(secret).Finish(), "text[]"));
    const auto image = [&](bool there, std::string_view name) {
      return there ? StrCat("to_jsonb(w.", name, ")", without) : std::string("NULL::jsonb");
    };
    const absl::Duration life =
        std::max(resource.changes ? kFeedLife : absl::ZeroDuration(), resource.history.value_or(absl::ZeroDuration()));
    StrAppend(&out,
              ", images AS (INSERT INTO mainstay.record_changes (tenant, resource, key, operation, before, after, "
              "subject, event, keep_until) SELECT ",
              tenant, ", ", sql.Bind(resource.name, "text"), ", ARRAY[", key, "], '", WrittenName(written), "', ",
              image(before, "before_row"), ", ", image(after, "after_row"), ", ", sql.Subject(), ", ",
              sql.Bind(event, "uuid"), ", now() + interval '", absl::ToInt64Seconds(life), " seconds' FROM w)");
  }
  std::string specs;
  for (const WriteRules::Job& job : rules == nullptr ? std::vector<WriteRules::Job>() : rules->jobs) {
    const catalog::WriteJob& declared = *job.declared;
    if (!(written == Written::kCreated   ? declared.created
          : written == Written::kDeleted ? declared.deleted
                                         : declared.updated))
      continue;
    // A soft delete is judged and told by the row as it was.
    const std::string told = written == Written::kDeleted ? "(w.before_row)" : "(w.after_row)";
    std::string where = "true", record;
    if (job.when != nullptr) {
      sql.row = told;
      where = StrCat("(", sql.Where(told, resource, *job.when), ")");
    }
    if (written != Written::kCreated && written != Written::kDeleted && !declared.changed.empty()) {
      std::string differs;
      for (int p : declared.changed) {
        const Field& field = resource.fields[static_cast<size_t>(p)];
        const bool text = field.type.family == TypeFamily::kJson || field.type.family == TypeFamily::kOther;
        StrAppend(&differs, differs.empty() ? "" : " OR ", Column("(w.before_row)", field), text ? "::text" : "",
                  " IS DISTINCT FROM ", Column("(w.after_row)", field), text ? "::text" : "");
      }
      StrAppend(&where, " AND (", differs, ")");
    }
    for (int p : declared.args) {
      const Field& field = resource.fields[static_cast<size_t>(p)];
      StrAppend(&record, record.empty() ? "" : ", ", Literal(field.name), ", ", JsonOf(field, Column(told, field)));
    }
    const std::string id = StrCat("concat_ws(',', ", key, ")");
    std::string args = StrCat("json_build_object('resource', ", Literal(resource.name), ", 'event', '",
                              written == Written::kRestored ? "updated" : WrittenName(written), "', 'id', ", id);
    if (!record.empty()) StrAppend(&args, ", 'record', json_build_object(", record, ")");
    args += ')';
    StrAppend(&specs, specs.empty() ? "" : " UNION ALL ", "SELECT mainstay.new_job(", Literal(declared.kind), ", ",
              args, ", tenant => coalesce(nullif(", tenant, ", ''), ", sql.Bind(context.principal.tenant, "text"),
              "), queue => ", Literal(declared.queue));
    if (declared.ordered) StrAppend(&specs, ", ordering_key => ", Literal(resource.name + ":"), " || ", id);
    if (!context.traceparent.empty()) StrAppend(&specs, ", traceparent => ", sql.Bind(context.traceparent, "text"));
    StrAppend(&specs, ") FROM w WHERE ", where);
  }
  std::string last;
  if (!specs.empty()) {
    std::string roles;
    JsonWriter json(roles);
    json.BeginArray();
    for (const std::string& role : context.principal.roles) json.String(role);
    json.EndArray();
    StrAppend(&out, ", jobs AS MATERIALIZED (SELECT mainstay.enqueue_for(ARRAY(", specs, "), ", sql.Subject(), ", ",
              sql.Bind(roles, "json"), ") AS n)");
    last = ", (SELECT n FROM jobs)";
  }
  StrAppend(&out, " SELECT ", columns, last, " FROM w");
  return out;
}

}  // namespace mainstay::records
