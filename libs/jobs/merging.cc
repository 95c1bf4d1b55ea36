// SPDX-License-Identifier: Apache-2.0
// The leader works on its own caller's thread. It serves one batch, which holds its own job (the list is in order and
// it only leads when nobody else does), then hands the lead to the first that waits.
#include "libs/jobs/merging.h"

#include <algorithm>
#include <deque>
#include <pqxx/pqxx>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"

namespace mainstay::jobs {
namespace {

constexpr absl::Duration kCommitTime = absl::Seconds(10);

struct Item {
  CallContext context;
  JobSpec spec;
  absl::Status status;
  Enqueued result;
  bool done = false, leads = false;
  absl::CondVar changed;
};
using ItemPtr = std::shared_ptr<Item>;

// Nothing to do with any one job: another try of half of them would fail the same way.
bool ConcernsAll(const absl::Status& status) {
  return postgres::IsTransient(status) || absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status);
}

}  // namespace

struct MergingEnqueuer::Impl {
  Impl(postgres::Pool& p, Handoff& h, const Sealer* s, MergingOptions o) : pool(p), handoff(h), sealer(s), options(o) {}

  void Commit(absl::Span<const ItemPtr> items) {
    std::vector<JobSpec> specs;
    specs.reserve(items.size());
    for (const ItemPtr& item : items) specs.push_back(item->spec);
    std::vector<Enqueued> added;
    auto body = [&](pqxx::transaction_base& tx) -> absl::Status {
      auto result = jobs::Enqueue(tx, items[0]->context, specs, sealer);
      if (!result.ok()) return result.status();
      added = *std::move(result);
      return absl::OkStatus();
    };
    const absl::Time deadline = absl::Now() + kCommitTime;
    const absl::Status status =
        NeedsTransaction(specs) ? pool.Transaction(deadline, body) : pool.Autocommit(deadline, body);
    if (status.ok()) {
      handoff.Publish(added);
      for (size_t i = 0; i < items.size(); ++i) items[i]->result = std::move(added[i]);
    } else if (items.size() == 1 || ConcernsAll(status)) {
      for (const ItemPtr& item : items) item->status = status;
    } else {
      Commit(items.subspan(0, items.size() / 2));
      Commit(items.subspan(items.size() / 2));
    }
  }

  void Lead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    std::vector<ItemPtr> batch;
    size_t size = 0;
    while (!waiting.empty() && static_cast<int>(batch.size()) < options.batch) {
      const size_t more = waiting.front()->spec.args.size();
      if (!batch.empty() && size + more > options.batch_bytes) break;
      size += more;
      batch.push_back(std::move(waiting.front()));
      waiting.pop_front();
    }
    bytes -= size;
    mu.Unlock();
    Commit(batch);
    mu.Lock();
    for (const ItemPtr& item : batch) {
      item->done = true;
      item->changed.Signal();
    }
    leading = !waiting.empty();
    if (leading) {
      waiting.front()->leads = true;
      waiting.front()->changed.Signal();
    }
  }

  postgres::Pool& pool;
  Handoff& handoff;
  const Sealer* const sealer;
  const MergingOptions options;
  absl::Mutex mu;
  std::deque<ItemPtr> waiting ABSL_GUARDED_BY(mu);
  size_t bytes ABSL_GUARDED_BY(mu) = 0;
  bool leading ABSL_GUARDED_BY(mu) = false;  // somebody commits, or was told to
};

MergingEnqueuer::MergingEnqueuer(postgres::Pool& pool, Handoff& handoff, const Sealer* sealer, MergingOptions options)
    : impl_(std::make_unique<Impl>(pool, handoff, sealer, options)) {}
MergingEnqueuer::~MergingEnqueuer() = default;

absl::StatusOr<Enqueued> MergingEnqueuer::Enqueue(const CallContext& context, JobSpec job) {
  Impl& m = *impl_;
  auto item = std::make_shared<Item>();
  item->context = context;
  item->spec = std::move(job);
  item->spec.context = &item->context;
  if (absl::Status status = Validate(item->context, {&item->spec, 1}); !status.ok()) return status;

  absl::MutexLock lock(&m.mu);
  if (static_cast<int>(m.waiting.size()) >= m.options.waiting ||
      (!m.waiting.empty() && m.bytes + item->spec.args.size() > m.options.waiting_bytes)) {
    return MakeProblem(
        {.type = "overloaded", .detail = "too many jobs wait to be stored", .retry_after = absl::Seconds(1)});
  }
  m.bytes += item->spec.args.size();
  m.waiting.push_back(item);
  if (!m.leading) {
    m.leading = true;
    item->leads = true;
  }
  bool expired = false;
  while (!item->done && !item->leads) {
    // Past its deadline a caller leaves. Its job goes on: it may be in a commit, and whoever waits first leads.
    if (item->changed.WaitWithDeadline(&m.mu, context.deadline) && !item->done && !item->leads) {
      expired = true;
      break;
    }
  }
  if (expired) {
    const auto at = std::find(m.waiting.begin(), m.waiting.end(), item);
    const bool taken = at == m.waiting.end();
    if (!taken) {
      m.bytes -= item->spec.args.size();
      m.waiting.erase(at);
    }
    return MakeProblem("query-timeout", taken ? "the deadline passed while the job was being stored; it may exist"
                                              : "the deadline passed before the job was stored; it does not exist");
  }
  if (!item->done) m.Lead();
  if (!item->status.ok()) return item->status;
  return std::move(item->result);
}

}  // namespace mainstay::jobs
