// SPDX-License-Identifier: Apache-2.0
#include "libs/base/problem.h"

#include <catch2/catch.hpp>
#include <set>

#include "libs/base/json.h"

namespace mainstay {

TEST_CASE("a problem survives its way through a status") {
  Problem problem{.type = "validation-failed",
                  .detail = "1 field is \"wrong\"",
                  .errors = {{FieldError::Place::kHeader, "If-Match", "invalid", "é"}}};
  problem.retry_after = absl::Milliseconds(1500);
  problem.members = {{"cost", "120"}};
  const absl::Status status = MakeProblem(problem);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  const Problem read = ProblemFromStatus(status);
  CHECK(read.type == "validation-failed");
  CHECK(read.detail == problem.detail);
  REQUIRE(read.errors.size() == 1);
  CHECK(read.errors[0].place == FieldError::Place::kHeader);
  CHECK(read.errors[0].name == "If-Match");
  CHECK(read.errors[0].detail == "é");
  CHECK(read.retry_after == absl::Milliseconds(1500));
  CHECK(read.members == problem.members);
}

TEST_CASE("the body is RFC 9457 with at most 20 errors") {
  Problem problem{.type = "validation-failed"};
  for (int i = 0; i < 30; ++i) problem.errors.push_back({FieldError::Place::kPointer, "/a", "required", "is required"});
  const auto body = JsonDocument::Parse(ProblemJson(problem, "/v1/orders", "req-1"));
  REQUIRE(body.ok());
  CHECK(body->root().Find("type")->text() == "/problems/validation-failed");
  CHECK(body->root().Find("status")->text() == "422");
  CHECK(body->root().Find("instance")->text() == "/v1/orders");
  CHECK(body->root().Find("request_id")->text() == "req-1");
  CHECK(body->root().Find("errors")->items().size() == 20);
  CHECK(body->root().Find("errors")->items()[0].Find("pointer")->text() == "/a");
  CHECK(body->root().Find("detail") == nullptr);
}

TEST_CASE("a status without a problem shows its message only when it speaks of the client's mistake") {
  CHECK(ProblemFromStatus(absl::NotFoundError("no order 7")).detail == "no order 7");
  const Problem internal = ProblemFromStatus(absl::InternalError("relation shop.secret does not exist"));
  CHECK(internal.type == "internal");
  CHECK(internal.detail.empty());
  CHECK(ProblemFromStatus(absl::UnavailableError("10.0.0.7 refused")).detail.empty());
  CHECK(ProblemFromStatus(absl::UnavailableError("x")).retry_after.has_value());
}

TEST_CASE("503 and 429 always say when to come back") {
  for (const ProblemType& type : ProblemTypes()) {
    INFO(std::string(type.slug));
    const Problem problem = ProblemFromStatus(MakeProblem(type.slug, "x"));
    CHECK(problem.type == type.slug);
    if (type.http_status == 503 || type.http_status == 429) CHECK(problem.retry_after.has_value());
  }
}

TEST_CASE("the table has each slug once, in the order of the statuses, with help") {
  std::set<std::string_view> slugs;
  int last = 400;
  for (const ProblemType& type : ProblemTypes()) {
    CHECK(slugs.insert(type.slug).second);
    CHECK(type.http_status >= last);
    CHECK_FALSE(type.help.empty());
    last = type.http_status;
  }
}

TEST_CASE("an unknown slug is internal") {
  CHECK(FindProblemType("no-such").http_status == 500);
}

}  // namespace mainstay
