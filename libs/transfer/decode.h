// SPDX-License-Identifier: Apache-2.0
// First stage: the blob's bytes → detection → records. What was detected is kept with the import, so that a resumed run
// and the report read the file the same way.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/tabular/detect.h"
#include "libs/transfer/blob_client.h"

namespace mainstay::transfer {

struct Decoded {
  tabular::Detection detection;
  std::vector<tabular::Record> sample;  // the first data records
  std::unique_ptr<tabular::RecordSource> records;
};

// Reads the sample, detects (or takes `known`, as DetectionJson wrote it) and goes on streaming. `known_name`: see
// tabular::DetectOptions.
absl::StatusOr<Decoded> OpenFile(std::unique_ptr<BlobReader> blob, std::string_view known,
                                 std::function<bool(std::string_view)> known_name);

std::string DetectionJson(const tabular::Detection& detection, const std::vector<std::string>& warnings);
absl::StatusOr<tabular::Detection> ParseDetection(std::string_view json);

}  // namespace mainstay::transfer
