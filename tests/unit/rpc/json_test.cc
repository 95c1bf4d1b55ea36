// SPDX-License-Identifier: Apache-2.0
#include "libs/rpc/json.h"

#include <google/protobuf/util/message_differencer.h>

#include <catch2/catch.hpp>
#include <limits>
#include <map>

#include "mainstay/common/v1/common.pb.h"
#include "mainstay/jobs/v1/jobs.pb.h"
#include "mainstay/transfer/v1/transfer.pb.h"

namespace mainstay::rpc {
namespace {

namespace jobs = mainstay::jobs::v1;

std::string ToJson(const google::protobuf::Message& message) {
  std::string out;
  AppendJson(message, out);
  return out;
}
bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Pointer → code of every error.
std::map<std::string, std::string> Errors(std::string text, google::protobuf::Message& message) {
  const auto document = JsonDocument::Parse(std::move(text));
  REQUIRE(document.ok());
  std::map<std::string, std::string> out;
  for (const auto& error : ProblemFromStatus(FromJson(document->root(), message)).errors) out[error.name] = error.code;
  return out;
}

}  // namespace

TEST_CASE("a message becomes JSON by the API's conventions, with every field") {
  jobs::Job job;
  job.set_id("job_1");
  job.set_state(jobs::JOB_STATE_READY);
  job.set_args(R"({ "n":1.10 })");
  job.set_fence(std::numeric_limits<int64_t>::max());
  job.mutable_created_at()->set_seconds(1800000000);
  job.mutable_created_at()->set_nanos(123456789);
  job.add_tags("a\"b");
  const std::string json = ToJson(job);
  CHECK(Contains(json, R"("state":"ready")"));
  CHECK(Contains(json, R"("args":{ "n":1.10 })"));
  CHECK(Contains(json, R"("fence":"9223372036854775807")"));
  CHECK(Contains(json, R"("created_at":"2027-01-15T08:00:00.123456Z")"));
  CHECK(Contains(json, R"("tags":["a\"b"])"));
  CHECK(Contains(json, R"("max_attempts":0)"));
  CHECK(Contains(json, R"("result":null)"));
  CHECK(Contains(json, R"("finished_at":null)"));
  CHECK(Contains(json, R"("errors":[])"));
  CHECK(JsonDocument::Parse(json).ok());
}

TEST_CASE("an unset enum is null, and maps are sorted objects") {
  CHECK(Contains(ToJson(jobs::Job()), R"("state":null)"));
  transfer::v1::Import import;
  (*import.mutable_errors_by_code())["z"] = 2;
  (*import.mutable_errors_by_code())["a"] = 1;
  CHECK(Contains(ToJson(import), R"("errors_by_code":{"a":"1","z":"2"})"));
}

TEST_CASE("what clients may send reads back") {
  jobs::NewJob job;
  const auto document = JsonDocument::Parse(
      R"({"kind":"mail.send","queue":"mail","priority":3,"args":{"big":12345678901234567890},"run_at":"2026-11-24T09:15:30+01:00",
    "delay":"1.5s","unique_key":"u","ordering_key":null,"max_attempts":5,"tags":["x","y"]})");
  REQUIRE(document.ok());
  REQUIRE(FromJson(document->root(), job).ok());
  CHECK(job.kind() == "mail.send");
  CHECK(job.priority() == 3);
  CHECK(job.args() == R"({"big":12345678901234567890})");
  CHECK(job.run_at().seconds() == 1795508130);
  CHECK(job.delay().seconds() == 1);
  CHECK(job.delay().nanos() == 500000000);
  CHECK(job.tags_size() == 2);
  jobs::NewJob again;
  const auto second = JsonDocument::Parse(ToJson(job));
  REQUIRE(second.ok());
  REQUIRE(FromJson(second->root(), again).ok());
  CHECK(google::protobuf::util::MessageDifferencer::Equals(job, again));
}

