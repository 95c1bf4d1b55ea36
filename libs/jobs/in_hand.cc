// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/in_hand.h"

#include <algorithm>
#include <random>

#include "libs/base/clock.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/flow_sql.h"
#include "libs/postgres/pool.h"

namespace mainstay::jobs {
namespace {

constexpr size_t kMaxResult = 64 << 10, kMaxMessage = 2000;
constexpr absl::Duration kMaxDelay = absl::Hours(24 * 366);

double Random() {
  thread_local std::mt19937_64 engine{std::random_device{}()};
  return std::uniform_real_distribution<double>(0, 1)(engine);
}

}  // namespace

void CompleteArrays::Add(const Uuid& id, int64_t fence, int state, const std::string* result, std::string_view code,
                         std::string_view message, int counted, double seconds) {
  ++size;
  ids.Add(id);
  fences.AddInt8(fence);
  states.AddInt2(static_cast<int16_t>(state));
  result != nullptr&&* result != "null" ? results.Add(*result) : results.AddNull();
  if (code.empty()) {
    codes.AddNull();
    messages.AddNull();
  } else {
    codes.Add(code);
    messages.Add(message);
  }
  ran.AddInt4(counted);
  took.AddFloat8(seconds);
}

void RetryArrays::Add(const Uuid& id, int64_t fence, absl::Duration delay, std::string_view code,
                      std::string_view message) {
  ++size;
  ids.Add(id);
  fences.AddInt8(fence);
  delays.AddFloat8(absl::ToDoubleSeconds(delay));
  if (code.empty()) {
    codes.AddNull();
    messages.AddNull();
  } else {
    codes.Add(code);
    messages.Add(message);
  }
}

void Sort(const JobData& job, const Outcome& o, double took, CompleteArrays& complete, RetryArrays& retry) {
  const double seconds = std::max(took, 0.0);
  const std::string code = CleanText(o.code.empty() ? "error" : std::string_view(o.code), 100),
                    message = CleanText(o.message, kMaxMessage);
  switch (o.kind) {
    case Outcome::Kind::kDone: {
      if (o.result == "null") {
        complete.Add(job.id, job.fence, kStateSucceeded, nullptr, "", "", 1, seconds);
        return;
      }
      std::string result = o.result;
      if (result.size() > kMaxResult) {
        result = StrCat("{\"truncated\":true,\"bytes\":", o.result.size(), "}");
      } else if (!JsonDocument::Parse(result).ok()) {
        result = "{\"invalid\":true}";
      }
      complete.Add(job.id, job.fence, kStateSucceeded, &result, "", "", 1, seconds);
      return;
    }
    case Outcome::Kind::kDiscard:
      complete.Add(job.id, job.fence, kStateDiscarded, nullptr, code, message, took < 0 ? 0 : 1, seconds);
      return;
    case Outcome::Kind::kDead:
      complete.Add(job.id, job.fence, kStateDead, nullptr, code, message, 1, seconds);
      return;
    case Outcome::Kind::kSnooze:
      retry.Add(job.id, job.fence, std::clamp(o.after.value_or(absl::Seconds(1)), absl::ZeroDuration(), kMaxDelay), "",
                "");
      return;
    case Outcome::Kind::kRetry:
      if (job.attempt + 1 >= job.max_attempts) {
        complete.Add(job.id, job.fence, kStateDead, nullptr, code, message, 1, seconds);
        return;
      }
      retry.Add(job.id, job.fence,
                o.after.has_value() ? std::clamp(*o.after, absl::ZeroDuration(), kMaxDelay)
                                    : RetryDelay(job.backoff, job.attempt + 1, Random),
                code, message);
      return;
  }
}

Handout ReadHandout(const pqxx::row& row, Entry* out) {
  Entry entry{.fence = row[1].as<int64_t>(), .attempt = row[2].as<int>(), .kind = row[3].c_str()};
  if (const auto id = ParseUuid(row[0].c_str()); id.ok()) entry.id = *id;
  if (!row[6].is_null()) entry.args = row[6].c_str();
  Handout handout{StreamKey(row[4].c_str(), row[5].as<int>()), EncodeEntry(entry)};
  if (out != nullptr) *out = std::move(entry);
  return handout;
}

int64_t Complete(pqxx::transaction_base& tx, CompleteArrays&& batch, const Uuid* worker, const std::string& worker_name,
                 std::vector<int64_t>* freed, std::vector<Handout>* handouts,
                 const std::vector<std::pair<Uuid, int64_t>>& turns, const char* idle_ms) {
  const std::string worker_id = worker != nullptr ? worker->ToString() : "";
  const pqxx::result rows =
      Run(tx, sql::kComplete, batch.ids.Finish(), batch.fences.Finish(), batch.states.Finish(), batch.results.Finish(),
          batch.codes.Finish(), batch.messages.Finish(), batch.ran.Finish(), batch.took.Finish(),
          worker != nullptr ? worker_id.c_str() : static_cast<const char*>(nullptr), worker_name, idle_ms);
  const auto row = rows[0];
  if (!row[1].is_null()) {
    BinaryArray turn_ids(BinaryArray::kUuid), turn_fences(BinaryArray::kInt8);
    for (const auto& [job, fence] : turns) turn_ids.Add(job), turn_fences.AddInt8(fence);
    for (const auto& next :
         Run(tx, sql::kPassKeys, row[1].c_str(), row[2].c_str(), turn_ids.Finish(), turn_fences.Finish()))
      next[0].is_null() ? freed->push_back(next[7].as<int64_t>()) : handouts->push_back(ReadHandout(next));
  }
  // After the slots, which jobs of other flows may be waiting for.
  if (!row[3].is_null()) Run(tx, sql::kFinishFlowJobs, row[3].c_str(), row[4].c_str());
  return row[0].as<int64_t>();
}

int64_t Retry(pqxx::transaction_base& tx, RetryArrays&& batch, const std::string& worker_name,
              std::vector<Uuid>* stored, const char* idle_ms) {
  const pqxx::result rows = Run(tx, sql::kRetry, batch.ids.Finish(), batch.fences.Finish(), batch.delays.Finish(),
                                batch.codes.Finish(), batch.messages.Finish(), worker_name, idle_ms);
  CutRuns(tx, rows, 2);
  if (stored != nullptr) {
    for (const auto& row : rows) {
      if (const auto id = ParseUuid(row[0].c_str()); id.ok()) stored->push_back(*id);
    }
  }
  return static_cast<int64_t>(rows.size());
}

pqxx::result Reissue(pqxx::transaction_base& tx, FencedIds&& jobs, int target, BinaryArray crashes,
                     BinaryArray suspicions) {
  const pqxx::result rows =
      Run(tx, sql::kReissue, jobs.ids.Finish(), jobs.fences.Finish(), target, crashes.Finish(), suspicions.Finish());
  CutRuns(tx, rows, 10);
  return rows;
}

void CutRuns(pqxx::transaction_base& tx, const pqxx::result& rows, int column) {
  PgArray keys;
  bool any = false;
  for (const auto& row : rows) {
    if (row[column].is_null()) continue;
    keys.Add(row[column].c_str());
    any = true;
  }
  if (any) Run(tx, sql::kCutRuns, std::move(keys).Finish());
}

absl::StatusOr<absl::flat_hash_set<Uuid>> LockedByOthers(postgres::Pool& pool, BinaryArray ids) {
  const auto array = ids.Finish();
  absl::flat_hash_set<Uuid> locked;
  RETURN_IF_ERROR(pool.Autocommit(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
    locked.clear();
    for (const auto& row : Run(tx, sql::kLocked, array)) {
      ASSIGN_OR_RETURN(const Uuid job, ParseUuid(row[0].c_str()));
      locked.insert(job);
    }
    return absl::OkStatus();
  }));
  return locked;
}

absl::Time Mono() {
  return absl::UnixEpoch() + Clock::Real().Monotonic();
}
int64_t MonoMicros() {
  return absl::ToInt64Microseconds(Clock::Real().Monotonic());
}

std::string CleanText(std::string_view text, size_t limit) {
  std::string clean(TruncateUtf8(text, limit));
  for (char& c : clean) {
    if (c == '\0') c = ' ';
  }
  if (!IsValidUtf8(clean)) {
    for (char& c : clean) {
      if (static_cast<unsigned char>(c) >= 0x80) c = '?';
    }
  }
  return clean;
}

}  // namespace mainstay::jobs
