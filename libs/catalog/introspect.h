// SPDX-License-Identifier: Apache-2.0
// What PostgreSQL itself knows of the tables: columns and types, keys, foreign keys, indexes, defaults. Never said
// twice in the catalog.
//
// Read from pg_catalog in a constant number of statements, whatever the number of tables; needs no right on the tables
// themselves. The result is plain values: it does not follow later changes (watcher.h notices them by
// SchemaFingerprint).
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/catalog/model.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::catalog {

struct Column {
  std::string name;
  int number = 0;  // attnum
  ColumnType type;
  bool nullable = true;
  bool has_default = false;  // a default or an identity
  bool generated = false;    // generated always: stored expression, or identity always
  std::string collation_version;
  std::string comment;
};

struct Index {
  std::string name;
  std::vector<std::string> columns;  // leading plain columns, up to the first expression; included columns not counted
  bool unique = false;
  bool partial = false;
  bool whole = true;  // every key part is a plain column
  bool primary = false;
  std::string method;  // btree, hash, gin …
  // How it stores each of `columns`. Empty: in no order that a sort can use (no B-tree, or not the types' own order).
  struct Order {
    bool descending = false;
    bool nulls_first = false;
  };
  std::vector<Order> order;
};

struct ForeignKey {
  std::string name;
  std::vector<std::string> columns;
  std::string target_schema, target_table;
  std::vector<std::string> target_columns;
};

struct Constraint {
  std::string name;
  char kind = 'c';  // c check, p primary, u unique, f foreign key, x exclusion
  std::vector<std::string> columns;
};

struct Table {
  std::string schema, name;
  uint32_t oid = 0;
  char kind = 'r';            // relkind: r table, p partitioned, v view, m materialised view, f foreign table
  bool writable = true;       // false: a view that PostgreSQL can't write through, a materialised view
  bool partition = false;     // a part of a partitioned table
  bool row_security = false;  // policies decide what the services see
  int64_t estimated_rows = -1;
  std::string comment;
  std::vector<Column> columns;
  std::vector<std::string> primary_key;
  std::vector<Index> indexes;
  std::vector<ForeignKey> foreign_keys;
  std::vector<Constraint> constraints;
  std::vector<std::string> sequences;  // quoted names of the sequences its defaults draw from
  const Column* FindColumn(std::string_view column) const;
};

// What a query gives: names and types, the latter by their oids.
using QueryColumns = std::vector<std::pair<std::string, uint32_t>>;
using Described = std::map<std::string, QueryColumns>;  // by the query's name
// Where that is known from.
enum class QuerySource : uint8_t { kDatabase, kPublished };

struct Database {
  std::map<std::pair<std::string, std::string>, Table> tables;  // by schema and name
  std::vector<std::pair<std::string, std::string>>
      names;                      // every table and view outside the system's schemas: for "did you mean"
  std::string default_collation;  // name and version of the database's own
  std::vector<std::string> search_configurations;     // of full-text search, quoted: "pg_catalog"."english"
  Described described;                                // what the queries give
  std::map<std::string, std::string> broken_queries;  // by name: why PostgreSQL refuses them
  const Table* Find(std::string_view schema, std::string_view name) const;
};

// "shop.orders", "orders" (schema public), "shop.\"odd.name\"": as PostgreSQL stores the names, nothing is folded;
// quotes only where a name holds a dot or a quote.
absl::StatusOr<std::pair<std::string, std::string>> ParseTableName(std::string_view text);
// "shop"."orders": always quoted.
std::string QuoteName(std::string_view identifier);
std::string QuoteName(std::string_view schema, std::string_view name);

// Tables that do not exist are simply absent from the result. `queries`: SELECTs by name, which become views of that
// name in the schema "" with the columns they give; with any, `tx` must be a transaction block. `described`: the
// columns are known already, and PostgreSQL, which tells them only to those who may read what the query reads, is not
// asked.
absl::StatusOr<Database> Introspect(pqxx::transaction_base& tx, const std::vector<std::string>& tables,
                                    const std::map<std::string, std::string>& queries = {},
                                    const Described* described = nullptr);
// The tables and views that queries read, quoted; of those PostgreSQL accepts. `tx` is a transaction block that may
// write; nothing of it stays.
absl::StatusOr<std::vector<std::string>> TablesOfQueries(pqxx::transaction_base& tx,
                                                         const std::map<std::string, std::string>& queries);
// All tables and views of these schemas (empty: all but the system's and `mainstay`).
absl::StatusOr<Database> IntrospectSchemas(pqxx::transaction_base& tx, const std::vector<std::string>& schemas);

// Changes whenever something that Introspect reads may have changed for these; one statement, and one for each query.
absl::StatusOr<std::string> SchemaFingerprint(pqxx::transaction_base& tx, const std::vector<std::string>& tables,
                                              const std::map<std::string, std::string>& queries = {});

struct SystemResourceOptions {
  std::string name;                     // "jobs": of the resource, as the path /mainstay/v1/<name>
  std::string key = "id";               // column
  std::string tenant = "tenant";        // column; empty: not by tenant
  std::string default_sort = "-id";     // "-created_at,id"
  std::vector<std::string> filterable;  // columns; the key always is
  std::vector<std::string> sortable;    // columns; the key always is
  std::vector<std::string> hidden;      // columns
  int default_limit = 50, max_limit = 200;
  bool offset_allowed = false;
};
// A resource over one of the suite's own tables or views, for its lists. Read-only; every caller may read all its
// fields (scopes are checked before).
absl::StatusOr<Resource> SystemResource(pqxx::transaction_base& tx, std::string_view table,
                                        const SystemResourceOptions& options);

}  // namespace mainstay::catalog
