// SPDX-License-Identifier: Apache-2.0
// From the Authorization header to a principal: API keys, looked up in PostgreSQL and kept for at most five seconds.
//
// One object per loop, used on that loop only. An unknown key costs the same path as a known one with a wrong secret:
// look-up, then a comparison in constant time. PostgreSQL away: keys seen in the last seconds go on until their entry
// ends, others get 503. Revocation counts within the life of an entry.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "libs/base/clock.h"
#include "libs/base/principal.h"
#include "libs/http/server.h"
#include "libs/postgres/async.h"

namespace mainstay::gateway {

class Authenticator {
 public:
  Authenticator(postgres::AsyncPostgres& postgres, Clock& clock, absl::Duration lifetime = absl::Seconds(5));
  ~Authenticator();
  // unauthenticated; malformed-request for two Authorization headers; invalid-parameter for a key in the URL.
  boost::asio::awaitable<absl::StatusOr<Principal>> Authenticate(const http::Request& request);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::gateway
