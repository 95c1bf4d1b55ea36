// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/sweeper.h"

#include "absl/container/flat_hash_set.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

// Workers see that Redis lost its state when we do, and write what they hold as `running` first; what is left then is
// lost, but for what was committed so lately that its entry is on its way.
constexpr absl::Duration kFullAfter = absl::Milliseconds(600), kOnItsWay = absl::Milliseconds(300);

std::string InfoOf(const std::string& info, std::string_view field) {
  const std::string name = StrCat(field, ":");
  const size_t at = info.find(name);
  if (at == std::string::npos) return "";
  return info.substr(at + name.size(), info.find_first_of("\r\n", at) - at - name.size());
}

}  // namespace

void Sweeper::Reset() {
  epoch_.clear();
  full_at_ = absl::InfiniteFuture();
  next_at_ = Mono() + std::min(absl::Seconds(1), context_.options.sweep / 2);
}

absl::Status Sweeper::CheckEpoch(bool* changed) {
  *changed = false;
  ASSIGN_OR_RETURN(const auto replies, context_.redis.Pipeline({{"GET", kEpochKey}, MemoryProbe()}));
  const redis::Reply& epoch = replies[0];
  context_.redis_full = replies[1].text.rfind("OOM", 0) == 0;
  for (const auto& reply : replies) {
    if (!reply.ok()) return absl::UnavailableError(reply.text);  // loading, out of memory, not a primary …
  }
  if (context_.redis.generation() != generation_) {
    ASSIGN_OR_RETURN(const auto info, context_.redis.Pipeline({{"INFO", "server"}, {"INFO", "memory"}}));
    const std::string run_id = InfoOf(info[0].text, "run_id"), policy = InfoOf(info[1].text, "maxmemory_policy");
    if (policy.rfind("allkeys", 0) == 0)
      log::Error("Redis may throw streams of jobs away when it is full: its maxmemory-policy should be noeviction",
                 {{"policy", policy}});
    *changed = !run_id_.empty() && run_id != run_id_;
    run_id_ = run_id;
    generation_ = context_.redis.generation();
  }
  if (epoch.type == redis::Reply::Type::kNil) {
    const std::string fresh = NewUuid().ToString();
    ASSIGN_OR_RETURN(const redis::Reply set, context_.redis.Execute({"SET", kEpochKey, fresh, "NX"}));
    if (!set.ok()) return absl::UnavailableError(set.text);
    *changed = true;
    epoch_ = fresh;
  } else {
    *changed = *changed || (!epoch_.empty() && epoch_ != epoch.text);
    epoch_ = epoch.text;
  }
  if (context_.redis_away) {
    context_.redis_away = false;
    *changed = true;  // jobs of the outage may be anywhere
  }
  if (*changed) {
    std::vector<std::string> names;
    for (const StreamId& stream : context_.Streams()) names.push_back(stream.Key());
    RETURN_IF_ERROR(CreateGroups(context_.redis, names));
    full_at_ = Mono() + kFullAfter;
    log::Warn("Redis lost its state or was away: published jobs are checked against it", {{"epoch", epoch_}});
  }
  return absl::OkStatus();
}

absl::Status Sweeper::Sweep() {
  const absl::Time start = Mono();
  const bool full = start >= full_at_;
  if (!full && start < next_at_) return absl::OkStatus();
  RETURN_IF_ERROR(Compare(full ? kOnItsWay : context_.options.sweep));
  if (full) full_at_ = absl::InfiniteFuture();
  next_at_ = Mono() + std::max(context_.options.sweep, (Mono() - start) * 20);
  return absl::OkStatus();
}

absl::Status Sweeper::Compare(absl::Duration age) {
  std::vector<std::pair<Uuid, int64_t>> published;
  RETURN_IF_ERROR(context_.Transaction([&](pqxx::transaction_base& tx) -> absl::Status {
    published.clear();
    auto add = [&](const pqxx::result& rows) -> absl::Status {
      for (const auto& row : rows) {
        ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
        published.emplace_back(id, row[1].as<int64_t>());
      }
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(add(Run(tx, sql::kHolders, absl::ToDoubleSeconds(age))));
    tx.exec0("SET LOCAL enable_seqscan = on");  // a walk through the table, which no index of states could spare
    return add(Run(tx, sql::kPublished, absl::ToDoubleSeconds(age)));
  }));
  if (published.empty()) return absl::OkStatus();
  // Read after the rows: an entry whose row was published before is here, or it is lost.
  absl::flat_hash_set<std::pair<Uuid, int64_t>> present;
  for (const StreamId& stream : context_.Streams()) {
    const std::string key = stream.Key();
    std::string from = "-";
    while (true) {
      ASSIGN_OR_RETURN(const redis::Reply page, context_.redis.Execute({"XRANGE", key, from, "+", "COUNT", "1000"}));
      if (!page.ok()) return absl::UnavailableError(page.text);
      for (const auto& item : page.elements) {
        if (const auto entry = EntryOf(item)) present.emplace(entry->id, entry->fence);
      }
      if (page.elements.size() < 1000) break;
      from = "(" + page.elements.back().elements[0].text;
    }
  }
  std::vector<std::pair<Uuid, int64_t>> lost;
  for (const auto& job : published) {
    if (!present.contains(job)) lost.push_back(job);
  }
  if (lost.empty()) return absl::OkStatus();
  log::Warn("handing out again what Redis no longer holds", {{"jobs", static_cast<int64_t>(lost.size())}});
  return context_.Reissue(lost, {}, {});
}

}  // namespace mainstay::jobs
