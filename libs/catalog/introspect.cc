// SPDX-License-Identifier: Apache-2.0
// A constant number of statements whatever the number of tables: classes, columns, types, enum labels, indexes and
// constraints, sequences, text search. No locks beyond those of a SELECT on pg_catalog.
#include "libs/catalog/introspect.h"

#include <algorithm>
#include <pqxx/pqxx>
#include <set>
#include <unordered_map>

#include "absl/strings/str_split.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/postgres/errors.h"

namespace mainstay::catalog {
namespace {

// What the statements below are about: $1 and $2 are the schemas and names of the tables, position by position.
constexpr char kClassesByName[] = R"sql(
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition, c.reltuples::bigint,
       pg_relation_is_updatable(c.oid, true) & 28 = 28 OR c.relkind IN ('r', 'p'), obj_description(c.oid, 'pg_class'), c.relrowsecurity
FROM unnest($1::text[], $2::text[]) AS wanted(s, t)
JOIN pg_namespace n ON n.nspname = wanted.s
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.t
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
GROUP BY c.oid, n.nspname, c.relname, c.relkind, c.relispartition, c.reltuples, c.relrowsecurity)sql";

constexpr char kClassesBySchema[] = R"sql(
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition, c.reltuples::bigint,
       pg_relation_is_updatable(c.oid, true) & 28 = 28 OR c.relkind IN ('r', 'p'), obj_description(c.oid, 'pg_class'), c.relrowsecurity
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND CASE WHEN $1::text[] = '{}' THEN n.nspname NOT IN ('information_schema', 'mainstay') AND n.nspname !~ '^pg_' ELSE n.nspname = ANY($1::text[]) END)sql";

constexpr char kNames[] = R"sql(
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('information_schema', 'mainstay') AND n.nspname !~ '^pg_'
ORDER BY 1, 2 LIMIT 10000)sql";

// $1 in all that follow: the tables' oids.
constexpr char kColumns[] = R"sql(
SELECT a.attrelid, a.attname, a.attnum, a.atttypid, a.atttypmod, a.attnotnull, a.atthasdef OR a.attidentity <> '', a.attgenerated <> '' OR a.attidentity = 'a',
       CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation THEN format('%I.%I', cn.nspname, co.collname) END,
       CASE WHEN a.attcollation <> 0 THEN pg_collation_actual_version(a.attcollation) END, col_description(a.attrelid, a.attnum)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation co ON co.oid = a.attcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum)sql";

// The types of the columns, and those they are made of: element types of arrays, base types of domains.
constexpr char kTypes[] = R"sql(
WITH RECURSIVE used(oid) AS (
  SELECT atttypid FROM pg_attribute WHERE attrelid = ANY($1::oid[]) AND attnum > 0 AND NOT attisdropped
  UNION
  SELECT u FROM unnest($2::oid[]) u
  UNION
  SELECT x.oid FROM used JOIN pg_type t ON t.oid = used.oid
  CROSS JOIN LATERAL (VALUES (CASE WHEN t.typcategory = 'A' THEN t.typelem END), (t.typbasetype)) AS x(oid) WHERE x.oid <> 0
)
SELECT t.oid, n.nspname, t.typname, t.typtype, t.typcategory, t.typelem, t.typbasetype, t.typtypmod, t.typnotnull, t.typdefault IS NOT NULL,
       CASE WHEN n.nspname = 'pg_catalog' THEN format_type(t.oid, -1) END
FROM used JOIN pg_type t ON t.oid = used.oid JOIN pg_namespace n ON n.oid = t.typnamespace)sql";

constexpr char kEnums[] = R"sql(
SELECT e.enumtypid, e.enumlabel FROM pg_enum e WHERE e.enumtypid = ANY($1::oid[]) ORDER BY e.enumtypid, e.enumsortorder)sql";

