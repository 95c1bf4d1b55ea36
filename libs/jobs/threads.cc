// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/threads.h"

#include <algorithm>

#include "absl/synchronization/notification.h"

namespace mainstay::jobs {

class ThreadRunner::Job : public HandlerJob {
 public:
  Job(const HandlerHome& home, InHandPtr job, RunnerHost& host)
      : HandlerJob(home, *job), job_(std::move(job)), host_(host) {}
  bool cancelled() const override { return job_->stop.load(std::memory_order_relaxed) != Stop::kNone; }

 private:
  absl::Status StoreNote(bool checkpoint, std::string json) override {
    struct Answer {
      absl::Notification done;
      absl::Status status;
    };
    const auto answer = std::make_shared<Answer>();
    host_.Store(job_, checkpoint ? RunnerHost::Note::kCheckpoint : RunnerHost::Note::kProgress, std::move(json),
                [answer](absl::Status status) {
                  answer->status = std::move(status);
                  answer->done.Notify();
                });
    answer->done.WaitForNotification();
    return answer->status;
  }
  void Fenced() override { job_->stop = Stop::kFenced; }
  void FinishedIn(std::vector<Handout> successors) override {
    absl::MutexLock lock(&job_->mu);
    job_->successors = std::move(successors);
    job_->finished_in = true;
  }
  const InHandPtr job_;
  RunnerHost& host_;
};

ThreadRunner::ThreadRunner(HandlerHome home, int threads) : home_(std::move(home)), count_(threads) {}

ThreadRunner::~ThreadRunner() {
  Stop();
}

absl::Status ThreadRunner::Start(RunnerHost& host) {
  host_ = &host;
  for (int i = 0; i < count_; ++i) threads_.emplace_back([this, shared = shared_] { Loop(shared); });
  return absl::OkStatus();
}

int ThreadRunner::Credit() const {
  return std::max(0, count_ - taken_.load(std::memory_order_relaxed));
}

void ThreadRunner::Give(std::vector<InHandPtr> jobs) {
  taken_ += static_cast<int>(jobs.size());
  absl::MutexLock lock(&shared_->mu);
  for (auto& job : jobs) shared_->waiting.push_back(std::move(job));
}

void ThreadRunner::Loop(const std::shared_ptr<Shared>& shared) {
  while (true) {
    InHandPtr job;
    {
      absl::MutexLock lock(&shared->mu);
      shared->mu.Await(absl::Condition(
          +[](Shared* s) ABSL_EXCLUSIVE_LOCKS_REQUIRED(s->mu) { return s->stopping || !s->waiting.empty(); },
          shared.get()));
      if (shared->stopping) return;
      job = std::move(shared->waiting.front());
      shared->waiting.pop_front();
      job->started_us = std::max<int64_t>(1, MonoMicros());
      shared->running.push_back(job);
    }
    Job running(home_, job, *host_);
    Outcome outcome = running.RunHandler();
    job->ran_us = std::max<int64_t>(1, MonoMicros() - job->started_us);
    {
      absl::MutexLock lock(&shared->mu);
      const auto it = std::find(shared->running.begin(), shared->running.end(), job);
      if (it == shared->running.end()) {  // taken from it meanwhile
        if (shared->stopping) return;
        --taken_;
        continue;
      }
      shared->running.erase(it);
      --taken_;
      if (shared->stopping) return;
    }
    std::vector<Finished> finished;
    finished.push_back({std::move(job), std::move(outcome)});
    host_->Finish(std::move(finished));
    host_->Wake();
  }
}

void ThreadRunner::Kill(const InHandPtr& job, Outcome outcome) {
  {
    absl::MutexLock lock(&shared_->mu);
    if (std::erase(shared_->running, job) == 0) return;
  }
  std::vector<Finished> finished;
  finished.push_back({job, std::move(outcome)});
  host_->Finish(std::move(finished));
}

void ThreadRunner::Recall() {
  std::vector<Finished> finished;
  {
    absl::MutexLock lock(&shared_->mu);
    for (auto& job : shared_->waiting) finished.push_back({std::move(job), Outcome(), Finished::How::kUnstarted});
    shared_->waiting.clear();
    taken_ -= static_cast<int>(finished.size());
  }
  host_->Finish(std::move(finished));
}

bool ThreadRunner::Stop() {
  if (threads_.empty()) return true;
  std::vector<Finished> finished;
  {
    absl::MutexLock lock(&shared_->mu);
    shared_->stopping = true;
    for (auto* list : {&shared_->running})
      for (auto& job : *list) finished.push_back({std::move(job), Outcome(), Finished::How::kReturned});
    for (auto& job : shared_->waiting) finished.push_back({std::move(job), Outcome(), Finished::How::kReturned});
    shared_->running.clear();
    shared_->waiting.clear();
  }
  const bool clean = finished.empty();
  if (!clean) host_->Finish(std::move(finished));
  for (auto& thread : threads_) clean ? thread.join() : thread.detach();
  threads_.clear();
  return clean;
}

}  // namespace mainstay::jobs
