// SPDX-License-Identifier: Apache-2.0
// What operators do with jobs: wait and watch, dead letters, operations on many at once, queues and workers.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "services/cli/command.h"
#include "services/cli/gateway.h"

namespace mainstay::cli {
namespace {

constexpr char kJobs[] = "/mainstay/v1/jobs";
constexpr char kOperations[] = "/mainstay/v1/job-operations";

std::string JobPath(const std::string& id) {
  return StrCat(kJobs, "/", PercentEncode(id));
}

bool IsFinal(std::string_view state) {
  return state == "succeeded" || state == "dead" || state == "cancelled" || state == "discarded";
}

// "succeeded", or "dead: timeout: no answer in 30 s" with the last error.
std::string Sentence(const JsonValue& job) {
  std::string out = Text(job, "state");
  const JsonValue* errors = job.Find("errors");
  if (out != "succeeded" && errors != nullptr && errors->is_array() && !errors->items().empty()) {
    const JsonValue& last = errors->items().back();
    StrAppend(&out, ": ", Text(last, "code"), ": ", Text(last, "message"));
  }
  if (const JsonValue* progress = job.Find("progress"); progress != nullptr && progress->is_object())
    StrAppend(&out, "  ", Text(*progress, "percent"), " %  ", Text(*progress, "message"));
  return out;
}

// The status of the command that waited for a job: done well only if the job was.
absl::Status Verdict(const JsonValue& job) {
  const std::string state = Text(job, "state");
  if (state == "succeeded") return absl::OkStatus();
  if (!IsFinal(state)) return absl::DeadlineExceededError(StrCat("the job is still ", state));
  return absl::UnknownError(StrCat("the job is ", Sentence(job)));
}

absl::Status ShowJob(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get(JobPath(arguments[0])));
  return Show(arguments, json);
}

absl::Status Wait(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  absl::Duration limit = absl::InfiniteDuration();
  if (arguments.Has("timeout") && !absl::ParseDuration(arguments.Get("timeout"), &limit))
    return absl::InvalidArgumentError("--timeout is a duration: 30s, 5m, 2h");
  const absl::Time end = absl::Now() + limit;
  while (true) {
    const absl::Duration left = std::clamp(end - absl::Now(), absl::ZeroDuration(), absl::Seconds(25));
    ASSIGN_OR_RETURN(const std::string json,
                     gateway.Get(StrCat(JobPath(arguments[0]), "?wait=", absl::ToInt64Milliseconds(left), "ms")));
    ASSIGN_OR_RETURN(const JsonDocument job, JsonDocument::Parse(json));
    if (!IsFinal(Text(job.root(), "state")) && absl::Now() < end) continue;
    RETURN_IF_ERROR(Show(arguments, json));
    return Verdict(job.root());
  }
}

// Follows a stream of events until `done` says so; goes on where it was when the stream ends before.
absl::Status Follow(const Gateway& gateway, const std::string& path,
                    const std::function<bool(const JsonValue& event, const std::string& line)>& done) {
  std::string last;
  bool ended = false;
  absl::Status problem;
  while (!ended) {
    RETURN_IF_ERROR(gateway.Stream(
        StrCat(path, last.empty() ? "" : StrCat("?last_event_id=", PercentEncode(last))), [&](const std::string& line) {
          const auto event = JsonDocument::Parse(line);
          if (!event.ok()) return true;
          if (const std::string title = Text(event->root(), "title"); !title.empty()) {
            problem = absl::UnavailableError(StrCat(title, ": ", Text(event->root(), "detail")));
            return false;
          }
          if (const std::string id = Text(event->root(), "event_id"); !id.empty()) last = id;
          ended = done(event->root(), line);
          return !ended;
        }));
    RETURN_IF_ERROR(problem);
  }
  return absl::OkStatus();
}

std::string Clock() {
  return absl::FormatTime("%H:%M:%S", absl::Now(), absl::LocalTimeZone());
}

absl::Status WatchJob(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  const bool raw = arguments.Has("json");
  absl::Status verdict;
  RETURN_IF_ERROR(
      Follow(gateway, StrCat(JobPath(arguments[0]), ":watch"), [&](const JsonValue& event, const std::string& line) {
        const JsonValue* job = event.Find("job");
        if (job == nullptr || !job->is_object()) return false;
        if (raw) {
          std::printf("%s\n", line.c_str());
        } else {
          std::printf("%s  %s\n", Clock().c_str(), Sentence(*job).c_str());
        }
        std::fflush(stdout);
        if (!IsFinal(Text(*job, "state"))) return false;
        verdict = Verdict(*job);
        return true;
      }));
  return verdict;
}

absl::Status Edit(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  if (!arguments.Has("args") || !arguments.Has("reason"))
    return absl::InvalidArgumentError("--args JSON and --reason TEXT are needed");
  const std::string args = arguments.Get("args");
  RETURN_IF_ERROR(JsonDocument::Parse(args).status());
  std::string body;
  JsonWriter(body).BeginObject().Key("args").Raw(args).Key("reason").String(arguments.Get("reason")).EndObject();
  ASSIGN_OR_RETURN(const std::string json, gateway.Patch(JobPath(arguments[0]), body));
  return Show(arguments, json);
}

absl::Status Dead(const Arguments& arguments) {
  return List(arguments, kJobs, {"kind", "queue", "fingerprint"},
              {"id", "kind", "queue", "attempt", "finished_at", "fingerprint"}, "&filter[state]=dead");
}

absl::Status Fingerprints(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  std::string path = StrCat(kJobs, ":fingerprints?limit=", PercentEncode(arguments.Get("limit", "20")));
  for (const char* flag : {"queue", "kind", "since"}) {
    if (arguments.Has(flag)) StrAppend(&path, "&", flag, "=", PercentEncode(arguments.Get(flag)));
  }
  ASSIGN_OR_RETURN(const std::string json, gateway.Get(path));
  if (!arguments.Has("json"))
    return PrintTable(json, {"fingerprint", "count", "kind", "queue", "last_seen", "code", "message"});
  std::printf("%s\n", json.c_str());
  return absl::OkStatus();
}

// ---- operations ----

// The filter of --kind, --queue …, or as --filter says it. Nothing at all is refused: --all says that it is meant.
absl::StatusOr<std::string> FilterOf(const Arguments& arguments) {
  if (arguments.Has("filter")) {
    const std::string filter = arguments.Get("filter");
    RETURN_IF_ERROR(JsonDocument::Parse(filter).status());
    return filter;
  }
  std::string json;
  JsonWriter writer(json);
  writer.BeginObject();
  for (const char* flag : {"kind", "queue", "state", "fingerprint"}) {
    if (arguments.Has(flag)) writer.Key(flag).String(arguments.Get(flag));
  }
  if (arguments.Has("tag")) writer.Key("tags").BeginObject().Key("has").String(arguments.Get("tag")).EndObject();
  if (arguments.Has("since") || arguments.Has("until")) {
    writer.Key("created_at").BeginObject();
    if (arguments.Has("since")) writer.Key("gte").String(arguments.Get("since"));
    if (arguments.Has("until")) writer.Key("lt").String(arguments.Get("until"));
    writer.EndObject();
  }
  if (arguments.Has("id")) {
    writer.Key("id").BeginObject().Key("in").BeginArray();
    for (const std::string& id : arguments.All("id")) writer.String(id);
    writer.EndArray().EndObject();
  }
  writer.EndObject();
  if (json == "{}" && !arguments.Has("all"))
    return absl::InvalidArgumentError("say which jobs: --kind, --queue, --tag, --fingerprint, --id …, or --all");
  return json;
}

absl::StatusOr<std::string> NumberOf(const Arguments& arguments, const char* flag) {
  const std::string text = arguments.Get(flag);
  const auto number = JsonDocument::Parse(text);
  if (!number.ok() || !number->root().is_number())
    return absl::InvalidArgumentError(StrCat("--", flag, " is a number"));
  return text;
}

std::string OperationLine(const JsonValue& operation) {
  std::string out = StrCat(Text(operation, "state"), "  ", Text(operation, "done"), " done");
  if (const std::string total = Text(operation, "total"); !total.empty()) StrAppend(&out, " of ", total);
  if (const std::string skipped = Text(operation, "skipped"); skipped != "0")
    StrAppend(&out, ", ", skipped, " skipped");
  if (const std::string failed = Text(operation, "failed_again"); failed != "0")
    StrAppend(&out, ", ", failed, " failed again");
  if (const std::string message = Text(operation, "message"); !message.empty()) StrAppend(&out, "  (", message, ")");
  return out;
}

absl::Status Operate(const Arguments& arguments, const char* kind) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string filter, FilterOf(arguments));
  std::string body;
  JsonWriter writer(body);
  writer.BeginObject().Key("kind").String(kind).Key("filter").Raw(filter);
  if (arguments.Has("dry-run")) {
    writer.EndObject();
    ASSIGN_OR_RETURN(const std::string json, gateway.Post(StrCat(kOperations, ":preview"), body));
    if (arguments.Has("json")) {
      std::printf("%s\n", json.c_str());
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
    std::printf("%s %s jobs match%s\n", Text(document.root(), "count_kind") == "capped" ? "more than" : "exactly",
                Text(document.root(), "count").c_str(), Text(document.root(), "count") == "0" ? "" : "; the newest:");
    const JsonValue* samples = document.root().Find("samples");
    if (samples == nullptr || samples->items().empty()) return absl::OkStatus();
    return PrintTable(StrCat("{\"data\":", samples->raw(), "}"), {"id", "kind", "queue", "state", "created_at"});
  }
  if (!arguments.Has("reason")) return absl::InvalidArgumentError("--reason TEXT is needed: others will ask why");
  writer.Key("reason").String(arguments.Get("reason"));
  for (const auto& [flag, field] :
       std::initializer_list<std::pair<const char*, const char*>>{{"rate", "rate"},
                                                                  {"max-failure-share", "max_failure_share"},
                                                                  {"failure-window", "failure_window"},
                                                                  {"max-affected", "max_affected"}}) {
    if (!arguments.Has(flag)) continue;
    ASSIGN_OR_RETURN(const std::string number, NumberOf(arguments, flag));
    writer.Key(field).Raw(number);
  }
  writer.EndObject();
  ASSIGN_OR_RETURN(std::string json, gateway.Post(kOperations, body));
  if (!arguments.Has("wait")) return Show(arguments, json);
  std::string shown;
  while (true) {
    ASSIGN_OR_RETURN(const JsonDocument operation, JsonDocument::Parse(json));
    const std::string state = Text(operation.root(), "state"), line = OperationLine(operation.root());
    if (line != shown && !arguments.Has("json")) std::printf("%s  %s\n", Clock().c_str(), line.c_str());
    std::fflush(stdout);
    shown = line;
    if (state != "running") {
      if (arguments.Has("json")) std::printf("%s\n", json.c_str());
      return state == "succeeded"
                 ? absl::OkStatus()
                 : absl::UnknownError(StrCat("the operation is ", state, ": ", Text(operation.root(), "message")));
    }
    absl::SleepFor(absl::Milliseconds(500));
    ASSIGN_OR_RETURN(json, gateway.Get(StrCat(kOperations, "/", PercentEncode(Text(operation.root(), "id")))));
  }
}

