// SPDX-License-Identifier: Apache-2.0
// Transcoding through real sockets: curl → HTTP server → gRPC → a service of the test.
#include "services/gateway/suite_api.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <optional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "mainstay/jobs/v1/jobs.grpc.pb.h"
#include "mainstay/transfer/v1/transfer.grpc.pb.h"
#include "tests/unit/gateway/world.h"

namespace mainstay::gateway {
namespace {

namespace asio = boost::asio;

class Jobs : public jobs::v1::JobsService::Service {
 public:
  explicit Jobs(Keys& keys) : guard_(keys.Guard("worker")) {}
  grpc::Status GetJob(grpc::ServerContext* context, const jobs::v1::GetJobRequest* request,
                      jobs::v1::Job* job) override {
    return guard_->Handle(
        *context, "mainstay.jobs.v1.JobsService/GetJob", [&](const CallContext& call) -> absl::Status {
          seconds_left = absl::ToDoubleSeconds(call.deadline - absl::Now());
          if (request->id() == "absent") return MakeProblem("not-found", "there is no such job");
          if (request->id() == "busy")
            return MakeProblem(Problem{.type = "overloaded", .detail = "later", .retry_after = absl::Seconds(7)});
          if (request->id() == "boom") return absl::InternalError("password=hunter2");
          if (request->id() == "hang") {
            waiting.Notify();
            while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
            cancelled.Notify();
            return absl::CancelledError("");
          }
          job->set_id(request->id());
          job->set_tenant(call.principal.tenant);
          job->set_request_id(call.request_id);
          job->set_fence(9223372036854775807);
          job->set_args(R"({"b": 1, "a":2})");
          job->set_state(jobs::v1::JOB_STATE_RUNNING);
          return absl::OkStatus();
        });
  }
  grpc::Status EnqueueJob(grpc::ServerContext* context, const jobs::v1::EnqueueJobRequest* request,
                          jobs::v1::Job* job) override {
    return guard_->Handle(*context, "mainstay.jobs.v1.JobsService/EnqueueJob", [&](const CallContext&) -> absl::Status {
      job->set_id("job_new");
      job->set_kind(request->job().kind());
      job->set_args(request->job().args());
      return absl::OkStatus();
    });
  }
  absl::Notification waiting, cancelled;
  std::atomic<double> seconds_left{0};

 private:
  std::unique_ptr<rpc::Guard> guard_;
};

class Imports : public transfer::v1::ImportsService::Service {
 public:
  explicit Imports(Keys& keys) : guard_(keys.Guard("transfer")) {}
  grpc::Status CreateImport(grpc::ServerContext* context, grpc::ServerReader<transfer::v1::CreateImportRequest>* reader,
                            transfer::v1::Import* import) override {
    return guard_->Handle(*context, "mainstay.transfer.v1.ImportsService/CreateImport",
                          [&](const CallContext&) -> absl::Status {
                            transfer::v1::CreateImportRequest message;
                            int64_t size = 0;
                            std::string bytes;
                            if (!reader->Read(&message)) return absl::InvalidArgumentError("nothing came");
                            import->set_resource(message.options().resource());
                            import->set_file_name(message.chunk().info().name());
                            if (import->resource() == "refused")
                              return MakeProblem("unsupported-media-type", "not this kind of file");
                            do {
                              if (message.chunk().data().size() > (64 << 10))
                                return absl::InternalError("a chunk is too large");
                              size += int64_t(message.chunk().data().size());
                              bytes += message.chunk().data();
                            } while (reader->Read(&message));
                            if (context->IsCancelled()) {
                              cut.Notify();
                              return absl::CancelledError("");
                            }
                            import->set_id("imp_1");
                            import->set_file_size(size);
                            import->set_sha256(HexEncodedSha256(bytes));
                            return absl::OkStatus();
                          });
  }
  grpc::Status DownloadImportReport(grpc::ServerContext* context,
                                    const transfer::v1::DownloadImportReportRequest* request,
                                    grpc::ServerWriter<common::v1::FileChunk>* writer) override {
    return guard_->Handle(*context, "mainstay.transfer.v1.ImportsService/DownloadImportReport",
                          [&](const CallContext&) -> absl::Status {
                            if (request->id() == "absent") return MakeProblem("not-found", "there is no such import");
                            common::v1::FileChunk chunk;
                            chunk.mutable_info()->set_name("../r\"é.csv");
                            chunk.mutable_info()->set_content_type("text/csv");
                            chunk.mutable_info()->set_size(-1);
                            for (int i = 0; i < 100; ++i) {
                              chunk.set_data(std::string(64 << 10, char('a' + i % 26)));
                              if (!writer->Write(chunk)) return absl::CancelledError("");
                              chunk.clear_info();
                              if (request->id() == "broken" && i == 50) return absl::InternalError("disk");
                            }
                            return absl::OkStatus();
                          });
  }
  static std::string HexEncodedSha256(const std::string& bytes);
  absl::Notification cut;

