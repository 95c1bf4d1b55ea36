// SPDX-License-Identifier: Apache-2.0
#include "libs/records/http_write.h"

#include <algorithm>
#include <array>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "libs/base/crypto.h"
#include "libs/base/ids.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/http/list_query.h"
#include "libs/postgres/errors.h"
#include "libs/records/plan.h"
#include "libs/telemetry/log.h"

namespace mainstay::records {

using boost::asio::awaitable;
using catalog::ModelPtr;
using catalog::Resource;
using Kind = WriteRequest::Kind;

struct HttpWrites::Idempotency {
  std::string scope, fingerprint;  // hex
};
struct HttpWrites::Stored {
  int status = 0;
  std::string location, etag, body;
  bool replayed = false;
};
// What the headers and parameters of a write say.
struct HttpWrites::Terms {
  bool validate_only = false, minimal = false;
  std::optional<Idempotency> idempotency;
};

namespace {

constexpr int kWriteAttempts = 3;
constexpr size_t kMaxItems = 1000, kMaxOperations = 50;
constexpr int64_t kMaxBatchBody = 8 << 20, kMaxAffected = 10'000;

// Deferred constraints speak up at COMMIT, about whichever table of the transaction.
absl::Status DeferredFailure(const std::vector<const Resource*>& written, const absl::Status& status) {
  const auto error = postgres::GetSqlError(status);
  if (!error.has_value() || written.empty()) return status;
  const auto it =
      std::find_if(written.begin(), written.end(), [&](const Resource* r) { return r->table == error->table; });
  std::vector<FieldError> errors = RowErrors(it == written.end() ? *written[0] : **it, status);
  if (errors.empty()) return status;
  for (FieldError& one : errors)
    if (!one.name.empty()) one.name = "/" + one.name;
  return WriteFailure(std::move(errors), written.size() > 1);
}

absl::StatusOr<std::vector<std::string>> VersionsOfText(std::string_view if_match) {
  http::Request request;
  if (!if_match.empty()) request.headers.emplace_back("if-match", if_match);
  ASSIGN_OR_RETURN(const Tags tags, ParseTags(request, "if-match"));
  return VersionsOf(tags);
}

absl::Status Wrong(std::string_view pointer, std::string_view code, std::string_view detail) {
  return MakeProblem("validation-failed", detail,
                     {{.name = std::string(pointer), .code = std::string(code), .detail = std::string(detail)}});
}

// A problem of one operation, its places moved below the operation's own.
absl::Status Below(std::string_view pointer, const absl::Status& status) {
  Problem problem = ProblemFromStatus(status);
  if (FindProblemType(problem.type).http_status >= 500) return status;
  if (problem.errors.empty())
    problem.errors.push_back({.name = std::string(pointer), .code = problem.type, .detail = problem.detail});
  return MakeProblem(std::move(problem));
}

bool PrefersMinimal(const http::Request& request) {
  const std::string* prefer = request.Header("prefer");
  if (prefer == nullptr) return false;
  for (absl::string_view part : absl::StrSplit(*prefer, ',')) {
    const std::string_view preference = Trim(ToStd(part));
    if (Trim(preference.substr(0, preference.find(';'))) == "return=minimal") return true;
  }
  return false;
}

std::string_view ActionName(Kind kind) {
  static constexpr std::array<std::string_view, 6> kNames = {"create", "update", "upsert",
                                                             "delete", "upsert", "restore"};
  return kNames[static_cast<size_t>(kind)];
}

// {"status":201,"id":"7","etag":…,"record":{…}}
void AppendResult(const WriteAnswer& answer, int status, bool minimal, std::string& out) {
  JsonWriter json(out);
  json.BeginObject().Key("status").Int(status);
  if (!answer.id.empty()) json.Key("id").String(answer.id);
  if (!answer.etag.empty()) json.Key("etag").String(answer.etag);
  if (!minimal && !answer.json.empty()) json.Key("record").Raw(answer.json);
  json.EndObject();
}

int StatusOf(Kind kind, const WriteAnswer& answer) {
  return kind == Kind::kDelete ? 204 : answer.created ? 201 : 200;
}

}  // namespace

awaitable<absl::StatusOr<std::optional<HttpWrites::Stored>>> HttpWrites::FindStored(
    Runner& runner, const CallContext& context, const Idempotency& idempotency) const {
  postgres::Params lock;
  lock.emplace_back(StrCat(context.principal.tenant, "\x1f", idempotency.scope));
  absl::StatusOr<RowsPtr> locked =
      co_await runner.Run("SELECT pg_try_advisory_xact_lock(hashtextextended($1::text, 7305))", std::move(lock));
  if (!locked.ok()) co_return locked.status();
  if ((*locked)->Get(0, 0) != "t") {
    co_return MakeProblem(Problem{.type = "idempotency-in-progress",
                                  .detail = "a request with this key is being worked on",
                                  .retry_after = absl::Seconds(1)});
  }
  postgres::Params params;
  for (const std::string* text : {&context.principal.tenant, &idempotency.scope, &idempotency.fingerprint})
    params.emplace_back(*text);
  absl::StatusOr<RowsPtr> found = co_await runner.Run(
      "SELECT fingerprint = decode($3, 'hex'), status, coalesce(location, ''), coalesce(etag, ''), body FROM "
      "mainstay.idempotency "
      "WHERE tenant = $1 AND scope = decode($2, 'hex') AND expires_at > now()",
      std::move(params));
  if (!found.ok()) co_return found.status();
  const Rows& row = **found;
  if (row.rows() == 0) co_return std::optional<Stored>();
  if (row.Get(0, 0) != "t") co_return MakeProblem("idempotency-key-reused", "this key was used for another request");
  Stored stored;
  stored.status = std::stoi(std::string(row.Get(0, 1)));
  stored.location = row.Get(0, 2);
  stored.etag = row.Get(0, 3);
  stored.body = row.Get(0, 4);
  stored.replayed = true;
  co_return std::optional<Stored>(std::move(stored));
}

awaitable<absl::Status> HttpWrites::Store(Runner& runner, const CallContext& context, const Idempotency& idempotency,
                                          const Stored& answer) const {
  const std::string status = StrCat(answer.status),
                    life = StrCat(absl::ToInt64Seconds(options_.idempotency_life), " seconds");
  postgres::Params params;
  for (const std::string* text : {&context.principal.tenant, &idempotency.scope, &idempotency.fingerprint, &status,
                                  &answer.location, &answer.etag, &answer.body, &life})
    params.emplace_back(*text);
  // A few that have expired go with each new one, so that the table stays as small as its use.
  absl::StatusOr<RowsPtr> stored = co_await runner.Run(
      "WITH old AS (DELETE FROM mainstay.idempotency WHERE (tenant, scope) IN (SELECT tenant, scope FROM "
      "mainstay.idempotency WHERE expires_at < now() "
      "AND NOT (tenant = $1 AND scope = decode($2, 'hex')) ORDER BY expires_at LIMIT 5 FOR UPDATE SKIP LOCKED)) "
      "INSERT INTO mainstay.idempotency AS i (tenant, scope, fingerprint, status, location, etag, body, expires_at) "
      "VALUES ($1, decode($2, 'hex'), decode($3, 'hex'), $4::integer, nullif($5, ''), nullif($6, ''), $7, now() + "
      "$8::interval) "
      "ON CONFLICT (tenant, scope) DO UPDATE SET fingerprint = excluded.fingerprint, status = excluded.status, "
      "location = excluded.location, etag = excluded.etag, "
      "body = excluded.body, created_at = now(), expires_at = excluded.expires_at WHERE i.expires_at <= now()",
      std::move(params));
  co_return stored.status();
}

awaitable<absl::StatusOr<HttpWrites::Stored>> HttpWrites::InTransaction(
    CachePtr cache, const CallContext& context, std::vector<const Resource*> written, const Terms& terms,
    postgres::AsyncPostgres& postgres, const http::Request* http_request, const Work& work) const {
  for (int attempt = 1;; ++attempt) {
    auto acquired = co_await postgres.Acquire(context.deadline);
    if (!acquired.ok()) co_return acquired.status();
    const std::shared_ptr<postgres::Session> session = *std::move(acquired);
    CancelOnDisconnect(http_request, session);
    session->Begin("ISOLATION LEVEL READ COMMITTED, READ WRITE");
    const std::unique_ptr<Runner> runner = OnSession(*session, cache->sql);
    Stored stored;
    absl::Status status;
    bool done = false;
    if (terms.idempotency.has_value()) {
      absl::StatusOr<std::optional<Stored>> earlier = co_await FindStored(*runner, context, *terms.idempotency);
      status = earlier.status();
      if (status.ok() && earlier->has_value()) {
        stored = **std::move(earlier);
        done = true;
      }
    }
    if (status.ok() && !done) {
      absl::StatusOr<Stored> answer = co_await work(*runner);
      status = answer.status();
      if (status.ok()) stored = *std::move(answer);
      if (status.ok() && terms.idempotency.has_value() && !terms.validate_only)
        status = co_await Store(*runner, context, *terms.idempotency, stored);
    }
    absl::Status ended;
    if (status.ok() && !terms.validate_only && !stored.replayed) {
      ended = co_await session->Commit();
      if (!ended.ok()) status = ended;
    } else {
      ended = co_await session->Rollback();
    }
    if (status.ok()) co_return stored;
    const auto error = postgres::GetSqlError(status);
    const bool collided = error.has_value() && (error->sqlstate == "40001" || error->sqlstate == "40P01");
    if (!collided || attempt == kWriteAttempts || absl::Now() >= context.deadline)
      co_return DeferredFailure(written, status);
  }
}

awaitable<void> HttpWrites::AuditDenied(const CallContext& context, std::string_view resource, std::string_view action,
                                        std::string_view record, postgres::AsyncPostgres& postgres) const {
  // A flood of refusals must not become a flood of writes: what exceeds this goes to the log alone.
  const int64_t second = absl::ToUnixSeconds(absl::Now());
  if (denied_second_.exchange(second) != second) denied_ = 0;
  if (denied_.fetch_add(1) >= kMaxDeniedPerSecond) {
    log::Warn("a write was denied", {{"subject", context.principal.subject},
                                     {"resource", std::string(resource)},
                                     {"request_id", context.request_id}});
    co_return;
  }
  static const postgres::SqlPtr sql = std::make_shared<const postgres::Sql>(
      "INSERT INTO mainstay.audit_events (id, tenant, subject, roles, request_id, resource, action, outcome, record) "
      "VALUES ($1::uuid, $2, $3, $4::text[], $5, $6, $7, 'denied', nullif($8, ''))");
  PgArray roles;
  for (const std::string& role : context.principal.roles) roles.Add(role);
  postgres::Statement statement{sql, {}};
  for (std::string text :
       {NewUuid().ToString(), context.principal.tenant, context.principal.subject, std::move(roles).Finish(),
        context.request_id, std::string(resource), std::string(action), std::string(record)})
    statement.params.emplace_back(std::move(text));
  const absl::StatusOr<postgres::Result> stored = co_await postgres.Execute(std::move(statement), context.deadline);
  if (!stored.ok())
    log::Warn("a denied write could not be recorded", {{"error", std::string(stored.status().message())}});
}

awaitable<absl::StatusOr<HttpWrites::Stored>> HttpWrites::Write(CachePtr cache, const CallContext& context,
                                                                WriteRequest& request, const Terms& terms,
                                                                postgres::AsyncPostgres& postgres,
                                                                const http::Request* http_request) const {
  const std::string record =
      request.items.size() == 1 && !request.items[0].key.empty()
          ? FormatKey(*request.resource,
                      std::vector<std::string_view>(request.items[0].key.begin(), request.items[0].key.end()))
          : "";
  if (!MayWrite(request)) {
    co_await AuditDenied(context, request.resource->name, ActionName(request.kind), record, postgres);
    co_return MakeProblem("forbidden", "this change is not allowed");
  }
  const AccessSource access_of = [&](const Resource& resource) { return cache->AccessOf(resource, context.principal); };
  CheckedWrite checked;
  CO_RETURN_IF_ERROR(CheckWrite(request, *cache->model, access_of, context.principal.tenant == kAllTenants, checked));
  std::vector<const Resource*> written = {request.resource};
  for (const CheckedWrite::Children& children : checked.children) written.push_back(children.request.resource);
  const bool batch = request.is_batch();
  const Work work = [&](Runner& runner) -> awaitable<absl::StatusOr<Stored>> {
    absl::StatusOr<std::vector<WriteAnswer>> answers =
        co_await RunWrite(runner, *cache->model, context, request, checked);
    if (!answers.ok()) co_return answers.status();
    Stored stored;
    if (batch) {
      stored.status = 200;
      stored.body = "{\"results\":[";
      for (size_t i = 0; i < answers->size(); ++i) {
        if (i > 0) stored.body += ',';
        AppendResult((*answers)[i], StatusOf(request.kind, (*answers)[i]), terms.minimal, stored.body);
      }
      stored.body += "]}";
      co_return stored;
    }
    WriteAnswer& answer = (*answers)[0];
    stored.status = answer.created ? 201 : answer.json.empty() ? 204 : 200;
    if (answer.created) stored.location = StrCat("/v1/", request.resource->name, "/", answer.id);
    stored.etag = std::move(answer.etag);
    stored.body = std::move(answer.json);
    if (answer.created && stored.body.empty()) stored.body = "{}";
    co_return stored;
  };
  absl::StatusOr<Stored> stored =
      co_await InTransaction(cache, context, std::move(written), terms, postgres, http_request, work);
  if (!stored.ok() && ProblemFromStatus(stored.status()).type == "forbidden")
    co_await AuditDenied(context, request.resource->name, ActionName(request.kind), record, postgres);
  co_return stored;
}

absl::StatusOr<HttpWrites::Terms> HttpWrites::ReadTerms(const http::Request& request, const CallContext& context,
                                                        std::string_view body) const {
  Terms terms;
  ASSIGN_OR_RETURN(http::Parameters parameters, http::ParseQueryString(request.query));
  bool seen = false;
  for (const auto& [name, value] : parameters) {
    if (name != "validate_only") return BadParameter(name, "this parameter is not known here");
    if (seen || (value != "true" && value != "false")) return BadParameter(name, "true or false, once");
    seen = true;
    terms.validate_only = value == "true";
  }
  terms.minimal = PrefersMinimal(request);
  const std::string* header = request.Header("idempotency-key");
  if (header == nullptr) return terms;
  std::string_view token = Trim(*header);
  if (token.size() >= 2 && token.front() == '"' && token.back() == '"') token = token.substr(1, token.size() - 2);
  if (token.empty() || token.size() > 255 || token.find_first_of("\"\\ \t") != std::string_view::npos)
    return BadHeader("Idempotency-Key", "1 to 255 characters without blanks");
  std::sort(parameters.begin(), parameters.end());
  std::string query;
  for (const auto& [name, value] : parameters) StrAppend(&query, name, "=", value, "&");
  const std::string* type = request.Header("content-type");
  Idempotency made;
  made.scope =
      HexEncode(Sha256(StrCat(context.principal.subject, "\x1f", request.method, "\x1f", request.path, "\x1f", token)));
  made.fingerprint =
      HexEncode(Sha256(StrCat(request.path, "\x1f", query, "\x1f", type == nullptr ? "" : *type, "\x1f", body)));
  terms.idempotency = std::move(made);
  return terms;
}

http::Response HttpWrites::Respond(Stored stored, const Terms& terms, bool batch) {
  const bool empty = terms.minimal && stored.status == 200 && !batch;
  http::Response response;
  if (stored.status == 204 || empty) {
    response.status = 204;
    if (!stored.etag.empty()) response.headers.emplace_back("etag", std::move(stored.etag));
  } else {
    response = Json(stored.status, std::move(stored.body), std::move(stored.etag));
  }
  if (terms.minimal && (empty || batch)) response.headers.emplace_back("preference-applied", "return=minimal");
  if (!stored.location.empty()) response.headers.emplace_back("location", std::move(stored.location));
  if (stored.replayed) response.headers.emplace_back("idempotent-replayed", "true");
  return response;
}

awaitable<absl::StatusOr<http::Response>> HttpWrites::HandleWrite(http::Request& request, const CallContext& context,
                                                                  CachePtr cache, const Resource& resource,
                                                                  AccessPtr access, Kind kind,
                                                                  std::vector<std::string> key,
                                                                  postgres::AsyncPostgres& postgres) const {
  WriteRequest write{.kind = kind, .resource = &resource, .access = std::move(access)};
  write.items.push_back({.key = std::move(key)});
  if (kind == Kind::kUndelete && !cache->model->HasScope(context.principal.roles, "deleted-records:write"))
    co_return MakeProblem("forbidden", "bringing records back needs the scope deleted-records:write");
  // Preconditions.
  CO_ASSIGN_OR_RETURN(const Tags match, ParseTags(request, "if-match"));
  CO_ASSIGN_OR_RETURN(const Tags none, ParseTags(request, "if-none-match"));
  const bool may = MayWrite(write);  // said first, whatever else is wrong
  if (may) {
    if (kind == Kind::kCreate && match.present)
      co_return BadHeader("If-Match", "a record that is created has no version yet");
    if (none.present && !(kind == Kind::kPut && none.any))
      co_return BadHeader("If-None-Match", "only * and only with PUT");
    if (resource.if_match_required && !match.present && !none.present && kind != Kind::kCreate)
      co_return MakeProblem("precondition-required", "If-Match with the record's ETag is required");
  }
  write.items[0].versions = VersionsOf(match);
  write.create_only = none.present;
  write.must_exist = match.present && kind == Kind::kPut;
  // Body.
  absl::StatusOr<JsonDocument> document = absl::NotFoundError("");
  std::string body;
  if (may && kind != Kind::kDelete && kind != Kind::kUndelete) {
    CO_RETURN_IF_ERROR(CheckContentType(request, kind == Kind::kPatch));
    absl::StatusOr<std::string> read = co_await http::ReadAll(*request.body);
    if (!read.ok()) co_return read.status();
    body = *std::move(read);
    document = JsonDocument::Parse(body);
    if (!document.ok()) co_return document.status();
    write.items[0].body = &document->root();
  }
  CO_ASSIGN_OR_RETURN(const Terms terms, ReadTerms(request, context, body));
  absl::StatusOr<Stored> stored = co_await Write(std::move(cache), context, write, terms, postgres, &request);
  if (!stored.ok()) co_return stored.status();
  co_return Respond(*std::move(stored), terms, false);
}

awaitable<absl::StatusOr<http::Response>> HttpWrites::HandleBatch(http::Request& request, const CallContext& context,
                                                                  CachePtr cache, const Resource& resource,
                                                                  AccessPtr access, Kind kind,
                                                                  postgres::AsyncPostgres& postgres) const {
  WriteRequest write{.kind = kind, .resource = &resource, .access = std::move(access)};
  write.keys_inside = kind == Kind::kPatch || kind == Kind::kDelete;
  if (!MayWrite(write)) {
    co_await AuditDenied(context, resource.name, ActionName(kind), "", postgres);
    co_return MakeProblem("forbidden", "this change is not allowed");
  }
  CO_RETURN_IF_ERROR(CheckContentType(request, false));
  request.body->set_limit(kMaxBatchBody);
  absl::StatusOr<std::string> read = co_await http::ReadAll(*request.body);
  if (!read.ok()) co_return read.status();
  CO_ASSIGN_OR_RETURN(const Terms terms, ReadTerms(request, context, *read));
  CO_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(*std::move(read)));
  const JsonValue& root = document.root();
  if (!root.is_object()) co_return Wrong("", "invalid_type", "an object with items is expected");
  if (resource.by_filter && write.keys_inside && root.Find("items") == nullptr) {
    absl::StatusOr<Stored> stored =
        co_await WriteByFilter(std::move(cache), context, write, root, terms, postgres, request);
    if (!stored.ok()) co_return stored.status();
    co_return Respond(*std::move(stored), terms, true);
  }
  for (const JsonValue::Member& member : root.members())
    if (member.key != "items" && !(member.key == "key" && kind == Kind::kUpsert))
      co_return Wrong(StrCat("/", member.key), "unknown_field", "no such member");
  const JsonValue* items = root.Find("items");
  if (items == nullptr || !items->is_array()) co_return Wrong("/items", "required", "a list of items is expected");
  if (items->items().size() > kMaxItems) co_return Wrong("/items", "too_many", StrCat("at most ", kMaxItems, " items"));
  for (size_t i = 0; i < items->items().size(); ++i)
    write.items.push_back({.body = &items->items()[i], .pointer = StrCat("/items/", i)});
  if (const JsonValue* key = root.Find("key"); key != nullptr) {
    const bool list = key->is_array() && std::all_of(key->items().begin(), key->items().end(),
                                                     [](const JsonValue& v) { return v.is_string(); });
    if (!list || key->items().empty()) co_return Wrong("/key", "invalid_type", "a list of fields is expected");
    for (const JsonValue& name : key->items()) {
      const catalog::Field* field = resource.FindField(name.text());
      if (field == nullptr || !write.access->readable[static_cast<size_t>(field->position)])
        co_return Wrong("/key", "unknown_field", "no such field");
      write.natural_key.emplace_back(name.text());
    }
  }
  absl::StatusOr<Stored> stored = Stored{.status = 200, .body = "{\"results\":[]}"};
  if (!write.items.empty()) stored = co_await Write(std::move(cache), context, write, terms, postgres, &request);
  if (!stored.ok()) co_return stored.status();
  co_return Respond(*std::move(stored), terms, true);
}

