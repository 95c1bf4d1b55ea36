// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/operations.h"

#include <algorithm>
#include <cmath>
#include <pqxx/pqxx>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/clock.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/letters.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

constexpr size_t kMaxReason = 2000;
constexpr int64_t kCountCap = 1000001;
constexpr int kJudgedFrom = 20;
constexpr absl::Duration kUndecided = absl::Milliseconds(500), kTrouble = absl::Seconds(2);
// The tenant of the job that works for a caller of all tenants: a job belongs to one.
constexpr char kOwnTenant[] = "mainstay";

std::vector<std::string> Elements(const pqxx::field& field) {
  std::vector<std::string> out;
  if (field.is_null()) return out;
  auto parser = field.as_array();
  for (auto item = parser.get_next(); item.first != pqxx::array_parser::juncture::done; item = parser.get_next()) {
    if (item.first == pqxx::array_parser::juncture::string_value) out.push_back(item.second);
  }
  return out;
}

std::string Ids(const std::vector<Uuid>& ids) {
  PgArray array;
  for (const Uuid& id : ids) array.Add(id.ToString());
  return std::move(array).Finish();
}

absl::Status NoSuchOperation() {
  return MakeProblem("not-found", "no such operation");
}

// Locks the row.
absl::StatusOr<Operation> Load(pqxx::transaction_base& tx, const Uuid& id, const std::string& tenant) {
  const pqxx::result rows = Run(tx, sql::kLockOperation, id.ToString(), tenant);
  if (rows.empty()) return NoSuchOperation();
  const auto row = rows[0];
  Operation o;
  o.id = id;
  int c = 0;
  o.tenant = row[c++].c_str();
  o.kind = row[c++].c_str();
  o.state = row[c++].c_str();
  o.filter = row[c++].c_str();
  if (!row[c].is_null()) o.rate = row[c].as<double>();
  ++c;
  if (!row[c].is_null()) o.max_failure_share = row[c].as<double>();
  ++c;
  o.failure_window = row[c++].as<int>();
  o.author = row[c++].c_str();
  o.roles = Elements(row[c++]);
  o.reason = row[c++].c_str();
  ASSIGN_OR_RETURN(o.job, ParseUuid(row[c++].c_str()));
  o.fence = row[c++].as<int64_t>();
  if (!row[c].is_null()) {
    ASSIGN_OR_RETURN(o.position, ParseUuid(row[c].c_str()));
  }
  ++c;
  if (!row[c].is_null()) o.total = row[c].as<int64_t>();
  ++c;
  o.done = row[c++].as<int64_t>();
  o.skipped = row[c++].as<int64_t>();
  o.failed_again = row[c++].as<int64_t>();
  for (const std::string& text : Elements(row[c++])) {
    ASSIGN_OR_RETURN(o.watched.emplace_back(), ParseUuid(text));
  }
  for (const std::string& text : Elements(row[c++])) o.outcomes.push_back(text == "t");
  o.created_at = absl::FromUnixMicros(row[c++].as<int64_t>());
  o.started = row[c++].as<bool>();
  return o;
}

void Save(pqxx::transaction_base& tx, const Operation& o, const std::string& message) {
  PgArray outcomes;
  for (const bool failed : o.outcomes) outcomes.Add(failed ? "t" : "f");
  const std::string position = o.position.has_value() ? o.position->ToString() : "";
  Run(tx, sql::kSaveOperation, o.id.ToString(), o.state, o.fence, position.empty() ? nullptr : position.c_str(), o.done,
      o.skipped, o.failed_again, Ids(o.watched), std::move(outcomes).Finish(),
      message.empty() ? nullptr : message.c_str());
}

// Adds the job that works on an operation.
absl::StatusOr<Enqueued> AddJob(pqxx::transaction_base& tx, const CallContext& context, const Uuid& operation) {
  JobSpec spec;
  spec.kind = kOperationKind;
  spec.queue = "mainstay";
  spec.args = absl::StrCat("{\"operation\":\"", FormatId("jop", operation), "\"}");
  spec.max_attempts = 1000;  // each error is waited out: PostgreSQL away, a statement that took too long
  if (context.principal.tenant == kAllTenants) spec.tenant = kOwnTenant;
  ASSIGN_OR_RETURN(std::vector<Enqueued> added, Enqueue(tx, context, {&spec, 1}));
  return std::move(added[0]);
}

