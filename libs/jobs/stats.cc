// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/stats.h"

#include <algorithm>
#include <numeric>
#include <pqxx/pqxx>

#include "absl/strings/str_cat.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/sql.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/metrics.h"
#include "prometheus/counter.h"
#include "prometheus/histogram.h"

namespace mainstay::jobs {
namespace {

// Kinds that external workers announce are theirs to name; what comes after so many pairs is counted together.
constexpr size_t kMaxCells = 2000;
constexpr char kOther[] = "other";
constexpr int kSlotSeconds = 10;

constexpr std::string_view kNames[kRunOutcomes] = {"succeeded", "failed", "dead", "discarded", "snoozed"};

std::string Array(const LatencyHistogram& histogram) {
  PgArray out;
  for (const int64_t count : histogram.counts) out.Add(absl::StrCat(count));
  return std::move(out).Finish();
}

void ReadArray(const pqxx::field& field, LatencyHistogram& out) {
  if (field.is_null()) return;
  auto parser = field.as_array();
  size_t at = 0;
  for (auto item = parser.get_next(); item.first != pqxx::array_parser::juncture::done; item = parser.get_next()) {
    if (item.first == pqxx::array_parser::juncture::string_value && at < out.counts.size())
      out.counts[at++] = std::stoll(item.second);
  }
}

}  // namespace

std::string_view RunOutcomeName(RunOutcome outcome) {
  return kNames[static_cast<int>(outcome)];
}

void LatencyHistogram::Add(absl::Duration value) {
  const double s = std::max(0.0, absl::ToDoubleSeconds(value));
  const auto bound = std::lower_bound(kLatencyBounds.begin(), kLatencyBounds.end(), s);
  ++counts[static_cast<size_t>(bound - kLatencyBounds.begin())];
  seconds += s;
}

int64_t LatencyHistogram::count() const {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

std::optional<double> LatencyHistogram::Quantile(double q) const {
  const int64_t total = count();
  if (total == 0) return std::nullopt;
  const double wanted = std::clamp(q, 0.0, 1.0) * static_cast<double>(total);
  double before = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double here = static_cast<double>(counts[i]);
    if (here > 0 && before + here >= wanted) {
      const double low = i == 0 ? 0 : kLatencyBounds[i - 1];
      // What is longer than the last bound is said to be as long as it.
      const double high = i < kLatencyBounds.size() ? kLatencyBounds[i] : low;
      return low + (high - low) * (wanted - before) / here;
    }
    before += here;
  }
  return kLatencyBounds.back();
}

struct StatsAccumulator::Metrics {
  Metrics(const std::string& queue, const std::string& kind)
      : queued(metrics::Histogram("mainstay_jobs_queued_seconds", "From when a job could run to its start",
                                  metrics::LatencyBuckets(), {{"queue", queue}})),
        ran(metrics::Histogram("mainstay_jobs_ran_seconds", "From a job's start to its end", metrics::LatencyBuckets(),
                               {{"queue", queue}})) {
    for (int i = 0; i < kRunOutcomes; ++i) {
      outcomes[i] = &metrics::Counter("mainstay_jobs_runs_total", "Runs by queue, kind and outcome",
                                      {{"queue", queue}, {"kind", kind}, {"outcome", std::string(kNames[i])}});
    }
  }
  prometheus::Histogram& queued;
  prometheus::Histogram& ran;
  prometheus::Counter* outcomes[kRunOutcomes];
};

StatsAccumulator::StatsAccumulator() : purged_(absl::InfinitePast()) {}
StatsAccumulator::~StatsAccumulator() = default;

void StatsAccumulator::Add(std::string_view queue, std::string_view kind, RunOutcome outcome, absl::Duration queued_for,
                           absl::Duration ran_for) {
  std::shared_ptr<Metrics> metrics;
  {
    absl::MutexLock lock(&mu_);
    Key key(queue, kind);
    auto it = cells_.find(key);
    if (it == cells_.end()) {
      if (cells_.size() >= kMaxCells) key.second = kOther;
      it = cells_.try_emplace(key).first;
      if (it->second.metrics == nullptr) it->second.metrics = std::make_shared<Metrics>(key.first, key.second);
    }
    Cell& cell = it->second;
    ++cell.outcomes[static_cast<int>(outcome)];
    cell.queued.Add(queued_for);
    cell.ran.Add(ran_for);
    metrics = cell.metrics;
  }
  metrics->outcomes[static_cast<int>(outcome)]->Increment();
  metrics->queued.Observe(std::max(0.0, absl::ToDoubleSeconds(queued_for)));
  metrics->ran.Observe(std::max(0.0, absl::ToDoubleSeconds(ran_for)));
}

absl::Status StatsAccumulator::Flush(postgres::Pool& pool, absl::Time deadline) {
  std::vector<std::pair<Key, Cell>> taken;
  {
    absl::MutexLock lock(&mu_);
    for (auto& [key, cell] : cells_) {
      if (std::all_of(cell.outcomes.begin(), cell.outcomes.end(), [](int64_t n) { return n == 0; })) continue;
      taken.emplace_back(key, cell);
      cell.outcomes.fill(0);
      cell.queued = cell.ran = {};
    }
  }
  if (taken.empty()) return absl::OkStatus();
  const bool purge = absl::Now() - purged_ > absl::Minutes(1);
  absl::Status status = pool.Autocommit(deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
    PgArray queues, kinds, queued, ran, queued_seconds, ran_seconds;
    PgArray outcomes[kRunOutcomes];
    for (const auto& [key, cell] : taken) {
      queues.Add(key.first);
      kinds.Add(key.second);
      for (int i = 0; i < kRunOutcomes; ++i) outcomes[i].Add(absl::StrCat(cell.outcomes[i]));
      queued.Add(Array(cell.queued));
      ran.Add(Array(cell.ran));
      queued_seconds.Add(absl::StrCat(cell.queued.seconds));
      ran_seconds.Add(absl::StrCat(cell.ran.seconds));
    }
    Run(tx, sql::kAddStats, std::move(queues).Finish(), std::move(kinds).Finish(), std::move(outcomes[0]).Finish(),
        std::move(outcomes[1]).Finish(), std::move(outcomes[2]).Finish(), std::move(outcomes[3]).Finish(),
        std::move(outcomes[4]).Finish(), std::move(queued).Finish(), std::move(ran).Finish(),
        std::move(queued_seconds).Finish(), std::move(ran_seconds).Finish());
    return absl::OkStatus();
  });
  if (status.ok()) {
    if (!purge) return status;
    purged_ = absl::Now();
    return pool.Autocommit(deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
      Run(tx, sql::kForgetStats);
      return absl::OkStatus();
    });
  }
  absl::MutexLock lock(&mu_);
  for (const auto& [key, lost] : taken) {
    Cell& cell = cells_[key];
    for (int i = 0; i < kRunOutcomes; ++i) cell.outcomes[i] += lost.outcomes[i];
    cell.queued.Add(lost.queued);
    cell.ran.Add(lost.ran);
  }
  return status;
}

