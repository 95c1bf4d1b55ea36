// SPDX-License-Identifier: Apache-2.0
// Sends one HTTP attempt to addresses that were checked before, and tells how far it got. Knows no provider, no retry,
// no policy.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/integrations/guard.h"
#include "libs/integrations/policies.h"

namespace mainstay::integrations {

struct ResponseLimits {
  int64_t body_bytes = 10 << 20;  // decoded
  int64_t header_bytes = 64 << 10;
  int header_lines = 200;
  // Decoded bytes per byte on the wire, once a mebibyte was decoded.
  int expansion = 100;
};

struct HttpAttempt {
  std::string method;
  Target target;
  std::vector<Address> addresses;  // the only ones that are dialled
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  absl::Duration timeout, connect_timeout;
  ResponseLimits limits;
};

struct HttpOutcome {
  Sent sent = Sent::kNotSent;
  bool definite = false;  // see AttemptFacts
  std::string error;  // a stable word when sent != kComplete or definite: "timeout" "connect" "tls" "reset" "too_large"
                      // "decompression_bomb" …
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  // names lower-case
  std::string body;
  // For the log line.
  absl::Duration connect, tls, first_byte, total;
  bool reused = false;
  std::string peer, http_version;
  int64_t wire_bytes = 0;

  std::vector<std::string> Header(std::string_view lower_name) const;
};

class Transport {
 public:
  virtual ~Transport() = default;
  // `done` runs on the transport's thread, exactly once, and must not block.
  virtual void Send(HttpAttempt attempt, std::function<void(HttpOutcome)> done) = 0;
  // The same, waiting.
  HttpOutcome SendAndWait(HttpAttempt attempt);
};

struct CurlTransportOptions {
  int max_in_flight = 5000;    // above it an attempt is refused at once ("queue_refused", not sent)
  int max_connections = 5000;  // kept for reuse
  std::string ca_file;         // empty: the system's
};
// libcurl's multi interface on one thread of its own: thousands of attempts in flight. The socket's real address is
// looked at again before it is dialled, so neither another resolver nor the cache of an earlier transfer can lead
// elsewhere. No redirects, proxies, cookies, netrc.
std::unique_ptr<Transport> MakeCurlTransport(CurlTransportOptions options);

class Resolver {
 public:
  virtual ~Resolver() = default;
  // A and AAAA of a name. NotFound: no such name. DeadlineExceeded after `timeout`.
  virtual absl::StatusOr<std::vector<Address>> Resolve(const std::string& host, absl::Duration timeout) = 0;
};
// The system's resolver on a few threads of its own, for it cannot be interrupted; when all hang, answers Unavailable
// at once.
std::unique_ptr<Resolver> MakeSystemResolver(int threads = 8);

}  // namespace mainstay::integrations