// What became of the jobs brought back so far. Those that are decided leave `watched`.
absl::Status Judge(pqxx::transaction_base& tx, Operation& o) {
  if (o.watched.empty()) return absl::OkStatus();
  absl::flat_hash_map<Uuid, std::optional<bool>> decided;
  for (const auto& row : Run(tx, sql::kDecided, Ids(o.watched))) {
    ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
    std::optional<bool> failed;
    if (!row[1].is_null()) failed = row[1].as<bool>();
    decided[id] = failed;
  }
  for (const auto& [id, failed] : decided) {
    if (!failed.has_value()) continue;  // cancelled, discarded or purged: says nothing
    o.outcomes.push_back(*failed);
    if (*failed) ++o.failed_again;
  }
  std::erase_if(o.watched, [&](const Uuid& id) { return decided.contains(id); });
  if (static_cast<int>(o.outcomes.size()) > o.failure_window)
    o.outcomes.erase(o.outcomes.begin(), o.outcomes.end() - o.failure_window);
  return absl::OkStatus();
}

struct Step {
  bool ended = false;
  int64_t moved = 0;
  absl::Duration wait;
  std::string message;
  std::vector<Enqueued> publish;
  Operation operation;
};

absl::Status Redrive(pqxx::transaction_base& tx, Operation& o, const std::vector<Uuid>& ids, Step& step) {
  ASSIGN_OR_RETURN(Revived revived, Revive(tx, ids,
                                           {.tenant = o.tenant,
                                            .by = o.author,
                                            .reason = o.reason,
                                            .operation = FormatId("jop", o.id),
                                            .finished_before = o.created_at}));
  step.moved = static_cast<int64_t>(revived.ids.size());
  step.publish = std::move(revived.publish);
  if (o.max_failure_share.has_value()) o.watched.insert(o.watched.end(), revived.ids.begin(), revived.ids.end());
  return absl::OkStatus();
}

absl::Status CancelAll(pqxx::transaction_base& tx, const Operation& o, const std::vector<Uuid>& ids, Step& step) {
  CompleteArrays batch;
  const std::string message = CleanText(absl::StrCat("cancelled by ", o.author, ": ", o.reason), kMaxReason);
  for (const auto& row : Run(tx, sql::kLockHotMany, Ids(ids), o.tenant)) {
    ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
    batch.Add(id, row[1].as<int64_t>(), kStateCancelled, nullptr, "cancelled", message, 0, 0);
  }
  if (batch.size == 0) return absl::OkStatus();
  std::vector<int64_t> freed;
  std::vector<Handout> handouts;
  step.moved = Complete(tx, std::move(batch), nullptr, "operation", &freed, &handouts);
  for (Handout& h : handouts) step.publish.push_back({.stream = std::move(h.stream), .entry = std::move(h.entry)});
  for (const int64_t key : freed) step.publish.push_back({.key = key});
  return absl::OkStatus();
}

// One step, in one transaction. Everything it decides comes from the locked row.
absl::StatusOr<Step> MakeStep(pqxx::transaction_base& tx, const Uuid& id, const RunningJob& job,
                              const OperationRun& run) {
  Step step;
  ASSIGN_OR_RETURN(Operation o, Load(tx, id, std::string(kAllTenants)));
  if (o.job != job.id() || o.fence > job.fence() || o.state != "running") {
    // Somebody else's by now, or ended from outside.
    step.ended = true;
    step.operation = std::move(o);
    return step;
  }
  o.fence = job.fence();
  int limit = run.batch;
  if (o.rate.has_value()) limit = std::clamp(static_cast<int>(std::ceil(*o.rate / 5)), 1, run.batch);
  if (o.max_failure_share.has_value()) {
    RETURN_IF_ERROR(Judge(tx, o));
    const auto failed = std::count(o.outcomes.begin(), o.outcomes.end(), true);
    const auto judged = static_cast<int64_t>(o.outcomes.size());
    if (judged >= std::min(kJudgedFrom, o.failure_window) &&
        static_cast<double>(failed) > *o.max_failure_share * static_cast<double>(judged)) {
      step.message = absl::StrCat(failed, " of the last ", judged, " redriven jobs failed again");
      o.state = "stopped";
      step.ended = true;
      Save(tx, o, step.message);
      step.operation = std::move(o);
      return step;
    }
    limit = std::min(limit, o.failure_window - static_cast<int>(o.watched.size()));
    if (limit <= 0) {
      step.message = absl::StrCat("waits for ", o.watched.size(), " redriven jobs to end");
      step.wait = kUndecided;
      Save(tx, o, step.message);
      step.operation = std::move(o);
      return step;
    }
  }
  // Where no index knows the filter, ids are looked at stride by stride, so that no statement is long.
  std::optional<Uuid> end;
  if (o.kind != "redrive") {
    const pqxx::result rows = Run(tx, o.kind == "purge" ? sql::kStrideFinished : sql::kStrideHot,
                                  o.position.value_or(Uuid()).ToString(), run.stride);
    if (!rows.empty()) {
      ASSIGN_OR_RETURN(end, ParseUuid(rows[0][0].c_str()));
    }
  }
  ASSIGN_OR_RETURN(const std::vector<Uuid> ids, run.targets.Select(tx, o, end, limit));
  if (!ids.empty()) {
    if (o.kind == "redrive") {
      RETURN_IF_ERROR(Redrive(tx, o, ids, step));
    } else if (o.kind == "cancel") {
      RETURN_IF_ERROR(CancelAll(tx, o, ids, step));
    } else {
      step.moved =
          static_cast<int64_t>(Run(tx, sql::kPurge, Ids(ids), o.tenant, FormatTimestamp(o.created_at)).affected_rows());
    }
  }
  o.done += step.moved;
  o.skipped += static_cast<int64_t>(ids.size()) - step.moved;
  if (static_cast<int>(ids.size()) == limit) {
    o.position = ids.back();
  } else if (end.has_value()) {
    o.position = end;
  } else {
    o.state = "succeeded";
    step.ended = true;
  }
  Save(tx, o, "");
  step.operation = std::move(o);
  return step;
}

