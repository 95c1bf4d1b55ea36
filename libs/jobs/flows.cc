// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/flows.h"

#include <map>
#include <pqxx/pqxx>

#include "absl/strings/str_cat.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/jobs/flow_sql.h"
#include "libs/jobs/in_hand.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"

namespace mainstay::jobs {
namespace {

constexpr size_t kMaxName = 100, kMaxNeeds = 1000, kMaxEdges = 100000;

absl::Time Deadline() {
  return absl::Now() + absl::Seconds(10);
}

// Exceptions of libpqxx become statuses.
template <typename F>
auto Guarded(F body) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::Status Invalid(std::vector<FieldError> errors) {
  std::string detail = errors.size() == 1 ? absl::StrCat(errors[0].name, ": ", errors[0].detail)
                                          : absl::StrCat(errors.size(), " fields are wrong");
  return MakeProblem("validation-failed", std::move(detail), std::move(errors));
}

// What can be said without the database. `fresh`: a new flow, so that every name must be in the call.
absl::Status CheckShape(absl::Span<const FlowJob> jobs, bool fresh) {
  if (jobs.empty() || jobs.size() > kMaxBatch)
    return Invalid({{.name = "/jobs", .code = "out_of_range", .detail = absl::StrCat("expected 1 to ", kMaxBatch)}});
  std::vector<FieldError> errors;
  std::map<std::string_view, size_t> names;
  for (size_t i = 0; i < jobs.size(); ++i)
    if (!jobs[i].name.empty()) names.emplace(jobs[i].name, i);  // the first of that name
  size_t edges = 0;
  for (size_t i = 0; i < jobs.size() && errors.size() < 20; ++i) {
    const FlowJob& job = jobs[i];
    auto wrong = [&](const std::string& field, const char* code, std::string detail) {
      errors.push_back({.name = absl::StrCat("/jobs/", i, field), .code = code, .detail = std::move(detail)});
    };
    if (job.name.size() > kMaxName || job.name == "*" || CleanText(job.name, kMaxName) != job.name) {
      wrong("/name", "invalid_value", "at most 100 bytes of UTF-8, and not \"*\"");
    } else if (!job.name.empty() && names[job.name] != i) {
      wrong("/name", "duplicate", absl::StrCat("job ", names[job.name], " has this name"));
    }
    if (job.needs.size() > kMaxNeeds) wrong("/needs", "too_many", absl::StrCat("at most ", kMaxNeeds, " names"));
    for (size_t n = 0; n < job.needs.size() && errors.size() < 20; ++n) {
      const std::string& need = job.needs[n];
      const std::string field = absl::StrCat("/needs/", n);
      edges += need == "*" ? i : 1;
      const auto named = names.find(need);
      if (need == "*") {
        if (i == 0) wrong(field, "unknown", "no job stands before it");
      } else if (named == names.end()) {
        if (fresh || need.empty()) wrong(field, "unknown", "no job before it has this name");
      } else if (named->second == i) {
        wrong(field, "cycle", "a job cannot wait for itself");
      } else if (named->second > i) {
        wrong(field, "out_of_order",
              absl::StrCat("job ", named->second, " has this name, but stands after this one; a job waits for jobs ",
                           "before it, so that there are no cycles"));
      }
    }
  }
  if (errors.empty() && edges > kMaxEdges)
    errors.push_back({.name = "/jobs",
                      .code = "too_many",
                      .detail = absl::StrCat(edges, " dependencies, the limit is ", kMaxEdges,
                                             "; a job without work of its own can gather many")});
  return errors.empty() ? absl::OkStatus() : Invalid(std::move(errors));
}

// The enqueue's fields stand one level down here.
absl::Status Relocated(const absl::Status& status, bool single) {
  Problem problem = ProblemFromStatus(status);
  if (problem.errors.empty()) return status;
  for (FieldError& error : problem.errors) {
    constexpr std::string_view kItems = "/items/";
    if (single) {
      error.name = absl::StrCat("/jobs/0/job", error.name);
    } else if (error.name.compare(0, kItems.size(), kItems) == 0) {
      const size_t slash = error.name.find('/', kItems.size());
      error.name = absl::StrCat("/jobs/", error.name.substr(kItems.size(), slash - kItems.size()), "/job",
                                slash == std::string::npos ? "" : error.name.substr(slash));
    }
  }
  if (problem.errors.size() == 1) problem.detail = absl::StrCat(problem.errors[0].name, ": ", problem.errors[0].detail);
  return MakeProblem(std::move(problem));
}

absl::StatusOr<std::vector<Enqueued>> Add(pqxx::transaction_base& tx, const CallContext& context, const Uuid& flow,
                                          const Uuid* parent, absl::Span<const FlowJob> jobs, const Sealer* sealer) {
  std::vector<JobSpec> specs;
  specs.reserve(jobs.size());
  for (const FlowJob& job : jobs) {
    specs.push_back(job.job);
    if (!job.job.unique_key.empty()) specs.back().on_conflict = OnConflict::kReject;
  }
  absl::StatusOr<std::vector<Enqueued>> added = Enqueue(tx, context, specs, sealer);
  if (!added.ok()) return Relocated(added.status(), jobs.size() == 1);
  PgArray ids, names, runs_on, waiters, needs;
  for (size_t i = 0; i < jobs.size(); ++i) {
    ids.Add((*added)[i].id.ToString());
    names.Add(jobs[i].name);
    runs_on.Add(absl::StrCat(static_cast<int>(jobs[i].runs_on)));
    for (const std::string& need : jobs[i].needs) {
      waiters.Add(absl::StrCat(i + 1));
      needs.Add(need);
    }
    if (jobs[i].needs.empty()) continue;
    // It waits: nothing of it is handed out, and its key's turn has not come.
    (*added)[i].stream.clear();
    (*added)[i].entry.clear();
    (*added)[i].key.reset();
  }
  const std::string parent_id = parent != nullptr ? parent->ToString() : "";
  try {
    Run(tx, sql::kAddFlowJobs, flow.ToString(), parent != nullptr ? parent_id.c_str() : nullptr,
        std::move(ids).Finish(), std::move(names).Finish(), std::move(runs_on).Finish(), std::move(waiters).Finish(),
        std::move(needs).Finish());
  } catch (const pqxx::sql_error& e) {
    if (e.sqlstate() != "22023") throw;
    std::string text = e.what();  // "ERROR:  mainstay.flows: item 3: needs: …"
    const size_t start = text.find("mainstay.flows: ");
    if (start != std::string::npos) text = text.substr(start + 16, text.find('\n') - start - 16);
    return MakeProblem("validation-failed", text, {{.name = "/jobs", .code = "invalid_value", .detail = text}});
  }
  return added;
}

}  // namespace

absl::StatusOr<Flow> EnqueueFlow(pqxx::transaction_base& tx, const CallContext& context, std::string_view label,
                                 absl::Span<const FlowJob> jobs, const Sealer* sealer) {
  return Guarded([&]() -> absl::StatusOr<Flow> {
    RETURN_IF_ERROR(CheckShape(jobs, true));
    const std::string& tenant = jobs[0].job.tenant.empty() ? context.principal.tenant : jobs[0].job.tenant;
    for (size_t i = 1; i < jobs.size(); ++i) {
      if ((jobs[i].job.tenant.empty() ? context.principal.tenant : jobs[i].job.tenant) != tenant)
        return Invalid({{.name = absl::StrCat("/jobs/", i, "/job/tenant"),
                         .code = "invalid_value",
                         .detail = "the jobs of a flow belong to one tenant"}});
    }
    Flow flow{.id = NewUuid()};
    ASSIGN_OR_RETURN(flow.jobs, Add(tx, context, flow.id, nullptr, jobs, sealer));
    Run(tx, sql::kCreateFlow, flow.id.ToString(), tenant, CleanText(label, 200), context.principal.subject);
    return flow;
  });
}

absl::StatusOr<Flow> AddToFlow(pqxx::transaction_base& tx, const CallContext& context, const Uuid& parent,
                               absl::Span<const FlowJob> jobs, const Sealer* sealer) {
  return Guarded([&]() -> absl::StatusOr<Flow> {
    RETURN_IF_ERROR(CheckShape(jobs, false));
    const pqxx::result rows = Run(tx, sql::kFlowOf, parent.ToString(), context.principal.tenant);
    if (rows.empty()) return MakeProblem("not-found", "no such job in a flow");
    Flow flow;
    ASSIGN_OR_RETURN(flow.id, ParseUuid(rows[0][0].c_str()));
    const std::string tenant = rows[0][1].c_str();
    for (size_t i = 0; i < jobs.size(); ++i) {
      if ((jobs[i].job.tenant.empty() ? context.principal.tenant : jobs[i].job.tenant) != tenant)
        return Invalid({{.name = absl::StrCat("/jobs/", i, "/job/tenant"),
                         .code = "invalid_value",
                         .detail = "the jobs of a flow belong to one tenant"}});
    }
    ASSIGN_OR_RETURN(flow.jobs, Add(tx, context, flow.id, &parent, jobs, sealer));
    return flow;
  });
}

absl::StatusOr<FlowView> GetFlow(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id) {
  return Guarded([&]() -> absl::StatusOr<FlowView> {
    const pqxx::result rows = Run(tx, sql::kReadFlow, id.ToString(), context.principal.tenant);
    if (rows.empty()) return MakeProblem("not-found", "no such flow");
    const auto row = rows[0];
    FlowView view{.id = id, .tenant = row[1].c_str(), .label = row[2].c_str(), .created_by = row[3].c_str()};
    view.created_at = absl::FromUnixMicros(row[4].as<int64_t>());
    if (!row[5].is_null()) view.finished_at = absl::FromUnixMicros(row[5].as<int64_t>());
    int c = 6;
    for (int* count :
         {&view.total, &view.waiting, &view.open, &view.succeeded, &view.discarded, &view.cancelled, &view.dead})
      *count = row[c++].as<int>();
    for (const auto& state : Run(tx, sql::kOpenFlowStates, id.ToString())) {
      const int count = state[1].as<int>();
      switch (state[0].as<int>()) {
        case kStateScheduled:
          view.scheduled = count;
          break;
        case kStateBlocked:
          view.blocked = count;
          break;
        case kStateReady:
          view.ready = count;
          break;
        case kStatePublished:
          view.published = count;
          break;
        default:
          view.running = count;
      }
    }
    return view;
  });
}

absl::StatusOr<std::vector<Enqueued>> CancelFlow(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                                                 std::string_view reason) {
  return Guarded([&]() -> absl::StatusOr<std::vector<Enqueued>> {
    RETURN_IF_ERROR(GetFlow(tx, context, id).status());
    CompleteArrays batch;
    const std::string why = CleanText(
        absl::StrCat("cancelled with its flow by ", context.principal.subject, ": ", std::string(reason)), 2000);
    for (const auto& row : Run(tx, sql::kOpenFlowJobs, id.ToString())) {
      ASSIGN_OR_RETURN(const Uuid job, ParseUuid(row[0].c_str()));
      batch.Add(job, row[1].as<int64_t>(), kStateCancelled, nullptr, "cancelled", why, 0, 0);
    }
    std::vector<Enqueued> publish;
    if (batch.size == 0) return publish;
    std::vector<int64_t> freed;
    std::vector<Handout> handouts;
    Complete(tx, std::move(batch), nullptr, "api", &freed, &handouts);
    for (Handout& handout : handouts)
      publish.push_back({.stream = std::move(handout.stream), .entry = std::move(handout.entry)});
    for (const int64_t key : freed) publish.push_back({.key = key});
    return publish;
  });
}

absl::StatusOr<Revived> RetryFlow(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                                  std::string_view reason) {
  return Guarded([&]() -> absl::StatusOr<Revived> {
    RETURN_IF_ERROR(GetFlow(tx, context, id).status());
    std::vector<Uuid> dead;
    for (const auto& row : Run(tx, sql::kDeadFlowJobs, id.ToString())) {
      ASSIGN_OR_RETURN(dead.emplace_back(), ParseUuid(row[0].c_str()));
    }
    if (dead.empty()) return Revived();
    return Revive(tx, dead,
                  {.tenant = context.principal.tenant, .by = context.principal.subject, .reason = std::string(reason)});
  });
}

absl::Status SettleFlows(postgres::Pool& pool) {
  return pool.Transaction(Deadline(), [&](pqxx::transaction_base& tx) -> absl::Status {
    Run(tx, sql::kReleaseLate);
    CompleteArrays batch;
    for (const auto& row : Run(tx, sql::kHopeless)) {
      ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
      batch.Add(id, row[1].as<int64_t>(), kStateDiscarded, nullptr, "flow",
                row[2].as<int>() == static_cast<int>(RunsOn::kFailed)
                    ? "it waited for a failure, and all succeeded"
                    : "a job that it waited for can never succeed any more",
                0, 0);
    }
    if (batch.size == 0) return absl::OkStatus();
    std::vector<int64_t> freed;  // none: who waits holds no key
    std::vector<Handout> handouts;
    Complete(tx, std::move(batch), nullptr, "upkeep", &freed, &handouts);
    return absl::OkStatus();
  });
}

absl::Status ForgetFlows(postgres::Pool& pool, absl::Duration retention) {
  return pool.Autocommit(Deadline(), [&](pqxx::transaction_base& tx) -> absl::Status {
    Run(tx, sql::kForgetFlows, absl::ToDoubleSeconds(retention));
    return absl::OkStatus();
  });
}

}  // namespace mainstay::jobs
