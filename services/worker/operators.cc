// SPDX-License-Identifier: Apache-2.0
#include "services/worker/operators.h"

#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>

#include <cmath>
#include <memory>
#include <pqxx/pqxx>

#include "absl/time/clock.h"
#include "libs/base/ids.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/jobs/letters.h"
#include "libs/jobs/operations.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;

constexpr double kMaxRate = 100000;
constexpr int kSamples = 10, kMaxFingerprints = 200;

google::protobuf::Timestamp ToProto(absl::Time time) {
  return google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(time));
}

absl::Status Invalid(std::vector<FieldError> errors) {
  const std::string detail =
      errors.size() == 1 ? StrCat(errors[0].name, ": ", errors[0].detail) : StrCat(errors.size(), " fields are wrong");
  return MakeProblem("validation-failed", detail, std::move(errors));
}

absl::StatusOr<Uuid> JobId(const std::string& text) {
  absl::StatusOr<Uuid> id = ParseId("job", text);
  if (!id.ok()) return MakeProblem("not-found", "no such job");
  return id;
}

absl::StatusOr<Uuid> OperationId(const std::string& text) {
  absl::StatusOr<Uuid> id = ParseId("jop", text);
  if (!id.ok()) return MakeProblem("not-found", "no such operation");
  return id;
}

const char* KindName(pb::OperationKind kind) {
  switch (kind) {
    case pb::OPERATION_KIND_REDRIVE:
      return "redrive";
    case pb::OPERATION_KIND_PURGE:
      return "purge";
    case pb::OPERATION_KIND_CANCEL:
      return "cancel";
    default:
      return nullptr;
  }
}

FieldError NoKind() {
  return {.name = "/kind", .code = "required", .detail = "one of redrive, purge, cancel"};
}
FieldError NoFilter() {
  return {.name = "/filter", .code = "required", .detail = "say which jobs, e.g. {\"queue\":\"mail\"}; {} means all"};
}
FieldError NoReason() {
  return {.name = "/reason", .code = "required", .detail = "say why: others will ask"};
}

}  // namespace

grpc::Status DeadLettersService::ListFingerprints(grpc::ServerContext* context,
                                                  const pb::ListFingerprintsRequest* request,
                                                  pb::ListFingerprintsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.DeadLettersService/ListFingerprints", [&](const CallContext& call) -> absl::Status {
        if (request->limit() < 0 || request->limit() > kMaxFingerprints) {
          return MakeProblem("invalid-parameter", StrCat("limit is between 1 and ", kMaxFingerprints),
                             {{.place = FieldError::Place::kParameter,
                               .name = "limit",
                               .code = "out_of_range",
                               .detail = StrCat("1 to ", kMaxFingerprints)}});
        }
        jobs::FingerprintQuery query{.queue = request->queue(), .kind = request->kind()};
        if (request->limit() > 0) query.limit = request->limit();
        if (request->has_since())
          query.since = absl::FromUnixSeconds(request->since().seconds()) + absl::Nanoseconds(request->since().nanos());
        return parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const auto groups, jobs::ListFingerprints(tx, call, query));
          response->Clear();
          for (const jobs::FingerprintView& group : groups) {
            pb::Fingerprint* out = response->add_data();
            out->set_fingerprint(group.fingerprint);
            out->set_kind(group.kind);
            out->set_queue(group.queue);
            out->set_count(group.count);
            *out->mutable_first_seen() = ToProto(group.first_seen);
            *out->mutable_last_seen() = ToProto(group.last_seen);
            out->set_code(group.code);
            out->set_message(group.message);
            out->set_job_id(FormatId("job", group.job));
          }
          return absl::OkStatus();
        });
      });
}