// Counted once, aside; an operation whose jobs cannot be counted in time goes on without.
void CountTotal(const Uuid& id, const OperationRun& run) {
  std::optional<int64_t> total;
  std::optional<Operation> operation;
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  const absl::Status loaded = run.pool.Transaction(deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
    ASSIGN_OR_RETURN(operation, Load(tx, id, std::string(kAllTenants)));
    return absl::OkStatus();
  });
  if (!loaded.ok() || operation->started) return;
  run.pool
      .Autocommit(deadline,
                  [&](pqxx::transaction_base& tx) -> absl::Status {
                    ASSIGN_OR_RETURN(total, run.targets.Count(tx, *operation, kCountCap));
                    return absl::OkStatus();
                  })
      .IgnoreError();
  const std::string text = total.has_value() ? absl::StrCat(*total) : "";
  run.pool
      .Autocommit(absl::Now() + absl::Seconds(10),
                  [&](pqxx::transaction_base& tx) -> absl::Status {
                    Run(tx, sql::kStartOperation, id.ToString(), total.has_value() ? text.c_str() : nullptr);
                    return absl::OkStatus();
                  })
      .IgnoreError();
}

void Fail(const Uuid& id, const OperationRun& run, const absl::Status& status) {
  run.pool
      .Autocommit(absl::Now() + absl::Seconds(10),
                  [&](pqxx::transaction_base& tx) -> absl::Status {
                    Run(tx, sql::kFailOperation, id.ToString(), CleanText(ToStd(status.message()), kMaxReason));
                    return absl::OkStatus();
                  })
      .IgnoreError();
}

std::string Result(const Operation& o) {
  std::string json;
  JsonWriter(json)
      .BeginObject()
      .Key("operation")
      .String(FormatId("jop", o.id))
      .Key("state")
      .String(o.state)
      .Key("done")
      .Int(o.done)
      .Key("skipped")
      .Int(o.skipped)
      .EndObject();
  return json;
}

bool Transient(const absl::Status& status) {
  return postgres::IsTransient(status) || absl::IsUnavailable(status) || absl::IsAborted(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status);
}

}  // namespace

CallContext Operation::context() const {
  CallContext out;
  out.principal = {.tenant = tenant, .subject = author, .roles = roles};
  return out;
}

