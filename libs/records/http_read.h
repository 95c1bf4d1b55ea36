// SPDX-License-Identifier: Apache-2.0
// Reading over HTTP and records.v1: one record, lists. Inside libs/records only; routing is in http.cc.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/base/clock.h"
#include "libs/records/http_shared.h"
#include "libs/records/read.h"
#include "libs/records/row_stream.h"
#include "mainstay/records/v1/records.pb.h"

namespace mainstay::records {

class HttpReads {
 public:
  // Both must outlive this.
  HttpReads(const HttpApiOptions& options, Clock& clock);

  boost::asio::awaitable<absl::StatusOr<http::Response>> HandleOne(http::Request& request, const CallContext& context,
                                                                   CachePtr cache, const catalog::Resource& resource,
                                                                   const Access& access, std::string_view id,
                                                                   postgres::AsyncPostgres& postgres) const;
  // `body_query`: QUERY, or its twin by POST.
  boost::asio::awaitable<absl::StatusOr<http::Response>> HandleList(http::Request& request, const CallContext& context,
                                                                    CachePtr cache, const catalog::Resource& resource,
                                                                    const Access& access, bool body_query,
                                                                    postgres::AsyncPostgres& postgres) const;
  boost::asio::awaitable<absl::StatusOr<http::Response>> HandleAggregate(http::Request& request,
                                                                         const CallContext& context, CachePtr cache,
                                                                         const catalog::Resource& resource,
                                                                         postgres::AsyncPostgres& postgres) const;

  boost::asio::awaitable<absl::StatusOr<v1::Record>> Get(const v1::GetRecordRequest& request,
                                                         const CallContext& context, const catalog::ModelPtr& model,
                                                         postgres::AsyncPostgres& postgres) const;
  boost::asio::awaitable<absl::StatusOr<v1::ListRecordsResponse>> List(const v1::ListRecordsRequest& request,
                                                                       const CallContext& context,
                                                                       const catalog::ModelPtr& model,
                                                                       postgres::AsyncPostgres& postgres) const;

 private:
  struct OneRow;
  struct ManyRows;
  struct Planned {
    std::shared_ptr<ReadPlan> plan;
    Given given;
  };
  // How the rows of a list are written.
  struct Form {
    RowFormat format = RowFormat::kJson;
    bool escape_formulas = false;
    bool tags = false;      // with each row's entity tag
    std::string_view head;  // of JSON: what stands before the rows
  };

  ReadOptions Reading() const;
  std::string WeakTag(std::string_view text) const;  // the same in every copy of the service
  Resolver MakeResolver(ModelCache& cache, const CallContext& context) const;
  absl::StatusOr<Planned> Plan(ReadPlan::Of what, ModelCache& cache, const catalog::Resource& resource,
                               const CallContext& context, const common::v1::ListQuery& query, bool versions) const;
  // `text`: the query as sent. Its plan is known again by its form.
  absl::StatusOr<Planned> Find(ReadPlan::Of what, ModelCache& cache, const catalog::Resource& resource,
                               const CallContext& context, std::string_view text) const;
  boost::asio::awaitable<absl::StatusOr<OneRow>> ReadOne(CachePtr cache, Planned planned, const CallContext& context,
                                                         std::vector<std::string> key,
                                                         postgres::AsyncPostgres& postgres,
                                                         const http::Request* request) const;
  boost::asio::awaitable<absl::StatusOr<ManyRows>> ReadMany(CachePtr cache, Planned planned, const CallContext& context,
                                                            Form form, postgres::AsyncPostgres& postgres,
                                                            const http::Request* request) const;

  // All rows, in pieces.
  boost::asio::awaitable<absl::StatusOr<http::Response>> StreamAll(CachePtr cache, const catalog::Resource& resource,
                                                                   const CallContext& context,
                                                                   const common::v1::ListQuery& query, Form form,
                                                                   postgres::AsyncPostgres& postgres,
                                                                   const http::Request& request) const;

  const HttpApiOptions& options_;
  Clock& clock_;
  const uint64_t tag_key_;
  const std::shared_ptr<std::atomic<int>> streams_ = std::make_shared<std::atomic<int>>(0);
};

}  // namespace mainstay::records
