// SPDX-License-Identifier: Apache-2.0
// History and the changes feed over HTTP. Inside libs/records only; routing is in http.cc.
//
// A stream holds no connection while it waits. Per loop one small statement, at most every kPulse however many streams
// there are, says which resources and tenants have news; only streams of those ask for theirs. A stream keeps no
// events: it asks for the next ones when its client has taken the last, at most kFeedPage at a time. It ends after
// kStreamLife, so that rights are looked at again; clients resume by Last-Event-ID.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "libs/base/clock.h"
#include "libs/records/http_shared.h"

namespace mainstay::records {

class Pulse;

class HttpChanges {
 public:
  // Both must outlive this.
  HttpChanges(const HttpApiOptions& options, Clock& clock) : options_(options), clock_(clock) {}
  ~HttpChanges();

  boost::asio::awaitable<absl::StatusOr<http::Response>> HandleHistory(http::Request& request,
                                                                       const CallContext& context, CachePtr cache,
                                                                       const catalog::Resource& resource,
                                                                       AccessPtr access, std::vector<std::string> key,
                                                                       postgres::AsyncPostgres& postgres) const;
  boost::asio::awaitable<absl::StatusOr<http::Response>> HandleFeed(http::Request& request, const CallContext& context,
                                                                    CachePtr cache, const catalog::Resource& resource,
                                                                    AccessPtr access,
                                                                    postgres::AsyncPostgres& postgres) const;

  // Streams that are open, by subject: shared with the streams, which may outlive a request.
  struct Open {
    std::mutex mutex;
    std::map<std::string, int> by_subject;
    int all = 0;
  };

 private:
  std::shared_ptr<Pulse> PulseOf(postgres::AsyncPostgres& postgres) const;

  const HttpApiOptions& options_;
  Clock& clock_;
  const std::shared_ptr<Open> open_ = std::make_shared<Open>();
  mutable std::mutex mutex_;
  mutable std::map<postgres::AsyncPostgres*, std::weak_ptr<Pulse>> pulses_;
};

}  // namespace mainstay::records
