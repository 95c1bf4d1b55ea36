// SPDX-License-Identifier: Apache-2.0
// The two ends of a call, over a real connection.
#include "libs/rpc/call.h"

#include <grpcpp/grpcpp.h>

#include <catch2/catch.hpp>
#include <stdexcept>

#include "absl/time/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/problem.h"
#include "libs/telemetry/trace.h"
#include "mainstay/jobs/v1/jobs.grpc.pb.h"

namespace mainstay::rpc {
namespace {

namespace pb = mainstay::jobs::v1;

Problem Sample() {
  Problem problem{.type = "validation-failed",
                  .detail = "2 fields are wrong",
                  .errors = {{FieldError::Place::kPointer, "/a", "required", "is required: really"},
                             {FieldError::Place::kParameter, "filter[x]", "invalid", ""}}};
  problem.members = {{"cost", "7"}};
  problem.retry_after = absl::Milliseconds(2500);
  return problem;
}

class Service : public pb::JobsService::Service {
 public:
  explicit Service(const Guard& guard) : guard_(guard) {}
  grpc::Status GetJob(grpc::ServerContext* context, const pb::GetJobRequest* request, pb::Job* job) override {
    return guard_.Handle(*context, "mainstay.jobs.v1.JobsService/GetJob", [&](const CallContext& call) -> absl::Status {
      if (request->id() == "throw") throw std::runtime_error("secret detail");
      if (request->id() == "problem") return MakeProblem(Sample());
      job->set_tenant(call.principal.tenant);
      job->set_principal(call.principal.subject);
      job->set_traceparent(call.traceparent);
      job->set_request_id(call.request_id);
      job->set_fence(absl::ToInt64Milliseconds(call.deadline - absl::Now()));
      return absl::OkStatus();
    });
  }

 private:
  const Guard& guard_;
};

struct World {
  Ed25519KeyPair keys = NewEd25519KeyPair();
  Guard guard{"worker", Verifier("worker", {{"gateway", keys.public_key}}, Clock::Real()),
              [](const std::vector<std::string>& roles, std::string_view scope) {
                return scope == "jobs:read" && roles == std::vector<std::string>{"staff"};
              }};
  Service service{guard};
  int port = 0;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<pb::JobsService::Stub> stub;
  Signer signer{"gateway", keys.private_key, Clock::Real()};
  CallContext call;

  World() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service);
    server = builder.BuildAndStart();
    stub = pb::JobsService::NewStub(Connect("127.0.0.1:" + std::to_string(port)));
    call.principal = {"acme", "key_1", {"staff"}};
    call.deadline = absl::Now() + absl::Seconds(10);
    call.request_id = "req-7";
    call.traceparent = trace::New().Traceparent();
  }
  ~World() { server->Shutdown(); }

  absl::Status Get(const std::string& id, pb::Job* job = nullptr) {
    grpc::ClientContext context;
    PrepareCall(context, call, signer, "worker");
    pb::GetJobRequest request;
    request.set_id(id);
    pb::Job scratch;
    return FromGrpc(stub->GetJob(&context, request, job != nullptr ? job : &scratch));
  }
};

}  // namespace

TEST_CASE_METHOD(World, "principal, deadline, trace and request id reach the handler") {
  pb::Job job;
  REQUIRE(Get("x", &job).ok());
  CHECK(job.tenant() == "acme");
  CHECK(job.principal() == "key_1");
  CHECK(job.request_id() == "req-7");
  CHECK(trace::Parse(job.traceparent())->trace_id == trace::Parse(call.traceparent)->trace_id);
  CHECK(job.traceparent() != call.traceparent);
  CHECK(job.fence() > 1000);
  CHECK(job.fence() <= 10000);
}

TEST_CASE_METHOD(World, "a problem crosses gRPC unchanged") {
  const absl::Status status = Get("problem");
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  const Problem problem = ProblemFromStatus(status), sample = Sample();
  CHECK(problem.type == sample.type);
  CHECK(problem.detail == sample.detail);
  CHECK(problem.members == sample.members);
  CHECK(problem.retry_after == sample.retry_after);
  REQUIRE(problem.errors.size() == 2);
  for (size_t i = 0; i < 2; ++i) {
    CHECK(problem.errors[i].place == sample.errors[i].place);
    CHECK(problem.errors[i].name == sample.errors[i].name);
    CHECK(problem.errors[i].code == sample.errors[i].code);
    CHECK(problem.errors[i].detail == sample.errors[i].detail);
  }
}

TEST_CASE_METHOD(World, "a role without the method's scope is forbidden") {
  call.principal.roles = {"viewer"};
  CHECK(ProblemFromStatus(Get("x")).type == "forbidden");
}

TEST_CASE_METHOD(World, "no token, a forged token: unauthenticated, and the handler never runs") {
  grpc::ClientContext bare;
  pb::Job job;
  CHECK(stub->GetJob(&bare, {}, &job).error_code() == grpc::StatusCode::UNAUTHENTICATED);
  Signer forger("gateway", NewEd25519KeyPair().private_key, Clock::Real());
  grpc::ClientContext forged;
  PrepareCall(forged, call, forger, "worker");
  CHECK(stub->GetJob(&forged, {}, &job).error_code() == grpc::StatusCode::UNAUTHENTICATED);
}

TEST_CASE_METHOD(World, "the principal belongs to the call, not to the connection") {
  pb::Job first, second;
  REQUIRE(Get("x", &first).ok());
  call.principal = {"globex", "key_2", {"staff"}};
  REQUIRE(Get("x", &second).ok());
  CHECK(first.tenant() == "acme");
  CHECK(second.tenant() == "globex");
  CHECK(second.principal() == "key_2");
}

TEST_CASE_METHOD(World, "an exception in a handler is internal and tells the client nothing") {
  const absl::Status status = Get("throw");
  CHECK(status.code() == absl::StatusCode::kInternal);
  CHECK(std::string(status.message()).find("secret") == std::string::npos);
}

}  // namespace mainstay::rpc
