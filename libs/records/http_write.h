// SPDX-License-Identifier: Apache-2.0
// Writing over HTTP and records.v1. Inside libs/records only; routing is in http.cc.
#pragma once

#include <boost/asio/awaitable.hpp>
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

  boost::asio::awaitable<absl::StatusOr<http::Response>> HandleWrite(http::Request& request, const CallContext& context,
                                                                     CachePtr cache, const catalog::Resource& resource,
                                                                     AccessPtr access, WriteRequest::Kind kind,
                                                                     std::vector<std::string> key,
                                                                     postgres::AsyncPostgres& postgres) const;

  boost::asio::awaitable<absl::StatusOr<v1::Record>> Create(const v1::CreateRecordRequest& request,
                                                            const CallContext& context, const catalog::ModelPtr& model,
                                                            postgres::AsyncPostgres& postgres) const;
  boost::asio::awaitable<absl::StatusOr<v1::Record>> Update(const v1::UpdateRecordRequest& request,
                                                            const CallContext& context, const catalog::ModelPtr& model,
                                                            postgres::AsyncPostgres& postgres) const;
  boost::asio::awaitable<absl::Status> Delete(const v1::DeleteRecordRequest& request, const CallContext& context,
                                              const catalog::ModelPtr& model, postgres::AsyncPostgres& postgres) const;

 private:
  struct Idempotency;
  struct Stored;

  // The stored answer of an earlier request with this key; nothing: this one goes ahead, holding the key's lock.
  boost::asio::awaitable<absl::StatusOr<std::optional<Stored>>> FindStored(Runner& runner, const CallContext& context,
                                                                           const Idempotency& idempotency) const;
  boost::asio::awaitable<absl::Status> Store(Runner& runner, const CallContext& context, const Idempotency& idempotency,
                                             const Stored& answer) const;
  // One write in a transaction of its own, tried again when it collided.
  boost::asio::awaitable<absl::StatusOr<Stored>> Write(CachePtr cache, const CallContext& context,
                                                       const WriteRequest& request, bool validate_only,
                                                       const Idempotency* idempotency,
                                                       postgres::AsyncPostgres& postgres,
                                                       const http::Request* http_request) const;

  const HttpApiOptions& options_;
};

}  // namespace mainstay::records