absl::Status ListOperations(const Arguments& arguments) {
  return List(arguments, kOperations, {"kind", "state"},
              {"id", "kind", "state", "done", "total", "author", "reason", "created_at"});
}

absl::Status ShowOperation(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get(StrCat(kOperations, "/", PercentEncode(arguments[0]))));
  return Show(arguments, json);
}

absl::Status ActOnOperation(const Arguments& arguments, const char* action) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json,
                   gateway.Post(StrCat(kOperations, "/", PercentEncode(arguments[0]), ":", action), "{}"));
  return Show(arguments, json);
}

// ---- queues and workers ----

absl::Status ListQueues(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get("/mainstay/v1/queues"));
  if (!arguments.Has("json"))
    RETURN_IF_ERROR(PrintTable(json, {"name", "scheduled", "blocked", "ready", "published", "running", "oldest_age",
                                      "workers", "paused", "paused_by", "paused_reason"}));
  if (arguments.Has("json")) {
    std::printf("%s\n", json.c_str());
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
  for (const JsonValue& queue : document.root().Find("data")->items()) {
    const JsonValue* kinds = queue.Find("unserved_kinds");
    if (kinds == nullptr || !kinds->is_array()) continue;
    for (const JsonValue& kind : kinds->items())
      std::printf("%s: %s jobs of %s wait, and no live worker has announced it\n", Text(queue, "name").c_str(),
                  Text(kind, "waiting").c_str(), Text(kind, "kind").c_str());
  }
  return absl::OkStatus();
}

