// SPDX-License-Identifier: Apache-2.0
#include "libs/records/read.h"

#include <algorithm>
#include <deque>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/postgres/errors.h"
#include "libs/records/cursor.h"
#include "libs/records/list.h"
#include "libs/records/value.h"

namespace mainstay::records {

using boost::asio::awaitable;
using catalog::Field;
using catalog::Relation;
using catalog::Resource;

absl::Status ReadFailure(absl::Status status) {
  const auto error = postgres::GetSqlError(status);
  if (!error.has_value()) return status;
  const std::string_view kind = std::string_view(error->sqlstate).substr(0, 2);
  if (kind != "22") return status;
  return MakeProblem("filter-invalid", "a value of the query does not fit its field");
}

std::string_view VersionOf(const Level& level, int row) {
  if (level.plan->columns.version < 0) return {};
  return level.rows->Get(row, level.plan->first_column + level.plan->columns.version);
}

namespace {

// The place of a row in its list.
Position At(const Level& level, int row, bool backward) {
  Position at{.backward = backward};
  for (const SortKey& key : level.plan->query->sort) {
    const int column = level.ColumnOf(key.field);
    at.values.push_back(level.rows->IsNull(row, column) ? std::nullopt
                                                        : std::optional<std::string>(level.rows->Get(row, column)));
  }
  return at;
}

// What was read of a list of `rows` rows, one of them perhaps beyond the limit.
struct Stretch {
  int shown;
  bool ahead, behind;  // whether the list goes on there
};
// `inside`: it was not read from its beginning. Walking back we came from behind, so there is more ahead.
Stretch StretchOf(int rows, int limit, bool backward, bool inside) {
  const int shown = std::min(rows, limit);
  const bool more = rows > limit;
  return {.shown = shown, .ahead = backward ? shown > 0 : more, .behind = backward ? more : inside && shown > 0};
}

// For how many requests lists that were long are not read together.
constexpr int kApart = 64;

// What a page is read for.
struct Asking {
  const catalog::Model& model;
  const CallContext& context;
  const Given& given;
  const ReadOptions& options;
};

// One relation of a level on its way: its parents' keys, what is sent, what comes of it.
class RelatedFetch {
 public:
  RelatedFetch(const Asking& asking, Level& above, size_t index)
      : asking_(asking),
        above_(above),
        expansion_(above.plan->query->expansions[index]),
        query_(*expansion_.query),
        plan_(above.plan->below[index]) {
    related_.level = std::make_unique<Level>(plan_);
  }

  absl::Status Begin() {
    const std::vector<int>& ours = plan_.parent_key;
    if (ours.empty())
      return absl::InternalError(StrCat("the relation ", expansion_.name, " starts from a column that is no field"));
    const Rows& rows = *above_.rows;
    const int n = above_.shown;
    related_.group.assign(static_cast<size_t>(n), -1);
    std::vector<PgArray> arrays(ours.size());
    seen_.reserve(static_cast<size_t>(n));
    const bool composite = ours.size() > 1;
    for (int row = 0; row < n; ++row) {
      if (std::any_of(ours.begin(), ours.end(), [&](int p) { return rows.IsNull(row, above_.ColumnOf(p)); })) continue;
      std::string_view key;
      if (composite) {
        std::string& made = composites_.emplace_back();
        for (int position : ours) AddPart(rows.Get(row, above_.ColumnOf(position)), made);
        key = made;
      } else {
        key = rows.Get(row, above_.ColumnOf(ours[0]));
      }
      const auto [it, fresh] = seen_.try_emplace(ToAbsl(key), static_cast<int>(seen_.size()));
      related_.group[static_cast<size_t>(row)] = it->second;
      if (!fresh) continue;
      for (size_t i = 0; i < ours.size(); ++i) arrays[i].Add(rows.Get(row, above_.ColumnOf(ours[i])));
    }
    related_.groups.resize(seen_.size());
    for (PgArray& array : arrays) keys_.push_back(std::move(array).Finish());
    together_ = plan_.together.has_value() && plan_.apart == 0;
    if (plan_.apart > 0) --plan_.apart;
    if (together_) keys_.push_back(StrCat(Most()));
    if (query_.cursor.empty()) return absl::OkStatus();
    // A list's cursor holds its parent's key before the place in it; a parent that is not shown here has none to go on.
    ASSIGN_OR_RETURN(Position position, OpenCursor(Binding(), query_.cursor, ours.size() + query_.sort.size()));
    std::string key;
    for (size_t i = 0; i < ours.size(); ++i) AddPart(position.values[i].value_or(""), key);
    position.values.erase(position.values.begin(), position.values.begin() + static_cast<std::ptrdiff_t>(ours.size()));
    if (const auto parent = seen_.find(key); parent != seen_.end()) {
      related_.groups[static_cast<size_t>(parent->second)].backward = position.backward;
      from_ = RelatedPosition{.parent = parent->second + 1, .only = seen_.size() == 1, .position = std::move(position)};
    }
    return absl::OkStatus();
  }

