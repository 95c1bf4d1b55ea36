// SPDX-License-Identifier: Apache-2.0
#include "libs/telemetry/trace.h"

#include <catch2/catch.hpp>

namespace mainstay {

TEST_CASE("a traceparent is read and written as W3C Trace Context says") {
  const std::string text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  const auto context = trace::Parse(text);
  REQUIRE(context);
  CHECK(context->Traceparent() == text);
  CHECK(trace::Parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra"));
  CHECK_FALSE(trace::Parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")->sampled);
}

TEST_CASE("malformed traceparents start a new trace") {
  for (const char* bad : {"", "00", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                          "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                          "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                          "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                          "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
                          "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}) {
    INFO(bad);
    CHECK_FALSE(trace::Parse(bad));
    CHECK(trace::Parse(trace::Child(bad).Traceparent()));
  }
}

TEST_CASE("a child stays in its parent's trace with a span of its own") {
  const auto parent = trace::New();
  const auto child = trace::Child(parent.Traceparent());
  CHECK(child.trace_id == parent.trace_id);
  CHECK(child.span_id != parent.span_id);
}

}  // namespace mainstay
