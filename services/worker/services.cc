// SPDX-License-Identifier: Apache-2.0
#include "services/worker/services.h"

#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <pqxx/pqxx>

#include "absl/time/clock.h"
#include "libs/base/clock.h"
#include "libs/base/ids.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;

void SetTime(const absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t micros = absl::ToUnixMicros(time);
  *out = google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(micros);
}

absl::Duration ToDuration(const google::protobuf::Duration& d) {
  return absl::Seconds(d.seconds()) + absl::Nanoseconds(d.nanos());
}

absl::Time ToTime(const google::protobuf::Timestamp& t) {
  return absl::FromUnixSeconds(t.seconds()) + absl::Nanoseconds(t.nanos());
}

pb::JobState ToState(std::string_view name) {
  static const std::map<std::string, pb::JobState, std::less<>> states = {{"scheduled", pb::JOB_STATE_SCHEDULED},
                                                                          {"blocked", pb::JOB_STATE_BLOCKED},
                                                                          {"ready", pb::JOB_STATE_READY},
                                                                          {"published", pb::JOB_STATE_PUBLISHED},
                                                                          {"running", pb::JOB_STATE_RUNNING},
                                                                          {"succeeded", pb::JOB_STATE_SUCCEEDED},
                                                                          {"discarded", pb::JOB_STATE_DISCARDED},
                                                                          {"cancelled", pb::JOB_STATE_CANCELLED},
                                                                          {"dead", pb::JOB_STATE_DEAD}};
  const auto it = states.find(name);
  return it == states.end() ? pb::JOB_STATE_UNSPECIFIED : it->second;
}

int32_t SmallNumber(const JsonValue* value) {
  return value != nullptr && value->is_number() ? std::atoi(std::string(value->text()).c_str()) : 0;
}
std::string Text(const JsonValue* value) {
  return value != nullptr && value->is_string() ? std::string(value->text()) : std::string();
}

}  // namespace

// What the engine wrote is well-formed; anything else is left out.
void FillErrorsAndProgress(const std::string& errors, const std::string& progress, pb::Job* out) {
  if (!errors.empty()) {
    if (const auto document = JsonDocument::Parse(errors); document.ok() && document->root().is_array()) {
      for (const auto& item : document->root().items()) {
        pb::JobError* error = out->add_errors();
        error->set_attempt(SmallNumber(item.Find("attempt")));
        if (const auto at = ParseTimestamp(Text(item.Find("at"))); at.ok()) SetTime(*at, error->mutable_at());
        error->set_code(Text(item.Find("code")));
        error->set_message(Text(item.Find("message")));
        error->set_worker(Text(item.Find("worker")));
      }
    }
  }
  if (!progress.empty()) {
    if (const auto document = JsonDocument::Parse(progress); document.ok() && document->root().is_object()) {
      const JsonValue* percent = document->root().Find("percent");
      if (percent != nullptr && percent->is_number())
        out->mutable_progress()->set_percent(std::atof(std::string(percent->text()).c_str()));
      out->mutable_progress()->set_message(Text(document->root().Find("message")));
      if (const JsonValue* counters = document->root().Find("counters"); counters != nullptr && counters->is_object()) {
        for (const auto& member : counters->members()) {
          (*out->mutable_progress()->mutable_counters())[std::string(member.key)] =
              std::atoll(std::string(member.value.text()).c_str());
        }
      }
    }
  }
}

