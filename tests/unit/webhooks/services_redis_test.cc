// SPDX-License-Identifier: Apache-2.0
// Both services as processes, spoken to over gRPC as their neighbours do: a signed delivery goes in, is seen, replayed;
// a provider is called through its connection.
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/error_details.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>

#include "absl/time/clock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "libs/base/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/publish.h"
#include "libs/postgres/pool.h"
#include "libs/rpc/call.h"
#include "libs/secrets/secrets.h"
#include "libs/webhooks/provider_client.h"
#include "mainstay/integrations/v1/integrations.grpc.pb.h"
#include "mainstay/webhooks/v1/webhooks.grpc.pb.h"
#include "tests/support/environment.h"
#include "tests/support/postgres.h"
#include "tests/support/redis.h"
#include "tests/support/status.h"
#include "tests/support/subprocess.h"
#include "tests/unit/integrations/http_stub.h"

namespace mainstay {
namespace {

using mainstay::testing::HasProblem;
using mainstay::testing::IsOk;
using mainstay::testing::SqlValue;
using mainstay::testing::StatusIs;

struct World {
  explicit World(std::function<integrations::HttpStub::Response(const integrations::HttpStub::Request&, int)> answer)
      : stub(std::move(answer)) {
    testing::Sql(url, testing::ReadFile(testing::SourceDir() + "/deploy/demo/schema.sql"));
    auto files = catalog::ReadFolder(testing::SourceDir() + "/deploy/demo/catalog");
    REQUIRE_THAT(files, IsOk());
    REQUIRE_THAT(catalog::Publish(url, *files, {{"payments_url", stub.url()}}, "test"), IsOk());
    Write("kek", secrets::KeyRing::NewFile());
    auto keys = secrets::KeyRing::Load(directory.path() + "/kek");
    REQUIRE_THAT(keys, IsOk());
    postgres::Pool owner({.url = url, .application_name = "test", .size = 1});
    secrets::Store store(owner, *keys);
    REQUIRE_THAT(store.Put("", "payments-webhook", "whsec_first"), IsOk());
    REQUIRE_THAT(store.Put("", "payments-api-key", "sk_test_key"), IsOk());
  }
  void Write(const std::string& name, const std::string& text) { std::ofstream(directory.path() + "/" + name) << text; }
  // Starts a service and waits until it answers.
  std::shared_ptr<grpc::Channel> Start(const std::string& name, const std::string& more) {
    int port = testing::FreePort();
    Write(name + ".yaml",
          StrCat("listen: 127.0.0.1:", port, "\nadmin_listen: 127.0.0.1:", testing::FreePort(), "\ndatabase_url: '",
                 testing::Postgres::As(url, StrCat("mainstay_", name)),
                 "'\nredis_url: ", testing::Redis::Shared().url(), "\nprincipal_key: ", Base64Encode(keys.private_key),
                 "\ntrusted_keys:\n  gateway: ", Base64Encode(keys.public_key), "\nsecrets_key_file: ",
                 directory.path(), "/kek\ncursor_key: ", Base64Encode(std::string(32, 'k')), "\n", more));
    processes.push_back(std::make_unique<testing::Subprocess>(testing::SpawnOptions{
        .argv = {testing::BinDir() + "/mainstay-" + name, "--config", directory.path() + "/" + name + ".yaml"}}));
    auto channel = grpc::CreateChannel(StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
    bool up = channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20));
    INFO(processes.back()->output());
    REQUIRE(up);
    return channel;
  }
  CallContext As(std::string tenant, std::vector<std::string> roles) {
    CallContext context;
    context.principal = {std::move(tenant), "service:gateway", std::move(roles)};
    context.deadline = absl::Now() + absl::Seconds(20);
    context.request_id = "req-7";
    context.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    return context;
  }

