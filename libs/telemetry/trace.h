// SPDX-License-Identifier: Apache-2.0
// W3C Trace Context (https://www.w3.org/TR/trace-context/): parse, make, pass on. One trace shows the way from the HTTP
// request to the outbound call.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mainstay::trace {

struct SpanContext {
  std::string trace_id;  // 32 lower-case hex
  std::string span_id;   // 16
  bool sampled = true;
  std::string Traceparent() const;
};

std::optional<SpanContext> Parse(std::string_view traceparent);
SpanContext New();
// A new span in the trace of `parent` ("" or malformed: a new trace).
SpanContext Child(std::string_view parent);

}  // namespace mainstay::trace
