// SPDX-License-Identifier: Apache-2.0
#include "libs/records/cost.h"

#include <algorithm>
#include <set>

#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/records/plan.h"

namespace mainstay::records {
namespace {

using catalog::Field;
using catalog::IndexPart;
using catalog::Relation;
using catalog::Resource;

constexpr int64_t kScan = 1000;
constexpr int64_t kMost = 1'000'000'000'000;  // above every budget; nested limits multiply

// What must hold of a row, as far as an index can tell: fields with one value, fields within bounds.
struct Bounds {
  std::set<int> equal, ranges;
};

// False: there is more to check than that.
bool Gather(const Predicate& predicate, Bounds& bounds) {
  switch (predicate.kind) {
    case Predicate::Kind::kOr:
      if (predicate.children.size() != 1) return false;
      return Gather(predicate.children[0], bounds);
    case Predicate::Kind::kAnd:
      return std::all_of(predicate.children.begin(), predicate.children.end(),
                         [&](const Predicate& child) { return Gather(child, bounds); });
    case Predicate::Kind::kCondition:
      if (!predicate.json_path.empty()) return false;
      if (predicate.op == Op::kEq) {
        bounds.equal.insert(predicate.field);
        return true;
      }
      if (predicate.op == Op::kGt || predicate.op == Op::kGte || predicate.op == Op::kLt || predicate.op == Op::kLte) {
        bounds.ranges.insert(predicate.field);
        return true;
      }
      return false;
    case Predicate::Kind::kNot:
    case Predicate::Kind::kRelated:
      return false;
  }
  return false;
}

// The index begins with all fields that have one value, goes on with the sort keys as it stores them or all the other
// way round, and bounds lie on the first of these. All keys go one way: only then is a cursor one place in the index.
bool Serves(const std::vector<IndexPart>& index, const Bounds& bounds, const std::vector<SortKey>& sort) {
  size_t at = 0;
  while (at < index.size() && bounds.equal.contains(index[at].field)) ++at;
  if (at != bounds.equal.size()) return false;
  const SortKey* first = nullptr;
  bool backward = false;
  for (const SortKey& key : sort) {
    if (bounds.equal.contains(key.field)) continue;
    if (at == index.size() || index[at].field != key.field) return false;
    const IndexPart& part = index[at++];
    if (first == nullptr) {
      first = &key;
      backward = part.descending != key.descending;
    }
    if (key.descending != first->descending || (part.descending != key.descending) != backward) return false;
    if (key.nullable && (part.nulls_first != key.nulls_first) != backward) return false;
  }
  return std::all_of(bounds.ranges.begin(), bounds.ranges.end(), [&](int field) {
    return bounds.equal.contains(field) || (first != nullptr && field == first->field);
  });
}

bool IsSubset(const std::vector<int>& fields, const std::set<int>& of) {
  return !fields.empty() && std::all_of(fields.begin(), fields.end(), [&](int field) { return of.contains(field); });
}

bool LeadsIndex(const Resource& resource, int field) {
  return resource.fields[static_cast<size_t>(field)].indexed || (!resource.key.empty() && resource.key[0] == field);
}

// Of one condition on a row: whether an index finds its rows.
bool IsIndexed(const Resource& resource, const Predicate& predicate) {
  switch (predicate.op) {
    case Op::kEq:
    case Op::kIn:
    case Op::kGt:
    case Op::kGte:
    case Op::kLt:
    case Op::kLte:
      return predicate.json_path.empty() && LeadsIndex(resource, predicate.field);
    case Op::kSearch:
      return true;  // the catalog's author has declared it
    default:
      return false;
  }
}

void ScorePredicate(const Resource& resource, const Predicate& predicate, bool& scan, int64_t& score) {
  switch (predicate.kind) {
    case Predicate::Kind::kCondition:
      if (!IsIndexed(resource, predicate)) scan = true;
      return;
    case Predicate::Kind::kRelated: {
      score += kScan;
      bool inner = false;
      for (const Predicate& child : predicate.children) ScorePredicate(*predicate.target, child, inner, score);
      return;
    }
    case Predicate::Kind::kAnd:
    case Predicate::Kind::kOr:
    case Predicate::Kind::kNot:
      for (const Predicate& child : predicate.children) ScorePredicate(resource, child, scan, score);
      return;
  }
}

int64_t ScoreLevel(const ListQuery& query, int64_t parents, bool one_each) {
  const int64_t rows = std::min(kMost, parents * (one_each ? 1 : std::max(1, query.limit)));
  int64_t score = rows;
  bool scan = false;
  if (query.filter.has_value()) ScorePredicate(*query.resource, *query.filter, scan, score);
  if (!one_each && !query.sort.empty()) scan |= !LeadsIndex(*query.resource, query.sort[0].field);
  if (scan) score += kScan;
  for (const Expansion& expansion : query.expansions)
    score += ScoreLevel(*expansion.query, rows, expansion.relation->kind == Relation::Kind::kToOne);
  return std::min(kMost, score);
}

}  // namespace

bool IsCheap(const ListQuery& query, bool all_tenants) {
  const Resource& resource = *query.resource;
  if (query.offset != 0 || query.sort.empty() || query.deleted != Deleted::kHide || resource.view) return false;
  Bounds bounds;
  if (resource.tenant >= 0 && !all_tenants) bounds.equal.insert(resource.tenant);
  if (query.filter.has_value() && !Gather(*query.filter, bounds)) return false;
  const Predicate* rows = query.access->where(Action::kRead);
  if (rows != nullptr && !Gather(*rows, bounds)) return false;
  // At most one row.
  if (IsSubset(resource.key, bounds.equal)) return true;
  for (const std::vector<int>& unique : resource.unique_keys)
    if (IsSubset(unique, bounds.equal)) return true;
  // Rows marked as deleted are passed over: few, as long as deleting is the exception.
  return std::any_of(resource.ordered_indexes.begin(), resource.ordered_indexes.end(),
                     [&](const std::vector<IndexPart>& index) { return Serves(index, bounds, query.sort); });
}

namespace {
bool RelatedByIndex(const ListQuery& query) {
  return std::all_of(query.expansions.begin(), query.expansions.end(), [](const Expansion& expansion) {
    const Resource& target = *expansion.query->resource;
    const std::vector<int> columns = FieldsOfColumns(target, expansion.relation->target_columns);
    return expansion.relation->kind != Relation::Kind::kManyToMany && !columns.empty() &&
           LeadsIndex(target, columns[0]) && RelatedByIndex(*expansion.query);
  });
}
}  // namespace

bool IsShort(const ListQuery& query, int64_t score) {
  constexpr int64_t kMostRows = 5'000;
  return query.count == Count::kNone && score <= kMostRows && RelatedByIndex(query);
}

int64_t Score(const ListQuery& query) {
  return ScoreLevel(query, 1, false);
}

absl::Status CheckScore(int64_t score, int64_t limit) {
  if (score <= limit) return absl::OkStatus();
  return MakeProblem(Problem{.type = "query-too-expensive",
                             .detail = "ask for fewer rows or relations, or filter by indexed fields",
                             .members = {{"cost", StrCat(score)}, {"limit", StrCat(limit)}}});
}

}  // namespace mainstay::records
