// SPDX-License-Identifier: Apache-2.0
// Everything here runs on the one loop, except Health() and the thread that sends cancel requests (libpq can only do
// that blocking).
//
// A shared connection is a queue of operations whose results come back in order. The caller's coroutine waits in the
// operation; giving it up (deadline, cancellation) takes the waiter out and leaves the operation as a place-holder for
// its result, so the order is never lost. Results are gathered first and callers resumed afterwards: a resumed
// coroutine may send again, close everything, or destroy this.
#include "libs/postgres/async.h"

#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <boost/asio.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "absl/random/random.h"
#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/postgres/connect.h"
#include "libs/postgres/errors.h"

namespace mainstay::postgres {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr absl::Duration kConnectTimeout = absl::Seconds(5);
constexpr absl::Duration kBackoffMin = absl::Milliseconds(100), kBackoffMax = absl::Seconds(5);
constexpr absl::Duration kMaxLifetime = absl::Minutes(30);
constexpr absl::Duration kSweep = absl::Milliseconds(50);  // how exactly deadlines of waiting callers are kept
constexpr absl::Duration kCancelGrace = absl::Seconds(1);
constexpr int kMaxBatch = 32;          // statements that share a Sync, and so may have to be sent again
constexpr size_t kMaxPrepared = 2000;  // per connection; then it is replaced, for the server keeps them all
constexpr int kStreamRows = 500;

absl::Status Unavailable(std::string_view why) {
  return StatusFromSqlError({.sqlstate = "08006", .message = std::string(why)});
}

// ---- cancel requests ----

class Canceller {
 public:
  static Canceller& Get() {
    static Canceller canceller;
    return canceller;
  }
  ~Canceller() {
    {
      const std::lock_guard lock(mu_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
    for (PGcancel* cancel : queue_) PQfreeCancel(cancel);
  }
  // Takes over `cancel`.
  void Send(PGcancel* cancel) {
    if (cancel == nullptr) return;
    const std::lock_guard lock(mu_);
    if (queue_.size() >= 1000) {  // a courtesy to the server: statement_timeout ends them too
      PQfreeCancel(cancel);
      return;
    }
    if (!thread_.joinable()) thread_ = std::thread([this] { Loop(); });
    queue_.push_back(cancel);
    wake_.notify_one();
  }

 private:
  void Loop() {
    std::unique_lock lock(mu_);
    for (;;) {
      wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      PGcancel* cancel = queue_.front();
      queue_.pop_front();
      lock.unlock();
      char error[256];
      PQcancel(cancel, error, sizeof(error));
      PQfreeCancel(cancel);
      lock.lock();
    }
  }
  std::mutex mu_;
  std::condition_variable wake_;
  std::deque<PGcancel*> queue_;
  std::thread thread_;
  bool stopping_ = false;
};

// ---- one connection's socket and prepared statements ----

class Link {
 public:
  explicit Link(asio::io_context& loop) : socket(loop) {}
  ~Link() { Close(); }
  Link(const Link&) = delete;

  void Adopt(PGconn* c) {
    connection = c;
    PQsetnonblocking(c, 1);
    PQenterPipelineMode(c);
    PQsetNoticeProcessor(
        c, [](void*, const char*) {}, nullptr);
    socket.assign(PQsocket(c));
    prepared_count = 0;
    prepared.clear();
    absl::BitGen random;
    expires = absl::Now() + kMaxLifetime * absl::Uniform(random, 0.8, 1.0);
  }

  void Close() {
    if (socket.is_open()) socket.release();  // libpq closes the descriptor itself
    if (connection != nullptr) PQfinish(connection);
    connection = nullptr;
  }

  // "s<id>_<generation>"; the generation changes when a statement must be prepared anew, so names never collide.
  struct Prepared {
    uint32_t generation = 0;
    bool sent = false;
  };
  Prepared& Slot(uint64_t id) {
    if (id >= prepared.size()) prepared.resize(std::max<size_t>(id + 1, prepared.size() * 2));
    return prepared[id];
  }
  // Forgets one whose preparation failed, was skipped, or whose plan no longer fits the tables.
  void Forget(uint64_t id, uint32_t generation) {
    Prepared& slot = Slot(id);
    if (slot.generation != generation) return;
    ++slot.generation;
    slot.sent = false;
  }

  // Queues Parse (at first use), Bind, Describe, Execute. False: the connection is broken.
  bool Send(const Statement& statement, bool prepare, bool* prepares, uint32_t* generation) {
    static thread_local std::vector<const char*> values;
    values.clear();
    for (const auto& p : statement.params) values.push_back(p.has_value() ? p->c_str() : nullptr);
    const int n = int(values.size());
    *prepares = false;
    if (!prepare)
      return PQsendQueryParams(connection, statement.sql->text.c_str(), n, nullptr, values.data(), nullptr, nullptr,
                               0) == 1;
    Prepared& slot = Slot(statement.sql->id);
    char name[48] = "s";
    char* end = std::to_chars(name + 1, name + 24, statement.sql->id).ptr;
    *end++ = '_';
    *std::to_chars(end, name + 47, slot.generation).ptr = 0;
    *generation = slot.generation;
    if (!slot.sent) {
      if (PQsendPrepare(connection, name, statement.sql->text.c_str(), 0, nullptr) != 1) return false;
      slot.sent = *prepares = true;
      ++prepared_count;
    }
    return PQsendQueryPrepared(connection, name, n, values.data(), nullptr, nullptr, 0) == 1;
  }

  bool LooksAlive() const {
    pollfd fd{PQsocket(connection), POLLIN, 0};
    return PQstatus(connection) == CONNECTION_OK && ::poll(&fd, 1, 0) == 0;
  }
  bool Worn() const { return absl::Now() >= expires || prepared_count >= kMaxPrepared; }

  PGconn* connection = nullptr;
  asio::posix::stream_descriptor socket;
  std::vector<Prepared> prepared;  // by Sql::id
  size_t prepared_count = 0;
  absl::Time expires;
};

// The plan of a prepared statement no longer fits the tables, or the statement is gone. It has not run: preparing it
// anew is safe.
bool IsStalePlan(const PGresult* result) {
  const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  if (state == nullptr) return false;
  if (std::strcmp(state, "26000") == 0) return true;
  // "cached plan must not change result type" shares its SQLSTATE with others; the function that raises it is the same
  // in every language.
  const char* function = PQresultErrorField(result, PG_DIAG_SOURCE_FUNCTION);
  return std::strcmp(state, "0A000") == 0 && function != nullptr && std::strcmp(function, "RevalidateCachedQuery") == 0;
}

absl::Status CheckParams(const Statement& statement) {
  if (statement.params.size() > 65535)
    return absl::InvalidArgumentError("a statement takes at most 65535 parameters; bind lists as one array");
  for (const auto& p : statement.params) {
    if (p.has_value() && p->find('\0') != std::string::npos) return CheckText(*p);
  }
  return absl::OkStatus();
}

// Interrupts a wait on a socket when time is up. The timer's handler may already be queued when the wait ends, and the
// socket may be gone when it runs: hence the shared state.
class WaitLimit {
 public:
  WaitLimit(asio::steady_timer& timer, asio::posix::stream_descriptor& socket, absl::Duration limit)
      : timer_(timer), state_(std::make_shared<State>(State{&socket})) {
    if (limit == absl::InfiniteDuration()) return;
    timer_.expires_after(std::chrono::milliseconds(absl::ToInt64Milliseconds(limit) + 1));
    timer_.async_wait([state = state_](error_code error) {
      if (error || state->socket == nullptr) return;
      state->expired = true;
      state->socket->cancel();
    });
  }
  ~WaitLimit() {
    state_->socket = nullptr;
    timer_.cancel();
  }
  WaitLimit(const WaitLimit&) = delete;
  bool expired() const { return state_->expired; }

 private:
  struct State {
    asio::posix::stream_descriptor* socket;
    bool expired = false;
  };
  asio::steady_timer& timer_;
  const std::shared_ptr<State> state_;
};

// Connects without blocking the loop (but for the name look-up, which libpq does inline: give an address or a socket
// folder where that matters).
asio::awaitable<absl::StatusOr<PGconn*>> ConnectAsync(asio::io_context& loop, const ConnectParameters& parameters,
                                                      absl::Time deadline) {
  std::unique_ptr<PGconn, decltype(&PQfinish)> connection(parameters.Start(), &PQfinish);
  asio::steady_timer timer(loop);
  asio::posix::stream_descriptor socket(loop);
  PostgresPollingStatusType poll = PGRES_POLLING_WRITING;
  while (PQstatus(connection.get()) != CONNECTION_BAD && poll != PGRES_POLLING_OK && poll != PGRES_POLLING_FAILED) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) co_return Unavailable("PostgreSQL did not answer in time while connecting");
    socket.assign(PQsocket(connection.get()));  // each time: trying several hosts changes it
    const auto wait = poll == PGRES_POLLING_READING ? asio::posix::descriptor_base::wait_read
                                                    : asio::posix::descriptor_base::wait_write;
    error_code error;
    struct Release {  // also when this coroutine is destroyed here
      asio::posix::stream_descriptor& socket;
      ~Release() { socket.release(); }
    } release{socket};
    const WaitLimit limit(timer, socket, left);
    co_await socket.async_wait(wait, asio::redirect_error(asio::use_awaitable, error));
    if (error) continue;  // time is up: the loop's head tells
    poll = PQconnectPoll(connection.get());
  }
  if (PQstatus(connection.get()) != CONNECTION_OK)
    co_return ConnectFailure(connection.get(), "connecting to PostgreSQL");
  co_return connection.release();
}

asio::awaitable<void> SleepAsync(asio::io_context& loop, absl::Duration duration) {
  asio::steady_timer timer(loop);
  timer.expires_after(std::chrono::microseconds(absl::ToInt64Microseconds(duration)));
  error_code ignored;
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

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

bool BeginsWithSelect(std::string_view sql) {
  while (!sql.empty() && (sql.front() == ' ' || sql.front() == '\n' || sql.front() == '\t')) sql.remove_prefix(1);
  static constexpr std::string_view kSelect = "select";
  if (sql.size() < kSelect.size()) return false;
  for (size_t i = 0; i < kSelect.size(); ++i) {
    if ((sql[i] | 0x20) != kSelect[i]) return false;
  }
  return true;
}

struct Core;

// ---- a shared connection ----

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

// ---- all of one loop ----

struct Core : std::enable_shared_from_this<Core> {
  Core(asio::io_context& l, AsyncOptions o)
      : loop(l),
        options(std::move(o)),
        shared_parameters(ConnectParameters::Make({.url = options.url,
                                                   .application_name = options.application_name,
                                                   .statement_timeout = options.statement_timeout})),
        exclusive_parameters(ConnectParameters::Make({.url = options.url,
                                                      .application_name = options.application_name,
                                                      .statement_timeout = options.statement_timeout,
                                                      .whole_cursors = true})),
        sweeper(l) {
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

  void StartSweeping() {
    if (sweeping || closed) return;
    sweeping = true;
    sweeper.expires_after(std::chrono::milliseconds(absl::ToInt64Milliseconds(kSweep)));
    sweeper.async_wait([self = shared_from_this()](error_code error) {
      self->sweeping = false;
      if (!error && !self->closed) self->Sweep();
    });
  }
  void Sweep();

  // --- permits for exclusive connections ---
  struct PermitWaiter {
    std::unique_ptr<Waiter<absl::Status>> waiter;
    absl::Time give_up, deadline;
  };
  asio::awaitable<absl::Status> Permit(absl::Time deadline);
  void ReleasePermit();
  asio::awaitable<absl::StatusOr<std::unique_ptr<Session>>> Acquire(absl::Time deadline);
  void Close();

  asio::io_context& loop;
  const AsyncOptions options;
  const absl::StatusOr<ConnectParameters> shared_parameters, exclusive_parameters;
  std::vector<std::unique_ptr<Shared>> shared;
  asio::steady_timer sweeper;
  bool sweeping = false, closed = false;
  int in_use = 0;  // permits
  std::vector<std::unique_ptr<Link>> idle;
  std::deque<std::shared_ptr<PermitWaiter>> permit_queue;
  absl::Time next_exclusive_attempt = absl::InfinitePast();
  absl::Duration exclusive_backoff;
  absl::BitGen random;
  mutable std::mutex health_mu;
  absl::Status health;
};

void Shared::Start() {
  asio::co_spawn(loop_, KeepConnected(core_.shared_from_this()), asio::detached);
}

// Until connected: one attempt after the other, with backoff. Ends then; Break starts it again.
asio::awaitable<void> Shared::KeepConnected(std::shared_ptr<Core> core) {
  absl::Duration backoff = kBackoffMin;
  while (!core->closed) {
    absl::Status status = core->shared_parameters.status();
    if (status.ok()) {
      absl::StatusOr<PGconn*> connection =
          co_await ConnectAsync(core->loop, *core->shared_parameters, absl::Now() + kConnectTimeout);
      status = connection.status();
      if (connection.ok()) {
        if (core->closed) {
          PQfinish(*connection);
          co_return;
        }
        link_ = std::make_unique<Link>(loop_);
        link_->Adopt(*connection);
        ++epoch_;
        syncs_ = batch_ = 0;
        open_ = true;
        first_connect_ = draining_ = write_waiting_ = out_of_step_ = false;
        last_progress_ = absl::Now();
        core->SetHealth(absl::OkStatus());
        AwaitRead();
        std::deque<OperationPtr> waiting = std::move(unsent_);
        unsent_.clear();
        for (auto& op : waiting) {
          if (op->waiter != nullptr) Submit(std::move(op));
        }
        co_return;
      }
    }
    if (core->closed) co_return;
    first_connect_ = false;
    core->SetHealth(status);
    std::deque<OperationPtr> failed = std::move(unsent_);
    unsent_.clear();
    for (auto& op : failed) {
      if (auto waiter = std::move(op->waiter)) waiter->Complete(status);
    }
    const absl::Duration pause = backoff * absl::Uniform(core->random, 0.5, 1.0);
    backoff = std::min(backoff * 2, kBackoffMax);
    co_await SleepAsync(core->loop, pause);
  }
}

void Shared::Submit(OperationPtr op) {
  if (!open_) {
    unsent_.push_back(std::move(op));
    return;
  }
  SendOne(std::move(op));
}

void Shared::SendOne(OperationPtr op) {
  bool fine = true;
  if (op->alone && batch_ > 0) {
    fine = PQpipelineSync(link_->connection) == 1;
    ++syncs_;
    batch_ = 0;
  }
  op->again = false;
  if (sent_.empty()) last_progress_ = absl::Now();
  fine = fine && link_->Send(op->statement, core_.options.prepare && !op->resent, &op->prepares, &op->generation);
  op->in_prepare = op->prepares;
  const bool alone = op->alone;
  sent_.push_back(std::move(op));
  if (!fine) {
    out_of_step_ = true;  // it will never be answered
    PostFlush();          // which breaks the connection, outside of the caller
    return;
  }
  if (++batch_ >= kMaxBatch || alone) {
    PQpipelineSync(link_->connection);
    ++syncs_;
    batch_ = 0;
  }
  PostFlush();
}

// Everything that is sent within one turn of the loop leaves in one piece.
void Shared::PostFlush() {
  if (flush_posted_) return;
  flush_posted_ = true;
  asio::post(loop_, [this, core = core_.shared_from_this()] {
    flush_posted_ = false;
    if (open_) Flush();
  });
}

void Shared::Flush() {
  if (out_of_step_ || PQstatus(link_->connection) != CONNECTION_OK)
    return Break(Unavailable(PQerrorMessage(link_->connection)));
  if (batch_ > 0) {
    if (PQpipelineSync(link_->connection) != 1) return Break(Unavailable(PQerrorMessage(link_->connection)));
    ++syncs_;
    batch_ = 0;
  }
  const int left = PQflush(link_->connection);
  if (left < 0) return Break(Unavailable(PQerrorMessage(link_->connection)));
  if (left > 0) AwaitWrite();
}

void Shared::AwaitWrite() {
  if (write_waiting_) return;
  write_waiting_ = true;
  link_->socket.async_wait(asio::posix::descriptor_base::wait_write,
                           [this, core = core_.shared_from_this(), epoch = epoch_](error_code error) {
                             if (epoch != epoch_ || !open_) return;
                             write_waiting_ = false;
                             if (!error) Flush();
                           });
}

void Shared::AwaitRead() {
  link_->socket.async_wait(asio::posix::descriptor_base::wait_read,
                           [this, core = core_.shared_from_this(), epoch = epoch_](error_code error) {
                             if (!error && epoch == epoch_ && open_) OnReadable();
                           });
}

void Shared::OnReadable() {
  std::vector<OperationPtr> done;
  const bool alive = PQconsumeInput(link_->connection) == 1;
  const bool in_order = Take(&done);
  // An idle connection that only says goodbye has no result to carry the reason.
  std::string reason;
  if (!alive || !in_order || PQstatus(link_->connection) != CONNECTION_OK) {
    reason = PQerrorMessage(link_->connection);
    if (reason.empty()) reason = "the connection to PostgreSQL broke";
  }
  const std::shared_ptr<Core> keep = core_.shared_from_this();
  if (reason.empty()) {
    AwaitRead();
    last_progress_ = absl::Now();
    if (sent_.empty() && syncs_ == 0 && link_->Worn()) draining_ = true;
  }
  for (auto& op : done) {
    if (op->waiter == nullptr) continue;
    if (op->again && reason.empty() && open_) {
      SendOne(std::move(op));
      continue;
    }
    auto waiter = std::move(op->waiter);
    if (op->again) {
      waiter->Complete(Unavailable(reason.empty() ? "the connection to PostgreSQL was closed" : reason));
    } else if (!op->error.ok()) {
      waiter->Complete(std::move(op->error));
    } else {
      waiter->Complete(std::move(op->result));
    }
  }
  if (!reason.empty()) {
    if (open_) Break(Unavailable(reason));
  } else if (draining_ && open_ && sent_.empty() && unsent_.empty()) {
    // Old, or full of prepared statements: nobody waits on it now.
    link_->Close();
    open_ = false;
    first_connect_ = true;
    ++epoch_;
    Start();
  }
}

// Reads all results that are here. False: they do not fit what was sent, and nothing on this connection can be trusted
// any more.
bool Shared::Take(std::vector<OperationPtr>* done) {
  int nulls = 0;
  while ((!sent_.empty() || syncs_ > 0) && PQisBusy(link_->connection) == 0) {
    PGresult* raw = PQgetResult(link_->connection);
    if (raw == nullptr) {
      if (sent_.empty()) {
        if (++nulls > 2) return false;
        continue;
      }
      if (++nulls > 2) return false;
      Operation& op = *sent_.front();
      if (nulls > 1) continue;  // between two commands
      if (op.in_prepare) {
        op.in_prepare = false;
        continue;
      }
      done->push_back(std::move(sent_.front()));
      sent_.pop_front();
      continue;
    }
    nulls = 0;
    Result result(raw);
    const ExecStatusType status = PQresultStatus(raw);
    if (status == PGRES_PIPELINE_SYNC) {
      if (--syncs_ < 0) return false;
      continue;
    }
    if (sent_.empty()) return PQstatus(link_->connection) != CONNECTION_OK;  // the server's last words
    Operation& op = *sent_.front();
    switch (status) {
      case PGRES_TUPLES_OK:
      case PGRES_COMMAND_OK:
      case PGRES_EMPTY_QUERY:
        if (!op.in_prepare) op.result = std::move(result);
        break;
      case PGRES_PIPELINE_ABORTED:
        // A neighbour failed before this one's turn. Its own failed preparation is not that.
        if (op.in_prepare) link_->Forget(op.statement.sql->id, op.generation);
        if (op.error.ok() && !op.again) {
          op.again = true;
          op.alone = true;
        }
        break;
      case PGRES_FATAL_ERROR:
        if (op.in_prepare) link_->Forget(op.statement.sql->id, op.generation);
        if (!op.resent && IsStalePlan(raw)) {
          link_->Forget(op.statement.sql->id, op.generation);
          op.resent = op.again = op.alone = true;
        } else {
          op.error = StatusFromResult(raw);
        }
        break;
      default:
        return false;  // COPY and the like have no place here
    }
  }
  return true;
}

void Shared::Break(const absl::Status& status) {
  const std::shared_ptr<Core> core = core_.shared_from_this();
  Shut(status);
  if (core->closed) return;
  core->SetHealth(status);
  Start();
}

void Shared::Shut(const absl::Status& status) {
  const std::shared_ptr<Core> core = core_.shared_from_this();
  std::deque<OperationPtr> failed = std::move(sent_);
  sent_.clear();
  for (auto& op : unsent_) failed.push_back(std::move(op));
  unsent_.clear();
  link_->Close();
  open_ = first_connect_ = false;
  ++epoch_;
  for (auto& op : failed) {
    if (op->waiter != nullptr)
      PostComplete<absl::StatusOr<Result>>(loop_, std::move(op->waiter), op->error.ok() ? status : op->error);
  }
}

void Shared::Sweep(absl::Time now, absl::Duration stuck_after) {
  std::vector<OperationPtr> late;
  for (auto* queue : {&sent_, &unsent_}) {
    for (auto& op : *queue) {
      if (op->waiter != nullptr && op->deadline <= now) late.push_back(op);
    }
  }
  const bool stuck = open_ && !sent_.empty() && now - last_progress_ > stuck_after;
  for (auto& op : late) {
    if (auto waiter = std::move(op->waiter))
      waiter->Complete(MakeProblem("query-timeout", "the statement did not finish before its deadline"));
  }
  // The server's own time limit has passed without an answer: this is no slow statement but a dead peer.
  if (stuck && open_) Break(Unavailable("PostgreSQL stopped answering"));
}

void Core::Sweep() {
  const absl::Time now = absl::Now();
  const auto self = shared_from_this();
  for (auto& connection : shared) {
    if (closed) return;
    connection->Sweep(now, options.statement_timeout + absl::Seconds(3));
  }
  std::vector<std::shared_ptr<PermitWaiter>> late;
  for (auto it = permit_queue.begin(); it != permit_queue.end();) {
    if ((*it)->waiter == nullptr || (*it)->give_up <= now) {
      late.push_back(std::move(*it));
      it = permit_queue.erase(it);
    } else {
      ++it;
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
  bool waiting = !permit_queue.empty();
  for (auto& connection : shared) waiting = waiting || connection->load() > 0;
  if (waiting) StartSweeping();
}

asio::awaitable<absl::Status> Core::Permit(absl::Time deadline) {
  if (in_use < options.exclusive_connections) {
    ++in_use;
    co_return absl::OkStatus();
  }
  if (permit_queue.size() >= size_t(options.max_waiting)) {
    co_return MakeProblem(
        {.type = "overloaded", .detail = "too many requests wait for the database", .retry_after = absl::Seconds(1)});
  }
  auto permit = std::make_shared<PermitWaiter>();
  permit->deadline = deadline;
  permit->give_up = std::min(deadline, absl::Now() + options.acquire_timeout);
  auto start = [this, permit](std::unique_ptr<Waiter<absl::Status>> waiter) {
    permit->waiter = std::move(waiter);
    permit_queue.push_back(permit);
    StartSweeping();
  };
  auto cancel = [self = shared_from_this(), permit] {
    if (permit->waiter != nullptr)
      PostComplete<absl::Status>(self->loop, std::move(permit->waiter),
                                 absl::CancelledError("the request was given up"));
  };
  co_return co_await Suspend<absl::Status>(std::move(start), std::move(cancel));
}

void Core::ReleasePermit() {
  while (!permit_queue.empty() && !closed) {
    auto permit = std::move(permit_queue.front());
    permit_queue.pop_front();
    if (permit->waiter == nullptr) continue;
    // Not from here: the releasing coroutine is in the middle of something.
    asio::post(loop, [self = shared_from_this(), permit] {
      if (auto waiter = std::move(permit->waiter)) {
        waiter->Complete(absl::OkStatus());
      } else {
        self->ReleasePermit();  // given up meanwhile
      }
    });
    return;
  }
  --in_use;
}

// ---- sessions ----

class SessionImpl final : public Session {
 public:
  SessionImpl(std::shared_ptr<Core> core, std::unique_ptr<Link> link, absl::Time deadline)
      : core_(std::move(core)), link_(std::move(link)), deadline_(deadline), timer_(core_->loop) {}

  ~SessionImpl() override {
    const bool clean = !busy_ && !spoiled_ && !core_->closed && PQstatus(link_->connection) == CONNECTION_OK;
    if (busy_ && !core_->closed) Canceller::Get().Send(PQgetCancel(link_->connection));
    const PGTransactionStatusType state = clean ? PQtransactionStatus(link_->connection) : PQTRANS_UNKNOWN;
    if (clean && state == PQTRANS_IDLE && !link_->Worn()) {
      core_->idle.push_back(std::move(link_));
      core_->ReleasePermit();
    } else if (clean && !finishing_ && (state == PQTRANS_INTRANS || state == PQTRANS_INERROR)) {
      // Rolled back in the background; the permit stays taken until then.
      auto rest = std::make_unique<SessionImpl>(core_, std::move(link_), absl::Now() + absl::Seconds(2));
      rest->finishing_ = true;
      asio::co_spawn(core_->loop, Finish(std::move(rest)), asio::detached);
    } else {
      link_->Close();
      core_->ReleasePermit();
    }
  }

  void Begin(std::string_view mode) override { begin_ = mode.empty() ? "BEGIN" : StrCat("BEGIN ", mode); }

  asio::awaitable<absl::StatusOr<Result>> Execute(Statement statement) override {
    std::vector<Statement> statements;
    statements.push_back(std::move(statement));
    absl::StatusOr<std::vector<Result>> results = co_await ExecuteAll(std::move(statements));
    if (!results.ok()) co_return results.status();
    co_return std::move(results->front());
  }

  asio::awaitable<absl::StatusOr<std::vector<Result>>> ExecuteAll(std::vector<Statement> statements) override {
    for (const Statement& statement : statements) CO_RETURN_IF_ERROR(CheckParams(statement));
    std::vector<Item> items;
    items.reserve(statements.size());
    for (Statement& statement : statements) items.push_back({.statement = &statement});
    absl::StatusOr<std::vector<Result>> results = co_await Run(items);
    co_return results;
  }

  asio::awaitable<absl::Status> Stream(Statement statement,
                                       std::function<asio::awaitable<absl::Status>(const Result&)> rows) override {
    CO_RETURN_IF_ERROR(CheckParams(statement));
    const bool own = begin_.empty() && PQtransactionStatus(link_->connection) == PQTRANS_IDLE;
    if (own) begin_ = "BEGIN READ ONLY";
    const std::string name = StrCat("mainstay_stream_", ++cursors_);
    Statement declare{
        std::make_shared<const Sql>(StrCat("DECLARE ", name, " NO SCROLL CURSOR FOR ", statement.sql->text)),
        std::move(statement.params)};
    const std::string fetch = StrCat("FETCH FORWARD ", kStreamRows, " FROM ", name), close = StrCat("CLOSE ", name);
    std::vector<Item> first;
    first.push_back({.statement = &declare, .unprepared = true});
    first.push_back({.text = fetch});
    absl::StatusOr<std::vector<Result>> results = co_await Run(first);
    absl::Status status = results.status();
    while (status.ok()) {
      const Result batch = std::move(results->back());
      if (batch.rows() > 0) {
        status = co_await rows(batch);
        if (!status.ok()) break;
      }
      if (batch.rows() < kStreamRows) break;
      std::vector<Item> next;
      next.push_back({.text = fetch});
      results = co_await Run(next);
      status = results.status();
    }
    if (own) {
      if (!status.ok()) {
        const absl::Status ignored = co_await Rollback();
        co_return status;
      }
      const absl::Status committed = co_await Commit();
      co_return committed;
    }
    if (PQtransactionStatus(link_->connection) == PQTRANS_INTRANS) {
      std::vector<Item> last;
      last.push_back({.text = close});
      absl::StatusOr<std::vector<Result>> closed = co_await Run(last);
      if (status.ok()) status = closed.status();
    }
    co_return status;
  }

  asio::awaitable<absl::Status> Commit() override {
    if (!begin_.empty()) {  // nothing was done in it
      begin_.clear();
      co_return absl::OkStatus();
    }
    std::vector<Item> items;
    items.push_back({.text = "COMMIT"});
    absl::StatusOr<std::vector<Result>> results = co_await Run(items);
    if (!results.ok()) {
      if (!spoiled_) co_return results.status();
      auto error = GetSqlError(results.status())
                       .value_or(SqlError{.sqlstate = "08007", .message = "the commit was not confirmed"});
      error.outcome_unknown = true;
      co_return StatusFromSqlError(error);
    }
    if (rolled_back_)
      co_return MakeProblem("transaction-conflict", "the transaction had failed before and was rolled back");
    co_return absl::OkStatus();
  }

  asio::awaitable<absl::Status> Rollback() override {
    if (!begin_.empty()) {
      begin_.clear();
      co_return absl::OkStatus();
    }
    std::vector<Item> items;
    items.push_back({.text = "ROLLBACK"});
    absl::StatusOr<std::vector<Result>> results = co_await Run(items);
    co_return results.status();
  }

  void Cancel() override {
    if (!busy_) return;
    spoiled_ = true;  // a cancel that arrives late must not hit the next user's statement
    Canceller::Get().Send(PQgetCancel(link_->connection));
  }

 private:
  struct Item {
    const Statement* statement = nullptr;
    std::string text;  // without parameters, never prepared
    bool unprepared = false;
    bool prepares = false, in_prepare = false;
    uint32_t generation = 0;
  };

  static asio::awaitable<void> Finish(std::unique_ptr<SessionImpl> session) {
    const absl::Status status = co_await session->Rollback();
    if (!status.ok()) session->spoiled_ = true;
  }

  // All items with one Sync, BEGIN first when it is due. Nothing throws out of here: cancellation becomes a status and
  // spoils the connection.
  asio::awaitable<absl::StatusOr<std::vector<Result>>> Run(std::vector<Item>& items) {
    if (core_->closed) co_return Unavailable("the database connections are closed");
    if (busy_) co_return absl::InternalError("a database session was used by two coroutines at once");
    if (spoiled_) co_return Unavailable("the session was lost or cancelled");
    for (int attempt = 0;; ++attempt) {
      const std::string begin = begin_;
      bool stale = false;
      absl::StatusOr<std::vector<Result>> results = Unavailable("");
      try {
        results = co_await Exchange(items, &stale);
      } catch (const std::exception& e) {
        spoiled_ = true;  // still busy_: the destructor cancels what runs
        results = absl::CancelledError("the request was given up");
      }
      const bool may_repeat = stale && attempt == 0 && !spoiled_;
      if (!may_repeat) co_return results;
      // A statement met changed tables. In a transaction that began before, what was done in it is lost; else it is
      // simply done anew.
      const PGTransactionStatusType state = PQtransactionStatus(link_->connection);
      if (state != PQTRANS_IDLE && begin.empty()) co_return results;
      if (state != PQTRANS_IDLE) {
        std::vector<Item> rollback;
        rollback.push_back({.text = "ROLLBACK"});
        bool unused = false;
        absl::StatusOr<std::vector<Result>> rolled_back = co_await Exchange(rollback, &unused);
        if (!rolled_back.ok()) co_return rolled_back;
      }
      begin_ = begin;
    }
  }

  asio::awaitable<absl::StatusOr<std::vector<Result>>> Exchange(std::vector<Item>& items, bool* stale) {
    PGconn* connection = link_->connection;
    busy_ = true;
    rolled_back_ = false;
    bool fine = true, begins = false;
    if (!begin_.empty()) {
      fine = PQsendQueryParams(connection, begin_.c_str(), 0, nullptr, nullptr, nullptr, nullptr, 0) == 1;
      begins = true;
      begin_.clear();
    }
    for (Item& item : items) {
      if (!fine) break;
      if (item.statement == nullptr) {
        fine = PQsendQueryParams(connection, item.text.c_str(), 0, nullptr, nullptr, nullptr, nullptr, 0) == 1;
      } else {
        fine =
            link_->Send(*item.statement, core_->options.prepare && !item.unprepared, &item.prepares, &item.generation);
      }
      item.in_prepare = item.prepares;
    }
    fine = fine && PQpipelineSync(connection) == 1;
    if (!fine) co_return Broken();

    absl::Time limit = deadline_;
    bool timed_out = false;
    absl::Status error;
    std::vector<Result> results(items.size());
    size_t at = 0;
    for (bool synced = false; !synced;) {
      const int unsent = PQflush(connection);
      if (unsent < 0) co_return Broken();
      if (PQisBusy(connection) == 1 || unsent > 0) {
        const bool ready = co_await WaitForSocket(unsent > 0, limit);
        if (!ready) {
          if (timed_out) co_return Broken();  // not even the cancel was answered
          timed_out = true;
          Cancel();
          limit = absl::Now() + kCancelGrace;
          continue;
        }
        if (PQconsumeInput(connection) != 1) co_return Broken();
        if (PQisBusy(connection) == 1) continue;
      }
      PGresult* raw = PQgetResult(connection);
      if (raw == nullptr) {  // the end of one command
        if (PQstatus(connection) != CONNECTION_OK) co_return Broken();
        if (begins) {
          begins = false;
        } else if (at < items.size()) {
          if (items[at].in_prepare) {
            items[at].in_prepare = false;
          } else {
            ++at;
          }
        }
        continue;
      }
      Result result(raw);
      const ExecStatusType status = PQresultStatus(raw);
      Item* item = begins || at >= items.size() ? nullptr : &items[at];
      switch (status) {
        case PGRES_PIPELINE_SYNC:
          synced = true;
          break;
        case PGRES_TUPLES_OK:
        case PGRES_COMMAND_OK:
        case PGRES_EMPTY_QUERY:
          if (item == nullptr || item->in_prepare) break;
          if (item->statement == nullptr && std::strcmp(PQcmdStatus(raw), "ROLLBACK") == 0) rolled_back_ = true;
          results[at] = std::move(result);
          break;
        case PGRES_PIPELINE_ABORTED:
        case PGRES_FATAL_ERROR:
          if (item != nullptr && item->statement != nullptr && item->in_prepare)
            link_->Forget(item->statement->sql->id, item->generation);
          if (status == PGRES_PIPELINE_ABORTED) break;
          if (error.ok()) error = StatusFromResult(raw);
          if (item != nullptr && item->statement != nullptr && !item->unprepared && IsStalePlan(raw)) {
            link_->Forget(item->statement->sql->id, item->generation);
            *stale = true;
          }
          if (PQstatus(connection) != CONNECTION_OK) {
            spoiled_ = true;
            busy_ = false;
            co_return error;
          }
          break;
        default:
          co_return Broken();
      }
    }
    busy_ = false;
    if (timed_out) co_return MakeProblem("query-timeout", "the statement was stopped at its deadline");
    if (!error.ok()) co_return error;
    co_return results;
  }

  // False: the limit has passed.
  asio::awaitable<bool> WaitForSocket(bool also_write, absl::Time limit) {
    using asio::experimental::awaitable_operators::operator||;
    const absl::Duration left = limit - absl::Now();
    if (left <= absl::ZeroDuration()) co_return false;
    const WaitLimit interrupt(timer_, link_->socket, left);
    error_code error;
    if (also_write) {
      // Both ways: the server may be waiting for us to take results before it reads on.
      co_await (link_->socket.async_wait(asio::posix::descriptor_base::wait_read,
                                         asio::redirect_error(asio::use_awaitable, error)) ||
                link_->socket.async_wait(asio::posix::descriptor_base::wait_write,
                                         asio::redirect_error(asio::use_awaitable, error)));
    } else {
      co_await link_->socket.async_wait(asio::posix::descriptor_base::wait_read,
                                        asio::redirect_error(asio::use_awaitable, error));
    }
    co_return !interrupt.expired();
  }

  absl::Status Broken() {
    spoiled_ = true;
    const char* message = PQerrorMessage(link_->connection);
    return Unavailable(message != nullptr && *message != 0 ? message : "the connection to PostgreSQL broke");
  }

  const std::shared_ptr<Core> core_;
  std::unique_ptr<Link> link_;
  const absl::Time deadline_;
  asio::steady_timer timer_;
  std::string begin_;
  int cursors_ = 0;
  bool busy_ = false, spoiled_ = false, rolled_back_ = false, finishing_ = false;
};

asio::awaitable<absl::StatusOr<std::unique_ptr<Session>>> Core::Acquire(absl::Time deadline) {
  const auto self = shared_from_this();
  if (closed) co_return Unavailable("the database connections are closed");
  CO_RETURN_IF_ERROR(exclusive_parameters.status());
  const absl::Status permit = co_await Permit(deadline);
  CO_RETURN_IF_ERROR(permit);
  // Whatever happens from here on, the permit is the session's or given back.
  struct Held {
    std::shared_ptr<Core> core;
    ~Held() {
      if (core != nullptr) core->ReleasePermit();
    }
  } held{self};
  while (!idle.empty()) {
    std::unique_ptr<Link> link = std::move(idle.back());
    idle.pop_back();
    if (!link->LooksAlive() || link->Worn()) continue;
    held.core = nullptr;
    co_return std::make_unique<SessionImpl>(self, std::move(link), deadline);
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
  co_return std::make_unique<SessionImpl>(self, std::move(link), deadline);
}

void Core::Close() {
  if (closed) return;
  closed = true;
  const auto self = shared_from_this();
  sweeper.cancel();
  const absl::Status status = Unavailable("the database connections are closed");
  for (auto& connection : shared) connection->Shut(status);
  idle.clear();
  auto waiting = std::move(permit_queue);
  permit_queue.clear();
  for (auto& permit : waiting) {
    if (permit->waiter != nullptr) PostComplete<absl::Status>(loop, std::move(permit->waiter), status);
  }
}

class AsyncPostgresImpl final : public AsyncPostgres {
 public:
  AsyncPostgresImpl(asio::io_context& loop, AsyncOptions options)
      : core_(std::make_shared<Core>(loop, std::move(options))) {
    for (auto& connection : core_->shared) connection->Start();
  }
  ~AsyncPostgresImpl() override { core_->Close(); }

  asio::awaitable<absl::StatusOr<Result>> Execute(Statement statement, absl::Time deadline) override {
    CO_RETURN_IF_ERROR(CheckParams(statement));
    Shared* best = nullptr;
    bool full = false;
    for (auto& connection : core_->shared) {
      if (!connection->usable()) continue;
      if (connection->load() >= size_t(core_->options.max_pipelined)) {
        full = true;
        continue;
      }
      if (best == nullptr || connection->load() < best->load()) best = connection.get();
    }
    if (core_->closed) co_return Unavailable("the database connections are closed");
    if (best == nullptr) {
      if (full)
        co_return MakeProblem({.type = "overloaded",
                               .detail = "too many requests wait for the database",
                               .retry_after = absl::Seconds(1)});
      co_return core_->WhyUnavailable();
    }
    auto op = std::make_shared<Operation>();
    op->alone = !BeginsWithSelect(statement.sql->text);
    op->statement = std::move(statement);
    op->deadline = deadline;
    auto start = [op, best, core = core_](std::unique_ptr<Waiter<absl::StatusOr<Result>>> waiter) {
      op->waiter = std::move(waiter);
      best->Submit(op);
      core->StartSweeping();
    };
    auto cancel = [op, core = core_] {
      if (op->waiter != nullptr)
        PostComplete<absl::StatusOr<Result>>(core->loop, std::move(op->waiter),
                                             absl::CancelledError("the request was given up"));
    };
    co_return co_await Suspend<absl::StatusOr<Result>>(std::move(start), std::move(cancel));
  }

  asio::awaitable<absl::StatusOr<std::unique_ptr<Session>>> Acquire(absl::Time deadline) override {
    return core_->Acquire(deadline);
  }
  absl::Status Health() const override { return core_->GetHealth(); }
  void Close() override { core_->Close(); }

 private:
  const std::shared_ptr<Core> core_;
};

std::atomic<uint64_t> next_sql_id{1};

}  // namespace

Sql::Sql(std::string t) : text(std::move(t)), id(next_sql_id++) {}

Result::Result(pg_result* result) : result_(result) {}
Result::Result(Result&& other) noexcept : result_(std::exchange(other.result_, nullptr)) {}
Result& Result::operator=(Result&& other) noexcept {
  if (this != &other) {
    PQclear(result_);
    result_ = std::exchange(other.result_, nullptr);
  }
  return *this;
}
Result::~Result() {
  PQclear(result_);
}
int Result::rows() const {
  return PQntuples(result_);
}
int Result::columns() const {
  return PQnfields(result_);
}
bool Result::IsNull(int row, int column) const {
  return PQgetisnull(result_, row, column) == 1;
}
std::string_view Result::Get(int row, int column) const {
  return {PQgetvalue(result_, row, column), size_t(PQgetlength(result_, row, column))};
}
int64_t Result::affected() const {
  const std::string_view text = result_ == nullptr ? "" : PQcmdTuples(result_);
  int64_t n = 0;
  std::from_chars(text.data(), text.data() + text.size(), n);
  return n;
}

std::unique_ptr<AsyncPostgres> AsyncPostgres::Create(asio::io_context& loop, AsyncOptions options) {
  return std::make_unique<AsyncPostgresImpl>(loop, std::move(options));
}

}  // namespace mainstay::postgres
