// SPDX-License-Identifier: Apache-2.0
#include "libs/records/http_write.h"

#include <algorithm>

#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/http/list_query.h"
#include "libs/postgres/errors.h"

namespace mainstay::records {

using boost::asio::awaitable;
using catalog::ModelPtr;
using catalog::Resource;

struct HttpWrites::Idempotency {
  std::string scope, fingerprint;  // hex
};
struct HttpWrites::Stored {
  int status = 0;
  std::string location, etag, body;
  bool replayed = false;
};

namespace {

constexpr int kWriteAttempts = 3;

absl::Status DeferredFailure(std::vector<FieldError> errors) {
  std::string_view type = "validation-failed";
  for (FieldError& error : errors) {
    if (!error.name.empty()) error.name = "/" + error.name;
    if (error.code == "unique") type = "unique-violation";
    if (error.code == "still_referenced") type = "still-referenced";
  }
  return MakeProblem(type, "the database refused the change", std::move(errors));
}

absl::StatusOr<std::vector<std::string>> VersionsOfText(std::string_view if_match) {
  http::Request request;
  if (!if_match.empty()) request.headers.emplace_back("if-match", if_match);
  ASSIGN_OR_RETURN(const Tags tags, ParseTags(request, "if-match"));
  return VersionsOf(tags);
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

awaitable<absl::StatusOr<HttpWrites::Stored>> HttpWrites::Write(CachePtr cache, const CallContext& context,
                                                                const WriteRequest& request, bool validate_only,
                                                                const Idempotency* idempotency,
                                                                postgres::AsyncPostgres& postgres,
                                                                const http::Request* http_request) const {
  MergeRows rows;
  CO_RETURN_IF_ERROR(CheckBody(request, context.principal.tenant == kAllTenants, rows));
  ListQuery projection;  // what a read by id shows by default
  projection.resource = request.resource;
  projection.access = request.access;
  for (const catalog::Field& field : request.resource->fields)
    if (request.access->readable[static_cast<size_t>(field.position)]) projection.output.push_back(field.position);
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
    if (idempotency != nullptr) {
      absl::StatusOr<std::optional<Stored>> earlier = co_await FindStored(*runner, context, *idempotency);
      status = earlier.status();
      if (status.ok() && earlier->has_value()) {
        stored = **std::move(earlier);
        done = true;
      }
    }
    if (status.ok() && !done) {
      absl::StatusOr<WriteAnswer> answer =
          co_await RunWrite(*runner, *cache->model, context, request, rows, projection);
      status = answer.status();
      if (status.ok()) {
        stored.status = answer->json.empty() ? 204 : answer->created ? 201 : 200;
        if (answer->created) stored.location = StrCat("/v1/", request.resource->name, "/", answer->id);
        stored.etag = std::move(answer->etag);
        stored.body = std::move(answer->json);
        if (answer->created && stored.body.empty()) {
          stored.status = 201;
          stored.body = "{}";
        }
        if (idempotency != nullptr && !validate_only) status = co_await Store(*runner, context, *idempotency, stored);
      }
    }
    absl::Status ended;
    if (status.ok() && !validate_only && !stored.replayed) {
      ended = co_await session->Commit();
      if (!ended.ok()) status = ended;
    } else {
      ended = co_await session->Rollback();
    }
    if (status.ok()) co_return stored;
    const auto error = postgres::GetSqlError(status);
    const bool collided = error.has_value() && (error->sqlstate == "40001" || error->sqlstate == "40P01");
    if (!collided || attempt == kWriteAttempts || absl::Now() >= context.deadline) {
      // What only COMMIT finds (deferred constraints) is about this row too.
      if (error.has_value()) {
        std::vector<FieldError> errors = RowErrors(*request.resource, status);
        if (!errors.empty()) co_return DeferredFailure(std::move(errors));
      }
      co_return status;
    }
  }
}

awaitable<absl::StatusOr<http::Response>> HttpWrites::HandleWrite(http::Request& request, const CallContext& context,
                                                                  CachePtr cache, const Resource& resource,
                                                                  AccessPtr access, WriteRequest::Kind kind,
                                                                  std::vector<std::string> key,
                                                                  postgres::AsyncPostgres& postgres) const {
  WriteRequest write{.kind = kind, .resource = &resource, .access = access, .key = std::move(key)};
  const Action action = kind == WriteRequest::Kind::kCreate   ? Action::kCreate
                        : kind == WriteRequest::Kind::kDelete ? Action::kDelete
                                                              : Action::kUpdate;
  const bool may = access->can(action) || (kind == WriteRequest::Kind::kPut && access->can(Action::kCreate));
  if (!may) co_return MakeProblem("forbidden", "this change is not allowed");
  // Parameters.
  bool validate_only = false;
  CO_ASSIGN_OR_RETURN(const http::Parameters parameters, http::ParseQueryString(request.query));
  bool seen = false;
  for (const auto& [name, value] : parameters) {
    if (name != "validate_only") co_return BadParameter(name, "this parameter is not known here");
    if (seen || (value != "true" && value != "false")) co_return BadParameter(name, "true or false, once");
    seen = true;
    validate_only = value == "true";
  }
  // Preconditions.
  CO_ASSIGN_OR_RETURN(const Tags match, ParseTags(request, "if-match"));
  CO_ASSIGN_OR_RETURN(const Tags none, ParseTags(request, "if-none-match"));
  if (kind == WriteRequest::Kind::kCreate && match.present)
    co_return BadHeader("If-Match", "a record that is created has no version yet");
  if (none.present && !(kind == WriteRequest::Kind::kPut && none.any))
    co_return BadHeader("If-None-Match", "only * and only with PUT");
  if (resource.if_match_required && !match.present && !none.present && kind != WriteRequest::Kind::kCreate)
    co_return MakeProblem("precondition-required", "If-Match with the record's ETag is required");
  write.versions = VersionsOf(match);
  write.create_only = none.present;
  write.must_exist = match.present && kind == WriteRequest::Kind::kPut;
  // Body.
  absl::StatusOr<JsonDocument> document = absl::NotFoundError("");
  std::string body;
  if (kind != WriteRequest::Kind::kDelete) {
    CO_RETURN_IF_ERROR(CheckContentType(request, kind == WriteRequest::Kind::kPatch));
    absl::StatusOr<std::string> read = co_await http::ReadAll(*request.body);
    if (!read.ok()) co_return read.status();
    body = *std::move(read);
    document = JsonDocument::Parse(body);
    if (!document.ok()) co_return document.status();
    write.body = &document->root();
  }
  // Idempotency-Key.
  std::optional<Idempotency> idempotency;
  if (const std::string* header = request.Header("idempotency-key"); header != nullptr) {
    std::string_view token = Trim(*header);
    if (token.size() >= 2 && token.front() == '"' && token.back() == '"') token = token.substr(1, token.size() - 2);
    if (token.empty() || token.size() > 255 || token.find_first_of("\"\\ \t") != std::string_view::npos)
      co_return BadHeader("Idempotency-Key", "1 to 255 characters without blanks");
    CO_ASSIGN_OR_RETURN(http::Parameters sorted, http::ParseQueryString(request.query));
    std::sort(sorted.begin(), sorted.end());
    std::string query;
    for (const auto& [name, value] : sorted) StrAppend(&query, name, "=", value, "&");
    const std::string* type = request.Header("content-type");
    Idempotency made;
    made.scope = HexEncode(
        Sha256(StrCat(context.principal.subject, "\x1f", request.method, "\x1f", request.path, "\x1f", token)));
    made.fingerprint =
        HexEncode(Sha256(StrCat(request.path, "\x1f", query, "\x1f", type == nullptr ? "" : *type, "\x1f", body)));
    idempotency = std::move(made);
  }
  absl::StatusOr<Stored> stored = co_await Write(cache, context, write, validate_only,
                                                 idempotency.has_value() ? &*idempotency : nullptr, postgres, &request);
  if (!stored.ok()) co_return stored.status();
  const std::string* prefer = request.Header("prefer");
  const bool minimal =
      prefer != nullptr && prefer->find("return=minimal") != std::string::npos && stored->status == 200;
  http::Response response;
  if (stored->status == 204 || minimal) {
    response.status = 204;
    if (!stored->etag.empty()) response.headers.emplace_back("etag", stored->etag);
    if (minimal) response.headers.emplace_back("preference-applied", "return=minimal");
  } else {
    response = Json(stored->status, std::move(stored->body), std::move(stored->etag));
  }
  if (!stored->location.empty()) response.headers.emplace_back("location", std::move(stored->location));
  if (stored->replayed) response.headers.emplace_back("idempotent-replayed", "true");
  co_return response;
}

awaitable<absl::StatusOr<v1::Record>> HttpWrites::Create(const v1::CreateRecordRequest& request,
                                                         const CallContext& context, const ModelPtr& model,
                                                         postgres::AsyncPostgres& postgres) const {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, FindResource(model, request.resource()));
  const CachePtr cache = CacheFor(model);
  CO_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(request.json()));
  WriteRequest write{.kind = WriteRequest::Kind::kCreate,
                     .resource = resource,
                     .access = cache->AccessOf(*resource, context.principal),
                     .body = &document.root()};
  if (!write.access->can(Action::kCreate)) co_return MakeProblem("forbidden", "this change is not allowed");
  absl::StatusOr<Stored> stored =
      co_await Write(cache, context, write, request.validate_only(), nullptr, postgres, nullptr);
  if (!stored.ok()) co_return stored.status();
  v1::Record record;
  record.set_json(std::move(stored->body));
  record.set_etag(std::move(stored->etag));
  co_return record;
}

