// SPDX-License-Identifier: Apache-2.0
// Keeps mainstay.record_changes within its bounds, from a thread of its own: what is past its time goes, and of what is
// kept for a feed alone at most so many rows per resource.
//
// Any number of copies may run: the database lets one at a time. PostgreSQL away: a round is skipped.
#pragma once

#include <functional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "libs/catalog/model.h"

namespace mainstay::postgres {
class Pool;
}

namespace mainstay::records {

struct TrimmerOptions {
  // Between rounds. Shorter keeps the table smaller between them.
  absl::Duration interval = absl::Minutes(1);
  // Rows removed per statement. Larger clears a backlog sooner and holds its locks longer.
  int batch = 5000;
  // Rows of a resource that are kept for its feed.
  int64_t most = 1'000'000;
};

class Trimmer {
 public:
  // `pool` must outlive this.
  Trimmer(postgres::Pool& pool, std::function<catalog::ModelPtr()> model, TrimmerOptions options = {});
  ~Trimmer();

 private:
  void Round();

  postgres::Pool& pool_;
  const std::function<catalog::ModelPtr()> model_;
  const TrimmerOptions options_;
  absl::Notification stopping_;
  std::thread thread_;
};

}  // namespace mainstay::records
