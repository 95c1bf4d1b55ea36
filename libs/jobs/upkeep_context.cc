// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/upkeep_context.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/status.h"
#include "libs/postgres/errors.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

constexpr size_t kBatch = 500;
// Jobs that came back are remembered by id up to this number per stream; beyond it they are found from the head.
constexpr size_t kMaxReturned = 100000;

}  // namespace

absl::Status CreateGroups(redis::Client& redis, const std::vector<std::string>& streams) {
  std::vector<redis::Command> commands;
  for (const auto& stream : streams) commands.push_back({"XGROUP", "CREATE", stream, kGroup, "0", "MKSTREAM"});
  if (commands.empty()) return absl::OkStatus();
  return redis.Pipeline(commands).status();
}

std::optional<Entry> EntryOf(const redis::Reply& item) {
  if (item.elements.size() < 2) return std::nullopt;
  const auto& fields = item.elements[1].elements;
  for (size_t i = 0; i + 1 < fields.size(); i += 2) {
    if (fields[i].text == kEntryField) return DecodeEntry(fields[i + 1].text);
  }
  return std::nullopt;
}

std::string Field(const redis::Reply& flat, std::string_view name) {
  for (size_t i = 0; i + 1 < flat.elements.size(); i += 2) {
    if (flat.elements[i].text == name)
      return flat.elements[i + 1].type == redis::Reply::Type::kInteger ? std::to_string(flat.elements[i + 1].integer)
                                                                       : flat.elements[i + 1].text;
  }
  return "";
}

absl::Status UpkeepContext::Query(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
  absl::Status status = pool.Autocommit(absl::Now() + absl::Seconds(10), body);
  if (!status.ok()) trouble = Mono();
  return status;
}

absl::Status UpkeepContext::Transaction(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
  absl::Status status = pool.Transaction(absl::Now() + absl::Seconds(30), body);
  if (!status.ok()) trouble = Mono();
  return status;
}

absl::Status UpkeepContext::Publish(const std::vector<Handout>& handouts) {
  std::vector<redis::Command> commands;
  for (size_t i = 0; i < handouts.size(); ++i) {
    commands.push_back({"XADD", handouts[i].stream, "*", kEntryField, handouts[i].entry});
    if (commands.size() == kBatch || i + 1 == handouts.size()) {
      ASSIGN_OR_RETURN(const auto replies, redis.Pipeline(commands));
      for (const auto& reply : replies) {
        if (!reply.ok()) return absl::UnavailableError("XADD: " + reply.text);
      }
      commands.clear();
    }
  }
  return absl::OkStatus();
}

