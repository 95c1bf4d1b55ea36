// SPDX-License-Identifier: Apache-2.0
#include "libs/records/http_changes.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/http/list_query.h"
#include "libs/records/changes.h"
#include "libs/records/cursor.h"
#include "libs/records/read.h"
#include "libs/records/write.h"

namespace mainstay::records {

namespace asio = boost::asio;
using asio::awaitable;
using catalog::Resource;

namespace {

constexpr absl::Duration kPulse = absl::Milliseconds(200), kHeartbeat = absl::Seconds(15),
                         kStreamLife = absl::Minutes(15);
constexpr int kFeedPage = 256, kMaxStreams = 2000, kMaxStreamsPerSubject = 100;
constexpr int kHistoryDefault = 50, kHistoryMax = 200;

uint64_t Number(std::string_view text) {
  uint64_t out = 0;
  (void)absl::SimpleAtoi(ToAbsl(text), &out);
  return out;
}

}  // namespace

// What has changed lately, asked once for all streams of a loop.
class Pulse {
 public:
  explicit Pulse(postgres::AsyncPostgres& postgres) : postgres_(postgres) {}

  // Asks again when the last answer is old, unless another stream is about to. Failures are not told: there is no news.
  awaitable<void> Refresh() {
    const absl::Time now = absl::Now();
    if (asking_ || now - asked_ < kPulse) co_return;
    asking_ = true;
    asked_ = now;
    static const postgres::SqlPtr sql = std::make_shared<const postgres::Sql>(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, c.resource, c.tenant FROM (SELECT 1) one LEFT JOIN "
        "LATERAL (SELECT DISTINCT r.resource, r.tenant FROM mainstay.record_changes r WHERE r.xid >= $1::xid8 AND "
        "r.xid < pg_snapshot_xmin(pg_current_snapshot())) c ON true");
    postgres::Statement statement{sql, {}};
    statement.params.emplace_back(StrCat(horizon_));
    const absl::StatusOr<postgres::Result> rows =
        co_await postgres_.Execute(std::move(statement), now + absl::Seconds(5));
    asking_ = false;
    if (!rows.ok() || rows->rows() == 0) co_return;
    const uint64_t xmin = Number(rows->Get(0, 0));
    for (int r = 0; r < rows->rows(); ++r) {
      if (rows->IsNull(r, 1)) continue;
      news_[{std::string(rows->Get(r, 1)), std::string(rows->Get(r, 2))}] = ++turn_;
      all_[std::string(rows->Get(r, 1))] = turn_;
    }
    horizon_ = std::max(horizon_, xmin);
    if (news_.size() > 100'000) news_.clear(), ++flood_;
  }

  // Rises whenever there may be something new for this tenant (empty: for any) of the resource.
  uint64_t Turn(const std::string& resource, const std::string& tenant, bool all_tenants) const {
    uint64_t turn = 0;
    if (all_tenants) {
      if (const auto it = all_.find(resource); it != all_.end()) turn = it->second;
    } else if (const auto it = news_.find({resource, tenant}); it != news_.end()) {
      turn = it->second;
    }
    return turn + (flood_ << 40);
  }

  void StartAt(uint64_t xmin) { horizon_ = horizon_ == 0 ? xmin : std::min(horizon_, xmin); }

 private:
  postgres::AsyncPostgres& postgres_;
  bool asking_ = false;
  absl::Time asked_ = absl::InfinitePast();
  uint64_t horizon_ = 0, turn_ = 0, flood_ = 0;
  std::map<std::pair<std::string, std::string>, uint64_t> news_;
  std::map<std::string, uint64_t> all_;
};

namespace {

struct Subscription {
  Subscription(std::shared_ptr<HttpChanges::Open> o, std::string s) : open(std::move(o)), subject(std::move(s)) {}
  Subscription(const Subscription&) = delete;
  ~Subscription() {
    const std::lock_guard<std::mutex> lock(open->mutex);
    --open->all;
    if (const auto it = open->by_subject.find(subject); it != open->by_subject.end() && --it->second == 0)
      open->by_subject.erase(it);
  }
  std::shared_ptr<HttpChanges::Open> open;
  std::string subject;
};

class Feed : public http::BodySource {
 public:
  Feed(CallContext context, CachePtr cache, const Resource& resource, AccessPtr access, FeedPosition position,
       std::shared_ptr<Pulse> pulse, std::unique_ptr<Subscription> subscription, postgres::AsyncPostgres& postgres)
      : context_(std::move(context)),
        cache_(std::move(cache)),
        resource_(resource),
        access_(std::move(access)),
        position_(position),
        pulse_(std::move(pulse)),
        subscription_(std::move(subscription)),
        postgres_(postgres),
        ends_(absl::Now() + kStreamLife) {}

