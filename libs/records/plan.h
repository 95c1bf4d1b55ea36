// SPDX-License-Identifier: Apache-2.0
// Internal: resolved queries as SQL. Identifiers come from the catalog and are quoted; every value is a bind parameter.
//
// Each statement over a resource gets the caller's scope (Scope): the tenant, the rows its roles cover, and that
// deleted rows are gone. There is no other way here to name a table.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/postgres/async.h"
#include "libs/records/prepared.h"
#include "libs/records/query.h"

namespace mainstay::records {

// The text of one statement and its parameters, as they grow.
class SqlBuilder {
 public:
  explicit SqlBuilder(const CallContext& context) : context_(context) {}

  std::string text;
  postgres::Params params;
  // Which parameters are this request's: with these exchanged, the same text serves another caller with equal rights.
  std::vector<std::pair<int, Source>> sources;
  std::string row;       // alias of the row that {field} in a declared check stands for
  bool reusable = true;  // false: something of the principal went into the text or into a list

  // "$3::bigint"
  std::string Bind(std::optional<std::string> value, std::string_view cast);
  std::string Bind(std::optional<std::string> value, std::string_view cast, Source source);
  // The principal's tenant and subject, as text or as a column's type; each is bound once.
  std::string Tenant(const catalog::ColumnType* type = nullptr) { return OfPrincipal(Source::Kind::kTenant, type); }
  std::string Subject(const catalog::ColumnType* type = nullptr) { return OfPrincipal(Source::Kind::kSubject, type); }
  void Fill(const Values& values) { records::Fill(sources, values, params); }
  std::string NewAlias() { return "t" + std::to_string(aliases_++); }

  // Conditions, to be ANDed: "t0.\"tenant_id\" = $1::text AND …"; "true" when there is nothing to restrict.
  std::string Scope(const std::string& alias, const catalog::Resource& resource, const Predicate* rows,
                    Deleted deleted);
  std::string TenantIs(const std::string& alias,
                       const catalog::Resource& resource);  // "" for resources without or principals of all
  std::string Where(const std::string& alias, const catalog::Resource& resource, const Predicate& predicate);
  bool all_tenants() const { return context_.principal.tenant == kAllTenants; }

 private:
  std::string Condition(const std::string& alias, const catalog::Resource& resource, const Predicate& predicate);
  std::string Related(const std::string& alias, const catalog::Resource& resource, const Predicate& predicate);
  const std::string& TextOf(const Operand& operand) const;
  // The one operand of a condition.
  std::string Single(const Predicate& predicate, const catalog::ColumnType* type, const catalog::Resource& resource);
  std::string List(const Predicate& predicate, const catalog::ColumnType* type);
  std::string OfPrincipal(Source::Kind kind, const catalog::ColumnType* type);

  const CallContext& context_;
  int aliases_ = 0;
};

std::string Quote(std::string_view identifier);
std::string Literal(std::string_view text);
std::string TableOf(const catalog::Resource& resource);
std::string Column(const std::string& alias, const catalog::Field& field);

// Where each field stands in the result of a SELECT; -1: not selected.
struct Columns {
  std::vector<int> fields;  // in select order
  std::vector<int> at;      // by field position
  int version = -1;         // column of the row's version as text (the version field, or xmin of a table without one)
  int count = 0;
  explicit Columns(const catalog::Resource& resource) : at(resource.fields.size(), -1) {}
  void Add(int position) {
    if (at[position] >= 0) return;
    at[position] = static_cast<int>(fields.size());
    fields.push_back(position);
    count = static_cast<int>(fields.size());
  }
};
// Everything that a level of the answer needs: shown fields, key, sort keys, the columns its expansions start from.
// With the version when asked, which comes last.
Columns ColumnsOf(const ListQuery& query, bool version);
std::string SelectList(const std::string& alias, const catalog::Resource& resource, const Columns& columns);
std::string OrderBy(const std::string& alias, const catalog::Resource& resource, const std::vector<SortKey>& sort,
                    bool reverse);

// The rows behind the position, in the order of `sort` (or before it, when backward): one or two ranges of it, one
// after the other. NULLs of the first key are a range of their own, for no index reads both at once.
std::vector<std::string> After(SqlBuilder& sql, const std::string& alias, const catalog::Resource& resource,
                               const std::vector<SortKey>& sort, const Position& position);

// What every row of the answer must meet: the caller's scope and the query's filter.
std::string Conditions(SqlBuilder& sql, const std::string& alias, const ListQuery& query,
                       Action action = Action::kRead);
// A page of the top level: `limit` + 1 rows. Reversed when the position looks backward.
void BuildPage(SqlBuilder& sql, const ListQuery& query, const Columns& columns, const Position* position, bool limited);
// The same rows without order, for counting: "SELECT count(*) FROM (SELECT 1 FROM … LIMIT cap + 1) s".
void BuildCount(SqlBuilder& sql, const ListQuery& query, int64_t cap);
// And without a limit: to be explained, not run.
void BuildMatching(SqlBuilder& sql, const ListQuery& query);
// One parent's list, to be gone on with from a position.
struct RelatedPosition {
  int parent = 0;     // its ordinal, from 1
  bool only = false;  // there are no other parents
  Position position;
};
// The target's field by whose text a related row's parent is known again: both sides are integers, or both uuids. -1:
// there is none. One scan of the index then finds all rows, at two thirds of the cost of a join with the keys.
int PlainKey(const catalog::Resource& parent, const Expansion& expansion);
// The rows of one relation for many parents: keys as one array per column, to be filled in. Without a plain key the
// first column of the result is the parent's ordinal, from 1. The other parents' lists begin at their beginning.
void BuildRelated(SqlBuilder& sql, const catalog::Resource& parent, const Expansion& expansion, const Columns& columns,
                  const RelatedPosition* from = nullptr);
// The same of lists with a plain key, by one scan for all parents, at half the cost while there are no more rows than
// the number that follows the array of keys. If there are, each list is read for itself after all, in the same
// statement.
void BuildTogether(SqlBuilder& sql, const catalog::Resource& parent, const Expansion& expansion,
                   const Columns& columns);
// One row by its key.
void BuildGet(SqlBuilder& sql, const ListQuery& query, const Columns& columns);

// Many by their keys; the first column of the result is the key's ordinal, from 1.
void BuildGetMany(SqlBuilder& sql, const ListQuery& query, const Columns& columns,
                  const std::vector<std::vector<std::string>>& keys);

// The fields of `resource` over these columns of the table; empty when one is no field.
std::vector<int> FieldsOfColumns(const catalog::Resource& resource, const std::vector<std::string>& columns);

}  // namespace mainstay::records