awaitable<absl::StatusOr<HttpWrites::Stored>> HttpWrites::WriteByFilter(CachePtr cache, const CallContext& context,
                                                                        WriteRequest& write, const JsonValue& root,
                                                                        const Terms& terms,
                                                                        postgres::AsyncPostgres& postgres,
                                                                        const http::Request& request) const {
  const Resource& resource = *write.resource;
  const bool patching = write.kind == Kind::kPatch;
  for (const JsonValue::Member& member : root.members())
    if (member.key != "filter" && member.key != "max_affected" && !(member.key == "patch" && patching))
      co_return Wrong(StrCat("/", member.key), "unknown_field", "no such member");
  const JsonValue *filter = root.Find("filter"), *most = root.Find("max_affected"), *patch = root.Find("patch");
  // An empty filter is every row: whoever means that must say so in other words.
  if (filter == nullptr || !filter->is_object() || filter->members().empty())
    co_return Wrong("/filter", "required", "a filter with at least one condition is expected");
  int64_t max_affected = 0;
  if (most == nullptr || !most->is_number() || !absl::SimpleAtoi(ToAbsl(most->text()), &max_affected) ||
      max_affected < 1 || max_affected > kMaxAffected)
    co_return Wrong("/max_affected", "out_of_range", StrCat("between 1 and ", kMaxAffected));
  if (patching && patch == nullptr) co_return Wrong("/patch", "required", "what is to be changed is expected");
  if (resource.if_match_required)
    co_return MakeProblem("precondition-required", "records are changed one by one here, each with its ETag");
  common::v1::ListQuery query;
  CO_ASSIGN_OR_RETURN(*query.mutable_filter(),
                      http::ParseFilterJson(*filter, "/filter", {.values = http::kMaxValuesInBody}));
  const AccessSource access_of = [&](const Resource& other) { return cache->AccessOf(other, context.principal); };
  Resolver resolver(*cache->model, context, ResolveOptions{.expansions = false}, access_of);
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<ListQuery> resolved, resolver.Resolve(resource, query));
  // The patch alone, before any row is looked for.
  write.keys_inside = false;
  const auto item = [&](std::vector<std::string> key) {
    return WriteItem{.key = std::move(key), .body = patching ? patch : nullptr, .pointer = "/patch"};
  };
  write.items = {item(std::vector<std::string>(resource.key.size()))};
  const bool all_tenants = context.principal.tenant == kAllTenants;
  CheckedWrite probe;
  CO_RETURN_IF_ERROR(CheckWrite(write, *cache->model, access_of, all_tenants, probe));
  const Work work = [&](Runner& runner) -> awaitable<absl::StatusOr<Stored>> {
    SqlBuilder sql(context);
    std::string keys;
    for (size_t p = 0; p < resource.key.size(); ++p)
      StrAppend(&keys, p > 0 ? ", " : "", Column("t0", resource.fields[static_cast<size_t>(resource.key[p])]));
    const std::string alias = sql.NewAlias();
    const std::string where = sql.Scope(alias, resource, write.access->where(Action::kRead), Deleted::kHide);
    sql.text = StrCat("SELECT ", keys, " FROM ", TableOf(resource), " ", alias, " WHERE ", where, " AND ",
                      sql.Where(alias, resource, *resolved->filter), " ORDER BY ", keys, " LIMIT ", max_affected + 1,
                      resource.view ? ""
                      : patching    ? " FOR NO KEY UPDATE OF t0"
                                    : " FOR UPDATE OF t0");
    absl::StatusOr<RowsPtr> found = co_await runner.RunAnew(std::move(sql.text), std::move(sql.params));
    if (!found.ok()) co_return found.status();
    const int n = (*found)->rows();
    if (n > max_affected) co_return MakeProblem("max-affected-exceeded", "the filter covers more records than that");
    WriteRequest each = write;
    each.items.clear();
    for (int r = 0; r < n; ++r) {
      std::vector<std::string> key;
      for (size_t p = 0; p < resource.key.size(); ++p) key.emplace_back((*found)->Get(r, static_cast<int>(p)));
      each.items.push_back(item(std::move(key)));
    }
    if (n > 0) {
      CheckedWrite checked;
      CO_RETURN_IF_ERROR(CheckWrite(each, *cache->model, access_of, all_tenants, checked));
      const absl::StatusOr<std::vector<WriteAnswer>> answers =
          co_await RunWrite(runner, *cache->model, context, each, checked);
      if (!answers.ok()) co_return answers.status();
    }
    co_return Stored{.status = 200, .body = StrCat("{\"affected\":", n, "}")};
  };
  const std::vector<const Resource*> written = {&resource};
  absl::StatusOr<Stored> stored = co_await InTransaction(cache, context, written, terms, postgres, &request, work);
  co_return stored;
}

