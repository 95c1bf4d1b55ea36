// SPDX-License-Identifier: Apache-2.0
#include "libs/postgres/async_link.h"

#include <poll.h>

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "absl/random/random.h"
#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/postgres/errors.h"

namespace mainstay::postgres::internal {
namespace {

constexpr absl::Duration kMaxLifetime = absl::Minutes(30);

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

}  // namespace

absl::Status Unavailable(std::string_view why) {
  return StatusFromSqlError({.sqlstate = "08006", .message = std::string(why)});
}

void SendCancel(PGcancel* cancel) {
  Canceller::Get().Send(cancel);
}

void Link::Adopt(PGconn* c) {
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

void Link::Close() {
  if (socket.is_open()) socket.release();  // libpq closes the descriptor itself
  if (connection != nullptr) PQfinish(connection);
  connection = nullptr;
}

Link::Prepared& Link::Slot(uint64_t id) {
  if (id >= prepared.size()) prepared.resize(std::max<size_t>(id + 1, prepared.size() * 2));
  return prepared[id];
}

void Link::Forget(uint64_t id, uint32_t generation) {
  Prepared& slot = Slot(id);
  if (slot.generation != generation) return;
  ++slot.generation;
  slot.sent = false;
}

bool Link::Send(const Statement& statement, bool prepare, bool* prepares, uint32_t* generation) {
  static thread_local std::vector<const char*> values;
  values.clear();
  for (const auto& p : statement.params) values.push_back(p.has_value() ? p->c_str() : nullptr);
  const int n = int(values.size());
  *prepares = false;
  if (!prepare)
    return PQsendQueryParams(connection, statement.sql->text.c_str(), n, nullptr, values.data(), nullptr, nullptr, 0) ==
           1;
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

bool Link::LooksAlive() const {
  pollfd fd{PQsocket(connection), POLLIN, 0};
  return PQstatus(connection) == CONNECTION_OK && ::poll(&fd, 1, 0) == 0;
}

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

}  // namespace mainstay::postgres::internal
