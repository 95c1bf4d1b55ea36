// SPDX-License-Identifier: Apache-2.0
#include "services/worker/kinds_service.h"

#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>

#include <pqxx/pqxx>

#include "libs/base/status.h"
#include "libs/jobs/kinds.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;

void Fill(const jobs::KindView& kind, pb::Kind* out) {
  out->set_kind(kind.spec.kind);
  out->set_version(kind.spec.version);
  out->set_schema(kind.spec.schema);
  out->set_alive(kind.alive);
  out->set_announced_by(kind.announced_by);
  *out->mutable_announced_at() =
      google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(kind.announced_at));
}

}  // namespace

grpc::Status KindsService::ListKinds(grpc::ServerContext* context, const pb::ListKindsRequest*,
                                     pb::ListKindsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.KindsService/ListKinds", [&](const CallContext& call) -> absl::Status {
        return parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const auto kinds, jobs::ListKinds(tx));
          response->Clear();
          for (const jobs::KindView& kind : kinds) Fill(kind, response->add_data());
          return absl::OkStatus();
        });
      });
}

grpc::Status KindsService::PutKind(grpc::ServerContext* context, const pb::PutKindRequest* request,
                                   pb::Kind* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.KindsService/PutKind", [&](const CallContext& call) -> absl::Status {
        const jobs::KindSpec spec{.kind = request->kind(), .version = request->version(), .schema = request->schema()};
        return parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          RETURN_IF_ERROR(jobs::AnnounceKinds(tx, call.principal.subject, {&spec, 1}));
          ASSIGN_OR_RETURN(const auto kinds, jobs::ListKinds(tx));
          response->Clear();
          for (const jobs::KindView& kind : kinds)
            if (kind.spec.kind == spec.kind && kind.spec.version == spec.version) Fill(kind, response);
          return absl::OkStatus();
        });
      });
}

}  // namespace mainstay::worker
