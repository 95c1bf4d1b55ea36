// SPDX-License-Identifier: Apache-2.0
// The way in, against real PostgreSQL as the service's own role: what is stored, what is refused, what a duplicate
// changes.
#include <catch2/catch.hpp>
#include <set>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "libs/base/crypto.h"
#include "libs/base/ids.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/enqueue.h"
#include "libs/postgres/pool.h"
#include "libs/webhooks/inbox.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::webhooks {
namespace {

using mainstay::testing::IsOk;
using mainstay::testing::Sql;
using mainstay::testing::SqlValue;

const absl::Time kNow = absl::FromUnixSeconds(1767225600);
constexpr char kSecret[] = "whsec_test";

class RecordingHandoff : public jobs::Handoff {
 public:
  void Publish(absl::Span<const jobs::Enqueued> jobs) override {
    absl::MutexLock lock(&mu_);
    published += int(jobs.size());
  }
  absl::Mutex mu_;
  int published = 0;
};

struct World {
  explicit World(InboxOptions options = {}) {
    catalog::Source source;
    source.name = "payments";
    source.scheme.preset = "stripe";
    source.secrets = {"payments-webhook"};
    source.tenant_from = {"json:account"};
    source.entity = {"json:data.object.id"};
    source.max_body = 10000;
    catalog::Route route;
    route.types = {"payment.*"};
    source.routes.push_back(route);
    model->sources["payments"] = source;
    source.name = "off";
    source.enabled = false;
    model->sources["off"] = source;
    model->hash = "h1";
    inbox = std::make_unique<Inbox>(
        options, InboxDependencies{pool, [this]() -> catalog::ModelPtr { return model; },
                                   [this](std::string_view, std::string_view) { return secrets; }, handoff, clock});
  }

  static std::string Body(const std::string& id, const std::string& payment = "pay_1",
                          const std::string& type = "payment.succeeded", const std::string& account = "acme") {
    return StrCat("{\"id\":", JsonText(id), ",\"account\":", JsonText(account), ",\"type\":", JsonText(type),
                  ",\"created\":1767225000,\"data\":{\"object\":{\"id\":", JsonText(payment), "}}}");
  }
  static std::string JsonText(const std::string& text) { return StrCat("\"", text, "\""); }

  static Delivery Signed(std::string body, const std::string& secret = kSecret,
                         const std::string& source = "payments") {
    Delivery delivery;
    delivery.source = source;
    delivery.method = "POST";
    delivery.target = StrCat("/hooks/", source);
    delivery.headers = {
        {"content-type", "application/json; charset=utf-8"},
        {"authorization", "Basic c2VjcmV0"},
        {"stripe-signature", StrCat("t=1767225600,v1=", HexEncode(HmacSha256(secret, StrCat("1767225600.", body))))}};
    delivery.body = std::move(body);
    delivery.received_at = kNow;
    delivery.remote_address = "203.0.113.9";
    delivery.request_id = "req-1";
    delivery.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    return delivery;
  }
  Answer Send(Delivery delivery) {
    std::vector<Delivery> one;
    one.push_back(std::move(delivery));
    return inbox->Ingest(std::move(one)).at(0);
  }
  std::string Value(const std::string& sql) { return SqlValue(url, sql); }

