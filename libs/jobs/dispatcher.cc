// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/dispatcher.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

constexpr int kBatch = 500;
constexpr int kRounds = 8;         // batches per stream and round, so that no stream waits for the backlog of another
constexpr int kPeekTenants = 300;  // per stream and peek; more go round
constexpr int kAgainTenants = 50, kAgainTake = 200;
constexpr size_t kMaxUnserved = 200;                       // lanes kept shut for kinds nobody serves, per queue
constexpr absl::Duration kWindowLife = absl::Seconds(10);  // an open window closes by itself when nobody renews it
constexpr absl::Duration kFull = absl::Milliseconds(25);   // until a full window or a taken limit is looked at again
constexpr absl::Duration kLinger = absl::Seconds(5);       // a closed lane is read for this long at least

int64_t Number(const std::string& text, int64_t otherwise) {
  return text.empty() || text.find_first_not_of("0123456789") != std::string::npos ? otherwise : std::stoll(text);
}

std::string KindOf(const std::string& route) {
  return route.substr(0, route.find('@'));
}

std::string TenantBucket(const std::string& queue, const std::string& tenant) {
  return absl::StrCat("mainstay:jobs:rate:{", queue, "}:tenant:", tenant);
}

}  // namespace

void Dispatcher::Reset() {
  backlogs_.clear();
  unserved_.clear();
  due_ = limited_ = false;
}

void Dispatcher::Rewind() {
  for (auto& [id, backlog] : backlogs_) {
    for (auto& [lane, stream] : backlog.streams) stream.turns.Rewind();
  }
}

std::vector<std::string> Dispatcher::RoutesOf(const QueueState& queue, const std::string& lane) const {
  std::vector<std::string> routes;
  if (!lane.empty()) {
    if (queue.served.contains(lane) && !context_.paused_kinds.contains(KindOf(lane))) routes.push_back(lane);
    return routes;
  }
  for (const auto& route : queue.shared) {
    if (!queue.lanes.contains(route) && !context_.paused_kinds.contains(KindOf(route))) routes.push_back(route);
  }
  return routes;
}

absl::Status Dispatcher::Refreshed() {
  RETURN_IF_ERROR(Lanes());
  const WindowOptions window{.floor = std::min(context_.options.window_floor, context_.options.window),
                             .ceiling = context_.options.window};
  std::erase_if(backlogs_, [this](const auto& entry) { return !context_.windows.contains(entry.first); });
  for (const BacklogId& id : context_.windows) {
    const auto queue = context_.queues.find(id.first);
    if (queue == context_.queues.end()) continue;
    Backlog& backlog = backlogs_[id];
    std::set<std::string> lanes = {""};
    for (const auto& lane : queue->second.lanes) {
      if (queue->second.served.contains(lane)) lanes.insert(lane);
    }
    lanes.insert(queue->second.closing.begin(), queue->second.closing.end());
    std::erase_if(backlog.streams, [&](const auto& entry) { return !lanes.contains(entry.first); });
    for (const auto& lane : lanes) {
      auto [it, fresh] = backlog.streams.try_emplace(lane, window);
      if (fresh && !lane.empty()) it->second.turns = backlog.streams.at("").turns;  // its tenants, from the head
      if (fresh || backlog.version != context_.version) it->second.turns.Rewind();
      it->second.turns.SetWeights(context_.tenant_weights);
      it->second.turns.SetPaused(context_.paused_tenants);
    }
    backlog.version = context_.version;
  }
  return absl::OkStatus();
}

