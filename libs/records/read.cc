// SPDX-License-Identifier: Apache-2.0
#include "libs/records/read.h"

#include <algorithm>

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

}  // namespace

awaitable<absl::Status> FetchRelated(Runner& runner, const catalog::Model& model, const CallContext& context,
                                     const Given& given, Level& level, ReadOptions options) {
  const ListQuery& above = *level.plan->query;
  for (size_t e = 0; e < above.expansions.size(); ++e) {
    const Expansion& expansion = above.expansions[e];
    const LevelPlan& plan = level.plan->below[e];
    const std::vector<int>& ours = plan.parent_key;
    Related related;
    related.level = std::make_unique<Level>(plan);
    if (ours.empty())
      co_return absl::InternalError(StrCat("the relation ", expansion.name, " starts from a column that is no field"));
    const int n = level.rows->rows();
    related.group.assign(static_cast<size_t>(n), -1);
    std::vector<PgArray> arrays(ours.size());
    absl::flat_hash_map<std::string, int> seen;
    seen.reserve(static_cast<size_t>(n));
    std::string key;
    const auto add = [&](std::string_view part) {
      if (ours.size() > 1) StrAppend(&key, part.size(), ":");
      key.append(part);
    };
    for (int row = 0; row < n; ++row) {
      key.clear();
      if (std::any_of(ours.begin(), ours.end(), [&](int p) { return level.rows->IsNull(row, level.ColumnOf(p)); }))
        continue;
      for (int position : ours) add(level.rows->Get(row, level.ColumnOf(position)));
      const auto [it, fresh] = seen.try_emplace(key, static_cast<int>(seen.size()));
      related.group[static_cast<size_t>(row)] = it->second;
      if (!fresh) continue;
      for (size_t i = 0; i < ours.size(); ++i) arrays[i].Add(level.rows->Get(row, level.ColumnOf(ours[i])));
    }
    related.groups.resize(seen.size());
    // A list's cursor holds its parent's key before the place in it; a parent that is not shown here has none to go on.
    const ListQuery& query = *expansion.query;
    const bool list = expansion.relation->kind != Relation::Kind::kToOne;
    std::optional<CursorBinding> binding;
    const auto bind = [&]() -> const CursorBinding& {
      if (!binding.has_value())
        binding = BindCursor(options.cursor_key, model, query, given, context, options.now, options.cursor_life);
      return *binding;
    };
    std::optional<RelatedPosition> from;
    if (!query.cursor.empty()) {
      CO_ASSIGN_OR_RETURN(Position position, OpenCursor(bind(), query.cursor, ours.size() + query.sort.size()));
      key.clear();
      for (size_t i = 0; i < ours.size(); ++i) add(position.values[i].value_or(""));
      position.values.erase(position.values.begin(),
                            position.values.begin() + static_cast<std::ptrdiff_t>(ours.size()));
      if (const auto parent = seen.find(key); parent != seen.end()) {
        related.groups[static_cast<size_t>(parent->second)].backward = position.backward;
        from = RelatedPosition{.parent = parent->second + 1, .only = seen.size() == 1, .position = std::move(position)};
      }
    }
    // Also for no parents at all: the number of statements says nothing about the data.
    std::vector<std::string> keys;
    for (PgArray& array : arrays) keys.push_back(std::move(array).Finish());
    const Values values{.context = context, .given = &given, .keys = keys, .position = nullptr};
    absl::StatusOr<RowsPtr> rows = absl::InternalError("");
    if (plan.rows.has_value()) {
      postgres::Statement statement{.sql = plan.rows->sql(), .params = plan.rows->Fill(values)};
      rows = co_await runner.Run(std::move(statement));
    } else {
      SqlBuilder sql(context);
      BuildRelated(sql, *above.resource, expansion, plan.columns, from.has_value() ? &*from : nullptr);
      sql.Fill({.context = context,
                .given = &given,
                .keys = keys,
                .position = from.has_value() ? &from->position : nullptr});
      rows = co_await runner.Run(std::move(sql.text), std::move(sql.params));
    }
    if (!rows.ok()) co_return ReadFailure(rows.status());
    related.level->rows = *std::move(rows);
    const Rows& found = *related.level->rows;
    for (int row = 0; row < found.rows(); ++row) {
      size_t number = 0;
      if (plan.plain_key >= 0) {
        number = static_cast<size_t>(seen.at(ToAbsl(found.Get(row, related.level->ColumnOf(plan.plain_key)))));
      } else {
        for (char c : found.Get(row, 0)) number = number * 10 + static_cast<size_t>(c - '0');
        --number;
      }
      Group& group = related.groups[number];
      if (group.rows++ == 0) group.first = row;
    }
    for (int row = 0; list && !query.sort.empty() && row < n; ++row) {
      const int number = related.group[static_cast<size_t>(row)];
      if (number < 0) continue;
      Group& group = related.groups[static_cast<size_t>(number)];
      const bool inside = from.has_value() && from->parent == number + 1;
      const Stretch stretch = StretchOf(group.rows, query.limit, group.backward, inside);
      const auto cursor = [&](bool back) {
        const bool first = back != group.backward;  // of the rows as they were read
        Position at = At(*related.level, group.first + (first ? 0 : stretch.shown - 1), back);
        std::vector<std::optional<std::string>> parent;
        for (int position : ours) parent.emplace_back(level.rows->Get(row, level.ColumnOf(position)));
        at.values.insert(at.values.begin(), parent.begin(), parent.end());
        return SealCursor(bind(), at);
      };
      if (stretch.ahead && group.next_cursor.empty()) {
        CO_ASSIGN_OR_RETURN(group.next_cursor, cursor(false));
      }
      if (stretch.behind && group.prev_cursor.empty()) {
        CO_ASSIGN_OR_RETURN(group.prev_cursor, cursor(true));
      }
    }
    const absl::Status below = co_await FetchRelated(runner, model, context, given, *related.level, options);
    if (!below.ok()) co_return below;
    level.related.push_back(std::move(related));
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
  const int n = stretch.shown;
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
  out += '{';
  bool first = true;
  for (int position : query.output) {
    const Field& field = resource.fields[static_cast<size_t>(position)];
    if (!first) out += ',';
    first = false;
    out += '"';
    out += field.name;  // [a-z0-9_] only
    out += "\":";
    const int column = level.ColumnOf(position);
    if (level.rows->IsNull(row, column)) {
      out += "null";
    } else {
      AppendJsonValue(field.type, level.rows->Get(row, column), out);
    }
  }
  for (size_t e = 0; e < level.related.size(); ++e) {
    const Expansion& expansion = query.expansions[e];
    const Related& related = level.related[e];
    if (!first) out += ',';
    first = false;
    StrAppend(&out, "\"", expansion.name, "\":");
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
