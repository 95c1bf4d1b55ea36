// SPDX-License-Identifier: Apache-2.0
// jobs.v1 over gRPC: thin adapters from the RPCs to libs/jobs and the list query of libs/records. What they know beyond
// it: the catalog (queues) and the live workers (kinds).
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/problem.h"
#include "libs/catalog/model.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/store.h"
#include "libs/postgres/pool.h"
#include "libs/rpc/call.h"
#include "mainstay/jobs/v1/jobs.grpc.pb.h"

namespace mainstay::worker {

struct ServiceParts {
  postgres::Pool& pool;
  jobs::Handoff& handoff;
  const rpc::Guard& guard;
  std::function<catalog::ModelPtr()> model;
  std::vector<std::string> own_kinds;
  // Callers that may wait for a job at once (each holds a thread); beyond it GetJob answers at once.
  int max_waiting = 8;
  std::string cursor_key;  // 32 bytes, the same in every copy
};

// From the JSON of the row.
void FillErrorsAndProgress(const std::string& errors, const std::string& progress, mainstay::jobs::v1::Job* job);

class JobsService final : public mainstay::jobs::v1::JobsService::Service {
 public:
  explicit JobsService(ServiceParts parts) : parts_(std::move(parts)) {}
  grpc::Status EnqueueJob(grpc::ServerContext* context, const mainstay::jobs::v1::EnqueueJobRequest* request,
                          mainstay::jobs::v1::Job* response) override;
  grpc::Status BatchEnqueueJobs(grpc::ServerContext* context,
                                const mainstay::jobs::v1::BatchEnqueueJobsRequest* request,
                                mainstay::jobs::v1::BatchEnqueueJobsResponse* response) override;
  grpc::Status GetJob(grpc::ServerContext* context, const mainstay::jobs::v1::GetJobRequest* request,
                      mainstay::jobs::v1::Job* response) override;
  grpc::Status ListJobs(grpc::ServerContext* context, const mainstay::jobs::v1::ListJobsRequest* request,
                        mainstay::jobs::v1::ListJobsResponse* response) override;
  grpc::Status CancelJob(grpc::ServerContext* context, const mainstay::jobs::v1::CancelJobRequest* request,
                         mainstay::jobs::v1::Job* response) override;
  grpc::Status RetryJob(grpc::ServerContext* context, const mainstay::jobs::v1::RetryJobRequest* request,
                        mainstay::jobs::v1::Job* response) override;

 private:
  // `at` is where the job stood in the request: "" or "/items/3".
  absl::Status ToSpec(const mainstay::jobs::v1::NewJob& job, const std::string& at, const catalog::Model& model,
                      const std::set<std::string>& kinds, jobs::JobSpec* spec, std::vector<FieldError>* errors);
  absl::StatusOr<std::set<std::string>> Kinds(const CallContext& call);
  absl::StatusOr<catalog::Resource> Resource(pqxx::transaction_base& tx);

  const ServiceParts parts_;
  std::atomic<int> waiting_{0};
  absl::Mutex mu_;
  std::set<std::string> kinds_ ABSL_GUARDED_BY(mu_);
  absl::Time kinds_at_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  std::optional<catalog::Resource> resource_ ABSL_GUARDED_BY(mu_);  // mainstay.jobs_view, read once
};

class QueuesService final : public mainstay::jobs::v1::QueuesService::Service {
 public:
  explicit QueuesService(ServiceParts parts) : parts_(std::move(parts)) {}
  grpc::Status ListQueues(grpc::ServerContext* context, const mainstay::jobs::v1::ListQueuesRequest* request,
                          mainstay::jobs::v1::ListQueuesResponse* response) override;
  grpc::Status PauseQueue(grpc::ServerContext* context, const mainstay::jobs::v1::PauseQueueRequest* request,
                          mainstay::jobs::v1::Queue* response) override;
  grpc::Status ResumeQueue(grpc::ServerContext* context, const mainstay::jobs::v1::ResumeQueueRequest* request,
                           mainstay::jobs::v1::Queue* response) override;

 private:
  const ServiceParts parts_;
};

}  // namespace mainstay::worker
