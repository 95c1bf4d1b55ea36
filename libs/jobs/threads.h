// SPDX-License-Identifier: Apache-2.0
// Handlers on threads of this process: for programs that embed the engine, and for tests. Workers use children
// (children.h), because a handler that crashes here takes everything down, and one that ignores its hard limit loses
// its job but keeps its thread.
#pragma once

#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/jobs/runner.h"
#include "libs/jobs/running.h"

namespace mainstay::jobs {

class ThreadRunner : public Runner {
 public:
  // Worker id and pool are those of the engine; both outlive this.
  ThreadRunner(HandlerHome home, int threads);
  ~ThreadRunner() override;
  std::vector<std::string> routes() const override { return home_.registry.routes(); }
  absl::Status Start(RunnerHost& host) override;
  int Credit() const override;
  int capacity() const override { return count_; }
  void Give(std::vector<InHandPtr> jobs) override;
  void Tell(const InHandPtr&) override {}  // handlers look at `stop` themselves
  void Kill(const InHandPtr& job, Outcome outcome) override;
  void Recall() override;
  bool Stop() override;

 private:
  class Job;
  // Lives on with a thread whose handler never returned.
  struct Shared {
    absl::Mutex mu;
    std::deque<InHandPtr> waiting ABSL_GUARDED_BY(mu);
    std::vector<InHandPtr> running ABSL_GUARDED_BY(mu);
    bool stopping ABSL_GUARDED_BY(mu) = false;
  };
  void Loop(const std::shared_ptr<Shared>& shared);

  const HandlerHome home_;
  const int count_;
  RunnerHost* host_ = nullptr;
  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  std::atomic<int> taken_{0};
  std::vector<std::thread> threads_;
};

}  // namespace mainstay::jobs
