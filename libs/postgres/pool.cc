// SPDX-License-Identifier: Apache-2.0
// Connections are libpqxx's, but opened by this library (connect.h): its policy class gets to see the raw connection,
// so a deadline holds while connecting, a dead peer is noticed before use, and nothing is ever reopened silently: a
// second opening is refused.
//
// A watchdog thread cancels statements at their deadline and, when even that is not answered, shuts the socket (and
// those that are idle), so no thread hangs for longer than the deadline and two seconds.
#include "libs/postgres/pool.h"

#include <libpq-fe.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>
#include <pqxx/pqxx>
#include <thread>
#include <vector>

#include "absl/random/random.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/postgres/connect.h"
#include "libs/postgres/errors.h"

namespace mainstay::postgres {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(5);
constexpr absl::Duration kBackoffMin = absl::Milliseconds(100), kBackoffMax = absl::Seconds(5);
// After the cancel was sent; then the socket is shut.
constexpr absl::Duration kCancelGrace = absl::Seconds(2);
constexpr int kAttempts = 3;

// libpqxx constructs its policy itself, from a string only: this is how the open connection reaches it.
thread_local PGconn* adopted = nullptr;

class AdoptPolicy : public pqxx::connectionpolicy {
 public:
  explicit AdoptPolicy(const std::string& options) : connectionpolicy(options) {}
  handle do_startconnect(handle orig) override {
    if (orig == nullptr && adopted != nullptr) return std::exchange(adopted, nullptr);
    if (orig != nullptr && PQstatus(orig) == CONNECTION_OK) return orig;
    throw pqxx::broken_connection("the connection to PostgreSQL was lost");
  }
};

class Connection : public pqxx::basic_connection_base<AdoptPolicy> {
 public:
  // Takes over `raw`, also when it throws.
  static std::unique_ptr<Connection> Adopt(PGconn* raw, absl::Time expires) {
    adopted = raw;
    auto connection = std::unique_ptr<Connection>(new Connection(raw, expires));
    connection->set_verbosity(pqxx::connection_base::verbose);  // errors.cc reads SQLSTATE and names from it
    return connection;
  }
  ~Connection() { PQfreeCancel(cancel); }

  // An idle connection has nothing to say; if it has, the server is closing it.
  bool LooksAlive() const {
    pollfd fd{PQsocket(raw), POLLIN, 0};
    if (::poll(&fd, 1, 0) == 0) return true;
    if (PQconsumeInput(raw) == 0) return false;
    return PQstatus(raw) == CONNECTION_OK && ::poll(&fd, 1, 0) == 0;
  }

  PGconn* const raw;
  PGcancel* const cancel;
  const absl::Time expires;

 private:
  Connection(PGconn* r, absl::Time e) : raw(r), cancel(PQgetCancel(r)), expires(e) {}
};

// A statement that must end by a deadline.
struct Watch {
  Connection* connection = nullptr;
  bool fired = false, firing = false, shut = false;
};

bool ConnectionIsUseless(const absl::Status& status) {
  const auto error = GetSqlError(status);
  if (!error.has_value()) return false;
  const std::string_view s = error->sqlstate;
  return s.substr(0, 2) == "08" || s.substr(0, 4) == "57P0" || s == "25006" || s == "25P03";
}

bool IsConflict(const absl::Status& status) {
  const auto error = GetSqlError(status);
  return error.has_value() && (error->sqlstate == "40001" || error->sqlstate == "40P01");
}

}  // namespace

struct Pool::Impl {
  enum class Kind { kTransaction, kAutocommit, kSnapshot };

  explicit Impl(PoolOptions o)
      : options(std::move(o)),
        parameters(ConnectParameters::Make({.url = options.url,
                                            .application_name = options.application_name,
                                            .statement_timeout = options.statement_timeout,
                                            .lock_timeout = options.lock_timeout,
                                            .pin_plans = options.pin_plans})),
        watchdog([this] { WatchLoop(); }),
        prober([this] { ProbeLoop(); }) {}

  ~Impl() {
    {
      absl::MutexLock lock(&mu);
      stopping = true;
      watch_changed.SignalAll();
      failed.SignalAll();
    }
    watchdog.join();
    prober.join();
  }

