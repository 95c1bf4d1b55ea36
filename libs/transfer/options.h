// SPDX-License-Identifier: Apache-2.0
// Limits and sizes of imports and exports, all of them settings.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace mainstay::transfer {

struct TransferOptions {
  // Rows per COPY into staging, per checkpoint and per merge statement. Larger is faster up to a few thousand; it
  // bounds memory and what a crash repeats.
  int batch_rows = 5000;
  // The same bound by size: a batch ends when its text reaches this.
  int64_t batch_bytes = 8 << 20;
  int64_t max_rows = 10'000'000;
  // Row errors stored; the rest is only counted.
  int64_t max_errors_kept = 100'000;
  // Under `on_error: skip` an import stops when more rows than this share of the file are bad, and more than the floor
  // (small files may be all wrong).
  double max_error_share = 0.10;
  int64_t max_errors_floor = 100;
  // How long files stay: uploads (and with them the error report), results of exports.
  absl::Duration import_retention = absl::Hours(24 * 7);
  absl::Duration export_retention = absl::Hours(24 * 7);
  // An export holds a snapshot, and with it PostgreSQL's clean-up, for as long as it runs.
  absl::Duration export_max_duration = absl::Hours(1);
};
absl::Status Validate(const TransferOptions& options);

}  // namespace mainstay::transfer
