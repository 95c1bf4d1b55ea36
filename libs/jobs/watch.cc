// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/watch.h"

#include <algorithm>
#include <pqxx/pqxx>

#include "absl/container/flat_hash_map.h"
#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/jobs/in_hand.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/metrics.h"
#include "prometheus/gauge.h"

namespace mainstay::jobs {
namespace {

constexpr absl::Duration kLively = absl::Milliseconds(20), kCalm = absl::Milliseconds(100),
                         kTrouble = absl::Milliseconds(500), kLivelyFor = absl::Seconds(2);

absl::Status Marks(pqxx::transaction_base& tx, const std::vector<Uuid>& ids,
                   absl::flat_hash_map<Uuid, std::string>& marks) {
  PgArray array;
  for (const Uuid& id : ids) array.Add(id.ToString());
  for (const auto& row : Run(tx, sql::kMarks, std::move(array).Finish())) {
    ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
    marks[id] = row[1].is_null() ? kFinalMark : row[1].c_str();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> MarkOf(pqxx::transaction_base& tx, const Uuid& id) {
  try {
    absl::flat_hash_map<Uuid, std::string> marks;
    RETURN_IF_ERROR(Marks(tx, {id}, marks));
    return marks[id];
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

Watcher::Watcher(postgres::Pool& pool, int max_watches)
    : pool_(pool), max_watches_(max_watches), thread_([this] { Run(); }) {}

Watcher::~Watcher() {
  Stop();
}

void Watcher::Stop() {
  absl::MutexLock stop(&stop_mu_);
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

int Watcher::watches() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(watches_.size());
}

absl::Status Watcher::Add(Watch watch) {
  absl::MutexLock lock(&mu_);
  if (stopping_ || static_cast<int>(watches_.size()) >= max_watches_) {
    return MakeProblem(Problem{.type = "overloaded",
                               .detail = stopping_ ? "the service is being stopped" : "too many are waiting for jobs",
                               .retry_after = absl::Seconds(2)});
  }
  if (watch.job.has_value()) lively_until_ = absl::Now() + kLivelyFor;
  fresh_ = true;
  watches_.push_back(std::move(watch));
  return absl::OkStatus();
}

void Watcher::Run() {
  static prometheus::Gauge& waiting =
      metrics::Gauge("mainstay_jobs_watches", "Callers that wait for a change of a job or queue");
  absl::Duration pause = kLively;
  while (true) {
    std::vector<Uuid> ids;
    {
      absl::MutexLock lock(&mu_);
      auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || !watches_.empty(); };
      mu_.Await(absl::Condition(&wanted));
      mu_.AwaitWithTimeout(absl::Condition(&stopping_), pause);
      if (stopping_) break;
      std::erase_if(watches_, [](const Watch& w) { return w.gone != nullptr && *w.gone; });
      for (const Watch& w : watches_) {
        if (w.job.has_value()) ids.push_back(*w.job);
      }
      waiting.Set(static_cast<double>(watches_.size()));
    }
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    absl::flat_hash_map<Uuid, std::string> marks;
    const absl::Time began = absl::Now();
    absl::Status status;
    if (!ids.empty()) {
      status = pool_.Autocommit(began + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
        marks.clear();
        return Marks(tx, ids, marks);
      });
      if (!status.ok()) marks.clear();
    }
    const absl::Time now = absl::Now();
    std::list<Watch> woken;
    {
      absl::MutexLock lock(&mu_);
      for (auto it = watches_.begin(); it != watches_.end();) {
        bool wake = it->until <= now;
        if (!wake && it->job.has_value()) {
          // A watch that came after the look has no mark here yet.
          const auto mark = marks.find(*it->job);
          wake = mark != marks.end() && (it->only_final ? mark->second == kFinalMark : mark->second != it->mark);
        }
        const auto next = std::next(it);
        if (wake) woken.splice(woken.end(), watches_, it);
        it = next;
      }
      // At most a tenth of the time is spent looking.
      pause = !status.ok() ? kTrouble
                           : std::clamp((now - began) * 10, now < lively_until_ ? kLively : kCalm, absl::Seconds(1));
    }
    for (const Watch& w : woken) w.wake();
  }
  std::list<Watch> left;
  {
    absl::MutexLock lock(&mu_);
    left.swap(watches_);
  }
  waiting.Set(0);
  for (const Watch& w : left) w.wake();
}

}  // namespace mainstay::jobs