// Writes what context.Refresh() found out about lanes, and ends those that are closed and empty.
absl::Status Dispatcher::Lanes() {
  for (auto& [name, queue] : context_.queues) {
    auto& unserved = unserved_[name];
    std::erase_if(unserved, [&queue = queue](const std::string& route) { return queue.served.contains(route); });
    queue.lanes.insert(unserved.begin(), unserved.end());
  }
  struct Closing {
    std::string queue, route;
    double age;
  };
  std::vector<Closing> closing;
  std::map<std::string, std::set<std::string>> rows;
  RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    closing.clear();
    rows.clear();
    for (const auto& row : Run(tx, sql::kLanes)) {
      rows[row[0].c_str()].insert(row[1].c_str());
      if (!row[2].is_null()) closing.push_back({row[0].c_str(), row[1].c_str(), row[2].as<double>()});
    }
    return absl::OkStatus();
  }));
  std::map<std::string, std::vector<std::string>> gone;
  if (!context_.redis_away) {
    for (const Closing& lane : closing) {
      const auto queue = context_.queues.find(lane.queue);
      if (queue == context_.queues.end() || !queue->second.closing.contains(lane.route) ||
          lane.age < absl::ToDoubleSeconds(kLinger)) {
        continue;
      }
      bool empty = true;
      for (const BacklogId& id : context_.windows) {
        if (id.first != lane.queue) continue;
        const std::string key = StreamKey(id.first, id.second, lane.route);
        // Trouble with Redis is found and told elsewhere; the lane stays until the next time.
        const auto length = context_.redis.Execute({"XLEN", key});
        empty = empty && length.ok() && length->ok() && length->integer == 0 &&
                context_.redis.Execute({"UNLINK", key}).ok();
      }
      if (empty) gone[lane.queue].push_back(lane.route);
    }
  }
  for (auto& [name, queue] : context_.queues) {
    const auto& known = rows[name];
    PgArray open, close, end, all;
    bool change = false;
    for (const auto& lane : queue.lanes) {
      all.Add(lane);
      if (!queue.served.contains(lane)) continue;
      open.Add(lane);
      change = change || !known.contains(lane);
    }
    for (const auto& lane : queue.closing) {
      if (!known.contains(lane)) continue;
      close.Add(lane);
      change = change || std::none_of(closing.begin(), closing.end(), [&, &name = name](const Closing& c) {
                 return c.queue == name && c.route == lane;
               });
    }
    for (const auto& lane : gone[name]) {
      end.Add(lane);
      queue.closing.erase(lane);
      change = true;
    }
    change = change || queue.written_lanes != queue.lanes;
    if (!change) continue;
    RETURN_IF_ERROR(context_.Query([&, &name = name](pqxx::transaction_base& tx) -> absl::Status {
      Run(tx, sql::kSetLanes, name, PgArray(open).Finish(), PgArray(close).Finish(), PgArray(end).Finish(),
          PgArray(all).Finish());
      return absl::OkStatus();
    }));
    queue.written_lanes = queue.lanes;
  }
  return absl::OkStatus();
}

absl::Status Dispatcher::Peek() {
  struct Asked {
    BacklogId id;
    std::string tenant;
  };
  std::vector<Asked> idle, gaps;
  PgArray queues, priorities, tenants, positions, gap_queues, gap_priorities, lows, highs;
  for (auto& [id, backlog] : backlogs_) {
    const auto shared = backlog.streams.find("");
    if (shared == backlog.streams.end()) continue;
    for (const auto& turn : shared->second.turns.Idle(kPeekTenants)) {
      queues.Add(id.first);
      priorities.Add(absl::StrCat(id.second));
      tenants.Add(turn.tenant);
      positions.Add(turn.after.ToString());
      idle.push_back({id, turn.tenant});
    }
    for (const auto& gap : shared->second.turns.Gaps(kPeekTenants)) {
      gap_queues.Add(id.first);
      gap_priorities.Add(absl::StrCat(id.second));
      lows.Add(gap.low);
      highs.Add(gap.high);
      gaps.push_back({id, ""});
    }
  }
  const std::string a = std::move(queues).Finish(), b = std::move(priorities).Finish(), c = std::move(tenants).Finish(),
                    d = std::move(positions).Finish(), e = std::move(gap_queues).Finish(),
                    f = std::move(gap_priorities).Finish(), g = std::move(lows).Finish(), h = std::move(highs).Finish();
  std::vector<Asked> found;
  bool due = false, limited = false;
  RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    found.clear();
    due = limited = false;
    for (const auto& row : Run(tx, sql::kPeek, a, b, c, d, e, f, g, h)) {
      const int what = row[0].as<int>();
      const size_t n = row[1].as<size_t>();
      if (what == 1) found.push_back(idle[n - 1]);
      if (what == 2) found.push_back({gaps[n - 1].id, row[2].c_str()});
      due = due || what == 3;
      limited = limited || what == 4;
    }
    return absl::OkStatus();
  }));
  due_ = due;
  limited_ = limited;
  for (const Asked& asked : found) {
    for (auto& [lane, stream] : backlogs_.at(asked.id).streams) stream.turns.Found(asked.tenant);
  }
  return absl::OkStatus();
}