std::string Millis(const JsonValue& latency, const char* field) {
  const std::string text = Text(latency, field);
  if (text.empty()) return "-";
  char out[32];
  std::snprintf(out, sizeof out, "%.4g ms", std::atof(text.c_str()) * 1000);
  return out;
}

void PrintRuns(const char* span, const JsonValue* runs) {
  if (runs == nullptr || !runs->is_object()) return;
  const JsonValue *queued = runs->Find("queued"), *ran = runs->Find("ran");
  std::printf("  %-8s %10s /s   succeeded %s  failed %s  dead %s   queued p50 %s p99 %s   ran p50 %s p99 %s\n", span,
              Text(*runs, "runs_per_second").substr(0, 8).c_str(), Text(*runs, "succeeded").c_str(),
              Text(*runs, "failed").c_str(), Text(*runs, "dead").c_str(), Millis(*queued, "p50_seconds").c_str(),
              Millis(*queued, "p99_seconds").c_str(), Millis(*ran, "p50_seconds").c_str(),
              Millis(*ran, "p99_seconds").c_str());
}

std::string DepthLine(const JsonValue& queue) {
  return StrCat("scheduled ", Text(queue, "scheduled"), "  blocked ", Text(queue, "blocked"), "  ready ",
                Text(queue, "ready"), "  published ", Text(queue, "published"), "  running ", Text(queue, "running"));
}

