// SPDX-License-Identifier: Apache-2.0
#include "libs/catalog/publish.h"

#include <map>
#include <optional>
#include <pqxx/pqxx>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/declarations.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/sql.h"
#include "libs/postgres/errors.h"

namespace mainstay::catalog {
namespace {

constexpr const char* kRights[] = {"SELECT", "INSERT", "UPDATE", "DELETE"};

std::string FilesJson(const std::vector<File>& files) {
  std::string out;
  JsonWriter json(out);
  json.BeginArray();
  for (const File& file : files)
    json.BeginObject().Key("name").String(file.name).Key("text").String(file.text).EndObject();
  json.EndArray();
  return out;
}
std::string MapJson(const std::map<std::string, std::string>& map) {
  std::string out;
  JsonWriter json(out);
  json.BeginObject();
  for (const auto& [key, value] : map) json.Key(key).String(value);
  json.EndObject();
  return out;
}
absl::StatusOr<std::map<std::string, std::string>> ParseMapJson(std::string text) {
  ASSIGN_OR_RETURN(JsonDocument document, JsonDocument::Parse(std::move(text)));
  std::map<std::string, std::string> map;
  for (const JsonValue::Member& member : document.root().members())
    map[std::string(member.key)] = std::string(member.value.text());
  return map;
}

std::string DescribedJson(const Described& described) {
  std::string out;
  JsonWriter json(out);
  json.BeginArray();
  for (const auto& [name, columns] : described) {
    json.BeginObject().Key("name").String(name).Key("columns").BeginArray();
    for (const auto& [column, type] : columns) json.BeginArray().String(column).String(StrCat(type)).EndArray();
    json.EndArray().EndObject();
  }
  json.EndArray();
  return out;
}
absl::StatusOr<Described> ParseDescribedJson(std::string text) {
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::move(text)));
  Described described;
  for (const JsonValue& query : document.root().items()) {
    const JsonValue *name = query.Find("name"), *columns = query.Find("columns");
    if (name == nullptr || columns == nullptr) return absl::InternalError("the stored columns of queries are damaged");
    QueryColumns& list = described[std::string(name->text())];
    for (const JsonValue& column : columns->items()) {
      uint32_t type = 0;
      if (column.items().size() != 2 || !absl::SimpleAtoi(ToAbsl(column.items()[1].text()), &type))
        return absl::InternalError("the stored columns of queries are damaged");
      list.emplace_back(column.items()[0].text(), type);
    }
  }
  return described;
}

struct Prepared {
  Document document;
  Database database;
  Built built;
};

absl::StatusOr<Prepared> Prepare(pqxx::transaction_base& tx, const std::vector<File>& files, const Variables& variables,
                                 const Checks& checks) {
  Parsed parsed = ParseAll(files, variables, {});
  if (!parsed.readable) return MistakesToStatus(std::move(parsed.mistakes));
  ASSIGN_OR_RETURN(Database database, Introspect(tx, parsed.document.Tables(), parsed.document.Queries()));
  Built built = Build(parsed.document, database);
  for (const auto& [name, source] : built.model->sources) {
    if (!checks.scheme) break;
    if (absl::Status status = checks.scheme(source.scheme); !status.ok())
      built.mistakes.push_back(MistakeAt(parsed.document.declarations(), StrCat("sources.", name, ".scheme"),
                                         std::string(status.message())));
  }
  built.mistakes.insert(built.mistakes.end(), parsed.mistakes.begin(), parsed.mistakes.end());
  RETURN_IF_ERROR(MistakesToStatus(built.mistakes));
  return Prepared{parsed.document, std::move(database), std::move(built)};
}

std::vector<std::string> Lines(const std::vector<Mistake>& warnings) {
  std::vector<std::string> lines;
  lines.reserve(warnings.size());
  for (const Mistake& warning : warnings) lines.push_back(warning.ToString());
  return lines;
}

// Quoted table → "SELECT, INSERT". Reading is always needed; writing wherever the resource can be written at all,
// because the role admin may do everything.
std::map<std::string, std::string> NeededRights(const Model& model, const std::vector<std::string>& queried) {
  std::map<std::string, std::string> rights;
  for (const std::string& table : queried) rights[table] = "SELECT";
  for (const auto& [name, resource] : model.resources) {
    if (!resource.query.empty()) continue;
    std::string& text = rights[QuoteName(resource.schema, resource.table)];
    if (!resource.read_only) {
      text = "SELECT, INSERT, UPDATE, DELETE";
    } else if (text.empty()) {
      text = "SELECT";
    }
    for (const auto& [relation_name, relation] : resource.relations)
      if (!relation.through.empty()) rights.try_emplace(relation.through, "SELECT");
  }
  return rights;
}

