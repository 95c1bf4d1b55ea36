// SPDX-License-Identifier: Apache-2.0
#include "libs/records/http.h"

#include <algorithm>
#include <unordered_map>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/http/list_query.h"
#include "libs/postgres/errors.h"
#include "libs/records/read.h"
#include "libs/records/write.h"
#include "mainstay/records/v1/records.pb.h"

namespace mainstay::records {
namespace {

using boost::asio::awaitable;
using catalog::ModelPtr;
using catalog::Resource;

constexpr std::string_view kSnapshot = "ISOLATION LEVEL REPEATABLE READ, READ ONLY";
constexpr int kWriteAttempts = 3;
constexpr size_t kMaxCached = 2048;

// A read by id, planned.
struct GetPlan {
  std::unique_ptr<ListQuery> query;
  Columns columns;
  postgres::SqlPtr sql;
  postgres::Params params;  // the key's come first
  std::vector<std::pair<int, Operand::Kind>> principal_params;
  bool reusable = true;
  explicit GetPlan(std::unique_ptr<ListQuery> q) : query(std::move(q)), columns(ColumnsOf(*query, true)) {}
};

// What one thread has worked out for one model.
struct ModelCache {
  ModelPtr model;
  std::shared_ptr<SqlCache> sql = std::make_shared<SqlCache>();
  std::unordered_map<std::string, AccessPtr> access;
  std::unordered_map<std::string, std::shared_ptr<const GetPlan>> gets;
  std::unordered_map<const Resource*, AccessPtr> admin;