absl::Status QueueStats(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  const bool one = !arguments[0].empty();
  ASSIGN_OR_RETURN(const std::string json,
                   gateway.Get(one ? StrCat("/mainstay/v1/queues/", PercentEncode(arguments[0]), ":stats")
                                   : "/mainstay/v1/queues:stats"));
  if (arguments.Has("json")) {
    std::printf("%s\n", json.c_str());
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
  const auto print = [](const JsonValue& queue) {
    std::printf("%s  %s\n", Text(queue, "name").c_str(), DepthLine(queue).c_str());
    PrintRuns("1 min", queue.Find("last_minute"));
    PrintRuns("5 min", queue.Find("last_5_minutes"));
    PrintRuns("15 min", queue.Find("last_15_minutes"));
    if (const JsonValue* kinds = queue.Find("kinds"); kinds != nullptr && kinds->is_array()) {
      for (const JsonValue& kind : kinds->items()) {
        std::printf("%s, 15 minutes\n", Text(kind, "kind").c_str());
        PrintRuns("", kind.Find("last_15_minutes"));
      }
    }
  };
  if (one) {
    print(document.root());
  } else if (const JsonValue* data = document.root().Find("data"); data != nullptr && data->is_array()) {
    for (const JsonValue& queue : data->items()) print(queue);
  }
  return absl::OkStatus();
}

absl::Status WatchQueue(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  const bool raw = arguments.Has("json");
  return Follow(gateway, StrCat("/mainstay/v1/queues/", PercentEncode(arguments[0]), ":watch"),
                [&](const JsonValue& event, const std::string& line) {
                  const JsonValue* queue = event.Find("queue");
                  if (queue == nullptr || !queue->is_object()) return false;
                  const JsonValue* minute = queue->Find("last_minute");
                  if (raw) {
                    std::printf("%s\n", line.c_str());
                  } else {
                    std::printf("%s  %s  %s/s\n", Clock().c_str(), DepthLine(*queue).c_str(),
                                minute == nullptr ? "0" : Text(*minute, "runs_per_second").substr(0, 6).c_str());
                  }
                  std::fflush(stdout);
                  return false;
                });
}

absl::Status ListWorkers(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get("/mainstay/v1/workers"));
  if (arguments.Has("json")) {
    std::printf("%s\n", json.c_str());
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(PrintTable(json, {"name", "id", "alive", "draining", "in_flight", "started_at", "lease_until"}));
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
  for (const JsonValue& worker : document.root().Find("data")->items()) {
    for (const JsonValue& job : worker.Find("running")->items())
      std::printf("%s runs %s %s since %s\n", Text(worker, "name").c_str(), Text(job, "kind").c_str(),
                  Text(job, "id").c_str(), Text(job, "started_at").c_str());
    const JsonValue* remote = worker.Find("remote");
    if (remote == nullptr || !remote->is_array()) continue;
    for (const JsonValue& one : remote->items()) {
      std::string kinds;
      for (const JsonValue& kind : one.Find("kinds")->items()) StrAppend(&kinds, " ", kind.text());
      const bool connected = one.Find("connected")->boolean();
      std::printf("%s serves %s (%s%s), %s of %s jobs, kinds:%s\n", Text(worker, "name").c_str(),
                  Text(one, "name").c_str(), Text(one, "language").c_str(), connected ? "" : ", cut off",
                  Text(one, "in_flight").c_str(), Text(one, "credits").c_str(), kinds.c_str());
    }
  }
  return absl::OkStatus();
}

std::vector<Flag> FilterFlags(std::vector<Flag> more) {
  std::vector<Flag> flags = {
      {"kind", "NAME", "only this kind"},
      {"queue", "NAME", "only this queue"},
      {"tag", "TEXT", "only with this tag"},
      {"fingerprint", "HEX", "only with this error, see jobs fingerprints"},
      {"since", "TIME", "created at or after: 2026-11-24T08:00:00Z"},
      {"until", "TIME", "created before"},
      {"id", "ID", "only these; may be given again", true},
      {"filter", "JSON", "instead of all of these, as the API takes it"},
      {"all", "", "no filter: all that it applies to"},
      {"dry-run", "", "only say how many match, and show the newest"},
      {"reason", "TEXT", "why, for the record; needed unless it is a dry run"},
      {"max-affected", "N", "refuse when more match"},
      {"rate", "N", "jobs per second at most"},
      {"wait", "", "show the progress until it has ended; fails when it does not succeed"},
  };
  flags.insert(flags.end(), more.begin(), more.end());
  return GatewayFlags(std::move(flags));
}

}  // namespace

