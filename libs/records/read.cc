// SPDX-License-Identifier: Apache-2.0
#include "libs/records/read.h"

#include <unordered_map>

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
  if (level.columns.version < 0) return {};
  return level.rows->Get(row, level.first_column + level.columns.version);
}

awaitable<absl::Status> FetchRelated(Runner& runner, const catalog::Model& model, const CallContext& context,
                                     Level& level) {
  const Resource& resource = *level.query->resource;
  for (const Expansion& expansion : level.query->expansions) {
    Related related;
    related.level = std::make_unique<Level>(*expansion.query);
    related.level->first_column = 1;
    const std::vector<int> ours = FieldsOfColumns(resource, expansion.relation->columns);
    if (ours.empty())
      co_return absl::InternalError(StrCat("the relation ", expansion.name, " starts from a column that is no field"));
    const int n = level.rows->rows();
    related.group.assign(static_cast<size_t>(n), -1);
    std::vector<PgArray> arrays(ours.size());
    std::unordered_map<std::string, int> seen;
    std::string key;
    for (int row = 0; row < n; ++row) {
      key.clear();
      bool whole = true;
      for (int position : ours) {
        const int column = level.first_column + level.columns.at[position];
        if (level.rows->IsNull(row, column)) {
          whole = false;
          break;
        }
        const std::string_view text = level.rows->Get(row, column);
        if (ours.size() > 1) StrAppend(&key, text.size(), ":");
        key.append(text);
      }
      if (!whole) continue;
      const auto [it, fresh] = seen.emplace(key, static_cast<int>(seen.size()));
      related.group[static_cast<size_t>(row)] = it->second;
      if (!fresh) continue;
      for (size_t i = 0; i < ours.size(); ++i)
        arrays[i].Add(level.rows->Get(row, level.first_column + level.columns.at[ours[i]]));
    }
    related.groups.assign(seen.size(), {0, 0});
    // Also for no parents at all: the number of statements says nothing about the data.
    std::vector<std::string> keys;
    for (PgArray& array : arrays) keys.push_back(std::move(array).Finish());
    SqlBuilder sql(context);
    BuildRelated(sql, resource, expansion, related.level->columns, std::move(keys));
    absl::StatusOr<RowsPtr> rows = co_await runner.Run(std::move(sql.text), std::move(sql.params));
    if (!rows.ok()) co_return ReadFailure(rows.status());
    related.level->rows = *std::move(rows);
    const Rows& found = *related.level->rows;
    for (int row = 0; row < found.rows(); ++row) {
      int ordinal = 0;
      for (char c : found.Get(row, 0)) ordinal = ordinal * 10 + (c - '0');
      auto& [first, count] = related.groups[static_cast<size_t>(ordinal - 1)];
      if (count++ == 0) first = row;
    }
    const absl::Status below = co_await FetchRelated(runner, model, context, *related.level);
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
                                                               const ListQuery& query, ReadOptions options) {
  const bool timed = options.exact_count_time > absl::ZeroDuration();
  if (timed) {
    const absl::StatusOr<RowsPtr> set = co_await runner.Run(
        StrCat("SET LOCAL statement_timeout = ", absl::ToInt64Milliseconds(options.exact_count_time)), {});
    if (!set.ok()) co_return set.status();
  }
  SqlBuilder sql(context);
  BuildCount(sql, query, options.exact_count_cap);
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
                                                const ListQuery& query, ReadOptions options) {
  PageOfRows out;
  out.level = std::make_unique<Level>(query);
  const CursorBinding binding = BindCursor(options.cursor_key, model, query, context, options.now, options.cursor_life);
  std::optional<Position> position;
  if (!query.cursor.empty()) {
    CO_ASSIGN_OR_RETURN(position, OpenCursor(binding, query.cursor, query.sort.size()));
  }
  SqlBuilder sql(context);
  BuildPage(sql, query, out.level->columns, position.has_value() ? &*position : nullptr, true);
  absl::StatusOr<RowsPtr> rows = absl::InternalError("");
  if (options.planned_anew) {
    rows = co_await runner.RunAnew(std::move(sql.text), std::move(sql.params));
  } else {
    rows = co_await runner.Run(std::move(sql.text), std::move(sql.params));
  }
  if (!rows.ok()) co_return ReadFailure(rows.status());
  out.level->rows = *std::move(rows);
  const Rows& found = *out.level->rows;
  const bool more = found.rows() > query.limit;
  const int n = more ? query.limit : found.rows();
  const bool backward = position.has_value() && position->backward;
  for (int i = 0; i < n; ++i) out.shown.push_back(backward ? n - 1 - i : i);

  out.page.set_limit(query.limit);
  const auto cursor = [&](int row, bool back) {
    Position at{.backward = back};
    for (const SortKey& key : query.sort) {
      const int column = out.level->columns.at[key.field];
      at.values.push_back(found.IsNull(row, column) ? std::nullopt
                                                    : std::optional<std::string>(found.Get(row, column)));
    }
    return SealCursor(binding, at);
  };
  // Walking back we came from behind, so there is more ahead.
  const bool ahead = backward ? n > 0 : more,
             behind = backward ? more : (position.has_value() || query.offset > 0) && n > 0;
  out.page.set_has_more(ahead);
  if (ahead && n > 0 && !query.sort.empty()) out.page.set_next_cursor(cursor(out.shown.back(), false));
  if (behind && n > 0 && !query.sort.empty()) out.page.set_prev_cursor(cursor(out.shown.front(), true));

  const absl::Status related = co_await FetchRelated(runner, model, context, *out.level);
  if (!related.ok()) co_return related;

  if (query.count == Count::kExact) {
    const int64_t seen = query.offset + n;
    CO_ASSIGN_OR_RETURN(const std::optional<int64_t> total, co_await CountExactly(runner, context, query, options));
    const bool capped = !total.has_value() || *total > options.exact_count_cap;
    out.page.set_total_kind(capped ? "capped" : "exact");
    out.page.set_total(total.has_value() ? std::min(*total, options.exact_count_cap) : seen);
  } else if (query.count == Count::kEstimated) {
    SqlBuilder estimate(context);
    BuildMatching(estimate, query);
    CO_ASSIGN_OR_RETURN(const double total,
                        co_await Explain(runner, std::move(estimate.text), std::move(estimate.params), "Plan Rows"));
    out.page.set_total(static_cast<int64_t>(total));
    out.page.set_total_kind("estimated");
  }
  co_return out;
}

void RenderPage(const common::v1::Page& page, bool counted, std::string& out) {
  StrAppend(&out, "{\"limit\":", page.limit(), ",\"has_more\":", page.has_more() ? "true" : "false",
            ",\"next_cursor\":");
  const auto cursor = [&](bool present, const std::string& text) {
    if (present) {
      StrAppend(&out, "\"", text, "\"");
    } else {
      out += "null";
    }
  };
  cursor(page.has_next_cursor(), page.next_cursor());
  out += ",\"prev_cursor\":";
  cursor(page.has_prev_cursor(), page.prev_cursor());
  if (counted) StrAppend(&out, ",\"total\":", page.total(), ",\"total_kind\":\"", page.total_kind(), "\"");
  out += '}';
}

void RenderRow(const Level& level, int row, std::string& out) {
  const ListQuery& query = *level.query;
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
    const int column = level.first_column + level.columns.at[static_cast<size_t>(position)];
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
    const int group = related.group[static_cast<size_t>(row)];
    const auto [start, count] = group < 0 ? std::pair<int, int>(0, 0) : related.groups[static_cast<size_t>(group)];
    if (expansion.relation->kind == Relation::Kind::kToOne) {
      if (count == 0) {
        out += "null";
      } else {
        RenderRow(*related.level, start, out);
      }
      continue;
    }
    const int limit = expansion.query->limit;
    out += "{\"data\":[";
    for (int i = 0; i < std::min(count, limit); ++i) {
      if (i > 0) out += ',';
      RenderRow(*related.level, start + i, out);
    }
    StrAppend(&out, "],\"page\":{\"limit\":", limit, ",\"has_more\":", count > limit ? "true" : "false",
              ",\"next_cursor\":null,\"prev_cursor\":null}}");
  }
  out += '}';
}

}  // namespace mainstay::records