  awaitable<absl::StatusOr<std::string>> Next() override {
    if (!greeted_) {
      greeted_ = true;
      co_return StrCat("id: ", FormatPosition(position_), "\nevent: ready\ndata: {}\n\n");
    }
    const auto executor = co_await asio::this_coro::executor;
    const absl::Time begun = absl::Now();
    while (!cancelled_ && absl::Now() < ends_) {
      const uint64_t turn = pulse_->Turn(resource_.name, tenant_, all_tenants_);
      if (turn != seen_) {
        absl::StatusOr<std::string> events = co_await Read(turn);
        if (!events.ok()) co_return events.status();
        if (!events->empty()) co_return events;
        continue;
      }
      if (absl::Now() - begun >= kHeartbeat) co_return StrCat("id: ", FormatPosition(position_), "\n: \n\n");
      asio::steady_timer timer(executor);
      timer.expires_after(std::chrono::milliseconds(absl::ToInt64Milliseconds(kPulse)));
      timer_ = &timer;
      co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
      timer_ = nullptr;
      if (!cancelled_) co_await pulse_->Refresh();
    }
    co_return std::string();
  }

  void Cancel() override {
    cancelled_ = true;
    if (timer_ != nullptr) timer_->cancel();
  }

 private:
  awaitable<absl::StatusOr<std::string>> Read(uint64_t turn) {
    CallContext context = context_;
    context.deadline = absl::Now() + absl::Seconds(10);
    auto acquired = co_await postgres_.Acquire(context.deadline);
    if (!acquired.ok()) co_return acquired.status();
    const std::unique_ptr<postgres::Session> session = *std::move(acquired);
    const std::unique_ptr<Runner> runner = OnSession(*session, cache_->sql);
    SqlBuilder sql(context);
    BuildFeed(sql, resource_, *access_, position_, kFeedPage);
    const absl::StatusOr<RowsPtr> rows = co_await runner->Run(std::move(sql.text), std::move(sql.params));
    if (!rows.ok()) co_return rows.status();
    std::string out;
    const int n = (*rows)->rows();
    for (int r = 0; r < n; ++r) RenderFeedEvent(resource_, *access_, **rows, r, out);
    if (n > 0) position_ = PositionOf(**rows, n - 1);
    if (n < kFeedPage) seen_ = turn;  // else there is more behind it
    co_return out;
  }

