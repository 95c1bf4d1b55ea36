// SPDX-License-Identifier: Apache-2.0
// jobs.v1 over gRPC: thin adapters from the RPCs to libs/jobs and the list query of libs/records. What they know beyond
// it: the catalog (queues) and what workers announced (kinds).
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "libs/base/problem.h"
#include "libs/catalog/model.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/kinds.h"
#include "libs/jobs/merging.h"
#include "libs/jobs/store.h"
#include "libs/postgres/pool.h"
#include "libs/rpc/call.h"
#include "mainstay/jobs/v1/jobs.grpc.pb.h"
#include "services/worker/job_query.h"

namespace mainstay::worker {

struct ServiceParts {
  postgres::Pool& pool;
  jobs::Handoff& handoff;
  jobs::MergingEnqueuer& merging;
  const jobs::Sealer* sealer;  // null: sensitive arguments are refused
  const rpc::Guard& guard;
  std::function<catalog::ModelPtr()> model;
  jobs::KindBook& kinds;
  JobQueries& queries;
};

// A new job as the engine takes it; adds to `errors` what is wrong with it. `at` is where it stood in the request: ""
// or "/items/3".
jobs::JobSpec ToSpec(const mainstay::jobs::v1::NewJob& job, const std::string& at, const ServiceParts& parts,
                     const catalog::Model& model, const jobs::Kinds& kinds, std::vector<FieldError>* errors);

// The row as the API shows it.
void FillJob(const jobs::JobView& job, mainstay::jobs::v1::Job* out);

// From the JSON of the row.
void FillErrorsAndProgress(const std::string& errors, const std::string& progress, mainstay::jobs::v1::Job* job);

// GetJob may wait, and does so without a thread (monitoring.h): the only method here that gRPC calls back.
class JobsService final
    : public mainstay::jobs::v1::JobsService::WithCallbackMethod_GetJob<mainstay::jobs::v1::JobsService::Service> {
 public:
  using StartGet = std::function<grpc::ServerUnaryReactor*(
      grpc::CallbackServerContext*, const mainstay::jobs::v1::GetJobRequest*, mainstay::jobs::v1::Job*)>;
  JobsService(ServiceParts parts, StartGet start_get) : parts_(std::move(parts)), start_get_(std::move(start_get)) {}
  grpc::Status EnqueueJob(grpc::ServerContext* context, const mainstay::jobs::v1::EnqueueJobRequest* request,
                          mainstay::jobs::v1::Job* response) override;
  grpc::Status BatchEnqueueJobs(grpc::ServerContext* context,
                                const mainstay::jobs::v1::BatchEnqueueJobsRequest* request,
                                mainstay::jobs::v1::BatchEnqueueJobsResponse* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context,
                                   const mainstay::jobs::v1::GetJobRequest* request,
                                   mainstay::jobs::v1::Job* response) override {
    return start_get_(context, request, response);
  }
  grpc::Status ListJobs(grpc::ServerContext* context, const mainstay::jobs::v1::ListJobsRequest* request,
                        mainstay::jobs::v1::ListJobsResponse* response) override;
  grpc::Status CancelJob(grpc::ServerContext* context, const mainstay::jobs::v1::CancelJobRequest* request,
                         mainstay::jobs::v1::Job* response) override;
  grpc::Status RetryJob(grpc::ServerContext* context, const mainstay::jobs::v1::RetryJobRequest* request,
                        mainstay::jobs::v1::Job* response) override;

 private:
  const ServiceParts parts_;
  const StartGet start_get_;
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