grpc::Status DeadLettersService::EditJob(grpc::ServerContext* context, const pb::EditJobRequest* request,
                                         pb::Job* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.DeadLettersService/EditJob", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, JobId(request->id()));
        std::vector<FieldError> errors;
        if (request->args().empty())
          errors.push_back({.name = "/args", .code = "required", .detail = "the new arguments"});
        if (request->reason().empty()) errors.push_back(NoReason());
        if (!errors.empty()) return Invalid(std::move(errors));
        ASSIGN_OR_RETURN(const auto kinds, parts_.kinds.Current(call.deadline));
        std::vector<jobs::Enqueued> again;
        std::optional<jobs::JobView> job;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(again, jobs::EditArgs(tx, call, id, request->args(), request->reason()));
          ASSIGN_OR_RETURN(job, jobs::GetJob(tx, call, id));
          std::vector<FieldError> wrong;
          kinds->CheckArgs(job->kind, job->version, request->args(), "", wrong);
          return wrong.empty() ? absl::OkStatus() : Invalid(std::move(wrong));
        }));
        parts_.handoff.Publish(again);
        FillJob(*job, response);
        return absl::OkStatus();
      });
}

grpc::Status DeadLettersService::DeleteJob(grpc::ServerContext* context, const pb::DeleteJobRequest* request,
                                           google::protobuf::Empty*) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.DeadLettersService/DeleteJob", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, JobId(request->id()));
        return parts_.pool.Transaction(call.deadline,
                                       [&](pqxx::transaction_base& tx) { return jobs::DeleteJob(tx, call, id); });
      });
}

absl::Status OperationsService::Read(pqxx::transaction_base& tx, const CallContext& call, const std::string& id,
                                     pb::JobOperation* out) {
  common::v1::ListQuery query;
  auto* condition = query.mutable_filter()->mutable_condition();
  condition->set_field("id");
  condition->set_op("eq");
  condition->add_values(id);
  query.set_limit(1);
  ASSIGN_OR_RETURN(const records::RowsPage page, parts_.queries.ListOperations(tx, call, query));
  if (page.rows.empty()) return MakeProblem("not-found", "no such operation");
  out->Clear();
  return records::FillMessage(page, 0, out);
}

grpc::Status OperationsService::CreateOperation(grpc::ServerContext* context, const pb::CreateOperationRequest* request,
                                                pb::JobOperation* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.OperationsService/CreateOperation", [&](const CallContext& call) -> absl::Status {
        std::vector<FieldError> errors;
        const char* kind = KindName(request->kind());
        if (kind == nullptr) errors.push_back(NoKind());
        if (request->filter().empty()) errors.push_back(NoFilter());
        if (request->reason().empty()) errors.push_back(NoReason());
        const bool redrive = request->kind() == pb::OPERATION_KIND_REDRIVE;
        if (request->has_rate() && !(request->rate() >= 0.01 && request->rate() <= kMaxRate))
          errors.push_back({.name = "/rate", .code = "out_of_range", .detail = "jobs per second: 0.01 to 100000"});
        if (request->has_max_failure_share() && !redrive) {
          errors.push_back({.name = "/max_failure_share",
                            .code = "invalid_value",
                            .detail = "only a redrive can be stopped by failures"});
        } else if (request->has_max_failure_share() &&
                   !(request->max_failure_share() >= 0 && request->max_failure_share() <= 1)) {
          errors.push_back({.name = "/max_failure_share", .code = "out_of_range", .detail = "a share: 0 to 1"});
        }
        if (request->failure_window() != 0 && (request->failure_window() < 10 || request->failure_window() > 1000))
          errors.push_back({.name = "/failure_window", .code = "out_of_range", .detail = "10 to 1000 jobs"});
        if (request->has_max_affected() && (request->max_affected() < 0 || request->max_affected() > 1000000))
          errors.push_back({.name = "/max_affected", .code = "out_of_range", .detail = "0 to 1000000 jobs"});
        if (!errors.empty()) return Invalid(std::move(errors));

        jobs::OperationSpec spec{.kind = kind, .filter = request->filter(), .reason = request->reason()};
        if (request->has_rate()) {
          spec.rate = request->rate();
        } else if (redrive) {
          spec.rate = jobs::kDefaultRedriveRate;
        }
        if (request->has_max_failure_share()) spec.max_failure_share = request->max_failure_share();
        if (request->failure_window() != 0) spec.failure_window = request->failure_window();
        spec.catalog_hash = parts_.model()->hash;
        std::vector<jobs::Enqueued> added;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          added.clear();
          ASSIGN_OR_RETURN(const common::v1::Filter filter,
                           parts_.queries.ParseFilter(tx, call, request->filter(), "/filter"));
          if (request->has_max_affected()) {
            ASSIGN_OR_RETURN(const int64_t count,
                             parts_.queries.Count(tx, call, parts_.queries.Targets(kind, filter, absl::Now()),
                                                  request->max_affected() + 1));
            if (count > request->max_affected())
              return MakeProblem("max-affected-exceeded", StrCat("more than ", request->max_affected(), " jobs match"));
          }
          ASSIGN_OR_RETURN(const Uuid id, jobs::CreateOperation(tx, call, spec, &added));
          return Read(tx, call, FormatId("jop", id), response);
        }));
        parts_.handoff.Publish(added);
        return absl::OkStatus();
      });
}