awaitable<absl::StatusOr<v1::Record>> HttpWrites::Update(const v1::UpdateRecordRequest& request,
                                                         const CallContext& context, const ModelPtr& model,
                                                         postgres::AsyncPostgres& postgres) const {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, FindResource(model, request.resource()));
  const CachePtr cache = CacheFor(model);
  CO_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(request.json()));
  WriteRequest write{.kind = WriteRequest::Kind::kPatch,
                     .resource = resource,
                     .access = cache->AccessOf(*resource, context.principal),
                     .body = &document.root()};
  if (!write.access->can(Action::kUpdate)) co_return MakeProblem("forbidden", "this change is not allowed");
  CO_ASSIGN_OR_RETURN(write.key, ParseKey(*resource, request.id()));
  CO_ASSIGN_OR_RETURN(write.versions, VersionsOfText(request.if_match()));
  if (resource->if_match_required && request.if_match().empty())
    co_return MakeProblem("precondition-required", "if_match with the record's etag is required");
  absl::StatusOr<Stored> stored =
      co_await Write(cache, context, write, request.validate_only(), nullptr, postgres, nullptr);
  if (!stored.ok()) co_return stored.status();
  v1::Record record;
  record.set_json(std::move(stored->body));
  record.set_etag(std::move(stored->etag));
  co_return record;
}

awaitable<absl::Status> HttpWrites::Delete(const v1::DeleteRecordRequest& request, const CallContext& context,
                                           const ModelPtr& model, postgres::AsyncPostgres& postgres) const {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, FindResource(model, request.resource()));
  const CachePtr cache = CacheFor(model);
  WriteRequest write{.kind = WriteRequest::Kind::kDelete,
                     .resource = resource,
                     .access = cache->AccessOf(*resource, context.principal)};
  if (!write.access->can(Action::kDelete)) co_return MakeProblem("forbidden", "this change is not allowed");
  CO_ASSIGN_OR_RETURN(write.key, ParseKey(*resource, request.id()));
  CO_ASSIGN_OR_RETURN(write.versions, VersionsOfText(request.if_match()));
  if (resource->if_match_required && request.if_match().empty())
    co_return MakeProblem("precondition-required", "if_match with the record's etag is required");
  absl::StatusOr<Stored> stored = co_await Write(cache, context, write, false, nullptr, postgres, nullptr);
  co_return stored.status();
}

}  // namespace mainstay::records
