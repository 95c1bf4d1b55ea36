// SPDX-License-Identifier: Apache-2.0
#include "libs/records/read_plan.h"

#include <algorithm>

#include "libs/base/strings.h"
#include "libs/records/cost.h"
#include "libs/records/cursor.h"

namespace mainstay::records {
namespace {

constexpr int kCursor = -1;

void AddRelations(LevelPlan& level, const CallContext& context, SqlCache* cache) {
  const catalog::Resource& resource = *level.query->resource;
  for (const Expansion& expansion : level.query->expansions) {
    LevelPlan& below = level.below.emplace_back(*expansion.query, /*versions=*/false);
    below.parent_key = FieldsOfColumns(resource, expansion.relation->columns);
    below.plain_key = PlainKey(resource, expansion);
    if (below.plain_key >= 0) {
      below.columns.Add(below.plain_key);
    } else {
      below.first_column = 1;
    }
    if (expansion.query->cursor.empty() && !below.parent_key.empty()) {
      SqlBuilder sql(context);
      BuildRelated(sql, resource, expansion, below.columns);
      below.rows.emplace(std::move(sql), cache);
      if (expansion.relation->kind == catalog::Relation::Kind::kToMany && below.plain_key >= 0) {
        SqlBuilder together(context);
        BuildTogether(together, resource, expansion, below.columns);
        below.together.emplace(std::move(together), cache);
      }
    }
    AddRelations(below, context, cache);
  }
}

bool IsReusable(const LevelPlan& level) {
  return std::all_of(level.below.begin(), level.below.end(), [](const LevelPlan& below) {
    return below.rows.has_value() && below.rows->reusable() && IsReusable(below);
  });
}

}  // namespace

LevelPlan::LevelPlan(const ListQuery& q, bool versions) : query(&q), columns(ColumnsOf(q, versions)) {
  const auto lead = [&](std::string_view name) {
    leads.push_back(StrCat(leads.empty() ? "{" : ",", "\"", name, "\":"));  // [a-z0-9_] only
  };
  for (int position : q.output) lead(q.resource->fields[static_cast<size_t>(position)].name);
  for (const Expansion& expansion : q.expansions) lead(expansion.name);
}

ReadPlan::ReadPlan(Of what, std::unique_ptr<ListQuery> query, const CallContext& context, bool versions,
                   std::shared_ptr<SqlCache> cache)
    : query_(std::move(query)),
      cache_(std::move(cache)),
      cost_(Score(*query_)),
      cheap_(IsCheap(*query_, context.principal.tenant == kAllTenants)),
      lane_((cheap_ || what == Of::kRecord) && IsShort(*query_, cost_) ? postgres::Lane::kShort
                                                                       : postgres::Lane::kLong),
      level_(*query_, versions) {
  SqlBuilder sql(context);
  if (what == Of::kRecord) {
    BuildGet(sql, *query_, level_.columns);
  } else {
    BuildPage(sql, *query_, level_.columns, nullptr, /*limited=*/what == Of::kPage);
  }
  rows_ = Prepared(std::move(sql), cache_.get());
  AddRelations(level_, context, cache_.get());
}

const Prepared& ReadPlan::PageFrom(const Position& position, const CallContext& context) {
  std::vector<bool> nulls;
  for (const auto& value : position.values) nulls.push_back(!value.has_value());
  for (const Later& page : later_)
    if (page.backward == position.backward && page.nulls == nulls) return page.statement;
  SqlBuilder sql(context);
  BuildPage(sql, *query_, level_.columns, &position, true);
  return later_.emplace_back(Later{position.backward, std::move(nulls), Prepared(std::move(sql), cache_.get())})
      .statement;
}

bool ReadPlan::Take(const http::QueryForm& form) {
  slots_.clear();
  for (const auto& [sent, value] : form.values) {
    const std::optional<std::string> name = http::DecodeParameter(sent);
    if (name == "cursor") {
      slots_.push_back(kCursor);
      continue;
    }
    const std::vector<Argument>& arguments = query_->arguments;
    const auto it = std::find_if(arguments.begin(), arguments.end(),
                                 [&](const Argument& argument) { return argument.place == name; });
    if (it == arguments.end()) return false;
    slots_.push_back(static_cast<int>(it - arguments.begin()));
  }
  return rows_.reusable() && IsReusable(level_);
}

std::optional<Given> ReadPlan::ValuesOf(const http::QueryForm& form) const {
  Given given = query_->given;
  given.cursor.clear();
  for (size_t i = 0; i < slots_.size(); ++i) {
    std::optional<std::string> value = http::DecodeParameter(form.values[i].second);
    if (!value.has_value()) return std::nullopt;
    if (slots_[i] == kCursor) {
      if (value->empty() || value->size() > kMaxCursor) return std::nullopt;
      given.cursor = *std::move(value);
      continue;
    }
    const auto at = static_cast<size_t>(slots_[i]);
    const Argument& argument = query_->arguments[at];
    std::vector<std::string> values;
    if (argument.many) {
      values = http::SplitValues(*value);
      if (values.size() > static_cast<size_t>(http::ListQueryLimits().values)) return std::nullopt;
    } else {
      values.push_back(*std::move(value));
    }
    if (!GiveValues(argument, values, given.sent[at], given.bound[at], nullptr).ok()) return std::nullopt;
  }
  return given;
}

}  // namespace mainstay::records
