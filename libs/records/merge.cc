// SPDX-License-Identifier: Apache-2.0
// Rows travel as one text array per column; each statement handles all rows of the batch:
//
//   look up and lock (in key order) → decide per row here → check references → insert → update or delete
//
// What C++ can't foresee (unique keys, CHECK constraints, foreign keys, triggers) PostgreSQL refuses for the whole
// statement; then the batch is rolled back to its savepoint and halved until the rows to blame stand alone: about
// 2·log₂(n) more rounds per bad row, none for good batches. Two writers of one new key: the loser's insert does
// nothing, its batch is rolled back to the savepoint and looks again.
#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "libs/base/ids.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/postgres/errors.h"
#include "libs/records/claims.h"
#include "libs/records/merge_run.h"
#include "libs/records/plan.h"
#include "libs/records/value.h"
#include "libs/records/write_rules.h"

namespace mainstay::records {
namespace {

using boost::asio::awaitable;
using catalog::Field;
using catalog::Resource;
using catalog::TypeFamily;

constexpr int kMaxRedo = 4;

FieldError Error(std::string_view field, std::string_view code, std::string_view detail) {
  return {.place = FieldError::Place::kPointer,
          .name = std::string(field),
          .code = std::string(code),
          .detail = std::string(detail)};
}

bool Contains(const std::vector<int>& list, int value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// Equal in SQL, NULL equal to NULL.
std::string Same(const Field& field, const std::string& stored, const std::string& given) {
  if (field.type.family == TypeFamily::kJson && !field.type.array)
    return StrCat(stored, "::jsonb IS NOT DISTINCT FROM ", given, "::jsonb");
  const std::string cast = StrCat(given, "::", CastName(field.type));
  if (field.type.family == TypeFamily::kOther || field.type.family == TypeFamily::kJson)
    return StrCat(stored, "::text IS NOT DISTINCT FROM (", cast, ")::text");
  return StrCat(stored, " IS NOT DISTINCT FROM ", cast);
}

class MergeRun {
 public:
  MergeRun(Runner& runner, const Resource& resource, const catalog::Model& model, const CallContext& context,
           AccessPtr access, const MergeRows& rows, const MergeOptions& options, const MergeExtra& extra)
      : runner_(runner),
        resource_(resource),
        model_(model),
        context_(context),
        access_(std::move(access)),
        rows_(rows),
        options_(options),
        extra_(extra) {}

  awaitable<absl::StatusOr<MergeOutcome>> Run() {
    CO_RETURN_IF_ERROR(Prepare());
    const size_t n = rows_.rows.size();
    std::vector<size_t> good;
    for (size_t i = 0; i < n; ++i)
      if (out_.result.errors[i].empty()) good.push_back(i);
    const bool stop = !options_.skip_errors && good.size() != n;
    if (!stop && !good.empty()) {
      const bool outer = !extra_.caller_rolls_back && (!options_.skip_errors || options_.validate_only);
      if (outer) {
        const auto begun = co_await runner_.Run("SAVEPOINT mainstay_merge", postgres::Params());
        if (!begun.ok()) co_return begun.status();
      }
      const bool alone = extra_.caller_rolls_back && good.size() == 1;
      absl::Status status;
      if (alone) {
        status = co_await Single(good);
      } else {
        status = co_await Batch(good);
      }
      if (!status.ok()) co_return status;
      if (outer) {
        bool failed = false;
        for (const auto& errors : out_.result.errors) failed |= !errors.empty();
        const bool undo = failed || options_.validate_only;
        const auto ended = co_await runner_.Run(
            undo ? "ROLLBACK TO SAVEPOINT mainstay_merge" : "RELEASE SAVEPOINT mainstay_merge", postgres::Params());
        if (!ended.ok()) co_return ended.status();
      }
    }
    Finish();
    const MergeResult& result = out_.result;
    if (!options_.validate_only && (options_.skip_errors || result.error == 0) &&
        result.created + result.updated + result.deleted > 0) {
      const absl::Status audited = co_await Audit();
      if (!audited.ok()) co_return audited;
    }
    co_return std::move(out_);
  }

 private:
  // Who did what to how many, once per merge.
  awaitable<absl::Status> Audit() {
    SqlBuilder sql(context_);
    PgArray roles;
    for (const std::string& role : context_.principal.roles) roles.Add(role);
    const MergeResult& result = out_.result;
    static constexpr std::string_view kActions[] = {"create", "update", "upsert", "delete", "create"};
    const std::string_view action =
        extra_.undelete ? std::string_view("restore") : kActions[static_cast<int>(options_.mode)];
    std::optional<std::string> record;
    if (out_.keys.size() == 1)
      record = FormatKey(resource_, std::vector<std::string_view>(out_.keys[0].begin(), out_.keys[0].end()));
    const auto number = [&](int64_t n) { return sql.Bind(StrCat(n), "integer"); };
    sql.text = StrCat(
        "INSERT INTO mainstay.audit_events (id, tenant, subject, roles, request_id, resource, action, outcome, record, "
        "created, updated, deleted) VALUES (",
        sql.Bind(event_, "uuid"), ", ", sql.Tenant(), ", ", sql.Subject(), ", ",
        sql.Bind(std::move(roles).Finish(), "text[]"), ", ", sql.Bind(context_.request_id, "text"), ", ",
        sql.Bind(resource_.name, "text"), ", ", sql.Bind(std::string(action), "text"), ", 'done', ",
        sql.Bind(std::move(record), "text"), ", ", number(result.created), ", ", number(result.updated), ", ",
        number(result.deleted), ")");
    const auto written = co_await runner_.Run(std::move(sql.text), std::move(sql.params));
    co_return written.status();
  }

  struct Found {
    std::vector<std::string> key;
    std::string version, status;
    bool unchanged = false, stale = false, deleted = false, visible = true, permitted = true, frozen = false;
    bool status_null = true;
  };

  // ---- before any SQL ----

  absl::Status Prepare() {
    const size_t n = rows_.rows.size();
    out_.result.status.assign(n, RowStatus::kError);
    out_.result.errors.assign(n, {});
    out_.keys.assign(n, {});
    if (options_.before_images) out_.result.before.assign(n, "");
    all_tenants_ = context_.principal.tenant == kAllTenants;
    if (resource_.read_only) return MakeProblem("forbidden", "this resource can't be written");
    const Action needed = options_.mode == MergeMode::kUpdate   ? Action::kUpdate
                          : options_.mode == MergeMode::kDelete ? Action::kDelete
                                                                : Action::kCreate;
    if (!access_->can(needed) && !(options_.mode == MergeMode::kUpsert && access_->can(Action::kUpdate)))
      return MakeProblem("forbidden", "this change is not allowed");

    std::vector<FieldError> wrong;
    for (const std::string& name : rows_.fields) {
      const Field* field = resource_.FindField(name);
      if (field == nullptr || (field->hidden && !Contains(extra_.ours, field->position))) {
        wrong.push_back(Error(name, "unknown_field", "no such field"));
        columns_.push_back(-1);
      } else if (Contains(columns_, field->position)) {
        wrong.push_back(Error(name, "duplicate_field", "the field stands twice"));
        columns_.push_back(-1);
      } else {
        columns_.push_back(field->position);
      }
    }
    const auto position = [&](const std::string& name, std::string_view what) {
      const Field* field = resource_.FindField(name);
      if (field == nullptr) wrong.push_back(Error(name, "unknown_field", StrCat("no such field for ", what)));
      return field == nullptr ? -1 : field->position;
    };
    for (const std::string& name : options_.key) key_.push_back(position(name, "key"));
    if (options_.key.empty()) key_ = resource_.key;
    if (!options_.stale_field.empty()) stale_ = position(options_.stale_field, "stale_field");
    if (!options_.status_field.empty()) status_ = position(options_.status_field, "status_field");
    if (!wrong.empty()) return MakeProblem("validation-failed", "a field does not exist", std::move(wrong));

    if (all_tenants_ && resource_.tenant >= 0 && Contains(columns_, resource_.tenant) &&
        !Contains(key_, resource_.tenant))
      key_.push_back(resource_.tenant);
    have_key_ = std::all_of(key_.begin(), key_.end(), [&](int p) { return Contains(columns_, p) || IsOwnTenant(p); });
    if (!have_key_ && options_.mode != MergeMode::kCreate) {
      for (int p : key_)
        if (!Contains(columns_, p) && !IsOwnTenant(p))
          wrong.push_back(Error(resource_.fields[p].name, "required", "it identifies the row"));
      return MakeProblem("validation-failed", "what identifies a row is missing", std::move(wrong));
    }
    FindConflictTarget();
    if (have_key_ && conflict_.empty())
      return MakeProblem("validation-failed", "the key is neither the primary key nor a unique key");

    for (size_t c = 0; c < columns_.size(); ++c) {
      const Field& field = resource_.fields[columns_[c]];
      const std::string_view refusal = Contains(extra_.ours, field.position)
                                           ? std::string_view()
                                           : WriteRefusal(resource_, *access_, field, all_tenants_);
      const bool is_key = Contains(key_, field.position);
      creatable_.push_back(refusal.empty());
      changeable_.push_back(refusal.empty() && !field.write_once && !is_key && options_.mode != MergeMode::kDelete);
      frozen_.push_back(refusal.empty() && field.write_once && !is_key);
      if (!refusal.empty() && !is_key && !(field.position == resource_.tenant && !all_tenants_))
        wrong.push_back(Error(field.name, refusal, refusal == "read_only" ? "may not be written" : "no such field"));
      if (field.position == resource_.tenant && !all_tenants_ && !is_key) {
        // Their own tenant may be said, another one is none of theirs.
        for (size_t i = 0; i < n; ++i)
          if (rows_.rows[i][c] != context_.principal.tenant)
            out_.result.errors[i].push_back(Error(field.name, "read_only", "may not be written"));
      }
    }
    if (!wrong.empty()) return MakeProblem("validation-failed", "a field can't be written", std::move(wrong));

    values_.resize(n);
    identity_.resize(n);
    partial_.assign(columns_.size(), false);
    std::unordered_map<std::string, size_t> seen;
    for (size_t i = 0; i < n; ++i) {
      std::vector<FieldError>& errors = out_.result.errors[i];
      if (rows_.rows[i].size() != columns_.size() ||
          (!rows_.given.empty() && (rows_.given.size() != n || rows_.given[i].size() != columns_.size())))
        return absl::InvalidArgumentError("a row has another number of cells than there are fields");
      values_[i].resize(columns_.size());
      for (size_t c = 0; c < columns_.size(); ++c) {
        const Field& field = resource_.fields[columns_[c]];
        const auto& cell = rows_.rows[i][c];
        if (!IsGiven(i, c)) {
          partial_[c] = true;
          if (Contains(key_, field.position)) errors.push_back(Error(field.name, "required", "it identifies the row"));
          continue;
        }
        if (!cell.has_value()) {
          if (!field.nullable || field.required || Contains(key_, field.position))
            errors.push_back(Error(field.name, "required", "may not be null"));
          continue;
        }
        if (options_.mode == MergeMode::kDelete && !Contains(key_, field.position)) continue;
        values_[i][c] = ValidateValue(field, *cell, errors);
      }
      if (have_key_ && errors.empty()) {
        std::string identity;
        for (int p : key_)
          if (const auto* value = Value(i, p))
            StrAppend(&identity, value->value_or("").size(), ":", value->value_or(""));
        const auto [it, fresh] = seen.emplace(identity, i);
        identity_[i] = std::move(identity);
        if (!fresh)
          errors.push_back(
              Error(resource_.fields[key_[0]].name, "duplicate_key", StrCat("the same key as row ", it->second + 1)));
      }
    }
    return absl::OkStatus();
  }

  bool IsGiven(size_t i, size_t c) const { return rows_.given.empty() || rows_.given[i][c]; }
  bool IsOwnTenant(int p) const { return p == resource_.tenant && !all_tenants_; }

  // The cell of row i for a field; null when the field was not given.
  const std::optional<std::string>* Value(size_t i, int position) const {
    for (size_t c = 0; c < columns_.size(); ++c)
      if (columns_[c] == position) return IsGiven(i, c) ? &values_[i][c] : nullptr;
    return nullptr;
  }

  // The unique index that the key stands for: ON CONFLICT names its columns.
  void FindConflictTarget() {
    std::set<int> key(key_.begin(), key_.end());
    std::set<int> with = key, without = key;
    if (resource_.tenant >= 0) {
      with.insert(resource_.tenant);
      without.erase(resource_.tenant);
    }
    const auto take = [&](const std::vector<int>& candidate) {
      const std::set<int> set(candidate.begin(), candidate.end());
      if (!conflict_.empty() || candidate.empty()) return;
      if (set == key || set == with || (set == without && all_tenants_)) conflict_ = candidate;
    };
    take(resource_.key);
    for (const auto& unique : resource_.unique_keys) take(unique);
  }

  std::vector<FieldError> MissingForCreate(size_t i) const {
    std::vector<FieldError> errors;
    for (const Field& field : resource_.fields) {
      const int p = field.position;
      if (p == resource_.version || p == resource_.created_at || p == resource_.updated_at ||
          p == resource_.deleted_at || IsOwnTenant(p))
        continue;
      if (Value(i, p) != nullptr) continue;  // given: NULL was looked at before
      const bool needed = field.required || (!field.nullable && !field.has_default && !field.generated);
      if (needed && !field.hidden) errors.push_back(Error(field.name, "required", "is required"));
    }
    for (size_t c = 0; c < columns_.size(); ++c)
      if (!creatable_[c] && IsGiven(i, c) && !IsOwnTenant(columns_[c]))
        errors.push_back(Error(resource_.fields[columns_[c]].name, "read_only", "may not be written"));
    return errors;
  }

  // ---- statements ----

  // "unnest($1::text[], …) WITH ORDINALITY AS v(c0, …, n)"; columns by index in columns_, then extra ones.
  std::string Unnest(SqlBuilder& sql, const std::vector<size_t>& rows, const std::vector<size_t>& columns,
                     const std::vector<std::vector<std::string>>& extra = {}) const {
    std::string arrays, names;
    const auto add = [&](PgArray array, const std::string& name) {
      StrAppend(&arrays, arrays.empty() ? "" : ", ", sql.Bind(std::move(array).Finish(), "text[]"));
      StrAppend(&names, name, ", ");
    };
    for (size_t c : columns) {
      PgArray array;
      for (size_t i : rows) {
        if (values_[i][c].has_value()) {
          array.Add(*values_[i][c]);
        } else {
          array.AddNull();
        }
      }
      add(std::move(array), StrCat("c", c));
      if (!partial_[c]) continue;
      PgArray given;
      for (size_t i : rows) given.Add(IsGiven(i, c) ? "t" : "f");
      add(std::move(given), StrCat("g", c));
    }
    for (size_t e = 0; e < extra.size(); ++e) {
      PgArray array;
      for (const std::string& value : extra[e]) array.Add(value);
      add(std::move(array), StrCat("e", e));
    }
    if (arrays.empty()) return StrCat("generate_series(1, ", rows.size(), ") AS v(n)");
    return StrCat("unnest(", arrays, ") WITH ORDINALITY AS v(", names, "n)");
  }

  std::vector<size_t> AllColumns() const {
    std::vector<size_t> all;
    for (size_t c = 0; c < columns_.size(); ++c) all.push_back(c);
    return all;
  }
  std::string Given(size_t c) const { return StrCat("v.c", c); }
  // "NOT v.g3::boolean OR " in front of a condition about what may not be given.
  std::string Unless(size_t c) const { return partial_[c] ? StrCat("NOT v.g", c, "::boolean OR ") : ""; }
  std::string GivenAs(size_t c) const { return StrCat("v.c", c, "::", CastName(resource_.fields[columns_[c]].type)); }

  awaitable<absl::Status> LookUp(const std::vector<size_t>& rows) {
    SqlBuilder sql(context_);
    std::string select, join;
    for (int p : resource_.key) StrAppend(&select, ", t.", Quote(resource_.fields[p].column));
    const std::string from = Unnest(sql, rows, AllColumns());
    for (int p : key_) {
      for (size_t c = 0; c < columns_.size(); ++c)
        if (columns_[c] == p && !IsOwnTenant(p))
          StrAppend(&join, join.empty() ? "" : " AND ", Column("t", resource_.fields[p]), " = ", GivenAs(c));
    }
    const std::string tenant = sql.TenantIs("t", resource_);
    if (!tenant.empty()) StrAppend(&join, join.empty() ? "" : " AND ", tenant);
    std::string unchanged, frozen;
    std::string stale = "false", status = "NULL::text", deleted = "false", version = "''";
    for (size_t c = 0; c < columns_.size(); ++c) {
      const Field& field = resource_.fields[columns_[c]];
      if (changeable_[c])
        StrAppend(&unchanged, unchanged.empty() ? "(" : " AND (", Unless(c), Same(field, Column("t", field), Given(c)),
                  ")");
      if (frozen_[c])
        StrAppend(&frozen, frozen.empty() ? "(" : " AND (", Unless(c), Same(field, Column("t", field), Given(c)), ")");
      if (columns_[c] == stale_) stale = StrCat("COALESCE(", Column("t", field), " >= ", GivenAs(c), ", false)");
    }
    if (unchanged.empty()) unchanged = "true";
    if (extra_.replace || extra_.undelete) unchanged = "false";
    if (frozen.empty()) frozen = "true";
    if (status_ >= 0) status = StrCat(Column("t", resource_.fields[status_]), "::text");
    if (resource_.deleted_at >= 0)
      deleted = StrCat(Column("t", resource_.fields[resource_.deleted_at]), " IS NOT NULL");
    if (resource_.version >= 0) {
      version = StrCat(Column("t", resource_.fields[resource_.version]), "::text");
    } else if (!resource_.view) {
      version = "t.xmin::text";
    }
    const auto covered = [&](Action action) {
      if (action == Action::kRead && !access_->can(action))
        return std::string("true");  // write-only roles: what they may change is theirs to see
      if (!access_->can(action)) return std::string("false");
      const Predicate* rows_of = access_->where(action);
      return rows_of == nullptr ? std::string("true")
                                : StrCat("COALESCE(", sql.Where("t", resource_, *rows_of), ", false)");
    };
    const std::string visible = covered(Action::kRead),
                      permitted = covered(options_.mode == MergeMode::kDelete ? Action::kDelete : Action::kUpdate);
    std::string order;
    for (int p : resource_.key) StrAppend(&order, order.empty() ? "" : ", ", Column("t", resource_.fields[p]));
    sql.text = StrCat("SELECT v.n", select, ", ", version, ", ", unchanged, ", ", frozen, ", ", stale, ", ", status,
                      ", ", deleted, ", ", visible, ", ", permitted, " FROM ", from, " JOIN ", TableOf(resource_),
                      " t ON ", join.empty() ? "true" : join, " ORDER BY ", order,
                      // What a foreign key of others needs is not in the way, unless the row goes.
                      resource_.view                        ? ""
                      : options_.mode == MergeMode::kDelete ? " FOR UPDATE OF t"
                                                            : " FOR NO KEY UPDATE OF t");
    auto result = co_await runner_.Run(std::move(sql.text), std::move(sql.params));
    if (!result.ok()) co_return result.status();
    const Rows& found = **result;
    const int k = static_cast<int>(resource_.key.size());
    for (int r = 0; r < found.rows(); ++r) {
      const size_t ordinal = static_cast<size_t>(std::stoull(std::string(found.Get(r, 0))));
      Found row;
      for (int p = 0; p < k; ++p) row.key.emplace_back(found.Get(r, 1 + p));
      const auto flag = [&](int column) { return !found.IsNull(r, column) && found.Get(r, column) == "t"; };
      row.version = found.Get(r, 1 + k);
      row.unchanged = flag(2 + k);
      row.frozen = !flag(3 + k);
      row.stale = flag(4 + k);
      row.status_null = found.IsNull(r, 5 + k);
      row.status = found.Get(r, 5 + k);
      row.deleted = flag(6 + k);
      row.visible = flag(7 + k);
      row.permitted = flag(8 + k);
      found_.insert_or_assign(rows[ordinal - 1], std::move(row));
    }
    co_return absl::OkStatus();
  }

  void Fail(size_t i, std::string_view field, std::string_view code, std::string_view detail) {
    out_.result.status[i] = RowStatus::kError;
    out_.result.errors[i].push_back(Error(field, code, detail));
  }

  // What is to be done with row i, now that we know what is there.
  void Decide(size_t i, std::vector<size_t>& inserts, std::vector<size_t>& changes) {
    const auto it = found_.find(i);
    const std::string key_name = have_key_ ? resource_.fields[key_[0]].name : "";
    const auto create = [&] {
      if (!access_->can(Action::kCreate)) {
        Fail(i, "", "forbidden", "creating is not allowed");
        return;
      }
      std::vector<FieldError> missing = MissingForCreate(i);
      if (missing.empty()) {
        inserts.push_back(i);
      } else {
        out_.result.errors[i] = std::move(missing);
      }
    };
    if (it == found_.end()) {
      if (options_.mode == MergeMode::kUpdate || options_.mode == MergeMode::kDelete) {
        Fail(i, key_name, "not_found", "there is no such record");
      } else {
        create();
      }
      return;
    }
    const Found& found = it->second;
    const bool there = found.visible && found.deleted == extra_.undelete;
    if (there) out_.keys[i] = found.key;
    switch (options_.mode) {
      case MergeMode::kCreate:
        Fail(i, key_name, "unique", "another record has the same value");
        return;
      case MergeMode::kIgnore:
        out_.result.status[i] = RowStatus::kSkipped;
        return;
      case MergeMode::kUpdate:
      case MergeMode::kDelete:
        if (!there) {
          Fail(i, key_name, "not_found", "there is no such record");
          return;
        }
        break;
      case MergeMode::kUpsert:
        if (!there) {
          Fail(i, key_name, "unique", "another record has the same value");
          return;
        }
        break;
    }
    if (!found.permitted) {
      Fail(i, "", "forbidden", "this record may not be changed");
      return;
    }
    if (i < extra_.row_versions.size() && !extra_.row_versions[i].empty() && extra_.row_versions[i] != found.version) {
      out_.precondition_failed = true;
      Fail(i, "", "precondition_failed", "the record has changed");
      return;
    }
    if (!extra_.expected_versions.empty() && std::find(extra_.expected_versions.begin(), extra_.expected_versions.end(),
                                                       found.version) == extra_.expected_versions.end()) {
      out_.precondition_failed = true;
      Fail(i, "", "precondition_failed", "the record has changed");
      return;
    }
    if (options_.mode == MergeMode::kDelete) {
      changes.push_back(i);
      return;
    }
    if (found.stale) {
      out_.result.status[i] = RowStatus::kStale;
      return;
    }
    if (found.frozen) {
      for (size_t c = 0; c < columns_.size(); ++c)
        if (frozen_[c] && IsGiven(i, c))
          Fail(i, resource_.fields[columns_[c]].name, "read_only", "may only be set when the record is created");
      return;
    }
    if (found.unchanged) {
      out_.result.status[i] = RowStatus::kUnchanged;
      return;
    }
    if (status_ >= 0) {
      const auto* next = Value(i, status_);
      if (next != nullptr && next->has_value() && !found.status_null && **next != found.status) {
        const auto allowed = options_.transitions.find(found.status);
        const bool fine = allowed != options_.transitions.end() &&
                          std::find(allowed->second.begin(), allowed->second.end(), **next) != allowed->second.end();
        if (!fine) {
          Fail(i, options_.status_field, "invalid_transition",
               StrCat("it can't change from ", found.status, " to ", **next));
          return;
        }
      }
    }
    changes.push_back(i);
  }

  // All fields of the reference are given for all rows: it can be looked at before anything is written.
  bool IsWhole(const catalog::Reference& reference) const {
    // Operators name the tenant of a new row, but not of one that is there: what it points at must be its tenant's.
    if (all_tenants_ && resource_.tenant >= 0) return false;
    return std::all_of(reference.fields.begin(), reference.fields.end(), [&](int p) {
      if (IsOwnTenant(p)) return true;
      const auto it = std::find(columns_.begin(), columns_.end(), p);
      return it != columns_.end() && !partial_[static_cast<size_t>(it - columns_.begin())];
    });
  }
  bool IsTouched(const catalog::Reference& reference) const {
    return std::any_of(reference.fields.begin(), reference.fields.end(),
                       [&](int p) { return !IsOwnTenant(p) && Contains(columns_, p); });
  }

  // ", <the row at t as it is now points at nothing the caller may see>, <it breaks a check>, …" for RETURNING; what
  // each of them means is in verdicts_.
  std::string Verdicts(SqlBuilder& sql) {
    verdicts_.clear();
    std::string out;
    const auto add = [&](const std::string& condition, std::vector<FieldError> errors) {
      StrAppend(&out, ", ", condition, " AS x", verdicts_.size());
      verdicts_.push_back(std::move(errors));
    };
    for (const catalog::Reference& reference : resource_.references) {
      const Resource* target = reference.target.empty() ? nullptr : model_.FindResource(reference.target);
      if (target == nullptr || !IsTouched(reference) || IsWhole(reference)) continue;
      const AccessPtr target_access = MakeAccess(model_, *target, context_.principal.roles);
      std::string present, join;
      int named = -1;
      for (size_t f = 0; f < reference.fields.size(); ++f) {
        const Field& field = resource_.fields[reference.fields[f]];
        if (named < 0 && Contains(columns_, field.position) && !IsOwnTenant(field.position)) named = field.position;
        StrAppend(&present, Column("t", field), " IS NOT NULL AND ");
        StrAppend(&join, "r.", Quote(reference.target_columns[f]), " = ", Column("t", field), " AND ");
      }
      if (all_tenants_ && resource_.tenant >= 0 && target->tenant >= 0)
        StrAppend(&join, Column("r", target->fields[target->tenant]),
                  "::text = ", Column("t", resource_.fields[resource_.tenant]), "::text AND ");
      const std::string scope =
          sql.Scope("r", *target, target_access->can(Action::kRead) ? target_access->where(Action::kRead) : nullptr,
                    Deleted::kHide);
      add(StrCat("(", present, "NOT EXISTS (SELECT FROM ", TableOf(*target), " r WHERE ", join, scope, "))"),
          {Error(resource_.fields[named].name, "reference_not_found", "there is no such record")});
    }
    if (access_->rules != nullptr) {
      for (const WriteRules::Check& check : access_->rules->checks) {
        const std::string detail = check.declared->message.empty() ? StrCat("breaks the rule ", check.declared->name)
                                                                   : check.declared->message;
        std::vector<FieldError> errors;
        for (int p : check.declared->fields)
          if (access_->readable[p] || access_->writable[p])
            errors.push_back(Error(resource_.fields[p].name, "check_failed", detail));
        if (errors.empty()) errors.push_back(Error("", "check_failed", detail));
        add(BreaksCheck(sql, "t", resource_, check), std::move(errors));
      }
    }
    return out;
  }

  // Reads the verdicts of row i, which begin at `column`.
  void Judge(size_t i, const Rows& written, int row, int column) {
    bool bad = false;
    for (const std::vector<FieldError>& errors : verdicts_) {
      if (!written.IsNull(row, column) && written.Get(row, column) == "t") {
        bad = true;
        for (const FieldError& error : errors) Fail(i, error.name, error.code, error.detail);
      }
      ++column;
    }
    if (bad) refused_.insert(i);
  }

  // What the written values point at must be there for the caller: another tenant's row is not.
  awaitable<absl::Status> CheckReferences(const std::vector<size_t>& rows) {
    if (rows.empty()) co_return absl::OkStatus();
    for (const catalog::Reference& reference : resource_.references) {
      const Resource* target = reference.target.empty() ? nullptr : model_.FindResource(reference.target);
      if (target == nullptr) continue;  // the foreign key itself is all there is
      std::vector<size_t> columns;
      std::string join;
      if (!IsWhole(reference)) continue;  // the written row is looked at, see Misses
      int named = -1;
      for (size_t f = 0; f < reference.fields.size(); ++f) {
        const int p = reference.fields[f];
        if (IsOwnTenant(p)) continue;
        const auto it = std::find(columns_.begin(), columns_.end(), p);
        const size_t c = static_cast<size_t>(it - columns_.begin());
        columns.push_back(c);
        if (named < 0) named = p;
        StrAppend(&join, "t.", Quote(reference.target_columns[f]), " = ", GivenAs(c), " AND ");
      }
      if (columns.empty()) continue;
      const AccessPtr target_access = MakeAccess(model_, *target, context_.principal.roles);
      SqlBuilder sql(context_);
      const std::string from = Unnest(sql, rows, columns);
      const std::string scope =
          sql.Scope("t", *target, target_access->can(Action::kRead) ? target_access->where(Action::kRead) : nullptr,
                    Deleted::kHide);
      std::string present;
      for (size_t c : columns) StrAppend(&present, Given(c), " IS NOT NULL AND ");
      sql.text = StrCat("SELECT v.n FROM ", from, " WHERE ", present, "NOT EXISTS (SELECT FROM ", TableOf(*target),
                        " t WHERE ", join, scope, ")");
      auto result = co_await runner_.Run(std::move(sql.text), std::move(sql.params));
      if (!result.ok()) co_return result.status();
      for (int r = 0; r < (*result)->rows(); ++r) {
        const size_t i = rows[static_cast<size_t>(std::stoull(std::string((*result)->Get(r, 0)))) - 1];
        Fail(i, resource_.fields[named].name, "reference_not_found", "there is no such record");
      }
    }
    co_return absl::OkStatus();
  }

  // Rows whose new image the caller's roles do not cover.
  void Refuse(size_t i) {
    refused_.insert(i);
    Fail(i, "", "forbidden", "the record would not be one you may write");
  }

  // Rows of which the same is said go together.
  awaitable<absl::Status> Insert(std::vector<size_t> rows) {
    // By identity, so that two merges of the same new rows meet in the same order.
    if (have_key_ && rows.size() > 1) {
      std::vector<std::pair<std::string, size_t>> order;
      for (size_t i : rows) order.emplace_back(identity_[i], i);
      std::sort(order.begin(), order.end());
      for (size_t r = 0; r < rows.size(); ++r) rows[r] = order[r].second;
    }
    if (rows_.given.empty()) {
      const absl::Status status = co_await InsertAlike(rows);
      co_return status;
    }
    std::map<std::vector<bool>, size_t> known;
    std::vector<std::vector<size_t>> alike;  // in the order in which they first appear
    for (size_t i : rows) {
      const auto [it, fresh] = known.emplace(rows_.given[i], alike.size());
      if (fresh) alike.emplace_back();
      alike[it->second].push_back(i);
    }
    for (const std::vector<size_t>& group : alike) {
      const absl::Status status = co_await InsertAlike(group);
      if (!status.ok() || redo_) co_return status;
    }
    co_return absl::OkStatus();
  }

  awaitable<absl::Status> InsertAlike(const std::vector<size_t>& rows) {
    if (rows.empty()) co_return absl::OkStatus();
    SqlBuilder sql(context_);
    std::vector<size_t> columns;
    std::string names, selected;
    const auto add = [&](int position, const std::string& value) {
      StrAppend(&names, names.empty() ? "" : ", ", Quote(resource_.fields[position].column));
      StrAppend(&selected, selected.empty() ? "" : ", ", value);
    };
    for (size_t c = 0; c < columns_.size(); ++c) {
      if (IsOwnTenant(columns_[c]) || !IsGiven(rows[0], c)) continue;
      columns.push_back(c);
      add(columns_[c], GivenAs(c));
    }
    const std::string from = Unnest(sql, rows, columns);
    if (resource_.tenant >= 0 && !all_tenants_)
      add(resource_.tenant, sql.Bind(context_.principal.tenant, CastName(resource_.fields[resource_.tenant].type)));
    if (resource_.version >= 0 && !resource_.fields[resource_.version].has_default) add(resource_.version, "1");
    for (int p : {resource_.created_at, resource_.updated_at})
      if (p >= 0 && !resource_.fields[p].has_default) add(p, "now()");
    // k0, k1 …: the key; ok: covered by the caller's roles; x0 …: verdicts.
    std::string returning;
    for (size_t p = 0; p < resource_.key.size(); ++p)
      StrAppend(&returning, Column("t", resource_.fields[resource_.key[p]]), " AS k", p, ", ");
    const Predicate* where = access_->where(Action::kCreate);
    returning += where == nullptr ? "true" : StrCat("COALESCE(", sql.Where("t", resource_, *where), ", false)");
    returning += " AS ok" + Verdicts(sql);
    const bool arbitrate = have_key_ && (options_.mode == MergeMode::kUpsert || options_.mode == MergeMode::kIgnore);
    std::string conflict;
    if (arbitrate) {
      for (int p : conflict_) StrAppend(&conflict, conflict.empty() ? "" : ", ", Quote(resource_.fields[p].column));
      conflict = StrCat(" ON CONFLICT (", conflict, ") DO NOTHING");
    }
    const bool traces = LeavesTraces(resource_, access_->rules.get(), Written::kCreated);
    if (traces) StrAppend(&returning, ", ", WholeRow("t", resource_), " AS after_row");
    sql.text = names.empty() ? StrCat("INSERT INTO ", TableOf(resource_), " AS t DEFAULT VALUES RETURNING ", returning)
                             : StrCat("INSERT INTO ", TableOf(resource_), " AS t (", names, ") SELECT ", selected,
                                      " FROM ", from, " ORDER BY v.n", conflict, " RETURNING ", returning);
    const int k = static_cast<int>(resource_.key.size());
    if (traces) {
      std::string shown;
      for (int p = 0; p < k; ++p) StrAppend(&shown, "w.k", p, ", ");
      sql.text = WithTraces(sql, resource_, access_->rules.get(), context_, Written::kCreated, event_, sql.text,
                            StrCat(shown, "w.ok", ShownVerdicts()));
    }
    auto result = co_await runner_.Run(std::move(sql.text), std::move(sql.params));
    if (!result.ok()) co_return result.status();
    const Rows& written = **result;
    if (written.rows() != static_cast<int>(rows.size())) {
      redo_ = true;  // someone else was first
      co_return absl::OkStatus();
    }
    for (int r = 0; r < written.rows(); ++r) {
      const size_t i = rows[static_cast<size_t>(r)];
      out_.result.status[i] = RowStatus::kCreated;
      out_.keys[i].clear();
      for (int p = 0; p < k; ++p) out_.keys[i].emplace_back(written.Get(r, p));
      if (written.Get(r, k) != "t") Refuse(i);
      Judge(i, written, r, k + 1);
    }
    co_return absl::OkStatus();
  }

  std::string ShownVerdicts() const {
    std::string out;
    for (size_t x = 0; x < verdicts_.size(); ++x) StrAppend(&out, ", w.x", x);
    return out;
  }

  // Update, soft or hard delete, undelete: rows are locked and known by their primary key.
  awaitable<absl::Status> Change(const std::vector<size_t>& rows) {
    if (rows.empty()) co_return absl::OkStatus();
    const bool remove = options_.mode == MergeMode::kDelete;
    const bool hard = remove && resource_.deleted_at < 0;
    const Written what = remove ? Written::kDeleted : extra_.undelete ? Written::kRestored : Written::kUpdated;
    SqlBuilder sql(context_);
    std::vector<size_t> columns;
    std::string set;
    const auto assign = [&](int position, const std::string& value) {
      StrAppend(&set, set.empty() ? "" : ", ", Quote(resource_.fields[position].column), " = ", value);
    };
    for (size_t c = 0; c < columns_.size(); ++c) {
      if (!changeable_[c]) continue;
      columns.push_back(c);
      assign(columns_[c], partial_[c] ? StrCat("CASE WHEN v.g", c, "::boolean THEN ", GivenAs(c), " ELSE ",
                                               Column("t", resource_.fields[columns_[c]]), " END")
                                      : GivenAs(c));
    }
    if (extra_.replace) {
      for (const Field& field : resource_.fields) {
        if (Contains(columns_, field.position) || Contains(resource_.key, field.position) || field.write_once ||
            !WriteRefusal(resource_, *access_, field, all_tenants_).empty())
          continue;
        if (field.position == resource_.tenant) continue;
        assign(field.position, "DEFAULT");
      }
    }
    std::vector<std::vector<std::string>> extra(resource_.key.size() + 1);
    for (size_t i : rows) {
      for (size_t p = 0; p < resource_.key.size(); ++p) extra[p].push_back(found_[i].key[p]);
      extra.back().push_back(found_[i].version);
    }
    std::string from = Unnest(sql, rows, columns, extra);
    const auto same_key = [&](const std::string& alias) {
      std::string out;
      for (size_t p = 0; p < resource_.key.size(); ++p) {
        const Field& field = resource_.fields[resource_.key[p]];
        StrAppend(&out, p > 0 ? " AND " : "", Column(alias, field), " = v.e", p, "::", CastName(field.type));
      }
      return out;
    };
    std::string join = same_key("t");
    if (resource_.version >= 0)
      StrAppend(&join, " AND ", Column("t", resource_.fields[resource_.version]), " = v.e", resource_.key.size(),
                "::", CastName(resource_.fields[resource_.version].type));
    if (const std::string tenant = sql.TenantIs("t", resource_); !tenant.empty()) StrAppend(&join, " AND ", tenant);
    const bool traces = options_.before_images || LeavesTraces(resource_, access_->rules.get(), what);
    verdicts_.clear();
    if (hard) {
      sql.text = StrCat("DELETE FROM ", TableOf(resource_), " AS t USING ", from, " WHERE ", join,
                        " RETURNING v.n, true AS ok", traces ? ", " : "",
                        traces ? WholeRow("t", resource_) + " AS before_row" : "");
    } else {
      if (remove) assign(resource_.deleted_at, "now()");
      if (extra_.undelete) assign(resource_.deleted_at, "NULL");
      if (resource_.version >= 0)
        assign(resource_.version, StrCat(Column("t", resource_.fields[resource_.version]), " + 1"));
      if (resource_.updated_at >= 0) assign(resource_.updated_at, "now()");
      const Predicate* where = remove ? nullptr : access_->where(Action::kUpdate);
      std::string returning = StrCat(
          "v.n, ", where == nullptr ? "true" : StrCat("COALESCE(", sql.Where("t", resource_, *where), ", false)"),
          " AS ok");
      if (!remove) returning += Verdicts(sql);
      if (traces) {
        // The row is locked, so a second look at it shows what is about to be replaced.
        StrAppend(&from, " JOIN ", TableOf(resource_), " o ON ", same_key("o"));
        StrAppend(&returning, ", ", WholeRow("o", resource_), " AS before_row, ", WholeRow("t", resource_),
                  " AS after_row");
      }
      sql.text = StrCat("UPDATE ", TableOf(resource_), " AS t SET ", set, " FROM ", from, " WHERE ", join,
                        " RETURNING ", returning);
    }
    const int verdicts = 2 + (options_.before_images ? 1 : 0);
    if (traces)
      sql.text = WithTraces(
          sql, resource_, access_->rules.get(), context_, what, event_, sql.text,
          StrCat("w.n, w.ok", options_.before_images ? ", to_jsonb(w.before_row)::text" : "", ShownVerdicts()));
    auto result = co_await runner_.Run(std::move(sql.text), std::move(sql.params));
    if (!result.ok()) co_return result.status();
    const Rows& written = **result;
    // Locked rows can't have gone, but a trigger or a rule may have swallowed the change.
    if (written.rows() != static_cast<int>(rows.size()))
      co_return MakeProblem("transaction-conflict", "the change collided with others; try again");
    for (int r = 0; r < written.rows(); ++r) {
      const size_t i = rows[static_cast<size_t>(std::stoull(std::string(written.Get(r, 0)))) - 1];
      out_.result.status[i] = remove ? RowStatus::kDeleted : RowStatus::kUpdated;
      if (options_.before_images) out_.result.before[i] = written.Get(r, 2);
      if (written.Get(r, 1) != "t") Refuse(i);
      Judge(i, written, r, verdicts);
    }
    co_return absl::OkStatus();
  }

  // All stages for these rows. Afterwards refused_ and redo_ say whether it must be undone.
  awaitable<absl::Status> Attempt(const std::vector<size_t>& rows) {
    redo_ = false;
    refused_.clear();
    for (size_t i : rows) {
      out_.result.errors[i].clear();
      out_.result.status[i] = RowStatus::kError;
      out_.keys[i].clear();
      found_.erase(i);
    }
    if (have_key_) {
      const absl::Status status = co_await LookUp(rows);
      if (!status.ok()) co_return status;
    }
    std::vector<size_t> inserts, changes;
    for (size_t i : rows) Decide(i, inserts, changes);
    std::vector<size_t> writes = inserts;
    if (options_.mode != MergeMode::kDelete) {
      writes.insert(writes.end(), changes.begin(), changes.end());
      const absl::Status status = co_await CheckReferences(writes);
      if (!status.ok()) co_return status;
    }
    const auto drop_failed = [&](std::vector<size_t>& list) {
      std::erase_if(list, [&](size_t i) { return !out_.result.errors[i].empty(); });
    };
    drop_failed(inserts);
    drop_failed(changes);
    if (!options_.skip_errors) {
      for (size_t i : rows)
        if (!out_.result.errors[i].empty()) co_return absl::OkStatus();  // nothing will be kept
    }
    absl::Status status = co_await Insert(inserts);
    if (!status.ok() || redo_) co_return status;
    status = co_await Change(changes);
    co_return status;
  }

  // One row in a transaction that is rolled back when anything is wrong.
  awaitable<absl::Status> Single(const std::vector<size_t>& rows) {
    const absl::Status status = co_await Attempt(rows);
    if (redo_) co_return MakeProblem("transaction-conflict", "the change collided with others; try again");
    if (!status.ok()) {
      std::vector<FieldError> errors = RowErrors(resource_, status);
      if (errors.empty()) co_return status;
      out_.result.status[rows[0]] = RowStatus::kError;
      out_.result.errors[rows[0]] = std::move(errors);
    }
    co_return absl::OkStatus();
  }

  awaitable<absl::Status> Batch(std::vector<size_t> all) {
    std::vector<std::vector<size_t>> open = {std::move(all)};
    int redone = 0;
    while (!open.empty()) {
      std::vector<size_t> rows = std::move(open.back());
      open.pop_back();
      auto begun = co_await runner_.Run("SAVEPOINT mainstay_rows", postgres::Params());
      if (!begun.ok()) co_return begun.status();
      const absl::Status status = co_await Attempt(rows);
      const bool undo = !status.ok() || redo_ || !refused_.empty();
      const std::vector<FieldError> blame = status.ok() ? std::vector<FieldError>() : RowErrors(resource_, status);
      if (!status.ok() && blame.empty()) co_return status;
      if (undo) {
        auto undone = co_await runner_.Run("ROLLBACK TO SAVEPOINT mainstay_rows", postgres::Params());
        if (!undone.ok()) co_return undone.status();
      }
      auto released = co_await runner_.Run("RELEASE SAVEPOINT mainstay_rows", postgres::Params());
      if (!released.ok()) co_return released.status();
      if (!undo) continue;
      if (!status.ok()) {
        if (rows.size() == 1) {
          out_.result.status[rows[0]] = RowStatus::kError;
          out_.result.errors[rows[0]] = blame;
          out_.keys[rows[0]].clear();
          if (!options_.skip_errors) co_return absl::OkStatus();  // one is enough
          continue;
        }
        const auto half = rows.begin() + static_cast<std::ptrdiff_t>(rows.size() / 2);
        open.emplace_back(half, rows.end());  // the first half is tried first
        open.emplace_back(rows.begin(), half);
        continue;
      }
      if (!refused_.empty()) {
        if (!options_.skip_errors) co_return absl::OkStatus();
        std::erase_if(rows, [&](size_t i) { return refused_.contains(i); });
        if (!rows.empty()) open.push_back(std::move(rows));
        continue;
      }
      if (++redone > kMaxRedo)
        co_return MakeProblem("transaction-conflict", "the change collided with others; try again");
      open.push_back(std::move(rows));
    }
    co_return absl::OkStatus();
  }

  void Finish() {
    MergeResult& result = out_.result;
    for (size_t i = 0; i < result.status.size(); ++i) {
      if (!result.errors[i].empty()) {
        result.status[i] = RowStatus::kError;
        if (!result.before.empty()) result.before[i].clear();
      }
      switch (result.status[i]) {
        case RowStatus::kCreated:
          ++result.created;
          break;
        case RowStatus::kUpdated:
          ++result.updated;
          break;
        case RowStatus::kUnchanged:
          ++result.unchanged;
          break;
        case RowStatus::kDeleted:
          ++result.deleted;
          break;
        case RowStatus::kSkipped:
          ++result.skipped;
          break;
        case RowStatus::kStale:
          ++result.stale;
          break;
        case RowStatus::kError:
          ++result.error;
          break;
      }
    }
  }

  Runner& runner_;
  const Resource& resource_;
  const catalog::Model& model_;
  const CallContext& context_;
  const AccessPtr access_;
  const MergeRows& rows_;
  const MergeOptions& options_;
  const MergeExtra& extra_;

  bool all_tenants_ = false, have_key_ = false;
  std::vector<int> columns_;  // field positions, as rows_.fields
  std::vector<int> key_;      // field positions
  std::vector<int> conflict_;
  int stale_ = -1, status_ = -1;
  std::vector<bool> creatable_, changeable_, frozen_;  // by column
  std::vector<std::vector<std::optional<std::string>>> values_;
  std::vector<std::string> identity_;  // by row: the key's values
  std::vector<bool> partial_;          // by column: some rows say nothing about it
  std::vector<std::vector<FieldError>> verdicts_;
  const std::string event_ = NewUuid().ToString();

  MergeOutcome out_;
  std::unordered_map<size_t, Found> found_;
  std::set<size_t> refused_;
  bool redo_ = false;
};

}  // namespace

std::string_view WriteRefusal(const Resource& resource, const Access& access, const Field& field, bool all_tenants) {
  const int p = field.position;
  if (field.hidden) return "unknown_field";
  const bool ours = p == resource.version || p == resource.created_at || p == resource.updated_at ||
                    p == resource.deleted_at || (p == resource.tenant && !all_tenants);
  if (access.writable[p] && !field.read_only && !field.generated && !ours) return "";
  return access.readable[p] ? "read_only" : "unknown_field";
}

std::vector<FieldError> RowErrors(const Resource& resource, const absl::Status& status) {
  const std::optional<postgres::SqlError> error = postgres::GetSqlError(status);
  if (!error.has_value()) return {};
  const std::string_view state = error->sqlstate, kind = state.substr(0, 2);
  if (state == "42501" && resource.row_security)
    return {Error("", "forbidden", "the record would not be one you may write")};
  if (kind != "22" && kind != "23" && state != "P0001") return {};
  // Declared jobs are the catalog's, not the row's: what is wrong with them is a misconfiguration.
  if (error->message.starts_with("mainstay.enqueue")) return {};
  std::string_view code = "rule_violation", detail = "a rule of the database forbids this value";
  if (state == "P0001") detail = kRaised;
  if (state == "23505" || state == "23P01") code = "unique", detail = "another record has the same value";
  if (state == "23503" || state == "23001") {
    const bool removing = state == "23001" || error->message.starts_with("update or delete");
    code = removing ? "still_referenced" : "reference_not_found";
    detail = removing ? "other records point to this one" : "there is no such record";
  }
  if (state == "23502") code = "required", detail = "may not be null";
  if (state == "22001") code = "too_long", detail = "the text is too long";
  if (state == "22003" || state == "22008") code = "out_of_range", detail = "the value is out of range";
  if (state == "22P02" || state == "22007" || state == "22023" || state == "22000")
    code = "invalid_type", detail = "the value does not fit the field's type";
  if (state == "22021" || state == "22P05")
    code = "invalid_characters", detail = "the text has characters that can't be stored";
  std::vector<FieldError> out;
  const auto name = [&](int position) {
    const Field& field = resource.fields[position];
    if (!field.hidden && position != resource.tenant) out.push_back(Error(field.name, code, detail));
  };
  // The names are those of another table when a trigger or a cascade was refused there.
  if (error->table.empty() || error->table == resource.table) {
    if (const auto it = resource.constraints.find(error->constraint); it != resource.constraints.end())
      for (int position : it->second) name(position);
    if (out.empty() && !error->column.empty())
      for (const Field& field : resource.fields)
        if (field.column == error->column) name(field.position);
  }
  if (out.empty()) out.push_back(Error("", code, detail));
  return out;
}

awaitable<absl::StatusOr<MergeOutcome>> RunMerge(Runner& runner, const Resource& resource, const catalog::Model& model,
                                                 const CallContext& context, AccessPtr access, const MergeRows& rows,
                                                 const MergeOptions& options, const MergeExtra& extra) {
  MergeRun run(runner, resource, model, context, std::move(access), rows, options, extra);
  absl::StatusOr<MergeOutcome> outcome = co_await run.Run();
  co_return outcome;
}

absl::StatusOr<MergeResult> Merge(pqxx::transaction_base& tx, const Resource& resource, const catalog::Model& model,
                                  const CallContext& context, const MergeRows& rows, const MergeOptions& options) {
  const std::unique_ptr<Runner> runner = OnTransaction(tx);
  const MergeExtra extra;
  const absl::Status claimed = SetClaims(tx, model, context);
  if (!claimed.ok()) return claimed;
  AccessPtr access = MakeAccess(model, resource, context.principal.roles);
  absl::StatusOr<MergeOutcome> outcome =
      RunBlocking(RunMerge(*runner, resource, model, context, std::move(access), rows, options, extra));
  if (!outcome.ok()) return outcome.status();
  return std::move(outcome->result);
}

}  // namespace mainstay::records