// Grants what is missing, takes back what is too much; touches nothing that is right already, so that publishing again
// does not invalidate anyone's plans.
absl::Status Grant(pqxx::transaction_base& tx, const Prepared& prepared,
                   const std::map<std::string, std::string>& rights,
                   const std::map<std::string, std::string>& previous) {
  PgArray schemas, sequences, tables, wanted;
  std::set<std::string> schema_names;
  for (const auto& [table, unused] : rights) {
    ASSIGN_OR_RETURN(const auto name, ParseTableName(table));
    schema_names.insert(name.first);
  }
  for (const auto& [name, table] : prepared.database.tables) {
    // Values are cast to the columns' types by name: the schema of a type must be usable too.
    for (const Column& column : table.columns) {
      if (column.type.name.empty() || column.type.name[0] != '"') continue;
      absl::StatusOr<std::pair<std::string, std::string>> type = ParseTableName(
          column.type.array ? column.type.name.substr(0, column.type.name.size() - 2) : column.type.name);
      if (type.ok() && type->first != "pg_catalog") schema_names.insert(type->first);
    }
    const auto right = rights.find(QuoteName(table.schema, table.name));
    if (right == rights.end() || right->second.find("INSERT") == std::string::npos) continue;
    for (const std::string& sequence : table.sequences) sequences.Add(sequence);
  }
  for (const std::string& schema : schema_names) schemas.Add(schema);
  std::map<std::string, std::string> all = rights;
  for (const auto& [table, unused] : previous) {
    if (all.contains(table) || !tx.exec_params1(sql::kTableExists, table)[0].as<bool>()) continue;
    all[table] = "";
  }
  for (const auto& [table, unused] : all) {
    for (const char* right : kRights) {
      tables.Add(table);
      wanted.Add(right);
    }
  }
  for (const pqxx::row& row : tx.exec_params(sql::kSchemaRights, std::move(schemas).Finish()))
    if (!row[2].as<bool>())
      tx.exec(StrCat("GRANT USAGE ON SCHEMA ", QuoteName(row[0].c_str()), " TO ", row[1].c_str()));
  for (const pqxx::row& row : tx.exec_params(sql::kSequenceRights, std::move(sequences).Finish()))
    if (!row[2].as<bool>()) tx.exec(StrCat("GRANT USAGE ON SEQUENCE ", row[0].c_str(), " TO ", row[1].c_str()));
  const std::string table_list = std::move(tables).Finish(), right_list = std::move(wanted).Finish();
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> grant, revoke;  // (table, role) → rights
  auto needs = [&](const std::string& table, std::string_view right) {
    return all[table].find(right) != std::string::npos;
  };
  for (const pqxx::row& row : tx.exec_params(sql::kTableRights, table_list, right_list)) {
    const std::string table = row[0].c_str(), right = row[1].c_str();
    const bool has = row[3].as<bool>(), need = needs(table, right);
    if (need && !has) grant[{table, row[2].c_str()}].push_back(right);
    if (!need && has) revoke[{table, row[2].c_str()}].push_back(right);
  }
  for (const auto& [where, list] : grant)
    tx.exec(StrCat("GRANT ", absl::StrJoin(list, ", "), " ON ", where.first, " TO ", where.second));
  for (const auto& [where, list] : revoke)
    tx.exec(StrCat("REVOKE ", absl::StrJoin(list, ", "), " ON ", where.first, " FROM ", where.second));
  // GRANT by someone who may not only warns: look whether it worked.
  if (!grant.empty()) {
    for (const pqxx::row& row : tx.exec_params(sql::kTableRights, table_list, right_list)) {
      if (needs(row[0].c_str(), row[1].c_str()) && !row[3].as<bool>())
        return absl::PermissionDeniedError(StrCat("the role ", row[2].c_str(), " needs ", row[1].c_str(), " on ",
                                                  row[0].c_str(),
                                                  ", and you may not grant it; publish as the table's owner"));
    }
  }
  return absl::OkStatus();
}