// Jobs whose rows somebody else holds are left out: their entries are gone, so the sweep comes back to them.
absl::Status UpkeepContext::Reissue(const std::vector<std::pair<Uuid, int64_t>>& jobs, const std::vector<int>& crashes,
                                    const std::vector<int>& suspicions) {
  // The window may be full already, or Redis away: then unkeyed jobs go back to the backlog.
  const int target = !redis_away && jobs.size() <= static_cast<size_t>(options.window) ? kStatePublished : kStateReady;
  for (size_t at = 0; at < jobs.size(); at += kBatch) {
    std::vector<Handout> handouts;
    std::vector<int64_t> freed;
    CompleteArrays dead;
    absl::flat_hash_set<Uuid> locked;
    auto reissue = [&](pqxx::transaction_base& tx) -> absl::Status {
      FencedIds these;
      BinaryArray crashed(BinaryArray::kInt2), suspected(BinaryArray::kInt2);
      for (size_t i = at; i < std::min(jobs.size(), at + kBatch); ++i) {
        if (locked.contains(jobs[i].first)) continue;
        these.ids.Add(jobs[i].first);
        these.fences.AddInt8(jobs[i].second);
        crashed.AddInt2(i < crashes.size() ? crashes[i] : 0);
        suspected.AddInt2(i < suspicions.size() ? suspicions[i] : 0);
      }
      handouts.clear();
      dead = CompleteArrays();
      for (const auto& row : jobs::Reissue(tx, std::move(these), target, std::move(crashed), std::move(suspected))) {
        Entry entry;
        Handout handout = ReadHandout(row, &entry);
        ++reissued;
        const int state = row[7].as<int>();
        if (row[8].as<int>() >= row[9].as<int>() && (!crashes.empty() || !suspicions.empty())) {
          dead.Add(entry.id, entry.fence, kStateDead, nullptr, "crashed",
                   "its worker died or lost its lease while it ran, as often as max_crashes allows", 0, 0);
        } else if (state == kStatePublished || state == kStateBlocked) {
          handouts.push_back(std::move(handout));
        } else if (state == kStateReady) {
          auto& list = returned[{row[4].c_str(), row[5].as<int>()}];
          if (list.size() < kMaxReturned) list.push_back(entry.id);
        }
      }
      return absl::OkStatus();
    };
    absl::Status status = Transaction(reissue);
    if (postgres::IsLockTimeout(status)) {
      BinaryArray ids(BinaryArray::kUuid);
      for (size_t i = at; i < std::min(jobs.size(), at + kBatch); ++i) ids.Add(jobs[i].first);
      ASSIGN_OR_RETURN(locked, LockedByOthers(pool, std::move(ids)));
      status = Transaction(reissue);
    }
    RETURN_IF_ERROR(status);
    if (dead.size > 0) {
      RETURN_IF_ERROR(Transaction([&](pqxx::transaction_base& tx) -> absl::Status {
        Complete(tx, std::move(dead), nullptr, "upkeep", &freed, &handouts);
        return absl::OkStatus();
      }));
    }
    RETURN_IF_ERROR(Publish(handouts));
  }
  return absl::OkStatus();
}

