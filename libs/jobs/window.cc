// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/window.h"

#include <algorithm>
#include <cmath>

namespace mainstay::jobs {
namespace {

constexpr absl::Duration kSample = absl::Milliseconds(100);  // shorter ones would take a single read for a rate
constexpr double kMemory = 1;                                // seconds until a change of rate counts by two thirds

}  // namespace

void WindowSize::Sample(int64_t read, int64_t live, bool backlog, absl::Time now) {
  // Run dry: doubled at once, without waiting for a rate.
  if (backlog && live <= target_ / 8 && read_.has_value() && read > *read_)
    target_ = std::min<double>(target_ * 2, options_.ceiling);
  if (!read_.has_value() || read < *read_) {  // new to us, or the group was made anew
    read_ = read;
    sampled_ = now;
    return;
  }
  const double seconds = absl::ToDoubleSeconds(now - sampled_);
  if (now - sampled_ < kSample) return;
  const double recent = static_cast<double>(read - *read_) / seconds;
  rate_ += (recent - rate_) * (1 - std::exp(-seconds / kMemory));
  const double wanted = rate_ * absl::ToDoubleSeconds(options_.ahead);
  // Shrinks over seconds, so that what doubling found out is not forgotten in the next sample.
  target_ = std::max(wanted, target_ - (target_ - wanted) * (1 - std::exp(-seconds / (4 * kMemory))));
  target_ = std::clamp<double>(target_, options_.floor, options_.ceiling);
  read_ = read;
  sampled_ = now;
}

void WindowSize::Weigh(size_t bytes) {
  bytes_ += (static_cast<double>(bytes) + 100 - bytes_) / 64;  // what Redis adds is counted in
}

int WindowSize::target() const {
  const double by_weight = bytes_ > 0 ? static_cast<double>(options_.max_bytes) / bytes_ : options_.ceiling;
  return std::max(1, static_cast<int>(std::min(target_, by_weight)));
}

}  // namespace mainstay::jobs