  // Also for no parents at all: the number of statements says nothing about the data.
  postgres::Statement Statement() const {
    const Values values{.context = asking_.context,
                        .given = &asking_.given,
                        .keys = keys_,
                        .position = from_.has_value() ? &from_->position : nullptr};
    if (plan_.rows.has_value()) {
      const Prepared& prepared = together_ ? *plan_.together : *plan_.rows;
      return {.sql = prepared.sql(), .params = prepared.Fill(values), .planned_anew = query_.filter.has_value()};
    }
    SqlBuilder sql(asking_.context);
    BuildRelated(sql, *above_.plan->query->resource, expansion_, plan_.columns, from_.has_value() ? &*from_ : nullptr);
    const Prepared prepared(std::move(sql), nullptr);
    return {.sql = prepared.sql(), .params = prepared.Fill(values), .planned_anew = true};
  }
  bool IsLast() const { return plan_.below.empty(); }

  absl::Status Take(RowsPtr rows) {
    related_.level->rows = std::move(rows);
    related_.level->shown = related_.level->rows->rows();
    if (together_ && related_.level->shown > Most() / 2) plan_.apart = kApart;
    RETURN_IF_ERROR(FindGroups());
    if (expansion_.relation->kind == Relation::Kind::kToOne || query_.sort.empty()) return absl::OkStatus();
    return SealCursors();
  }

  // Hands over what was read; the level to go on with.
  Level* Finish() {
    Level* const level = related_.level.get();
    above_.related.push_back(std::move(related_));
    return level;
  }

 private:
  void AddPart(std::string_view part, std::string& key) const {
    if (plan_.parent_key.size() > 1) StrAppend(&key, part.size(), ":");
    key.append(part);
  }

  // Rows of which something can be shown or told.
  int64_t Most() const { return static_cast<int64_t>(seen_.size()) * (query_.limit + 1); }

  const CursorBinding& Binding() {
    if (!binding_.has_value())
      binding_ = BindCursor(asking_.options.cursor_key, asking_.model, query_, asking_.given, asking_.context,
                            asking_.options.now, asking_.options.cursor_life);
    return *binding_;
  }

  // The rows of a parent stand beside each other.
  absl::Status FindGroups() {
    const Rows& found = *related_.level->rows;
    const int column = plan_.plain_key >= 0 ? related_.level->ColumnOf(plan_.plain_key) : 0;
    std::string_view last;
    Group* group = nullptr;
    for (int row = 0; row < found.rows(); ++row) {
      const std::string_view parent = found.Get(row, column);
      if (group == nullptr || parent != last) {
        size_t number = 0;
        if (plan_.plain_key >= 0) {
          const auto it = seen_.find(ToAbsl(parent));
          if (it == seen_.end())
            return absl::InternalError(StrCat("a row of ", expansion_.name, " that no one asked for"));
          number = static_cast<size_t>(it->second);
        } else {
          for (char c : parent) number = number * 10 + static_cast<size_t>(c - '0');
          --number;
        }
        group = &related_.groups[number];
        group->first = row;
        last = parent;
      }
      ++group->rows;
    }
    return absl::OkStatus();
  }