  AccessPtr AccessOf(const Resource& resource, const Principal& principal) {
    std::string key = resource.name;
    for (const std::string& role : principal.roles) StrAppend(&key, "\x1f", role);
    if (access.size() > kMaxCached) access.clear();
    AccessPtr& found = access[std::move(key)];
    if (found == nullptr) found = MakeAccess(*model, resource, principal.roles);
    return found;
  }
};
using CachePtr = std::shared_ptr<ModelCache>;

CachePtr CacheFor(const ModelPtr& model) {
  // Requests keep the cache they began with, so a swap of the model in the middle of one changes nothing for it.
  thread_local CachePtr current;
  if (current == nullptr || current->model != model) {
    current = std::make_shared<ModelCache>();
    current->model = model;
  }
  return current;
}

absl::Status NotFound() {
  return MakeProblem("not-found", "");
}
absl::Status BadHeader(std::string_view name, std::string_view detail) {
  return MakeProblem("invalid-parameter", detail,
                     {{.place = FieldError::Place::kHeader,
                       .name = std::string(name),
                       .code = "invalid",
                       .detail = std::string(detail)}});
}
absl::Status BadParameter(std::string_view name, std::string_view detail) {
  return MakeProblem("invalid-parameter", detail,
                     {{.place = FieldError::Place::kParameter,
                       .name = std::string(name),
                       .code = "invalid",
                       .detail = std::string(detail)}});
}
absl::Status NotAllowed(std::string_view allow) {
  return MakeProblem(Problem{.type = "method-not-allowed", .members = {{"allow", StrCat("\"", allow, "\"")}}});
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

struct Tags {
  bool present = false, any = false;
  std::vector<std::pair<std::string, bool>> tags;  // opaque text, weak
};
absl::StatusOr<Tags> ParseTags(const http::Request& request, std::string_view name) {
  Tags out;
  const std::string* header = request.Header(name);
  if (header == nullptr) return out;
  out.present = true;
  std::string_view rest = Trim(*header);
  if (rest == "*") {
    out.any = true;
    return out;
  }
  while (!rest.empty()) {
    bool weak = false;
    if (rest.starts_with("W/")) {
      weak = true;
      rest.remove_prefix(2);
    }
    const size_t end = rest.starts_with('"') ? rest.find('"', 1) : std::string_view::npos;
    if (end == std::string_view::npos) return BadHeader(name, "entity tags in quotes are expected");
    out.tags.emplace_back(std::string(rest.substr(1, end - 1)), weak);
    rest = Trim(rest.substr(end + 1));
    if (rest.empty()) break;
    if (!rest.starts_with(',')) return BadHeader(name, "entity tags are separated by commas");
    rest = Trim(rest.substr(1));
    if (rest.empty() || out.tags.size() > 200) return BadHeader(name, "entity tags in quotes are expected");
  }
  if (out.tags.empty()) return BadHeader(name, "entity tags in quotes are expected");
  return out;
}

// The row versions that If-Match names. Weak tags name none.
std::vector<std::string> VersionsOf(const Tags& tags) {
  std::vector<std::string> out;
  if (!tags.present || tags.any) return out;
  for (const auto& [tag, weak] : tags.tags)
    out.push_back(weak ? "\x01" : tag.substr(0, tag.rfind('.')));  // \x01 is no version
  return out;
}

bool Matches(const Tags& tags, std::string_view etag) {
  if (!tags.present) return false;
  if (tags.any) return true;
  if (etag.starts_with("W/")) etag.remove_prefix(2);
  for (const auto& [tag, weak] : tags.tags)
    if (etag.size() == tag.size() + 2 && etag.substr(1, tag.size()) == tag) return true;
  return false;
}

absl::Status CheckAccept(const http::Request& request) {
  const std::string* accept = request.Header("accept");
  if (accept == nullptr) return absl::OkStatus();
  for (absl::string_view part : absl::StrSplit(*accept, ',')) {
    const std::string_view range = Trim(ToStd(part));
    const std::string_view type = Trim(range.substr(0, range.find(';')));
    if (type.empty() || type == "*/*" || type == "application/*" || type == "application/json") return absl::OkStatus();
  }
  return MakeProblem(Problem{.type = "not-acceptable",
                             .detail = "only application/json is served here",
                             .members = {{"accept", "\"application/json\""}}});
}

absl::Status CheckContentType(const http::Request& request, bool patch) {
  const auto refuse = [&] {
    return MakeProblem(
        Problem{.type = "unsupported-media-type",
                .detail = "application/json in UTF-8 is expected",
                .members = {patch ? std::pair<std::string, std::string>(
                                        "accept-patch", "\"application/merge-patch+json, application/json\"")
                                  : std::pair<std::string, std::string>("accept", "\"application/json\"")}});
  };
  const std::string* encoding = request.Header("content-encoding");
  if (encoding != nullptr && !absl::EqualsIgnoreCase(*encoding, "identity"))
    return MakeProblem(Problem{.type = "unsupported-media-type",
                               .detail = "send the body without a content coding",
                               .members = {{"accept-encoding", "\"identity\""}}});
  const std::string* header = request.Header("content-type");
  if (header == nullptr) return refuse();
  std::vector<absl::string_view> parts = absl::StrSplit(*header, ';');
  const std::string_view type = Trim(ToStd(parts[0]));
  if (!absl::EqualsIgnoreCase(ToAbsl(type), "application/json") &&
      !(patch && absl::EqualsIgnoreCase(ToAbsl(type), "application/merge-patch+json")))
    return refuse();
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::string_view parameter = Trim(ToStd(parts[i]));
    if (!absl::EqualsIgnoreCase(ToAbsl(parameter), "charset=utf-8") &&
        !absl::EqualsIgnoreCase(ToAbsl(parameter), "charset=\"utf-8\""))
      return refuse();
  }
  return absl::OkStatus();
}

http::Response Json(int status, std::string body, std::string etag) {
  http::Response response = http::Response::Json(status, std::move(body));
  response.headers.emplace_back("cache-control", "private, no-cache");
  response.headers.emplace_back("vary", "Authorization, Accept");
  if (!etag.empty()) response.headers.emplace_back("etag", std::move(etag));
  return response;
}

// The query as sent with another cursor.
std::string WithCursor(std::string_view query, std::string_view cursor) {
  std::string out;
  for (absl::string_view part : absl::StrSplit(ToAbsl(query), '&', absl::SkipEmpty())) {
    if (absl::StartsWith(part, "cursor=") || absl::StartsWith(part, "offset=")) continue;
    StrAppend(&out, out.empty() ? "" : "&", part);
  }
  StrAppend(&out, out.empty() ? "" : "&", "cursor=", cursor);
  return out;
}

// Cancels what a session runs when the client goes away.
void CancelOnDisconnect(const http::Request* request, const std::shared_ptr<postgres::Session>& session) {
  if (request == nullptr || !request->on_disconnect) return;
  request->on_disconnect([weak = std::weak_ptr<postgres::Session>(session)] {
    if (const auto alive = weak.lock()) alive->Cancel();
  });
}

struct OneRow {
  std::string json, etag;
};
struct ManyRows {
  std::vector<size_t> ends;  // of each row in json
  std::vector<std::string> etags;
  std::string json;  // rows joined by commas
  common::v1::Page page;
  bool counted = false;
};

struct Idempotency {
  std::string scope, fingerprint;  // hex
};
struct Stored {
  int status = 0;
  std::string location, etag, body;
  bool replayed = false;
};

}  // namespace

absl::Status Validate(const HttpApiOptions& options) {
  if (options.cursor_key.size() != 32) return absl::InvalidArgumentError("cursor_key: 32 bytes are expected");
  if (options.cursor_life <= absl::ZeroDuration() || options.idempotency_life <= absl::ZeroDuration())
    return absl::InvalidArgumentError("cursor_life and idempotency_life must be positive");
  if (options.exact_count_cap < 1) return absl::InvalidArgumentError("exact_count_cap must be positive");
  if (options.nested_default_limit < 1 || options.nested_default_limit > options.nested_max_limit)
    return absl::InvalidArgumentError("nested_default_limit must be between 1 and nested_max_limit");
  return absl::OkStatus();
}

struct HttpApi::Impl {
  Impl(HttpApiOptions o, Clock& c) : options(std::move(o)), clock(c) {}