grpc::Status OperationsService::PreviewOperation(grpc::ServerContext* context,
                                                 const pb::PreviewOperationRequest* request,
                                                 pb::PreviewOperationResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.OperationsService/PreviewOperation", [&](const CallContext& call) -> absl::Status {
        std::vector<FieldError> errors;
        const char* kind = KindName(request->kind());
        if (kind == nullptr) errors.push_back(NoKind());
        if (request->filter().empty()) errors.push_back(NoFilter());
        if (!errors.empty()) return Invalid(std::move(errors));
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const common::v1::Filter filter,
                           parts_.queries.ParseFilter(tx, call, request->filter(), "/filter"));
          common::v1::ListQuery query = parts_.queries.Targets(kind, filter, absl::Now());
          query.set_limit(kSamples);
          query.set_count(common::v1::COUNT_MODE_EXACT);
          ASSIGN_OR_RETURN(const records::RowsPage page, parts_.queries.List(tx, call, query));
          response->Clear();
          response->set_count(page.page.total());
          response->set_count_kind(page.page.total_kind());
          return FillJobs(page, response->mutable_samples());
        });
      });
}

grpc::Status OperationsService::GetOperation(grpc::ServerContext* context, const pb::GetOperationRequest* request,
                                             pb::JobOperation* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.OperationsService/GetOperation", [&](const CallContext& call) -> absl::Status {
        RETURN_IF_ERROR(OperationId(request->id()).status());
        return parts_.pool.Autocommit(
            call.deadline, [&](pqxx::transaction_base& tx) { return Read(tx, call, request->id(), response); });
      });
}

grpc::Status OperationsService::ListOperations(grpc::ServerContext* context, const pb::ListOperationsRequest* request,
                                               pb::ListOperationsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.OperationsService/ListOperations", [&](const CallContext& call) -> absl::Status {
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const records::RowsPage page, parts_.queries.ListOperations(tx, call, request->query()));
          response->Clear();
          *response->mutable_page() = page.page;
          for (size_t row = 0; row < page.rows.size(); ++row)
            RETURN_IF_ERROR(records::FillMessage(page, row, response->add_data()));
          return absl::OkStatus();
        });
      });
}

grpc::Status OperationsService::CancelOperation(grpc::ServerContext* context, const pb::CancelOperationRequest* request,
                                                pb::JobOperation* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.OperationsService/CancelOperation", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, OperationId(request->id()));
        return parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          RETURN_IF_ERROR(jobs::CancelOperation(tx, call, id));
          return Read(tx, call, request->id(), response);
        });
      });
}

grpc::Status OperationsService::ResumeOperation(grpc::ServerContext* context, const pb::ResumeOperationRequest* request,
                                                pb::JobOperation* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.OperationsService/ResumeOperation", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, OperationId(request->id()));
        std::vector<jobs::Enqueued> added;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          added.clear();
          RETURN_IF_ERROR(jobs::ResumeOperation(tx, call, id, &added));
          return Read(tx, call, request->id(), response);
        }));
        parts_.handoff.Publish(added);
        return absl::OkStatus();
      });
}

void RegisterOperations(jobs::Registry& registry, postgres::Pool& pool, jobs::Handoff& handoff, JobQueries& queries) {
  registry.Register(jobs::kOperationKind,
                    [&pool, &handoff, targets = std::make_shared<FilterTargets>(queries)](jobs::RunningJob& job) {
                      return jobs::RunOperation(job, {.pool = pool, .handoff = handoff, .targets = *targets});
                    });
}

}  // namespace mainstay::worker