constexpr char kIndexes[] = R"sql(
SELECT i.indrelid, c.relname, i.indisunique, i.indpred IS NOT NULL, i.indisprimary, array_to_string(i.indkey::int2[], ' '), i.indnkeyatts, am.amname,
       am.amname = 'btree' AND NOT EXISTS (SELECT FROM unnest(i.indclass::oid[]) AS u JOIN pg_opclass oc ON oc.oid = u WHERE NOT oc.opcdefault),
       array_to_string(i.indoption::int2[], ' ')
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
WHERE i.indrelid = ANY($1::oid[]) AND i.indisvalid
ORDER BY i.indrelid, NOT i.indisprimary, c.relname)sql";

// A key towards a partitioned table is recorded once more for each of its parts: only the one that was declared counts.
constexpr char kConstraints[] = R"sql(
SELECT c.conrelid, c.conname, c.contype, array_to_string(c.conkey, ' '), fn.nspname, fc.relname,
       (SELECT string_agg(a.attname, E'\x01' ORDER BY k.position) FROM unnest(c.confkey) WITH ORDINALITY AS k(attnum, position)
        JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum)
FROM pg_constraint c LEFT JOIN pg_constraint parent ON parent.oid = c.conparentid
LEFT JOIN pg_class fc ON fc.oid = c.confrelid LEFT JOIN pg_namespace fn ON fn.oid = fc.relnamespace
WHERE c.conrelid = ANY($1::oid[]) AND (parent.oid IS NULL OR parent.conrelid <> c.conrelid)
ORDER BY c.conrelid, c.conname)sql";

// What the view mainstay_query reads.
constexpr char kViewed[] = R"sql(
SELECT DISTINCT format('"%s"."%s"', replace(n.nspname, '"', '""'), replace(c.relname, '"', '""'))
FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'v', 'm', 'f') JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.ev_class = 'pg_temp.mainstay_query'::regclass)sql";

constexpr char kSequences[] = R"sql(
SELECT DISTINCT d.adrelid, format('%I.%I', n.nspname, s.relname)
FROM pg_attrdef d JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass
JOIN pg_class s ON s.oid = p.refobjid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
WHERE d.adrelid = ANY($1::oid[]))sql";

constexpr char kSearch[] = R"sql(
SELECT format('"%s"."%s"', replace(n.nspname, '"', '""'), replace(c.cfgname, '"', '""')) FROM pg_ts_config c JOIN pg_namespace n ON n.oid = c.cfgnamespace ORDER BY 1)sql";

constexpr char kDatabase[] = R"sql(
SELECT concat_ws(' ', datcollate, datctype, coalesce(daticulocale, ''), pg_database_collation_actual_version(oid)) FROM pg_database WHERE datname = current_database())sql";

constexpr char kFingerprint[] = R"sql(
WITH t AS (
  SELECT c.oid, n.nspname, c.relname, c.relkind FROM unnest($1::text[], $2::text[]) AS wanted(s, t)
  JOIN pg_namespace n ON n.nspname = wanted.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.t)
SELECT md5(concat_ws(';',
  (SELECT string_agg(concat_ws(' ', nspname, relname, oid, relkind), ',' ORDER BY oid) FROM t),
  (SELECT string_agg(concat_ws(' ', attrelid, attnum, attname, atttypid, atttypmod, attnotnull, atthasdef, attgenerated, attidentity, attcollation), ',' ORDER BY attrelid, attnum)
   FROM pg_attribute WHERE attrelid IN (SELECT oid FROM t) AND attnum > 0 AND NOT attisdropped),
  (SELECT string_agg(concat_ws(' ', i.indexrelid, c.relname, i.indkey::text, i.indisunique, i.indisprimary, i.indisvalid), ',' ORDER BY i.indexrelid)
   FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid IN (SELECT oid FROM t)),
  (SELECT string_agg(concat_ws(' ', c.oid, c.conname, c.conkey::text), ',' ORDER BY c.oid) FROM pg_constraint c WHERE c.conrelid IN (SELECT oid FROM t)),
  (SELECT string_agg(concat_ws(' ', enumtypid, enumsortorder, enumlabel), ',' ORDER BY enumtypid, enumsortorder) FROM pg_enum),
  (SELECT string_agg(concat_ws(' ', oid, typnotnull, typbasetype, typtypmod), ',' ORDER BY oid) FROM pg_type WHERE typtype = 'd' AND typnamespace <> 'information_schema'::regnamespace)
)))sql";