  ReadOptions Reading() const {
    return {.cursor_key = options.cursor_key,
            .cursor_life = options.cursor_life,
            .exact_count_cap = options.exact_count_cap,
            .now = clock.Now()};
  }
  Resolver MakeResolver(ModelCache& cache, const CallContext& context) const {
    return Resolver(
        *cache.model, context,
        ResolveOptions{.nested_default_limit = options.nested_default_limit,
                       .nested_max_limit = options.nested_max_limit},
        [&cache, &context](const Resource& resource) { return cache.AccessOf(resource, context.principal); });
  }

  absl::StatusOr<const Resource*> FindResource(const ModelPtr& model, std::string_view name) const {
    const Resource* resource = model->FindResource(name);
    if (resource == nullptr) return NotFound();
    if (!resource->problem.empty())
      return MakeProblem("resource-unavailable", "this resource does not fit the database at the moment");
    return resource;
  }

  // ---- reading ----

  absl::StatusOr<std::shared_ptr<const GetPlan>> PlanGet(ModelCache& cache, const Resource& resource,
                                                         const CallContext& context, const common::v1::ListQuery& query,
                                                         const std::vector<std::string>& key) const {
    Resolver resolver = MakeResolver(cache, context);
    ASSIGN_OR_RETURN(std::unique_ptr<ListQuery> resolved, resolver.Resolve(resource, query));
    auto plan = std::make_shared<GetPlan>(std::move(resolved));
    SqlBuilder sql(context);
    BuildGet(sql, *plan->query, plan->columns, key);
    plan->sql = cache.sql->Get(std::move(sql.text));
    plan->params = std::move(sql.params);
    plan->principal_params = std::move(sql.principal_params);
    plan->reusable = sql.reusable;
    return std::shared_ptr<const GetPlan>(std::move(plan));
  }

  // `text`: the query as sent, by which its plan is known again.
  absl::StatusOr<std::shared_ptr<const GetPlan>> FindGetPlan(ModelCache& cache, const Resource& resource,
                                                             const CallContext& context, std::string_view text,
                                                             const std::vector<std::string>& key) const {
    std::string name;
    name.reserve(96);
    name.append(resource.name);
    for (const std::string& role : context.principal.roles) name.append("\x1f").append(role);
    name.append(context.principal.tenant == kAllTenants ? "\x1e*" : "\x1e").append(text);
    if (const auto it = cache.gets.find(name); it != cache.gets.end()) return it->second;
    common::v1::ListQuery query;
    if (!text.empty()) {
      ASSIGN_OR_RETURN(query, http::ParseListQuery(text));
      RETURN_IF_ERROR(OnlyProjection(query));
    }
    ASSIGN_OR_RETURN(std::shared_ptr<const GetPlan> plan, PlanGet(cache, resource, context, query, key));
    if (plan->reusable && text.size() <= 256) {
      if (cache.gets.size() > kMaxCached) cache.gets.clear();
      cache.gets.emplace(std::move(name), plan);
    }
    return plan;
  }