 private:
  std::unique_ptr<rpc::Guard> guard_;
};

std::string Imports::HexEncodedSha256(const std::string& bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const unsigned char c : Sha256(bytes)) {
    out += kDigits[c >> 4];
    out += kDigits[c & 15];
  }
  return out;
}

struct World {
  World() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &grpc_port);
    builder.RegisterService(&jobs_service);
    builder.RegisterService(&imports);
    grpc_server = builder.BuildAndStart();
    const auto channel = rpc::Connect(StrCat("127.0.0.1:", grpc_port));
    worker = std::make_unique<Upstream>("worker", channel, keys.signer);
    transfer = std::make_unique<Upstream>("transfer", channel, keys.signer);
    nobody = std::make_unique<Upstream>("webhooks", rpc::Connect("127.0.0.1:1"), keys.signer);
    suite = std::make_unique<SuiteApi>(std::map<std::string, Upstream*>{
        {"worker", worker.get()}, {"transfer", transfer.get()}, {"webhooks", nobody.get()}});
    server.emplace(http::ServerOptions{}, [this](http::Request& request) -> asio::awaitable<http::Response> {
      CallContext call;
      call.principal = {"acme", "key_1", {request.Header("x-role") ? *request.Header("x-role") : "admin"}};
      call.deadline = request.deadline;
      call.request_id = request.request_id;
      call.traceparent = request.traceparent;
      http::Response response = co_await suite->Handle(request, call, model);
      co_return response;
    });
    REQUIRE(server->Start().ok());
  }
  ~World() {
    server->Stop();
    grpc_server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  }
  HttpAnswer Get(const std::string& target, const std::vector<std::string>& headers = {}) {
    return Http(server->port(), "GET", target, nullptr, headers);
  }
  HttpAnswer Post(const std::string& target, const std::string& body, const std::vector<std::string>& headers) {
    return Http(server->port(), "POST", target, &body, headers);
  }
  static std::string Type(const HttpAnswer& answer) {
    const auto document = JsonDocument::Parse(answer.body);
    const JsonValue* type = document.ok() ? document->root().Find("type") : nullptr;
    return type != nullptr ? std::string(type->text().substr(10)) : StrCat("status ", answer.status);
  }

  Keys keys;
  catalog::Model model;
  Jobs jobs_service{keys};
  Imports imports{keys};
  int grpc_port = 0;
  std::unique_ptr<grpc::Server> grpc_server;
  std::unique_ptr<Upstream> worker, transfer, nobody;
  std::unique_ptr<SuiteApi> suite;
  std::optional<http::Server> server;
};

const std::vector<std::string> kJson = {"Content-Type: application/json"};

}  // namespace