// ---- several operations in one transaction ----

struct HttpWrites::Operation {
  WriteRequest write;
  const JsonValue* body = nullptr;
  const JsonValue* id_ref = nullptr;
  std::string pointer;
};

absl::StatusOr<HttpWrites::Operation> HttpWrites::ReadOperation(const JsonValue& value, size_t index,
                                                                const ModelCache& cache, const AccessSource& access_of,
                                                                const CallContext& context) const {
  Operation out;
  out.pointer = StrCat("/operations/", index);
  const auto at = [&](std::string_view name) { return StrCat(out.pointer, "/", name); };
  if (!value.is_object()) return Wrong(out.pointer, "invalid_type", "object expected");
  for (const JsonValue::Member& member : value.members())
    if (member.key != "method" && member.key != "resource" && member.key != "id" && member.key != "body" &&
        member.key != "if_match")
      return Wrong(at(member.key), "unknown_field", "no such member");
  static constexpr std::pair<std::string_view, Kind> kMethods[] = {{"create", Kind::kCreate},
                                                                   {"update", Kind::kPatch},
                                                                   {"replace", Kind::kPut},
                                                                   {"delete", Kind::kDelete},
                                                                   {"undelete", Kind::kUndelete}};
  const JsonValue *method = value.Find("method"), *name = value.Find("resource"), *id = value.Find("id"),
                  *if_match = value.Find("if_match");
  const auto* known = method == nullptr || !method->is_string()
                          ? std::end(kMethods)
                          : std::find_if(std::begin(kMethods), std::end(kMethods),
                                         [&](const auto& m) { return m.first == method->text(); });
  if (known == std::end(kMethods))
    return Wrong(at("method"), "one_of", "create, update, replace, delete or undelete expected");
  out.write.kind = known->second;
  if (name == nullptr || !name->is_string()) return Wrong(at("resource"), "required", "a resource is expected");
  absl::StatusOr<const Resource*> resource = FindResource(cache.model, name->text());
  if (!resource.ok()) return Below(at("resource"), resource.status());
  out.write.resource = *resource;
  out.write.access = access_of(**resource);
  out.write.refs = true;
  if ((*resource)->read_only || !MayWrite(out.write) ||
      (out.write.kind == Kind::kUndelete &&
       ((*resource)->deleted_at < 0 || !cache.model->HasScope(context.principal.roles, "deleted-records:write"))) ||
      (out.write.kind == Kind::kPut && !(*resource)->client_chooses_key))
    return MakeProblem("forbidden", "this change is not allowed", {{.name = out.pointer, .code = "forbidden"}});
  WriteItem item{.pointer = at("body")};
  const bool creating = out.write.kind == Kind::kCreate;
  if (creating != (id == nullptr))
    return Wrong(at("id"), creating ? "unknown_field" : "required",
                 creating ? "the key stands in the body" : "it names the record");
  if (id != nullptr) {
    out.id_ref = FindRef(*id);
    if (out.id_ref == nullptr) {
      if (!id->is_string()) return Wrong(at("id"), "invalid_type", "text expected, as in a path");
      absl::StatusOr<std::vector<std::string>> key = ParseKey(**resource, id->text());
      if (!key.ok()) return Below(at("id"), key.status());
      item.key = *std::move(key);
    } else if ((*resource)->key.size() == 1) {
      item.key = {""};
    } else {
      return Wrong(at("id"), "invalid_reference", "a key of several parts can't be referred to");
    }
  }
  if (if_match != nullptr) {
    if (creating || !if_match->is_string()) return Wrong(at("if_match"), "invalid_type", "an entity tag is expected");
    absl::StatusOr<std::vector<std::string>> versions = VersionsOfText(if_match->text());
    if (!versions.ok()) return Wrong(at("if_match"), "invalid_type", "an entity tag is expected");
    item.versions = *std::move(versions);
    out.write.must_exist = out.write.kind == Kind::kPut;
  } else if ((*resource)->if_match_required && !creating) {
    return MakeProblem("precondition-required", "if_match with the record's etag is required",
                       {{.name = out.pointer, .code = "precondition_required"}});
  }
  out.body = value.Find("body");
  const bool bodiless = out.write.kind == Kind::kDelete || out.write.kind == Kind::kUndelete;
  if (bodiless == (out.body != nullptr))
    return Wrong(at("body"), bodiless ? "unknown_field" : "required",
                 bodiless ? "nothing is expected here" : "the record is expected");
  item.body = out.body;
  out.write.items.push_back(std::move(item));
  return out;
}