// Where work stands that goes on naming parts of the catalog until it is done.
struct OpenWork {
  const char* table;
  const char* column;     // holds the name
  const char* condition;  // rows that are open
  const char* needs;      // columns that the condition uses
  const char* part;       // of the catalog
  const char* what;       // the rows, for people
};
constexpr OpenWork kOpenWork[] = {
    {"mainstay.jobs", "queue", "true", "queue", "queue", "open jobs"},
    {"mainstay.webhook_events", "source", "state = 'received'", "source,state", "source",
     "webhook events still to be processed"},
    {"mainstay.imports", "resource", "state NOT IN ('succeeded', 'failed', 'cancelled')", "resource,state", "resource",
     "running imports"},
    {"mainstay.exports", "resource", "state NOT IN ('succeeded', 'failed', 'cancelled', 'expired')", "resource,state",
     "resource", "running exports"},
};

template <typename Map>
std::vector<std::string> Removed(const Map& before, const Map& after) {
  std::vector<std::string> names;
  for (const auto& [name, value] : before)
    if (!after.contains(name)) names.push_back(name);
  return names;
}

absl::Status CheckRemovals(pqxx::transaction_base& tx, const Stored& previous, const Model& next) {
  Parsed parsed = ParseAll(previous.files, previous.variables, {});
  const Declarations& before = parsed.document.declarations();
  std::vector<std::string> removed_resources;
  for (const auto& [name, unused] : before.resources)
    if (!next.resources.contains(name)) removed_resources.push_back(name);
  const std::map<std::string, std::vector<std::string>> removed = {
      {"queue", Removed(before.model.queues, next.queues)},
      {"source", Removed(before.model.sources, next.sources)},
      {"resource", removed_resources}};
  std::vector<std::string> sentences;
  for (const OpenWork& work : kOpenWork) {
    const std::vector<std::string>& names = removed.at(work.part);
    if (names.empty()) continue;
    const std::string columns = StrCat("{", work.needs, "}");
    if (!tx.exec_params1(sql::kHasColumns, work.table, columns)[0].as<bool>()) continue;
    PgArray list;
    for (const std::string& name : names) list.Add(name);
    const std::string query = StrCat("SELECT ", work.column, ", count(*) FROM ", work.table, " WHERE ", work.column,
                                     " = ANY($1::text[]) AND ", work.condition, " GROUP BY 1 ORDER BY 1");
    for (const pqxx::row& row : tx.exec_params(query, std::move(list).Finish()))
      sentences.push_back(StrCat("the ", work.part, " ", row[0].c_str(),
                                 " can't be removed yet: ", row[1].as<int64_t>(), " ", work.what,
                                 " name it; let them finish or cancel them, then publish again"));
  }
  if (sentences.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrJoin(sentences, "\n"));
}

absl::Status Ready(pqxx::transaction_base& tx) {
  if (tx.exec1(sql::kReady)[0].as<bool>()) return absl::OkStatus();
  return absl::FailedPreconditionError("this database is not prepared for Mainstay yet; run `mainstay migrate` first");
}

}  // namespace

absl::StatusOr<Checked> Check(pqxx::transaction_base& tx, const std::vector<File>& files, const Variables& variables,
                              const Checks& checks) try {
  ASSIGN_OR_RETURN(Prepared prepared, Prepare(tx, files, variables, checks));
  return Checked{prepared.document.hash(), Lines(prepared.built.warnings), prepared.built.model};
} catch (...) {
  return postgres::StatusFromCurrentException();
}

absl::StatusOr<Checked> Check(const std::string& url, const std::vector<File>& files, const Variables& variables,
                              const Checks& checks) try {
  pqxx::connection connection(url);
  pqxx::read_transaction tx(connection);
  return Check(tx, files, variables, checks);
} catch (...) {
  return postgres::StatusFromCurrentException();
}

