// SPDX-License-Identifier: Apache-2.0
// Prometheus metrics of this process (prometheus-cpp), one registry. Names: mainstay_<what>_<unit>[_total]; never a
// tenant, key, URL or job id as a label.
#pragma once

#include <initializer_list>
#include <map>
#include <string>
#include <vector>

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace mainstay::metrics {

using Labels = std::map<std::string, std::string>;

// References stay valid for the life of the process; keep them (a look-up takes a lock).
prometheus::Counter& Counter(const std::string& name, const std::string& help, const Labels& labels = {});
prometheus::Gauge& Gauge(const std::string& name, const std::string& help, const Labels& labels = {});
prometheus::Histogram& Histogram(const std::string& name, const std::string& help, const std::vector<double>& buckets,
                                 const Labels& labels = {});
// Seconds from 1 ms to 60 s.
const std::vector<double>& LatencyBuckets();
// The text format (version 0.0.4).
std::string Render();

}  // namespace mainstay::metrics
