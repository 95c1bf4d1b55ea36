// SPDX-License-Identifier: Apache-2.0
// The shared, pipelined connections: many callers' statements in one stream, results in order, a Sync for each batch.
#include <algorithm>

#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/postgres/async_core.h"
#include "libs/postgres/errors.h"

namespace mainstay::postgres::internal {
namespace {

constexpr int kMaxBatch = 32;  // statements that share a Sync, and so may have to be sent again

}  // namespace

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

}  // namespace mainstay::postgres::internal