  const CallContext context_;
  const CachePtr cache_;
  const Resource& resource_;  // of the cache's model
  const AccessPtr access_;
  FeedPosition position_;
  const std::shared_ptr<Pulse> pulse_;
  const std::unique_ptr<Subscription> subscription_;
  postgres::AsyncPostgres& postgres_;
  const absl::Time ends_;
  const bool all_tenants_ = context_.principal.tenant == kAllTenants;
  const std::string tenant_ = resource_.tenant < 0 ? "" : context_.principal.tenant;
  uint64_t seen_ = ~uint64_t{0};  // ask once, whatever the pulse says
  bool greeted_ = false, cancelled_ = false;
  asio::steady_timer* timer_ = nullptr;
};

absl::Status Forbidden(std::string_view scope) {
  return MakeProblem("forbidden", StrCat("this needs the scope ", scope));
}

}  // namespace

HttpChanges::~HttpChanges() = default;

std::shared_ptr<Pulse> HttpChanges::PulseOf(postgres::AsyncPostgres& postgres) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::weak_ptr<Pulse>& slot = pulses_[&postgres];
  std::shared_ptr<Pulse> pulse = slot.lock();
  if (pulse == nullptr) slot = pulse = std::make_shared<Pulse>(postgres);
  return pulse;
}

awaitable<absl::StatusOr<http::Response>> HttpChanges::HandleHistory(http::Request& request, const CallContext& context,
                                                                     CachePtr cache, const Resource& resource,
                                                                     AccessPtr access, std::vector<std::string> key,
                                                                     postgres::AsyncPostgres& postgres) const {
  if (!access->can(Action::kRead)) co_return MakeProblem("forbidden", "reading this resource is not allowed");
  if (!cache->model->HasScope(context.principal.roles, "records-history:read"))
    co_return Forbidden("records-history:read");
  int limit = kHistoryDefault;
  std::string cursor;
  std::set<std::string> seen;
  CO_ASSIGN_OR_RETURN(const http::Parameters parameters, http::ParseQueryString(request.query));
  for (const auto& [name, value] : parameters) {
    if (!seen.insert(name).second) co_return BadParameter(name, "stands twice");
    if (name == "limit") {
      if (value.size() > 4 || !absl::SimpleAtoi(value, &limit) || limit < 1 || limit > kHistoryMax ||
          StrCat(limit) != value)
        co_return BadParameter(name, StrCat("between 1 and ", kHistoryMax));
    } else if (name == "cursor") {
      cursor = value;
    } else {
      co_return BadParameter(name, "this parameter is not known here");
    }
  }
  ListQuery binding_query = DefaultProjection(resource, access);
  binding_query.shape = StrCat("history|", resource.name, "|", FormatKey(resource, {key.begin(), key.end()}));
  const CursorBinding binding =
      BindCursor(options_.cursor_key, *cache->model, binding_query, {}, context, clock_.Now(), options_.cursor_life);
  std::optional<FeedPosition> before;
  if (!cursor.empty()) {
    CO_ASSIGN_OR_RETURN(const Position position, OpenCursor(binding, cursor, 1));
    before = ParsePosition(position.values[0].value_or(""));
  }
  auto acquired = co_await postgres.Acquire(context.deadline);
  if (!acquired.ok()) co_return acquired.status();
  const std::shared_ptr<postgres::Session> session = *std::move(acquired);
  CancelOnDisconnect(&request, session);
  const std::unique_ptr<Runner> runner = OnSession(*session, cache->sql);
  SqlBuilder sql(context);
  BuildHistory(sql, resource, *access, key, before, limit);
  const absl::StatusOr<RowsPtr> rows = co_await runner->Run(std::move(sql.text), std::move(sql.params));
  if (!rows.ok()) co_return rows.status();
  const int n = std::min((*rows)->rows(), limit);
  if (n == 0 && !before.has_value()) {
    // Nothing was kept: then the row itself says whether there is one.
    SqlBuilder look(context);
    BuildGet(look, binding_query, ColumnsOf(binding_query, false));
    look.Fill({.context = context, .keys = key});
    const absl::StatusOr<RowsPtr> row = co_await runner->Run(std::move(look.text), std::move(look.params));
    if (!row.ok()) co_return row.status();
    if ((*row)->rows() == 0) co_return NotFound();
  }
  std::string json = "{\"data\":[";
  for (int r = 0; r < n; ++r) {
    if (r > 0) json += ',';
    RenderHistory(resource, *access, **rows, r, json);
  }
  common::v1::Page page;
  page.set_limit(limit);
  page.set_has_more((*rows)->rows() > limit);
  if (page.has_more()) {
    Position position;
    position.values.emplace_back(FormatPosition(PositionOf(**rows, n - 1)));
    CO_ASSIGN_OR_RETURN(*page.mutable_next_cursor(), SealCursor(binding, position));
  }
  json += "],\"page\":";
  RenderPage(page, false, json);
  json += '}';
  co_return Json(200, std::move(json), "");
}

awaitable<absl::StatusOr<http::Response>> HttpChanges::HandleFeed(http::Request& request, const CallContext& context,
                                                                  CachePtr cache, const Resource& resource,
                                                                  AccessPtr access,
                                                                  postgres::AsyncPostgres& postgres) const {
  if (!access->can(Action::kRead)) co_return MakeProblem("forbidden", "reading this resource is not allowed");
  if (!cache->model->HasScope(context.principal.roles, "records-changes:read"))
    co_return Forbidden("records-changes:read");
  if (!request.query.empty()) co_return BadParameter(request.query.substr(0, request.query.find('=')), "none is known");
  std::optional<FeedPosition> asked;
  if (const std::string* last = request.Header("last-event-id"); last != nullptr) {
    asked = ParsePosition(*last);
    if (!asked.has_value()) co_return BadHeader("Last-Event-ID", "the id of an event of this feed is expected");
  }
  std::unique_ptr<Subscription> subscription;
  {
    const std::lock_guard<std::mutex> lock(open_->mutex);
    const auto mine = open_->by_subject.find(context.principal.subject);
    if (open_->all >= kMaxStreams || (mine != open_->by_subject.end() && mine->second >= kMaxStreamsPerSubject))
      co_return MakeProblem(
          Problem{.type = "quota-exceeded", .detail = "too many open streams", .retry_after = absl::Seconds(30)});
    ++open_->by_subject[context.principal.subject];
    ++open_->all;
    subscription = std::make_unique<Subscription>(open_, context.principal.subject);
  }
  static const postgres::SqlPtr sql = std::make_shared<const postgres::Sql>(
      "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, f.xid::text, f.id::text FROM (SELECT 1) one LEFT JOIN "
      "mainstay.record_change_floors f ON f.resource = $1");
  postgres::Statement statement{sql, {}};
  statement.params.emplace_back(resource.name);
  const absl::StatusOr<postgres::Result> row = co_await postgres.Execute(std::move(statement), context.deadline);
  if (!row.ok()) co_return row.status();
  const uint64_t xmin = Number(row->Get(0, 0));
  FeedPosition floor;
  if (!row->IsNull(0, 1)) floor = {Number(row->Get(0, 1)), static_cast<int64_t>(Number(row->Get(0, 2)))};
  // A position ahead of everything is of another life of this database.
  if (asked.has_value() && (*asked < floor || asked->xid > xmin))
    co_return MakeProblem("feed-position-expired", "what came after this position is no longer kept; read anew");
  std::shared_ptr<Pulse> pulse = PulseOf(postgres);
  pulse->StartAt(xmin);
  http::Response response;
  response.headers.emplace_back("content-type", "text/event-stream");
  response.headers.emplace_back("cache-control", "no-store");
  response.headers.emplace_back("vary", "Authorization, Accept");
  response.stream = std::make_unique<Feed>(context, cache, resource, std::move(access),
                                           asked.value_or(FeedPosition{.xid = xmin, .id = 0}), std::move(pulse),
                                           std::move(subscription), postgres);
  co_return response;
}

}  // namespace mainstay::records
