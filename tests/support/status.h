// SPDX-License-Identifier: Apache-2.0
// Catch2 matchers for absl::Status and StatusOr: CHECK_THAT(result, IsOk()), CHECK_THAT(result,
// StatusIs(absl::StatusCode::kNotFound, "connection")), CHECK_THAT(result, HasProblem("unique-violation")).
#pragma once

#include <catch2/catch.hpp>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/base/problem.h"

namespace Catch {
template <>
struct StringMaker<absl::Status> {
  static std::string convert(const absl::Status& status) { return status.ToString(); }
};
template <typename T>
struct StringMaker<absl::StatusOr<T>> {
  static std::string convert(const absl::StatusOr<T>& result) {
    return result.ok() ? "OK" : result.status().ToString();
  }
};
}  // namespace Catch

namespace mainstay::testing {

inline const absl::Status& StatusOf(const absl::Status& status) {
  return status;
}
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

// One matcher object for both types: Catch2's CHECK_THAT only asks for match() and toString().
class StatusMatcher {
 public:
  StatusMatcher(absl::StatusCode code, std::string text, std::string problem)
      : code_(code), text_(std::move(text)), problem_(std::move(problem)) {}
  template <typename T>
  bool match(const T& value) const {
    const absl::Status& status = StatusOf(value);
    if (!problem_.empty()) return !status.ok() && ProblemFromStatus(status).type == problem_;
    return status.code() == code_ && std::string(status.message()).find(text_) != std::string::npos;
  }
  std::string toString() const {
    if (!problem_.empty()) return "has the problem " + problem_;
    if (code_ == absl::StatusCode::kOk) return "is OK";
    return "is " + absl::StatusCodeToString(code_) + (text_.empty() ? "" : " with \"" + text_ + "\"");
  }

 private:
  absl::StatusCode code_;
  std::string text_, problem_;
};

inline StatusMatcher IsOk() {
  return {absl::StatusCode::kOk, "", ""};
}
// `text` occurs in the message.
inline StatusMatcher StatusIs(absl::StatusCode code, std::string text = "") {
  return {code, std::move(text), ""};
}
// By slug, as a client would see it.
inline StatusMatcher HasProblem(std::string slug) {
  return {absl::StatusCode::kOk, "", std::move(slug)};
}

}  // namespace mainstay::testing
