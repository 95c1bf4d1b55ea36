// SPDX-License-Identifier: Apache-2.0
// From a stored event to the user's rows, on the demo's schema and catalog, as the worker's own role; only the provider
// is a fake.
#include <catch2/catch.hpp>
#include <deque>
#include <pqxx/pqxx>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "libs/base/ids.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/catalog/publish.h"
#include "libs/jobs/enqueue.h"
#include "libs/postgres/pool.h"
#include "libs/webhooks/processing.h"
#include "tests/support/environment.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::webhooks {
namespace {

using jobs::Outcome;
using mainstay::testing::IsOk;
using mainstay::testing::Sql;
using mainstay::testing::SqlValue;

class FakeProvider : public ProviderClient {
 public:
  absl::StatusOr<std::string> Call(const CallContext& context, const ProviderCall& call) override {
    calls.push_back(call);
    principals.push_back(context.principal);
    return answer;
  }
  absl::StatusOr<std::string> answer = std::string("{}");
  std::vector<ProviderCall> calls;
  std::vector<Principal> principals;
};

// A job as the worker hands it over; its end is a row, written by FinishIn in the handler's transaction.
class TestJob : public jobs::RunningJob {
 public:
  TestJob(std::string args, std::string tenant) : args_(std::move(args)) {
    context_.principal = {std::move(tenant), "source:payments", {"source:payments"}};
    context_.deadline = absl::Now() + absl::Seconds(30);
  }
  const Uuid& id() const override { return id_; }
  std::string_view kind() const override { return kProcessKind; }
  int version() const override { return 0; }
  std::string_view args() const override { return args_; }
  int64_t fence() const override { return 1; }
  int attempt() const override { return 1; }
  const CallContext& context() const override { return context_; }
  bool cancelled() const override { return false; }
  std::string_view checkpoint() const override { return ""; }
  absl::Status SaveCheckpoint(std::string_view) override { return absl::OkStatus(); }
  absl::Status Progress(double, std::string_view, const std::map<std::string, int64_t>&) override {
    return absl::OkStatus();
  }
  absl::Status FinishIn(pqxx::transaction_base& tx, const Outcome& outcome) override {
    if (fenced) return absl::FailedPreconditionError("fenced");
    tx.exec_params("INSERT INTO public.finished VALUES ($1, $2, $3, $4)", id_.ToString(), int(outcome.kind),
                   outcome.result, outcome.code);
    return absl::OkStatus();
  }
  postgres::Pool& pool() override { throw std::logic_error("this test has no worker's pool"); }
  bool fenced = false;

 private:
  Uuid id_ = NewUuid();
  std::string args_;
  CallContext context_;
};

struct World {
  World() {
    Sql(url, testing::ReadFile(testing::SourceDir() + "/deploy/demo/schema.sql"));
    Sql(url,
        "CREATE TABLE public.finished (job uuid, kind int, result text, code text); GRANT INSERT ON public.finished TO "
        "mainstay_worker;"
        "INSERT INTO shop.tenants VALUES ('acme', 'Acme'), ('globex', 'Globex');"
        "INSERT INTO shop.customers (id, tenant_id, email, name) VALUES (1, 'acme', 'a@example.com', 'A'), (2, "
        "'globex', 'g@example.com', 'G');"
        "INSERT INTO shop.orders (id, tenant_id, customer_id, number, status) VALUES (10, 'acme', 1, 'A-10', 'open'), "
        "(11, 'acme', 1, 'A-11', 'cancelled'), "
        "(20, 'globex', 2, 'G-20', 'open');");
    auto files = catalog::ReadFolder(testing::SourceDir() + "/deploy/demo/catalog");
    REQUIRE_THAT(files, IsOk());
    REQUIRE_THAT(catalog::Publish(url, *files, {{"payments_url", "http://127.0.0.1:1"}}, "test"), IsOk());
    postgres::Pool owner({.url = url, .application_name = "test", .size = 1});
    REQUIRE_THAT(owner.Transaction(absl::Now() + absl::Seconds(20),
                                   [&](pqxx::transaction_base& tx) -> absl::Status {
                                     auto built = catalog::LoadActive(tx);
                                     if (!built.ok()) return built.status();
                                     model = built->model;
                                     return absl::OkStatus();
                                   }),
                 IsOk());
    RegisterHandlers(registry, {pool, [this] { return model; }, provider});
  }

