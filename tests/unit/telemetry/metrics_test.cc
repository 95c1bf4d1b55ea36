// SPDX-License-Identifier: Apache-2.0
#include "libs/telemetry/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>

#include <catch2/catch.hpp>

namespace mainstay {

TEST_CASE("the same name and labels are the same metric, and it is rendered with its help") {
  metrics::Counter("mainstay_test_things_total", "Things.", {{"kind", "a"}}).Increment(2);
  metrics::Counter("mainstay_test_things_total", "Things.", {{"kind", "a"}}).Increment();
  metrics::Histogram("mainstay_test_seconds", "Time.", metrics::LatencyBuckets()).Observe(0.003);
  const std::string text = metrics::Render();
  CHECK(text.find("# HELP mainstay_test_things_total Things.") != std::string::npos);
  CHECK(text.find("mainstay_test_things_total{kind=\"a\"} 3") != std::string::npos);
  CHECK(text.find("mainstay_test_seconds_bucket{le=\"0.005\"} 1") != std::string::npos);
}

}  // namespace mainstay
