// SPDX-License-Identifier: Apache-2.0
// The grammar of what runs in the background and how much of it: `queues`, `schedules`, `imports`, `exports`, `limits`.
#include "libs/base/cron.h"
#include "libs/base/json.h"
#include "libs/base/principal.h"
#include "libs/base/strings.h"
#include "libs/catalog/sections.h"

namespace mainstay::catalog {

Queue ReadQueue(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "queue");
  Queue queue;
  queue.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Int("priority", &queue.priority, 0, 9);
  r.Word("priorities", &queue.priorities, {"strict", "weighted"});
  r.Int("concurrency", &queue.concurrency, 0, 100'000);
  r.Int("weight", &queue.weight, 1, 1000);
  r.Number("rate", &queue.rate, 0, 1e6);
  r.Number("tenant_rate", &queue.tenant_rate, 0, 1e6);
  r.Int("max_attempts", &queue.max_attempts, 1, 1000);
  r.Int("max_crashes", &queue.max_crashes, 1, 100);
  r.Duration("soft_limit", &queue.soft_limit, absl::Milliseconds(10), kDay * 7);
  bool hard = r.Duration("hard_limit", &queue.hard_limit, absl::Milliseconds(10), kDay * 7 + absl::Hours(1));
  if (!hard && r.Has("soft_limit"))
    queue.hard_limit = queue.soft_limit + std::max(absl::Seconds(10), queue.soft_limit / 6);
  if (queue.hard_limit < queue.soft_limit)
    r.Fail("hard_limit", StrCat(absl::FormatDuration(queue.hard_limit), " is shorter than the soft limit of ",
                                absl::FormatDuration(queue.soft_limit), ": no handler could end by itself"));
  if (const Yaml* backoff = r.Take("backoff")) {
    Reader b(context, *backoff, r.Path("backoff"), "backoff");
    b.Duration("base", &queue.backoff.base, absl::Milliseconds(1), kDay);
    b.Duration("cap", &queue.backoff.cap, absl::Milliseconds(1), kDay * 7);
    if (queue.backoff.base > queue.backoff.cap) b.Fail("base", "is longer than the cap");
    b.Done();
  }
  r.Duration("retention", &queue.retention, absl::Minutes(1), kDay * 3650);
  r.Done();
  return queue;
}

Schedule ReadSchedule(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "schedule");
  Schedule schedule;
  schedule.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Required("cron", &schedule.cron);
  if (!schedule.cron.empty()) {
    if (const auto cron = Cron::Parse(schedule.cron); !cron.ok()) r.Fail("cron", std::string(cron.status().message()));
  }
  r.Text("zone", &schedule.zone, 64);
  if (const auto zone = LoadZone(schedule.zone); !zone.ok()) r.Fail("zone", std::string(zone.status().message()));
  r.Required("kind", &schedule.kind);
  if (!schedule.kind.empty() && !IsJobKind(schedule.kind)) r.Fail("kind", std::string(kJobKindRule));
  schedule.queue = "default";
  r.Text("queue", &schedule.queue);
  if (const Yaml* args = r.Take("args")) {
    if (args->kind == Yaml::Kind::kMap) {
      schedule.args = YamlToJson(*args);
    } else if (args->kind != Yaml::Kind::kNull) {
      r.Fail("args", StrCat("expected a map, got ", KindWord(*args)));
    }
    if (schedule.args.size() > (256 << 10)) r.Fail("args", "longer than 256 KiB");
  }
  r.Word("missed", &schedule.missed, {"last", "all", "skip"});
  r.Duration("missed_window", &schedule.missed_window, absl::Minutes(1), kDay * 31);
  r.Word("overlap", &schedule.overlap, {"skip", "allow", "queue", "replace"});
  r.Required("tenant", &schedule.tenant);
  if (schedule.tenant == kAllTenants) r.Fail("tenant", "a job belongs to one tenant: name it");
  r.Text("role", &schedule.role);
  r.Bool("paused", &schedule.paused);
  r.Done();
  return schedule;
}

ImportMapping ReadImport(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "import");
  ImportMapping import;
  import.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Required("resource", &import.resource);
  r.Word("mode", &import.mode, {"create", "update", "upsert", "delete", "ignore"});
  r.Word("commit", &import.commit, {"all", "chunks"});
  r.Word("on_error", &import.on_error, {"abort", "skip"});
  r.List("key", &import.key);
  r.Map("columns", &import.columns);
  r.Number("max_error_share", &import.max_error_share, 0, 1);
  r.Text("locale", &import.locale, 35);
  r.Text("zone", &import.zone, 64);
  absl::TimeZone zone;
  if (!import.zone.empty() && !absl::LoadTimeZone(import.zone, &zone))
    r.Fail("zone", StrCat("the time zone \"", import.zone, "\" is not known; write for example UTC or Europe/Berlin"));
  r.Done();
  return import;
}

ExportMapping ReadExport(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "export");
  ExportMapping mapping;
  mapping.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Required("resource", &mapping.resource);
  r.Word("format", &mapping.format, {"csv", "tsv", "xlsx", "jsonl"});
  r.Text("query", &mapping.query);
  r.List("fields", &mapping.fields);
  r.Done();
  return mapping;
}

TrafficLimit ReadLimit(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "limit");
  TrafficLimit limit;
  limit.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  limit.by = "key";
  r.Word("by", &limit.by, {"key", "tenant", "ip", "route"});
  r.Int("limit", &limit.rate.limit, 1, 1'000'000'000);
  if (!r.Has("limit") && r.node().kind == Yaml::Kind::kMap) r.Fail(r.node().at, path, "the key \"limit\" is missing");
  limit.rate.period = absl::Minutes(1);
  r.Duration("period", &limit.rate.period, absl::Milliseconds(1), kDay * 31);
  r.Int("burst", &limit.rate.burst, 1, 1'000'000'000);
  r.Done();
  return limit;
}

}  // namespace mainstay::catalog