  static absl::Status OnlyProjection(const common::v1::ListQuery& query) {
    if (query.has_filter()) return BadParameter("filter", "one record can't be filtered");
    if (!query.sort().empty()) return BadParameter("sort", "one record can't be sorted");
    if (query.limit() != 0) return BadParameter("limit", "is for lists");
    if (!query.cursor().empty()) return BadParameter("cursor", "is for lists");
    if (query.offset() != 0) return BadParameter("offset", "is for lists");
    if (query.count() != common::v1::COUNT_MODE_UNSPECIFIED) return BadParameter("count", "is for lists");
    return absl::OkStatus();
  }

  awaitable<absl::StatusOr<OneRow>> ReadOne(CachePtr cache, std::shared_ptr<const GetPlan> plan,
                                            const CallContext& context, std::vector<std::string> key,
                                            postgres::AsyncPostgres& postgres, const http::Request* request) const {
    postgres::Statement statement{plan->sql, plan->params};
    for (size_t i = 0; i < key.size(); ++i) statement.params[i] = std::move(key[i]);
    for (const auto& [index, kind] : plan->principal_params)
      statement.params[static_cast<size_t>(index)] =
          kind == Operand::Kind::kTenant ? context.principal.tenant : context.principal.subject;
    Level level(*plan->query, plan->columns);
    OneRow out;
    if (plan->query->expansions.empty()) {
      absl::StatusOr<postgres::Result> result = co_await postgres.Execute(std::move(statement), context.deadline);
      if (!result.ok()) co_return ReadFailure(result.status());
      level.rows = WrapResult(*std::move(result));
    } else {
      auto acquired = co_await postgres.Acquire(context.deadline);
      if (!acquired.ok()) co_return acquired.status();
      const std::shared_ptr<postgres::Session> session = *std::move(acquired);
      CancelOnDisconnect(request, session);
      session->Begin(kSnapshot);
      absl::StatusOr<postgres::Result> result = co_await session->Execute(std::move(statement));
      if (!result.ok()) co_return ReadFailure(result.status());
      level.rows = WrapResult(*std::move(result));
      if (level.rows->rows() > 0) {
        const std::unique_ptr<Runner> runner = OnSession(*session, cache->sql);
        const absl::Status related = co_await FetchRelated(*runner, *cache->model, context, level);
        if (!related.ok()) co_return related;
      }
      const absl::Status ended = co_await session->Commit();
      if (!ended.ok()) co_return ended;
    }
    if (level.rows->rows() == 0) co_return NotFound();
    out.json.reserve(512);
    RenderRow(level, 0, out.json);
    if (plan->query->expansions.empty()) {
      out.etag = EntityTag(*plan->query, VersionOf(level, 0), out.json);
    } else {
      out.etag = StrCat("W/\"", HexEncode(Sha256(out.json).substr(0, 12)), "\"");
    }
    co_return out;
  }