std::vector<Command> OperatorCommands() {
  return {
      {
          .name = "jobs show",
          .summary = "one job: state, progress, result and every error",
          .details = "The same as jobs get.",
          .positionals = {"ID"},
          .flags = GatewayFlags(),
          .run = ShowJob,
      },
      {
          .name = "jobs wait",
          .summary = "wait until a job has ended",
          .details = "Succeeds when the job did; else fails and says what the job ended with, or that it has not.",
          .positionals = {"ID"},
          .flags = GatewayFlags({{"timeout", "TIME", "at most: 30s, 5m; default: no limit"}}),
          .examples = "mainstay jobs wait job_01jc8z4v0m2k7x5c9q3b6t8w1e --timeout 5m && echo done",
          .run = Wait,
      },
      {
          .name = "jobs watch",
          .summary = "follow a job's state and progress until it has ended",
          .details = "A line per change. Succeeds when the job does.",
          .positionals = {"ID"},
          .flags = GatewayFlags(),
          .examples = "mainstay jobs watch job_01jc8z4v0m2k7x5c9q3b6t8w1e",
          .run = WatchJob,
      },
      {
          .name = "jobs edit",
          .summary = "new arguments for a dead or waiting job",
          .details = "A dead job stays dead until it is retried. A waiting one that has just been started runs again.",
          .positionals = {"ID"},
          .flags = GatewayFlags({{"args", "JSON", "the new arguments"}, {"reason", "TEXT", "why, for the record"}}),
          .examples =
              "mainstay jobs edit job_01jc8z4v0m2k7x5c9q3b6t8w1e --args '{\"to\":8}' --reason 'typo in the address'",
          .run = Edit,
      },
      {
          .name = "jobs dead",
          .summary = "dead jobs, newest first",
          .details =
              "They have used up their attempts, or their handler gave up. They stay until their retention ends.",
          .flags = GatewayFlags({{"kind", "NAME", "only this kind"},
                                 {"queue", "NAME", "only this queue"},
                                 {"fingerprint", "HEX", "only with this error"},
                                 {"limit", "N", "1 to 200, default 20"},
                                 {"cursor", "TEXT", "the next page, as the page before named it"}}),
          .examples = "mainstay jobs dead --queue mail",
          .run = Dead,
      },
      {
          .name = "jobs fingerprints",
          .summary = "dead jobs grouped by what went wrong",
          .details =
              "The same error, whatever ids and numbers stand in it, is one line. Redrive by it once it is fixed.",
          .flags = GatewayFlags({{"kind", "NAME", "only this kind"},
                                 {"queue", "NAME", "only this queue"},
                                 {"since", "TIME", "only jobs that died since then"},
                                 {"limit", "N", "1 to 200, default 20"}}),
          .examples = "mainstay jobs fingerprints --since 2026-11-24T00:00:00Z",
          .run = Fingerprints,
      },
      {
          .name = "jobs redrive",
          .summary = "run dead jobs again, as many as a filter matches",
          .details = "An operation in the background: paced, continued after a crash or deploy, never twice for a job. "
                     "Look first with --dry-run.",
          .flags = FilterFlags({{"max-failure-share", "SHARE", "stop when more than this share fails again: 0.2"},
                                {"failure-window", "N", "of the last so many redriven jobs; default 100"}}),
          .examples = "mainstay jobs redrive --fingerprint 1f0c3a9be27d5a40 --dry-run\n"
                      "mainstay jobs redrive --fingerprint 1f0c3a9be27d5a40 --rate 50 --max-failure-share 0.2 "
                      "--reason 'provider is back' --wait",
          .run = [](const Arguments& arguments) { return Operate(arguments, "redrive"); },
      },
      {
          .name = "jobs purge",
          .summary = "forget finished jobs, as many as a filter matches",
          .details = "What is purged cannot be brought back. Look first with --dry-run.",
          .flags = FilterFlags({{"state", "NAME", "only succeeded, discarded, cancelled or dead ones"}}),
          .examples = "mainstay jobs purge --state dead --kind mail.send --reason 'addresses are gone' --wait",
          .run = [](const Arguments& arguments) { return Operate(arguments, "purge"); },
      },
      {
          .name = "jobs cancel-all",
          .summary = "cancel unfinished jobs, as many as a filter matches",
          .details = "Running ones are told to stop; nothing they write afterwards counts. Look first with --dry-run.",
          .flags = FilterFlags({{"state", "NAME", "only scheduled, blocked, ready, published or running ones"}}),
          .examples = "mainstay jobs cancel-all --queue mail --tag campaign-7 --reason 'sent by mistake'",
          .run = [](const Arguments& arguments) { return Operate(arguments, "cancel"); },
      },
      {
          .name = "operations list",
          .summary = "redrives, purges and mass cancels, newest first",
          .details = "With what they have done so far.",
          .flags = GatewayFlags({{"kind", "NAME", "redrive purge cancel"},
                                 {"state", "NAME", "running succeeded stopped cancelled failed interrupted"},
                                 {"limit", "N", "1 to 200, default 20"},
                                 {"cursor", "TEXT", "the next page, as the page before named it"}}),
          .run = ListOperations,
      },
      {
          .name = "operations show",
          .summary = "one operation with its progress",
          .details = "Its message says why it stopped, or what it waits for.",
          .positionals = {"ID"},
          .flags = GatewayFlags(),
          .run = ShowOperation,
      },
      {
          .name = "operations cancel",
          .summary = "end an operation before its next step",
          .details = "What it has done stays done.",
          .positionals = {"ID"},
          .flags = GatewayFlags(),
          .run = [](const Arguments& arguments) { return ActOnOperation(arguments, "cancel"); },
      },
      {
          .name = "operations resume",
          .summary = "go on with an operation that stopped, failed or was interrupted",
          .details = "From where it was; failures are counted anew.",
          .positionals = {"ID"},
          .flags = GatewayFlags(),
          .run = [](const Arguments& arguments) { return ActOnOperation(arguments, "resume"); },
      },
      {
          .name = "queues list",
          .summary = "the queues with what is in them",
          .details = "Counts are of the key's tenant.",
          .flags = GatewayFlags(),
          .run = ListQueues,
      },
      {
          .name = "queues stats",
          .summary = "throughput, failures and latency of queues",
          .details = "Of one queue, also by kind; without a name of all. Over the last 1, 5 and 15 minutes.",
          .positionals = {"[NAME]"},
          .flags = GatewayFlags(),
          .examples = "mainstay queues stats mail",
          .run = QueueStats,
      },
      {
          .name = "queues watch",
          .summary = "follow a queue's depth and throughput",
          .details = "A line per change, at most one a second, until it is interrupted.",
          .positionals = {"NAME"},
          .flags = GatewayFlags(),
          .run = WatchQueue,
      },
      {
          .name = "workers list",
          .summary = "workers that are alive, and what they run",
          .details = "Only jobs that have lasted longer than a heartbeat are shown with their worker.",
          .flags = GatewayFlags(),
          .run = ListWorkers,
      },
  };
}

}  // namespace mainstay::cli