TEST_CASE_METHOD(World, "a GET becomes the RPC and comes back as JSON of our form") {
  const HttpAnswer answer = Get("/mainstay/v1/jobs/job_1", {"X-Request-Id: r-1", "X-Request-Timeout-Ms: 5000"});
  CHECK(answer.status == 200);
  const auto document = JsonDocument::Parse(answer.body);
  REQUIRE(document.ok());
  CHECK(document->root().Find("id")->text() == "job_1");
  CHECK(document->root().Find("tenant")->text() == "acme");
  CHECK(document->root().Find("request_id")->text() == "r-1");
  CHECK(document->root().Find("state")->text() == "running");
  CHECK(document->root().Find("fence")->is_string());
  CHECK(document->root().Find("fence")->text() == "9223372036854775807");
  CHECK(document->root().Find("args")->raw() == R"({"b": 1, "a":2})");
  CHECK(document->root().Find("finished_at")->is_null());
  CHECK(jobs_service.seconds_left > 3);
  CHECK(jobs_service.seconds_left <= 5);
}

TEST_CASE_METHOD(World, "a service's problem arrives with its status, detail and Retry-After; internals do not") {
  const HttpAnswer absent = Get("/mainstay/v1/jobs/absent");
  CHECK(absent.status == 404);
  CHECK(absent.body.find("there is no such job") != std::string::npos);
  const HttpAnswer busy = Get("/mainstay/v1/jobs/busy");
  CHECK(busy.status == 503);
  CHECK(Type(busy) == "overloaded");
  CHECK(busy.headers.find("retry-after: 7") != std::string::npos);
  const HttpAnswer boom = Get("/mainstay/v1/jobs/boom");
  CHECK(boom.status == 500);
  CHECK(boom.body.find("hunter2") == std::string::npos);
}

TEST_CASE_METHOD(World, "a service that is away is 503 with Retry-After, the others work") {
  const HttpAnswer away = Get("/mainstay/v1/webhook-events/evt_1");
  CHECK(away.status == 503);
  CHECK(Type(away) == "service-unavailable");
  CHECK(away.headers.find("retry-after: ") != std::string::npos);
  CHECK(Get("/mainstay/v1/jobs/job_1").status == 200);
}

TEST_CASE_METHOD(World, "scope, route, method, parameters and bodies are refused as the conventions say") {
  CHECK(Get("/mainstay/v1/jobs/job_1", {"x-role: nobody"}).status == 403);
  CHECK(Type(Get("/mainstay/v1/nope")) == "not-found");
  CHECK(Type(Get("/mainstay/v1/jobs/job_1/")) == "not-found");
  const HttpAnswer method = Http(server->port(), "DELETE", "/mainstay/v1/jobs");
  CHECK(method.status == 405);
  CHECK(method.headers.find("allow: GET, HEAD, POST") != std::string::npos);
  CHECK(Http(server->port(), "OPTIONS", "/mainstay/v1/jobs").status == 204);
  CHECK(Type(Get("/mainstay/v1/jobs/job_1?nope=1")) == "invalid-parameter");
  CHECK(Type(Get("/mainstay/v1/jobs?filter[a[b]=1")) == "invalid-parameter");
  CHECK(Type(Get("/mainstay/v1/jobs?limit=0")) == "invalid-parameter");
  CHECK(Type(Get("/mainstay/v1/jobs/job_1", {"Accept: text/html"})) == "not-acceptable");
  CHECK(Get("/mainstay/v1/jobs/job_1", {"Accept: text/html, application/*;q=0.5"}).status == 200);
  CHECK(Type(Post("/mainstay/v1/jobs", "{}", {"Content-Type: text/plain"})) == "unsupported-media-type");
  CHECK(Type(Post("/mainstay/v1/jobs", "{}", {"Content-Type: application/json; charset=latin1"})) ==
        "unsupported-media-type");
  CHECK(Type(Post("/mainstay/v1/jobs", "{}", {"Content-Type: application/json", "Content-Encoding: gzip"})) ==
        "unsupported-media-type");
  CHECK(Type(Post("/mainstay/v1/jobs", "{", kJson)) == "json-invalid");
  CHECK(Type(Post("/mainstay/v1/jobs", "", kJson)) == "json-invalid");
  CHECK(Type(Post("/mainstay/v1/jobs", R"({"kind":"a","\u006bind":"b"})", kJson)) == "json-duplicate-key");
  CHECK(Type(Post("/mainstay/v1/jobs", std::string(100000, '['), kJson)) == "json-too-deep");
  const HttpAnswer wrong = Post("/mainstay/v1/jobs", R"({"nope":1,"a/b":2,"id":"x","priority":"1"})", kJson);
  INFO(wrong.body);
  CHECK(wrong.status == 422);
  for (const char* part :
       {"\"/nope\"", "\"/a~1b\"", "5 fields are wrong", "\"/priority\"", "\"/kind\"", "required", "unknown_field"}) {
    INFO(part);
    CHECK(wrong.body.find(part) != std::string::npos);
  }
  CHECK(Type(Post("/mainstay/v1/jobs", StrCat(R"({"kind":")", std::string(2 << 20, 'a'), "\"}"), kJson)) ==
        "content-too-large");
}

