// SPDX-License-Identifier: Apache-2.0
#include "libs/records/write.h"

#include <algorithm>

#include "libs/base/crypto.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/records/plan.h"
#include "libs/records/read.h"
#include "libs/records/value.h"

namespace mainstay::records {
namespace {

using boost::asio::awaitable;
using catalog::Field;
using catalog::Resource;
using catalog::TypeFamily;

std::string Pointer(std::string_view name) {
  if (name.empty()) return "";
  std::string out = "/";
  for (char c : name) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

absl::Status Refused(std::vector<FieldError> errors) {
  for (FieldError& error : errors) error.name = Pointer(error.name);
  std::string_view type = "validation-failed";
  for (const FieldError& error : errors) {
    if (error.code == "precondition_failed")
      return MakeProblem("precondition-failed", "the record has changed since it was read");
    if (error.code == "not_found") return MakeProblem("not-found", "");
    if (error.code == "forbidden") return MakeProblem("forbidden", error.detail);
    if (error.code == "unique") type = "unique-violation";
    if (error.code == "still_referenced") return MakeProblem("still-referenced", "other records point to this one");
  }
  const std::string detail = type == "unique-violation" ? "another record has the same value"
                             : errors.size() == 1       ? "1 field is wrong"
                                                        : StrCat(errors.size(), " fields are wrong");
  return MakeProblem(type, detail, std::move(errors));
}

bool IsMergedJson(const Field& field) {
  return field.type.family == TypeFamily::kJson && !field.type.array;
}

}  // namespace

absl::Status CheckBody(const WriteRequest& request, bool all_tenants, MergeRows& rows) {
  const Resource& resource = *request.resource;
  rows.rows.assign(1, {});
  for (size_t i = 0; i < request.key.size(); ++i) {
    rows.fields.push_back(resource.fields[static_cast<size_t>(resource.key[i])].name);
    rows.rows[0].emplace_back(request.key[i]);
  }
  if (request.kind == WriteRequest::Kind::kDelete) return absl::OkStatus();
  std::vector<FieldError> errors;
  const auto wrong = [&](std::string_view name, std::string_view code, std::string_view detail) {
    errors.push_back({.name = std::string(name), .code = std::string(code), .detail = std::string(detail)});
  };
  if (!request.body->is_object()) {
    wrong("", "invalid_type", "object expected");
    return Refused(std::move(errors));
  }
  for (const JsonValue::Member& member : request.body->members()) {
    const Field* field = resource.FindField(member.key);
    const std::string_view refusal =
        field == nullptr ? "unknown_field" : WriteRefusal(resource, *request.access, *field, all_tenants);
    const bool in_path = field != nullptr && !request.key.empty() &&
                         std::find(resource.key.begin(), resource.key.end(), field->position) != resource.key.end();
    std::string text;
    ValueError error;
    if (field != nullptr && !field->hidden && !member.value.is_null())
      error = TextFromJson(field->type, member.value, text);
    if (in_path) {
      // The address names the row; the body may repeat it.
      std::string converted;
      const size_t part = static_cast<size_t>(std::find(resource.key.begin(), resource.key.end(), field->position) -
                                              resource.key.begin());
      if (member.value.is_null() || !error.ok() || !ConvertText(field->type, text, converted).ok() ||
          converted != request.key[part] || request.kind == WriteRequest::Kind::kPatch)
        wrong(member.key, "read_only", "may not be written");
      continue;
    }
    if (!refusal.empty()) {
      wrong(member.key, refusal, refusal == "read_only" ? "may not be written" : "no such field");
      continue;
    }
    if (member.value.is_null()) {
      if (!field->nullable || field->required) {
        wrong(field->name, "required", "may not be null");
        continue;
      }
      rows.fields.push_back(field->name);
      rows.rows[0].emplace_back(std::nullopt);
      continue;
    }
    if (!error.ok()) {
      wrong(field->name, error.code, error.detail);
      continue;
    }
    ValidateValue(*field, text, errors);
    rows.fields.push_back(field->name);
    rows.rows[0].emplace_back(std::move(text));
  }
  if (request.kind == WriteRequest::Kind::kCreate || request.kind == WriteRequest::Kind::kPut) {
    for (const Field& field : resource.fields) {
      if (field.hidden || !(field.required || (!field.nullable && !field.has_default && !field.generated))) continue;
      const int p = field.position;
      if (p == resource.version || p == resource.created_at || p == resource.updated_at ||
          (p == resource.tenant && !all_tenants))
        continue;
      if (request.body->Find(field.name) != nullptr ||
          std::find(rows.fields.begin(), rows.fields.end(), field.name) != rows.fields.end())
        continue;
      wrong(field.name, "required", "is required");
    }
  }
  if (!errors.empty()) return Refused(std::move(errors));
  return absl::OkStatus();
}

std::string EntityTag(const ListQuery& projection, std::string_view version, std::string_view json) {
  std::string shown = StrCat(projection.access->fingerprint, "|");
  for (int position : projection.output) StrAppend(&shown, position, ",");
  const std::string digest = HexEncode(Sha256(shown).substr(0, 4));
  if (version.empty()) return StrCat("\"-", HexEncode(Sha256(json).substr(0, 12)), ".", digest, "\"");
  return StrCat("\"", version, ".", digest, "\"");
}

awaitable<absl::StatusOr<WriteAnswer>> RunWrite(Runner& runner, const catalog::Model& model, const CallContext& context,
                                                const WriteRequest& request, MergeRows rows,
                                                const ListQuery& projection) {
  const Resource& resource = *request.resource;
  MergeOptions options;
  MergeExtra extra;
  extra.caller_rolls_back = true;
  extra.expected_versions = request.versions;
  switch (request.kind) {
    case WriteRequest::Kind::kCreate:
      options.mode = MergeMode::kCreate;
      break;
    case WriteRequest::Kind::kPatch:
      options.mode = MergeMode::kUpdate;
      break;
    case WriteRequest::Kind::kPut:
      options.mode = request.create_only  ? MergeMode::kCreate
                     : request.must_exist ? MergeMode::kUpdate
                                          : MergeMode::kUpsert;
      extra.replace = true;
      break;
    case WriteRequest::Kind::kDelete:
      options.mode = MergeMode::kDelete;
      break;
  }

  // A merge patch reaches into JSON columns: the old value is needed, under the lock.
  std::vector<size_t> merged;
  if (request.kind == WriteRequest::Kind::kPatch) {
    for (size_t c = request.key.size(); c < rows.fields.size(); ++c) {
      const JsonValue* value = request.body->Find(rows.fields[c]);
      if (IsMergedJson(*resource.FindField(rows.fields[c])) && value != nullptr && value->is_object())
        merged.push_back(c);
    }
  }
  if (!merged.empty()) {
    SqlBuilder sql(context);
    std::string select, where;
    for (size_t c : merged)
      StrAppend(&select, select.empty() ? "" : ", ", Column("t", *resource.FindField(rows.fields[c])));
    for (size_t i = 0; i < request.key.size(); ++i) {
      const Field& field = resource.fields[static_cast<size_t>(resource.key[i])];
      StrAppend(&where, Column("t", field), " = ", sql.Bind(request.key[i], CastName(field.type)), " AND ");
    }
    where += sql.Scope("t", resource, request.access->where(Action::kRead), Deleted::kHide);
    sql.text = StrCat("SELECT ", select, " FROM ", TableOf(resource), " t WHERE ", where,
                      resource.view ? "" : " FOR UPDATE OF t");
    absl::StatusOr<RowsPtr> old = co_await runner.Run(std::move(sql.text), std::move(sql.params));
    if (!old.ok()) co_return old.status();
    if ((*old)->rows() == 1) {
      for (size_t i = 0; i < merged.size(); ++i) {
        const std::string& name = rows.fields[merged[i]];
        const std::string_view stored =
            (*old)->IsNull(0, static_cast<int>(i)) ? std::string_view() : (*old)->Get(0, static_cast<int>(i));
        rows.rows[0][merged[i]] = MergePatch(stored, *request.body->Find(name));
      }
    }
  }

  absl::StatusOr<MergeOutcome> outcome =
      co_await RunMerge(runner, resource, model, context, request.access, rows, options, extra);
  if (!outcome.ok()) co_return outcome.status();
  if (!outcome->result.errors[0].empty()) {
    if (request.kind == WriteRequest::Kind::kPut) {
      for (const FieldError& error : outcome->result.errors[0]) {
        const bool exists = request.create_only && error.code == "unique" && !resource.key.empty() &&
                            error.name == resource.fields[static_cast<size_t>(resource.key[0])].name;
        if (exists || (request.must_exist && error.code == "not_found"))
          co_return MakeProblem("precondition-failed",
                                request.create_only ? "the record exists already" : "there is no such record");
      }
    }
    co_return Refused(std::move(outcome->result.errors[0]));
  }
  WriteAnswer answer;
  answer.created = outcome->result.status[0] == RowStatus::kCreated;
  if (request.kind == WriteRequest::Kind::kDelete) co_return answer;
  const std::vector<std::string>& key = outcome->keys[0];
  const std::vector<std::string_view> parts(key.begin(), key.end());
  answer.id = FormatKey(resource, parts);
  if (!request.access->can(Action::kRead)) co_return answer;
  Level level(projection);
  SqlBuilder sql(context);
  BuildGet(sql, projection, level.columns, key);
  absl::StatusOr<RowsPtr> row = co_await runner.Run(std::move(sql.text), std::move(sql.params));
  if (!row.ok()) co_return row.status();
  level.rows = *std::move(row);
  if (level.rows->rows() == 1) {
    RenderRow(level, 0, answer.json);
    answer.etag = EntityTag(projection, VersionOf(level, 0), answer.json);
  }
  co_return answer;
}

}  // namespace mainstay::records
