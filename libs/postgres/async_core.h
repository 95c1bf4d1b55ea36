// SPDX-License-Identifier: Apache-2.0
// Internal: the connections of one loop. Everything runs on that loop, except GetHealth().
//
// A shared connection is a queue of operations whose results come back in order. The caller's coroutine waits in the
// operation; giving it up (deadline, cancellation) takes the waiter out and leaves the operation as a place-holder for
// its result, so the order is never lost. Results are gathered first and callers resumed afterwards: a resumed
// coroutine may send again, close everything, or destroy this.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/random/random.h"
#include "libs/postgres/async_link.h"

namespace mainstay::postgres::internal {

// ---- waiting callers ----

// Whoever waits for a T; completed at most once.
template <typename T>
struct Waiter {
  virtual ~Waiter() = default;
  virtual void Complete(T value) = 0;
};

template <typename T, typename Handler>
struct HandlerWaiter final : Waiter<T> {
  explicit HandlerWaiter(Handler h) : handler(std::move(h)) {}
  void Complete(T value) override {
    // Resumes the coroutine here: this is always called from the loop, outside of any initiation.
    Handler h = std::move(handler);
    std::move(h)(std::move(value));
  }
  Handler handler;
};

// From the middle of something that a resumed coroutine must not disturb.
template <typename T>
void PostComplete(asio::io_context& loop, std::unique_ptr<Waiter<T>> waiter, T value) {
  asio::post(loop,
             [waiter = std::move(waiter), value = std::move(value)]() mutable { waiter->Complete(std::move(value)); });
}

// Suspends the coroutine and hands its waiter to `start`. `cancel` is called when the coroutine is cancelled.
template <typename T, typename Start, typename Cancel>
asio::awaitable<T> Suspend(Start start, Cancel cancel) {
  co_return co_await asio::async_initiate<const asio::use_awaitable_t<>&, void(T)>(
      [](auto handler, Start start, Cancel cancel) {
        auto slot = asio::get_associated_cancellation_slot(handler);
        if (slot.is_connected()) slot.assign([cancel](asio::cancellation_type) { cancel(); });
        using Handler = decltype(handler);
        start(std::unique_ptr<Waiter<T>>(new HandlerWaiter<T, Handler>(std::move(handler))));
      },
      asio::use_awaitable, std::move(start), std::move(cancel));
}

struct Operation {
  Statement statement;
  absl::Time deadline;
  std::unique_ptr<Waiter<absl::StatusOr<Result>>> waiter;  // null: given up
  Result result;
  absl::Status error;
  uint32_t generation = 0;
  bool prepares = false;  // a result of its preparation comes first
  bool in_prepare = false;
  bool alone = false;   // with a Sync of its own
  bool resent = false;  // its prepared statement was stale: the second time it goes without one, so that it gets its
                        // own true answer
  bool again = false;   // to be sent once more
};
using OperationPtr = std::shared_ptr<Operation>;

struct Core;

// ---- a shared connection: async_shared.cc ----

class Shared {
 public:
  Shared(Core& core, asio::io_context& loop) : core_(core), loop_(loop), link_(std::make_unique<Link>(loop)) {}

  // Open, or about to be for the first time: callers may wait for that.
  bool usable() const { return open_ || first_connect_; }
  bool draining() const { return draining_; }
  size_t load() const { return sent_.size() + unsent_.size(); }

  void Start();
  void Submit(OperationPtr op);
  void Sweep(absl::Time now, absl::Duration stuck_after);
  // Fails everything and closes. Callers are resumed.
  void Shut(const absl::Status& status);

 private:
  asio::awaitable<void> KeepConnected(std::shared_ptr<Core> core);
  void SendOne(OperationPtr op);
  void PostFlush();
  void Flush();
  void AwaitRead();
  void AwaitWrite();
  void OnReadable();
  bool Take(std::vector<OperationPtr>* done);
  void Break(const absl::Status& status);

  Core& core_;
  asio::io_context& loop_;
  std::unique_ptr<Link> link_;
  std::deque<OperationPtr> sent_;    // in the order in which results come
  std::deque<OperationPtr> unsent_;  // before the connection is open
  uint64_t epoch_ = 0;               // of the link: handlers of an older one do nothing
  int syncs_ = 0;                    // on their way back
  int batch_ = 0;                    // statements since the last Sync
  bool open_ = false, first_connect_ = true, draining_ = false, flush_posted_ = false, write_waiting_ = false,
       out_of_step_ = false;
  absl::Time last_progress_;
};

// ---- all of one loop: async_core.cc ----

struct Core : std::enable_shared_from_this<Core> {
  Core(asio::io_context& l, AsyncOptions o)
      : loop(l),
        options(std::move(o)),
        shared_parameters(ConnectParameters::Make({.url = options.url,
                                                   .application_name = options.application_name,
                                                   .statement_timeout = options.statement_timeout,
                                                   .plan_once = true})),
        exclusive_parameters(ConnectParameters::Make({.url = options.url,
                                                      .application_name = options.application_name,
                                                      .statement_timeout = options.statement_timeout,
                                                      .plan_once = true,
                                                      .whole_cursors = true})),
        sweeper(l) {
    PermitsOf(Lane::kLong).most = options.exclusive_connections;
    PermitsOf(Lane::kShort).most = options.short_connections;
    for (int i = 0; i < options.shared_connections; ++i) shared.push_back(std::make_unique<Shared>(*this, loop));
  }

  void SetHealth(absl::Status status) {
    const std::lock_guard lock(health_mu);
    health = std::move(status);
  }
  absl::Status GetHealth() const {
    const std::lock_guard lock(health_mu);
    return health;
  }
  absl::Status WhyUnavailable() const {
    absl::Status status = GetHealth();
    return status.ok() ? Unavailable("not connected to PostgreSQL") : status;
  }

  void StartSweeping();
  void Sweep();

  // --- permits for exclusive connections, by lane ---
  struct PermitWaiter {
    std::unique_ptr<Waiter<absl::Status>> waiter;
    absl::Time give_up, deadline;
  };
  struct Permits {
    int most = 0, in_use = 0;
    std::deque<std::shared_ptr<PermitWaiter>> waiting;
  };
  Permits& PermitsOf(Lane lane) { return permits[static_cast<size_t>(lane)]; }
  asio::awaitable<absl::Status> Permit(absl::Time deadline, Lane lane);
  void ReleasePermit(Lane lane);
  asio::awaitable<absl::StatusOr<std::unique_ptr<Session>>> Acquire(absl::Time deadline, Lane lane);
  void Close();

  asio::io_context& loop;
  const AsyncOptions options;
  const absl::StatusOr<ConnectParameters> shared_parameters, exclusive_parameters;
  std::vector<std::unique_ptr<Shared>> shared;
  asio::steady_timer sweeper;
  bool sweeping = false, closed = false;
  std::array<Permits, 2> permits;
  std::vector<std::unique_ptr<Link>> idle;
  absl::Time next_exclusive_attempt = absl::InfinitePast();
  absl::Duration exclusive_backoff;
  absl::BitGen random;
  mutable std::mutex health_mu;
  absl::Status health;
};

// async_session.cc. `link` goes back to `core`, and its permit with it.
std::unique_ptr<Session> MakeSession(std::shared_ptr<Core> core, std::unique_ptr<Link> link, Lane lane,
                                     absl::Time deadline);

}  // namespace mainstay::postgres::internal
