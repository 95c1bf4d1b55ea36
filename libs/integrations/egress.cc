// SPDX-License-Identifier: Apache-2.0
#include "libs/integrations/egress.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>

#include <algorithm>
#include <map>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/integrations/request.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"
#include "libs/telemetry/trace.h"

namespace mainstay::integrations {
namespace {

constexpr char kFailurePayload[] = "mainstay/call-failure";
// What a response still needs to travel back to the caller.
constexpr absl::Duration kMargin = absl::Milliseconds(20);
// An attempt with less time than this is not worth a connection.
constexpr absl::Duration kMinAttempt = absl::Milliseconds(20);
constexpr absl::Duration kMaxHint = absl::Hours(24);
constexpr size_t kMaxHosts = 1024;

absl::StatusCode CodeOf(ErrorClass error) {
  switch (error) {
    case ErrorClass::kThrottled:
      return absl::StatusCode::kResourceExhausted;
    case ErrorClass::kTransient:
      return absl::StatusCode::kUnavailable;
    case ErrorClass::kAuth:
      return absl::StatusCode::kPermissionDenied;
    case ErrorClass::kNotFound:
      return absl::StatusCode::kNotFound;
    case ErrorClass::kConflict:
      return absl::StatusCode::kAlreadyExists;
    case ErrorClass::kValidation:
      return absl::StatusCode::kInvalidArgument;
    default:
      return absl::StatusCode::kFailedPrecondition;
  }
}

absl::Status Failure(const CallFailure& failure, std::string_view message,
                     std::optional<absl::StatusCode> code = std::nullopt) {
  absl::Status status(code.value_or(CodeOf(failure.error)), ToAbsl(message));
  status.SetPayload(
      kFailurePayload,
      absl::Cord(StrCat(ClassName(failure.error), " ", failure.http_status, " ",
                        failure.retry_after ? absl::ToInt64Milliseconds(*failure.retry_after) : int64_t{-1}, " ",
                        failure.attempts)));
  return status;
}

// A short machine-readable code out of an error body, for messages: nothing else of a provider's text leaves this
// process.
std::string ErrorCode(std::string_view body) {
  if (body.empty() || body.size() > (64 << 10)) return {};
  absl::StatusOr<JsonDocument> document = JsonDocument::Parse(std::string(body));
  if (!document.ok()) return {};
  const JsonValue& root = document->root();
  const JsonValue* error = root.Find("error");
  for (const JsonValue* holder : {error, &root}) {
    if (holder == nullptr) continue;
    for (std::string_view key : {"code", "type", "error"}) {
      const JsonValue* value = holder->Find(key);
      if (value == nullptr || !value->is_string() || value->text().empty() || value->text().size() > 64) continue;
      bool plain = std::all_of(value->text().begin(), value->text().end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
               c == '.';
      });
      if (plain) return std::string(value->text());
    }
  }
  return {};
}

// "402" or "409:code=key_in_use" → class.
ErrorClass Mapped(const std::map<std::string, std::string>& error_map, int status, std::string_view body) {
  for (const auto& [rule, name] : error_map) {
    size_t colon = rule.find(':');
    int code = 0;
    if (!absl::SimpleAtoi(ToAbsl(std::string_view(rule).substr(0, colon)), &code) || code != status) continue;
    if (colon != std::string::npos) {
      std::string_view condition = std::string_view(rule).substr(colon + 1);
      size_t equals = condition.find('=');
      if (equals == std::string_view::npos || body.size() > (1 << 20)) continue;
      absl::StatusOr<JsonDocument> document = JsonDocument::Parse(std::string(body));
      if (!document.ok()) continue;
      const JsonValue* value = &document->root();
      std::string_view path = condition.substr(0, equals);
      while (!path.empty() && value != nullptr) {
        size_t dot = path.find('.');
        value = value->Find(path.substr(0, dot));
        path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
      }
      if (value == nullptr || !(value->is_string() || value->is_number()) ||
          value->text() != condition.substr(equals + 1))
        continue;
    }
    if (auto error = ParseClass(name)) return *error;
  }
  return ErrorClass::kNone;
}

bool HeaderSafe(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; });
}

}  // namespace

