// SPDX-License-Identifier: Apache-2.0
// The records API: everything under /v1 over HTTP, and the same operations for records.v1 over gRPC.
//
// PostgreSQL is the truth. A read by id and a short keyset page over an index are one statement on the shared,
// pipelined connections; everything else takes a connection of its own for one transaction, so that all statements of a
// request see one snapshot. Statements are planned once per shape and thread, and dropped with their model. Stateless
// but for that cache: any number of copies, any loop. PostgreSQL away: database-unavailable at once.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/http/server.h"
#include "libs/postgres/async.h"

namespace mainstay::records::v1 {
class GetRecordRequest;
class ListRecordsRequest;
class ListRecordsResponse;
class CreateRecordRequest;
class UpdateRecordRequest;
class DeleteRecordRequest;
class BatchRecordsRequest;
class BatchRecordsResponse;
class Record;
}  // namespace mainstay::records::v1

namespace mainstay::records {

struct HttpApiOptions {
  // 32 bytes, the same in every copy: what list cursors are sealed with.
  std::string cursor_key;
  // How long a cursor may be used.
  absl::Duration cursor_life = absl::Hours(24);
  // Counting stops there and is answered as `capped`.
  int64_t exact_count_cap = 100'000;
  // Of one statement's rows a nested list may show.
  int nested_default_limit = 10, nested_max_limit = 100;
  // Counting exactly takes no longer than this; then it is answered as `capped`.
  absl::Duration exact_count_time = absl::Milliseconds(500);
  // What a list may score, and an aggregate by PostgreSQL's own estimate (cost.h); beyond it query-too-expensive.
  int64_t query_cost_limit = 50'000, aggregate_cost_limit = 2'000'000;
  // Whole lists at once, as CSV or JSON Lines: each holds a connection for this long at most.
  int max_streams = 4;
  absl::Duration stream_life = absl::Minutes(5);
  // How long the answer to a request with an Idempotency-Key is kept.
  absl::Duration idempotency_life = absl::Hours(24);
};
absl::Status Validate(const HttpApiOptions& options);

class HttpApi {
 public:
  explicit HttpApi(HttpApiOptions options, Clock& clock = Clock::Real());
  ~HttpApi();

  // A request whose path begins with /v1. Never fails: problems become responses. On the loop of `postgres`.
  boost::asio::awaitable<http::Response> Handle(http::Request& request, const CallContext& context,
                                                const catalog::ModelPtr& model, postgres::AsyncPostgres& postgres);

  // records.v1: the same plans and permissions. Arguments must live until the answer.
  boost::asio::awaitable<absl::StatusOr<v1::Record>> Get(const v1::GetRecordRequest& request,
                                                         const CallContext& context, const catalog::ModelPtr& model,
                                                         postgres::AsyncPostgres& postgres);
  boost::asio::awaitable<absl::StatusOr<v1::ListRecordsResponse>> List(const v1::ListRecordsRequest& request,
                                                                       const CallContext& context,
                                                                       const catalog::ModelPtr& model,
                                                                       postgres::AsyncPostgres& postgres);
  boost::asio::awaitable<absl::StatusOr<v1::Record>> Create(const v1::CreateRecordRequest& request,
                                                            const CallContext& context, const catalog::ModelPtr& model,
                                                            postgres::AsyncPostgres& postgres);
  boost::asio::awaitable<absl::StatusOr<v1::Record>> Update(const v1::UpdateRecordRequest& request,
                                                            const CallContext& context, const catalog::ModelPtr& model,
                                                            postgres::AsyncPostgres& postgres);
  boost::asio::awaitable<absl::StatusOr<v1::BatchRecordsResponse>> Batch(const v1::BatchRecordsRequest& request,
                                                                         const CallContext& context,
                                                                         const catalog::ModelPtr& model,
                                                                         postgres::AsyncPostgres& postgres);
  boost::asio::awaitable<absl::Status> Delete(const v1::DeleteRecordRequest& request, const CallContext& context,
                                              const catalog::ModelPtr& model, postgres::AsyncPostgres& postgres);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::records