  // As the inbox stores it.
  std::string Event(const std::string& payment, const std::string& tenant = "acme",
                    const std::string& type = "payment.succeeded") {
    Uuid id = NewUuid();
    std::string body = StrCat("{\"id\":\"evt\",\"type\":\"", type, "\",\"account\":\"", tenant,
                              "\",\"data\":{\"object\":{\"id\":\"", payment, "\"}}}");
    postgres::Pool owner({.url = url, .application_name = "test", .size = 1});
    REQUIRE_THAT(owner.Autocommit(absl::Now() + absl::Seconds(20),
                                  [&](pqxx::transaction_base& tx) -> absl::Status {
                                    tx.exec_params(
                                        "INSERT INTO mainstay.webhook_events (id, tenant, source, external_id, type, "
                                        "entity, state, received_at, dedup_key, target, headers, body) "
                                        "VALUES ($1::uuid, $2, 'payments', 'evt', $3, $4, 'received', now(), "
                                        "$1::uuid::text, '/hooks/payments', '[]', convert_to($5, 'UTF8'))",
                                        id.ToString(), tenant, type, payment, body);
                                    return absl::OkStatus();
                                  }),
                 IsOk());
    return FormatId("evt", id);
  }
  Outcome Run(TestJob& job) { return (*registry.Find(kProcessKind))(job); }
  Outcome Process(const std::string& event, const std::string& tenant = "acme") {
    TestJob job(StrCat("{\"event\":\"", event, "\"}"), tenant);
    return Run(job);
  }
  static std::string Payment(const std::string& id, const std::string& order, const std::string& status,
                             const std::string& updated_at, const std::string& amount = "12.50") {
    return StrCat("{\"id\":\"", id, "\",\"status\":\"", status, "\",\"amount\":\"", amount,
                  "\",\"currency\":\"EUR\",\"metadata\":{\"order_id\":", order, "},\"updated_at\":", updated_at, "}");
  }
  std::string State(const std::string& event) {
    return Value(StrCat("SELECT state FROM mainstay.webhook_events_view WHERE id = '", event, "'"));
  }
  std::string Value(const std::string& sql) { return SqlValue(url, sql); }