std::optional<CallFailure> GetFailure(const absl::Status& status) {
  auto payload = status.GetPayload(kFailurePayload);
  if (!payload) return std::nullopt;
  std::string text(*payload);
  CallFailure failure;
  char name[32] = {};
  long long millis = -1;
  if (sscanf(text.c_str(), "%31s %d %lld %d", name, &failure.http_status, &millis, &failure.attempts) != 4)
    return std::nullopt;
  failure.error = ParseClass(name).value_or(ErrorClass::kPermanent);
  if (millis >= 0) failure.retry_after = absl::Milliseconds(millis);
  return failure;
}

struct Egress::Impl {
  // Of one provider's host.
  struct Host {
    Host(const BreakerOptions& options, Clock& clock, Random random, int places, int queue)
        : breaker(options, clock, std::move(random)), bulkhead(places, queue) {}
    CircuitBreaker breaker;
    Bulkhead bulkhead;
    RetryBudget budget;
  };

  Impl(EgressOptions o, EgressDependencies d)
      : options(std::move(o)), deps(std::move(d)), fetches(options.fetch_concurrency, options.fetch_concurrency) {}

  std::shared_ptr<Host> HostOf(const catalog::Provider& provider, const std::string& origin) {
    // The number of places is part of the key: another catalog with another number gets a new bulkhead.
    std::string key = StrCat(provider.name, " ", provider.concurrency, " ", origin);
    absl::MutexLock lock(&mu);
    auto found = hosts.find(key);
    if (found != hosts.end()) return found->second;
    if (hosts.size() >= kMaxHosts) hosts.erase(hosts.begin());
    int places = std::max(1, provider.concurrency);
    auto host =
        std::make_shared<Host>(options.breaker, deps.clock, deps.random, places, places * options.queue_per_place);
    hosts.emplace(std::move(key), host);
    return host;
  }

  absl::Duration Left(const CallContext& context) const { return context.deadline - deps.clock.Now() - kMargin; }

  // One logical call, all attempts. `target` was checked; only its name is resolved again for each.
  struct Plan {
    const catalog::Provider& provider;
    const catalog::Operation& operation;
    Target target;
    std::string body, idempotency_key;
    Credentials credentials;
    bool with_credentials = true;
    int page = 0;
  };
  struct Done {
    HttpOutcome outcome;
    int attempts = 0;
  };

  absl::StatusOr<std::vector<Address>> Addresses(const Target& target, absl::Duration timeout) {
    if (target.literal) return std::vector<Address>{*target.literal};
    ASSIGN_OR_RETURN(std::vector<Address> answers, deps.resolver.Resolve(target.host, timeout));
    RETURN_IF_ERROR(CheckAnswers(options.guard, answers));
    return answers;
  }