  absl::Status SealCursors() {
    const std::vector<int>& ours = plan_.parent_key;
    for (int row = 0; row < above_.shown; ++row) {
      const int number = related_.group[static_cast<size_t>(row)];
      if (number < 0) continue;
      Group& group = related_.groups[static_cast<size_t>(number)];
      const bool inside = from_.has_value() && from_->parent == number + 1;
      const Stretch stretch = StretchOf(group.rows, query_.limit, group.backward, inside);
      const auto cursor = [&](bool back) {
        const bool first = back != group.backward;  // of the rows as they were read
        Position at = At(*related_.level, group.first + (first ? 0 : stretch.shown - 1), back);
        std::vector<std::optional<std::string>> parent;
        for (int position : ours) parent.emplace_back(above_.rows->Get(row, above_.ColumnOf(position)));
        at.values.insert(at.values.begin(), parent.begin(), parent.end());
        return SealCursor(Binding(), at);
      };
      if (stretch.ahead && group.next_cursor.empty()) {
        ASSIGN_OR_RETURN(group.next_cursor, cursor(false));
      }
      if (stretch.behind && group.prev_cursor.empty()) {
        ASSIGN_OR_RETURN(group.prev_cursor, cursor(true));
      }
    }
    return absl::OkStatus();
  }

