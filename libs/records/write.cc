// SPDX-License-Identifier: Apache-2.0
#include "libs/records/write.h"

#include <algorithm>
#include <map>

#include "libs/base/crypto.h"
#include "libs/base/digest.h"
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
using catalog::Relation;
using catalog::Resource;
using catalog::TypeFamily;
using Kind = WriteRequest::Kind;

constexpr size_t kMaxChildren = 1000;
constexpr std::string_view kTagMember = "@etag";

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

bool IsMergedJson(const Field& field) {
  return field.type.family == TypeFamily::kJson && !field.type.array;
}

template <typename T>
bool Contains(const std::vector<T>& list, const T& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// One item's cells by field position: nullopt is NULL.
using Cells = std::map<int, std::optional<std::string>>;

class Checker {
 public:
  Checker(WriteRequest& request, const catalog::Model& model, const AccessSource& access_of, bool all_tenants,
          std::vector<FieldError>& errors)
      : request_(request),
        resource_(*request.resource),
        model_(model),
        access_of_(access_of),
        all_tenants_(all_tenants),
        errors_(errors) {}

  void Run(CheckedWrite& out) {
    std::vector<Cells> cells(request_.items.size());
    for (size_t i = 0; i < request_.items.size(); ++i) Item(i, cells[i], out);
    // Which fields stand where: the key first, then in the order of the resource.
    std::vector<int> columns(resource_.key);
    if (request_.items.empty() || request_.items[0].key.empty()) columns.clear();
    for (const Cells& row : cells)
      for (const auto& [position, value] : row)
        if (!Contains(columns, position)) columns.push_back(position);
    for (int position : request_.ours)
      if (!Contains(columns, position)) columns.push_back(position);
    for (int position : columns) out.rows.fields.push_back(resource_.fields[static_cast<size_t>(position)].name);
    bool partial = false;
    for (size_t i = 0; i < cells.size(); ++i) {
      std::vector<std::optional<std::string>> row;
      std::vector<bool> given;
      for (size_t c = 0; c < columns.size(); ++c) {
        const std::vector<std::string>& key = request_.items[i].key;
        const auto it = cells[i].find(columns[c]);
        const bool ours = Contains(request_.ours, columns[c]);
        given.push_back(c < key.size() || it != cells[i].end() || ours);
        row.push_back(c < key.size() ? std::optional(key[c]) : it != cells[i].end() ? it->second : std::nullopt);
        partial |= !given.back();
      }
      out.rows.rows.push_back(std::move(row));
      out.rows.given.push_back(std::move(given));
    }
    if (!partial) out.rows.given.clear();
    for (CheckedWrite::Children& children : out.children) {
      children.checked = std::make_shared<CheckedWrite>();
      Checker(children.request, model_, access_of_, all_tenants_, errors_).Run(*children.checked);
    }
  }

 private:
  void Wrong(const WriteItem& item, std::string_view name, std::string_view code, std::string_view detail) {
    errors_.push_back({.name = item.pointer + Pointer(name), .code = std::string(code), .detail = std::string(detail)});
  }

  bool IsKey(const Field& field) const { return Contains(resource_.key, field.position); }

  // The row that a batch item names, and the version it expects.
  void KeyInside(size_t i, CheckedWrite& out) {
    WriteItem& item = request_.items[i];
    item.key.clear();
    for (int p : resource_.key) {
      const Field& field = resource_.fields[static_cast<size_t>(p)];
      const JsonValue* value = item.body->Find(field.name);
      std::string text, converted;
      if (value == nullptr || value->is_null()) {
        Wrong(item, field.name, "required", "it identifies the row");
      } else if (ValueError error = TextFromJson(field.type, *value, text); !error.ok()) {
        Wrong(item, field.name, error.code, error.detail);
      } else if (error = ConvertText(field.type, text, converted); !error.ok()) {
        Wrong(item, field.name, error.code, error.detail);
      }
      item.key.push_back(std::move(converted));
    }
    const JsonValue* tag = item.body->Find(kTagMember);
    if (tag == nullptr) {
      if (resource_.if_match_required)
        Wrong(item, kTagMember, "precondition_required", "the record's ETag is required");
      return;
    }
    if (!tag->is_string() || tag->text().starts_with("W/") || VersionOfTag(tag->text()).empty()) {
      Wrong(item, kTagMember, "invalid_type", "a strong entity tag as it was answered is expected");
      return;
    }
    out.row_versions.resize(request_.items.size());
    out.row_versions[i] = VersionOfTag(tag->text());
  }

  void Item(size_t i, Cells& cells, CheckedWrite& out) {
    const WriteItem& item = request_.items[i];
    const bool bodiless = request_.kind == Kind::kDelete || request_.kind == Kind::kUndelete;
    if (item.body == nullptr || (bodiless && !request_.keys_inside)) return;
    if (!item.body->is_object()) {
      Wrong(item, "", "invalid_type", "object expected");
      return;
    }
    if (request_.keys_inside) KeyInside(i, out);
    for (const JsonValue::Member& member : item.body->members()) {
      const Field* field = resource_.FindField(member.key);
      if (request_.keys_inside && (member.key == kTagMember || (field != nullptr && IsKey(*field)))) continue;
      if (field == nullptr) {
        if (!Nested(i, member, out)) Wrong(item, member.key, "unknown_field", "no such field");
        continue;
      }
      Member(item, member, *field, cells, bodiless);
    }
    if (request_.kind == Kind::kCreate || request_.kind == Kind::kPut) Required(item, cells);
  }

  void Member(const WriteItem& item, const JsonValue::Member& member, const Field& field, Cells& cells, bool bodiless) {
    const std::string_view refusal = bodiless ? "unknown_field"
                                     : Contains(request_.ours, field.position)
                                         ? std::string_view("read_only")
                                         : WriteRefusal(resource_, *request_.access, field, all_tenants_);
    const bool in_path = !item.key.empty() && !request_.keys_inside && IsKey(field);
    const bool ref = request_.refs && FindRef(member.value) != nullptr;
    std::string text;
    ValueError error;
    if (!field.hidden && !member.value.is_null() && !ref) error = TextFromJson(field.type, member.value, text);
    if (in_path) {
      // The address names the row; the body may repeat it.
      std::string converted;
      const size_t part = static_cast<size_t>(std::find(resource_.key.begin(), resource_.key.end(), field.position) -
                                              resource_.key.begin());
      if (ref || member.value.is_null() || !error.ok() || !ConvertText(field.type, text, converted).ok() ||
          converted != item.key[part] || request_.kind == Kind::kPatch)
        Wrong(item, member.key, "read_only", "may not be written");
      return;
    }
    if (!refusal.empty()) {
      Wrong(item, member.key, refusal, refusal == "read_only" ? "may not be written" : "no such field");
      return;
    }
    if (ref) {
      cells[field.position] = std::nullopt;
      return;
    }
    if (member.value.is_null()) {
      if (!field.nullable || field.required) {
        Wrong(item, field.name, "required", "may not be null");
      } else {
        cells[field.position] = std::nullopt;
      }
      return;
    }
    if (!error.ok()) {
      Wrong(item, field.name, error.code, error.detail);
      return;
    }
    std::vector<FieldError> wrong;
    ValidateValue(field, text, wrong);
    for (FieldError& one : wrong) Wrong(item, one.name, one.code, one.detail);
    cells[field.position] = std::move(text);
  }

  void Required(const WriteItem& item, const Cells& cells) {
    for (const Field& field : resource_.fields) {
      if (field.hidden || !(field.required || (!field.nullable && !field.has_default && !field.generated))) continue;
      const int p = field.position;
      if (p == resource_.version || p == resource_.created_at || p == resource_.updated_at ||
          (p == resource_.tenant && !all_tenants_) || Contains(request_.ours, p))
        continue;
      if (item.body->Find(field.name) != nullptr || cells.contains(p) || (!item.key.empty() && IsKey(field))) continue;
      Wrong(item, field.name, "required", "is required");
    }
  }

  // A list of rows to be created with this one. False: there is no such list for this caller.
  bool Nested(size_t i, const JsonValue::Member& member, CheckedWrite& out) {
    const auto it = resource_.relations.find(std::string(member.key));
    if (it == resource_.relations.end() || !it->second.nested) return false;
    const Relation& relation = it->second;
    const Resource* target = model_.FindResource(relation.target);
    if (target == nullptr || !target->problem.empty()) return false;
    AccessPtr access = access_of_(*target);
    if (!access->can(Action::kRead) && !access->can(Action::kCreate)) return false;
    const WriteItem& item = request_.items[i];
    if (request_.kind != Kind::kCreate || !access->can(Action::kCreate)) {
      Wrong(item, member.key, "read_only", "these are written by themselves");
      return true;
    }
    if (!member.value.is_array()) {
      Wrong(item, member.key, "invalid_type", "a list is expected");
      return true;
    }
    auto children = std::find_if(out.children.begin(), out.children.end(),
                                 [&](const CheckedWrite::Children& c) { return c.relation == &relation; });
    if (children == out.children.end()) {
      CheckedWrite::Children made;
      made.relation = &relation;
      made.request.resource = target;
      made.request.access = std::move(access);
      made.request.ours = FieldsOfColumns(*target, relation.target_columns);
      out.children.push_back(std::move(made));
      children = out.children.end() - 1;
    }
    const std::string pointer = item.pointer + Pointer(member.key);
    for (size_t n = 0; n < member.value.items().size(); ++n) {
      if (children->request.items.size() >= kMaxChildren) {
        Wrong(item, member.key, "too_many", StrCat("at most ", kMaxChildren, " in a request"));
        break;
      }
      children->request.items.push_back({.body = &member.value.items()[n], .pointer = StrCat(pointer, "/", n)});
      children->parents.push_back(i);
    }
    return true;
  }

  WriteRequest& request_;
  const Resource& resource_;
  const catalog::Model& model_;
  const AccessSource& access_of_;
  const bool all_tenants_;
  std::vector<FieldError>& errors_;
};

// A merge patch reaches into JSON columns: the old values are needed, under the lock. All rows of the request are
// locked here, in the order of their keys: to lock some of them first would be another order.
awaitable<absl::Status> MergeJsonColumns(Runner& runner, const CallContext& context, const WriteRequest& request,
                                         MergeRows& rows) {
  const Resource& resource = *request.resource;
  const size_t parts = resource.key.size();
  std::vector<size_t> merged;
  for (size_t c = parts; c < rows.fields.size(); ++c) {
    if (!IsMergedJson(*resource.FindField(rows.fields[c]))) continue;
    const bool any = std::any_of(request.items.begin(), request.items.end(), [&](const WriteItem& item) {
      const JsonValue* value = item.body->Find(rows.fields[c]);
      return value != nullptr && value->is_object();
    });
    if (any) merged.push_back(c);
  }
  if (merged.empty()) co_return absl::OkStatus();
  SqlBuilder sql(context);
  std::string arrays, names, join, select, order;
  for (size_t p = 0; p < parts; ++p) {
    const Field& field = resource.fields[static_cast<size_t>(resource.key[p])];
    PgArray keys;
    for (const WriteItem& item : request.items) keys.Add(item.key[p]);
    StrAppend(&arrays, p > 0 ? ", " : "", sql.Bind(std::move(keys).Finish(), "text[]"));
    StrAppend(&names, "k", p, ", ");
    StrAppend(&join, Column("t", field), " = v.k", p, "::", CastName(field.type), " AND ");
    StrAppend(&order, p > 0 ? ", " : "", Column("t", field));
  }
  for (size_t c : merged) StrAppend(&select, ", ", Column("t", *resource.FindField(rows.fields[c])));
  join += sql.Scope("t", resource, request.access->where(Action::kRead), Deleted::kHide);
  sql.text =
      StrCat("SELECT v.n", select, " FROM unnest(", arrays, ") WITH ORDINALITY AS v(", names, "n) JOIN ",
             TableOf(resource), " t ON ", join, " ORDER BY ", order, resource.view ? "" : " FOR NO KEY UPDATE OF t");
  const absl::StatusOr<RowsPtr> old = co_await runner.Run(std::move(sql.text), std::move(sql.params));
  if (!old.ok()) co_return old.status();
  for (int r = 0; r < (*old)->rows(); ++r) {
    const size_t i = static_cast<size_t>(std::stoull(std::string((*old)->Get(r, 0)))) - 1;
    for (size_t m = 0; m < merged.size(); ++m) {
      const JsonValue* patch = request.items[i].body->Find(rows.fields[merged[m]]);
      if (patch == nullptr || !patch->is_object()) continue;
      const int column = static_cast<int>(m) + 1;
      rows.rows[i][merged[m]] =
          MergePatch((*old)->IsNull(r, column) ? std::string_view() : (*old)->Get(r, column), *patch);
    }
  }
  co_return absl::OkStatus();
}

// The rows as the caller sees them now, in the order of `keys`; a row that it does not see stays empty.
awaitable<absl::Status> ReadBack(Runner& runner, const CallContext& context, const ListQuery& projection,
                                 const std::vector<std::vector<std::string>>& keys, std::vector<WriteAnswer>& answers) {
  LevelPlan plan(projection, /*versions=*/true);
  Level level(plan);
  SqlBuilder sql(context);
  if (keys.size() == 1) {
    BuildGet(sql, projection, plan.columns);
    sql.Fill({.context = context, .keys = keys[0]});
  } else {
    BuildGetMany(sql, projection, plan.columns, keys);
    plan.first_column = 1;
  }
  absl::StatusOr<RowsPtr> rows = co_await runner.Run(std::move(sql.text), std::move(sql.params));
  if (!rows.ok()) co_return rows.status();
  level.rows = *std::move(rows);
  for (int r = 0; r < level.rows->rows(); ++r) {
    WriteAnswer& answer =
        answers[keys.size() == 1 ? 0 : static_cast<size_t>(std::stoull(std::string(level.rows->Get(r, 0)))) - 1];
    RenderRow(level, r, answer.json);
    answer.etag = EntityTag(projection, VersionOf(level, r), answer.json);
  }
  co_return absl::OkStatus();
}

}  // namespace

