// SPDX-License-Identifier: Apache-2.0
// The engine with its real transport against a real HTTP server: retries, hints, deadlines, what is unknown, pages,
// limits, redirects.
#include "libs/integrations/egress.h"

#include <catch2/catch.hpp>
#include <thread>

#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "tests/support/status.h"
#include "tests/unit/integrations/http_stub.h"

namespace mainstay::integrations {
namespace {

using mainstay::testing::HasProblem;
using mainstay::testing::IsOk;
using mainstay::testing::StatusIs;
using Request = HttpStub::Request;
using Response = HttpStub::Response;

class FakeResolver : public Resolver {
 public:
  absl::StatusOr<std::vector<Address>> Resolve(const std::string& host, absl::Duration) override {
    ++asked;
    auto found = answers.find(host);
    if (found == answers.end()) return std::vector<Address>();
    return found->second;
  }
  std::map<std::string, std::vector<Address>> answers;
  std::atomic<int> asked = 0;
};

// A provider declared over a stub, and the engine in front of it.
struct World {
  explicit World(std::function<Response(const Request&, int)> answer) : stub(std::move(answer)) {
    catalog::Provider provider;
    provider.name = "pay";
    provider.base_url = stub.url() + "/api/";
    provider.auth = "bearer";
    provider.auth_secret = "pay-key";
    provider.timeout = absl::Seconds(5);
    provider.max_attempts = 4;
    auto add = [&](std::string name, std::string method, std::string path,
                   bool idempotent = false) -> catalog::Operation& {
      catalog::Operation& operation = provider.operations[name];
      operation.name = name;
      operation.method = std::move(method);
      operation.path = std::move(path);
      operation.idempotent = idempotent;
      return operation;
    };
    add("get", "GET", "/things/{id}");
    add("create", "POST", "/things");
    add("create_once", "POST", "/things", true);
    add("remove", "DELETE", "/things/{id}");
    catalog::Operation& list = add("list", "GET", "/things");
    list.pagination = {.style = "last_id",
                       .items = "data",
                       .cursor_param = "starting_after",
                       .size_param = "limit",
                       .has_more_path = "has_more",
                       .page_size = 2};
    catalog::Operation& linked = add("linked", "GET", "/linked");
    linked.pagination = {.style = "next_url", .items = "data", .cursor_path = "next"};
    model->providers["pay"] = provider;
    options.guard.allow.push_back(*Cidr::Parse("127.0.0.0/8"));
    options.backoff_transient = absl::Milliseconds(1);
    options.backoff_throttled = absl::Milliseconds(2);
    context.principal = {"acme", "source:pay", {"source:pay"}};
    context.deadline = absl::Now() + absl::Seconds(10);
    context.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  }
  catalog::Provider& provider() { return model->providers["pay"]; }
  Egress& engine() {
    if (egress == nullptr)
      egress = std::make_unique<Egress>(
          options,
          EgressDependencies{*transport, resolver, limiter, [this]() -> catalog::ModelPtr { return model; },
                             [](std::string_view tenant, const catalog::Provider& p, std::string_view) {
                               return absl::StatusOr<Credentials>(Credentials{p.auth_secret, std::string(tenant)});
                             },
                             [](std::string_view, std::string_view name) {
                               return absl::StatusOr<std::vector<std::string>>({StrCat("live-", name), "old"});
                             },
                             Clock::Real(), [] { return 0.5; }});
    return *egress;
  }
  absl::StatusOr<CallResult> Call(std::string operation, std::string params = "{}", std::string body = "",
                                  std::string key = "") {
    return engine().Call(context,
                         {"pay", "", std::move(operation), std::move(params), std::move(body), std::move(key)});
  }
  HttpStub stub;
  std::shared_ptr<catalog::Model> model = std::make_shared<catalog::Model>();
  EgressOptions options;
  FakeResolver resolver;
  LocalRateLimiter limiter{Clock::Real(), 1};
  std::unique_ptr<Transport> transport = MakeCurlTransport({});
  CallContext context;
  std::unique_ptr<Egress> egress;
};

CallFailure FailureOf(const absl::StatusOr<CallResult>& result) {
  REQUIRE_FALSE(result.ok());
  auto failure = GetFailure(result.status());
  REQUIRE(failure.has_value());
  return *failure;
}

TEST_CASE("a call carries credentials, trace and the escaped parameter, and returns the body's JSON") {
  World w([](const Request&, int) { return Response{.body = "{\"id\":\"a/b\", \"amount\":12345678901234567890.10}"}; });
  auto result = w.Call("get", R"({"id":"a/b"})");
  REQUIRE_THAT(result, IsOk());
  CHECK(result->status == 200);
  CHECK(result->attempts == 1);
  CHECK(result->body == "{\"id\":\"a/b\", \"amount\":12345678901234567890.10}");
  Request request = w.stub.requests().at(0);
  CHECK(request.target == "/api/things/a%2Fb");
  CHECK(request.headers["authorization"] == "Bearer live-pay-key");
  CHECK(request.headers["traceparent"].substr(0, 35) == "00-0af7651916cd43dd8448eb211c80319c");
  CHECK(request.headers["traceparent"] != w.context.traceparent);
}

TEST_CASE("each way of authentication stands where it is declared") {
  World w([](const Request&, int) { return Response{}; });
  w.provider().auth = "basic";
  REQUIRE_THAT(w.Call("get", R"({"id":"1"})"), IsOk());
  w.provider().auth = "header";
  w.provider().auth_name = "X-Token";
  REQUIRE_THAT(w.Call("get", R"({"id":"1"})"), IsOk());
  w.provider().auth = "query";
  w.provider().auth_name = "key";
  REQUIRE_THAT(w.Call("get", R"({"id":"1"})"), IsOk());
  auto requests = w.stub.requests();
  CHECK(requests[0].headers["authorization"] == "Basic bGl2ZS1wYXkta2V5");
  CHECK(requests[1].headers["x-token"] == "live-pay-key");
  CHECK(requests[2].target == "/api/things/1?key=live-pay-key");
}

TEST_CASE("a read is tried again after 503 and after a broken connection") {
  World w([](const Request&, int n) {
    return n == 0 ? Response{.status = 503} : n == 1 ? Response{.hang_up = true} : Response{};
  });
  auto result = w.Call("get", R"({"id":"1"})");
  REQUIRE_THAT(result, IsOk());
  CHECK(result->attempts == 3);
}

TEST_CASE("attempts are bounded and the last error is told") {
  World w([](const Request&, int) {
    return Response{.status = 502, .body = R"({"error":{"code":"upstream_down","message":"secret text"}})"};
  });
  auto result = w.Call("get", R"({"id":"1"})");
  CallFailure failure = FailureOf(result);
  CHECK(failure.error == ErrorClass::kTransient);
  CHECK(failure.http_status == 502);
  CHECK(failure.attempts == 4);
  CHECK_THAT(result, StatusIs(absl::StatusCode::kUnavailable, "answered 502 (upstream_down) after 4 attempts"));
  CHECK(std::string(result.status().message()).find("secret text") == std::string::npos);
  CHECK(w.stub.requests().size() == 4);
}

TEST_CASE("a create without key is not repeated once bytes were sent: its outcome is unknown") {
  World w([](const Request&, int) { return Response{.hang_up = true}; });
  CHECK(FailureOf(w.Call("create", "{}", R"({"a":1})")).error == ErrorClass::kOutcomeUnknown);
  CHECK(w.stub.requests().size() == 1);
  CHECK_THAT(w.Call("create", "{}", R"({"a":1})"), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_CASE("with an idempotency key it is, with the same key and the same bytes") {
  World w([](const Request&, int n) {
    return n < 2 ? Response{.hang_up = true} : Response{.status = 201, .body = "{\"id\":\"x\"}"};
  });
  const std::string body = "{\"b\" : 1,\"a\":2}";
  auto result = w.Call("create_once", "{}", body, "job_1");
  REQUIRE_THAT(result, IsOk());
  CHECK(result->status == 201);
  for (const Request& request : w.stub.requests()) {
    CHECK(request.headers.at("idempotency-key") == "job_1");
    CHECK(request.headers.at("content-type") == "application/json");
    CHECK(request.body == body);
  }
  CHECK(w.stub.requests().size() == 3);
  CHECK_THAT(w.Call("create_once", "{}", body, ""), HasProblem("idempotency-key-required"));
}

TEST_CASE("nothing listening is not sent, so even a create is tried again") {
  World w([](const Request&, int) { return Response{}; });
  {
    HttpStub gone([](const Request&, int) { return Response{}; });
    w.provider().base_url = gone.url();
  }
  CallFailure failure = FailureOf(w.Call("create", "{}", "{}"));
  CHECK(failure.error == ErrorClass::kTransient);
  CHECK(failure.attempts == 4);
}

TEST_CASE("Retry-After is waited for when short, handed on when long") {
  World w([](const Request&, int n) {
    return n == 0 ? Response{.status = 429, .headers = {{"Retry-After", "1"}}} : Response{};
  });
  absl::Time before = absl::Now();
  auto result = w.Call("get", R"({"id":"1"})");
  REQUIRE_THAT(result, IsOk());
  CHECK(absl::Now() - before >= absl::Seconds(1));
  World late([](const Request&, int) { return Response{.status = 429, .headers = {{"Retry-After", "3600"}}}; });
  auto refused = late.Call("get", R"({"id":"1"})");
  CallFailure failure = FailureOf(refused);
  CHECK(failure.error == ErrorClass::kThrottled);
  CHECK(failure.retry_after == absl::Hours(1));
  CHECK_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted));
  CHECK(late.stub.requests().size() == 1);
}

TEST_CASE("a slow provider meets the attempt's time limit, and the caller's deadline ends it all") {
  World w([](const Request&, int) { return Response{.delay = absl::Milliseconds(600)}; });
  w.provider().timeout = absl::Milliseconds(100);
  auto slow = w.Call("get", R"({"id":"1"})");
  CHECK_THAT(slow, StatusIs(absl::StatusCode::kDeadlineExceeded, "timeout"));
  CHECK(FailureOf(slow).attempts == 4);
  w.context.deadline = absl::Now() + absl::Milliseconds(150);
  absl::Time before = absl::Now();
  CHECK_FALSE(w.Call("get", R"({"id":"1"})").ok());
  CHECK(absl::Now() - before < absl::Milliseconds(400));
  w.context.deadline = absl::Now() - absl::Seconds(1);
  CHECK_THAT(w.Call("get", R"({"id":"1"})"), StatusIs(absl::StatusCode::kDeadlineExceeded, "deadline"));
}

TEST_CASE("client errors are final and classed") {
  int status = 400;
  World w([&](const Request&, int) { return Response{.status = status}; });
  w.provider().error_map = {{"402", "permanent"}, {"409:code=key_in_use", "transient"}};
  auto error = [&](int code) {
    status = code;
    size_t before = w.stub.requests().size();
    ErrorClass found = FailureOf(w.Call("get", R"({"id":"1"})")).error;
    CHECK(w.stub.requests().size() == before + 1);
    return found;
  };
  CHECK(error(400) == ErrorClass::kValidation);
  CHECK(error(401) == ErrorClass::kAuth);
  CHECK(error(402) == ErrorClass::kPermanent);
  CHECK(error(404) == ErrorClass::kNotFound);
  CHECK(error(409) == ErrorClass::kConflict);
  CHECK(error(302) == ErrorClass::kPermanent);
}

TEST_CASE("the error map turns a status with a body into a class of its own") {
  World w([](const Request&, int n) {
    return n == 0 ? Response{.status = 409, .body = R"({"code":"key_in_use"})"} : Response{};
  });
  w.provider().error_map = {{"409:code=key_in_use", "transient"}};
  auto result = w.Call("get", R"({"id":"1"})");
  REQUIRE_THAT(result, IsOk());
  CHECK(result->attempts == 2);
}

TEST_CASE("a repeated delete that finds nothing has done its work") {
  World w([](const Request&, int n) { return n == 0 ? Response{.hang_up = true} : Response{.status = 404}; });
  REQUIRE_THAT(w.Call("remove", R"({"id":"1"})"), IsOk());
  CHECK(FailureOf(w.Call("remove", R"({"id":"1"})")).error == ErrorClass::kNotFound);
}

TEST_CASE("redirects of an operation are never followed") {
  HttpStub other([](const Request&, int) { return Response{}; });
  World w([&](const Request&, int) { return Response{.status = 307, .headers = {{"Location", other.url()}}}; });
  CHECK(FailureOf(w.Call("get", R"({"id":"1"})")).error == ErrorClass::kPermanent);
  CHECK(other.requests().empty());
}

TEST_CASE("a body or header over the limit ends the call without another try") {
  bool headers = false;
  World w([&](const Request&, int) {
    if (headers) return Response{.headers = std::vector<std::pair<std::string, std::string>>(250, {"X-Filler", "y"})};
    return Response{.body = std::string(200 << 10, 'x')};
  });
  w.options.limits.body_bytes = 100 << 10;
  auto big = w.Call("get", R"({"id":"1"})");
  CHECK(FailureOf(big).error == ErrorClass::kPermanent);
  CHECK_THAT(big, StatusIs(absl::StatusCode::kFailedPrecondition, "too_large"));
  CHECK(w.stub.requests().size() == 1);
  headers = true;
  CHECK_THAT(w.Call("get", R"({"id":"1"})"), StatusIs(absl::StatusCode::kFailedPrecondition, "headers_too_large"));
}

TEST_CASE("what is not JSON comes as a JSON string, an empty body as null") {
  std::string body = "plain \"text\"";
  World w([&](const Request&, int) { return Response{.body = body}; });
  CHECK(w.Call("get", R"({"id":"1"})")->body == "\"plain \\\"text\\\"\"");
  body = "";
  CHECK(w.Call("get", R"({"id":"1"})")->body == "null");
  body = "\xff\xfe";
  CHECK(FailureOf(w.Call("get", R"({"id":"1"})")).error == ErrorClass::kPermanent);
}

TEST_CASE("a private address is refused before any byte, whether named or resolved") {
  World w([](const Request&, int) { return Response{}; });
  w.options.guard.allow.clear();
  CHECK_THAT(w.Call("get", R"({"id":"1"})"), StatusIs(absl::StatusCode::kFailedPrecondition, "url_not_allowed"));
  w.provider().base_url = "https://internal.example.com";
  w.resolver.answers["internal.example.com"] = {*Address::Parse("127.0.0.1")};
  CHECK_THAT(w.Call("get", R"({"id":"1"})"), StatusIs(absl::StatusCode::kFailedPrecondition, "url_not_allowed"));
  CHECK(w.resolver.asked == 1);
  CHECK(w.stub.requests().empty());
}

TEST_CASE("the transport dials nothing but the checked addresses") {
  HttpStub stub([](const Request&, int) { return Response{}; });
  GuardPolicy policy;
  policy.allow.push_back(*Cidr::Parse("127.0.0.0/8"));
  HttpAttempt attempt;
  attempt.method = "GET";
  attempt.target = *CheckUrl(policy, stub.url());
  attempt.addresses = {*Address::Parse("127.0.0.2")};
  attempt.timeout = attempt.connect_timeout = absl::Seconds(2);
  auto transport = MakeCurlTransport({});
  HttpOutcome outcome = transport->SendAndWait(attempt);
  CHECK(outcome.error == "address_not_allowed");
  CHECK(outcome.definite);
  CHECK(stub.requests().empty());
  // A name goes to the pinned address, whatever a resolver would say.
  attempt.target.literal.reset();
  attempt.target.host = "pinned.example.com";
  attempt.addresses = {*Address::Parse("127.0.0.1")};
  outcome = transport->SendAndWait(attempt);
  CHECK(outcome.status == 200);
  CHECK(stub.requests().at(0).headers["host"].substr(0, 18) == "pinned.example.com");
}

TEST_CASE("hundreds of calls are in flight at once on one thread") {
  HttpStub stub([](const Request&, int) { return Response{.delay = absl::Milliseconds(300)}; });
  GuardPolicy policy;
  policy.allow.push_back(*Cidr::Parse("127.0.0.0/8"));
  auto transport = MakeCurlTransport({.max_in_flight = 200});
  absl::Mutex mu;
  int done = 0, good = 0, refused = 0;
  absl::Time before = absl::Now();
  for (int i = 0; i < 210; ++i) {
    HttpAttempt attempt;
    attempt.method = "GET";
    attempt.target = *CheckUrl(policy, stub.url());
    attempt.addresses = {*attempt.target.literal};
    attempt.timeout = attempt.connect_timeout = absl::Seconds(20);
    transport->Send(attempt, [&](HttpOutcome outcome) {
      absl::MutexLock lock(&mu);
      ++done;
      good += outcome.status == 200;
      refused += outcome.error == "queue_refused";
    });
  }
  absl::MutexLock lock(&mu);
  auto all = [&] { return done == 210; };
  REQUIRE(mu.AwaitWithTimeout(absl::Condition(&all), absl::Seconds(30)));
  CHECK(good == 200);
  CHECK(refused == 10);
  // One after another they would take a minute.
  CHECK(absl::Now() - before < absl::Seconds(15));
}

TEST_CASE("an open circuit refuses without a call") {
  World w([](const Request&, int) { return Response{.status = 500}; });
  w.provider().max_attempts = 1;
  for (int i = 0; i < 20; ++i) CHECK_FALSE(w.Call("get", R"({"id":"1"})").ok());
  size_t before = w.stub.requests().size();
  auto refused = w.Call("get", R"({"id":"1"})");
  CHECK_THAT(refused, StatusIs(absl::StatusCode::kUnavailable, "circuit is open"));
  CHECK(FailureOf(refused).retry_after.has_value());
  CHECK(w.stub.requests().size() == before);
  CHECK(w.engine().Circuit(w.provider()) == CircuitBreaker::State::kOpen);
}

TEST_CASE("the rate limit delays what fits the deadline and refuses the rest") {
  World w([](const Request&, int) { return Response{}; });
  w.provider().rate = {.limit = 10, .period = absl::Seconds(1), .burst = 1};
  absl::Time before = absl::Now();
  for (int i = 0; i < 3; ++i) REQUIRE_THAT(w.Call("get", R"({"id":"1"})"), IsOk());
  CHECK(absl::Now() - before >= absl::Milliseconds(180));
  w.provider().rate = {.limit = 1, .period = absl::Hours(1), .burst = 1};
  REQUIRE_THAT(w.Call("get", R"({"id":"1"})"), IsOk());
  CHECK(FailureOf(w.Call("get", R"({"id":"1"})")).error == ErrorClass::kThrottled);
}

TEST_CASE("pages are followed to the end, a broken page is an error") {
  World w([](const Request& request, int) {
    if (request.target.find("starting_after=d") != std::string::npos)
      return Response{.body = R"({"data":[{"id":"e"}],"has_more":false})"};
    if (request.target.find("starting_after=b") != std::string::npos)
      return Response{.body = R"({"data":[{"id":"c"},{"id":"d"}],"has_more":true})"};
    return Response{.body = R"({"data":[{"id":"a"},{"id":"b"}],"has_more":true})"};
  });
  std::vector<std::string> pages;
  REQUIRE_THAT(w.engine().CallPages(w.context, {"pay", "", "list", "{}", "", ""},
                                    [&](const CallResult& page) {
                                      pages.push_back(page.body);
                                      return absl::OkStatus();
                                    }),
               IsOk());
  CHECK(pages ==
        std::vector<std::string>{R"([{"id":"a"},{"id":"b"}])", R"([{"id":"c"},{"id":"d"}])", R"([{"id":"e"}])"});
  CHECK(w.stub.requests()[0].target == "/api/things?limit=2");
  CHECK(w.stub.requests()[1].target == "/api/things?limit=2&starting_after=b");
}

TEST_CASE("a next address elsewhere is denied, a loop is noticed") {
  std::string next;
  HttpStub other([](const Request&, int) { return Response{}; });
  World w(
      [&](const Request&, int) { return Response{.body = StrCat("{\"data\":[],\"next\":", JsonQuote(next), "}")}; });
  auto pages = [&] {
    return w.engine().CallPages(w.context, {"pay", "", "linked", "{}", "", ""},
                                [](const CallResult&) { return absl::OkStatus(); });
  };
  next = other.url() + "/linked?p=2";
  CHECK_THAT(pages(), StatusIs(absl::StatusCode::kFailedPrecondition, "next_url_denied"));
  CHECK(other.requests().empty());
  next = "/api/linked?p=2";
  CHECK_THAT(pages(), StatusIs(absl::StatusCode::kFailedPrecondition, "pagination_loop"));
}

TEST_CASE("an unknown provider, operation or parameter is the caller's mistake") {
  World w([](const Request&, int) { return Response{}; });
  CHECK_THAT(w.engine().Call(w.context, {"nobody", "", "get"}), HasProblem("not-found"));
  CHECK_THAT(w.Call("nothing"), HasProblem("not-found"));
  CHECK_THAT(w.Call("get"), HasProblem("validation-failed"));
  CHECK_THAT(w.Call("create", "{}", "{not json"), HasProblem("json-invalid"));
  CHECK(w.stub.requests().empty());
}

TEST_CASE("fetch follows checked redirects without credentials, and stops at a private one") {
  std::string location;
  World w([&](const Request& request, int) {
    if (request.target == "/end") return Response{.headers = {{"Content-Type", "text/plain"}}, .body = "hello"};
    return Response{.status = 302, .headers = {{"Location", location}}};
  });
  location = "/end";
  auto fetched = w.engine().Fetch(w.context, w.stub.url() + "/start", 1000);
  REQUIRE_THAT(fetched, IsOk());
  CHECK(fetched->body == "hello");
  CHECK(fetched->content_type == "text/plain");
  CHECK(w.stub.requests()[0].headers.count("authorization") == 0);
  location = "http://10.0.0.1/secret";
  CHECK_THAT(w.engine().Fetch(w.context, w.stub.url() + "/start", 1000),
             StatusIs(absl::StatusCode::kFailedPrecondition, "url_not_allowed"));
  location = "/start";
  CHECK_THAT(w.engine().Fetch(w.context, w.stub.url() + "/start", 1000),
             StatusIs(absl::StatusCode::kFailedPrecondition, "too_many_redirects"));
  CHECK_THAT(w.engine().Fetch(w.context, "http://169.254.169.254/", 1000),
             StatusIs(absl::StatusCode::kFailedPrecondition, "url_not_allowed"));
  location = "/end";
  CHECK_THAT(w.engine().Fetch(w.context, w.stub.url() + "/start", 3),
             StatusIs(absl::StatusCode::kFailedPrecondition, "too_large"));
}

}  // namespace
}  // namespace mainstay::integrations
