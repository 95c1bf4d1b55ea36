// SPDX-License-Identifier: Apache-2.0
// Errors a client may see: RFC 9457 problem details, carried inside absl::Status.
//
// A library returns MakeProblem("validation-failed", …); the status crosses gRPC as google.rpc details (libs/rpc) and
// leaves over HTTP as application/problem+json (libs/http). Any other absl::Status becomes the generic problem of its
// code, and its message reaches the client only for codes that describe the client's own mistake (see FromStatus).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace mainstay {

// One wrong place in what the client sent.
struct FieldError {
  enum class Place { kPointer, kParameter, kHeader };
  Place place = Place::kPointer;
  std::string name;    // RFC 6901 pointer ("/items/3/price"), query parameter ("filter[age][gte]") or header name
  std::string code;    // stable: "out_of_range", "required", "unknown_field"
  std::string detail;  // for people
};

struct Problem {
  std::string type;                // slug from the table below: "validation-failed"
  std::string detail;              // what is wrong this time; never SQL, hidden names or row values
  std::vector<FieldError> errors;  // at most 20 are sent
  std::optional<absl::Duration> retry_after;
  std::vector<std::pair<std::string, std::string>> members;  // extension members, value as JSON text: {"cost", "120"}
};

// A problem type: fixed once published, never reused for another meaning.
struct ProblemType {
  std::string_view slug;
  int http_status;
  std::string_view title;
  absl::StatusCode code;  // what it is over gRPC
  std::string_view help;  // a paragraph for the page /problems/<slug>
};

// All of them, in the order of their HTTP status.
absl::Span<const ProblemType> ProblemTypes();
// Never fails: an unknown slug is a programming error and gives "internal".
const ProblemType& FindProblemType(std::string_view slug);

// A status with the problem attached. Its code comes from the type, its message is `detail` (or the title).
absl::Status MakeProblem(Problem problem);
absl::Status MakeProblem(std::string_view slug, std::string_view detail, std::vector<FieldError> errors = {});

// The problem in `status`, which must not be OK. Without one attached: InvalidArgument → invalid-parameter, NotFound →
// not-found, PermissionDenied → forbidden, Unauthenticated, Unavailable → overloaded, DeadlineExceeded → query-timeout,
// Aborted → transaction-conflict, ResourceExhausted → quota-exceeded, Unimplemented → not-implemented; everything else
// → internal without detail.
Problem ProblemFromStatus(const absl::Status& status);

// The body: {"type":"/problems/…","title":…,"status":…,"detail":…,"instance":…,"request_id":…,"errors":[…]}.
std::string ProblemJson(const Problem& problem, std::string_view instance, std::string_view request_id);

}  // namespace mainstay