const JsonValue* FindRef(const JsonValue& value) {
  if (!value.is_object() || value.members().size() != 1 || value.members()[0].key != "$ref") return nullptr;
  return &value.members()[0].value;
}

Action ActionOf(Kind kind) {
  return kind == Kind::kCreate || kind == Kind::kUpsert ? Action::kCreate
         : kind == Kind::kDelete                        ? Action::kDelete
                                                        : Action::kUpdate;
}

bool MayWrite(const WriteRequest& request) {
  const Access& access = *request.access;
  if (request.kind == Kind::kPut || request.kind == Kind::kUpsert)
    return access.can(Action::kCreate) || access.can(Action::kUpdate);
  return access.can(ActionOf(request.kind));
}

absl::Status WriteFailure(std::vector<FieldError> errors, bool batch) {
  std::string_view type = "validation-failed";
  for (const FieldError& error : errors) {
    const auto alone = [&](std::string_view slug, std::string_view detail) {
      return batch ? MakeProblem(slug, detail, {error}) : MakeProblem(slug, detail);
    };
    if (error.code == "precondition_failed")
      return alone("precondition-failed", "the record has changed since it was read");
    if (error.code == "precondition_required") return alone("precondition-required", error.detail);
    if (error.code == "not_found") return alone("not-found", "");
    if (error.code == "forbidden") return alone("forbidden", error.detail);
    if (error.code == "unique") type = "unique-violation";
    if (error.code == "still_referenced") type = "still-referenced";
    if (error.code == "rule_violation" && error.detail == kRaised) type = "rule-violation";
  }
  const std::string detail = type == "unique-violation"   ? "another record has the same value"
                             : type == "still-referenced" ? "other records point to this one"
                             : type == "rule-violation"   ? std::string(kRaised)
                             : errors.size() == 1         ? "1 field is wrong"
                                                          : StrCat(errors.size(), " fields are wrong");
  return MakeProblem(type, detail, std::move(errors));
}

