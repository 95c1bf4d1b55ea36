// SPDX-License-Identifier: Apache-2.0
// Redis hears of committed jobs here: one thread, one pipeline per round, nothing retried.
//
// Lost on purpose when Redis is away, when the list is full or when the process dies: the rows are committed, and the
// sweeper or the dispatcher finds them. Keys are promoted in the same round, a statement for many.
#include <pqxx/pqxx>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/text.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/keys.h"
#include "libs/jobs/sql.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

constexpr size_t kMaxWaiting = 200000;  // entries; beyond it they are left to the sweeper
constexpr size_t kMaxWaitingBytes = 64 << 20;
constexpr size_t kPipeline = 500;
constexpr size_t kPromote = 1000;  // keys per statement: within its deadline by far, and soon on their way

}  // namespace

struct RedisHandoff::Impl {
  Impl(redis::ClientOptions options, postgres::Pool& p)
      : client(std::move(options)), pool(p), thread([this] { Run(); }) {}

  void Run() {
    while (true) {
      std::vector<std::pair<std::string, std::string>> work;
      std::vector<int64_t> keys;
      bool last;
      {
        absl::MutexLock lock(&mu);
        mu.Await(absl::Condition(
            +[](Impl* i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(i->mu) {
              return i->stopping || !i->entries.empty() || !i->keys.empty();
            },
            this));
        work.swap(entries);
        keys.swap(this->keys);
        bytes = 0;
        last = stopping;
      }
      Send(work);
      for (size_t at = 0; at < keys.size(); at += kPromote) {
        work.clear();
        if (!Promote(absl::MakeConstSpan(keys).subspan(at, kPromote), work)) break;  // the rest would only wait, too
        Send(work);
      }
      if (last) return;
    }
  }

  // False: PostgreSQL did not do it.
  bool Promote(absl::Span<const int64_t> keys, std::vector<std::pair<std::string, std::string>>& work) {
    PgArray array;
    for (const int64_t key : keys) array.Add(absl::StrCat(key));
    const std::string text = std::move(array).Finish();
    const absl::Status status =
        pool.Autocommit(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
          tx.conn().prepare(sql::kPromoteKeys.name, sql::kPromoteKeys.text);
          for (const auto& row : tx.exec_prepared(sql::kPromoteKeys.name, text)) {
            Entry entry{.fence = row[1].as<int64_t>(), .attempt = row[2].as<int>(), .kind = row[3].c_str()};
            if (const auto id = ParseUuid(row[0].c_str()); id.ok()) entry.id = *id;
            if (!row[6].is_null()) entry.args = row[6].c_str();
            work.emplace_back(StreamKey(row[4].c_str(), row[5].as<int>()), EncodeEntry(entry));
          }
          return absl::OkStatus();
        });
    if (!status.ok()) log::Debug("keys not promoted now, the sweeper will", {{"error", std::string(status.message())}});
    return status.ok();
  }

  void Send(const std::vector<std::pair<std::string, std::string>>& work) {
    std::string commands;
    for (size_t at = 0; at < work.size(); at += kPipeline) {
      const size_t end = std::min(work.size(), at + kPipeline);
      commands.clear();
      for (size_t i = at; i < end; ++i)
        redis::AppendCommand(commands, {"XADD", work[i].first, "*", kEntryField, work[i].second});
      const auto refused = client.PipelineEncoded(commands, end - at);
      if (!refused.ok()) {
        log::Debug("jobs not handed off, the sweeper will", {{"jobs", static_cast<int64_t>(work.size() - at)},
                                                             {"error", std::string(refused.status().message())}});
        return;  // the rest too: it would only wait for another time-out
      }
      if (!refused->empty())
        log::Warn("Redis refuses entries of jobs; the sweeper hands them out later", {{"error", *refused}});
    }
  }

  redis::Client client;
  postgres::Pool& pool;
  absl::Mutex mu;
  std::vector<std::pair<std::string, std::string>> entries ABSL_GUARDED_BY(mu);  // stream, entry
  std::vector<int64_t> keys ABSL_GUARDED_BY(mu);
  size_t bytes ABSL_GUARDED_BY(mu) = 0;
  bool stopping ABSL_GUARDED_BY(mu) = false;
  std::thread thread;
};

RedisHandoff::RedisHandoff(redis::ClientOptions redis, postgres::Pool& pool)
    : impl_(std::make_unique<Impl>(std::move(redis), pool)) {}

RedisHandoff::~RedisHandoff() {
  {
    absl::MutexLock lock(&impl_->mu);
    impl_->stopping = true;
  }
  impl_->thread.join();
}

void RedisHandoff::Publish(absl::Span<const Enqueued> jobs) {
  absl::MutexLock lock(&impl_->mu);
  for (const Enqueued& job : jobs) {
    if (job.existed || impl_->entries.size() + impl_->keys.size() >= kMaxWaiting || impl_->bytes >= kMaxWaitingBytes)
      continue;
    if (job.key.has_value()) impl_->keys.push_back(*job.key);
    if (job.stream.empty()) continue;
    impl_->bytes += job.entry.size();
    impl_->entries.emplace_back(job.stream, job.entry);
  }
}

}  // namespace mainstay::jobs
