// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/frames.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>

namespace mainstay::jobs {
namespace {

void Feed(FrameBuffer& buffer, std::string_view bytes) {
  std::memcpy(buffer.Space(bytes.size()), bytes.data(), bytes.size());
  buffer.Wrote(bytes.size());
}

TEST_CASE("a job and a result come over as they were, in whatever pieces the bytes arrive") {
  JobData job;
  job.id = NewUuid();
  job.fence = int64_t{1} << 40;
  job.attempt = 3;
  job.max_attempts = 25;
  job.version = 2;
  job.kind = "mail.send";
  job.queue = "mails";
  job.args = std::string(300, 'x') + std::string(1, '\0') + "y";
  job.checkpoint = "{\"at\":1}";
  job.tenant = "acme";
  job.principal = "{}";
  job.traceparent = "00-1-2-01";
  job.request_id = "r";
  job.soft_limit = absl::Minutes(30);
  job.backoff = {.kind = BackoffPolicy::Kind::kFixed, .base = absl::Seconds(3), .cap = absl::Hours(2)};
  ChildResult result;
  result.slot = 300;
  result.ran_us = 12345678;
  result.finished_in = true;
  result.outcome = Outcome::Retry("code", "message", absl::Milliseconds(1500));
  result.successors = {{"stream", "entry"}};
  std::string bytes;
  {
    FrameWriter frame(bytes, FrameType::kJobs);
    frame.Number(7);
    WriteJob(frame, job);
  }
  {
    FrameWriter frame(bytes, FrameType::kResults);
    WriteResult(frame, result);
  }
  const size_t piece = GENERATE(1, 3, 64, 100000);
  FrameBuffer buffer;
  std::vector<std::pair<FrameType, std::string>> frames;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    Feed(buffer, std::string_view(bytes).substr(at, piece));
    while (const auto frame = buffer.Next()) frames.emplace_back(frame->first, frame->second);
  }
  REQUIRE(frames.size() == 2);
  FrameReader jobs(frames[0].second);
  JobData got;
  CHECK(jobs.Number() == 7);
  REQUIRE(ReadJob(jobs, got));
  CHECK(jobs.done());
  CHECK(got.id == job.id);
  CHECK(got.fence == job.fence);
  CHECK(got.attempt == 3);
  CHECK(got.version == 2);
  CHECK(got.args == job.args);
  CHECK(got.checkpoint == job.checkpoint);
  CHECK(got.tenant == "acme");
  CHECK(got.soft_limit == job.soft_limit);
  CHECK(got.backoff.kind == job.backoff.kind);
  CHECK(got.backoff.cap == job.backoff.cap);
  FrameReader results(frames[1].second);
  ChildResult back;
  REQUIRE(ReadResult(results, back));
  CHECK(results.done());
  CHECK(back.slot == 300);
  CHECK(back.ran_us == 12345678);
  CHECK(back.finished_in);
  CHECK_FALSE(back.unstarted);
  CHECK(back.outcome.kind == Outcome::Kind::kRetry);
  CHECK(back.outcome.message == "message");
  CHECK(back.outcome.after == absl::Milliseconds(1500));
  REQUIRE(back.successors.size() == 1);
  CHECK(back.successors[0].entry == "entry");
}

TEST_CASE("what is cut off, too long or out of range does not decode") {
  std::string bytes;
  {
    FrameWriter frame(bytes, FrameType::kResults);
    ChildResult result;
    result.outcome = Outcome::Done("{\"a\":1}");
    WriteResult(frame, result);
  }
  const std::string body = bytes.substr(5);
  for (size_t n = 0; n < body.size(); ++n) {
    ChildResult result;
    FrameReader frame(std::string_view(body).substr(0, n));
    INFO(n);
    CHECK_FALSE(ReadResult(frame, result));
  }
  FrameBuffer long_one;
  Feed(long_one, std::string("\xff\xff\xff\x7f\x11", 5));
  CHECK_FALSE(long_one.Next().has_value());
  CHECK(long_one.broken());
  FrameReader endless(std::string_view("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12));
  endless.Number();
  CHECK_FALSE(endless.ok());
}

}  // namespace
}  // namespace mainstay::jobs
