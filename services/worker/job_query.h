// SPDX-License-Identifier: Apache-2.0
// What a filter over jobs means: the query language of every list, over the views of jobs.
//
// The client's query is checked against what clients may name, then turned into one that finds indexes: typed ids
// become uuids, whoever asks for certain states reads only the half (waiting or finished) that can have them, and
// conditions that follow from what was asked are added where an index or a partition knows them. The same for lists and
// for operations on many jobs. Thread-safe.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/jobs/operations.h"
#include "libs/records/list.h"
#include "mainstay/jobs/v1/jobs.pb.h"
#include "mainstay/jobs/v1/operators.pb.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::worker {

class JobQueries {
 public:
  // `cursor_key`: 32 bytes, the same in every copy.
  JobQueries(std::function<catalog::ModelPtr()> model, std::string cursor_key);

  absl::StatusOr<records::RowsPage> List(pqxx::transaction_base& tx, const CallContext& context,
                                         const common::v1::ListQuery& query);
  absl::StatusOr<records::RowsPage> ListOperations(pqxx::transaction_base& tx, const CallContext& context,
                                                   const common::v1::ListQuery& query);

  // A filter as JSON ({"queue":"mail"}), of a body's field at `pointer`. filter-invalid and unknown-field name the
  // place.
  absl::StatusOr<common::v1::Filter> ParseFilter(pqxx::transaction_base& tx, const CallContext& context,
                                                 std::string_view json, std::string_view pointer);
  // The query for jobs that an operation of `kind` applies to. `created`: of the operation; jobs that came later are
  // none of its business.
  common::v1::ListQuery Targets(std::string_view kind, const common::v1::Filter& filter, absl::Time created) const;
  // Their ids in order.
  absl::StatusOr<std::vector<Uuid>> Ids(pqxx::transaction_base& tx, const CallContext& context,
                                        const common::v1::ListQuery& query, const std::optional<Uuid>& after,
                                        const std::optional<Uuid>& end, int limit);
  absl::StatusOr<int64_t> Count(pqxx::transaction_base& tx, const CallContext& context,
                                const common::v1::ListQuery& query, int64_t cap);

 private:
  struct Resources {
    catalog::Resource open;  // what clients may name
    catalog::Resource all, hot, done;
    catalog::Resource operations;
  };
  struct Prepared {
    const catalog::Resource* resource = nullptr;
    common::v1::ListQuery query;
  };
  absl::StatusOr<const Resources*> Get(pqxx::transaction_base& tx);
  // Checks what the client may name, then prepares.
  absl::StatusOr<Prepared> Prepare(pqxx::transaction_base& tx, const Resources& resources, const CallContext& context,
                                   const common::v1::ListQuery& query) const;

  const std::function<catalog::ModelPtr()> model_;
  const std::string cursor_key_;
  absl::Mutex mu_;
  std::optional<Resources> resources_ ABSL_GUARDED_BY(mu_);  // read once, constant afterwards
};

// The targets of libs/jobs' operations, by JobQueries.
class FilterTargets final : public jobs::OperationTargets {
 public:
  explicit FilterTargets(JobQueries& queries) : queries_(queries) {}
  absl::StatusOr<std::vector<Uuid>> Select(pqxx::transaction_base& tx, const jobs::Operation& operation,
                                           const std::optional<Uuid>& end, int limit) override;
  absl::StatusOr<int64_t> Count(pqxx::transaction_base& tx, const jobs::Operation& operation, int64_t cap) override;

 private:
  JobQueries& queries_;
};

// Rows of a list as messages.
absl::Status FillJobs(const records::RowsPage& page, google::protobuf::RepeatedPtrField<mainstay::jobs::v1::Job>* out);

}  // namespace mainstay::worker
