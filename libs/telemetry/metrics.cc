// SPDX-License-Identifier: Apache-2.0
#include "libs/telemetry/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <sstream>

namespace mainstay::metrics {
namespace {

// prometheus-cpp returns the existing family and metric when asked again for the same name and labels.
prometheus::Registry& Registry() {
  static prometheus::Registry& registry = *new prometheus::Registry(prometheus::Registry::InsertBehavior::Merge);
  return registry;
}

}  // namespace

prometheus::Counter& Counter(const std::string& name, const std::string& help, const Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(Registry()).Add(labels);
}

prometheus::Gauge& Gauge(const std::string& name, const std::string& help, const Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(Registry()).Add(labels);
}

prometheus::Histogram& Histogram(const std::string& name, const std::string& help, const std::vector<double>& buckets,
                                 const Labels& labels) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(Registry()).Add(labels, buckets);
}

const std::vector<double>& LatencyBuckets() {
  static const std::vector<double> buckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                              0.5,   1,      2.5,   5,    10,    30,   60};
  return buckets;
}

std::string Render() {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, Registry().Collect());
  return out.str();
}

}  // namespace mainstay::metrics