absl::Status UpkeepContext::Refresh() {
  std::map<std::string, QueueState> next;
  std::set<std::pair<std::string, int>> streams;
  std::set<std::string> kinds, tenants;
  std::set<int64_t> keys;
  std::map<std::string, int> weights;
  struct Worker {
    std::set<std::string> routes, lanes;
    std::optional<std::set<std::string>> queues;
  };
  std::map<std::string, Worker> workers;
  RETURN_IF_ERROR(Query([&](pqxx::transaction_base& tx) -> absl::Status {
    next.clear(), streams.clear(), kinds.clear(), tenants.clear(), keys.clear(), weights.clear(), workers.clear();
    auto list = [](const pqxx::field& field) {
      std::set<std::string> out;
      auto parser = field.as_array();
      for (auto item = parser.get_next(); item.first != pqxx::array_parser::juncture::done; item = parser.get_next()) {
        if (item.first == pqxx::array_parser::juncture::string_value) out.insert(item.second);
      }
      return out;
    };
    if (options.queues) {
      PgArray names, priorities, attempts, crashes, concurrency, shares, rates, tenant_rates, retentions, weighted;
      for (const QueueSettings& q : options.queues()) {
        names.Add(q.name);
        priorities.Add(absl::StrCat(q.priority));
        attempts.Add(absl::StrCat(q.max_attempts));
        crashes.Add(absl::StrCat(q.max_crashes));
        concurrency.Add(absl::StrCat(q.concurrency));
        shares.Add(absl::StrCat(q.weight));
        rates.Add(absl::StrCat(q.rate));
        tenant_rates.Add(absl::StrCat(q.tenant_rate));
        q.retention.has_value() ? retentions.Add(absl::StrCat(absl::ToDoubleSeconds(*q.retention)))
                                : retentions.AddNull();
        weighted.Add(q.weighted ? "t" : "f");
      }
      Run(tx, sql::kSyncQueues, std::move(names).Finish(), std::move(priorities).Finish(), std::move(attempts).Finish(),
          std::move(crashes).Finish(), std::move(concurrency).Finish(), std::move(shares).Finish(),
          std::move(rates).Finish(), std::move(tenant_rates).Finish(), std::move(retentions).Finish(),
          std::move(weighted).Finish());
    }
    Run(tx, sql::kFindStreams);
    for (const auto& row : Run(tx, sql::kStreams)) streams.emplace(row[0].c_str(), row[1].as<int>());
    for (const auto& row : Run(tx, sql::kQueueSettings)) {
      QueueState& q = next[row[0].c_str()];
      q.weighted = row[1].as<bool>();
      q.concurrency = row[2].as<int>();
      q.rate = row[3].as<double>();
      q.tenant_rate = row[4].as<double>();
      q.lanes = q.written_lanes = list(row[5]);
    }
    for (const auto& row : Run(tx, sql::kLanes)) {
      if (!row[2].is_null()) next[row[0].c_str()].closing.insert(row[1].c_str());
    }
    for (const auto& row : Run(tx, sql::kPausesNow)) {
      const std::string_view scope = row[0].c_str();
      if (scope == "queue") {
        if (const auto q = next.find(row[1].c_str()); q != next.end()) q->second.paused = true;
      } else if (scope == "kind") {
        kinds.insert(row[1].c_str());
      } else if (scope == "tenant") {
        tenants.insert(row[1].c_str());
      } else {
        keys.insert(row[3].as<int64_t>());
      }
    }
    for (const auto& row : Run(tx, sql::kTenantWeights)) weights[row[0].c_str()] = row[1].as<int>();
    for (const auto& row : Run(tx, sql::kLiveKinds)) {
      Worker& w = workers[row[0].c_str()];
      w.routes.insert(row[2].c_str());
      if (row[3].as<bool>()) w.lanes.insert(row[2].c_str());
      if (!row[1].is_null()) w.queues = list(row[1]);
    }
    return absl::OkStatus();
  }));
  std::set<std::string> all;
  for (const auto& [id, w] : workers) all.insert(w.routes.begin(), w.routes.end());
  bool changed = kinds != paused_kinds || tenants != paused_tenants || keys != paused_keys;
  for (auto& [name, q] : next) {
    for (const auto& [id, w] : workers) {
      if (w.queues.has_value() && !w.queues->contains(name)) continue;
      if (q.workers++ == 0) {
        q.shared = w.routes;
      } else {
        std::erase_if(q.shared, [&w = w](const std::string& route) { return !w.routes.contains(route); });
      }
      q.served.insert(w.routes.begin(), w.routes.end());
    }
    for (const auto& [id, w] : workers)
      std::erase_if(q.shared, [&w = w](const std::string& route) { return w.lanes.contains(route); });
    // With nobody there nothing is decided: the lanes stay as they are.
    if (q.workers > 0) {
      for (const auto& route : q.shared) {
        if (q.lanes.erase(route) > 0) q.closing.insert(route);
      }
      for (const auto& route : q.served) {
        if (!q.shared.contains(route)) q.lanes.insert(route), q.closing.erase(route);
      }
    }
    const auto before = queues.find(name);
    changed = changed || before == queues.end() || before->second.paused != q.paused ||
              before->second.served != q.served || before->second.shared != q.shared;
  }
  PgArray array;
  for (const auto& route : all) array.Add(route);
  routes = std::move(array).Finish();
  queues = std::move(next);
  windows = std::move(streams);
  paused_kinds = std::move(kinds);
  paused_tenants = std::move(tenants);
  paused_keys = std::move(keys);
  tenant_weights = std::move(weights);
  if (changed) ++version;
  return absl::OkStatus();
}

std::vector<StreamId> UpkeepContext::Streams() const {
  std::vector<StreamId> streams;
  for (const auto& [queue, priority] : windows) {
    streams.push_back({queue, priority, ""});
    const auto q = queues.find(queue);
    if (q == queues.end()) continue;
    for (const auto& lane : q->second.lanes) {
      if (q->second.served.contains(lane)) streams.push_back({queue, priority, lane});
    }
    for (const auto& lane : q->second.closing) streams.push_back({queue, priority, lane});
  }
  return streams;
}

}  // namespace mainstay::jobs
