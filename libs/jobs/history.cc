// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/history.h"

#include "libs/base/status.h"
#include "libs/jobs/flows.h"

namespace mainstay::jobs {
namespace {

constexpr int kBatch = 2000, kQueueBatch = 20000;

}  // namespace

absl::Status History::Days() {
  RETURN_IF_ERROR(ForgetFlows(context_.pool, context_.options.retention));
  return context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    Run(tx, sql::kMaintainHistory, absl::ToDoubleSeconds(context_.options.retention));
    Run(tx, sql::kForgetWorkers);
    return absl::OkStatus();
  });
}

absl::StatusOr<bool> History::Purge() {
  bool more = false;
  const absl::Time start = Mono();
  struct Queue {
    std::string name, from, to;
  };
  std::vector<Queue> queues;
  if (start >= queues_at_) {
    RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
      queues.clear();
      for (const auto& row : Run(tx, sql::kShortQueues, absl::ToDoubleSeconds(context_.options.retention)))
        queues.push_back({row[0].c_str(), row[1].c_str(), row[2].c_str()});
      return absl::OkStatus();
    }));
    for (const Queue& queue : queues) {
      RETURN_IF_ERROR(context_.Transaction([&](pqxx::transaction_base& tx) -> absl::Status {
        tx.exec0("SET LOCAL enable_seqscan = on");
        if (Run(tx, sql::kPurgeQueue, queue.name, queue.from, queue.to, kQueueBatch)[0][0].as<int>() < kQueueBatch)
          Run(tx, sql::kPurgedQueue, queue.name, queue.to);
        return absl::OkStatus();
      }));
    }
    queues_at_ = Mono() + (Mono() - start) * 20;
  }
  RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    more = Run(tx, sql::kPurgeJobs, kBatch)[0][0].as<int>() == kBatch || more;
    return absl::OkStatus();
  }));
  return more;
}

}  // namespace mainstay::jobs