void FillJob(const jobs::JobView& job, pb::Job* out) {
  out->set_id(FormatId("job", job.id));
  out->set_tenant(job.tenant);
  out->set_kind(job.kind);
  out->set_queue(job.queue);
  out->set_state(ToState(job.state));
  out->set_priority(job.priority);
  out->set_args(job.args);
  if (job.result.has_value()) out->set_result(*job.result);
  out->set_attempt(job.attempt);
  out->set_max_attempts(job.max_attempts);
  out->set_crashes(job.crashes);
  out->set_max_crashes(job.max_crashes);
  out->set_snoozes(job.snoozes);
  out->set_fence(job.fence);
  FillErrorsAndProgress(job.errors, job.progress, out);
  if (const auto tags = JsonDocument::Parse(job.tags.empty() ? "[]" : job.tags); tags.ok() && tags->root().is_array()) {
    for (const auto& tag : tags->root().items()) out->add_tags(std::string(tag.text()));
  }
  out->set_unique_key(job.unique_key);
  out->set_ordering_key(job.ordering_key);
  if (job.run_at.has_value()) SetTime(*job.run_at, out->mutable_run_at());
  if (job.deadline.has_value()) SetTime(*job.deadline, out->mutable_deadline());
  if (job.created_at.has_value()) SetTime(*job.created_at, out->mutable_created_at());
  if (job.started_at.has_value()) SetTime(*job.started_at, out->mutable_started_at());
  if (job.finished_at.has_value()) SetTime(*job.finished_at, out->mutable_finished_at());
  out->set_principal(job.principal);
  out->set_traceparent(job.traceparent);
  out->set_request_id(job.request_id);
  out->set_catalog_hash(job.catalog_hash);
  out->set_worker(job.worker);
  out->set_version(job.version);
  out->set_concurrency_key(job.concurrency_key);
  if (job.concurrency_limit.has_value()) out->set_concurrency_limit(*job.concurrency_limit);
}