// How much each stream holds, and how fast it is read.
absl::Status Dispatcher::Measure() {
  std::vector<redis::Command> commands;
  std::vector<std::pair<Stream*, std::string>> asked;
  for (auto& [id, backlog] : backlogs_) {
    for (auto& [lane, stream] : backlog.streams) {
      const std::string key = StreamKey(id.first, id.second, lane);
      commands.push_back({"XINFO", "GROUPS", key});
      commands.push_back({"XLEN", key});
      asked.emplace_back(&stream, key);
    }
  }
  if (commands.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto replies, context_.redis.Pipeline(commands));
  const absl::Time now = Mono();
  std::vector<std::string> without_group;
  for (size_t i = 0; i < asked.size(); ++i) {
    Stream& stream = *asked[i].first;
    const redis::Reply& groups = replies[2 * i];
    const redis::Reply& length = replies[2 * i + 1];
    if (!length.ok()) return absl::UnavailableError(length.text);
    const auto group = std::find_if(groups.elements.begin(), groups.elements.end(),
                                    [](const redis::Reply& g) { return Field(g, "name") == kGroup; });
    if (group == groups.elements.end()) without_group.push_back(asked[i].second);
    const std::string read = group == groups.elements.end() ? "" : Field(*group, "entries-read"),
                      lag = group == groups.elements.end() ? "" : Field(*group, "lag");
    // Acknowledged entries may stay until the trim, so the length counts only where Redis has lost track.
    const int64_t before = stream.live;
    stream.live = lag.empty() ? length.integer : Number(lag, 0) + Number(Field(*group, "pending"), 0);
    stream.read = read.empty() ? stream.read + std::max<int64_t>(0, before + stream.published - stream.live)
                               : Number(read, stream.read);
    stream.published = 0;
    stream.size.Sample(stream.read, stream.live, stream.turns.backlog(), now);
  }
  return CreateGroups(context_.redis, without_group);
}

std::vector<std::pair<const Dispatcher::BacklogId, Dispatcher::Backlog>*> Dispatcher::Order() {
  std::vector<std::pair<const BacklogId, Backlog>*> order;
  for (auto& entry : backlogs_) order.push_back(&entry);
  // Strict priorities: every tenth time the other way round, so that the lowest is not shut out for ever.
  if (rounds_ % 10 == 0) std::reverse(order.begin(), order.end());
  for (auto begin = order.begin(); begin != order.end();) {
    const std::string& name = (*begin)->first.first;
    const auto end = std::find_if(begin, order.end(), [&](const auto* entry) { return entry->first.first != name; });
    if (const auto queue = context_.queues.find(name); queue != context_.queues.end() && queue->second.weighted)
      std::stable_sort(begin, end, [](const auto* a, const auto* b) { return a->second.credit > b->second.credit; });
    begin = end;
  }
  return order;
}

void Dispatcher::Charge(const BacklogId& id, int64_t used) {
  std::vector<std::pair<double, Backlog*>> waiting;  // with their parts: as in shares.h
  double parts = 0;
  for (auto it = backlogs_.lower_bound({id.first, 0}); it != backlogs_.end() && it->first.first == id.first; ++it) {
    const auto shared = it->second.streams.find("");
    if (shared == it->second.streams.end() || (!shared->second.turns.backlog() && it->first != id)) {
      it->second.credit = 0;
      continue;
    }
    waiting.emplace_back(10 - it->first.second, &it->second);
    parts += waiting.back().first;
  }
  for (const auto& [part, backlog] : waiting) backlog->credit += static_cast<double>(used) * part / parts;
  backlogs_.at(id).credit -= static_cast<double>(used);
}