absl::StatusOr<Published> Publish(pqxx::transaction_base& tx, const std::vector<File>& files,
                                  const Variables& variables, const std::string& author, const Checks& checks) try {
  RETURN_IF_ERROR(Ready(tx));
  tx.exec(sql::kLockPublish);
  ASSIGN_OR_RETURN(Prepared prepared, Prepare(tx, files, variables, checks));
  const Declarations& declared = prepared.document.declarations();

  std::map<std::string, std::string> previous_rights;
  std::string previous_hash;
  absl::StatusOr<Stored> previous = LoadStored(tx, "");
  if (previous.ok()) {
    previous_hash = previous->hash;
    RETURN_IF_ERROR(CheckRemovals(tx, *previous, *prepared.built.model));
    pqxx::row row = tx.exec_params1(sql::kStored, previous_hash);
    ASSIGN_OR_RETURN(previous_rights, ParseMapJson(row[3].c_str()));
  } else if (!absl::IsNotFound(previous.status())) {
    return previous.status();
  }

  ASSIGN_OR_RETURN(const std::vector<std::string> queried, TablesOfQueries(tx, prepared.document.Queries()));
  const std::map<std::string, std::string> rights = NeededRights(*prepared.built.model, queried);
  RETURN_IF_ERROR(Grant(tx, prepared, rights, previous_rights));
  const std::string hash = prepared.document.hash(), by = std::string(TruncateUtf8(author, 200));
  tx.exec_params(sql::kStore, hash, FilesJson(declared.files), MapJson(declared.used), MapJson(rights), by);
  const bool changed = hash != previous_hash;
  if (changed) {
    tx.exec_params(sql::kActivate, hash, by);
    tx.exec_params(sql::kHistory, hash, previous_hash, by);
  }
  tx.exec_params(sql::kQueryColumns, DescribedJson(prepared.database.described));
  return Published{hash, Lines(prepared.built.warnings), changed};
} catch (...) {
  return postgres::StatusFromCurrentException();
}

absl::StatusOr<Published> Publish(const std::string& url, const std::vector<File>& files, const Variables& variables,
                                  const std::string& author, const Checks& checks) try {
  pqxx::connection connection(url);
  pqxx::work tx(connection);
  ASSIGN_OR_RETURN(Published published, Publish(tx, files, variables, author, checks));
  tx.commit();
  return published;
} catch (...) {
  return postgres::StatusFromCurrentException();
}

absl::StatusOr<std::string> ActiveHash(pqxx::transaction_base& tx) try {
  pqxx::result result = tx.exec(sql::kActive);
  if (result.empty()) return absl::NotFoundError("no catalog is published; run `mainstay publish`");
  return std::string(result[0][0].c_str());
} catch (...) {
  return postgres::StatusFromCurrentException();
}

absl::StatusOr<std::vector<Follower>> Followers(pqxx::transaction_base& tx) {
  std::vector<Follower> followers;
  for (const pqxx::row& row : tx.exec(sql::kFollowers))
    followers.push_back(
        {row[0].as<std::string>(), row[1].as<std::string>(), row[2].as<std::string>(), row[3].as<std::string>()});
  return followers;
}

absl::StatusOr<Stored> LoadStored(pqxx::transaction_base& tx, const std::string& hash) try {
  std::string wanted = hash;
  if (wanted.empty()) {
    ASSIGN_OR_RETURN(wanted, ActiveHash(tx));
  }
  pqxx::result result = tx.exec_params(sql::kStored, wanted);
  if (result.empty()) return absl::NotFoundError(StrCat("no catalog with the hash ", wanted, " was ever published"));
  Stored stored;
  stored.hash = wanted;
  ASSIGN_OR_RETURN(JsonDocument files, JsonDocument::Parse(result[0][1].c_str()));
  for (const JsonValue& file : files.root().items()) {
    const JsonValue *name = file.Find("name"), *text = file.Find("text");
    if (name == nullptr || text == nullptr)
      return absl::InternalError(StrCat("the stored catalog ", wanted, " is damaged"));
    stored.files.push_back({std::string(name->text()), std::string(text->text())});
  }
  ASSIGN_OR_RETURN(stored.variables, ParseMapJson(result[0][2].c_str()));
  return stored;
} catch (...) {
  return postgres::StatusFromCurrentException();
}

absl::StatusOr<Built> LoadActive(pqxx::transaction_base& tx, QuerySource queries) {
  ASSIGN_OR_RETURN(Stored stored, LoadStored(tx, ""));
  ASSIGN_OR_RETURN(Document document, ParseFiles(stored.files, stored.variables));
  if (document.hash() != stored.hash)
    return absl::DataLossError(
        StrCat("the stored catalog ", stored.hash, " was changed: its content has the hash ", document.hash()));
  std::optional<Described> described;
  if (queries == QuerySource::kPublished && !document.Queries().empty()) {
    ASSIGN_OR_RETURN(described, ParseDescribedJson(tx.exec1(sql::kStoredQueryColumns)[0].c_str()));
  }
  ASSIGN_OR_RETURN(Database database, Introspect(tx, document.Tables(), document.Queries(),
                                                 described.has_value() ? &*described : nullptr));
  return Build(document, database);
}

}  // namespace mainstay::catalog
