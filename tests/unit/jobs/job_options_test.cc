// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/job_options.h"

#include <catch2/catch.hpp>

#include "tests/support/status.h"

namespace mainstay::jobs {
namespace {

using testing::IsOk;

TEST_CASE("what a job asks for reads back as it was written, and nothing leaves the row empty") {
  CHECK(FormatJobOptions({}).empty());
  CHECK(JobOptions().empty());
  const JobOptions all{.backoff = BackoffPolicy::Kind::kFixed,
                       .backoff_base = absl::Milliseconds(1500),
                       .backoff_cap = absl::Minutes(2),
                       .soft_limit = absl::Seconds(3),
                       .hard_limit = absl::Seconds(4),
                       .retention = absl::Hours(24)};
  CHECK(
      FormatJobOptions(all) ==
      R"({"backoff":{"kind":"fixed","base_ms":1500,"cap_ms":120000},"soft_ms":3000,"hard_ms":4000,"retention_s":86400})");
  const auto read = ParseJobOptions(FormatJobOptions(all));
  REQUIRE_THAT(read, IsOk());
  CHECK(*read == all);
  const JobOptions one{.soft_limit = absl::Seconds(3)};
  CHECK(*ParseJobOptions(FormatJobOptions(one)) == one);
  CHECK(*ParseJobOptions("") == JobOptions());
}

TEST_CASE("notes of others in a job's options are passed over, broken ones of ours are not") {
  const auto read = ParseJobOptions(R"({"retried": {"by": "x"}, "hard_ms": 5})");
  REQUIRE_THAT(read, IsOk());
  CHECK(read->hard_limit == absl::Milliseconds(5));
  for (const char* bad : {"[]", "{", R"({"hard_ms": -1})", R"({"soft_ms": "1"})", R"({"retention_s": 1.5})",
                          R"({"backoff": {"kind": "linear"}})"}) {
    INFO(bad);
    CHECK_FALSE(ParseJobOptions(bad).ok());
  }
}

TEST_CASE("a job's own policy stands over its queue's, member by member") {
  const BackoffPolicy queue{.base = absl::Seconds(7), .cap = absl::Hours(1)};
  const BackoffPolicy own = JobOptions{.backoff_cap = absl::Minutes(5)}.Over(queue);
  CHECK(own.kind == BackoffPolicy::Kind::kExponential);
  CHECK(own.base == absl::Seconds(7));
  CHECK(own.cap == absl::Minutes(5));
  CHECK(JobOptions{.backoff = BackoffPolicy::Kind::kFixed}.Over(queue).kind == BackoffPolicy::Kind::kFixed);
}

TEST_CASE("impossible options are named, each one") {
  std::vector<FieldError> errors;
  Validate({.backoff_base = absl::ZeroDuration(),
            .backoff_cap = absl::Hours(24 * 31),
            .soft_limit = -absl::Seconds(1),
            .hard_limit = absl::InfiniteDuration(),
            .retention = -absl::Seconds(1)},
           "/items/3", errors);
  std::string names;
  for (const auto& error : errors) names += error.name + " ";
  CHECK(names ==
        "/items/3/backoff/base /items/3/backoff/cap /items/3/soft_limit /items/3/hard_limit /items/3/retention ");
  errors.clear();
  Validate({.backoff_base = absl::Seconds(2),
            .backoff_cap = absl::Seconds(1),
            .soft_limit = absl::Seconds(2),
            .hard_limit = absl::Seconds(1)},
           "", errors);
  REQUIRE(errors.size() == 2);
  CHECK(errors[0].name == "/backoff/cap");
  CHECK(errors[1].name == "/hard_limit");
  errors.clear();
  Validate({.soft_limit = absl::Seconds(1), .hard_limit = absl::Seconds(1), .retention = absl::ZeroDuration()}, "",
           errors);
  CHECK(errors.empty());
}

}  // namespace
}  // namespace mainstay::jobs