  awaitable<absl::StatusOr<ManyRows>> ReadMany(CachePtr cache, const Resource& resource, const CallContext& context,
                                               const common::v1::ListQuery& query, bool tags,
                                               postgres::AsyncPostgres& postgres, const http::Request* request) const {
    Resolver resolver = MakeResolver(*cache, context);
    absl::StatusOr<std::unique_ptr<ListQuery>> resolved = resolver.Resolve(resource, query);
    if (!resolved.ok()) co_return resolved.status();
    const ListQuery& list = **resolved;
    const bool single = list.expansions.empty() && list.count == Count::kNone;
    absl::StatusOr<PageOfRows> fetched;
    if (single && list.indexed && list.offset == 0) {
      const std::unique_ptr<Runner> runner = OnShared(postgres, cache->sql, context.deadline);
      fetched = co_await FetchPage(*runner, *cache->model, context, list, Reading());
    } else {
      auto acquired = co_await postgres.Acquire(context.deadline);
      if (!acquired.ok()) co_return acquired.status();
      const std::shared_ptr<postgres::Session> session = *std::move(acquired);
      CancelOnDisconnect(request, session);
      if (!single) session->Begin(kSnapshot);
      const std::unique_ptr<Runner> runner = OnSession(*session, cache->sql);
      fetched = co_await FetchPage(*runner, *cache->model, context, list, Reading());
      if (fetched.ok() && !single) {
        const absl::Status ended = co_await session->Commit();
        if (!ended.ok()) co_return ended;
      }
    }
    if (!fetched.ok()) co_return fetched.status();
    ManyRows out;
    out.json.reserve(fetched->shown.size() * 256 + 64);
    for (int row : fetched->shown) {
      if (!out.ends.empty()) out.json += ',';
      const size_t start = out.json.size();
      RenderRow(*fetched->level, row, out.json);
      out.ends.push_back(out.json.size());
      if (tags)
        out.etags.push_back(EntityTag(list, VersionOf(*fetched->level, row), std::string_view(out.json).substr(start)));
    }
    out.page = std::move(fetched->page);
    out.counted = list.count != Count::kNone;
    co_return out;
  }

  // ---- writing ----

