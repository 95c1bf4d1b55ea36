// SPDX-License-Identifier: Apache-2.0
#include "services/worker/queues.h"

#include <google/protobuf/util/time_util.h>

#include <pqxx/pqxx>

#include "libs/base/ids.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/jobs/pauses.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;
using google::protobuf::util::TimeUtil;

void Fill(const jobs::PauseView& pause, pb::Pause* out) {
  out->set_id(FormatId("pause", pause.id));
  out->set_scope(pause.scope);
  out->set_name(pause.name);
  out->set_tenant(pause.tenant);
  out->set_author(pause.author);
  out->set_reason(pause.reason);
  *out->mutable_created_at() = TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(pause.created_at));
  if (pause.ends_at.has_value())
    *out->mutable_ends_at() = TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(*pause.ends_at));
}

}  // namespace

grpc::Status PausesService::CreatePause(grpc::ServerContext* context, const pb::CreatePauseRequest* request,
                                        pb::Pause* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.PausesService/CreatePause", [&](const CallContext& call) -> absl::Status {
        jobs::PauseSpec spec{.scope = request->scope(),
                             .name = request->name(),
                             .tenant = request->tenant(),
                             .reason = request->reason()};
        if (request->has_ends_at())
          spec.ends_at =
              absl::FromUnixSeconds(request->ends_at().seconds()) + absl::Nanoseconds(request->ends_at().nanos());
        return parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const jobs::PauseView pause, jobs::AddPause(tx, call, spec));
          Fill(pause, response);
          return absl::OkStatus();
        });
      });
}

grpc::Status PausesService::ListPauses(grpc::ServerContext* context, const pb::ListPausesRequest*,
                                       pb::ListPausesResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.PausesService/ListPauses", [&](const CallContext& call) -> absl::Status {
        return parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const auto pauses, jobs::ListPauses(tx, call));
          response->Clear();
          for (const auto& pause : pauses) Fill(pause, response->add_data());
          return absl::OkStatus();
        });
      });
}

grpc::Status PausesService::DeletePause(grpc::ServerContext* context, const pb::DeletePauseRequest* request,
                                        google::protobuf::Empty*) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.PausesService/DeletePause", [&](const CallContext& call) -> absl::Status {
        const absl::StatusOr<Uuid> id = ParseId("pause", request->id());
        if (!id.ok()) return MakeProblem("not-found", "no such pause");
        return parts_.pool.Transaction(call.deadline,
                                       [&](pqxx::transaction_base& tx) { return jobs::EndPause(tx, call, *id); });
      });
}

grpc::Status ExplainService::ExplainJob(grpc::ServerContext* context, const pb::ExplainJobRequest* request,
                                        pb::ExplainJobResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.ExplainService/ExplainJob", [&](const CallContext& call) -> absl::Status {
        const absl::StatusOr<Uuid> id = ParseId("job", request->id());
        if (!id.ok()) return MakeProblem("not-found", "no such job");
        return parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const jobs::Explanation explanation, jobs::Explain(tx, call, *id));
          response->Clear();
          response->set_id(request->id());
          response->set_state(explanation.state);
          for (const jobs::Reason& reason : explanation.reasons) {
            pb::WaitReason* out = response->add_reasons();
            out->set_code(reason.code);
            out->set_detail(reason.detail);
          }
          return absl::OkStatus();
        });
      });
}

}  // namespace mainstay::worker