namespace {

// "3.id" → the operation and the field. Only earlier ones.
std::optional<std::pair<size_t, std::string_view>> ParseRef(const JsonValue& ref, size_t before) {
  if (!ref.is_string()) return std::nullopt;
  const std::string_view text = ref.text();
  const size_t dot = text.find('.');
  size_t index = 0;
  if (dot == std::string_view::npos || dot == 0 || dot > 2 || dot + 1 == text.size() ||
      !absl::SimpleAtoi(ToAbsl(text.substr(0, dot)), &index) || index >= before)
    return std::nullopt;
  return std::pair(index, text.substr(dot + 1));
}

// The value of that field as JSON text; "" when the result does not show it.
std::string_view Referred(const std::pair<size_t, std::string_view>& ref,
                          const std::vector<std::optional<JsonDocument>>& results) {
  if (!results[ref.first].has_value()) return "";
  const JsonValue* value = results[ref.first]->root().Find(ref.second);
  return value == nullptr ? std::string_view() : value->raw();
}

absl::Status BadRef(std::string_view pointer) {
  return Wrong(pointer, "invalid_reference", "a field of an earlier operation's result is expected: \"0.id\"");
}

}  // namespace

awaitable<absl::StatusOr<HttpWrites::Stored>> HttpWrites::RunOperations(Runner& runner, const ModelCache& cache,
                                                                        const AccessSource& access_of,
                                                                        const CallContext& context,
                                                                        const std::vector<Operation>& operations,
                                                                        bool minimal) const {
  Stored stored{.status = 200, .body = "{\"results\":["};
  std::vector<std::optional<JsonDocument>> results;
  for (size_t i = 0; i < operations.size(); ++i) {
    const Operation& operation = operations[i];
    WriteRequest write = operation.write;
    write.refs = false;
    WriteItem& item = write.items[0];
    std::optional<JsonDocument> body;
    if (operation.id_ref != nullptr) {
      const auto ref = ParseRef(*operation.id_ref, i);
      const std::string_view raw = ref.has_value() ? Referred(*ref, results) : std::string_view();
      if (raw.empty()) co_return BadRef(StrCat(operation.pointer, "/id"));
      CO_ASSIGN_OR_RETURN(const JsonDocument parsed, JsonDocument::Parse(std::string(raw)));
      absl::StatusOr<std::vector<std::string>> key =
          ParseKey(*write.resource, PercentEncode(parsed.root().is_string() ? parsed.root().text() : raw));
      if (!key.ok()) co_return Below(StrCat(operation.pointer, "/id"), key.status());
      item.key = *std::move(key);
    }
    if (operation.body != nullptr && operation.body->is_object()) {
      std::string text;
      JsonWriter json(text);
      json.BeginObject();
      for (const JsonValue::Member& member : operation.body->members()) {
        const JsonValue* found = FindRef(member.value);
        std::string_view raw = member.value.raw();
        if (found != nullptr) {
          const auto ref = ParseRef(*found, i);
          raw = ref.has_value() ? Referred(*ref, results) : std::string_view();
          if (raw.empty()) co_return BadRef(StrCat(item.pointer, "/", member.key));
        }
        json.Key(member.key).Raw(raw);
      }
      json.EndObject();
      CO_ASSIGN_OR_RETURN(body, JsonDocument::Parse(std::move(text)));
      item.body = &body->root();
    }
    CheckedWrite checked;
    CO_RETURN_IF_ERROR(CheckWrite(write, *cache.model, access_of, context.principal.tenant == kAllTenants, checked));
    const absl::StatusOr<std::vector<WriteAnswer>> answers =
        co_await RunWrite(runner, *cache.model, context, write, checked);
    if (!answers.ok()) co_return answers.status();
    const WriteAnswer& answer = (*answers)[0];
    if (i > 0) stored.body += ',';
    AppendResult(answer, StatusOf(write.kind, answer), minimal, stored.body);
    results.emplace_back();
    if (!answer.json.empty()) {
      CO_ASSIGN_OR_RETURN(results.back(), JsonDocument::Parse(answer.json));
    }
  }
  stored.body += "]}";
  co_return stored;
}

