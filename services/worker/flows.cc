// SPDX-License-Identifier: Apache-2.0
#include "services/worker/flows.h"

#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>

#include <pqxx/pqxx>

#include "libs/base/ids.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/catalog/introspect.h"
#include "libs/jobs/flows.h"
#include "libs/records/list.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;

constexpr size_t kMaxLabel = 200;

absl::StatusOr<Uuid> FlowId(const std::string& text) {
  absl::StatusOr<Uuid> id = ParseId("flow", text);
  if (!id.ok()) return MakeProblem("not-found", "no such flow");
  return id;
}

google::protobuf::Timestamp ToProto(absl::Time time) {
  return google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(time));
}

void Fill(const jobs::FlowView& flow, pb::Flow* out) {
  out->set_id(FormatId("flow", flow.id));
  out->set_tenant(flow.tenant);
  out->set_label(flow.label);
  out->set_created_by(flow.created_by);
  *out->mutable_created_at() = ToProto(flow.created_at);
  if (flow.finished_at.has_value()) *out->mutable_finished_at() = ToProto(*flow.finished_at);
  out->set_total(flow.total);
  out->set_waiting(flow.waiting);
  out->set_open(flow.open);
  out->set_succeeded(flow.succeeded);
  out->set_discarded(flow.discarded);
  out->set_cancelled(flow.cancelled);
  out->set_dead(flow.dead);
  out->set_scheduled(flow.scheduled);
  out->set_blocked(flow.blocked);
  out->set_ready(flow.ready);
  out->set_published(flow.published);
  out->set_running(flow.running);
}

template <typename Response>
absl::Status FillPage(const records::RowsPage& page, Response* response) {
  response->Clear();
  *response->mutable_page() = page.page;
  for (size_t row = 0; row < page.rows.size(); ++row)
    RETURN_IF_ERROR(records::FillMessage(page, row, response->add_data()));
  return absl::OkStatus();
}

absl::Status Invalid(std::vector<FieldError> errors) {
  const std::string detail =
      errors.size() == 1 ? StrCat(errors[0].name, ": ", errors[0].detail) : StrCat(errors.size(), " fields are wrong");
  return MakeProblem("validation-failed", detail, std::move(errors));
}

// The two enumerations have the same order.
jobs::RunsOn ToRunsOn(pb::RunsOn runs_on) {
  return runs_on == pb::RUNS_ON_UNSPECIFIED ? jobs::RunsOn::kSucceeded : static_cast<jobs::RunsOn>(runs_on);
}

}  // namespace

grpc::Status FlowsService::CreateFlow(grpc::ServerContext* context, const pb::CreateFlowRequest* request,
                                      pb::CreateFlowResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.FlowsService/CreateFlow", [&](const CallContext& call) -> absl::Status {
        std::vector<FieldError> errors;
        if (request->label().size() > kMaxLabel)
          errors.push_back({.name = "/label", .code = "too_long", .detail = StrCat("at most ", kMaxLabel, " bytes")});
        if (request->jobs().empty() || static_cast<size_t>(request->jobs_size()) > jobs::kMaxBatch) {
          errors.push_back(
              {.name = "/jobs",
               .code = request->jobs().empty() ? "required" : "too_many",
               .detail = StrCat("expected 1 to ", jobs::kMaxBatch, " jobs, this flow has ", request->jobs_size())});
        }
        if (!errors.empty()) return Invalid(std::move(errors));
        const catalog::ModelPtr model = parts_.model();
        ASSIGN_OR_RETURN(const auto kinds, parts_.kinds.Current(call.deadline));
        std::vector<jobs::FlowJob> flow_jobs;
        flow_jobs.reserve(static_cast<size_t>(request->jobs_size()));
        for (int i = 0; i < request->jobs_size() && errors.size() < 20; ++i) {
          const pb::FlowJob& job = request->jobs(i);
          const std::string at = StrCat("/jobs/", i, "/job");
          if (job.job().on_conflict() != pb::CONFLICT_POLICY_UNSPECIFIED &&
              job.job().on_conflict() != pb::CONFLICT_POLICY_REJECT) {
            errors.push_back({.name = StrCat(at, "/on_conflict"),
                              .code = "invalid_value",
                              .detail = "the jobs of a flow are its own: only reject"});
          }
          flow_jobs.push_back({.job = ToSpec(job.job(), at, parts_, *model, *kinds, &errors),
                               .name = job.name(),
                               .needs = {job.needs().begin(), job.needs().end()},
                               .runs_on = ToRunsOn(job.runs_on())});
        }
        if (!errors.empty()) return Invalid(std::move(errors));
        jobs::Flow flow;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(flow, jobs::EnqueueFlow(tx, call, request->label(), flow_jobs, parts_.sealer));
          return absl::OkStatus();
        }));
        parts_.handoff.Publish(flow.jobs);
        response->Clear();
        response->set_id(FormatId("flow", flow.id));
        response->set_label(request->label());
        for (size_t i = 0; i < flow.jobs.size(); ++i) {
          pb::CreatedFlowJob* job = response->add_jobs();
          job->set_id(FormatId("job", flow.jobs[i].id));
          job->set_name(flow_jobs[i].name);
        }
        return absl::OkStatus();
      });
}