  // Adds the credentials to headers or query. The only place that sees a token.
  absl::Status Authorize(const Plan& plan, HttpAttempt& attempt) {
    const catalog::Provider& provider = plan.provider;
    if (provider.auth.empty() || provider.auth == "none" || !plan.with_credentials) return absl::OkStatus();
    absl::StatusOr<std::vector<std::string>> values =
        deps.secrets(plan.credentials.tenant, plan.credentials.secret_name);
    if (!values.ok()) return values.status();
    if (values->empty())
      return absl::NotFoundError(StrCat("secret ", plan.credentials.secret_name, " has no live value"));
    const std::string& secret = values->front();
    if (!HeaderSafe(secret))
      return absl::FailedPreconditionError(
          StrCat("secret ", plan.credentials.secret_name, " cannot stand in a header"));
    if (provider.auth == "bearer") {
      attempt.headers.emplace_back("Authorization", StrCat("Bearer ", secret));
    } else if (provider.auth == "basic") {
      attempt.headers.emplace_back("Authorization", StrCat("Basic ", Base64Encode(secret)));
    } else if (provider.auth == "header") {
      attempt.headers.emplace_back(provider.auth_name.empty() ? "X-Api-Key" : provider.auth_name, secret);
    } else if (provider.auth == "query") {
      bool first = attempt.target.path.find('?') == std::string::npos;
      StrAppend(&attempt.target.path, first ? "?" : "&",
                PercentEncode(provider.auth_name.empty() ? "api_key" : provider.auth_name), "=", PercentEncode(secret));
    } else {
      return absl::FailedPreconditionError(
          StrCat("provider ", provider.name, ": auth \"", provider.auth, "\" is unknown"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Done> Perform(const CallContext& context, const Plan& plan) {
    const catalog::Provider& provider = plan.provider;
    const catalog::Operation& operation = plan.operation;
    const absl::Duration started = deps.clock.Monotonic();
    std::shared_ptr<Host> host = HostOf(provider, plan.target.Origin());
    const std::string traceparent = trace::Child(context.traceparent).Traceparent();
    const bool safe_key = operation.idempotent && !plan.idempotency_key.empty();
    const int max_attempts = std::max(1, provider.max_attempts);
    std::vector<Limit> limits;
    if (provider.rate.limit > 0)
      limits.push_back({StrCat(provider.name, "/", plan.credentials.tenant), provider.rate.limit, provider.rate.period,
                        provider.rate.burst});

    CallFailure failure;
    std::string message;
    std::optional<absl::StatusCode> code;
    HttpOutcome last;
    absl::Duration waited_queue, waited_limiter, waited_backoff;
    int attempt = 0, last_cost = 0;
    std::string guard_reason;
    bool succeeded = false;

    auto deadline_passed = [&](std::string_view during) {
      // What an attempt already told outweighs the clock: after bytes were sent the outcome may be unknown.
      if (attempt == 0 || failure.error == ErrorClass::kNone) {
        failure.error = ErrorClass::kTransient;
        code = absl::StatusCode::kDeadlineExceeded;
        message = StrCat("the deadline passed ", during);
      }
    };

    while (true) {
      if (Left(context) < kMinAttempt) {
        deadline_passed("before an attempt");
        break;
      }
      absl::StatusOr<std::vector<Address>> addresses =
          Addresses(plan.target, std::min(Left(context), provider.connect_timeout));
      AttemptFacts facts;
      bool ran = false;
      HttpOutcome outcome;
      std::optional<absl::Duration> hint;
      if (!addresses.ok()) {
        guard_reason = GuardReason(addresses.status());
        facts.sent = Sent::kNotSent;
        facts.definite = !guard_reason.empty();
        outcome.error = guard_reason.empty() ? "dns" : "url_not_allowed";
      } else {
        if (std::optional<absl::Duration> away = host->breaker.Enter()) {
          failure.error = ErrorClass::kTransient;
          failure.retry_after = *away;
          message = "the circuit is open after many failures";
          break;
        }
        const absl::Duration before_queue = deps.clock.Monotonic();
        if (!host->bulkhead.Enter(Left(context))) {
          host->breaker.Record(CircuitBreaker::Result::kIgnored, absl::ZeroDuration());
          failure.error = ErrorClass::kTransient;
          failure.retry_after = absl::Seconds(1);
          message = "too many calls of this provider at once";
          break;
        }
        waited_queue += deps.clock.Monotonic() - before_queue;
        bool permitted = true;
        while (!limits.empty()) {
          absl::Duration wait = deps.limiter.Take(limits);
          if (wait <= absl::ZeroDuration()) break;
          wait += std::min(absl::Milliseconds(50), wait * 0.1) * deps.random();
          if (wait + kMinAttempt >= Left(context)) {
            permitted = false;
            failure.error = ErrorClass::kThrottled;
            failure.retry_after = wait;
            message = "the provider's rate limit leaves no time";
            break;
          }
          // The place is given back while waiting: a throttled tenant must not hold it.
          host->bulkhead.Leave();
          deps.clock.Sleep(wait);
          waited_limiter += wait;
          if (!host->bulkhead.Enter(Left(context))) {
            host->breaker.Record(CircuitBreaker::Result::kIgnored, absl::ZeroDuration());
            failure.error = ErrorClass::kTransient;
            failure.retry_after = absl::Seconds(1);
            message = "too many calls of this provider at once";
            permitted = false;
            break;
          }
        }
        if (!permitted) {
          if (failure.error == ErrorClass::kThrottled) {
            host->bulkhead.Leave();
            host->breaker.Record(CircuitBreaker::Result::kIgnored, absl::ZeroDuration());
          }
          break;
        }
        HttpAttempt http;
        http.method = operation.method;
        http.target = plan.target;
        http.addresses = *std::move(addresses);
        http.body = plan.body;
        http.limits = options.limits;
        http.timeout = std::min(operation.timeout.value_or(provider.timeout), Left(context));
        http.connect_timeout = std::min(provider.connect_timeout, http.timeout);
        http.headers = {{"Accept", "application/json"}, {"User-Agent", "Mainstay"}, {"traceparent", traceparent}};
        if (!plan.body.empty()) http.headers.emplace_back("Content-Type", "application/json");
        if (!plan.idempotency_key.empty()) http.headers.emplace_back(provider.idempotency_header, plan.idempotency_key);
        if (absl::Status authorized = Authorize(plan, http); !authorized.ok()) {
          host->bulkhead.Leave();
          host->breaker.Record(CircuitBreaker::Result::kIgnored, absl::ZeroDuration());
          bool away = absl::IsUnavailable(authorized) || absl::IsDeadlineExceeded(authorized);
          failure.error = away ? ErrorClass::kTransient : ErrorClass::kAuth;
          message = "the credentials cannot be read";
          log::Warn("egress credentials", {{"provider", provider.name},
                                           {"connection", plan.credentials.secret_name},
                                           {"reason", ToStd(authorized.message())}});
          break;
        }
        const absl::Duration before = deps.clock.Monotonic();
        outcome = deps.transport.SendAndWait(std::move(http));
        const absl::Duration took = deps.clock.Monotonic() - before;
        host->bulkhead.Leave();
        ran = true;
        ++attempt;
        facts.sent = outcome.sent;
        facts.http_status = outcome.status;
        facts.definite = outcome.definite;
        if (outcome.sent == Sent::kComplete) {
          std::vector<std::string> dates = outcome.Header("date");
          std::vector<std::string> values = outcome.Header("retry-after");
          hint = ParseRetryAfter(values, dates.empty() ? "" : dates[0], deps.clock.Now());
          if (hint) hint = std::min(*hint, kMaxHint);
          facts.retry_after = hint.has_value();
          facts.mapped = Mapped(provider.error_map, outcome.status, outcome.body);
        }
        const bool bad = outcome.sent != Sent::kComplete
                             ? !outcome.definite
                             : outcome.status >= 500 || facts.mapped == ErrorClass::kTransient;
        host->breaker.Record(bad ? CircuitBreaker::Result::kFailure : CircuitBreaker::Result::kSuccess, took);
      }
      if (!ran) ++attempt;
      AttemptVerdict verdict = Judge(operation.method, safe_key, facts);
      if (verdict.error == ErrorClass::kNone) {
        host->budget.Success(last_cost);
        last = std::move(outcome);
        succeeded = true;
        break;
      }
      // A DELETE that is tried again and finds nothing has done its work.
      if (operation.method == "DELETE" && attempt > 1 && outcome.sent == Sent::kComplete && outcome.status == 404) {
        host->budget.Success(last_cost);
        last = std::move(outcome);
        succeeded = true;
        break;
      }
      failure.error = verdict.error;
      failure.http_status = outcome.sent == Sent::kComplete ? outcome.status : 0;
      failure.retry_after = hint;
      code.reset();
      if (outcome.error == "timeout" && verdict.error == ErrorClass::kTransient)
        code = absl::StatusCode::kDeadlineExceeded;
      std::string detail =
          outcome.sent == Sent::kComplete && !outcome.definite ? StrCat("answered ", outcome.status) : outcome.error;
      if (outcome.sent == Sent::kComplete)
        if (std::string error_code = ErrorCode(outcome.body); !error_code.empty())
          StrAppend(&detail, " (", error_code, ")");
      message = detail;
      last = std::move(outcome);
      if (verdict.error == ErrorClass::kThrottled && !limits.empty())
        deps.limiter.Pause(limits[0], hint.value_or(options.backoff_throttled));
      if (!verdict.retry || attempt >= max_attempts) break;
      const bool throttled = verdict.error == ErrorClass::kThrottled;
      absl::Duration wait = hint ? HintWait(*hint, options.hint_max, deps.random())
                                 : FullJitter(throttled ? options.backoff_throttled : options.backoff_transient,
                                              options.backoff_cap, attempt - 1, deps.random());
      if (hint && *hint > options.hint_max) break;
      if (wait + kMinAttempt >= Left(context)) {
        if (!failure.retry_after) failure.retry_after = wait;
        break;
      }
      const int cost = throttled ? RetryBudget::kThrottleCost : RetryBudget::kTransientCost;
      if (!host->budget.Take(cost)) {
        StrAppend(&message, ", retry_budget_exhausted");
        break;
      }
      last_cost = cost;
      deps.clock.Sleep(wait);
      waited_backoff += wait;
    }

    failure.attempts = attempt;
    const absl::Duration elapsed = deps.clock.Monotonic() - started;
    const std::string_view class_name = succeeded ? "ok" : ClassName(failure.error);
    metrics::Counter("mainstay_egress_calls_total", "Logical calls to providers by outcome",
                     {{"provider", provider.name}, {"operation", operation.name}, {"class", std::string(class_name)}})
        .Increment();
    metrics::Counter("mainstay_egress_attempts_total", "Attempts sent to providers",
                     {{"provider", provider.name}, {"operation", operation.name}})
        .Increment(attempt);
    metrics::Histogram("mainstay_egress_call_seconds", "Duration of logical calls, retries included",
                       metrics::LatencyBuckets(), {{"provider", provider.name}, {"operation", operation.name}})
        .Observe(absl::ToDoubleSeconds(elapsed));
    // The allow-list. The route is the declared template, so no identifier of a customer stands in it.
    log::Write(succeeded ? log::Level::kInfo : log::Level::kWarn, "egress",
               {{"trace_id", trace::Parse(traceparent) ? trace::Parse(traceparent)->trace_id : std::string()},
                {"request_id", context.request_id},
                {"tenant", context.principal.tenant},
                {"provider", provider.name},
                {"operation", operation.name},
                {"method", operation.method},
                {"host", plan.target.host},
                {"route", operation.path},
                {"attempt", attempt},
                {"max_attempts", max_attempts},
                {"status", last.status},
                {"class", class_name},
                {"reason", succeeded ? std::string() : message},
                {"guard_reason", guard_reason},
                {"bytes_in", last.wire_bytes},
                {"bytes_out", int64_t(plan.body.size())},
                {"decoded_bytes", int64_t(last.body.size())},
                {"connect_ms", absl::ToDoubleMilliseconds(last.connect)},
                {"tls_ms", absl::ToDoubleMilliseconds(last.tls)},
                {"ttfb_ms", absl::ToDoubleMilliseconds(last.first_byte)},
                {"total_ms", absl::ToDoubleMilliseconds(elapsed)},
                {"queue_ms", absl::ToDoubleMilliseconds(waited_queue)},
                {"limiter_ms", absl::ToDoubleMilliseconds(waited_limiter)},
                {"backoff_ms", absl::ToDoubleMilliseconds(waited_backoff)},
                {"peer_addr", last.peer},
                {"reused", last.reused},
                {"http_version", last.http_version},
                {"idempotency_key_hash",
                 plan.idempotency_key.empty() ? std::string() : HexEncode(Sha256(plan.idempotency_key)).substr(0, 12)},
                {"retry_budget_left", host->budget.left()},
                {"page", plan.page}});
    if (!succeeded)
      return Failure(failure,
                     StrCat("provider ", provider.name, ", operation ", operation.name, ": ", message,
                            attempt > 1 ? StrCat(" after ", attempt, " attempts") : ""),
                     code);
    return Done{std::move(last), attempt};
  }

  struct Prepared {
    catalog::ModelPtr model;  // keeps provider and operation alive
    const catalog::Provider* provider = nullptr;
    const catalog::Operation* operation = nullptr;
    Request request;
    Credentials credentials;
    Target base;
  };

  absl::StatusOr<Prepared> Prepare(const CallContext& context, const CallSpec& spec) {
    Prepared p;
    p.model = deps.model();
    if (p.model == nullptr) return MakeProblem("service-unavailable", "No catalog is published yet");
    auto provider = p.model->providers.find(spec.provider);
    if (provider == p.model->providers.end())
      return MakeProblem("not-found", StrCat("There is no provider \"", spec.provider, "\""));
    p.provider = &provider->second;
    auto operation = p.provider->operations.find(spec.operation);
    if (operation == p.provider->operations.end())
      return MakeProblem("not-found", StrCat("Provider ", spec.provider, " has no operation \"", spec.operation, "\""));
    p.operation = &operation->second;
    ASSIGN_OR_RETURN(p.request, BuildRequest(*p.operation, spec.params));
    if (!spec.body.empty()) {
      absl::StatusOr<JsonDocument> body = JsonDocument::Parse(spec.body);
      if (!body.ok()) return body.status();
    }
    if (spec.idempotency_key.size() > 255 || !HeaderSafe(spec.idempotency_key))
      return MakeProblem("invalid-parameter", "The idempotency key is too long or has control characters");
    if (p.operation->idempotent && p.operation->method != "GET" && spec.idempotency_key.empty())
      return MakeProblem("idempotency-key-required", StrCat("Operation ", spec.operation, " needs an idempotency key"));
    ASSIGN_OR_RETURN(p.credentials, deps.connections(context.principal.tenant, *p.provider, spec.connection));
    std::string_view base = p.provider->base_url;
    while (!base.empty() && base.back() == '/') base.remove_suffix(1);
    absl::StatusOr<Target> target = CheckUrl(options.guard, StrCat(base, p.request.path));
    if (!target.ok()) {
      log::Warn("egress refused", {{"provider", p.provider->name},
                                   {"operation", p.operation->name},
                                   {"guard_reason", GuardReason(target.status())}});
      return Failure({ErrorClass::kPermanent}, StrCat("provider ", spec.provider, ": url_not_allowed"));
    }
    p.base = *std::move(target);
    return p;
  }

  // The response's body as the JSON that callers get.
  static absl::StatusOr<std::string> AsJson(const HttpOutcome& outcome) {
    if (outcome.body.empty()) return std::string("null");
    JsonLimits limits;
    limits.depth = 64;
    absl::StatusOr<JsonDocument> document = JsonDocument::Parse(outcome.body, limits);
    if (document.ok()) return std::string(document->root().raw());
    if (!IsValidUtf8(outcome.body)) return absl::InvalidArgumentError("not text");
    return JsonQuote(outcome.body);
  }

  const EgressOptions options;
  const EgressDependencies deps;
  Bulkhead fetches;
  absl::Mutex mu;
  std::map<std::string, std::shared_ptr<Host>> hosts ABSL_GUARDED_BY(mu);
};

Egress::Egress(EgressOptions options, EgressDependencies dependencies)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(dependencies))) {}
Egress::~Egress() = default;

absl::StatusOr<CallResult> Egress::Call(const CallContext& context, const CallSpec& spec) {
  const absl::Duration started = impl_->deps.clock.Monotonic();
  ASSIGN_OR_RETURN(Impl::Prepared p, impl_->Prepare(context, spec));
  Impl::Plan plan{*p.provider, *p.operation, p.base, spec.body, spec.idempotency_key, p.credentials};
  plan.target.path += p.request.QueryString();
  ASSIGN_OR_RETURN(Impl::Done done, impl_->Perform(context, plan));
  CallResult result;
  result.status = done.outcome.status;
  result.attempts = done.attempts;
  absl::StatusOr<std::string> body = Impl::AsJson(done.outcome);
  if (!body.ok()) {
    // The provider did what was asked, but its answer is of no use to anyone.
    return Failure({ErrorClass::kPermanent, done.outcome.status, std::nullopt, done.attempts},
                   StrCat("provider ", spec.provider, ": the response is neither JSON nor text"));
  }
  result.body = *std::move(body);
  result.elapsed = impl_->deps.clock.Monotonic() - started;
  return result;
}

absl::Status Egress::CallPages(const CallContext& context, const CallSpec& spec,
                               absl::FunctionRef<absl::Status(const CallResult&)> page) {
  ASSIGN_OR_RETURN(Impl::Prepared p, impl_->Prepare(context, spec));
  const catalog::Pagination& pagination = p.operation->pagination;
  if (pagination.style.empty())
    return MakeProblem("invalid-parameter", StrCat("Operation ", spec.operation, " has no pages"));
  Impl::Plan plan{*p.provider, *p.operation, p.base, spec.body, spec.idempotency_key, p.credentials};
  Request request = p.request;
  if (!pagination.size_param.empty()) request.Set(pagination.size_param, StrCat(pagination.page_size));
  plan.target.path = p.base.path + request.QueryString();
  absl::flat_hash_set<std::string> seen = {plan.target.Url()};
  std::string sent;
  while (true) {
    const absl::Duration started = impl_->deps.clock.Monotonic();
    ++plan.page;
    ASSIGN_OR_RETURN(Impl::Done done, impl_->Perform(context, plan));
    JsonLimits limits;
    limits.depth = 64;
    absl::StatusOr<JsonDocument> document = JsonDocument::Parse(std::move(done.outcome.body), limits);
    absl::StatusOr<PageRead> read = absl::InvalidArgumentError("the page is not JSON");
    if (document.ok()) read = ReadPage(pagination, document->root(), done.outcome.Header("link"), sent);
    if (!read.ok()) {
      return Failure({ErrorClass::kPermanent, done.outcome.status, std::nullopt, done.attempts},
                     StrCat("provider ", spec.provider, ", operation ", spec.operation, ", page ", plan.page, ": ",
                            read.status().message()));
    }
    CallResult result;
    result.status = done.outcome.status;
    result.attempts = done.attempts;
    result.body = std::move(read->items);
    result.elapsed = impl_->deps.clock.Monotonic() - started;
    RETURN_IF_ERROR(page(result));
    auto failed = [&](std::string_view why) {
      return Failure({ErrorClass::kPermanent, done.outcome.status, std::nullopt, done.attempts},
                     StrCat("provider ", spec.provider, ", operation ", spec.operation, ": ", why));
    };
    if (read->next_url) {
      // Untrusted: same origin or nothing, so credentials never go elsewhere.
      absl::StatusOr<Target> next = CheckReference(impl_->options.guard, plan.target, *read->next_url);
      if (!next.ok() || next->Origin() != p.base.Origin()) return failed("next_url_denied");
      plan.target = *std::move(next);
    } else if (read->next_value) {
      sent = *read->next_value;
      request.Set(pagination.cursor_param.empty() ? "cursor" : pagination.cursor_param, sent);
      plan.target.path = p.base.path + request.QueryString();
    } else {
      return absl::OkStatus();
    }
    if (plan.page >= pagination.max_pages) return failed(StrCat("more than ", pagination.max_pages, " pages"));
    if (!seen.insert(HexEncode(Sha256(plan.target.Url()))).second) return failed("pagination_loop");
  }
}

absl::StatusOr<FetchResult> Egress::Fetch(const CallContext& context, std::string_view url, int64_t max_bytes) {
  const absl::Time until = std::min(context.deadline - kMargin, impl_->deps.clock.Now() + impl_->options.fetch_timeout);
  auto left = [&] { return until - impl_->deps.clock.Now(); };
  absl::StatusOr<Target> target = CheckUrl(impl_->options.guard, url);
  if (!impl_->fetches.Enter(left()))
    return Failure({ErrorClass::kTransient, 0, absl::Seconds(1)}, "too many fetches at once");
  struct Leave {
    Bulkhead& bulkhead;
    ~Leave() { bulkhead.Leave(); }
  } leave{impl_->fetches};
  for (int hop = 0;; ++hop) {
    if (!target.ok()) {
      log::Warn("fetch refused", {{"request_id", context.request_id}, {"guard_reason", GuardReason(target.status())}});
      return Failure({ErrorClass::kPermanent}, "url_not_allowed");
    }
    if (left() < kMinAttempt)
      return Failure({ErrorClass::kTransient}, "the deadline passed", absl::StatusCode::kDeadlineExceeded);
    absl::StatusOr<std::vector<Address>> addresses = impl_->Addresses(*target, left());
    if (!addresses.ok()) {
      if (GuardReason(addresses.status()).empty())
        return Failure({ErrorClass::kTransient}, "the name cannot be resolved");
      log::Warn("fetch refused",
                {{"request_id", context.request_id}, {"guard_reason", GuardReason(addresses.status())}});
      return Failure({ErrorClass::kPermanent}, "url_not_allowed");
    }
    HttpAttempt attempt;
    attempt.method = "GET";
    attempt.target = *target;
    attempt.addresses = *std::move(addresses);
    attempt.headers = {{"User-Agent", "Mainstay"},
                       {"Accept", "*/*"},
                       {"traceparent", trace::Child(context.traceparent).Traceparent()}};
    attempt.timeout = left();
    attempt.connect_timeout = std::min(absl::Seconds(5), left());
    attempt.limits = impl_->options.limits;
    attempt.limits.body_bytes = max_bytes > 0 ? std::min(max_bytes, attempt.limits.body_bytes)
                                              : std::min<int64_t>(1 << 20, attempt.limits.body_bytes);
    HttpOutcome outcome = impl_->deps.transport.SendAndWait(std::move(attempt));
    log::Info("fetch", {{"request_id", context.request_id},
                        {"tenant", context.principal.tenant},
                        {"host", target->host},
                        {"status", outcome.status},
                        {"reason", outcome.error},
                        {"bytes_in", outcome.wire_bytes},
                        {"total_ms", absl::ToDoubleMilliseconds(outcome.total)}});
    if (outcome.sent != Sent::kComplete)
      return Failure({outcome.definite ? ErrorClass::kPermanent : ErrorClass::kTransient},
                     StrCat("the fetch failed: ", outcome.error));
    std::vector<std::string> location = outcome.Header("location");
    if (outcome.status >= 300 && outcome.status < 400 && outcome.status != 304 && location.size() == 1) {
      if (hop >= impl_->options.fetch_redirects)
        return Failure({ErrorClass::kPermanent, outcome.status}, "too_many_redirects");
      target = CheckReference(impl_->options.guard, *target, location[0]);
      continue;
    }
    std::vector<std::string> type = outcome.Header("content-type");
    return FetchResult{outcome.status, type.empty() ? std::string() : type[0], std::move(outcome.body)};
  }
}

CircuitBreaker::State Egress::Circuit(const catalog::Provider& provider) {
  absl::StatusOr<Target> target = CheckUrl(impl_->options.guard, provider.base_url);
  if (!target.ok()) return CircuitBreaker::State::kClosed;
  return impl_->HostOf(provider, target->Origin())->breaker.state();
}

}  // namespace mainstay::integrations