  absl::StatusOr<std::unique_ptr<Connection>> Acquire(absl::Time deadline) {
    if (!parameters.ok()) return parameters.status();
    const absl::Time give_up = std::min(deadline, absl::Now() + options.acquire_timeout);
    std::vector<std::unique_ptr<Connection>> dead;  // closed outside the lock
    mu.Lock();
    for (;;) {
      while (!idle.empty()) {
        auto connection = std::move(idle.back());
        idle.pop_back();
        if (connection->expires > absl::Now() && connection->LooksAlive()) {
          ++used;
          mu.Unlock();
          return connection;
        }
        dead.push_back(std::move(connection));
        --total;
      }
      if (total < options.size) {
        if (!failure.ok()) {  // the prober is at it
          const absl::Status status = failure;
          mu.Unlock();
          return status;
        }
        ++total;
        mu.Unlock();
        dead.clear();
        return Open(deadline);
      }
      if (available.WaitWithDeadline(&mu, give_up) && idle.empty() && total >= options.size) {
        mu.Unlock();
        if (absl::Now() >= deadline)
          return MakeProblem("query-timeout", "no database connection was free before the deadline");
        return MakeProblem(
            {.type = "overloaded", .detail = "all database connections are in use", .retry_after = absl::Seconds(1)});
      }
    }
  }

  // `total` already counts the new one.
  absl::StatusOr<std::unique_ptr<Connection>> Open(absl::Time deadline) {
    auto raw = parameters->Connect(std::min(deadline, absl::Now() + kConnectTimeout));
    std::unique_ptr<Connection> connection;
    absl::Status status = raw.status();
    absl::BitGen random;
    if (raw.ok()) {
      try {
        // Jitter, so that a fleet does not renew all its connections in one moment.
        connection = Connection::Adopt(*raw, absl::Now() + options.max_lifetime * absl::Uniform(random, 0.8, 1.0));
      } catch (...) {
        status = StatusFromCurrentException();
        if (adopted != nullptr) PQfinish(std::exchange(adopted, nullptr));
      }
    }
    absl::MutexLock lock(&mu);
    if (connection == nullptr) {
      --total;
      // A caller in a hurry says nothing about the server.
      if (absl::Now() < deadline) {
        failure = status;
        failed.Signal();
      }
      available.SignalAll();
      return status;
    }
    failure = absl::OkStatus();
    ++used;
    return connection;
  }

  // After a failure: one attempt per backoff step, so that calls need not try themselves and Health() tells the truth
  // without any.
  void ProbeLoop() {
    absl::BitGen random;
    absl::Duration backoff = kBackoffMin;
    mu.Lock();
    while (!stopping) {
      if (failure.ok()) {
        backoff = kBackoffMin;
        failed.Wait(&mu);
        continue;
      }
      failed.WaitWithTimeout(&mu, backoff * absl::Uniform(random, 0.5, 1.0));
      if (stopping) break;
      if (failure.ok() || total >= options.size) continue;
      ++total;
      mu.Unlock();
      auto connection = Open(absl::Now() + kConnectTimeout);
      if (connection.ok()) Return(*std::move(connection), true);
      backoff = std::min(backoff * 2, kBackoffMax);
      mu.Lock();
    }
    mu.Unlock();
  }

  void Return(std::unique_ptr<Connection> connection, bool reusable) {
    reusable = reusable && connection->is_open() && connection->expires > absl::Now() &&
               PQtransactionStatus(connection->raw) == PQTRANS_IDLE;
    std::unique_ptr<Connection> closed;
    absl::MutexLock lock(&mu);
    --used;
    if (reusable) {
      idle.push_back(std::move(connection));
    } else {
      --total;
      closed = std::move(connection);
    }
    available.Signal();
  }

  std::multimap<absl::Time, Watch*>::iterator StartWatch(absl::Time deadline, Watch* watch) {
    absl::MutexLock lock(&mu);
    const auto it = watches.emplace(deadline, watch);
    if (it == watches.begin()) watch_changed.Signal();
    return it;
  }

  // Waits for a cancel on its way: it must not hit whatever the connection does next.
  void EndWatch(Watch* watch) {
    absl::MutexLock lock(&mu);
    while (watch->firing) watch_done.Wait(&mu);
    for (auto it = watches.begin(); it != watches.end(); ++it) {
      if (it->second == watch) {
        watches.erase(it);
        break;
      }
    }
  }

  void WatchLoop() {
    absl::MutexLock lock(&mu);
    while (!stopping) {
      if (watches.empty()) {
        watch_changed.Wait(&mu);
        continue;
      }
      const auto first = watches.begin();
      if (first->first > absl::Now()) {
        watch_changed.WaitWithDeadline(&mu, first->first);
        continue;
      }
      Watch* watch = first->second;
      watches.erase(first);
      if (watch->fired) {
        if (!watch->shut) ::shutdown(PQsocket(watch->connection->raw), SHUT_RDWR);
        watch->shut = true;
        // The line is dead, and so may be those of the same time: whoever met them one by one would wait out a deadline
        // on each.
        total -= static_cast<int>(idle.size());
        std::vector<std::unique_ptr<Connection>> suspects = std::move(idle);
        idle.clear();
        available.SignalAll();
        mu.Unlock();
        suspects.clear();
        mu.Lock();
        continue;
      }
      watch->fired = watch->firing = true;
      // Blocks for a round trip; on a host that vanished at most for tcp_user_timeout (connect.cc).
      mu.Unlock();
      char error[256];
      if (watch->connection->cancel != nullptr) PQcancel(watch->connection->cancel, error, sizeof(error));
      mu.Lock();
      watch->firing = false;
      watches.emplace(absl::Now() + kCancelGrace, watch);
      watch_done.SignalAll();
    }
  }

