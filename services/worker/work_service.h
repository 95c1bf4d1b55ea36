// SPDX-License-Identifier: Apache-2.0
// WorkService of jobs.v1: from gRPC's callbacks to the StreamRunner, and who may open a stream.
//
// A worker proves itself by an API key ("authorization: Bearer mst_…"; services of the suite by their signed
// principal). The key is looked up when the stream begins and once a minute from then on: a revoked one ends the
// stream, and its jobs go to others at once. What needs PostgreSQL runs on a desk, so streams hold no thread; a desk
// that is full refuses.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "mainstay/jobs/v1/work.grpc.pb.h"
#include "services/worker/monitoring.h"
#include "services/worker/services.h"
#include "services/worker/stream_runner.h"

namespace mainstay::worker {

class WorkService final : public mainstay::jobs::v1::WorkService::CallbackService {
 public:
  // All outlive this; no stream outlives the runner's Close and the server's shutdown.
  WorkService(ServiceParts parts, Desk& desk, StreamRunner& runner, int max_streams = 6000,
              absl::Duration recheck = absl::Minutes(1));
  grpc::ServerBidiReactor<mainstay::jobs::v1::WorkerMessage, mainstay::jobs::v1::ServerMessage>* Work(
      grpc::CallbackServerContext* context) override;

 private:
  class Stream;
  const ServiceParts parts_;
  Desk& desk_;
  StreamRunner& runner_;
  const int max_streams_;
  const absl::Duration recheck_;
  std::atomic<int> streams_{0};
};

}  // namespace mainstay::worker
