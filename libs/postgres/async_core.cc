// SPDX-License-Identifier: Apache-2.0
// Deadlines of those who wait, permits for exclusive connections, and the end.
#include "libs/postgres/async_core.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"

namespace mainstay::postgres::internal {
namespace {

constexpr absl::Duration kSweep = absl::Milliseconds(50);  // how exactly deadlines of waiting callers are kept

}  // namespace

void Core::StartSweeping() {
  if (sweeping || closed) return;
  sweeping = true;
  sweeper.expires_after(std::chrono::milliseconds(absl::ToInt64Milliseconds(kSweep)));
  sweeper.async_wait([self = shared_from_this()](error_code error) {
    self->sweeping = false;
    if (!error && !self->closed) self->Sweep();
  });
}

void Core::Sweep() {
  const absl::Time now = absl::Now();
  const auto self = shared_from_this();
  for (auto& connection : shared) {
    if (closed) return;
    connection->Sweep(now, options.statement_timeout + absl::Seconds(3));
  }
  std::vector<std::shared_ptr<PermitWaiter>> late;
  for (Permits& lane : permits) {
    for (auto it = lane.waiting.begin(); it != lane.waiting.end();) {
      if ((*it)->waiter == nullptr || (*it)->give_up <= now) {
        late.push_back(std::move(*it));
        it = lane.waiting.erase(it);
      } else {
        ++it;
      }
    }
  }
  for (auto& permit : late) {
    auto waiter = std::move(permit->waiter);
    if (waiter == nullptr) continue;
    waiter->Complete(permit->deadline <= now
                         ? MakeProblem("query-timeout", "no database connection was free before the deadline")
                         : MakeProblem({.type = "overloaded",
                                        .detail = "all database connections are in use",
                                        .retry_after = absl::Seconds(1)}));
  }
  bool waiting = false;
  for (const Permits& lane : permits) waiting = waiting || !lane.waiting.empty();
  for (auto& connection : shared) waiting = waiting || connection->load() > 0;
  if (waiting) StartSweeping();
}

asio::awaitable<absl::Status> Core::Permit(absl::Time deadline, Lane lane) {
  Permits& all = PermitsOf(lane);
  if (all.in_use < all.most) {
    ++all.in_use;
    co_return absl::OkStatus();
  }
  if (all.waiting.size() >= size_t(options.max_waiting)) {
    co_return MakeProblem(
        {.type = "overloaded", .detail = "too many requests wait for the database", .retry_after = absl::Seconds(1)});
  }
  auto permit = std::make_shared<PermitWaiter>();
  permit->deadline = deadline;
  permit->give_up = std::min(deadline, absl::Now() + options.acquire_timeout);
  auto start = [this, &all, permit](std::unique_ptr<Waiter<absl::Status>> waiter) {
    permit->waiter = std::move(waiter);
    all.waiting.push_back(permit);
    StartSweeping();
  };
  auto cancel = [self = shared_from_this(), permit] {
    if (permit->waiter != nullptr)
      PostComplete<absl::Status>(self->loop, std::move(permit->waiter),
                                 absl::CancelledError("the request was given up"));
  };
  co_return co_await Suspend<absl::Status>(std::move(start), std::move(cancel));
}

void Core::ReleasePermit(Lane lane) {
  Permits& all = PermitsOf(lane);
  while (!all.waiting.empty() && !closed) {
    auto permit = std::move(all.waiting.front());
    all.waiting.pop_front();
    if (permit->waiter == nullptr) continue;
    // Not from here: the releasing coroutine is in the middle of something.
    asio::post(loop, [self = shared_from_this(), permit, lane] {
      if (auto waiter = std::move(permit->waiter)) {
        waiter->Complete(absl::OkStatus());
      } else {
        self->ReleasePermit(lane);  // given up meanwhile
      }
    });
    return;
  }
  --all.in_use;
}

asio::awaitable<absl::StatusOr<std::unique_ptr<Session>>> Core::Acquire(absl::Time deadline, Lane lane) {
  const auto self = shared_from_this();
  if (closed) co_return Unavailable("the database connections are closed");
  CO_RETURN_IF_ERROR(exclusive_parameters.status());
  const absl::Status permit = co_await Permit(deadline, lane);
  CO_RETURN_IF_ERROR(permit);
  // Whatever happens from here on, the permit is the session's or given back.
  struct Held {
    std::shared_ptr<Core> core;
    Lane lane;
    ~Held() {
      if (core != nullptr) core->ReleasePermit(lane);
    }
  } held{self, lane};
  while (!idle.empty()) {
    std::unique_ptr<Link> link = std::move(idle.back());
    idle.pop_back();
    if (!link->LooksAlive() || link->Worn()) continue;
    held.core = nullptr;
    co_return MakeSession(self, std::move(link), lane, deadline);
  }
  if (absl::Now() < next_exclusive_attempt) co_return WhyUnavailable();
  absl::StatusOr<PGconn*> connection =
      co_await ConnectAsync(loop, *exclusive_parameters, std::min(deadline, absl::Now() + kConnectTimeout));
  if (closed && connection.ok()) {
    PQfinish(*connection);
    co_return Unavailable("the database connections are closed");
  }
  if (!connection.ok()) {
    if (absl::Now() < deadline) {
      exclusive_backoff = std::clamp(exclusive_backoff * 2, kBackoffMin, kBackoffMax);
      next_exclusive_attempt = absl::Now() + exclusive_backoff * absl::Uniform(random, 0.5, 1.0);
    }
    co_return connection.status();
  }
  exclusive_backoff = absl::ZeroDuration();
  next_exclusive_attempt = absl::InfinitePast();
  auto link = std::make_unique<Link>(loop);
  link->Adopt(*connection);
  held.core = nullptr;
  co_return MakeSession(self, std::move(link), lane, deadline);
}

void Core::Close() {
  if (closed) return;
  closed = true;
  const auto self = shared_from_this();
  sweeper.cancel();
  const absl::Status status = Unavailable("the database connections are closed");
  for (auto& connection : shared) connection->Shut(status);
  idle.clear();
  for (Permits& lane : permits) {
    for (auto& permit : std::exchange(lane.waiting, {})) {
      if (permit->waiter != nullptr) PostComplete<absl::Status>(loop, std::move(permit->waiter), status);
    }
  }
}

}  // namespace mainstay::postgres::internal