struct Type {
  std::string schema, name, builtin;
  char kind = 'b', category = 'X';
  uint32_t element = 0, base = 0;
  int modifier = -1;
  bool not_null = false, has_default = false;
  std::vector<std::string> labels;
};

TypeFamily FamilyOf(const Type& type) {
  static const std::unordered_map<std::string_view, TypeFamily> kFamilies = {
      {"bool", TypeFamily::kBool},           {"int2", TypeFamily::kInt16},
      {"int4", TypeFamily::kInt32},          {"int8", TypeFamily::kInt64},
      {"oid", TypeFamily::kInt64},           {"numeric", TypeFamily::kDecimal},
      {"float4", TypeFamily::kFloat32},      {"float8", TypeFamily::kFloat64},
      {"text", TypeFamily::kText},           {"varchar", TypeFamily::kText},
      {"bpchar", TypeFamily::kText},         {"name", TypeFamily::kText},
      {"char", TypeFamily::kText},           {"uuid", TypeFamily::kUuid},
      {"date", TypeFamily::kDate},           {"time", TypeFamily::kTime},
      {"timestamp", TypeFamily::kTimestamp}, {"timestamptz", TypeFamily::kTimestampTz},
      {"interval", TypeFamily::kInterval},   {"bytea", TypeFamily::kBytes},
      {"json", TypeFamily::kJson},           {"jsonb", TypeFamily::kJson},
      {"inet", TypeFamily::kInet},           {"cidr", TypeFamily::kInet},
  };
  if (type.kind == 'e') return TypeFamily::kEnum;
  if (type.kind == 'r') return TypeFamily::kRange;
  if (type.schema == "pg_catalog") {
    auto it = kFamilies.find(type.name);
    return it == kFamilies.end() ? TypeFamily::kOther : it->second;
  }
  return type.kind == 'b' && type.category == 'S' ? TypeFamily::kText : TypeFamily::kOther;  // citext and its like
}

// Through domains and arrays down to what the values are. `not_null` and `has_default` gather what the domains on the
// way add.
ColumnType Resolve(const std::unordered_map<uint32_t, Type>& types, uint32_t oid, int modifier, bool* not_null,
                   bool* has_default) {
  ColumnType out;
  for (int depth = 0; depth < 32; ++depth) {
    auto it = types.find(oid);
    if (it == types.end()) break;
    const Type& type = it->second;
    if (type.kind == 'd') {
      if (!out.array) {
        *not_null |= type.not_null;
        *has_default |= type.has_default;
      }
      oid = type.base;
      if (modifier < 0) modifier = type.modifier;
      continue;
    }
    if (type.category == 'A' && type.element != 0 && !out.array) {
      out.array = true;
      oid = type.element;
      continue;
    }
    out.family = FamilyOf(type);
    out.name = type.schema == "pg_catalog" ? type.builtin : QuoteName(type.schema, type.name);
    if (out.array) out.name += "[]";
    out.enum_values = type.labels;
    if (modifier >= 4 && type.schema == "pg_catalog") {
      if (type.name == "varchar" || type.name == "bpchar") out.max_length = modifier - 4;
      if (type.name == "numeric") {
        out.precision = ((modifier - 4) >> 16) & 0xFFFF;
        // Eleven bits with a sign since PostgreSQL 15: numeric(5,-2) rounds to hundreds.
        out.scale = (((modifier - 4) & 0x7FF) ^ 1024) - 1024;
      }
    }
    break;
  }
  return out;
}

