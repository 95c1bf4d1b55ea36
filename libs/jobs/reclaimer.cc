// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/reclaimer.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "libs/base/status.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

// Removes a consumer that is idle and owns nothing, in one step: deletion drops pending entries.
constexpr char kForgetConsumer[] = R"lua(
for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local f = {}
  for i = 1, #c, 2 do f[c[i]] = c[i + 1] end
  if f['name'] == ARGV[2] and f['pending'] == 0 and f['idle'] >= tonumber(ARGV[3]) then return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
end
return -1)lua";

}  // namespace

absl::Status Reclaimer::Pending() {
  const std::string idle = absl::StrCat(absl::ToInt64Milliseconds(context_.options.lease));
  for (const StreamId& stream : context_.Streams()) {
    const std::string key = stream.Key();
    while (true) {
      ASSIGN_OR_RETURN(const redis::Reply pending,
                       context_.redis.Execute({"XPENDING", key, kGroup, "IDLE", idle, "-", "+", "500"}));
      if (pending.elements.empty()) break;
      std::map<std::string, int> by_consumer;
      for (const auto& p : pending.elements) ++by_consumer[p.elements[1].text];
      redis::Command claim = {"XCLAIM", key, kGroup, context_.worker.ToString() + "-upkeep", idle};
      std::map<std::string, std::string> consumer_of;
      for (const auto& p : pending.elements) {
        claim.push_back(p.elements[0].text);
        consumer_of[p.elements[0].text] = p.elements[1].text;
      }
      ASSIGN_OR_RETURN(const redis::Reply claimed, context_.redis.Execute(claim));
      if (!claimed.ok()) return absl::UnavailableError(claimed.text);
      std::vector<std::pair<Uuid, int64_t>> jobs;
      std::vector<int> crashes, suspicions;
      redis::Command ack = {"XACK", key, kGroup}, del = {"XDEL", key};
      for (const auto& item : claimed.elements) {
        if (item.elements.empty()) continue;
        ack.push_back(item.elements[0].text);
        del.push_back(item.elements[0].text);
        if (const auto entry = EntryOf(item)) {
          const bool alone = by_consumer[consumer_of[item.elements[0].text]] == 1;
          jobs.emplace_back(entry->id, entry->fence);
          crashes.push_back(alone ? 1 : 0);
          suspicions.push_back(alone ? 0 : 1);
        }
      }
      RETURN_IF_ERROR(context_.Reissue(jobs, crashes, suspicions));
      if (ack.size() > 3) RETURN_IF_ERROR(context_.redis.Pipeline({ack, del}).status());
      if (pending.elements.size() < 500) break;
    }
  }
  return absl::OkStatus();
}

absl::Status Reclaimer::Expired() {
  std::vector<std::pair<Uuid, int64_t>> jobs, stuck;
  RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    jobs.clear();
    stuck.clear();
    auto read = [](const pqxx::result& rows, std::vector<std::pair<Uuid, int64_t>>& out) -> absl::Status {
      for (const auto& row : rows) {
        ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
        out.emplace_back(id, row[1].as<int64_t>());
      }
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(read(Run(tx, sql::kExpired), jobs));
    return read(Run(tx, sql::kStuckRuns, absl::ToDoubleSeconds(context_.options.lease)), stuck);
  }));
  if (!stuck.empty()) RETURN_IF_ERROR(context_.Reissue(stuck, {}, {}));
  if (jobs.empty()) return absl::OkStatus();
  log::Warn("taking over the jobs of workers whose lease ran out", {{"jobs", static_cast<int64_t>(jobs.size())}});
  return context_.Reissue(jobs, std::vector<int>(jobs.size(), 1), {});
}

absl::Status Reclaimer::Consumers() {
  for (const StreamId& stream : context_.Streams()) {
    const std::string key = stream.Key();
    ASSIGN_OR_RETURN(const redis::Reply consumers, context_.redis.Execute({"XINFO", "CONSUMERS", key, kGroup}));
    for (const auto& consumer : consumers.elements) {
      if (Field(consumer, "pending") != "0" || std::atoll(Field(consumer, "idle").c_str()) < 3600LL * 1000) continue;
      RETURN_IF_ERROR(
          context_.redis.Script(kForgetConsumer, {key}, {kGroup, Field(consumer, "name"), "3600000"}).status());
    }
  }
  return absl::OkStatus();
}

}  // namespace mainstay::jobs
