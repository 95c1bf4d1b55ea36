// SPDX-License-Identifier: Apache-2.0
// Internal: one connection in pipeline mode with its socket and prepared statements, how it comes to be, and how its
// statement is cancelled. Everything is used from the one loop, but for the thread behind SendCancel (libpq can only do
// that blocking).
#pragma once

#include <libpq-fe.h>

#include <boost/asio.hpp>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/postgres/async.h"
#include "libs/postgres/connect.h"

namespace mainstay::postgres::internal {

namespace asio = boost::asio;
using boost::system::error_code;

inline constexpr absl::Duration kConnectTimeout = absl::Seconds(5);
inline constexpr absl::Duration kBackoffMin = absl::Milliseconds(100), kBackoffMax = absl::Seconds(5);

inline constexpr size_t kMaxPrepared = 2000;  // per connection; then it is replaced, for the server keeps them all

absl::Status Unavailable(std::string_view why);

// Takes over `cancel` and sends it from another thread.
void SendCancel(PGcancel* cancel);

// A connection, its socket on the loop, and the statements it has prepared.
class Link {
 public:
  explicit Link(asio::io_context& loop) : socket(loop) {}
  ~Link() { Close(); }
  Link(const Link&) = delete;

  void Adopt(PGconn* c);
  void Close();

  // "s<id>_<generation>"; the generation changes when a statement must be prepared anew, so names never collide.
  struct Prepared {
    uint32_t generation = 0;
    bool sent = false;
  };
  Prepared& Slot(uint64_t id);
  // Forgets one whose preparation failed, was skipped, or whose plan no longer fits the tables.
  void Forget(uint64_t id, uint32_t generation);

  // Queues Parse (at first use), Bind, Describe, Execute. False: the connection is broken.
  bool Send(const Statement& statement, bool prepare, bool* prepares, uint32_t* generation);

  bool LooksAlive() const;
  bool Worn() const { return absl::Now() >= expires || prepared_count >= kMaxPrepared; }

  PGconn* connection = nullptr;
  asio::posix::stream_descriptor socket;
  std::vector<Prepared> prepared;  // by Sql::id
  size_t prepared_count = 0;
  absl::Time expires;
};

// The plan of a prepared statement no longer fits the tables, or the statement is gone. It has not run: preparing it
// anew is safe.
bool IsStalePlan(const PGresult* result);

absl::Status CheckParams(const Statement& statement);

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
                                                      absl::Time deadline);

asio::awaitable<void> SleepAsync(asio::io_context& loop, absl::Duration duration);

}  // namespace mainstay::postgres::internal
