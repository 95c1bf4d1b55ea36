// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/running.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/postgres/errors.h"
#include "libs/telemetry/trace.h"

namespace mainstay::jobs {
namespace {

// The transaction of FinishIn holds the job's row, and its key's slot: a process that is cut off from PostgreSQL before
// its commit must not hold them up for long.
constexpr char kIdleMs[] = "5000";
// Results take milliseconds to be stored, but for what holds their rows.
constexpr absl::Duration kTurnWithin = absl::Seconds(10), kLookAgain = absl::Milliseconds(5);

Principal ParsePrincipal(std::string_view tenant, const std::string& json) {
  Principal principal;
  principal.tenant = std::string(tenant);
  if (const auto document = JsonDocument::Parse(json); document.ok()) {
    if (const JsonValue* subject = document->root().Find("subject"); subject != nullptr && subject->is_string())
      principal.subject = std::string(subject->text());
    if (const JsonValue* roles = document->root().Find("roles"); roles != nullptr && roles->is_array()) {
      for (const auto& role : roles->items()) principal.roles.emplace_back(role.text());
    }
  }
  return principal;
}

}  // namespace

absl::Status FencedError() {
  return absl::FailedPreconditionError("fenced: the job was handed to another worker or cancelled");
}

HandlerJob::HandlerJob(const HandlerHome& home, JobData& data) : home_(home), data_(data), began_us_(MonoMicros()) {}

const CallContext& HandlerJob::context() const {
  absl::call_once(once_, [this] {
    context_.principal = ParsePrincipal(data_.tenant, data_.principal);
    context_.deadline = absl::Now() + data_.soft_limit - absl::Microseconds(MonoMicros() - began_us_);
    context_.request_id = data_.request_id;
    // The run is a span of its own in the trace of whoever enqueued it.
    context_.traceparent = trace::Child(data_.traceparent).Traceparent();
  });
  return context_;
}

absl::Status HandlerJob::SaveCheckpoint(std::string_view json) {
  if (json.size() > kMaxCheckpoint)
    return absl::InvalidArgumentError(StrCat("checkpoint has ", json.size(), " bytes, the limit is ", kMaxCheckpoint));
  RETURN_IF_ERROR(JsonDocument::Parse(std::string(json)).status());
  RETURN_IF_ERROR(StoreNote(true, std::string(json)));
  data_.checkpoint = std::string(json);
  return absl::OkStatus();
}

std::string ProgressJson(double percent, std::string_view message, const std::map<std::string, int64_t>& counters) {
  std::string json;
  JsonWriter writer(json);
  writer.BeginObject()
      .Key("percent")
      .Double(std::clamp(percent, 0.0, 100.0))
      .Key("message")
      .String(CleanText(message, 500));
  if (!counters.empty()) {
    writer.Key("counters").BeginObject();
    for (const auto& [name, value] : counters) writer.Key(CleanText(name, 100)).Int(value);
    writer.EndObject();
  }
  writer.EndObject();
  return json;
}

absl::Status HandlerJob::Progress(double percent, std::string_view message,
                                  const std::map<std::string, int64_t>& counters) {
  return StoreNote(false, ProgressJson(percent, message, counters));
}

absl::Status HandlerJob::FinishIn(pqxx::transaction_base& tx, const Outcome& outcome) {
  try {
    if (data_.follows) RETURN_IF_ERROR(AwaitTurn(tx));
    CompleteArrays complete;
    RetryArrays retry;
    Sort(data_, outcome, static_cast<double>(MonoMicros() - began_us_) / 1e6, complete, retry);
    std::vector<int64_t> freed;
    std::vector<Handout> successors;
    const int64_t changed = complete.size > 0 ? Complete(tx, std::move(complete), &home_.worker, home_.worker_name,
                                                         &freed, &successors, {}, kIdleMs)
                                              : Retry(tx, std::move(retry), home_.worker_name, nullptr, kIdleMs);
    if (changed == 0) {
      Fenced();
      return FencedError();
    }
    FinishedIn(std::move(successors));
    return absl::OkStatus();
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::Status HandlerJob::AwaitTurn(pqxx::transaction_base& tx) {
  const absl::Time end = Mono() + kTurnWithin;
  while (true) {
    const pqxx::result rows = Run(tx, sql::kItsTurn, data_.id.ToString(), data_.fence);
    if (rows.empty()) {
      Fenced();
      return FencedError();
    }
    if (rows[0][0].as<bool>()) return absl::OkStatus();
    if (cancelled()) return absl::CancelledError("told to stop");
    if (Mono() > end) return absl::UnavailableError("what runs before it for its ordering key is not stored yet");
    absl::SleepFor(kLookAgain);
  }
}

Outcome HandlerJob::RunHandler() {
  const Handler* handler = home_.registry.Find(Route(data_.kind, data_.version));
  if (handler == nullptr) return Outcome::Retry("unknown_kind", StrCat("no handler of \"", data_.kind, "\" here"));
  try {
    return (*handler)(*this);
  } catch (const std::exception& e) {
    return Outcome::Retry("exception", e.what());
  } catch (...) {
    return Outcome::Retry("exception", "an exception of unknown type");
  }
}

}  // namespace mainstay::jobs