  testing::TempDir directory;
  std::string url = testing::NewMigratedDatabase();
  integrations::HttpStub stub;
  Ed25519KeyPair keys = NewEd25519KeyPair();
  rpc::Signer signer{"gateway", keys.private_key, Clock::Real()};
  std::vector<std::unique_ptr<testing::Subprocess>> processes;
};

webhooks::v1::Delivery Signed(const std::string& id, const std::string& secret) {
  webhooks::v1::Delivery delivery;
  std::string body = StrCat("{\"id\":\"", id,
                            "\",\"account\":\"acme\",\"type\":\"payment.succeeded\",\"created\":1767225000,\"data\":{"
                            "\"object\":{\"id\":\"pay_1\"}}}");
  int64_t t = absl::ToUnixSeconds(absl::Now());
  delivery.set_source("payments");
  delivery.set_method("POST");
  delivery.set_target("/hooks/payments");
  auto add = [&](const char* name, const std::string& value) {
    auto* header = delivery.add_headers();
    header->set_name(name);
    header->set_value(value);
  };
  add("Content-Type", "application/json");
  add("Stripe-Signature", StrCat("t=", t, ",v1=", HexEncode(HmacSha256(secret, StrCat(t, ".", body)))));
  delivery.set_body(body);
  delivery.mutable_received_at()->set_seconds(t);
  delivery.set_request_id("req-7");
  return delivery;
}

TEST_CASE("the webhooks service stores, shows and replays") {
  World w([](const auto&, int) { return integrations::HttpStub::Response{}; });
  auto channel = w.Start("webhooks", "");
  auto ingest = webhooks::v1::IngestService::NewStub(channel);
  auto events = webhooks::v1::WebhookEventsService::NewStub(channel);

  webhooks::v1::IngestRequest request;
  *request.add_deliveries() = Signed("evt_1", "whsec_first");
  *request.add_deliveries() = Signed("evt_1", "whsec_first");
  *request.add_deliveries() = Signed("evt_2", "whsec_forged");
  webhooks::v1::IngestResponse response;
  {
    grpc::ClientContext context;
    rpc::PrepareCall(context, w.As("*", {}), w.signer, "webhooks");
    REQUIRE_THAT(rpc::FromGrpc(ingest->Ingest(&context, request, &response)), IsOk());
  }
  REQUIRE(response.answers_size() == 3);
  CHECK(response.answers(0).status() == 200);
  CHECK(response.answers(1).status() == 200);
  CHECK(response.answers(1).event_id() == response.answers(0).event_id());
  CHECK(response.answers(2).status() == 401);
  const std::string id = response.answers(0).event_id();

  auto get = [&](const std::string& tenant, webhooks::v1::WebhookEvent* event) {
    grpc::ClientContext context;
    rpc::PrepareCall(context, w.As(tenant, {"admin"}), w.signer, "webhooks");
    webhooks::v1::GetWebhookEventRequest one;
    one.set_id(id);
    return rpc::FromGrpc(events->GetWebhookEvent(&context, one, event));
  };
  webhooks::v1::WebhookEvent event;
  REQUIRE_THAT(get("acme", &event), IsOk());
  CHECK(event.state() == webhooks::v1::WEBHOOK_EVENT_STATE_RECEIVED);
  CHECK(event.duplicates() == 1);
  CHECK(event.event_time().seconds() == 1767225000);
  CHECK(event.payload() == request.deliveries(0).body());
  CHECK(event.job_id().substr(0, 4) == "job_");
  CHECK_THAT(get("globex", &event), HasProblem("not-found"));
  CHECK_THAT(get("*", &event), IsOk());

  webhooks::v1::ListWebhookEventsResponse list;
  {
    grpc::ClientContext context;
    rpc::PrepareCall(context, w.As("acme", {"admin"}), w.signer, "webhooks");
    REQUIRE_THAT(rpc::FromGrpc(events->ListWebhookEvents(&context, {}, &list)), IsOk());
  }
  REQUIRE(list.data_size() == 1);
  CHECK(list.data(0).id() == id);
  CHECK(list.data(0).state() == webhooks::v1::WEBHOOK_EVENT_STATE_RECEIVED);
  CHECK(list.data(0).duplicates() == 1);
  CHECK(list.data(0).received_at().seconds() > 1767225000);

  auto replay = [&](webhooks::v1::WebhookEvent* out) {
    grpc::ClientContext context;
    rpc::PrepareCall(context, w.As("acme", {"admin"}), w.signer, "webhooks");
    webhooks::v1::ReplayWebhookEventRequest one;
    one.set_id(id);
    return rpc::FromGrpc(events->ReplayWebhookEvent(&context, one, out));
  };
  CHECK_THAT(replay(&event), HasProblem("conflict"));
  testing::Sql(w.url, "UPDATE mainstay.webhook_events SET state = 'failed', detail = 'because', processed_at = now()");
  webhooks::v1::WebhookEvent again;
  REQUIRE_THAT(replay(&again), IsOk());
  CHECK(again.state() == webhooks::v1::WEBHOOK_EVENT_STATE_RECEIVED);
  CHECK(again.detail().empty());
  CHECK(again.job_id() != event.job_id());
  CHECK(SqlValue(w.url,
                 "SELECT count(*) FROM mainstay.jobs WHERE kind = 'webhooks.process' AND principal->>'subject' = "
                 "'source:payments'") == "2");

  // Nobody without a principal, nobody without the scope.
  grpc::ClientContext bare;
  CHECK(ingest->Ingest(&bare, request, &response).error_code() == grpc::StatusCode::UNAUTHENTICATED);
  grpc::ClientContext viewer;
  rpc::PrepareCall(viewer, w.As("acme", {"viewer"}), w.signer, "webhooks");
  CHECK(events->ListWebhookEvents(&viewer, {}, &list).error_code() == grpc::StatusCode::PERMISSION_DENIED);

  w.processes[0]->Signal(SIGTERM);
  CHECK(w.processes[0]->Wait(absl::Seconds(20)) == 0);
  INFO(w.processes[0]->output());
  CHECK(w.processes[0]->output().find("whsec_first") == std::string::npos);
}

TEST_CASE("the integrations service calls a provider with the tenant's credentials and tells classes of failures") {
  int status = 200;
  World w([&](const auto&, int) {
    return integrations::HttpStub::Response{.status = status, .body = R"({"id":"pay_1","status":"succeeded"})"};
  });
  auto channel = w.Start("integrations", "egress_allow: [127.0.0.0/8]\n");
  auto client = webhooks::MakeGrpcProviderClient(channel, w.signer);
  auto context = w.As("acme", {"source:payments"});
  auto answer =
      client->Call(context, {.provider = "payments", .operation = "get_payment", .params = R"({"id":"pay_1"})"});
  REQUIRE_THAT(answer, IsOk());
  CHECK(*answer == R"({"id":"pay_1","status":"succeeded"})");
  auto requests = w.stub.requests();
  REQUIRE(requests.size() == 1);
  CHECK(requests[0].target == "/payments/pay_1");
  CHECK(requests[0].headers["authorization"] == "Bearer sk_test_key");
  CHECK(requests[0].headers["traceparent"].substr(3, 32) == "0af7651916cd43dd8448eb211c80319c");

  status = 404;
  CHECK_THAT(client->Call(context, {.provider = "payments", .operation = "get_payment", .params = R"({"id":"x"})"}),
             StatusIs(absl::StatusCode::kNotFound, "not_found"));
  status = 503;
  CHECK_THAT(client->Call(context, {.provider = "payments", .operation = "get_payment", .params = R"({"id":"x"})"}),
             StatusIs(absl::StatusCode::kUnavailable, "transient"));
  CHECK_THAT(client->Call(context, {.provider = "payments", .operation = "get_payment"}),
             HasProblem("validation-failed"));

  auto providers = integrations::v1::ProvidersService::NewStub(channel);
  integrations::v1::ListProvidersResponse listed;
  grpc::ClientContext list_context;
  rpc::PrepareCall(list_context, w.As("acme", {"admin"}), w.signer, "integrations");
  REQUIRE_THAT(rpc::FromGrpc(providers->ListProviders(&list_context, {}, &listed)), IsOk());
  REQUIRE(listed.data_size() == 1);
  CHECK(listed.data(0).name() == "payments");
  CHECK(listed.data(0).circuit() == "closed");

  // The details as the contract says.
  integrations::v1::CallRequest request;
  request.set_provider("payments");
  request.set_operation("get_payment");
  request.set_params(R"({"id":"x"})");
  integrations::v1::CallResponse response;
  grpc::ClientContext call_context;
  rpc::PrepareCall(call_context, context, w.signer, "integrations");
  grpc::Status failed = providers->Call(&call_context, request, &response);
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  REQUIRE(grpc::ExtractErrorDetails(failed, &details).ok());
  REQUIRE(details.details_size() == 1);
  REQUIRE(details.details(0).UnpackTo(&info));
  CHECK(info.reason() == "transient");
  CHECK(info.metadata().at("http_status") == "503");
  CHECK(info.metadata().at("retried_by") == "integrations");

  testing::Sql(w.url,
               "INSERT INTO mainstay.connections (id, tenant, provider, secret) VALUES (gen_random_uuid(), 'acme', "
               "'payments', 'payments-api-key')");
  auto connections = integrations::v1::ConnectionsService::NewStub(channel);
  integrations::v1::ListConnectionsResponse rows;
  grpc::ClientContext rows_context;
  rpc::PrepareCall(rows_context, w.As("acme", {"admin"}), w.signer, "integrations");
  REQUIRE_THAT(rpc::FromGrpc(connections->ListConnections(&rows_context, {}, &rows)), IsOk());
  REQUIRE(rows.data_size() == 1);
  integrations::v1::Connection one;
  integrations::v1::GetConnectionRequest get;
  get.set_id(rows.data(0).id());
  grpc::ClientContext get_context, foreign_context;
  rpc::PrepareCall(get_context, w.As("acme", {"admin"}), w.signer, "integrations");
  REQUIRE_THAT(rpc::FromGrpc(connections->GetConnection(&get_context, get, &one)), IsOk());
  CHECK(one.provider() == "payments");
  CHECK(one.state() == "ready");
  rpc::PrepareCall(foreign_context, w.As("globex", {"admin"}), w.signer, "integrations");
  CHECK_THAT(rpc::FromGrpc(connections->GetConnection(&foreign_context, get, &one)), HasProblem("not-found"));

  w.processes[0]->Signal(SIGTERM);
  CHECK(w.processes[0]->Wait(absl::Seconds(20)) == 0);
  // Every call left a line; the key in none of them.
  CHECK(w.processes[0]->output().find("get_payment") != std::string::npos);
  CHECK(w.processes[0]->output().find("sk_test_key") == std::string::npos);
}

}  // namespace
}  // namespace mainstay
