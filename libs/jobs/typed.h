// SPDX-License-Identifier: Apache-2.0
// Handlers that get their arguments decoded: as a protobuf message (its JSON form) or as parsed JSON.
//
// What does not decode is dead at once, with the reader's words: no other run would end differently. It can be edited
// and run again.
#pragma once

#include <google/protobuf/util/json_util.h>

#include <string>
#include <utility>

#include "libs/base/json.h"
#include "libs/jobs/handler.h"

namespace mainstay::jobs {

// registry.Register("mail.send", Typed<mail::v1::Send>([](RunningJob& job, const mail::v1::Send& args) { … }));
template <typename Message, typename Function>
Handler Typed(Function function) {
  return [function = std::move(function)](RunningJob& job) -> Outcome {
    Message args;
    const auto status = google::protobuf::util::JsonStringToMessage(std::string(job.args()), &args);
    if (!status.ok()) return Outcome::Dead("bad_arguments", std::string(status.message()));
    return function(job, std::as_const(args));
  };
}

// The value is valid during the call.
template <typename Function>
Handler WithJson(Function function) {
  return [function = std::move(function)](RunningJob& job) -> Outcome {
    const auto document = JsonDocument::Parse(std::string(job.args()));
    if (!document.ok()) return Outcome::Dead("bad_arguments", std::string(document.status().message()));
    return function(job, document->root());
  };
}

}  // namespace mainstay::jobs