  std::string url = testing::NewMigratedDatabase();
  postgres::Pool pool{
      {.url = testing::Postgres::As(url, "mainstay_webhooks"), .application_name = "inbox_test", .size = 4}};
  SimulatedClock clock{kNow};
  RecordingHandoff handoff;
  std::shared_ptr<catalog::Model> model = std::make_shared<catalog::Model>();
  absl::StatusOr<std::vector<std::string>> secrets = std::vector<std::string>{"whsec_newer", kSecret};
  std::unique_ptr<Inbox> inbox;
};

// Commits take real time; the simulated clock must not make the deadline pass.
InboxOptions Patient() {
  InboxOptions options;
  options.commit_timeout = absl::Hours(24 * 365 * 10);
  return options;
}

TEST_CASE("an authentic delivery is stored with its job in one commit") {
  World w(Patient());
  const std::string body = World::Body("evt_a");
  Answer answer = w.Send(World::Signed(body));
  CHECK(answer.status == 200);
  REQUIRE(answer.event_id.substr(0, 4) == "evt_");
  CHECK(answer.body == StrCat("{\"event\":\"", answer.event_id, "\"}"));
  auto rows = Sql(w.url,
                  "SELECT v.id, e.tenant, e.source, e.external_id, e.type, e.entity, e.state, e.catalog_hash, "
                  "convert_from(e.body, 'UTF8'), e.request_id, "
                  "extract(epoch FROM e.event_time)::bigint::text, v.duplicates::text, j.kind, j.tenant, "
                  "j.ordering_key, j.principal->>'subject', j.traceparent, "
                  "j.args::text, v.job_id = mainstay.format_id('job', j.id) FROM mainstay.webhook_events e JOIN "
                  "mainstay.webhook_events_view v ON v.uid = e.id "
                  "JOIN mainstay.jobs j ON j.id = e.job_id");
  REQUIRE(rows.size() == 1);
  CHECK(rows[0] == std::vector<std::string>{answer.event_id, "acme", "payments", "evt_a", "payment.succeeded", "pay_1",
                                            "received", "h1", body, "req-1", "1767225000", "0", "webhooks.process",
                                            "acme", "payments/pay_1", "source:payments",
                                            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                                            StrCat("{\"event\":\"", answer.event_id, "\"}"), "t"});
  CHECK(w.handoff.published == 1);
  // Credentials of the transport are not kept, the signature is.
  CHECK(w.Value("SELECT headers::text FROM mainstay.webhook_events").find("c2VjcmV0") == std::string::npos);
  CHECK(w.Value("SELECT headers::text FROM mainstay.webhook_events").find("stripe-signature") != std::string::npos);
}

TEST_CASE("a duplicate is answered with the first event and changes nothing but its counter") {
  World w(Patient());
  Answer first = w.Send(World::Signed(World::Body("evt_a")));
  Answer second = w.Send(World::Signed(World::Body("evt_a", "pay_2")));
  CHECK(second.status == 200);
  CHECK(second.event_id == first.event_id);
  CHECK(second.body.find("\"duplicate\":true") != std::string::npos);
  CHECK(w.Value("SELECT count(*) FROM mainstay.webhook_events") == "1");
  CHECK(w.Value("SELECT count(*) FROM mainstay.jobs") == "1");
  CHECK(w.Value("SELECT duplicates FROM mainstay.webhook_events_view") == "1");
  // The same id of another tenant is another event.
  CHECK(w.Send(World::Signed(World::Body("evt_a", "pay_1", "payment.succeeded", "globex"))).event_id != first.event_id);
}

TEST_CASE("duplicates that arrive at once on many threads, also within one call, are stored once") {
  World w(Patient());
  absl::Mutex mu;
  std::multiset<std::string> answered;
  std::vector<std::thread> senders;
  for (int t = 0; t < 8; ++t) {
    senders.emplace_back([&] {
      for (int round = 0; round < 5; ++round) {
        std::vector<Delivery> deliveries;
        for (int i = 0; i < 20; ++i)
          deliveries.push_back(World::Signed(World::Body(StrCat("evt_", i % 10), StrCat("pay_", i % 3))));
        for (const Answer& answer : w.inbox->Ingest(std::move(deliveries))) {
          absl::MutexLock lock(&mu);
          CHECK(answer.status == 200);
          answered.insert(answer.event_id);
        }
      }
    });
  }
  for (std::thread& sender : senders) sender.join();
  CHECK(answered.size() == 800);
  CHECK(std::set<std::string>(answered.begin(), answered.end()).size() == 10);
  CHECK(w.Value("SELECT count(*) FROM mainstay.webhook_events") == "10");
  CHECK(w.Value("SELECT count(*) FROM mainstay.jobs") == "10");
  CHECK(w.Value("SELECT sum(duplicates) FROM mainstay.webhook_events_view") == "790");
  CHECK(w.handoff.published == 10);
}

TEST_CASE("two committers on one database agree on who was first") {
  World a(Patient());
  World b(Patient());
  b.inbox = std::make_unique<Inbox>(
      Patient(), InboxDependencies{a.pool, [&]() -> catalog::ModelPtr { return a.model; },
                                   [&](std::string_view, std::string_view) { return a.secrets; }, a.handoff, a.clock});
  std::vector<std::thread> senders;
  for (Inbox* inbox : {a.inbox.get(), b.inbox.get()}) {
    senders.emplace_back([inbox] {
      for (int round = 0; round < 10; ++round) {
        std::vector<Delivery> deliveries;
        // Each in another order.
        for (int i = 0; i < 30; ++i)
          deliveries.push_back(World::Signed(World::Body(StrCat("evt_", round, "_", (i * 7 + round) % 30))));
        for (const Answer& answer : inbox->Ingest(std::move(deliveries))) CHECK(answer.status == 200);
      }
    });
  }
  for (std::thread& sender : senders) sender.join();
  CHECK(a.Value("SELECT count(*) FROM mainstay.webhook_events") == "300");
  CHECK(a.Value("SELECT sum(duplicates) FROM mainstay.webhook_dedup") == "300");
  b.inbox.reset();
}

TEST_CASE("a forged delivery is 401 and leaves no trace in the database") {
  World w(Patient());
  Answer answer = w.Send(World::Signed(World::Body("evt_a"), "whsec_other"));
  CHECK(answer.status == 401);
  CHECK(answer.problem == "unauthenticated");
  Delivery changed = World::Signed(World::Body("evt_a"));
  changed.body += " ";
  CHECK(w.Send(changed).status == 401);
  Delivery late = World::Signed(World::Body("evt_a"));
  w.clock.Advance(absl::Seconds(301));
  CHECK(w.Send(late).status == 401);
  CHECK(w.Value("SELECT count(*) FROM mainstay.webhook_events") == "0");
  CHECK(w.Value("SELECT count(*) FROM mainstay.webhook_dedup") == "0");
}

TEST_CASE("what is refused before verification has its own status") {
  World w(Patient());
  CHECK(w.Send(World::Signed("{}", kSecret, "nobody")).status == 404);
  CHECK(w.Send(World::Signed("{}", kSecret, "off")).status == 404);
  CHECK(w.Send(World::Signed(std::string(10001, 'x'))).status == 413);
  Delivery text = World::Signed("{}");
  text.headers[0].second = "text/plain";
  CHECK(w.Send(text).status == 415);
  Delivery get = World::Signed("{}");
  get.method = "GET";
  CHECK(w.Send(get).status == 405);
}

TEST_CASE("authentic but broken events are kept as invalid, without a job") {
  World w(Patient());
  for (const std::string& body :
       {std::string("not json"), std::string("{}"), World::Body("evt_x", "pay_1", "payment.succeeded", "*"),
        World::Body("evt_y", "pay_1", "payment.succeeded", "../etc"), World::Body(std::string(300, 'i'))}) {
    Answer answer = w.Send(World::Signed(body));
    CHECK(answer.status == 200);
    CHECK_FALSE(answer.event_id.empty());
    // Sent again, it is the same event.
    CHECK(w.Send(World::Signed(body)).event_id == answer.event_id);
  }
  CHECK(w.Value("SELECT count(*) FROM mainstay.webhook_events WHERE state = 'invalid' AND detail <> ''") == "5");
  CHECK(w.Value("SELECT count(*) FROM mainstay.jobs") == "0");
  // A good event with the id of a broken one is stored.
  CHECK(w.Send(World::Signed(World::Body("evt_x"))).status == 200);
  CHECK(w.Value("SELECT count(*) FROM mainstay.webhook_events WHERE state = 'received'") == "1");
}

TEST_CASE("types that no route takes are kept as unrouted") {
  World w(Patient());
  CHECK(w.Send(World::Signed(World::Body("evt_a", "pay_1", "invoice.paid"))).status == 200);
  CHECK(w.Value("SELECT state FROM mainstay.webhook_events") == "unrouted");
  CHECK(w.Value("SELECT count(*) FROM mainstay.jobs") == "0");
}

TEST_CASE("without a readable secret the sender is asked to come back, never told it is wrong") {
  World w(Patient());
  w.secrets = absl::UnavailableError("away");
  Answer answer = w.Send(World::Signed(World::Body("evt_a")));
  CHECK(answer.status == 503);
  CHECK(answer.retry_after_seconds > 0);
  w.secrets = absl::NotFoundError("none");
  CHECK(w.Send(World::Signed(World::Body("evt_a"))).status == 401);
}

TEST_CASE("PostgreSQL away is 503, and the same delivery is stored once it is back") {
  auto server = testing::Postgres::StartOwn();
  std::string url = server->NewMigratedDatabase();
  World w(Patient());
  postgres::Pool pool(
      {.url = testing::Postgres::As(url, "mainstay_webhooks"), .application_name = "inbox_test", .size = 2});
  Inbox inbox({}, {pool, [&]() -> catalog::ModelPtr { return w.model; },
                   [&](std::string_view, std::string_view) { return w.secrets; }, w.handoff, Clock::Real()});
  // Signed for the real clock.
  auto delivery = [] {
    std::string body = World::Body("evt_a");
    Delivery d = World::Signed(body);
    int64_t t = absl::ToUnixSeconds(absl::Now());
    d.headers[2].second = StrCat("t=", t, ",v1=", HexEncode(HmacSha256(kSecret, StrCat(t, ".", body))));
    return d;
  };
  auto send = [&] {
    std::vector<Delivery> one;
    one.push_back(delivery());
    return inbox.Ingest(std::move(one)).at(0);
  };
  REQUIRE(send().status == 200);
  server->Kill();
  Answer away = send();
  CHECK(away.status == 503);
  CHECK(away.retry_after_seconds > 0);
  server->Start();
  Answer back;
  for (int i = 0; i < 100 && back.event_id.empty(); ++i) {
    back = send();
    if (back.event_id.empty()) absl::SleepFor(absl::Milliseconds(100));
  }
  CHECK(back.status == 200);
  CHECK(SqlValue(url, "SELECT count(*) FROM mainstay.webhook_events") == "1");
}

TEST_CASE("dedup keys past their window are purged, and the event may come again") {
  World w(Patient());
  Answer first = w.Send(World::Signed(World::Body("evt_a")));
  Sql(w.url, "UPDATE mainstay.webhook_dedup SET expires_at = now() - interval '1 second'");
  auto purged = w.inbox->PurgeDedup(100);
  REQUIRE_THAT(purged, IsOk());
  CHECK(*purged == 1);
  CHECK(w.Send(World::Signed(World::Body("evt_a"))).event_id != first.event_id);
}

TEST_CASE("after Stop deliveries are refused, not lost in silence") {
  World w(Patient());
  w.Send(World::Signed(World::Body("evt_a")));
  w.inbox->Stop();
  w.inbox->Stop();
  CHECK(w.Send(World::Signed(World::Body("evt_b"))).status == 503);
}

}  // namespace
}  // namespace mainstay::webhooks
