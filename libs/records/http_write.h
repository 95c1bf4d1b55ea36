// SPDX-License-Identifier: Apache-2.0
// Writing over HTTP and records.v1. Inside libs/records only; routing is in http.cc.
//
// Each request is one transaction, tried again when it collided with others. Who may not write at all is told before
// anything else is looked at, and the attempt is recorded.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/records/http_shared.h"
#include "libs/records/write.h"
#include "mainstay/records/v1/records.pb.h"

namespace mainstay::records {

class HttpWrites {
 public:
  // Must outlive this.
  explicit HttpWrites(const HttpApiOptions& options) : options_(options) {}

  // One record, by its path.
  boost::asio::awaitable<absl::StatusOr<http::Response>> HandleWrite(http::Request& request, const CallContext& context,
                                                                     CachePtr cache, const catalog::Resource& resource,
                                                                     AccessPtr access, WriteRequest::Kind kind,
                                                                     std::vector<std::string> key,
                                                                     postgres::AsyncPostgres& postgres) const;
  // :batchCreate, :batchUpdate, :batchDelete, :batchUpsert: {"items":[…]}, or {"filter":…,"max_affected":n}.
  boost::asio::awaitable<absl::StatusOr<http::Response>> HandleBatch(http::Request& request, const CallContext& context,
                                                                     CachePtr cache, const catalog::Resource& resource,
                                                                     AccessPtr access, WriteRequest::Kind kind,
                                                                     postgres::AsyncPostgres& postgres) const;
  // /v1:batch: {"operations":[…]}.
  boost::asio::awaitable<absl::StatusOr<http::Response>> HandleOperations(http::Request& request,
                                                                          const CallContext& context, CachePtr cache,
                                                                          postgres::AsyncPostgres& postgres) const;

  boost::asio::awaitable<absl::StatusOr<v1::Record>> Create(const v1::CreateRecordRequest& request,
                                                            const CallContext& context, const catalog::ModelPtr& model,
                                                            postgres::AsyncPostgres& postgres) const;
  boost::asio::awaitable<absl::StatusOr<v1::Record>> Update(const v1::UpdateRecordRequest& request,
                                                            const CallContext& context, const catalog::ModelPtr& model,
                                                            postgres::AsyncPostgres& postgres) const;
  boost::asio::awaitable<absl::Status> Delete(const v1::DeleteRecordRequest& request, const CallContext& context,
                                              const catalog::ModelPtr& model, postgres::AsyncPostgres& postgres) const;
  boost::asio::awaitable<absl::StatusOr<v1::BatchRecordsResponse>> Batch(const v1::BatchRecordsRequest& request,
                                                                         const CallContext& context,
                                                                         const catalog::ModelPtr& model,
                                                                         postgres::AsyncPostgres& postgres) const;

 private:
  struct Idempotency;
  struct Stored;
  struct Terms;
  struct Operation;
  using Work = std::function<boost::asio::awaitable<absl::StatusOr<Stored>>(Runner&)>;

  absl::StatusOr<Terms> ReadTerms(const http::Request& request, const CallContext& context,
                                  std::string_view body) const;
  static http::Response Respond(Stored stored, const Terms& terms, bool batch);

  // The stored answer of an earlier request with this key; nothing: this one goes ahead, holding the key's lock.
  boost::asio::awaitable<absl::StatusOr<std::optional<Stored>>> FindStored(Runner& runner, const CallContext& context,
                                                                           const Idempotency& idempotency) const;
  boost::asio::awaitable<absl::Status> Store(Runner& runner, const CallContext& context, const Idempotency& idempotency,
                                             const Stored& answer) const;
  // `work` in a transaction of its own, tried again when it collided. `written`: whose constraints may speak up at
  // COMMIT.
  boost::asio::awaitable<absl::StatusOr<Stored>> InTransaction(CachePtr cache, const CallContext& context,
                                                               std::vector<const catalog::Resource*> written,
                                                               const Terms& terms, postgres::AsyncPostgres& postgres,
                                                               const http::Request* http_request,
                                                               const Work& work) const;
  boost::asio::awaitable<absl::StatusOr<Stored>> Write(CachePtr cache, const CallContext& context,
                                                       WriteRequest& request, const Terms& terms,
                                                       postgres::AsyncPostgres& postgres,
                                                       const http::Request* http_request) const;
  boost::asio::awaitable<absl::StatusOr<Stored>> WriteByFilter(CachePtr cache, const CallContext& context,
                                                               WriteRequest& write, const JsonValue& root,
                                                               const Terms& terms, postgres::AsyncPostgres& postgres,
                                                               const http::Request& request) const;
  absl::StatusOr<Operation> ReadOperation(const JsonValue& value, size_t index, const ModelCache& cache,
                                          const AccessSource& access_of, const CallContext& context) const;
  boost::asio::awaitable<absl::StatusOr<Stored>> RunOperations(Runner& runner, const ModelCache& cache,
                                                               const AccessSource& access_of,
                                                               const CallContext& context,
                                                               const std::vector<Operation>& operations,
                                                               bool minimal) const;
  boost::asio::awaitable<absl::StatusOr<Stored>> WriteOperations(CachePtr cache, const CallContext& context,
                                                                 const JsonValue& root, const Terms& terms,
                                                                 postgres::AsyncPostgres& postgres,
                                                                 const http::Request* request) const;
  boost::asio::awaitable<absl::StatusOr<v1::Record>> WriteOne(WriteRequest write, const std::string& name,
                                                              const std::string& id, const std::string& if_match,
                                                              bool validate_only, const CallContext& context,
                                                              const catalog::ModelPtr& model,
                                                              postgres::AsyncPostgres& postgres) const;
  // An attempt that was refused, in a transaction of its own.
  boost::asio::awaitable<void> AuditDenied(const CallContext& context, std::string_view resource,
                                           std::string_view action, std::string_view record,
                                           postgres::AsyncPostgres& postgres) const;

  static constexpr int kMaxDeniedPerSecond = 20;
  const HttpApiOptions& options_;
  mutable std::atomic<int64_t> denied_second_{0};
  mutable std::atomic<int> denied_{0};
};

}  // namespace mainstay::records
