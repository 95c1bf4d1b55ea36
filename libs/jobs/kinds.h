// SPDX-License-Identifier: Apache-2.0
// What kinds of jobs there are, and what their arguments must look like.
//
// Truth is the table job_kinds: a row per kind and version, written by workers as they start; the last one that speaks
// wins. Arguments that change their form get a new version, or enqueues of the old form are refused while old workers
// still run. A KindBook is a copy, renewed at most once a second by one of those who ask; while PostgreSQL is away the
// old copy serves, as nothing can be enqueued then. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libs/base/json_schema.h"
#include "libs/base/problem.h"
#include "libs/jobs/handler.h"

namespace mainstay::postgres {
class Pool;
}

namespace mainstay::jobs {

// Stores them all or none. validation-failed when a name, version or schema is wrong ("/schema").
absl::Status AnnounceKinds(pqxx::transaction_base& tx, std::string_view by, absl::Span<const KindSpec> kinds);

struct KindView {
  KindSpec spec;
  std::string announced_by;
  absl::Time announced_at;
  bool alive = false;  // a worker whose lease runs has announced it
};
absl::StatusOr<std::vector<KindView>> ListKinds(pqxx::transaction_base& tx);

// As they were at one moment.
class Kinds {
 public:
  // Announced within the last month, or by a worker that lives: a kind whose workers are just away is waited for.
  bool Knows(std::string_view kind) const { return known_.contains(kind); }
  // Adds to `errors` what is wrong with the arguments (JSON), named by `at` + "/args…": that they are no JSON, or do
  // not match the schema of the kind and version, if it has one.
  void CheckArgs(std::string_view kind, int version, const std::string& args, std::string_view at,
                 std::vector<FieldError>& errors) const;

 private:
  friend class KindBook;
  struct Checked {
    std::string hash;  // of the text, by which a change is noticed
    std::shared_ptr<const JsonSchema> schema;
  };
  std::set<std::string, std::less<>> known_;
  std::map<std::pair<std::string, int>, Checked, std::less<>> schemas_;
};

class KindBook {
 public:
  // `own`: what this process itself runs, known even before it is announced. `pool` outlives this.
  KindBook(postgres::Pool& pool, std::vector<KindSpec> own, absl::Duration max_age = absl::Seconds(1));
  absl::StatusOr<std::shared_ptr<const Kinds>> Current(absl::Time deadline);

 private:
  absl::StatusOr<std::shared_ptr<const Kinds>> Read(const Kinds* before, absl::Time deadline);

  postgres::Pool& pool_;
  const std::vector<KindSpec> own_;
  const absl::Duration max_age_;
  absl::Mutex mu_;
  std::shared_ptr<const Kinds> current_ ABSL_GUARDED_BY(mu_);
  absl::Time read_at_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mainstay::jobs