void LatencyHistogram::Add(const LatencyHistogram& other) {
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  seconds += other.seconds;
}

void RunFigures::Add(const RunFigures& other) {
  for (int i = 0; i < kRunOutcomes; ++i) outcomes[i] += other.outcomes[i];
  queued.Add(other.queued);
  ran.Add(other.ran);
}

int64_t RunFigures::runs() const {
  return std::accumulate(outcomes.begin(), outcomes.end(), int64_t{0});
}

absl::StatusOr<std::vector<QueueFigures>> ReadFigures(pqxx::transaction_base& tx,
                                                      const std::optional<std::string>& queue, bool by_kind) {
  try {
    std::vector<QueueFigures> all;
    for (const auto& row : Run(tx, sql::kReadStats, queue.has_value() ? queue->c_str() : nullptr)) {
      const std::string name = row[0].c_str(), kind = by_kind ? row[1].c_str() : "";
      if (all.empty() || all.back().queue != name || all.back().kind != kind)
        all.push_back({.queue = name, .kind = kind});
      RunFigures slot;
      for (int i = 0; i < kRunOutcomes; ++i) slot.outcomes[i] = row[4 + i].as<int64_t>();
      ReadArray(row[9], slot.queued);
      ReadArray(row[10], slot.ran);
      slot.queued.seconds = row[11].as<double>();
      slot.ran.seconds = row[12].as<double>();
      // The slot that is not over yet counts, and so does how much of it has passed.
      const int age = row[2].as<int>();
      const double open = row[3].as<double>();
      QueueFigures& figures = all.back();
      for (auto [span, sum] :
           {std::pair(60, &figures.minute), std::pair(300, &figures.five_minutes), std::pair(900, &figures.quarter)}) {
        sum->seconds = span - kSlotSeconds + open;
        if (age < span) sum->Add(slot);
      }
    }
    return all;
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

}  // namespace mainstay::jobs
