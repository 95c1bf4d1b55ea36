// SPDX-License-Identifier: Apache-2.0
#include "libs/records/http_read.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "libs/base/digest.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/http/list_query.h"
#include "libs/records/aggregate.h"
#include "libs/records/cost.h"
#include "libs/records/write.h"

namespace mainstay::records {

using boost::asio::awaitable;
using catalog::ModelPtr;
using catalog::Resource;

struct HttpReads::OneRow {
  std::string json, etag;
  int64_t cost = 0;
};
struct HttpReads::ManyRows {
  std::vector<size_t> ends;  // of each row in json
  std::vector<std::string> etags;
  std::string text;  // JSON: joined by commas, behind the form's head
  common::v1::Page page;
  bool counted = false;
  int64_t cost = 0;
};

namespace {

constexpr int64_t kLeastBatch = 16;                             // rows of a stream fetched together
constexpr size_t kMaxCachedForm = 1024, kMaxCachedForms = 512;  // a plan with relations takes some tens of kilobytes
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

absl::Status CheckForm(RowFormat format, const ListQuery& query) {
  if (format != RowFormat::kCsv || query.expansions.empty()) return absl::OkStatus();
  return BadParameter("expand", "a row of CSV holds no related records; ask for application/x-ndjson");
}

http::Response Answer(RowFormat format, std::string body, std::string etag, int64_t cost) {
  http::Response response = Json(200, std::move(body), std::move(etag));
  for (auto& [name, value] : response.headers)
    if (name == "content-type") value = ContentType(format);
  response.headers.emplace_back("query-cost", StrCat(cost));
  return response;
}

}  // namespace

HttpReads::HttpReads(const HttpApiOptions& options, Clock& clock)
    : options_(options), clock_(clock), tag_key_(QuickDigestKey(options.cursor_key, "entity tags of lists")) {}

std::string HttpReads::WeakTag(std::string_view text) const {
  return StrCat("W/\"", HexEncode(QuickDigest(tag_key_, text)), "\"");
}

ReadOptions HttpReads::Reading() const {
  return {.cursor_key = options_.cursor_key,
          .cursor_life = options_.cursor_life,
          .exact_count_cap = options_.exact_count_cap,
          .exact_count_time = options_.exact_count_time,
          .now = clock_.Now()};
}

Resolver HttpReads::MakeResolver(ModelCache& cache, const CallContext& context) const {
  return Resolver(*cache.model, context,
                  ResolveOptions{.nested_default_limit = options_.nested_default_limit,
                                 .nested_max_limit = options_.nested_max_limit},
                  [&cache, &context](const Resource& resource) { return cache.AccessOf(resource, context.principal); });
}

absl::StatusOr<HttpReads::Planned> HttpReads::Plan(ReadPlan::Of what, ModelCache& cache, const Resource& resource,
                                                   const CallContext& context, const common::v1::ListQuery& query,
                                                   bool versions) const {
  Resolver resolver = MakeResolver(cache, context);
  ASSIGN_OR_RETURN(std::unique_ptr<ListQuery> resolved, resolver.Resolve(resource, query));
  if (what == ReadPlan::Of::kRecord) resolved->limit = 1;
  auto plan = std::make_shared<ReadPlan>(what, std::move(resolved), context, versions, cache.sql);
  RETURN_IF_ERROR(CheckScore(plan->cost(), options_.query_cost_limit));
  Given given = plan->query().given;
  return Planned{std::move(plan), std::move(given)};
}

absl::StatusOr<HttpReads::Planned> HttpReads::Find(ReadPlan::Of what, ModelCache& cache, const Resource& resource,
                                                   const CallContext& context, std::string_view text) const {
  const bool record = what == ReadPlan::Of::kRecord;
  auto& plans = record ? cache.records : cache.lists;
  const http::QueryForm form = http::FormOf(text);
  std::string name;
  name.reserve(128 + form.text.size());
  name.append(resource.name);
  for (const std::string& role : context.principal.roles) name.append("\x1f").append(role);
  name.append(context.principal.tenant == kAllTenants ? "\x1e*" : "\x1e").append(form.text);
  if (const auto it = plans.find(name); it != plans.end()) {
    if (std::optional<Given> given = it->second->ValuesOf(form); given.has_value())
      return Planned{it->second, *std::move(given)};
  }
  common::v1::ListQuery query;
  if (!text.empty()) {
    ASSIGN_OR_RETURN(query, http::ParseListQuery(text));
    if (record) RETURN_IF_ERROR(OnlyProjection(query));
  }
  ASSIGN_OR_RETURN(Planned planned, Plan(what, cache, resource, context, query, /*versions=*/record));
  if (form.text.size() <= kMaxCachedForm && planned.plan->Take(form)) {
    if (plans.size() >= kMaxCachedForms) plans.clear();
    plans.insert_or_assign(std::move(name), planned.plan);
  }
  return planned;
}

awaitable<absl::StatusOr<HttpReads::OneRow>> HttpReads::ReadOne(CachePtr cache, Planned planned,
                                                                const CallContext& context,
                                                                std::vector<std::string> key,
                                                                postgres::AsyncPostgres& postgres,
                                                                const http::Request* request) const {
  const auto& [plan, given] = planned;
  postgres::Statement statement{plan->rows().sql(),
                                plan->rows().Fill({.context = context, .given = &given, .keys = key})};
  const bool expanded = !plan->level().below.empty();
  Level level(plan->level());
  OneRow out;
  out.cost = plan->cost();
  if (!expanded) {
    absl::StatusOr<postgres::Result> result = co_await postgres.Execute(std::move(statement), context.deadline);
    if (!result.ok()) co_return ReadFailure(result.status());
    level.rows = WrapResult(*std::move(result));
  } else {
    auto acquired = co_await postgres.Acquire(context.deadline, plan->lane());
    if (!acquired.ok()) co_return acquired.status();
    const std::shared_ptr<postgres::Session> session = *std::move(acquired);
    CancelOnDisconnect(request, session);
    session->Begin(kSnapshot);
    absl::StatusOr<postgres::Result> result = co_await session->Execute(std::move(statement));
    if (!result.ok()) co_return ReadFailure(result.status());
    level.rows = WrapResult(*std::move(result));
    level.shown = level.rows->rows();
    if (level.shown > 0) {
      const std::unique_ptr<Runner> runner = OnSession(*session, cache->sql);
      ReadOptions reading = Reading();
      reading.nothing_follows = true;
      const absl::Status related = co_await FetchRelated(*runner, *cache->model, context, given, level, reading);
      if (!related.ok()) co_return related;
    }
  }
  if (level.rows->rows() == 0) co_return NotFound();
  out.json.reserve(512);
  RenderRow(level, 0, out.json);
  out.etag = expanded ? WeakTag(out.json) : EntityTag(plan->query(), VersionOf(level, 0), out.json);
  co_return out;
}

awaitable<absl::StatusOr<HttpReads::ManyRows>> HttpReads::ReadMany(CachePtr cache, Planned planned,
                                                                   const CallContext& context, Form form,
                                                                   postgres::AsyncPostgres& postgres,
                                                                   const http::Request* request) const {
  const auto& [plan, given] = planned;
  const ListQuery& list = plan->query();
  const bool single = list.expansions.empty() && list.count == Count::kNone;
  absl::StatusOr<PageOfRows> fetched;
  if (single && plan->cheap()) {
    const std::unique_ptr<Runner> runner = OnShared(postgres, cache->sql, context.deadline);
    fetched = co_await FetchPage(*runner, *cache->model, context, *plan, given, Reading());
  } else {
    auto acquired = co_await postgres.Acquire(context.deadline, plan->lane());
    if (!acquired.ok()) co_return acquired.status();
    const std::shared_ptr<postgres::Session> session = *std::move(acquired);
    CancelOnDisconnect(request, session);
    if (!single) session->Begin(kSnapshot);
    const std::unique_ptr<Runner> runner = OnSession(*session, cache->sql);
    fetched = co_await FetchPage(*runner, *cache->model, context, *plan, given, Reading());
  }
  if (!fetched.ok()) co_return fetched.status();
  ManyRows out;
  out.cost = plan->cost();
  out.text.reserve(fetched->shown.size() * (256 + 512 * list.expansions.size()) + 1024);
  if (form.format != RowFormat::kJson) {
    AppendHeader(form.format, list, out.text);
    for (int row : fetched->shown) AppendRow(form.format, form.escape_formulas, *fetched->level, row, out.text);
  } else {
    out.text += form.head;
    for (int row : fetched->shown) {
      if (!out.ends.empty()) out.text += ',';
      const size_t start = out.text.size();
      RenderRow(*fetched->level, row, out.text);
      out.ends.push_back(out.text.size());
      if (form.tags)
        out.etags.push_back(EntityTag(list, VersionOf(*fetched->level, row), std::string_view(out.text).substr(start)));
    }
  }
  out.page = std::move(fetched->page);
  out.counted = list.count != Count::kNone;
  co_return out;
}

awaitable<absl::StatusOr<http::Response>> HttpReads::HandleOne(http::Request& request, const CallContext& context,
                                                               CachePtr cache, const Resource& resource,
                                                               const Access& access, std::string_view id,
                                                               postgres::AsyncPostgres& postgres) const {
  CO_RETURN_IF_ERROR(CheckAccept(request));
  if (!access.can(Action::kRead)) co_return MakeProblem("forbidden", "reading this resource is not allowed");
  CO_ASSIGN_OR_RETURN(std::vector<std::string> key, ParseKey(resource, id));
  CO_ASSIGN_OR_RETURN(Planned planned, Find(ReadPlan::Of::kRecord, *cache, resource, context, request.query));
  absl::StatusOr<OneRow> row = co_await ReadOne(cache, std::move(planned), context, std::move(key), postgres, &request);
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
  http::Response response = Json(200, std::move(row->json), std::move(row->etag));
  if (row->cost > 1) response.headers.emplace_back("query-cost", StrCat(row->cost));
  co_return response;
}

awaitable<absl::StatusOr<http::Response>> HttpReads::HandleList(http::Request& request, const CallContext& context,
                                                                CachePtr cache, const Resource& resource,
                                                                const Access& access, bool body_query,
                                                                postgres::AsyncPostgres& postgres) const {
  static constexpr std::string_view kOffers[] = {"application/json", "text/csv", "application/x-ndjson"};
  static constexpr RowFormat kFormats[] = {RowFormat::kJson, RowFormat::kCsv, RowFormat::kLines};
  CO_ASSIGN_OR_RETURN(const Accepted accepted, Negotiate(request, kOffers));
  const Form form{.format = kFormats[accepted.offer],
                  .escape_formulas = accepted.parameters == "escape=formulas",
                  .head = "{\"data\":["};
  if (!access.can(Action::kRead)) co_return MakeProblem("forbidden", "reading this resource is not allowed");
  Planned planned;
  common::v1::ListQuery query;
  if (body_query) {
    if (!request.query.empty()) co_return BadParameter("query", "parameters stand in the body");
    CO_RETURN_IF_ERROR(CheckContentType(request, false));
    absl::StatusOr<std::string> body = co_await http::ReadAll(*request.body);
    if (!body.ok()) co_return body.status();
    CO_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(*std::move(body)));
    CO_ASSIGN_OR_RETURN(
        query, http::ParseListQueryJson(document.root(), http::ListQueryLimits{.values = http::kMaxValuesInBody}));
  } else if (form.format == RowFormat::kJson) {
    CO_ASSIGN_OR_RETURN(planned, Find(ReadPlan::Of::kPage, *cache, resource, context, request.query));
  } else {
    CO_ASSIGN_OR_RETURN(query, http::ParseListQuery(std::string_view(request.query)));
  }
  if (form.format != RowFormat::kJson) {
    if (query.count() != common::v1::COUNT_MODE_UNSPECIFIED && query.count() != common::v1::COUNT_MODE_NONE)
      co_return BadParameter("count", "this format has no place for a total; ask for JSON");
    if (query.limit() == 0 && query.cursor().empty() && query.offset() == 0) {
      absl::StatusOr<http::Response> response =
          co_await StreamAll(cache, resource, context, query, form, postgres, request);
      co_return response;
    }
  }
  if (planned.plan == nullptr) {
    CO_ASSIGN_OR_RETURN(planned, Plan(ReadPlan::Of::kPage, *cache, resource, context, query, false));
    CO_RETURN_IF_ERROR(CheckForm(form.format, planned.plan->query()));
  }
  absl::StatusOr<ManyRows> rows = co_await ReadMany(cache, std::move(planned), context, form, postgres, &request);
  if (!rows.ok()) co_return rows.status();
  // Of all but the cursors, which are never the same twice.
  std::string& body = rows->text;
  const size_t size = body.size();
  StrAppend(&body, rows->page.has_more() ? "+" : "", rows->page.total());
  std::string etag = WeakTag(body);
  body.resize(size);
  if (request.Header("if-none-match") != nullptr) {
    CO_ASSIGN_OR_RETURN(const Tags none, ParseTags(request, "if-none-match"));
    if (Matches(none, etag)) co_return NotModified(std::move(etag));
  }
  if (form.format == RowFormat::kJson) {
    body += "],\"page\":";
    RenderPage(rows->page, rows->counted, body);
    body += '}';
  }
  http::Response response = Answer(form.format, std::move(body), std::move(etag), rows->cost);
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

awaitable<absl::StatusOr<http::Response>> HttpReads::StreamAll(CachePtr cache, const Resource& resource,
                                                               const CallContext& context,
                                                               const common::v1::ListQuery& query, Form form,
                                                               postgres::AsyncPostgres& postgres,
                                                               const http::Request& request) const {
  Resolver resolver(*cache->model, context,
                    ResolveOptions{.nested_default_limit = options_.nested_default_limit,
                                   .nested_max_limit = options_.nested_max_limit,
                                   .unlimited = true});
  CO_ASSIGN_OR_RETURN(std::unique_ptr<ListQuery> list, resolver.Resolve(resource, query));
  CO_RETURN_IF_ERROR(CheckForm(form.format, *list));
  auto plan = std::make_unique<ReadPlan>(ReadPlan::Of::kAll, std::move(list), context, /*versions=*/false, cache->sql);
  // A batch is what stands in memory at once.
  CO_RETURN_IF_ERROR(CheckScore(kLeastBatch * plan->cost(), options_.query_cost_limit));
  http::Response response = Answer(form.format, {}, {}, plan->cost());
  if (request.head) co_return response;
  const std::shared_ptr<std::atomic<int>> running = streams_;
  const std::shared_ptr<void> held(nullptr, [running](void*) { running->fetch_sub(1); });
  if (running->fetch_add(1) >= options_.max_streams) {
    co_return MakeProblem(Problem{.type = "overloaded",
                                  .detail = "too many whole lists are being read; take pages, or come back",
                                  .retry_after = absl::Seconds(2)});
  }
  const RowStreamOptions options{.format = form.format,
                                 .escape_formulas = form.escape_formulas,
                                 .life = options_.stream_life,
                                 .reading = Reading()};
  absl::StatusOr<std::unique_ptr<http::BodySource>> stream =
      co_await OpenRowStream(std::move(cache), context, std::move(plan), postgres, &request, held, options);
  if (!stream.ok()) co_return stream.status();
  response.stream = *std::move(stream);
  co_return response;
}

awaitable<absl::StatusOr<http::Response>> HttpReads::HandleAggregate(http::Request& request, const CallContext& context,
                                                                     CachePtr cache, const Resource& resource,
                                                                     postgres::AsyncPostgres& postgres) const {
  CO_RETURN_IF_ERROR(CheckAccept(request));
  CO_ASSIGN_OR_RETURN(const http::Parameters parameters, http::ParseQueryString(request.query));
  Resolver resolver = MakeResolver(*cache, context);
  CO_ASSIGN_OR_RETURN(const AggregateQuery query, ResolveAggregate(resolver, resource, parameters));
  auto acquired = co_await postgres.Acquire(context.deadline);
  if (!acquired.ok()) co_return acquired.status();
  const std::shared_ptr<postgres::Session> session = *std::move(acquired);
  CancelOnDisconnect(&request, session);
  const std::unique_ptr<Runner> runner = OnSession(*session, cache->sql);
  absl::StatusOr<AggregateAnswer> answer =
      co_await RunAggregate(*runner, context, query, options_.aggregate_cost_limit);
  if (!answer.ok()) co_return answer.status();
  std::string etag = WeakTag(answer->json);
  if (request.Header("if-none-match") != nullptr) {
    CO_ASSIGN_OR_RETURN(const Tags none, ParseTags(request, "if-none-match"));
    if (Matches(none, etag)) co_return NotModified(std::move(etag));
  }
  co_return Answer(RowFormat::kJson, std::move(answer->json), std::move(etag), answer->cost);
}

awaitable<absl::StatusOr<v1::Record>> HttpReads::Get(const v1::GetRecordRequest& request, const CallContext& context,
                                                     const ModelPtr& model, postgres::AsyncPostgres& postgres) const {
  CO_ASSIGN_OR_RETURN(const Resource* const resource, FindResource(model, request.resource()));
  const CachePtr cache = CacheFor(model);
  if (!cache->AccessOf(*resource, context.principal)->can(Action::kRead))
    co_return MakeProblem("forbidden", "reading this resource is not allowed");
  CO_ASSIGN_OR_RETURN(std::vector<std::string> key, ParseKey(*resource, request.id()));
  Planned planned;
  if (request.fields().empty() && request.expand().empty()) {
    CO_ASSIGN_OR_RETURN(planned, Find(ReadPlan::Of::kRecord, *cache, *resource, context, ""));
  } else {
    common::v1::ListQuery query;
    *query.mutable_fields() = request.fields();
    *query.mutable_expand() = request.expand();
    CO_ASSIGN_OR_RETURN(planned, Plan(ReadPlan::Of::kRecord, *cache, *resource, context, query, true));
  }
  absl::StatusOr<OneRow> row = co_await ReadOne(cache, std::move(planned), context, std::move(key), postgres, nullptr);
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
  const CachePtr cache = CacheFor(model);
  CO_ASSIGN_OR_RETURN(Planned planned, Plan(ReadPlan::Of::kPage, *cache, *resource, context, request.query(), true));
  absl::StatusOr<ManyRows> rows =
      co_await ReadMany(cache, std::move(planned), context, Form{.tags = true}, postgres, nullptr);
  if (!rows.ok()) co_return rows.status();
  v1::ListRecordsResponse response;
  size_t start = 0;
  for (size_t i = 0; i < rows->ends.size(); ++i) {
    v1::Record* record = response.add_data();
    record->set_json(rows->text.substr(start, rows->ends[i] - start));
    record->set_etag(std::move(rows->etags[i]));
    start = rows->ends[i] + 1;
  }
  *response.mutable_page() = std::move(rows->page);
  co_return response;
}

}  // namespace mainstay::records