  std::string url = testing::NewMigratedDatabase();
  postgres::Pool pool{
      {.url = testing::Postgres::As(url, "mainstay_worker"), .application_name = "processing_test", .size = 4}};
  catalog::ModelPtr model;
  FakeProvider provider;
  jobs::Registry registry;
};

TEST_CASE("a thin event is fetched and applied to two resources, and the job ends in the same commit") {
  World w;
  w.provider.answer = World::Payment("pay_1", "10", "succeeded", "\"2026-01-01T00:00:00.5Z\"");
  std::string event = w.Event("pay_1");
  Outcome outcome = w.Process(event);
  INFO(outcome.code << " " << outcome.message);
  CHECK(outcome.kind == Outcome::Kind::kDone);
  CHECK(
      outcome.result ==
      R"({"applied":[{"resource":"payments","status":"created"},{"resource":"orders","status":"updated"}],"state":"processed"})");
  CHECK(w.Value("SELECT status || ' ' || amount || ' ' || tenant_id || ' ' || order_id FROM shop.payments WHERE id = "
                "'pay_1'") == "succeeded 12.50 acme 10");
  CHECK(w.Value("SELECT status FROM shop.orders WHERE id = 10") == "paid");
  CHECK(w.State(event) == "processed");
  CHECK(w.Value("SELECT count(*) FROM public.finished WHERE kind = 0") == "1");
  REQUIRE(w.provider.calls.size() == 1);
  CHECK(w.provider.calls[0].operation == "get_payment");
  CHECK(w.provider.calls[0].params == R"({"id":"pay_1"})");
  CHECK(w.provider.principals[0] == Principal{"acme", "source:payments", {"source:payments"}});
}

TEST_CASE("processing again changes nothing") {
  World w;
  w.provider.answer = World::Payment("pay_1", "10", "succeeded", "\"2026-01-01T00:00:00Z\"");
  std::string event = w.Event("pay_1");
  w.Process(event);
  std::string version = w.Value("SELECT version FROM shop.payments WHERE id = 'pay_1'");
  Outcome again = w.Process(event);
  CHECK(again.kind == Outcome::Kind::kDone);
  CHECK(again.result == R"({"state":"processed","already":true})");
  // Another event with the same news of the payment is old news.
  std::string same = w.Event("pay_1");
  CHECK(w.Process(same).kind == Outcome::Kind::kDone);
  CHECK(w.State(same) == "stale");
  CHECK(w.Value("SELECT version FROM shop.payments WHERE id = 'pay_1'") == version);
}

TEST_CASE("older news never overwrites newer, and nothing after the guard is applied") {
  World w;
  w.provider.answer = World::Payment("pay_1", "10", "pending", "\"2026-01-01T00:00:10Z\"");
  w.Process(w.Event("pay_1"));
  w.provider.answer = World::Payment("pay_1", "10", "succeeded", "\"2026-01-01T00:00:05Z\"");
  std::string late = w.Event("pay_1");
  CHECK(w.Process(late).kind == Outcome::Kind::kDone);
  CHECK(w.State(late) == "stale");
  CHECK(w.Value("SELECT status FROM shop.payments WHERE id = 'pay_1'") == "pending");
  CHECK(w.Value("SELECT status FROM shop.orders WHERE id = 10") == "open");
}

TEST_CASE("an apply whose condition does not hold is left out") {
  World w;
  w.provider.answer = World::Payment("pay_1", "10", "failed", "\"2026-01-01T00:00:00Z\"");
  Outcome outcome = w.Process(w.Event("pay_1"));
  CHECK(outcome.result == R"({"applied":[{"resource":"payments","status":"created"}],"state":"processed"})");
  CHECK(w.Value("SELECT status FROM shop.orders WHERE id = 10") == "open");
}

TEST_CASE("a transition that is not declared fails the event as a whole") {
  World w;
  w.provider.answer = World::Payment("pay_1", "11", "succeeded", "\"2026-01-01T00:00:00Z\"");
  std::string event = w.Event("pay_1");
  Outcome outcome = w.Process(event);
  CHECK(outcome.kind == Outcome::Kind::kDead);
  CHECK(outcome.code == "invalid_transition");
  CHECK(w.State(event) == "failed");
  CHECK(w.Value("SELECT detail FROM mainstay.webhook_events").find("status") != std::string::npos);
  CHECK(w.Value("SELECT status FROM shop.orders WHERE id = 11") == "cancelled");
  CHECK(w.Value("SELECT count(*) FROM shop.payments") == "0");
  CHECK(w.Value("SELECT count(*) FROM public.finished WHERE kind = 4 AND code = 'invalid_transition'") == "1");
}

TEST_CASE("another tenant's rows are out of reach") {
  World w;
  w.provider.answer = World::Payment("pay_1", "20", "succeeded", "\"2026-01-01T00:00:00Z\"");
  std::string event = w.Event("pay_1", "acme");
  CHECK(w.Process(event).kind == Outcome::Kind::kDead);
  CHECK(w.State(event) == "failed");
  CHECK(w.Value("SELECT status FROM shop.orders WHERE id = 20") == "open");
  CHECK(w.Value("SELECT count(*) FROM shop.payments") == "0");
  // Nor can a job be pointed at another tenant's event.
  CHECK(w.Process(w.Event("pay_2", "globex"), "acme").code == "event_missing");
}

TEST_CASE("a provider that is away lets the job come back when it says") {
  World w;
  Problem problem;
  problem.type = "quota-exceeded";
  problem.detail = "throttled";
  problem.retry_after = absl::Seconds(7);
  w.provider.answer = MakeProblem(problem);
  std::string event = w.Event("pay_1");
  Outcome outcome = w.Process(event);
  CHECK(outcome.kind == Outcome::Kind::kRetry);
  CHECK(outcome.after == absl::Seconds(7));
  CHECK(w.State(event) == "received");
  CHECK(w.Value("SELECT detail FROM mainstay.webhook_events").find("throttled") != std::string::npos);
  CHECK(w.Value("SELECT count(*) FROM public.finished") == "0");
  w.provider.answer = World::Payment("pay_1", "10", "succeeded", "\"2026-01-01T00:00:00Z\"");
  CHECK(w.Process(event).kind == Outcome::Kind::kDone);
  CHECK(w.State(event) == "processed");
  CHECK(w.Value("SELECT detail FROM mainstay.webhook_events") == "");
}

TEST_CASE("a provider's final refusal fails the event") {
  World w;
  w.provider.answer = absl::NotFoundError("not_found: no such payment");
  std::string event = w.Event("pay_1");
  Outcome outcome = w.Process(event);
  CHECK(outcome.kind == Outcome::Kind::kDead);
  CHECK(outcome.code == "fetch_failed");
  CHECK(w.State(event) == "failed");
}

TEST_CASE("a job that was handed to someone else leaves no effect") {
  World w;
  w.provider.answer = World::Payment("pay_1", "10", "succeeded", "\"2026-01-01T00:00:00Z\"");
  std::string event = w.Event("pay_1");
  TestJob job(StrCat("{\"event\":\"", event, "\"}"), "acme");
  job.fenced = true;
  w.Run(job);
  CHECK(w.Value("SELECT count(*) FROM shop.payments") == "0");
  CHECK(w.Value("SELECT status FROM shop.orders WHERE id = 10") == "open");
  CHECK(w.State(event) == "received");
}

TEST_CASE("an event whose job ends without it has failed, and processes when that job is retried by hand") {
  World w;
  w.provider.answer = absl::UnavailableError("the provider is away");
  // As the engine ends a job: its row goes to the history, by the worker's role.
  const auto end = [&](const Uuid& job, const std::string& event, int state, const std::string& errors) {
    REQUIRE_THAT(w.pool.Transaction(absl::Now() + absl::Seconds(20),
                                    [&](pqxx::transaction_base& tx) -> absl::Status {
                                      tx.exec_params(
                                          "INSERT INTO mainstay.jobs_history (id, fence, created_at, state, priority, "
                                          "attempt, crashes, snoozes, max_attempts, max_crashes, tenant, kind, queue, "
                                          "args, principal, errors) VALUES ($1::uuid, 1, now(), $2, 4, 1, 0, 0, 1, 1, "
                                          "'acme', 'webhooks.process', 'default', $3::json, '{}', $4::jsonb)",
                                          job.ToString(), state, event, errors);
                                      return absl::OkStatus();
                                    }),
                 IsOk());
  };
  const auto with_job = [&](const TestJob& job, const std::string& event) {
    Sql(w.url, StrCat("UPDATE mainstay.webhook_events SET job_id = '", job.id().ToString(),
                      "' WHERE id = mainstay.parse_id('evt', '", event, "')"));
  };
  const std::string event = w.Event("pay_1"), args = StrCat("{\"event\":\"", event, "\"}");
  TestJob job(args, "acme");
  with_job(job, event);
  CHECK(w.Run(job).kind == Outcome::Kind::kRetry);
  CHECK(w.State(event) == "received");
  end(NewUuid(), args, 9, "[]");  // another job of this event, replaced long ago
  CHECK(w.State(event) == "received");
  end(job.id(), args, 9, R"([{"message":"first"},{"message":"the provider is away"}])");
  CHECK(w.State(event) == "failed");
  CHECK(w.Value("SELECT detail || ' ' || (processed_at IS NOT NULL) FROM mainstay.webhook_events") ==
        "the provider is away true");
  // A run that was overtaken leaves no word behind.
  CHECK(w.Run(job).kind == Outcome::Kind::kRetry);
  CHECK(w.Value("SELECT detail FROM mainstay.webhook_events") == "the provider is away");
  CHECK(w.State(event) == "failed");

  w.provider.answer = World::Payment("pay_1", "10", "succeeded", "\"2026-01-01T00:00:00Z\"");
  CHECK(w.Process(event).result == R"({"state":"failed","already":true})");  // some other job
  CHECK(w.Run(job).kind == Outcome::Kind::kDone);
  CHECK(w.State(event) == "processed");
  CHECK(w.Value("SELECT status FROM shop.orders WHERE id = 10") == "paid");
  end(job.id(), args, 8, "[]");
  CHECK(w.State(event) == "processed");

  const std::string stopped = w.Event("pay_2"), stopped_args = StrCat("{\"event\":\"", stopped, "\"}");
  TestJob cancelled(stopped_args, "acme");
  with_job(cancelled, stopped);
  for (const char* nonsense : {"[]", "7", "null", "{}", "{\"event\":\"evt_x\"}"})
    end(cancelled.id(), nonsense, 8, "[]");
  CHECK(w.State(stopped) == "received");
  end(cancelled.id(), stopped_args, 8, "[]");
  CHECK(w.State(stopped) == "failed");
  CHECK(w.Value(StrCat("SELECT detail FROM mainstay.webhook_events_view WHERE id = '", stopped, "'")) ==
        "its job was cancelled");
}

TEST_CASE("times given as numbers are taken as seconds or milliseconds") {
  World w;
  w.provider.answer = World::Payment("pay_1", "10", "pending", "1767225600");
  CHECK(w.Process(w.Event("pay_1")).kind == Outcome::Kind::kDone);
  CHECK(w.Value("SELECT extract(epoch FROM provider_updated_at)::bigint FROM shop.payments WHERE id = 'pay_1'") ==
        "1767225600");
  w.provider.answer = World::Payment("pay_1", "10", "pending", "1767225601500");
  CHECK(w.Process(w.Event("pay_1")).kind == Outcome::Kind::kDone);
  CHECK(w.Value(
            "SELECT (extract(epoch FROM provider_updated_at) * 1000)::bigint FROM shop.payments WHERE id = 'pay_1'") ==
        "1767225601500");
}

TEST_CASE("what the provider left out or got wrong is a failure that names the field") {
  World w;
  w.provider.answer = std::string(R"({"status":"succeeded"})");
  std::string event = w.Event("pay_1");
  CHECK(w.Process(event).code == "value_missing");
  CHECK(w.Value("SELECT detail FROM mainstay.webhook_events").find("payments.id") != std::string::npos);
  w.provider.answer = World::Payment("pay_2", "10", "succeeded", "\"2026-01-01T00:00:00Z\"", "a lot");
  std::string wrong = w.Event("pay_2");
  CHECK(w.Process(wrong).kind == Outcome::Kind::kDead);
  CHECK(w.Value(StrCat("SELECT detail FROM mainstay.webhook_events_view WHERE id = '", wrong, "'")).find("amount") !=
        std::string::npos);
}

TEST_CASE("an event without route ends as unrouted, malformed arguments are dead") {
  World w;
  std::string event = w.Event("x", "acme", "invoice.paid");
  CHECK(w.Process(event).kind == Outcome::Kind::kDone);
  CHECK(w.State(event) == "unrouted");
  CHECK(w.provider.calls.empty());
  for (const char* args : {"{}", "[]", "{\"event\":\"job_x\"}", "{\"event\":5}"}) {
    TestJob job(args, "acme");
    CHECK(w.Run(job).kind == Outcome::Kind::kDead);
  }
  CHECK(w.Process(NewId("evt")).code == "event_missing");
}

}  // namespace
}  // namespace mainstay::webhooks
