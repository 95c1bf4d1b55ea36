// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/handler.h"

#include <catch2/catch.hpp>

#include "libs/base/problem.h"
#include "libs/jobs/engine.h"

namespace mainstay::jobs {
namespace {

TEST_CASE("a status becomes the outcome that fits its code") {
  CHECK(Outcome::FromStatus(absl::OkStatus()).kind == Outcome::Kind::kDone);
  const Outcome retry =
      Outcome::FromStatus(MakeProblem({.type = "overloaded", .detail = "busy", .retry_after = absl::Seconds(7)}));
  CHECK(retry.kind == Outcome::Kind::kRetry);
  CHECK(retry.code == "overloaded");
  CHECK(retry.after == absl::Seconds(7));
  for (const auto code :
       {absl::StatusCode::kUnavailable, absl::StatusCode::kAborted, absl::StatusCode::kDeadlineExceeded,
        absl::StatusCode::kResourceExhausted, absl::StatusCode::kInternal, absl::StatusCode::kUnknown}) {
    CHECK(Outcome::FromStatus(absl::Status(code, "x")).kind == Outcome::Kind::kRetry);
  }
  for (const auto code :
       {absl::StatusCode::kInvalidArgument, absl::StatusCode::kNotFound, absl::StatusCode::kPermissionDenied,
        absl::StatusCode::kFailedPrecondition, absl::StatusCode::kUnimplemented, absl::StatusCode::kAlreadyExists}) {
    CHECK(Outcome::FromStatus(absl::Status(code, "x")).kind == Outcome::Kind::kDead);
  }
}

TEST_CASE("the registry finds what was registered and lists it") {
  Registry registry;
  registry.Register("a.b", [](RunningJob&) { return Outcome::Done(); });
  registry.Register("c", [](RunningJob&) { return Outcome::Done(); });
  CHECK(registry.Find("a.b") != nullptr);
  CHECK(registry.Find("a") == nullptr);
  CHECK(registry.routes() == std::vector<std::string>{"a.b", "c"});
}

TEST_CASE("the registry tells all its kinds, with schemas where there are some") {
  Registry registry;
  registry.Register("a.b", [](RunningJob&) { return Outcome::Done(); });
  registry.SetSchema("c", R"({"type": "object"})", 2);
  registry.Register("c", [](RunningJob&) { return Outcome::Done(); }, {1, 2});
  const auto specs = registry.specs();
  REQUIRE(specs.size() == 3);
  CHECK(specs[0].kind == "a.b");
  CHECK(specs[0].schema.empty());
  CHECK(specs[1].kind == "c");
  CHECK(specs[1].version == 1);
  CHECK(specs[1].schema.empty());
  CHECK(specs[2].version == 2);
  CHECK(specs[2].schema == R"({"type": "object"})");
  CHECK(registry.routes() == std::vector<std::string>{"a.b", "c@1", "c@2"});
}

TEST_CASE("wrong engine options are named, all at once") {
  CHECK(Validate(EngineOptions()).ok());
  const absl::Status status =
      Validate({.executors = 0, .heartbeat = absl::Seconds(5), .lease = absl::Seconds(6), .window = 1});
  const std::string text(status.message());
  CHECK(text.find("executors") != std::string::npos);
  CHECK(text.find("lease") != std::string::npos);
  CHECK(text.find("window") != std::string::npos);
}

}  // namespace
}  // namespace mainstay::jobs