namespace {

// A job that was just added, from what is known without reading it back.
void FillNew(const jobs::JobSpec& spec, const jobs::Enqueued& added, const CallContext& call,
             const catalog::Model& model, absl::Time now, pb::Job* out) {
  out->set_id(FormatId("job", added.id));
  out->set_tenant(spec.tenant.empty() ? call.principal.tenant : spec.tenant);
  out->set_kind(spec.kind);
  out->set_queue(spec.queue);
  const auto queue = model.queues.find(spec.queue);
  const catalog::Queue defaults;
  const catalog::Queue& settings = queue == model.queues.end() ? defaults : queue->second;
  out->set_priority(spec.priority.value_or(settings.priority));
  out->set_max_attempts(spec.max_attempts.value_or(settings.max_attempts));
  out->set_max_crashes(settings.max_crashes);
  out->set_fence(1);
  out->set_state(spec.run_at > now                                             ? pb::JOB_STATE_SCHEDULED
                 : !spec.ordering_key.empty() || !spec.concurrency_key.empty() ? pb::JOB_STATE_BLOCKED
                 : added.stream.empty()                                        ? pb::JOB_STATE_READY
                                                                               : pb::JOB_STATE_PUBLISHED);
  out->set_args(spec.sensitive ? "\"[sensitive]\"" : spec.args);
  out->set_version(spec.version);
  out->set_concurrency_key(spec.concurrency_key);
  if (spec.concurrency_limit.has_value()) out->set_concurrency_limit(*spec.concurrency_limit);
  out->set_unique_key(spec.unique_key);
  out->set_ordering_key(spec.ordering_key);
  for (const auto& tag : spec.tags) out->add_tags(tag);
  if (spec.run_at != absl::InfinitePast()) SetTime(spec.run_at, out->mutable_run_at());
  if (spec.deadline.has_value()) SetTime(*spec.deadline, out->mutable_deadline());
  SetTime(now, out->mutable_created_at());
  out->set_principal(call.principal.subject);
  out->set_traceparent(spec.traceparent.empty() ? call.traceparent : spec.traceparent);
  out->set_request_id(call.request_id);
  out->set_catalog_hash(spec.catalog_hash);
}

// The holder of a unique key, for whoever wanted to add another.
void FillExisting(const jobs::JobView& job, const jobs::Enqueued& answer, pb::Job* out) {
  FillJob(job, out);
  out->set_existed(true);
  out->set_replaced(answer.replaced);
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

}  // namespace

jobs::JobSpec ToSpec(const pb::NewJob& job, const std::string& at, const ServiceParts& parts,
                     const catalog::Model& model, const jobs::Kinds& kinds, std::vector<FieldError>* errors) {
  jobs::JobSpec spec;
  auto wrong = [&](const char* field, const char* code, std::string detail) {
    if (errors->size() < 20)
      errors->push_back({.name = StrCat(at, "/", field), .code = code, .detail = std::move(detail)});
  };
  spec.kind = job.kind();
  if (!job.kind().empty() && !kinds.Knows(job.kind()))
    wrong("kind", "unknown", StrCat("no worker knows the kind \"", job.kind().substr(0, 100), "\""));
  if (!job.queue().empty()) spec.queue = job.queue();
  if (spec.queue != "default" && spec.queue != "mainstay" && !model.queues.contains(spec.queue)) {
    wrong("queue", "unknown", StrCat("the catalog has no queue \"", spec.queue.substr(0, 100), "\""));
  }
  if (!job.args().empty()) spec.args = job.args();
  kinds.CheckArgs(job.kind(), job.version(), spec.args, at, *errors);
  if (job.has_priority()) spec.priority = job.priority();
  if (job.has_max_attempts()) spec.max_attempts = job.max_attempts();
  if (job.has_run_at() && job.has_delay()) wrong("delay", "conflict", "give either run_at or delay");
  if (job.has_run_at()) spec.run_at = ToTime(job.run_at());
  if (job.has_delay()) {
    const absl::Duration delay = ToDuration(job.delay());
    if (delay < absl::ZeroDuration()) {
      wrong("delay", "out_of_range", "expected 0 or more");
    } else {
      spec.run_at = absl::Now() + delay;
    }
  }
  if (job.has_deadline()) spec.deadline = ToTime(job.deadline());
  spec.unique_key = job.unique_key();
  switch (job.unique_scope()) {
    case pb::UNIQUE_SCOPE_QUEUE:
      spec.unique_scope = jobs::UniqueScope::kQueue;
      break;
    case pb::UNIQUE_SCOPE_TENANT:
      spec.unique_scope = jobs::UniqueScope::kTenant;
      break;
    default:
      break;
  }
  if (job.has_unique_for()) {
    spec.unique_for = ToDuration(job.unique_for());
    if (spec.unique_for == absl::ZeroDuration()) wrong("unique_for", "out_of_range", "expected more than nothing");
  }
  // The two enumerations have the same order.
  spec.unique_bucket = static_cast<jobs::UniqueBucket>(job.unique_bucket());
  spec.unique_keep = job.unique_keep();
  switch (job.on_conflict()) {
    case pb::CONFLICT_POLICY_REPLACE:
      spec.on_conflict = jobs::OnConflict::kReplace;
      break;
    case pb::CONFLICT_POLICY_REJECT:
      spec.on_conflict = jobs::OnConflict::kReject;
      break;
    default:
      break;
  }
  spec.ordering_key = job.ordering_key();
  spec.concurrency_key = job.concurrency_key();
  if (job.has_concurrency_limit()) spec.concurrency_limit = job.concurrency_limit();
  if (job.backoff().kind() != pb::BACKOFF_KIND_UNSPECIFIED) {
    spec.options.backoff = job.backoff().kind() == pb::BACKOFF_KIND_FIXED ? jobs::BackoffPolicy::Kind::kFixed
                                                                          : jobs::BackoffPolicy::Kind::kExponential;
  }
  if (job.backoff().has_base()) spec.options.backoff_base = ToDuration(job.backoff().base());
  if (job.backoff().has_cap()) spec.options.backoff_cap = ToDuration(job.backoff().cap());
  if (job.has_soft_limit()) spec.options.soft_limit = ToDuration(job.soft_limit());
  if (job.has_hard_limit()) spec.options.hard_limit = ToDuration(job.hard_limit());
  if (job.has_retention()) spec.options.retention = ToDuration(job.retention());
  spec.version = job.version();
  spec.sensitive = job.sensitive();
  if (job.sensitive() && parts.sealer == nullptr)
    wrong("sensitive", "unavailable", "the worker has no key to seal arguments with (secrets_key_file)");
  spec.traceparent = job.traceparent();
  spec.tags.assign(job.tags().begin(), job.tags().end());
  spec.tenant = job.tenant();
  spec.catalog_hash = model.hash;
  return spec;
}

grpc::Status JobsService::EnqueueJob(grpc::ServerContext* context, const pb::EnqueueJobRequest* request,
                                     pb::Job* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.JobsService/EnqueueJob", [&](const CallContext& call) -> absl::Status {
        const catalog::ModelPtr model = parts_.model();
        ASSIGN_OR_RETURN(const auto kinds, parts_.kinds.Current(call.deadline));
        std::vector<FieldError> errors;
        const jobs::JobSpec spec = ToSpec(request->job(), "", parts_, *model, *kinds, &errors);
        if (!errors.empty()) return Invalid(std::move(errors));
        ASSIGN_OR_RETURN(const jobs::Enqueued added, parts_.merging.Enqueue(call, spec));
        if (!added.existed) {
          FillNew(spec, added, call, *model, absl::Now(), response);
          return absl::OkStatus();
        }
        return parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const jobs::JobView holder, jobs::GetJob(tx, call, added.id));
          response->Clear();
          FillExisting(holder, added, response);
          return absl::OkStatus();
        });
      });
}