  // The stored answer of an earlier request with this key; nothing: this one goes ahead, holding the key's lock.
  awaitable<absl::StatusOr<std::optional<Stored>>> FindStored(Runner& runner, const CallContext& context,
                                                              const Idempotency& idempotency) const {
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

  awaitable<absl::Status> Store(Runner& runner, const CallContext& context, const Idempotency& idempotency,
                                const Stored& answer) const {
    const std::string status = StrCat(answer.status),
                      life = StrCat(absl::ToInt64Seconds(options.idempotency_life), " seconds");
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

  // One write in a transaction of its own, tried again when it collided.
  awaitable<absl::StatusOr<Stored>> Write(CachePtr cache, const CallContext& context, const WriteRequest& request,
                                          bool validate_only, const Idempotency* idempotency,
                                          postgres::AsyncPostgres& postgres, const http::Request* http_request) const {
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

  static absl::Status DeferredFailure(std::vector<FieldError> errors) {
    std::string_view type = "validation-failed";
    for (FieldError& error : errors) {
      if (!error.name.empty()) error.name = "/" + error.name;
      if (error.code == "unique") type = "unique-violation";
      if (error.code == "still_referenced") type = "still-referenced";
    }
    return MakeProblem(type, "the database refused the change", std::move(errors));
  }

  // ---- HTTP ----

  awaitable<absl::StatusOr<http::Response>> Route(http::Request& request, const CallContext& context,
                                                  const ModelPtr& model, postgres::AsyncPostgres& postgres) const {
    const auto& segments = request.segments;
    if (segments.size() < 2 || segments.size() > 3 || segments[0] != "v1") co_return NotFound();
    std::string_view name = segments[1];
    const size_t colon = name.find(':');
    std::string_view verb;
    if (colon != std::string_view::npos) {
      verb = name.substr(colon + 1);
      name = name.substr(0, colon);
      if (segments.size() != 2 || verb != "query") co_return NotFound();
    }
    CO_ASSIGN_OR_RETURN(const Resource* const resource, FindResource(model, name));
    const CachePtr cache = CacheFor(model);
    const AccessPtr access = cache->AccessOf(*resource, context.principal);
    const std::string& method = request.method;
    const bool get = method == "GET" || method == "HEAD";
    const bool writable = !resource->read_only;
    if (segments.size() == 2) {
      const std::string allow = !verb.empty() ? "POST, OPTIONS"
                                : writable    ? "GET, HEAD, POST, QUERY, OPTIONS"
                                              : "GET, HEAD, QUERY, OPTIONS";
      const bool query = verb.empty() ? method == "QUERY" : method == "POST";
      if (method == "OPTIONS") co_return Options(allow);
      if (!verb.empty() && !query) co_return NotAllowed(allow);
      CO_RETURN_IF_ERROR(CheckAccept(request));
      if (query || (get && verb.empty())) {
        absl::StatusOr<http::Response> response =
            co_await HandleList(request, context, cache, *resource, *access, query, postgres);
        co_return response;
      }
      if (method == "POST" && writable) {
        absl::StatusOr<http::Response> response =
            co_await HandleWrite(request, context, cache, *resource, access, WriteRequest::Kind::kCreate, {}, postgres);
        co_return response;
      }
      co_return NotAllowed(allow);
    }
    const std::string allow = !writable                      ? "GET, HEAD, OPTIONS"
                              : resource->client_chooses_key ? "GET, HEAD, PATCH, PUT, DELETE, OPTIONS"
                                                             : "GET, HEAD, PATCH, DELETE, OPTIONS";
    if (method == "OPTIONS") co_return Options(allow);
    CO_RETURN_IF_ERROR(CheckAccept(request));
    // The last segment as sent: commas inside a part of a composite key are encoded.
    const std::string_view id = std::string_view(request.path).substr(request.path.rfind('/') + 1);
    WriteRequest::Kind kind = WriteRequest::Kind::kPatch;
    if (!get) {
      if (method == "PATCH" && writable) {
        kind = WriteRequest::Kind::kPatch;
      } else if (method == "PUT" && writable && resource->client_chooses_key) {
        kind = WriteRequest::Kind::kPut;
      } else if (method == "DELETE" && writable) {
        kind = WriteRequest::Kind::kDelete;
      } else {
        co_return NotAllowed(allow);
      }
    }
    if (get && !access->can(Action::kRead)) co_return MakeProblem("forbidden", "reading this resource is not allowed");
    CO_ASSIGN_OR_RETURN(std::vector<std::string> key, ParseKey(*resource, id));
    if (!get) {
      absl::StatusOr<http::Response> response =
          co_await HandleWrite(request, context, cache, *resource, access, kind, std::move(key), postgres);
      co_return response;
    }
    CO_ASSIGN_OR_RETURN(std::shared_ptr<const GetPlan> plan,
                        FindGetPlan(*cache, *resource, context, request.query, key));
    absl::StatusOr<OneRow> row = co_await ReadOne(cache, std::move(plan), context, std::move(key), postgres, &request);
    if (!row.ok()) co_return row.status();
    if (request.Header("if-match") != nullptr) {
      CO_ASSIGN_OR_RETURN(const Tags match, ParseTags(request, "if-match"));
      const std::string current = row->etag.substr(1, row->etag.rfind('.') - 1);
      const std::vector<std::string> versions = VersionsOf(match);
      if (!match.any && std::find(versions.begin(), versions.end(), current) == versions.end())
        co_return MakeProblem("precondition-failed", "the record has changed");
    }
    if (request.Header("if-none-match") != nullptr) {
      CO_ASSIGN_OR_RETURN(const Tags none, ParseTags(request, "if-none-match"));
      if (Matches(none, row->etag)) co_return NotModified(std::move(row->etag));
    }
    co_return Json(200, std::move(row->json), std::move(row->etag));
  }

  static http::Response Options(std::string_view allow) {
    http::Response response;
    response.status = 204;
    response.headers.emplace_back("allow", allow);
    return response;
  }
  static http::Response NotModified(std::string etag) {
    http::Response response;
    response.status = 304;
    response.headers.emplace_back("etag", std::move(etag));
    response.headers.emplace_back("cache-control", "private, no-cache");
    response.headers.emplace_back("vary", "Authorization, Accept");
    return response;
  }

  awaitable<absl::StatusOr<http::Response>> HandleList(http::Request& request, const CallContext& context,
                                                       CachePtr cache, const Resource& resource, const Access& access,
                                                       bool body_query, postgres::AsyncPostgres& postgres) const {
    if (!access.can(Action::kRead)) co_return MakeProblem("forbidden", "reading this resource is not allowed");
    common::v1::ListQuery query;
    if (body_query) {
      if (!request.query.empty()) co_return BadParameter("query", "parameters stand in the body");
      CO_RETURN_IF_ERROR(CheckContentType(request, false));
      absl::StatusOr<std::string> body = co_await http::ReadAll(*request.body);
      if (!body.ok()) co_return body.status();
      CO_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(*std::move(body)));
      CO_ASSIGN_OR_RETURN(
          query, http::ParseListQueryJson(document.root(), http::ListQueryLimits{.values = http::kMaxValuesInBody}));
    } else {
      CO_ASSIGN_OR_RETURN(query, http::ParseListQuery(std::string_view(request.query)));
    }
    absl::StatusOr<ManyRows> rows = co_await ReadMany(cache, resource, context, query, false, postgres, &request);
    if (!rows.ok()) co_return rows.status();
    std::string json;
    json.reserve(rows->json.size() + 512);
    StrAppend(&json, "{\"data\":[", rows->json, "],\"page\":");
    RenderPage(rows->page, rows->counted, json);
    json += '}';
    std::string etag = StrCat(
        "W/\"",
        HexEncode(Sha256(StrCat(rows->json, rows->page.has_more() ? "+" : "", rows->page.total())).substr(0, 12)),
        "\"");
    if (request.Header("if-none-match") != nullptr) {
      CO_ASSIGN_OR_RETURN(const Tags none, ParseTags(request, "if-none-match"));
      if (Matches(none, etag)) co_return NotModified(std::move(etag));
    }
    http::Response response = Json(200, std::move(json), std::move(etag));
    if (!body_query) {
      std::string link;
      if (rows->page.has_next_cursor())
        StrAppend(&link, "<", request.path, "?", WithCursor(request.query, rows->page.next_cursor()),
                  ">; rel=\"next\"");
      if (rows->page.has_prev_cursor())
        StrAppend(&link, link.empty() ? "" : ", ", "<", request.path, "?",
                  WithCursor(request.query, rows->page.prev_cursor()), ">; rel=\"prev\"");
      if (!link.empty()) response.headers.emplace_back("link", std::move(link));
    }
    co_return response;
  }

  awaitable<absl::StatusOr<http::Response>> HandleWrite(http::Request& request, const CallContext& context,
                                                        CachePtr cache, const Resource& resource, AccessPtr access,
                                                        WriteRequest::Kind kind, std::vector<std::string> key,
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
    absl::StatusOr<Stored> stored = co_await Write(
        cache, context, write, validate_only, idempotency.has_value() ? &*idempotency : nullptr, postgres, &request);
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

  const HttpApiOptions options;
  Clock& clock;
};

HttpApi::HttpApi(HttpApiOptions options, Clock& clock) : impl_(std::make_unique<Impl>(std::move(options), clock)) {}
HttpApi::~HttpApi() = default;

awaitable<http::Response> HttpApi::Handle(http::Request& request, const CallContext& context, const ModelPtr& model,
                                          postgres::AsyncPostgres& postgres) {
  absl::StatusOr<http::Response> response = co_await impl_->Route(request, context, model, postgres);
  if (!response.ok()) co_return http::ProblemResponse(response.status(), request);
  co_return *std::move(response);
}

awaitable<absl::StatusOr<v1::Record>> HttpApi::Get(const v1::GetRecordRequest& request, const CallContext& context,
                                                   const ModelPtr& model, postgres::AsyncPostgres& postgres) {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, impl_->FindResource(model, request.resource()));
  const CachePtr cache = CacheFor(model);
  if (!cache->AccessOf(*resource, context.principal)->can(Action::kRead))
    co_return MakeProblem("forbidden", "reading this resource is not allowed");
  CO_ASSIGN_OR_RETURN(std::vector<std::string> key, ParseKey(*resource, request.id()));
  absl::StatusOr<std::shared_ptr<const GetPlan>> plan;
  if (request.fields().empty() && request.expand().empty()) {
    plan = impl_->FindGetPlan(*cache, *resource, context, "", key);
  } else {
    common::v1::ListQuery query;
    *query.mutable_fields() = request.fields();
    *query.mutable_expand() = request.expand();
    plan = impl_->PlanGet(*cache, *resource, context, query, key);
  }
  if (!plan.ok()) co_return plan.status();
  absl::StatusOr<OneRow> row =
      co_await impl_->ReadOne(cache, *std::move(plan), context, std::move(key), postgres, nullptr);
  if (!row.ok()) co_return row.status();
  v1::Record record;
  record.set_json(std::move(row->json));
  record.set_etag(std::move(row->etag));
  co_return record;
}

awaitable<absl::StatusOr<v1::ListRecordsResponse>> HttpApi::List(const v1::ListRecordsRequest& request,
                                                                 const CallContext& context, const ModelPtr& model,
                                                                 postgres::AsyncPostgres& postgres) {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, impl_->FindResource(model, request.resource()));
  absl::StatusOr<ManyRows> rows =
      co_await impl_->ReadMany(CacheFor(model), *resource, context, request.query(), true, postgres, nullptr);
  if (!rows.ok()) co_return rows.status();
  v1::ListRecordsResponse response;
  size_t start = 0;
  for (size_t i = 0; i < rows->ends.size(); ++i) {
    v1::Record* record = response.add_data();
    record->set_json(rows->json.substr(start, rows->ends[i] - start));
    record->set_etag(std::move(rows->etags[i]));
    start = rows->ends[i] + 1;
  }
  *response.mutable_page() = std::move(rows->page);
  co_return response;
}

namespace {
absl::StatusOr<std::vector<std::string>> VersionsOfText(std::string_view if_match) {
  http::Request request;
  if (!if_match.empty()) request.headers.emplace_back("if-match", if_match);
  ASSIGN_OR_RETURN(const Tags tags, ParseTags(request, "if-match"));
  return VersionsOf(tags);
}
}  // namespace

awaitable<absl::StatusOr<v1::Record>> HttpApi::Create(const v1::CreateRecordRequest& request,
                                                      const CallContext& context, const ModelPtr& model,
                                                      postgres::AsyncPostgres& postgres) {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, impl_->FindResource(model, request.resource()));
  const CachePtr cache = CacheFor(model);
  CO_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(request.json()));
  WriteRequest write{.kind = WriteRequest::Kind::kCreate,
                     .resource = resource,
                     .access = cache->AccessOf(*resource, context.principal),
                     .body = &document.root()};
  if (!write.access->can(Action::kCreate)) co_return MakeProblem("forbidden", "this change is not allowed");
  absl::StatusOr<Stored> stored =
      co_await impl_->Write(cache, context, write, request.validate_only(), nullptr, postgres, nullptr);
  if (!stored.ok()) co_return stored.status();
  v1::Record record;
  record.set_json(std::move(stored->body));
  record.set_etag(std::move(stored->etag));
  co_return record;
}

