// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/options.h"

namespace mainstay::transfer {

absl::Status Validate(const TransferOptions& options) {
  if (options.batch_rows < 1 || options.batch_rows > 100'000)
    return absl::InvalidArgumentError("batch_rows is 1 to 100000");
  if (options.batch_bytes < 1 << 16) return absl::InvalidArgumentError("batch_bytes is at least 65536");
  if (options.max_error_share < 0 || options.max_error_share > 1)
    return absl::InvalidArgumentError("max_error_share is between 0 and 1");
  if (options.max_rows < 1 || options.max_errors_kept < 0 || options.max_errors_floor < 0)
    return absl::InvalidArgumentError("limits are not negative");
  return absl::OkStatus();
}

}  // namespace mainstay::transfer