std::string OidArray(const std::vector<uint32_t>& oids) {
  std::string out = "{";
  for (uint32_t oid : oids) StrAppend(&out, out.size() > 1 ? "," : "", oid);
  return out + "}";
}

std::string FirstLine(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

std::string TextOrEmpty(const pqxx::field& field) {
  return field.is_null() ? std::string() : std::string(field.c_str(), field.size());
}

void SplitNames(const std::vector<std::string>& tables, std::string* schemas, std::string* names) {
  PgArray schema_array, name_array;
  std::set<std::pair<std::string, std::string>> seen;
  for (const std::string& table : tables) {
    auto parsed = ParseTableName(table);
    if (!parsed.ok() || !seen.insert(*parsed).second) continue;
    schema_array.Add(parsed->first);
    name_array.Add(parsed->second);
  }
  *schemas = std::move(schema_array).Finish();
  *names = std::move(name_array).Finish();
}

// Parsed and planned, not run. As a single statement of the extended protocol, so that a text of several is refused;
// inside a FROM, where nothing may write.
absl::StatusOr<QueryColumns> Describe(pqxx::transaction_base& tx, const std::string& query) {
  tx.exec("SAVEPOINT describe");
  absl::StatusOr<QueryColumns> out;
  try {
    tx.exec_params("DECLARE describe NO SCROLL CURSOR FOR " + query);  // one whole SELECT by itself
    const pqxx::result none = tx.exec_params(StrCat("SELECT * FROM (\n", query, "\n) q LIMIT 0"));
    QueryColumns columns;
    for (pqxx::row_size_type i = 0; i < none.columns(); ++i)
      columns.emplace_back(none.column_name(i), static_cast<uint32_t>(none.column_type(i)));
    out = std::move(columns);
  } catch (const pqxx::broken_connection&) {
    throw;
  } catch (const pqxx::sql_error& error) {
    out = absl::InvalidArgumentError(FirstLine(error.what()));
  }
  tx.exec("ROLLBACK TO describe");
  return out;
}

Database Load(pqxx::transaction_base& tx, const pqxx::result& classes,
              const std::map<std::string, std::string>& queries = {}, const Described* known = nullptr) {
  Database database;
  Described& described = database.described;
  std::vector<uint32_t> query_types;
  for (const auto& [name, query] : queries) {
    absl::StatusOr<QueryColumns> columns;
    if (known == nullptr) {
      columns = Describe(tx, query);
    } else if (const auto it = known->find(name); it != known->end()) {
      columns = it->second;
    } else {
      columns = absl::NotFoundError("its columns were not published; run `mainstay publish` again");
    }
    if (!columns.ok()) {
      database.broken_queries[name] = std::string(columns.status().message());
      continue;
    }
    for (const auto& [column, type] : *columns) query_types.push_back(type);
    described[name] = *std::move(columns);
  }
  std::vector<uint32_t> oids;
  std::unordered_map<uint32_t, Table*> by_oid;
  for (const pqxx::row& row : classes) {
    Table table;
    table.oid = row[0].as<uint32_t>();
    table.schema = row[1].c_str();
    table.name = row[2].c_str();
    table.kind = row[3].c_str()[0];
    table.partition = row[4].as<bool>();
    table.estimated_rows = row[5].as<int64_t>();
    table.writable = row[6].as<bool>();
    table.comment = TextOrEmpty(row[7]);
    table.row_security = row[8].as<bool>();
    oids.push_back(table.oid);
    uint32_t oid = table.oid;
    auto key = std::make_pair(table.schema, table.name);
    by_oid[oid] = &(database.tables[std::move(key)] = std::move(table));
  }
  const std::string list = OidArray(oids);

  std::unordered_map<uint32_t, Type> types;
  std::vector<uint32_t> enums;
  for (const pqxx::row& row : tx.exec_params(kTypes, list, OidArray(query_types))) {
    Type type;
    type.schema = row[1].c_str();
    type.name = row[2].c_str();
    type.kind = row[3].c_str()[0];
    type.category = row[4].c_str()[0];
    type.element = row[5].as<uint32_t>();
    type.base = row[6].as<uint32_t>();
    type.modifier = row[7].as<int>();
    type.not_null = row[8].as<bool>();
    type.has_default = row[9].as<bool>();
    type.builtin = TextOrEmpty(row[10]);
    if (type.kind == 'e') enums.push_back(row[0].as<uint32_t>());
    types[row[0].as<uint32_t>()] = std::move(type);
  }
  for (const pqxx::row& row : tx.exec_params(kEnums, OidArray(enums)))
    types[row[0].as<uint32_t>()].labels.push_back(row[1].c_str());

  for (const pqxx::row& row : tx.exec_params(kColumns, list)) {
    Column column;
    column.name = row[1].c_str();
    column.number = row[2].as<int>();
    bool not_null = row[5].as<bool>(), has_default = row[6].as<bool>();
    column.type = Resolve(types, row[3].as<uint32_t>(), row[4].as<int>(), &not_null, &has_default);
    column.nullable = !not_null;
    column.has_default = has_default;
    column.generated = row[7].as<bool>();
    column.type.collation = TextOrEmpty(row[8]);
    column.collation_version = TextOrEmpty(row[9]);
    column.comment = TextOrEmpty(row[10]);
    by_oid[row[0].as<uint32_t>()]->columns.push_back(std::move(column));
  }

  for (const auto& [name, columns] : described) {
    Table table{.name = name, .kind = 'v', .writable = false};
    for (const auto& [column_name, type] : columns) {
      Column column{.name = column_name, .number = static_cast<int>(table.columns.size()) + 1};
      bool not_null = false, has_default = false;
      column.type = Resolve(types, type, -1, &not_null, &has_default);
      table.columns.push_back(std::move(column));
    }
    database.tables[{"", name}] = std::move(table);
  }

  auto names_of = [](const Table& table, const std::string& numbers, bool* all) {
    std::vector<std::string> names;
    *all = true;
    const std::vector<std::string> parts = absl::StrSplit(numbers, ' ', absl::SkipEmpty());
    for (const std::string& text : parts) {
      auto it = std::find_if(table.columns.begin(), table.columns.end(),
                             [&](const Column& c) { return std::to_string(c.number) == text; });
      if (it == table.columns.end()) {  // 0: an expression
        *all = false;
        break;
      }
      names.push_back(it->name);
    }
    return names;
  };

  for (const pqxx::row& row : tx.exec_params(kIndexes, list)) {
    Table& table = *by_oid[row[0].as<uint32_t>()];
    Index index;
    index.name = row[1].c_str();
    index.unique = row[2].as<bool>();
    index.partial = row[3].as<bool>();
    index.primary = row[4].as<bool>();
    std::vector<std::string> numbers = absl::StrSplit(row[5].c_str(), ' ', absl::SkipEmpty());
    numbers.resize(std::min<size_t>(numbers.size(), row[6].as<size_t>()));
    std::string keys;
    for (const std::string& number : numbers) StrAppend(&keys, keys.empty() ? "" : " ", number);
    index.columns = names_of(table, keys, &index.whole);
    index.method = row[7].c_str();
    if (row[8].as<bool>()) {
      for (const absl::string_view option : absl::StrSplit(row[9].c_str(), ' ', absl::SkipEmpty())) {
        const int bits = std::stoi(std::string(option));
        index.order.push_back({.descending = (bits & 1) != 0, .nulls_first = (bits & 2) != 0});
      }
      index.order.resize(index.columns.size());
    }
    if (index.primary) table.primary_key = index.columns;
    table.indexes.push_back(std::move(index));
  }

  for (const pqxx::row& row : tx.exec_params(kConstraints, list)) {
    Table& table = *by_oid[row[0].as<uint32_t>()];
    bool all = true;
    Constraint constraint{row[1].c_str(), row[2].c_str()[0], names_of(table, TextOrEmpty(row[3]), &all)};
    if (constraint.kind == 'f') {
      ForeignKey key;
      key.name = constraint.name;
      key.columns = constraint.columns;
      key.target_schema = row[4].c_str();
      key.target_table = row[5].c_str();
      key.target_columns = absl::StrSplit(row[6].c_str(), '\x01');
      table.foreign_keys.push_back(std::move(key));
    }
    table.constraints.push_back(std::move(constraint));
  }

  for (const pqxx::row& row : tx.exec_params(kSequences, list))
    by_oid[row[0].as<uint32_t>()]->sequences.push_back(row[1].c_str());
  for (const pqxx::row& row : tx.exec(kSearch)) database.search_configurations.emplace_back(row[0].c_str());
  database.default_collation = TextOrEmpty(tx.exec(kDatabase)[0][0]);
  return database;
}

}  // namespace

