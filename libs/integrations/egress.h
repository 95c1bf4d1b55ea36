// SPDX-License-Identifier: Apache-2.0
// One logical call to another company's API, with every policy around it.
//
// deadline → provider and connection → URL → guard → resolve → guard of every answer → circuit → bulkhead → rate limit
// → credentials → attempt (pinned) → limits → classify → perhaps again. A retry starts at resolve. The caller names
// provider, connection and operation; it never sees a URL, a token or a retry, and must not retry the same call itself.
// The caller's thread waits; the bytes move on the transport's thread. One log line per call, from an allow-list of
// fields: no body, no header, no query value. Thread-safe. State per provider and host is kept in memory and bounded.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/integrations/guard.h"
#include "libs/integrations/policies.h"
#include "libs/integrations/rate_limit.h"
#include "libs/integrations/transport.h"

namespace mainstay::integrations {

// Why a call failed, attached to its status.
struct CallFailure {
  ErrorClass error = ErrorClass::kPermanent;
  int http_status = 0;  // 0: no full response
  std::optional<absl::Duration> retry_after;
  int attempts = 0;
};
std::optional<CallFailure> GetFailure(const absl::Status& status);

struct CallSpec {
  std::string provider, connection, operation;
  std::string params = "{}";  // JSON object of the operation's declared parameters
  std::string body;           // JSON or empty
  std::string idempotency_key;
};
struct CallResult {
  int status = 0;
  std::string body;  // JSON; "null" when the response had none; a JSON string when it was some other text. For pages:
                     // the array of items
  int attempts = 0;
  absl::Duration elapsed;
};
struct FetchResult {
  int status = 0;
  std::string content_type, body;
};

// What a call goes out with.
struct Credentials {
  std::string secret_name;
  std::string tenant;  // whose secret: the tenant's own or the installation's is found by libs/secrets
};

struct EgressOptions {
  GuardPolicy guard;
  // Waits between attempts grow from these.
  absl::Duration backoff_transient = absl::Milliseconds(50), backoff_throttled = absl::Seconds(1),
                 backoff_cap = absl::Seconds(20);
  // A server's hint beyond this is not waited for; the caller gets it as retry_after.
  absl::Duration hint_max = absl::Seconds(30);
  BreakerOptions breaker;
  // Calls waiting for a place of their provider, per place.
  int queue_per_place = 4;
  ResponseLimits limits;
  // Of Fetch: redirects followed by hand, each checked whole.
  int fetch_redirects = 3;
  absl::Duration fetch_timeout = absl::Seconds(10);
  int fetch_concurrency = 64;
};

struct EgressDependencies {
  Transport& transport;
  Resolver& resolver;
  RateLimiter& limiter;
  std::function<catalog::ModelPtr()> model;
  // The credentials of a connection ("" is the tenant's default one). NotFound when it was named and does not exist;
  // FailedPrecondition when it cannot be used.
  std::function<absl::StatusOr<Credentials>(std::string_view tenant, const catalog::Provider& provider,
                                            std::string_view connection)>
      connections;
  // Live values, newest first.
  std::function<absl::StatusOr<std::vector<std::string>>(std::string_view tenant, std::string_view name)> secrets;
  Clock& clock;
  Random random;
};

class Egress {
 public:
  Egress(EgressOptions options, EgressDependencies dependencies);
  ~Egress();

  absl::StatusOr<CallResult> Call(const CallContext& context, const CallSpec& spec);
  // Every page of a paginated operation, in order; each with limits and retries of its own. Stops with the first error,
  // of a page or of `page`.
  absl::Status CallPages(const CallContext& context, const CallSpec& spec,
                         absl::FunctionRef<absl::Status(const CallResult&)> page);
  // A guarded GET of any https address, without credentials.
  absl::StatusOr<FetchResult> Fetch(const CallContext& context, std::string_view url, int64_t max_bytes);
  // Of the provider's base address.
  CircuitBreaker::State Circuit(const catalog::Provider& provider);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::integrations
