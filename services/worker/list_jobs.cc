// SPDX-License-Identifier: Apache-2.0
// The list of jobs: what a filter means is in job_query.h.
#include <grpcpp/grpcpp.h>

#include <pqxx/pqxx>

#include "libs/base/status.h"
#include "services/worker/job_query.h"
#include "services/worker/services.h"

namespace mainstay::worker {

grpc::Status JobsService::ListJobs(grpc::ServerContext* context, const mainstay::jobs::v1::ListJobsRequest* request,
                                   mainstay::jobs::v1::ListJobsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.JobsService/ListJobs", [&](const CallContext& call) -> absl::Status {
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const records::RowsPage page, parts_.queries.List(tx, call, request->query()));
          response->Clear();
          *response->mutable_page() = page.page;
          return FillJobs(page, response->mutable_data());
        });
      });
}

}  // namespace mainstay::worker