absl::Status CheckWrite(WriteRequest& request, const catalog::Model& model, const AccessSource& access_of,
                        bool all_tenants, CheckedWrite& out) {
  std::vector<FieldError> errors;
  Checker(request, model, access_of, all_tenants, errors).Run(out);
  if (errors.empty()) return absl::OkStatus();
  return WriteFailure(std::move(errors), request.is_batch());
}

std::string EntityTag(const ListQuery& projection, std::string_view version, std::string_view json) {
  std::string shown = StrCat(projection.access->fingerprint, "|");
  for (int position : projection.output) StrAppend(&shown, position, ",");
  const std::string digest = HexEncode(QuickDigest(0, shown).substr(0, 4));
  if (version.empty()) return StrCat("\"-", HexEncode(Sha256(json).substr(0, 12)), ".", digest, "\"");
  return StrCat("\"", version, ".", digest, "\"");
}

std::string_view VersionOfTag(std::string_view tag) {
  if (tag.size() < 2 || tag.front() != '"' || tag.back() != '"') return "";
  tag = tag.substr(1, tag.size() - 2);
  const size_t dot = tag.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : tag.substr(0, dot);
}

ListQuery DefaultProjection(const Resource& resource, AccessPtr access) {
  ListQuery projection;
  projection.resource = &resource;
  for (const Field& field : resource.fields)
    if (access->readable[static_cast<size_t>(field.position)]) projection.output.push_back(field.position);
  projection.access = std::move(access);
  return projection;
}