const Column* Table::FindColumn(std::string_view column) const {
  for (const Column& c : columns)
    if (c.name == column) return &c;
  return nullptr;
}

const Table* Database::Find(std::string_view schema, std::string_view name) const {
  auto it = tables.find({std::string(schema), std::string(name)});
  return it == tables.end() ? nullptr : &it->second;
}

std::string QuoteName(std::string_view identifier) {
  std::string out = "\"";
  for (char c : identifier) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}
std::string QuoteName(std::string_view schema, std::string_view name) {
  return StrCat(QuoteName(schema), ".", QuoteName(name));
}

absl::StatusOr<std::pair<std::string, std::string>> ParseTableName(std::string_view text) {
  auto wrong = [&] {
    return absl::InvalidArgumentError(StrCat(
        "\"", text, "\" is not a table's name like shop.orders (quote a part that holds a dot: shop.\"odd.name\")"));
  };
  std::vector<std::string> parts;
  size_t i = 0;
  while (true) {
    std::string part;
    if (i < text.size() && text[i] == '"') {
      for (++i;; ++i) {
        if (i >= text.size()) return wrong();
        if (text[i] != '"') {
          part += text[i];
        } else if (i + 1 < text.size() && text[i + 1] == '"') {
          part += text[i++];
        } else {
          break;
        }
      }
      ++i;
    } else {
      while (i < text.size() && text[i] != '.' && text[i] != '"') part += text[i++];
    }
    if (part.empty() || part.size() > 63 || part.find('\0') != std::string::npos) return wrong();
    parts.push_back(std::move(part));
    if (i >= text.size()) break;
    if (text[i] != '.') return wrong();
    ++i;
  }
  if (parts.size() == 1) return std::make_pair(std::string("public"), parts[0]);
  if (parts.size() != 2) return wrong();
  return std::make_pair(parts[0], parts[1]);
}