absl::StatusOr<Uuid> CreateOperation(pqxx::transaction_base& tx, const CallContext& context, const OperationSpec& spec,
                                     std::vector<Enqueued>* publish) {
  try {
    const Uuid id = NewUuid();
    if (Run(tx, sql::kOpenOperations, context.principal.tenant)[0][0].as<int>() >= kOpenOperations) {
      return MakeProblem("rule-violation", absl::StrCat("there are ", kOpenOperations,
                                                        " operations at work already; wait for one or cancel it"));
    }
    ASSIGN_OR_RETURN(Enqueued job, AddJob(tx, context, id));
    PgArray roles;
    for (const std::string& role : context.principal.roles) roles.Add(role);
    const std::string rate = spec.rate.has_value() ? absl::StrCat(*spec.rate) : "",
                      share = spec.max_failure_share.has_value() ? absl::StrCat(*spec.max_failure_share) : "";
    Run(tx, sql::kAddOperation, id.ToString(), context.principal.tenant, spec.kind, spec.filter,
        rate.empty() ? nullptr : rate.c_str(), share.empty() ? nullptr : share.c_str(), spec.failure_window,
        context.principal.subject, std::move(roles).Finish(), CleanText(spec.reason, kMaxReason), job.id.ToString(),
        spec.catalog_hash);
    publish->push_back(std::move(job));
    return id;
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::Status CancelOperation(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id) {
  try {
    ASSIGN_OR_RETURN(Operation o, Load(tx, id, context.principal.tenant));
    if (o.state == "cancelled") return absl::OkStatus();
    if (o.state != "running" && o.state != "stopped")
      return MakeProblem("rule-violation", absl::StrCat("the operation has ", o.state));
    o.state = "cancelled";
    Save(tx, o, CleanText(absl::StrCat("cancelled by ", context.principal.subject), kMaxReason));
    return absl::OkStatus();
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::Status ResumeOperation(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                             std::vector<Enqueued>* publish) {
  try {
    ASSIGN_OR_RETURN(const Operation o, Load(tx, id, context.principal.tenant));
    if (o.state == "succeeded") return MakeProblem("rule-violation", "the operation has done all there was to do");
    if (o.state == "running" && Run(tx, sql::kIsHot, o.job.ToString())[0][0].as<bool>())
      return MakeProblem("rule-violation", "the operation is at work");
    // The job acts as the operation's author, as before.
    ASSIGN_OR_RETURN(Enqueued job, AddJob(tx, o.context(), id));
    Run(tx, sql::kResumeOperation, id.ToString(), job.id.ToString());
    publish->push_back(std::move(job));
    return absl::OkStatus();
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

Outcome RunOperation(RunningJob& job, const OperationRun& run) {
  const auto args = JsonDocument::Parse(std::string(job.args()));
  const JsonValue* name = args.ok() ? args->root().Find("operation") : nullptr;
  const absl::StatusOr<Uuid> id = ParseId("jop", name != nullptr && name->is_string() ? name->text() : "");
  if (!id.ok()) return Outcome::Dead("args_invalid", "args name no operation");
  CountTotal(*id, run);
  const absl::Time end = Mono() + run.slice;
  absl::Time shown = absl::InfinitePast();
  while (!job.cancelled()) {
    const absl::Time began = Mono();
    Step step;
    const absl::Status status =
        run.pool.Transaction(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
          try {
            ASSIGN_OR_RETURN(step, MakeStep(tx, *id, job, run));
            return absl::OkStatus();
          } catch (...) {
            return postgres::StatusFromCurrentException();
          }
        });
    if (absl::IsNotFound(status)) return Outcome::Discard("the operation is gone");
    if (!status.ok() && Transient(status))
      return Outcome::Retry("database_away", std::string(status.message()), kTrouble);
    if (!status.ok()) {
      log::Warn("an operation on jobs failed",
                {{"operation", FormatId("jop", *id)}, {"error", std::string(status.message())}});
      Fail(*id, run, status);
      return Outcome::Done(absl::StrCat("{\"operation\":\"", FormatId("jop", *id), "\",\"state\":\"failed\"}"));
    }
    run.handoff.Publish(step.publish);
    const Operation& o = step.operation;
    if (step.ended) {
      log::Info("operation on jobs ended",
                {{"operation", FormatId("jop", o.id)}, {"kind", o.kind}, {"state", o.state}, {"done", o.done}});
      return Outcome::Done(Result(o));
    }
    if (began - shown > absl::Seconds(1)) {
      shown = began;
      const int64_t all = o.total.value_or(0);
      const double percent = all > 0 ? 100.0 * static_cast<double>(o.done + o.skipped) / static_cast<double>(all) : 0;
      // Only for those who watch the job; the operation's row is what counts.
      job.Progress(std::min(percent, 100.0),
                   step.message.empty() ? absl::StrCat(o.kind, ": ", o.done, " done") : step.message)
          .IgnoreError();
    }
    if (o.rate.has_value() && step.moved > 0)
      step.wait = std::max(step.wait, absl::Seconds(static_cast<double>(step.moved) / *o.rate) - (Mono() - began));
    if (Mono() + step.wait >= end) return Outcome::Snooze(std::max(step.wait, absl::ZeroDuration()));
    const absl::Time until = Mono() + step.wait;
    while (Mono() < until && !job.cancelled())
      absl::SleepFor(std::clamp(until - Mono(), absl::ZeroDuration(), absl::Milliseconds(50)));
  }
  return Outcome::Snooze(absl::ZeroDuration());
}

}  // namespace mainstay::jobs