grpc::Status FlowsService::GetFlow(grpc::ServerContext* context, const pb::GetFlowRequest* request,
                                   pb::Flow* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.FlowsService/GetFlow", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, FlowId(request->id()));
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const jobs::FlowView flow, jobs::GetFlow(tx, call, id));
          Fill(flow, response);
          return absl::OkStatus();
        });
      });
}

grpc::Status FlowsService::ListFlows(grpc::ServerContext* context, const pb::ListFlowsRequest* request,
                                     pb::ListFlowsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.FlowsService/ListFlows", [&](const CallContext& call) -> absl::Status {
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const catalog::Resource flows, Flows(tx));
          ASSIGN_OR_RETURN(const records::RowsPage page,
                           records::ListRows(tx, flows, *parts_.model(), call, request->query(), cursor_key_));
          return FillPage(page, response);
        });
      });
}

grpc::Status FlowsService::ListFlowJobs(grpc::ServerContext* context, const pb::ListFlowJobsRequest* request,
                                        pb::ListFlowJobsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.FlowsService/ListFlowJobs", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, FlowId(request->id()));
        common::v1::ListQuery query = request->query();
        common::v1::Filter both;
        auto* condition = both.mutable_and_()->add_filters()->mutable_condition();
        condition->set_field("flow_uid");
        condition->set_op("eq");
        condition->add_values(id.ToString());
        if (query.has_filter()) *both.mutable_and_()->add_filters() = query.filter();
        *query.mutable_filter() = std::move(both);
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          RETURN_IF_ERROR(jobs::GetFlow(tx, call, id).status());
          ASSIGN_OR_RETURN(const catalog::Resource members, Members(tx));
          ASSIGN_OR_RETURN(const records::RowsPage page,
                           records::ListRows(tx, members, *parts_.model(), call, query, cursor_key_));
          return FillPage(page, response);
        });
      });
}

grpc::Status FlowsService::CancelFlow(grpc::ServerContext* context, const pb::CancelFlowRequest* request,
                                      pb::Flow* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.FlowsService/CancelFlow", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, FlowId(request->id()));
        std::vector<jobs::Enqueued> next;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(next, jobs::CancelFlow(tx, call, id, request->reason()));
          ASSIGN_OR_RETURN(const jobs::FlowView flow, jobs::GetFlow(tx, call, id));
          Fill(flow, response);
          return absl::OkStatus();
        }));
        parts_.handoff.Publish(next);
        return absl::OkStatus();
      });
}

grpc::Status FlowsService::RetryFlow(grpc::ServerContext* context, const pb::RetryFlowRequest* request,
                                     pb::RetryFlowResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.FlowsService/RetryFlow", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, FlowId(request->id()));
        jobs::Revived revived;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(revived, jobs::RetryFlow(tx, call, id, request->reason()));
          ASSIGN_OR_RETURN(const jobs::FlowView flow, jobs::GetFlow(tx, call, id));
          response->Clear();
          Fill(flow, response->mutable_flow());
          response->set_retried(static_cast<int>(revived.ids.size()));
          for (const Uuid& job : revived.taken) response->add_taken(FormatId("job", job));
          return absl::OkStatus();
        }));
        parts_.handoff.Publish(revived.publish);
        return absl::OkStatus();
      });
}

absl::StatusOr<catalog::Resource> FlowsService::Flows(pqxx::transaction_base& tx) {
  absl::MutexLock lock(&mu_);
  if (!flows_.has_value()) {
    catalog::SystemResourceOptions options;
    options.name = "flows";
    options.key = "uid";
    options.default_sort = "-uid";
    options.hidden = {"uid"};
    // Filters on counts read the jobs of every flow that they walk over.
    options.filterable = {"id", "label", "created_by", "created_at", "finished_at", "open", "dead"};
    options.sortable = {"created_at"};
    ASSIGN_OR_RETURN(flows_, catalog::SystemResource(tx, "mainstay.flows_view", options));
  }
  return *flows_;
}

absl::StatusOr<catalog::Resource> FlowsService::Members(pqxx::transaction_base& tx) {
  absl::MutexLock lock(&mu_);
  if (!members_.has_value()) {
    catalog::SystemResourceOptions options;
    options.name = "flow-jobs";
    options.key = "uid";
    options.default_sort = "place";
    options.sortable = {"place"};
    options.filterable = {"flow_uid", "id", "name", "kind", "state", "finished_at"};
    ASSIGN_OR_RETURN(members_, catalog::SystemResource(tx, "mainstay.flow_jobs_view", options));
  }
  return *members_;
}

}  // namespace mainstay::worker
