// SPDX-License-Identifier: Apache-2.0
#include "libs/records/http_read.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/http/list_query.h"
#include "libs/records/write.h"

namespace mainstay::records {

using boost::asio::awaitable;
using catalog::ModelPtr;
using catalog::Resource;

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

struct HttpReads::OneRow {
  std::string json, etag;
};
struct HttpReads::ManyRows {
  std::vector<size_t> ends;  // of each row in json
  std::vector<std::string> etags;
  std::string json;  // rows joined by commas
  common::v1::Page page;
  bool counted = false;
};

namespace {

constexpr std::string_view kSnapshot = "ISOLATION LEVEL REPEATABLE READ, READ ONLY";

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

absl::Status OnlyProjection(const common::v1::ListQuery& query) {
  if (query.has_filter()) return BadParameter("filter", "one record can't be filtered");
  if (!query.sort().empty()) return BadParameter("sort", "one record can't be sorted");
  if (query.limit() != 0) return BadParameter("limit", "is for lists");
  if (!query.cursor().empty()) return BadParameter("cursor", "is for lists");
  if (query.offset() != 0) return BadParameter("offset", "is for lists");
  if (query.count() != common::v1::COUNT_MODE_UNSPECIFIED) return BadParameter("count", "is for lists");
  return absl::OkStatus();
}

}  // namespace

ReadOptions HttpReads::Reading() const {
  return {.cursor_key = options_.cursor_key,
          .cursor_life = options_.cursor_life,
          .exact_count_cap = options_.exact_count_cap,
          .now = clock_.Now()};
}

Resolver HttpReads::MakeResolver(ModelCache& cache, const CallContext& context) const {
  return Resolver(*cache.model, context,
                  ResolveOptions{.nested_default_limit = options_.nested_default_limit,
                                 .nested_max_limit = options_.nested_max_limit},
                  [&cache, &context](const Resource& resource) { return cache.AccessOf(resource, context.principal); });
}

absl::StatusOr<std::shared_ptr<const GetPlan>> HttpReads::PlanGet(ModelCache& cache, const Resource& resource,
                                                                  const CallContext& context,
                                                                  const common::v1::ListQuery& query,
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

absl::StatusOr<std::shared_ptr<const GetPlan>> HttpReads::FindGetPlan(ModelCache& cache, const Resource& resource,
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
    if (cache.gets.size() > kMaxCachedPlans) cache.gets.clear();
    cache.gets.emplace(std::move(name), plan);
  }
  return plan;
}

awaitable<absl::StatusOr<HttpReads::OneRow>> HttpReads::ReadOne(CachePtr cache, std::shared_ptr<const GetPlan> plan,
                                                                const CallContext& context,
                                                                std::vector<std::string> key,
                                                                postgres::AsyncPostgres& postgres,
                                                                const http::Request* request) const {
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

awaitable<absl::StatusOr<HttpReads::ManyRows>> HttpReads::ReadMany(CachePtr cache, const Resource& resource,
                                                                   const CallContext& context,
                                                                   const common::v1::ListQuery& query, bool tags,
                                                                   postgres::AsyncPostgres& postgres,
                                                                   const http::Request* request) const {
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

awaitable<absl::StatusOr<http::Response>> HttpReads::HandleOne(http::Request& request, const CallContext& context,
                                                               CachePtr cache, const Resource& resource,
                                                               const Access& access, std::string_view id,
                                                               postgres::AsyncPostgres& postgres) const {
  if (!access.can(Action::kRead)) co_return MakeProblem("forbidden", "reading this resource is not allowed");
  CO_ASSIGN_OR_RETURN(std::vector<std::string> key, ParseKey(resource, id));
  CO_ASSIGN_OR_RETURN(std::shared_ptr<const GetPlan> plan, FindGetPlan(*cache, resource, context, request.query, key));
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

awaitable<absl::StatusOr<http::Response>> HttpReads::HandleList(http::Request& request, const CallContext& context,
                                                                CachePtr cache, const Resource& resource,
                                                                const Access& access, bool body_query,
                                                                postgres::AsyncPostgres& postgres) const {
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
      "W/\"", HexEncode(Sha256(StrCat(rows->json, rows->page.has_more() ? "+" : "", rows->page.total())).substr(0, 12)),
      "\"");
  if (request.Header("if-none-match") != nullptr) {
    CO_ASSIGN_OR_RETURN(const Tags none, ParseTags(request, "if-none-match"));
    if (Matches(none, etag)) co_return NotModified(std::move(etag));
  }
  http::Response response = Json(200, std::move(json), std::move(etag));
  if (!body_query) {
    std::string link;
    if (rows->page.has_next_cursor())
      StrAppend(&link, "<", request.path, "?", WithCursor(request.query, rows->page.next_cursor()), ">; rel=\"next\"");
    if (rows->page.has_prev_cursor())
      StrAppend(&link, link.empty() ? "" : ", ", "<", request.path, "?",
                WithCursor(request.query, rows->page.prev_cursor()), ">; rel=\"prev\"");
    if (!link.empty()) response.headers.emplace_back("link", std::move(link));
  }
  co_return response;
}

awaitable<absl::StatusOr<v1::Record>> HttpReads::Get(const v1::GetRecordRequest& request, const CallContext& context,
                                                     const ModelPtr& model, postgres::AsyncPostgres& postgres) const {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, FindResource(model, request.resource()));
  const CachePtr cache = CacheFor(model);
  if (!cache->AccessOf(*resource, context.principal)->can(Action::kRead))
    co_return MakeProblem("forbidden", "reading this resource is not allowed");
  CO_ASSIGN_OR_RETURN(std::vector<std::string> key, ParseKey(*resource, request.id()));
  absl::StatusOr<std::shared_ptr<const GetPlan>> plan;
  if (request.fields().empty() && request.expand().empty()) {
    plan = FindGetPlan(*cache, *resource, context, "", key);
  } else {
    common::v1::ListQuery query;
    *query.mutable_fields() = request.fields();
    *query.mutable_expand() = request.expand();
    plan = PlanGet(*cache, *resource, context, query, key);
  }
  if (!plan.ok()) co_return plan.status();
  absl::StatusOr<OneRow> row = co_await ReadOne(cache, *std::move(plan), context, std::move(key), postgres, nullptr);
  if (!row.ok()) co_return row.status();
  v1::Record record;
  record.set_json(std::move(row->json));
  record.set_etag(std::move(row->etag));
  co_return record;
}

awaitable<absl::StatusOr<v1::ListRecordsResponse>> HttpReads::List(const v1::ListRecordsRequest& request,
                                                                   const CallContext& context, const ModelPtr& model,
                                                                   postgres::AsyncPostgres& postgres) const {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, FindResource(model, request.resource()));
  absl::StatusOr<ManyRows> rows =
      co_await ReadMany(CacheFor(model), *resource, context, request.query(), true, postgres, nullptr);
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

}  // namespace mainstay::records