awaitable<absl::StatusOr<HttpWrites::Stored>> HttpWrites::WriteOperations(CachePtr cache, const CallContext& context,
                                                                          const JsonValue& root, const Terms& terms,
                                                                          postgres::AsyncPostgres& postgres,
                                                                          const http::Request* request) const {
  const JsonValue* list = root.Find("operations");
  if (!root.is_object() || list == nullptr || !list->is_array() || root.members().size() != 1)
    co_return Wrong("/operations", "required", "a list of operations is expected, and nothing else");
  if (list->items().size() > kMaxOperations)
    co_return Wrong("/operations", "too_many", StrCat("at most ", kMaxOperations, " operations"));
  const AccessSource access_of = [&](const Resource& other) { return cache->AccessOf(other, context.principal); };
  std::vector<Operation> operations;
  std::vector<const Resource*> written;
  std::vector<FieldError> wrong;
  for (size_t i = 0; i < list->items().size(); ++i) {
    absl::StatusOr<Operation> operation = ReadOperation(list->items()[i], i, *cache, access_of, context);
    absl::Status status = operation.status();
    CheckedWrite checked;
    if (status.ok())
      status = CheckWrite(operation->write, *cache->model, access_of, context.principal.tenant == kAllTenants, checked);
    if (status.ok() && operation->body != nullptr && operation->body->is_object()) {
      for (const JsonValue::Member& member : operation->body->members()) {
        const JsonValue* ref = FindRef(member.value);
        if (ref != nullptr && !ParseRef(*ref, i).has_value() && status.ok())
          status = BadRef(StrCat(operation->write.items[0].pointer, "/", member.key));
      }
    }
    if (!status.ok()) {
      Problem problem = ProblemFromStatus(status);
      if (problem.type == "forbidden") {
        const JsonValue* name = list->items()[i].Find("resource");
        const std::string_view resource = name == nullptr ? std::string_view() : name->text();
        co_await AuditDenied(context, resource, "batch", "", postgres);
      }
      if (problem.type != "validation-failed") co_return status;
      wrong.insert(wrong.end(), problem.errors.begin(), problem.errors.end());
      continue;
    }
    written.push_back(operation->write.resource);
    operations.push_back(*std::move(operation));
  }
  if (!wrong.empty()) co_return WriteFailure(std::move(wrong), true);
  const Work work = [&](Runner& runner) -> awaitable<absl::StatusOr<Stored>> {
    absl::StatusOr<Stored> stored =
        co_await RunOperations(runner, *cache, access_of, context, operations, terms.minimal);
    co_return stored;
  };
  absl::StatusOr<Stored> stored =
      co_await InTransaction(cache, context, std::move(written), terms, postgres, request, work);
  co_return stored;
}

