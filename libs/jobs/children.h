// SPDX-License-Identifier: Apache-2.0
// Runs jobs in child processes of this worker (child.h is their side), each exec'ed from a program that registers the
// same handlers.
//
// A child that dies takes only what ran in it along. What it had not started goes to a sibling, under the same fence.
// If one job was running, that job crashed; if several were, none is charged: they are suspects, and each runs with no
// other job in its process until it is done. A job that passes its hard limit loses its child; its neighbours are
// handed out anew at no cost. One thread reads the children; frames are written by whoever has jobs, and by that thread
// when a socket is full. The page shared with a child says what it has started, and stays mapped for the life of this.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/jobs/frames.h"
#include "libs/jobs/runner.h"

namespace mainstay::jobs {

struct ChildPoolOptions {
  // The program and its arguments; the child's own argument is put first. Empty: this process's own.
  std::vector<std::string> command;
  // What its handlers run, as announced.
  std::vector<std::string> routes;
  int children = 2;  // 1 to 64
  int threads = 8;   // handlers at work at once in each
  // Private writable memory of a child; 0: unlimited.
  int64_t memory_bytes = int64_t{2} << 30;
  // Whether handlers may start processes.
  bool may_fork = false;
  Uuid worker;
  std::string worker_name;
};

class ChildPool : public Runner {
 public:
  explicit ChildPool(ChildPoolOptions options);
  ~ChildPool() override;
  std::vector<std::string> routes() const override { return options_.routes; }
  absl::Status Start(RunnerHost& host) override;
  int Credit() const override { return credit_.load(std::memory_order_relaxed); }
  int capacity() const override { return options_.children * options_.threads; }
  void Give(std::vector<InHandPtr> jobs) override;
  void Tell(const InHandPtr& job) override;
  void Kill(const InHandPtr& job, Outcome outcome) override;
  void Recall() override;
  bool Stop() override;
  bool takes_runs() const override { return true; }

  std::vector<int> pids() const;  // of the children alive

 private:
  struct Child {
    int pid = 0, fd = -1;
    bool ready = false, dying = false;
    bool reserved = false;                    // takes nothing but suspects
    uint64_t life = 0;                        // counts its processes
    std::atomic<int64_t>* started = nullptr;  // its page
    int page = -1;
    std::vector<InHandPtr> slots;  // null: free
    std::vector<uint32_t> free;
    int given = 0;
    std::string out;  // not yet written
    FrameBuffer in;
    InHandPtr killed_for;  // whose hard limit it was
    Outcome killed_outcome;
    absl::Time born, next_start;
    int deaths = 0;   // in a row, young
    double rate = 0;  // results per second, of late
    int64_t results = 0;
  };

  void Loop();
  void Spawn(Child& child) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Assign() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool GiveTo(Child& child, const InHandPtr* jobs, size_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Write(Child& child) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Read(int index, std::vector<Finished>& finished);
  void OnFrame(int index, FrameType type, std::string_view body, std::vector<Finished>& finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Bury(Child& child, std::vector<Finished>& finished) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int Target(const Child& child) const;
  void UpdateCredit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void UpdateRates(absl::Duration since) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Nudge() const;

  const ChildPoolOptions options_;
  RunnerHost* host_ = nullptr;
  int wake_ = -1;  // eventfd
  std::thread thread_;
  std::atomic<int> credit_{0};

  mutable absl::Mutex mu_;
  std::vector<Child> children_ ABSL_GUARDED_BY(mu_);
  std::deque<InHandPtr> waiting_ ABSL_GUARDED_BY(mu_), suspects_ ABSL_GUARDED_BY(mu_);
  std::vector<Finished> left_over_ ABSL_GUARDED_BY(mu_);  // of runs that a child had no room for
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mainstay::jobs