absl::StatusOr<Database> Introspect(pqxx::transaction_base& tx, const std::vector<std::string>& tables,
                                    const std::map<std::string, std::string>& queries, const Described* described) try {
  std::string schemas, names;
  SplitNames(tables, &schemas, &names);
  Database database = Load(tx, tx.exec_params(kClassesByName, schemas, names), queries, described);
  for (const pqxx::row& row : tx.exec(kNames)) database.names.emplace_back(row[0].c_str(), row[1].c_str());
  return database;
} catch (...) {
  return postgres::StatusFromCurrentException();
}

absl::StatusOr<Database> IntrospectSchemas(pqxx::transaction_base& tx, const std::vector<std::string>& schemas) try {
  PgArray list;
  for (const std::string& schema : schemas) list.Add(schema);
  Database database = Load(tx, tx.exec_params(kClassesBySchema, std::move(list).Finish()));
  for (const auto& [name, table] : database.tables) database.names.push_back(name);
  return database;
} catch (...) {
  return postgres::StatusFromCurrentException();
}

absl::StatusOr<std::vector<std::string>> TablesOfQueries(pqxx::transaction_base& tx,
                                                         const std::map<std::string, std::string>& queries) try {
  std::set<std::string> tables;
  if (queries.empty()) return std::vector<std::string>();
  tx.exec("SAVEPOINT queries");
  for (const auto& [name, query] : queries) {
    if (!Describe(tx, query).ok()) continue;
    tx.exec_params("CREATE TEMP VIEW mainstay_query AS " + query);
    for (const pqxx::row& row : tx.exec(kViewed)) tables.insert(row[0].c_str());
    tx.exec("ROLLBACK TO queries");
  }
  return std::vector<std::string>(tables.begin(), tables.end());
} catch (...) {
  return postgres::StatusFromCurrentException();
}

