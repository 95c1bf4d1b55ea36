// SPDX-License-Identifier: Apache-2.0
#include "libs/postgres/lease.h"

#include <pqxx/pqxx>

#include "libs/base/status.h"
#include "libs/postgres/pool.h"
#include "libs/postgres/sql.h"

namespace mainstay::postgres {

Lease::Lease(Pool& pool, LeaseOptions options, Clock& clock)
    : pool_(pool), options_(std::move(options)), clock_(clock) {}

absl::StatusOr<bool> Lease::TryAcquire() {
  const absl::Duration sent = clock_.Monotonic();
  int64_t fence = 0;
  RETURN_IF_ERROR(pool_.Autocommit(absl::Now() + options_.ttl / 2, [&](pqxx::transaction_base& tx) {
    const pqxx::result rows =
        tx.exec_params(sql::kAcquireLease, options_.name, options_.holder, absl::ToInt64Milliseconds(options_.ttl));
    fence = rows.empty() ? 0 : rows[0][0].as<int64_t>();
    return absl::OkStatus();
  }));
  absl::MutexLock lock(&mu_);
  if (fence == 0) {
    until_ = -absl::InfiniteDuration();
    return false;
  }
  until_ = sent + options_.ttl - options_.margin;
  fence_ = fence;
  return clock_.Monotonic() < until_;
}

absl::Status Lease::Release() {
  int64_t fence = 0;
  {
    absl::MutexLock lock(&mu_);
    if (until_ == -absl::InfiniteDuration()) return absl::OkStatus();
    until_ = -absl::InfiniteDuration();
    fence = fence_;
  }
  return pool_.Autocommit(absl::Now() + options_.ttl / 2, [&](pqxx::transaction_base& tx) {
    tx.exec_params(sql::kReleaseLease, options_.name, options_.holder, fence);
    return absl::OkStatus();
  });
}

bool Lease::held() const {
  absl::MutexLock lock(&mu_);
  return clock_.Monotonic() < until_;
}

int64_t Lease::fence() const {
  absl::MutexLock lock(&mu_);
  return fence_;
}

}  // namespace mainstay::postgres