awaitable<absl::StatusOr<std::vector<WriteAnswer>>> RunWrite(Runner& runner, const catalog::Model& model,
                                                             const CallContext& context, const WriteRequest& request,
                                                             const CheckedWrite& checked) {
  std::vector<WriteAnswer> answers(request.items.size());
  if (request.items.empty()) co_return answers;
  const Resource& resource = *request.resource;
  MergeOptions options;
  MergeExtra extra;
  extra.caller_rolls_back = true;
  extra.ours = request.ours;
  extra.expected_versions = request.items[0].versions;
  extra.row_versions = checked.row_versions;
  switch (request.kind) {
    case Kind::kCreate:
      options.mode = MergeMode::kCreate;
      break;
    case Kind::kPatch:
      options.mode = MergeMode::kUpdate;
      break;
    case Kind::kPut:
      options.mode = request.create_only  ? MergeMode::kCreate
                     : request.must_exist ? MergeMode::kUpdate
                                          : MergeMode::kUpsert;
      extra.replace = true;
      break;
    case Kind::kUpsert:
      options.mode = MergeMode::kUpsert;
      options.key = request.natural_key;
      break;
    case Kind::kUndelete:
      options.mode = MergeMode::kUpdate;
      extra.undelete = true;
      break;
    case Kind::kDelete:
      options.mode = MergeMode::kDelete;
      break;
  }
  MergeRows rows = checked.rows;
  if (request.kind == Kind::kPatch) {
    const absl::Status merged = co_await MergeJsonColumns(runner, context, request, rows);
    if (!merged.ok()) co_return merged;
  }

  absl::StatusOr<MergeOutcome> outcome =
      co_await RunMerge(runner, resource, model, context, request.access, rows, options, extra);
  if (!outcome.ok()) co_return outcome.status();
  std::vector<FieldError> wrong;
  for (size_t i = 0; i < request.items.size(); ++i) {
    for (FieldError& error : outcome->result.errors[i]) {
      if (request.kind == Kind::kPut) {
        const bool exists = request.create_only && error.code == "unique" && !resource.key.empty() &&
                            error.name == resource.fields[static_cast<size_t>(resource.key[0])].name;
        if (exists || (request.must_exist && error.code == "not_found"))
          co_return MakeProblem("precondition-failed",
                                request.create_only ? "the record exists already" : "there is no such record");
      }
      // What is missing is the item, not its key.
      const bool whole = error.code == "not_found";
      error.name = request.items[i].pointer + (whole ? "" : Pointer(error.name));
      wrong.push_back(std::move(error));
    }
  }
  if (!wrong.empty()) co_return WriteFailure(std::move(wrong), request.is_batch());

  for (size_t i = 0; i < answers.size(); ++i) {
    answers[i].created = outcome->result.status[i] == RowStatus::kCreated;
    const std::vector<std::string>& key = outcome->keys[i];
    answers[i].id = FormatKey(resource, std::vector<std::string_view>(key.begin(), key.end()));
  }
  for (const CheckedWrite::Children& children : checked.children) {
    CheckedWrite with_parents = *children.checked;
    MergeRows& child = with_parents.rows;
    const std::vector<int> key_fields = FieldsOfColumns(resource, children.relation->columns);
    for (size_t o = 0; o < children.request.ours.size(); ++o) {
      const std::string& name = children.request.resource->fields[static_cast<size_t>(children.request.ours[o])].name;
      const size_t column =
          static_cast<size_t>(std::find(child.fields.begin(), child.fields.end(), name) - child.fields.begin());
      // Nested relations point at the key: the catalog has seen to it.
      const size_t part = static_cast<size_t>(std::find(resource.key.begin(), resource.key.end(), key_fields[o]) -
                                              resource.key.begin());
      for (size_t r = 0; r < child.rows.size(); ++r) child.rows[r][column] = outcome->keys[children.parents[r]][part];
    }
    const absl::StatusOr<std::vector<WriteAnswer>> written =
        co_await RunWrite(runner, model, context, children.request, with_parents);
    if (!written.ok()) co_return written.status();
  }
  if (request.kind == Kind::kDelete || !request.access->can(Action::kRead)) co_return answers;
  const ListQuery projection = DefaultProjection(resource, request.access);
  const absl::Status read = co_await ReadBack(runner, context, projection, outcome->keys, answers);
  if (!read.ok()) co_return read;
  co_return answers;
}

}  // namespace mainstay::records