absl::StatusOr<absl::Duration> Dispatcher::Round() {
  ++rounds_;
  if (!context_.redis_away) RETURN_IF_ERROR(Measure());
  absl::Duration pause = context_.options.dispatch_interval;
  for (auto* entry : Order()) {
    const BacklogId& id = entry->first;
    Backlog& backlog = entry->second;
    const auto queue = context_.queues.find(id.first);
    if (queue == context_.queues.end()) continue;
    if (queue->second.paused) {
      RETURN_IF_ERROR(SetWindow(id, backlog, false));
      continue;
    }
    bool waiting = false;
    for (auto& [lane, stream] : backlog.streams) {
      if (context_.redis_away && !queue->second.closed()) continue;
      const int64_t before = stream.published;
      ASSIGN_OR_RETURN(const bool more, Serve(id, lane, backlog, stream));
      if (queue->second.weighted && queue->second.closed()) Charge(id, stream.published - before);
      if (more) pause = absl::ZeroDuration();
      waiting = waiting || stream.turns.backlog();
    }
    if (waiting) pause = std::min(pause, kFull);
    const Stream& shared = backlog.streams.at("");
    RETURN_IF_ERROR(SetWindow(id, backlog,
                              !context_.redis_away && !queue->second.closed() && queue->second.workers > 0 &&
                                  !shared.turns.backlog() && shared.live < std::max(1, shared.size.target() / 2)));
  }
  return pause;
}

absl::StatusOr<bool> Dispatcher::Serve(const BacklogId& id, const std::string& lane, Backlog& backlog, Stream& stream) {
  const QueueState& queue = context_.queues.at(id.first);
  const std::vector<std::string> may_go = RoutesOf(queue, lane);
  PgArray array;
  for (const auto& route : may_go) array.Add(route);
  const std::string routes = std::move(array).Finish();
  // Jobs that came back are handed out with the shared stream, into whichever stream is theirs.
  std::vector<Uuid> none;
  auto& returned = lane.empty() ? context_.returned[id] : none;
  if (may_go.empty() && returned.empty()) return false;
  for (int round = 0; round < kRounds; ++round) {
    const int target = stream.size.target();
    const int64_t room = context_.redis_away ? kBatch : target - stream.live;
    if (room <= target / 20) return false;
    const int limit = static_cast<int>(std::min<int64_t>(room, kBatch));
    // The oldest first, and half the room at most while tenants wait for their turns: many that are due at once must
    // not keep everybody else waiting.
    const int most = stream.turns.backlog() && !may_go.empty() ? std::max(1, limit / 2) : limit;
    const auto end = returned.begin() + std::min<ptrdiff_t>(std::ssize(returned), most);
    const std::vector<Uuid> ids(returned.begin(), end);
    returned.erase(returned.begin(), end);
    std::vector<Turns::Turn> turns;
    if (!may_go.empty()) turns = stream.turns.Next(limit - static_cast<int>(std::ssize(ids)));
    const absl::Time now = Mono();
    const bool again = turns.empty() && ids.empty() && now >= stream.again_at;
    if (again && !may_go.empty()) turns = stream.turns.Again(kAgainTenants, std::min(limit, kAgainTake));
    if (turns.empty() && ids.empty()) return false;
    int handed_out = 0, skipped = 0;
    RETURN_IF_ERROR(Statement(id, queue, stream, routes, turns, ids, limit, &handed_out, &skipped));
    // From the head for at most a twentieth of the time: dead entries and jobs that may not go are walked again.
    if (again) {
      stream.again_at = Mono() + std::clamp((Mono() - now) * 20, context_.options.dispatch_interval, absl::Seconds(5));
      return handed_out > 0;
    }
    if (skipped > 0 && lane.empty() && !turns.empty() && unserved_[id.first].size() < kMaxUnserved &&
        now - backlog.sampled_at > absl::Milliseconds(500)) {
      // Which kinds are they? From now on producers leave those to us.
      backlog.sampled_at = now;
      RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
        for (const auto& row :
             Run(tx, sql::kWaitingRoutes, id.first, id.second, turns[0].tenant, turns[0].after.ToString(), kBatch)) {
          if (!queue.served.contains(row[0].c_str())) unserved_[id.first].insert(row[0].c_str());
        }
        return absl::OkStatus();
      }));
    }
    if (handed_out == 0 && skipped == 0) return false;  // a limit, or nothing there
  }
  return stream.turns.backlog();
}