TEST_CASE_METHOD(World, "a creation answers 201 with Location, free JSON verbatim") {
  const HttpAnswer created =
      Post("/mainstay/v1/jobs", R"({"kind":"mail","args":{"n": 12345678901234567890, "z":[ ]}})", kJson);
  CHECK(created.status == 201);
  CHECK(created.headers.find("location: /mainstay/v1/jobs/job_new") != std::string::npos);
  CHECK(created.body.find(R"("args":{"n": 12345678901234567890, "z":[ ]})") != std::string::npos);
}

TEST_CASE_METHOD(World, "an upload arrives whole, in chunks, with its name") {
  std::string file;
  for (int i = 0; i < 500000; ++i) StrAppend(&file, i, ",x\n");
  const HttpAnswer answer = Post("/mainstay/v1/imports?resource=customers&mode=upsert", file,
                                 {"Content-Type: text/csv", "X-Filename: ..%2Fcustomers.csv"});
  CHECK(answer.status == 201);
  const auto document = JsonDocument::Parse(answer.body);
  REQUIRE(document.ok());
  CHECK(document->root().Find("file_size")->text() == StrCat(file.size()));
  CHECK(document->root().Find("sha256")->text() == Imports::HexEncodedSha256(file));
  CHECK(document->root().Find("file_name")->text() == "customers.csv");
  CHECK(document->root().Find("resource")->text() == "customers");
}

TEST_CASE_METHOD(World, "an upload that the service ends early answers its problem") {
  const HttpAnswer answer =
      Post("/mainstay/v1/imports?resource=refused", std::string(100000, 'x'), {"Content-Type: text/csv"});
  CHECK(Type(answer) == "unsupported-media-type");
  CHECK(Type(Post("/mainstay/v1/imports?nope=1", "x", {"Content-Type: text/csv"})) == "invalid-parameter");
  CHECK(Type(Post("/mainstay/v1/imports?resource=a", "x", {"Content-Type: multipart/form-data; boundary=b"})) ==
        "unsupported-media-type");
}

TEST_CASE_METHOD(World, "a download streams through, its name made safe; a problem before the first byte is one") {
  const HttpAnswer answer = Get("/mainstay/v1/imports/imp_1/report");
  CHECK(answer.status == 200);
  CHECK(answer.body.size() == 100 * (64 << 10));
  CHECK(answer.headers.find("content-type: text/csv") != std::string::npos);
  CHECK(answer.headers.find("filename*=UTF-8''r%C3%A9.csv") != std::string::npos);
  CHECK(Type(Get("/mainstay/v1/imports/absent/report")) == "not-found");
  // Broken in the middle: no end of the chunked body, so curl reports an error.
  CHECK(Get("/mainstay/v1/imports/broken/report").status == 0);
}

TEST_CASE_METHOD(World, "a client that goes away cancels its call") {
  std::thread client([&] {
    CURL* curl = curl_easy_init();
    curl_easy_setopt(curl, CURLOPT_URL, StrCat("http://127.0.0.1:", server->port(), "/mainstay/v1/jobs/hang").c_str());
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 300L);
    curl_easy_perform(curl);
    curl_easy_cleanup(curl);
  });
  client.join();
  CHECK(jobs_service.cancelled.WaitForNotificationWithTimeout(absl::Seconds(5)));
}

}  // namespace mainstay::gateway
