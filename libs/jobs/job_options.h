// SPDX-License-Identifier: Apache-2.0
// What one job asks for beyond its queue's settings, as it stands in the row's `options` (jsonb): rarely used, so most
// rows have none. Enqueue writes it, whoever runs, retries or keeps the job reads it. Pure.
//
//   {"backoff": {"kind": "exponential" | "fixed", "base_ms": 1000, "cap_ms": 3600000},
//    "soft_ms": 60000, "hard_ms": 90000, "retention_s": 86400}
//
// Every member may be missing. Others share the object for their own notes on a job ("retried", …): members that are
// not listed here are left alone.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/problem.h"
#include "libs/jobs/backoff.h"

namespace mainstay::jobs {

struct JobOptions {
  std::optional<BackoffPolicy::Kind> backoff;
  std::optional<absl::Duration> backoff_base, backoff_cap;
  // Soft: the handler is told to stop. Hard: the job is taken from it.
  std::optional<absl::Duration> soft_limit, hard_limit;
  // How long the finished job can still be looked at. Whole seconds.
  std::optional<absl::Duration> retention;

  friend bool operator==(const JobOptions&, const JobOptions&) = default;
  bool empty() const { return *this == JobOptions(); }
  // The queue's policy with what this job says instead.
  BackoffPolicy Over(BackoffPolicy policy) const;
};

// Adds what is wrong to `errors`, each under `at` + "/soft_limit" and so on.
void Validate(const JobOptions& options, std::string_view at, std::vector<FieldError>& errors);

// "" when nothing is asked for.
std::string FormatJobOptions(const JobOptions& options);
// Of a row, so it fails only for what no version of ours wrote.
absl::StatusOr<JobOptions> ParseJobOptions(std::string_view json);

}  // namespace mainstay::jobs