grpc::Status JobsService::BatchEnqueueJobs(grpc::ServerContext* context, const pb::BatchEnqueueJobsRequest* request,
                                           pb::BatchEnqueueJobsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.JobsService/BatchEnqueueJobs", [&](const CallContext& call) -> absl::Status {
        if (request->items().empty())
          return Invalid({{.name = "/items", .code = "required", .detail = "expected 1 to 10000 jobs"}});
        if (static_cast<size_t>(request->items_size()) > jobs::kMaxBatch) {
          return Invalid({{.name = "/items",
                           .code = "too_many",
                           .detail = StrCat("at most ", jobs::kMaxBatch, " jobs in a call, this one has ",
                                            request->items_size())}});
        }
        const catalog::ModelPtr model = parts_.model();
        ASSIGN_OR_RETURN(const auto kinds, parts_.kinds.Current(call.deadline));
        std::vector<jobs::JobSpec> specs;
        std::vector<FieldError> errors;
        for (int i = 0; i < request->items_size(); ++i)
          specs.push_back(ToSpec(request->items(i), StrCat("/items/", i), parts_, *model, *kinds, &errors));
        if (!errors.empty()) return Invalid(std::move(errors));
        std::vector<jobs::Enqueued> added;
        std::map<Uuid, jobs::JobView> holders;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          holders.clear();
          ASSIGN_OR_RETURN(added, jobs::Enqueue(tx, call, specs, parts_.sealer));
          std::vector<Uuid> ids;
          for (const jobs::Enqueued& job : added)
            if (job.existed) ids.push_back(job.id);
          if (ids.empty()) return absl::OkStatus();
          ASSIGN_OR_RETURN(auto found, jobs::GetJobs(tx, call, ids));
          for (jobs::JobView& job : found) holders.emplace(job.id, std::move(job));
          return absl::OkStatus();
        }));
        parts_.handoff.Publish(added);
        const absl::Time now = absl::Now();
        response->mutable_items()->Reserve(static_cast<int>(added.size()));
        for (size_t i = 0; i < added.size(); ++i) {
          if (const auto holder = holders.find(added[i].id); holder != holders.end()) {
            FillExisting(holder->second, added[i], response->add_items());
          } else {
            FillNew(specs[i], added[i], call, *model, now, response->add_items());
          }
        }
        return absl::OkStatus();
      });
}

grpc::Status JobsService::CancelJob(grpc::ServerContext* context, const pb::CancelJobRequest* request,
                                    pb::Job* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.JobsService/CancelJob", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, JobId(request->id()));
        std::vector<jobs::Enqueued> next;
        std::optional<jobs::JobView> job;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(next, jobs::CancelJob(tx, call, id, request->reason()));
          ASSIGN_OR_RETURN(job, jobs::GetJob(tx, call, id));
          return absl::OkStatus();
        }));
        parts_.handoff.Publish(next);
        FillJob(*job, response);
        return absl::OkStatus();
      });
}