  const Asking& asking_;
  Level& above_;
  const Expansion& expansion_;
  const ListQuery& query_;
  const LevelPlan& plan_;
  Related related_;
  absl::flat_hash_map<absl::string_view, int> seen_;  // parents' keys, in the rows above or here: which group
  std::deque<std::string> composites_;
  std::vector<std::string> keys_;
  std::optional<RelatedPosition> from_;
  std::optional<CursorBinding> binding_;
  bool together_ = false;
};

}  // namespace

awaitable<absl::Status> FetchRelated(Runner& runner, const catalog::Model& model, const CallContext& context,
                                     const Given& given, Level& level, ReadOptions options) {
  const Asking asking{.model = model, .context = context, .given = given, .options = options};
  // One round trip for all relations of a depth.
  for (std::vector<Level*> levels = {&level}; !levels.empty();) {
    std::vector<RelatedFetch> fetches;
    for (Level* above : levels)
      for (size_t i = 0; i < above->plan->below.size(); ++i) fetches.emplace_back(asking, *above, i);
    if (fetches.empty()) break;
    std::vector<postgres::Statement> statements;
    for (RelatedFetch& fetch : fetches) {
      CO_RETURN_IF_ERROR(fetch.Begin());
      statements.push_back(fetch.Statement());
    }
    const bool last =
        std::all_of(fetches.begin(), fetches.end(), [](const RelatedFetch& fetch) { return fetch.IsLast(); });
    if (options.nothing_follows && last) runner.End();
    absl::StatusOr<std::vector<RowsPtr>> rows = co_await runner.RunAll(std::move(statements));
    if (!rows.ok()) co_return ReadFailure(rows.status());
    levels.clear();
    for (size_t i = 0; i < fetches.size(); ++i) {
      CO_RETURN_IF_ERROR(fetches[i].Take(std::move((*rows)[i])));
      levels.push_back(fetches[i].Finish());
    }
  }
  co_return absl::OkStatus();
}

awaitable<absl::StatusOr<double>> Explain(Runner& runner, std::string sql, postgres::Params params,
                                          std::string_view figure) {
  absl::StatusOr<RowsPtr> explained = co_await runner.RunAnew(StrCat("EXPLAIN (FORMAT JSON) ", sql), std::move(params));
  if (!explained.ok()) co_return ReadFailure(explained.status());
  const auto plan = JsonDocument::Parse(std::string((*explained)->Get(0, 0)), JsonLimits{.depth = 200});
  const JsonValue* top = plan.ok() && plan->root().is_array() && !plan->root().items().empty()
                             ? plan->root().items()[0].Find("Plan")
                             : nullptr;
  const JsonValue* found = top == nullptr ? nullptr : top->Find(figure);
  double value = 0;
  if (found == nullptr || !found->is_number() || !absl::SimpleAtod(ToAbsl(found->text()), &value))
    co_return absl::InternalError(StrCat("a plan without ", figure));
  co_return value;
}

namespace {
// Nothing: it took too long, and the transaction is of no more use.
awaitable<absl::StatusOr<std::optional<int64_t>>> CountExactly(Runner& runner, const CallContext& context,
                                                               const ListQuery& query, const Given& given,
                                                               ReadOptions options) {
  const bool timed = options.exact_count_time > absl::ZeroDuration();
  if (timed) {
    const absl::StatusOr<RowsPtr> set = co_await runner.Run(
        StrCat("SET LOCAL statement_timeout = ", absl::ToInt64Milliseconds(options.exact_count_time)), {});
    if (!set.ok()) co_return set.status();
  }
  SqlBuilder sql(context);
  BuildCount(sql, query, options.exact_count_cap);
  sql.Fill({.context = context, .given = &given});
  const absl::StatusOr<RowsPtr> counted = co_await runner.RunAnew(std::move(sql.text), std::move(sql.params));
  if (!counted.ok()) {
    const auto error = postgres::GetSqlError(counted.status());
    if (timed && error.has_value() && error->sqlstate == "57014") co_return std::nullopt;
    co_return ReadFailure(counted.status());
  }
  co_return std::stoll(std::string((*counted)->Get(0, 0)));
}
}  // namespace

awaitable<absl::StatusOr<PageOfRows>> FetchPage(Runner& runner, const catalog::Model& model, const CallContext& context,
                                                ReadPlan& plan, const Given& given, ReadOptions options) {
  const ListQuery& query = plan.query();
  PageOfRows out;
  out.level = std::make_unique<Level>(plan.level());
  const CursorBinding binding =
      BindCursor(options.cursor_key, model, query, given, context, options.now, options.cursor_life);
  std::optional<Position> position;
  if (!given.cursor.empty()) {
    CO_ASSIGN_OR_RETURN(position, OpenCursor(binding, given.cursor, query.sort.size()));
  }
  const Prepared& page = position.has_value() ? plan.PageFrom(*position, context) : plan.rows();
  postgres::Statement statement{
      .sql = page.sql(),
      .params = page.Fill(
          {.context = context, .given = &given, .keys = {}, .position = position.has_value() ? &*position : nullptr}),
      .planned_anew = !plan.cheap()};
  absl::StatusOr<RowsPtr> rows = co_await runner.Run(std::move(statement));
  if (!rows.ok()) co_return ReadFailure(rows.status());
  out.level->rows = *std::move(rows);
  const Rows& found = *out.level->rows;
  const bool backward = position.has_value() && position->backward;
  const Stretch stretch = StretchOf(found.rows(), query.limit, backward, position.has_value() || query.offset > 0);
  const int n = out.level->shown = stretch.shown;
  for (int i = 0; i < n; ++i) out.shown.push_back(backward ? n - 1 - i : i);

  out.page.set_limit(query.limit);
  out.page.set_has_more(stretch.ahead);
  if (n > 0 && !query.sort.empty()) {
    if (stretch.ahead) {
      CO_ASSIGN_OR_RETURN(*out.page.mutable_next_cursor(),
                          SealCursor(binding, At(*out.level, out.shown.back(), false)));
    }
    if (stretch.behind) {
      CO_ASSIGN_OR_RETURN(*out.page.mutable_prev_cursor(),
                          SealCursor(binding, At(*out.level, out.shown.front(), true)));
    }
  }

  options.nothing_follows = query.count == Count::kNone;
  const absl::Status related = co_await FetchRelated(runner, model, context, given, *out.level, options);
  if (!related.ok()) co_return related;

  if (query.count == Count::kExact) {
    const int64_t seen = query.offset + n;
    CO_ASSIGN_OR_RETURN(const std::optional<int64_t> total,
                        co_await CountExactly(runner, context, query, given, options));
    const bool capped = !total.has_value() || *total > options.exact_count_cap;
    out.page.set_total_kind(capped ? "capped" : "exact");
    out.page.set_total(total.has_value() ? std::min(*total, options.exact_count_cap) : seen);
  } else if (query.count == Count::kEstimated) {
    SqlBuilder estimate(context);
    BuildMatching(estimate, query);
    estimate.Fill({.context = context, .given = &given});
    CO_ASSIGN_OR_RETURN(const double total,
                        co_await Explain(runner, std::move(estimate.text), std::move(estimate.params), "Plan Rows"));
    out.page.set_total(static_cast<int64_t>(total));
    out.page.set_total_kind("estimated");
  }
  co_return out;
}

namespace {
// Without the closing brace. Empty cursors are none.
void AppendPlace(int limit, bool more, std::string_view next, std::string_view prev, std::string& out) {
  StrAppend(&out, "{\"limit\":", limit, ",\"has_more\":", more ? "true" : "false");
  const auto cursor = [&](std::string_view name, std::string_view text) {
    const std::string_view quote = text.empty() ? "" : "\"";
    StrAppend(&out, ",\"", name, "\":", quote, text.empty() ? "null" : text, quote);
  };
  cursor("next_cursor", next);
  cursor("prev_cursor", prev);
}
}  // namespace

void RenderPage(const common::v1::Page& page, bool counted, std::string& out) {
  AppendPlace(page.limit(), page.has_more(), page.next_cursor(), page.prev_cursor(), out);
  if (counted) StrAppend(&out, ",\"total\":", page.total(), ",\"total_kind\":\"", page.total_kind(), "\"");
  out += '}';
}

void RenderRow(const Level& level, int row, std::string& out) {
  const ListQuery& query = *level.plan->query;
  const Resource& resource = *query.resource;
  auto lead = level.plan->leads.begin();
  if (lead == level.plan->leads.end()) out += '{';
  for (int position : query.output) {
    const Field& field = resource.fields[static_cast<size_t>(position)];
    out += *lead++;
    const int column = level.ColumnOf(position);
    const std::string_view text = level.rows->Get(row, column);
    if (text.empty() && level.rows->IsNull(row, column)) {
      out += "null";
    } else {
      AppendJsonValue(field.type, text, out);
    }
  }
  for (size_t e = 0; e < level.related.size(); ++e) {
    const Expansion& expansion = query.expansions[e];
    const Related& related = level.related[e];
    out += *lead++;
    static const Group kNobody;
    const int number = related.group[static_cast<size_t>(row)];
    const Group& group = number < 0 ? kNobody : related.groups[static_cast<size_t>(number)];
    if (expansion.relation->kind == Relation::Kind::kToOne) {
      if (group.rows == 0) {
        out += "null";
      } else {
        RenderRow(*related.level, group.first, out);
      }
      continue;
    }
    const int limit = expansion.query->limit;
    const Stretch stretch = StretchOf(group.rows, limit, group.backward, /*inside=*/false);
    out += "{\"data\":[";
    for (int i = 0; i < stretch.shown; ++i) {
      if (i > 0) out += ',';
      RenderRow(*related.level, group.first + (group.backward ? stretch.shown - 1 - i : i), out);
    }
    out += "],\"page\":";
    AppendPlace(limit, stretch.ahead, group.next_cursor, group.prev_cursor, out);
    out += "}}";
  }
  out += '}';
}

}  // namespace mainstay::records
