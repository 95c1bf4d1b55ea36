// SPDX-License-Identifier: Apache-2.0
// The job as its handler sees it, the same in a child and on a thread: what does not depend on the process. Inside the
// engine.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/call_once.h"
#include "libs/base/principal.h"
#include "libs/jobs/in_hand.h"

namespace mainstay::postgres {
class Pool;
}

namespace mainstay::jobs {

// What handlers of a process share. Thread-safe.
struct HandlerHome {
  const Registry& registry;
  Uuid worker;
  std::string worker_name;
  postgres::Pool& pool;  // connects when it is first used
};

class HandlerJob : public RunningJob {
 public:
  HandlerJob(const HandlerHome& home, JobData& data);
  const Uuid& id() const override { return data_.id; }
  std::string_view kind() const override { return data_.kind; }
  int version() const override { return data_.version; }
  std::string_view args() const override { return data_.args; }
  int64_t fence() const override { return data_.fence; }
  int attempt() const override { return data_.attempt + 1; }
  const CallContext& context() const override;
  std::string_view checkpoint() const override { return data_.checkpoint; }
  postgres::Pool& pool() override { return home_.pool; }
  absl::Status SaveCheckpoint(std::string_view json) override;
  absl::Status Progress(double percent, std::string_view message,
                        const std::map<std::string, int64_t>& counters) override;
  absl::Status FinishIn(pqxx::transaction_base& tx, const Outcome& outcome) override;

  // Runs the registered handler; exceptions become retries.
  Outcome RunHandler();

 protected:
  // Stores under the fence and waits.
  virtual absl::Status StoreNote(bool checkpoint, std::string json) = 0;
  virtual void Fenced() = 0;                                     // stop: the job is no longer ours
  virtual void FinishedIn(std::vector<Handout> successors) = 0;  // once the transaction has taken it
  const HandlerHome& home_;
  JobData& data_;

 private:
  // What a run's earlier jobs did must be final before this one's effects are.
  absl::Status AwaitTurn(pqxx::transaction_base& tx);

  const int64_t began_us_;
  mutable absl::once_flag once_;
  mutable CallContext context_;  // made when a handler asks for it
};

absl::Status FencedError();
// As the row has it.
std::string ProgressJson(double percent, std::string_view message, const std::map<std::string, int64_t>& counters);

}  // namespace mainstay::jobs
