// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/job_options.h"

#include <charconv>

#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"

namespace mainstay::jobs {
namespace {

constexpr absl::Duration kMaxBackoff = absl::Hours(24 * 30), kMaxLimit = absl::Hours(24 * 30),
                         kMaxRetention = absl::Hours(24 * 3650);

constexpr std::string_view kExponential = "exponential", kFixed = "fixed";

// A whole number that is not negative.
absl::Status Read(const JsonValue& object, std::string_view key, absl::Duration unit,
                  std::optional<absl::Duration>* out) {
  const JsonValue* value = object.Find(key);
  if (value == nullptr) return absl::OkStatus();
  int64_t number = -1;
  if (value->is_number()) {
    const std::string_view text = value->text();
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size()) number = -1;
  }
  if (number < 0) return absl::InvalidArgumentError(StrCat("options of a job: ", key, " is not a number of 0 or more"));
  *out = number * unit;
  return absl::OkStatus();
}

}  // namespace

BackoffPolicy JobOptions::Over(BackoffPolicy policy) const {
  policy.kind = backoff.value_or(policy.kind);
  policy.base = backoff_base.value_or(policy.base);
  policy.cap = backoff_cap.value_or(policy.cap);
  return policy;
}

void Validate(const JobOptions& options, std::string_view at, std::vector<FieldError>& errors) {
  auto wrong = [&](std::string_view field, std::string_view detail) {
    errors.push_back({.name = StrCat(at, "/", field), .code = "out_of_range", .detail = std::string(detail)});
  };
  auto between = [](const std::optional<absl::Duration>& value, absl::Duration least, absl::Duration most) {
    return !value.has_value() || (*value >= least && *value <= most);
  };
  if (!between(options.backoff_base, absl::Milliseconds(1), kMaxBackoff))
    wrong("backoff/base", "expected 1 ms to 30 days");
  if (!between(options.backoff_cap, absl::Milliseconds(1), kMaxBackoff)) {
    wrong("backoff/cap", "expected 1 ms to 30 days");
  } else if (options.backoff_cap.has_value() && options.backoff_base.has_value() &&
             *options.backoff_cap < *options.backoff_base) {
    wrong("backoff/cap", "less than the base");
  }
  if (!between(options.soft_limit, absl::Milliseconds(1), kMaxLimit)) wrong("soft_limit", "expected 1 ms to 30 days");
  if (!between(options.hard_limit, absl::Milliseconds(1), kMaxLimit)) {
    wrong("hard_limit", "expected 1 ms to 30 days");
  } else if (options.hard_limit.has_value() && options.soft_limit.has_value() &&
             *options.hard_limit < *options.soft_limit) {
    wrong("hard_limit", "less than the soft limit");
  }
  if (!between(options.retention, absl::ZeroDuration(), kMaxRetention)) wrong("retention", "expected 0 to 3650 days");
}

std::string FormatJobOptions(const JobOptions& options) {
  std::string json;
  if (options.empty()) return json;
  JsonWriter w(json);
  w.BeginObject();
  if (options.backoff.has_value() || options.backoff_base.has_value() || options.backoff_cap.has_value()) {
    w.Key("backoff").BeginObject();
    if (options.backoff.has_value())
      w.Key("kind").String(*options.backoff == BackoffPolicy::Kind::kFixed ? kFixed : kExponential);
    if (options.backoff_base.has_value()) w.Key("base_ms").Int(absl::ToInt64Milliseconds(*options.backoff_base));
    if (options.backoff_cap.has_value()) w.Key("cap_ms").Int(absl::ToInt64Milliseconds(*options.backoff_cap));
    w.EndObject();
  }
  if (options.soft_limit.has_value()) w.Key("soft_ms").Int(absl::ToInt64Milliseconds(*options.soft_limit));
  if (options.hard_limit.has_value()) w.Key("hard_ms").Int(absl::ToInt64Milliseconds(*options.hard_limit));
  if (options.retention.has_value()) w.Key("retention_s").Int(absl::ToInt64Seconds(*options.retention));
  w.EndObject();
  return json;
}

absl::StatusOr<JobOptions> ParseJobOptions(std::string_view json) {
  JobOptions options;
  if (json.empty()) return options;
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::string(json)));
  if (!document.root().is_object()) return absl::InvalidArgumentError("options of a job: not an object");
  const JsonValue& root = document.root();
  if (const JsonValue* backoff = root.Find("backoff"); backoff != nullptr) {
    if (const JsonValue* kind = backoff->Find("kind"); kind != nullptr) {
      if (!kind->is_string() || (kind->text() != kFixed && kind->text() != kExponential))
        return absl::InvalidArgumentError("options of a job: backoff is neither exponential nor fixed");
      options.backoff = kind->text() == kFixed ? BackoffPolicy::Kind::kFixed : BackoffPolicy::Kind::kExponential;
    }
    RETURN_IF_ERROR(Read(*backoff, "base_ms", absl::Milliseconds(1), &options.backoff_base));
    RETURN_IF_ERROR(Read(*backoff, "cap_ms", absl::Milliseconds(1), &options.backoff_cap));
  }
  RETURN_IF_ERROR(Read(root, "soft_ms", absl::Milliseconds(1), &options.soft_limit));
  RETURN_IF_ERROR(Read(root, "hard_ms", absl::Milliseconds(1), &options.hard_limit));
  RETURN_IF_ERROR(Read(root, "retention_s", absl::Seconds(1), &options.retention));
  return options;
}

}  // namespace mainstay::jobs
