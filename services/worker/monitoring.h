// SPDX-License-Identifier: Apache-2.0
// Figures of queues, workers, and streams of changes over gRPC.
//
// Whoever waits (a long poll, a stream) holds no thread: gRPC's callbacks hand over to a few threads of this service,
// and one jobs::Watcher looks for all of them. Every stream holds at most the latest state that was not sent yet, so a
// slow reader costs nothing.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/jobs/stats.h"
#include "libs/jobs/watch.h"
#include "mainstay/jobs/v1/monitoring.grpc.pb.h"
#include "services/worker/services.h"

namespace mainstay::worker {

// A few threads for what gRPC's callbacks must not do themselves. Bounded: over it, Post refuses.
class Desk {
 public:
  explicit Desk(int threads, size_t max_waiting = 5000);
  ~Desk();
  bool Post(std::function<void()> work);
  // Does what is there, then takes no more. Harmless twice.
  void Stop();

 private:
  void Run();
  const size_t max_waiting_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> work_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

struct Depth {
  int64_t scheduled = 0, blocked = 0, ready = 0, published = 0, running = 0;
  std::optional<double> oldest_seconds;
};

// How many jobs wait where. Counting reads every unfinished job, so one count serves all who ask meanwhile and for
// twenty times as long as it took: with few jobs it is made anew each time, a backlog of a million costs a twentieth of
// a core at most.
class Depths {
 public:
  explicit Depths(postgres::Pool& pool) : pool_(pool) {}
  struct Counted {
    absl::Time at;
    std::map<std::string, Depth> queues;
  };
  // Of the principal's tenant; all together for those who see all.
  absl::StatusOr<Counted> Get(const CallContext& context);

 private:
  postgres::Pool& pool_;
  absl::Mutex mu_;
  absl::Time at_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time good_until_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  std::map<std::string, std::map<std::string, Depth>> by_tenant_ ABSL_GUARDED_BY(mu_);
};

struct MonitoringParts {
  ServiceParts service;
  jobs::Watcher& watcher;
  Desk& desk;
  Depths& depths;
};

// The depths as metrics of the worker that does the upkeep (the others say 0, so that a sum over workers is right),
// every fifteen seconds until the watcher stops.
void KeepDepthMetrics(const MonitoringParts& parts, std::function<bool()> leading);

class QueueStatsService final : public mainstay::jobs::v1::QueueStatsService::Service {
 public:
  explicit QueueStatsService(const MonitoringParts& parts) : parts_(parts) {}
  grpc::Status ListQueueStats(grpc::ServerContext* context, const mainstay::jobs::v1::ListQueueStatsRequest* request,
                              mainstay::jobs::v1::ListQueueStatsResponse* response) override;
  grpc::Status GetQueueStats(grpc::ServerContext* context, const mainstay::jobs::v1::GetQueueStatsRequest* request,
                             mainstay::jobs::v1::QueueStats* response) override;

 private:
  const MonitoringParts parts_;
};

class WorkersService final : public mainstay::jobs::v1::WorkersService::Service {
 public:
  explicit WorkersService(const MonitoringParts& parts) : parts_(parts) {}
  grpc::Status ListWorkers(grpc::ServerContext* context, const mainstay::jobs::v1::ListWorkersRequest* request,
                           mainstay::jobs::v1::ListWorkersResponse* response) override;

 private:
  const MonitoringParts parts_;
};

class WatchService final : public mainstay::jobs::v1::WatchService::CallbackService {
 public:
  explicit WatchService(const MonitoringParts& parts) : parts_(parts) {}
  grpc::ServerWriteReactor<mainstay::jobs::v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const mainstay::jobs::v1::WatchJobRequest* request) override;
  grpc::ServerWriteReactor<mainstay::jobs::v1::WatchQueueResponse>* WatchQueue(
      grpc::CallbackServerContext* context, const mainstay::jobs::v1::WatchQueueRequest* request) override;

 private:
  const MonitoringParts parts_;
};

// GetJob, which may wait (see WatchService). The request and the answer live as long as the call.
grpc::ServerUnaryReactor* StartGetJob(const MonitoringParts& parts, grpc::CallbackServerContext* context,
                                      const mainstay::jobs::v1::GetJobRequest* request,
                                      mainstay::jobs::v1::Job* response);

}  // namespace mainstay::worker