absl::Status Dispatcher::Statement(const BacklogId& id, const QueueState& queue, Stream& stream,
                                   const std::string& routes, std::vector<Turns::Turn> turns,
                                   const std::vector<Uuid>& ids, int limit, int* handed_out, int* skipped) {
  const absl::Time now = Mono();
  const bool away = context_.redis_away;
  const std::string bucket = absl::StrCat("mainstay:jobs:rate:{", id.first, "}:queue");
  int rate_taken = 0, room = limit;
  if (queue.rate > 0) {
    rate_taken = room = rates_.Take(bucket, queue.rate, limit, now, away);
    if (room == 0) return absl::OkStatus();
  }
  std::vector<int> tenant_taken(turns.size(), 0);
  if (queue.tenant_rate > 0) {
    for (size_t i = 0; i < turns.size(); ++i)
      tenant_taken[i] = turns[i].take =
          rates_.Take(TenantBucket(id.first, turns[i].tenant), queue.tenant_rate, turns[i].take, now, away);
  }
  PgArray key_array, tenant_array;
  for (const int64_t key : context_.paused_keys) key_array.Add(absl::StrCat(key));
  for (const auto& tenant : context_.paused_tenants) tenant_array.Add(tenant);
  const std::string keys = std::move(key_array).Finish(), paused_tenants = std::move(tenant_array).Finish();

  std::vector<Handout> handouts;
  std::vector<std::pair<Uuid, int64_t>> taken;
  struct Result {
    int seen = 0, skipped = 0;
    Uuid last;
  };
  std::vector<Result> results;
  std::vector<size_t> asked;  // turns that were in the statement
  auto body = [&](pqxx::transaction_base& tx) -> absl::Status {
    handouts.clear();
    taken.clear();
    asked.clear();
    int left = room;
    if (queue.concurrency > 0) {
      const pqxx::result free = Run(tx, sql::kFreeQueueSlots, id.first, queue.concurrency);
      left = std::min(left, free[0][0].as<int>());
    }
    auto hand_out = [&](const pqxx::row& row) {
      Entry entry;
      Handout handout = ReadHandout(row, &entry);
      const std::string route = row[7].c_str();
      handout.stream = StreamKey(id.first, id.second, queue.lanes.contains(route) ? route : std::string());
      handouts.push_back(std::move(handout));
      taken.emplace_back(entry.id, entry.fence);
      --left;
    };
    if (!ids.empty() && left > 0) {
      PgArray array;
      for (size_t i = 0; i < ids.size() && static_cast<int>(i) < left; ++i) array.Add(ids[i].ToString());
      PgArray any;
      for (const auto& route : queue.served) {
        if (!context_.paused_kinds.contains(KindOf(route))) any.Add(route);
      }
      for (const auto& row :
           Run(tx, sql::kDispatchIds, std::move(array).Finish(), std::move(any).Finish(), keys, paused_tenants))
        hand_out(row);
    }
    PgArray tenants, positions, takes;
    int wanted = left;
    for (size_t i = 0; i < turns.size() && wanted > 0; ++i) {
      const int take = std::min(turns[i].take, wanted);
      if (take <= 0) continue;
      turns[i].take = take;
      wanted -= take;
      asked.push_back(i);
      tenants.Add(turns[i].tenant);
      positions.Add(turns[i].after.ToString());
      takes.Add(absl::StrCat(take));
    }
    results.assign(asked.size(), Result());
    if (!asked.empty()) {
      for (const auto& row : Run(tx, sql::kDispatch, id.first, id.second, std::move(tenants).Finish(),
                                 std::move(positions).Finish(), std::move(takes).Finish(), routes, keys)) {
        if (row[8].is_null()) {
          hand_out(row);
          continue;
        }
        Result& result = results[row[8].as<size_t>() - 1];
        ASSIGN_OR_RETURN(result.last, ParseUuid(row[0].c_str()));
        result.seen = row[9].as<int>();
        result.skipped = row[10].as<int>();
      }
    }
    if (queue.concurrency > 0 && !taken.empty()) {
      PgArray job_array, fence_array;
      for (const auto& [job, fence] : taken) {
        job_array.Add(job.ToString());
        fence_array.Add(absl::StrCat(fence));
      }
      Run(tx, sql::kTakeQueueSlots, id.first, std::move(job_array).Finish(), std::move(fence_array).Finish());
    }
    return absl::OkStatus();
  };
  const absl::Status status = queue.concurrency > 0 ? context_.Transaction(body) : context_.Query(body);
  if (status.ok()) {
    for (size_t i = 0; i < asked.size(); ++i) {
      const Turns::Turn& turn = turns[asked[i]];
      stream.turns.Took(turn, results[i].seen, results[i].last);
      *skipped += results[i].skipped;
      if (queue.tenant_rate > 0) {
        const int unused = tenant_taken[asked[i]] - (results[i].seen - results[i].skipped);
        rates_.Return(TenantBucket(id.first, turn.tenant), queue.tenant_rate, unused, now, away);
      }
    }
  }
  *handed_out = static_cast<int>(taken.size());
  rates_.Return(bucket, queue.rate, rate_taken - *handed_out, now, away);
  // Jobs that came back and found no room go on waiting in the list.
  if (!status.ok() || *handed_out < static_cast<int>(ids.size())) {
    absl::flat_hash_map<Uuid, int64_t> gone(taken.begin(), taken.end());
    if (!status.ok() || room < static_cast<int>(ids.size())) {
      for (const Uuid& job : ids) {
        if (!status.ok() || !gone.contains(job)) context_.returned[id].push_back(job);
      }
    }
  }
  RETURN_IF_ERROR(status);
  for (const Handout& handout : handouts) stream.size.Weigh(handout.entry.size());
  stream.live += *handed_out;
  stream.published += *handed_out;
  // With Redis away, workers claim what was let through here once it is stale.
  return away ? absl::OkStatus() : context_.Publish(handouts);
}

absl::Status Dispatcher::SetWindow(const BacklogId& id, Backlog& backlog, bool open) {
  const absl::Time now = Mono();
  if (backlog.open == open && (!open || now - backlog.renewed < kWindowLife / 3) && backlog.renewed != absl::Time())
    return absl::OkStatus();
  RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    Run(tx, sql::kSetWindow, id.first, id.second, open ? absl::ToDoubleSeconds(kWindowLife) : 0.0);
    return absl::OkStatus();
  }));
  backlog.open = open;
  backlog.renewed = now;
  return absl::OkStatus();
}

void Dispatcher::CloseWindows() {
  if (context_.redis_away) return;
  if (context_
          .Query([&](pqxx::transaction_base& tx) -> absl::Status {
            Run(tx, sql::kCloseWindows);
            return absl::OkStatus();
          })
          .ok()) {
    context_.redis_away = true;
    for (auto& [id, backlog] : backlogs_) backlog.open = false;
    log::Warn(context_.redis_full ? "Redis is full: jobs are taken from PostgreSQL"
                                  : "Redis is away: jobs are taken from PostgreSQL");
  }
}

}  // namespace mainstay::jobs