awaitable<absl::StatusOr<http::Response>> HttpWrites::HandleOperations(http::Request& request,
                                                                       const CallContext& context, CachePtr cache,
                                                                       postgres::AsyncPostgres& postgres) const {
  CO_RETURN_IF_ERROR(CheckContentType(request, false));
  request.body->set_limit(kMaxBatchBody);
  absl::StatusOr<std::string> read = co_await http::ReadAll(*request.body);
  if (!read.ok()) co_return read.status();
  CO_ASSIGN_OR_RETURN(const Terms terms, ReadTerms(request, context, *read));
  CO_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(*std::move(read)));
  absl::StatusOr<Stored> stored =
      co_await WriteOperations(std::move(cache), context, document.root(), terms, postgres, &request);
  if (!stored.ok()) co_return stored.status();
  co_return Respond(*std::move(stored), terms, true);
}

// ---- records.v1 ----

awaitable<absl::StatusOr<v1::Record>> HttpWrites::Create(const v1::CreateRecordRequest& request,
                                                         const CallContext& context, const ModelPtr& model,
                                                         postgres::AsyncPostgres& postgres) const {
  CO_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(request.json()));
  WriteRequest write{.kind = Kind::kCreate};
  write.items.push_back({.body = &document.root()});
  absl::StatusOr<v1::Record> record = co_await WriteOne(std::move(write), request.resource(), "", "",
                                                        request.validate_only(), context, model, postgres);
  co_return record;
}