awaitable<absl::StatusOr<v1::Record>> HttpApi::Update(const v1::UpdateRecordRequest& request,
                                                      const CallContext& context, const ModelPtr& model,
                                                      postgres::AsyncPostgres& postgres) {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, impl_->FindResource(model, request.resource()));
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
      co_await impl_->Write(cache, context, write, request.validate_only(), nullptr, postgres, nullptr);
  if (!stored.ok()) co_return stored.status();
  v1::Record record;
  record.set_json(std::move(stored->body));
  record.set_etag(std::move(stored->etag));
  co_return record;
}

awaitable<absl::Status> HttpApi::Delete(const v1::DeleteRecordRequest& request, const CallContext& context,
                                        const ModelPtr& model, postgres::AsyncPostgres& postgres) {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, impl_->FindResource(model, request.resource()));
  const CachePtr cache = CacheFor(model);
  WriteRequest write{.kind = WriteRequest::Kind::kDelete,
                     .resource = resource,
                     .access = cache->AccessOf(*resource, context.principal)};
  if (!write.access->can(Action::kDelete)) co_return MakeProblem("forbidden", "this change is not allowed");
  CO_ASSIGN_OR_RETURN(write.key, ParseKey(*resource, request.id()));
  CO_ASSIGN_OR_RETURN(write.versions, VersionsOfText(request.if_match()));
  if (resource->if_match_required && request.if_match().empty())
    co_return MakeProblem("precondition-required", "if_match with the record's etag is required");
  absl::StatusOr<Stored> stored = co_await impl_->Write(cache, context, write, false, nullptr, postgres, nullptr);
  co_return stored.status();
}

}  // namespace mainstay::records
