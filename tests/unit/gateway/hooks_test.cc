// SPDX-License-Identifier: Apache-2.0
#include "services/gateway/hooks.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <optional>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "libs/base/problem.h"
#include "mainstay/webhooks/v1/webhooks.grpc.pb.h"
#include "tests/unit/gateway/world.h"

namespace mainstay::gateway {
namespace {

namespace asio = boost::asio;
namespace pb = mainstay::webhooks::v1;

class Webhooks : public pb::IngestService::Service {
 public:
  explicit Webhooks(Keys& keys) : guard_(keys.Guard("webhooks")) {}
  grpc::Status Ingest(grpc::ServerContext* context, const pb::IngestRequest* request,
                      pb::IngestResponse* response) override {
    return guard_->Handle(*context, "mainstay.webhooks.v1.IngestService/Ingest",
                          [&](const CallContext&) -> absl::Status {
                            ++calls;
                            carried += request->deliveries_size();
                            int now = ++running;
                            int seen = most_running;
                            while (now > seen && !most_running.compare_exchange_weak(seen, now)) {
                            }
                            gate.ReaderLock();
                            gate.ReaderUnlock();
                            for (const pb::Delivery& delivery : request->deliveries()) {
                              pb::Answer* answer = response->add_answers();
                              if (delivery.source() == "forged") {
                                answer->set_status(401);
                                answer->set_problem("unauthenticated");
                              } else {
                                answer->set_status(202);
                                answer->set_content_type("text/plain");
                                answer->set_body(StrCat(delivery.target(), " ", delivery.body()));
                              }
                            }
                            --running;
                            return absl::OkStatus();
                          });
  }
  absl::Mutex gate;
  std::atomic<int> calls{0}, carried{0}, running{0}, most_running{0};

 private:
  std::unique_ptr<rpc::Guard> guard_;
};

struct World {
  explicit World(HooksOptions options = {}, bool up = true) {
    int grpc_port = 1;
    if (up) {
      grpc::ServerBuilder builder;
      builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &grpc_port);
      builder.RegisterService(&ingest);
      grpc_server = builder.BuildAndStart();
    }
    hooks.emplace(options, rpc::Connect(StrCat("127.0.0.1:", grpc_port)), keys.signer);
    server.emplace(http::ServerOptions{}, [this](http::Request& request) { return hooks->Handle(request); });
    REQUIRE(server->Start().ok());
  }
  ~World() {
    server->Stop();
    if (grpc_server) grpc_server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  }
  HttpAnswer Post(const std::string& target, const std::string& body) {
    return Http(server->port(), "POST", target, &body);
  }

  Keys keys;
  Webhooks ingest{keys};
  std::unique_ptr<grpc::Server> grpc_server;
  std::optional<Hooks> hooks;
  std::optional<http::Server> server;
};

}  // namespace

TEST_CASE("a delivery gets the answer of its own place in the batch") {
  World world;
  const HttpAnswer answer = world.Post("/hooks/payments?k=1", "{\"a\": 1}");
  CHECK(answer.status == 202);
  CHECK(answer.body == "/hooks/payments?k=1 {\"a\": 1}");
  CHECK(world.Post("/hooks/forged", "x").status == 401);
  CHECK(world.Post("/hooks", "x").status == 404);
  CHECK(world.Post("/hooks/a/b", "x").status == 404);
}

TEST_CASE("while two calls are under way the rest gathers into batches") {
  World world;
  world.ingest.gate.Lock();
  std::vector<std::thread> senders;
  std::atomic<int> right{0};
  for (int i = 0; i < 40; ++i) {
    senders.emplace_back([&, i] {
      const HttpAnswer answer = world.Post("/hooks/s", StrCat("body ", i));
      right += answer.status == 202 && answer.body == StrCat("/hooks/s body ", i);
    });
  }
  // The first calls carry what there was by then; all the rest waits behind them.
  while (world.ingest.running < 2) std::this_thread::yield();
  int carried = 0;
  do {
    std::this_thread::yield();
    carried = world.ingest.carried;
  } while (world.hooks->waiting() + carried < 40);
  world.ingest.gate.Unlock();
  for (std::thread& sender : senders) sender.join();
  CHECK(right == 40);
  CHECK(world.ingest.calls <= 4);
  CHECK(world.ingest.most_running == 2);
}

TEST_CASE("too many waiting deliveries are 503, so is a service that is away") {
  HooksOptions options;
  options.max_waiting = 0;
  World full(options);
  const HttpAnswer refused = full.Post("/hooks/s", "x");
  CHECK(refused.status == 503);
  CHECK(refused.headers.find("retry-after: ") != std::string::npos);
  CHECK(full.ingest.calls == 0);
  World away({}, /*up=*/false);
  CHECK(away.Post("/hooks/s", "x").status == 503);
}

TEST_CASE("a body over the limit is 413 and reaches nobody") {
  HooksOptions options;
  options.max_body = 1000;
  World world(options);
  CHECK(world.Post("/hooks/s", std::string(1001, 'x')).status == 413);
  CHECK(world.ingest.calls == 0);
}

}  // namespace mainstay::gateway