grpc::Status JobsService::RetryJob(grpc::ServerContext* context, const pb::RetryJobRequest* request,
                                   pb::Job* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.JobsService/RetryJob", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, JobId(request->id()));
        std::vector<jobs::Enqueued> next;
        std::optional<jobs::JobView> job;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(next, jobs::RetryJob(tx, call, id, request->reason()));
          ASSIGN_OR_RETURN(job, jobs::GetJob(tx, call, id));
          return absl::OkStatus();
        }));
        parts_.handoff.Publish(next);
        FillJob(*job, response);
        return absl::OkStatus();
      });
}

namespace {

void Fill(const jobs::QueueView& queue, pb::Queue* out) {
  out->set_name(queue.name);
  out->set_paused(queue.paused);
  out->set_paused_by(queue.paused_by);
  out->set_paused_reason(queue.paused_reason);
  out->set_scheduled(queue.scheduled);
  out->set_blocked(queue.blocked);
  out->set_ready(queue.ready);
  out->set_published(queue.published);
  out->set_running(queue.running);
  if (queue.oldest_age.has_value())
    *out->mutable_oldest_age() =
        google::protobuf::util::TimeUtil::MillisecondsToDuration(absl::ToInt64Milliseconds(*queue.oldest_age));
  out->set_workers(queue.workers);
  for (const auto& [kind, waiting] : queue.unserved) {
    pb::UnservedKind* unserved = out->add_unserved_kinds();
    unserved->set_kind(kind);
    unserved->set_waiting(waiting);
  }
}

// Changes the queue and reads it back.
absl::Status ChangeQueue(const ServiceParts& parts, const CallContext& call, const std::string& name,
                         absl::FunctionRef<absl::Status(pqxx::transaction_base&)> change, pb::Queue* response) {
  std::vector<jobs::QueueView> queues;
  RETURN_IF_ERROR(parts.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
    RETURN_IF_ERROR(change(tx));
    ASSIGN_OR_RETURN(queues, jobs::ListQueues(tx, call, name));
    return absl::OkStatus();
  }));
  if (queues.empty()) return MakeProblem("not-found", "no such queue");
  Fill(queues[0], response);
  return absl::OkStatus();
}

}  // namespace

grpc::Status QueuesService::ListQueues(grpc::ServerContext* context, const pb::ListQueuesRequest*,
                                       pb::ListQueuesResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.QueuesService/ListQueues", [&](const CallContext& call) -> absl::Status {
        return parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const auto queues, jobs::ListQueues(tx, call));
          response->Clear();
          for (const auto& queue : queues) Fill(queue, response->add_data());
          return absl::OkStatus();
        });
      });
}

grpc::Status QueuesService::PauseQueue(grpc::ServerContext* context, const pb::PauseQueueRequest* request,
                                       pb::Queue* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.QueuesService/PauseQueue", [&](const CallContext& call) -> absl::Status {
        if (request->reason().empty())
          return Invalid({{.name = "/reason", .code = "required", .detail = "say why: others will ask"}});
        return ChangeQueue(
            parts_, call, request->name(),
            [&](pqxx::transaction_base& tx) { return jobs::PauseQueue(tx, call, request->name(), request->reason()); },
            response);
      });
}

grpc::Status QueuesService::ResumeQueue(grpc::ServerContext* context, const pb::ResumeQueueRequest* request,
                                        pb::Queue* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.QueuesService/ResumeQueue", [&](const CallContext& call) -> absl::Status {
        return ChangeQueue(
            parts_, call, request->name(),
            [&](pqxx::transaction_base& tx) { return jobs::ResumeQueue(tx, request->name()); }, response);
      });
}

}  // namespace mainstay::worker