TEST_CASE("64-bit integers are read from strings and numbers, exactly or not at all") {
  common::v1::FileInfo info;
  for (const char* good : {R"({"size":"9223372036854775807"})", R"({"size":9223372036854775807})"}) {
    CHECK(Errors(good, info).empty());
    CHECK(info.size() == std::numeric_limits<int64_t>::max());
  }
  for (const char* bad : {R"({"size":"9223372036854775808"})", R"({"size":1.0})", R"({"size":1e2})", R"({"size":" 1"})",
                          R"({"size":"+1"})", R"({"size":""})", R"({"size":true})"}) {
    INFO(bad);
    CHECK(Errors(bad, info) ==
          std::map<std::string, std::string>{
              {"/size", std::string_view(bad).find("775808") != std::string::npos ? "out_of_range" : "invalid_type"}});
  }
}

TEST_CASE("every mistake is named at once, with its pointer") {
  jobs::BatchEnqueueJobsRequest request;
  CHECK(Errors(R"({"items":[{"kind":"a"},{"priority":"3","nope":1,"tags":["x",2]},7],"extra":1})", request) ==
        std::map<std::string, std::string>{{"/items/1/priority", "invalid_type"},
                                           {"/items/1/nope", "unknown_field"},
                                           {"/items/1/tags/1", "invalid_type"},
                                           {"/items/1/kind", "required"},
                                           {"/items/2", "invalid_type"},
                                           {"/extra", "unknown_field"}});
  jobs::Job job;
  CHECK(Errors(R"({"state":"ready","fence":"1"})", job) ==
        std::map<std::string, std::string>{{"/state", "read_only"}, {"/fence", "read_only"}});
  common::v1::ListQuery query;
  CHECK(Errors(R"({"count":"EXACT","deleted":"include"})", query) ==
        std::map<std::string, std::string>{{"/count", "invalid_value"}});
  CHECK(query.deleted() == common::v1::DELETED_MODE_INCLUDE);
  jobs::NewJob new_job;
  CHECK(Errors(R"({"kind":"a\u0000b"})", new_job) ==
        std::map<std::string, std::string>{{"/kind", "invalid_characters"}});
  CHECK(Errors(R"({"kind":"a","runAt":"2026-11-24T08:15:30Z"})", new_job) ==
        std::map<std::string, std::string>{{"/runAt", "unknown_field"}});
  CHECK(Errors("[]", new_job) == std::map<std::string, std::string>{{"", "invalid_type"}});
}

TEST_CASE("parameters are read from text") {
  jobs::GetJobRequest request;
  const auto& wait = *request.GetDescriptor()->FindFieldByName("wait");
  CHECK(SetFromText(request, wait, "30s").empty());
  CHECK(request.wait().seconds() == 30);
  CHECK_FALSE(SetFromText(request, wait, "soon").empty());
  transfer::v1::ImportOptions options;
  const auto& dry_run = *options.GetDescriptor()->FindFieldByName("dry_run");
  CHECK(SetFromText(options, dry_run, "true").empty());
  CHECK(options.dry_run());
  CHECK_FALSE(SetFromText(options, dry_run, "1").empty());
}

TEST_CASE("a number that does not fit is out_of_range, one that is no integer invalid_type, NUL invalid_characters") {
  const auto code = [](std::string json) {
    const auto document = JsonDocument::Parse(std::move(json));
    REQUIRE(document.ok());
    mainstay::jobs::v1::NewJob job;
    const auto problem = ProblemFromStatus(FromJson(document->root(), job));
    CHECK(problem.detail == "1 field is wrong");
    return problem.errors.empty() ? "" : problem.errors[0].code;
  };
  CHECK(code(R"({"kind":"a","priority":2147483648})") == "out_of_range");
  CHECK(code(R"({"kind":"a","priority":1.0})") == "invalid_type");
  CHECK(code(R"({"kind":"a","priority":1e2})") == "invalid_type");
  CHECK(code(R"({"kind":"a","queue":"\u0000"})") == "invalid_characters");
}

}  // namespace mainstay::rpc