absl::StatusOr<std::string> SchemaFingerprint(pqxx::transaction_base& tx, const std::vector<std::string>& tables,
                                              const std::map<std::string, std::string>& queries) try {
  std::string schemas, names;
  SplitNames(tables, &schemas, &names);
  std::string out = tx.exec_params1(kFingerprint, schemas, names)[0].c_str();
  for (const auto& [name, query] : queries) {
    const auto columns = Describe(tx, query);
    StrAppend(&out, ";", name, " ", columns.ok() ? "" : columns.status().message());
    if (!columns.ok()) continue;
    for (const auto& [column, type] : *columns) StrAppend(&out, ",", column, " ", type);
  }
  return out;
} catch (...) {
  return postgres::StatusFromCurrentException();
}

absl::StatusOr<Resource> SystemResource(pqxx::transaction_base& tx, std::string_view table_name,
                                        const SystemResourceOptions& options) {
  absl::StatusOr<Database> database = Introspect(tx, {std::string(table_name)});
  if (!database.ok()) return database.status();
  if (database->tables.empty())
    return absl::NotFoundError(StrCat("the table ", table_name, " does not exist; run `mainstay migrate`"));
  const Table& table = database->tables.begin()->second;
  Resource resource;
  resource.name = options.name;
  resource.schema = table.schema;
  resource.table = table.name;
  resource.view = table.kind == 'v' || table.kind == 'm';
  resource.read_only = true;
  resource.default_limit = options.default_limit;
  resource.max_limit = options.max_limit;
  resource.offset_allowed = options.offset_allowed;
  auto listed = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const Column& column : table.columns) {
    Field field;
    field.name = field.column = column.name;
    field.type = column.type;
    field.position = static_cast<int>(resource.fields.size());
    field.nullable = column.nullable;
    field.has_default = column.has_default;
    field.generated = column.generated;
    field.hidden = listed(options.hidden, column.name);
    field.read_only = true;
    field.filterable = column.name == options.key || listed(options.filterable, column.name);
    field.sortable = column.name == options.key || listed(options.sortable, column.name);
    field.indexed = field.filterable || field.sortable;
    field.description = column.comment;
    resource.fields.push_back(std::move(field));
  }
  auto position = [&](const std::string& name, int* out) {
    const Field* field = resource.FindField(name);
    if (field == nullptr) return absl::InternalError(StrCat(table_name, " has no column \"", name, "\""));
    *out = field->position;
    return absl::OkStatus();
  };
  int key = -1;
  if (absl::Status status = position(options.key, &key); !status.ok()) return status;
  resource.key = {key};
  if (!options.tenant.empty()) {
    if (absl::Status status = position(options.tenant, &resource.tenant); !status.ok()) return status;
  }
  for (const auto& names : {options.filterable, options.sortable, options.hidden}) {
    int unused = 0;
    for (const std::string& name : names)
      if (absl::Status status = position(name, &unused); !status.ok()) return status;
  }
  const std::vector<std::string> sorts = absl::StrSplit(options.default_sort, ',', absl::SkipEmpty());
  for (const std::string& part : sorts) {
    bool descending = part[0] == '-';
    int at = -1;
    if (absl::Status status = position(descending ? part.substr(1) : part, &at); !status.ok()) return status;
    resource.default_sort.emplace_back(at, descending);
  }
  return resource;
}

}  // namespace mainstay::catalog
