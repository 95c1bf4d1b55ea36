// SPDX-License-Identifier: Apache-2.0
#include "libs/rpc/transcoder.h"

#include <google/protobuf/message.h>

#include <catch2/catch.hpp>
#include <set>

#include "absl/strings/str_split.h"
#include "libs/base/problem.h"
#include "mainstay/jobs/v1/jobs.pb.h"
#include "mainstay/transfer/v1/transfer.pb.h"

namespace mainstay::rpc {
namespace {

struct World {
  Transcoder transcoder{
      {{"mainstay/jobs/v1/jobs.proto", "worker"}, {"mainstay/transfer/v1/transfer.proto", "transfer"}}};

  absl::StatusOr<Transcoder::Match> Find(const std::string& method, const std::string& path,
                                         std::string* allow = nullptr) {
    return transcoder.Find(method, absl::StrSplit(path.substr(1), '/'), allow);
  }
  std::string Rpc(const std::string& method, const std::string& path) {
    const auto match = Find(method, path);
    return match.ok() ? match->route->method->name() : ProblemFromStatus(match.status()).type;
  }
  absl::StatusOr<std::unique_ptr<google::protobuf::Message>> Request(const std::string& method, const std::string& path,
                                                                     const std::string& query,
                                                                     const std::string& body = "") {
    const auto match = Find(method, path);
    if (!match.ok()) return match.status();
    if (body.empty()) return transcoder.Request(*match, query, nullptr);
    document = *JsonDocument::Parse(body);
    return transcoder.Request(*match, query, &document.root());
  }
  JsonDocument document;
};

}  // namespace

TEST_CASE_METHOD(World, "paths find their RPC: literals, variables, verbs") {
  CHECK(Rpc("GET", "/mainstay/v1/jobs") == "ListJobs");
  CHECK(Rpc("HEAD", "/mainstay/v1/jobs") == "ListJobs");
  CHECK(Rpc("POST", "/mainstay/v1/jobs") == "EnqueueJob");
  CHECK(Rpc("POST", "/mainstay/v1/jobs:batchCreate") == "BatchEnqueueJobs");
  CHECK(Rpc("GET", "/mainstay/v1/jobs/job_1") == "GetJob");
  CHECK(Rpc("POST", "/mainstay/v1/jobs/job_1:cancel") == "CancelJob");
  CHECK(Rpc("GET", "/mainstay/v1/imports/imp_1/errors") == "ListImportErrors");
  CHECK(Find("POST", "/mainstay/v1/jobs/job_1:cancel")->variables ==
        std::vector<std::pair<std::string, std::string>>{{"id", "job_1"}});
}

TEST_CASE_METHOD(World, "what is not there is 404, another method 405 with Allow") {
  for (const char* path : {"/mainstay/v1/nothing", "/mainstay/v1/jobs/a/b", "/mainstay/v1/jobs/", "/mainstay/v1",
                           "/mainstay/v1/jobs:nothing", "/mainstay/v1/jobs/:cancel"}) {
    INFO(path);
    CHECK(Rpc("GET", path) == "not-found");
  }
  std::string allow;
  CHECK(ProblemFromStatus(Find("DELETE", "/mainstay/v1/jobs", &allow).status()).type == "method-not-allowed");
  CHECK(allow == "GET, HEAD, POST");
}

TEST_CASE_METHOD(World, "no internal method is routed, and every routed one has a scope") {
  std::set<std::string> names;
  for (const Route& route : transcoder.routes()) {
    CHECK_FALSE(route.scope.empty());
    names.insert(route.method->full_name());
  }
  CHECK(names.count("mainstay.transfer.v1.BlobsService.ReadBlob") == 0);
  CHECK(names.count("mainstay.transfer.v1.ImportsService.CreateImport") == 1);
}

TEST_CASE_METHOD(World, "list parameters go through the one query parser, others to their fields") {
  const auto list = Request("GET", "/mainstay/v1/jobs", "filter%5Bstate%5D=ready&sort=-created_at&limit=10");
  REQUIRE(list.ok());
  const auto& query = static_cast<const jobs::v1::ListJobsRequest&>(**list).query();
  CHECK(query.limit() == 10);
  CHECK(query.sort(0).descending());
  CHECK(query.DebugString().find("ready") != std::string::npos);
  const auto get = Request("GET", "/mainstay/v1/jobs/job_1", "wait=5s");
  REQUIRE(get.ok());
  CHECK(static_cast<const jobs::v1::GetJobRequest&>(**get).wait().seconds() == 5);
  CHECK(static_cast<const jobs::v1::GetJobRequest&>(**get).id() == "job_1");
}

TEST_CASE_METHOD(World, "unknown, repeated and malformed parameters are refused by name") {
  for (const char* query : {"nope=1", "wait=1s&wait=2s", "wait=soon", "id=job_2"}) {
    INFO(query);
    const auto request = Request("GET", "/mainstay/v1/jobs/job_1", query);
    CHECK(ProblemFromStatus(request.status()).type == "invalid-parameter");
  }
  CHECK_FALSE(Request("GET", "/mainstay/v1/jobs", "nope=1").ok());
}

TEST_CASE_METHOD(World, "bodies fill the message or the named field") {
  const auto enqueue = Request("POST", "/mainstay/v1/jobs", "", R"({"kind":"a","args":{"x":1}})");
  REQUIRE(enqueue.ok());
  CHECK(static_cast<const jobs::v1::EnqueueJobRequest&>(**enqueue).job().args() == R"({"x":1})");
  CHECK(ProblemFromStatus(Request("POST", "/mainstay/v1/jobs", "", R"({"kind":""})").status()).type ==
        "validation-failed");
  CHECK(ProblemFromStatus(Request("POST", "/mainstay/v1/jobs", "").status()).type == "json-invalid");
  const auto cancel = Request("POST", "/mainstay/v1/jobs/job_1:cancel", "", R"({"reason":"r"})");
  REQUIRE(cancel.ok());
  CHECK(static_cast<const jobs::v1::CancelJobRequest&>(**cancel).id() == "job_1");
  CHECK(Request("POST", "/mainstay/v1/jobs/job_1:cancel", "", "").ok());
  CHECK(ProblemFromStatus(Request("POST", "/mainstay/v1/jobs/job_1:cancel", "", R"({"id":"job_2"})").status()).type ==
        "validation-failed");
  CHECK(ProblemFromStatus(Request("GET", "/mainstay/v1/jobs", "", "{}").status()).type == "malformed-request");
}

TEST_CASE_METHOD(World, "an upload's options come from the query") {
  const auto match = Find("POST", "/mainstay/v1/imports");
  REQUIRE(match.ok());
  CHECK(match->route->transfer == Route::Transfer::kUpload);
  CHECK(match->route->success_status == 201);
  const auto first = transcoder.UploadRequest(*match, "resource=customers&mode=upsert&dry_run=true");
  REQUIRE(first.ok());
  CHECK(static_cast<const transfer::v1::CreateImportRequest&>(**first).options().resource() == "customers");
  CHECK(static_cast<const transfer::v1::CreateImportRequest&>(**first).options().dry_run());
  CHECK(ProblemFromStatus(transcoder.UploadRequest(*match, "resourec=customers").status()).type == "invalid-parameter");
}

TEST_CASE_METHOD(World, "a response of another type is an internal error, not garbage") {
  const auto match = Find("GET", "/mainstay/v1/jobs/job_1");
  jobs::v1::Job job;
  job.set_id("job_1");
  CHECK(transcoder.Response(*match->route, job.SerializeAsString())->find(R"("id":"job_1")") != std::string::npos);
  CHECK(transcoder.Response(*match->route, "\xff\xff\xff").status().code() == absl::StatusCode::kInternal);
}

}  // namespace mainstay::rpc