awaitable<absl::StatusOr<v1::Record>> HttpWrites::Update(const v1::UpdateRecordRequest& request,
                                                         const CallContext& context, const ModelPtr& model,
                                                         postgres::AsyncPostgres& postgres) const {
  CO_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(request.json()));
  WriteRequest write{.kind = Kind::kPatch};
  write.items.push_back({.body = &document.root()});
  absl::StatusOr<v1::Record> record =
      co_await WriteOne(std::move(write), request.resource(), request.id(), request.if_match(), request.validate_only(),
                        context, model, postgres);
  co_return record;
}

awaitable<absl::Status> HttpWrites::Delete(const v1::DeleteRecordRequest& request, const CallContext& context,
                                           const ModelPtr& model, postgres::AsyncPostgres& postgres) const {
  WriteRequest write{.kind = Kind::kDelete};
  write.items.emplace_back();
  const absl::StatusOr<v1::Record> record = co_await WriteOne(std::move(write), request.resource(), request.id(),
                                                              request.if_match(), false, context, model, postgres);
  co_return record.status();
}

awaitable<absl::StatusOr<v1::Record>> HttpWrites::WriteOne(WriteRequest write, const std::string& name,
                                                           const std::string& id, const std::string& if_match,
                                                           bool validate_only, const CallContext& context,
                                                           const ModelPtr& model,
                                                           postgres::AsyncPostgres& postgres) const {
  CO_ASSIGN_OR_RETURN(write.resource, FindResource(model, name));
  const CachePtr cache = CacheFor(model);
  write.access = cache->AccessOf(*write.resource, context.principal);
  if (MayWrite(write) && write.kind != Kind::kCreate) {
    CO_ASSIGN_OR_RETURN(write.items[0].key, ParseKey(*write.resource, id));
    CO_ASSIGN_OR_RETURN(write.items[0].versions, VersionsOfText(if_match));
    if (write.resource->if_match_required && if_match.empty())
      co_return MakeProblem("precondition-required", "if_match with the record's etag is required");
  }
  const Terms terms{.validate_only = validate_only};
  absl::StatusOr<Stored> stored = co_await Write(cache, context, write, terms, postgres, nullptr);
  if (!stored.ok()) co_return stored.status();
  v1::Record record;
  record.set_json(std::move(stored->body));
  record.set_etag(std::move(stored->etag));
  co_return record;
}

awaitable<absl::StatusOr<v1::BatchRecordsResponse>> HttpWrites::Batch(const v1::BatchRecordsRequest& request,
                                                                      const CallContext& context, const ModelPtr& model,
                                                                      postgres::AsyncPostgres& postgres) const {
  CO_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(request.json()));
  const Terms terms{.validate_only = request.validate_only()};
  absl::StatusOr<Stored> stored =
      co_await WriteOperations(CacheFor(model), context, document.root(), terms, postgres, nullptr);
  if (!stored.ok()) co_return stored.status();
  v1::BatchRecordsResponse response;
  response.set_json(std::move(stored->body));
  co_return response;
}

}  // namespace mainstay::records