  absl::Status Body(Connection& connection, Kind kind, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body,
                    bool* started) {
    try {
      switch (kind) {
        case Kind::kTransaction: {
          pqxx::work tx(connection);
          *started = true;
          RETURN_IF_ERROR(body(tx));
          tx.commit();
          return absl::OkStatus();
        }
        case Kind::kAutocommit: {
          pqxx::nontransaction tx(connection);
          *started = true;
          RETURN_IF_ERROR(body(tx));
          tx.commit();
          return absl::OkStatus();
        }
        case Kind::kSnapshot: {
          pqxx::transaction<pqxx::repeatable_read, pqxx::read_only> tx(connection);
          *started = true;
          RETURN_IF_ERROR(body(tx));
          tx.commit();
          return absl::OkStatus();
        }
      }
    } catch (...) {
      return StatusFromCurrentException();
    }
    return absl::OkStatus();
  }

  absl::Status Run(Kind kind, absl::Time deadline, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
    absl::Duration pause = absl::Milliseconds(5);
    bool fresh_try = false;
    for (int attempt = 1;; ++attempt) {
      if (absl::Now() >= deadline)
        return MakeProblem("query-timeout", "the deadline passed before the transaction began");
      ASSIGN_OR_RETURN(std::unique_ptr<Connection> connection, Acquire(deadline));
      bool started = false;
      Watch watch{.connection = connection.get()};
      if (deadline != absl::InfiniteFuture()) StartWatch(deadline, &watch);
      absl::Status status = Body(*connection, kind, body, &started);
      if (deadline != absl::InfiniteFuture()) EndWatch(&watch);
      const bool lost = ConnectionIsUseless(status) || !connection->is_open();
      Return(std::move(connection), !watch.fired && !lost);
      if (status.ok()) return status;
      if (watch.fired && (lost || ProblemFromStatus(status).type == "query-timeout") && !IsOutcomeUnknown(status)) {
        return MakeProblem("query-timeout", "the statement was stopped at its deadline");
      }
      if (lost && !started && !fresh_try) {
        fresh_try = true;  // BEGIN met a connection that had died unnoticed: nothing has run yet
        continue;
      }
      if (!IsConflict(status) || kind == Kind::kAutocommit || attempt >= kAttempts) return status;
      absl::BitGen random;
      absl::SleepFor(std::min(pause * absl::Uniform(random, 0.5, 1.5), deadline - absl::Now()));
      pause *= 4;
    }
  }

  const PoolOptions options;
  const absl::StatusOr<ConnectParameters> parameters;

  mutable absl::Mutex mu;
  absl::CondVar available, watch_changed, watch_done, failed;
  std::vector<std::unique_ptr<Connection>> idle ABSL_GUARDED_BY(mu);
  int total ABSL_GUARDED_BY(mu) = 0, used ABSL_GUARDED_BY(mu) = 0;
  absl::Status failure ABSL_GUARDED_BY(mu);  // of the last attempt to connect; OK once one succeeded
  bool stopping ABSL_GUARDED_BY(mu) = false;
  std::multimap<absl::Time, Watch*> watches ABSL_GUARDED_BY(mu);
  std::thread watchdog, prober;  // last: they use all of the above
};

Pool::Pool(PoolOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Pool::~Pool() = default;

absl::Status Pool::Transaction(absl::Time deadline, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
  return impl_->Run(Impl::Kind::kTransaction, deadline, body);
}
absl::Status Pool::Autocommit(absl::Time deadline, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
  return impl_->Run(Impl::Kind::kAutocommit, deadline, body);
}
absl::Status Pool::Snapshot(absl::Time deadline, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
  return impl_->Run(Impl::Kind::kSnapshot, deadline, body);
}

absl::Status Pool::Health() const {
  absl::MutexLock lock(&impl_->mu);
  return impl_->failure;
}

int Pool::in_use() const {
  absl::MutexLock lock(&impl_->mu);
  return impl_->used;
}

}  // namespace mainstay::postgres
