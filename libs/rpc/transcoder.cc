// SPDX-License-Identifier: Apache-2.0
#include "libs/rpc/transcoder.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "google/api/annotations.pb.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/http/list_query.h"
#include "libs/rpc/json.h"
#include "mainstay/common/v1/common.pb.h"
#include "mainstay/common/v1/options.pb.h"

namespace mainstay::rpc {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

constexpr std::string_view kListQuery = "mainstay.common.v1.ListQuery";

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "transcoder: %s\n", what.c_str());
  std::abort();
}

std::unique_ptr<Message> NewMessage(const google::protobuf::Descriptor& descriptor) {
  return std::unique_ptr<Message>(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(&descriptor)->New());
}

bool IsVariable(const std::string& segment) {
  return segment.size() > 2 && segment.front() == '{';
}

// "/mainstay/v1/jobs/{id}:cancel" → segments and verb.
void ParseTemplate(const std::string& text, Route& route) {
  std::string path = text;
  const size_t colon = path.rfind(':');
  if (colon != std::string::npos && colon > path.rfind('/') && path.find('}', colon) == std::string::npos) {
    route.verb = path.substr(colon + 1);
    path.resize(colon);
  }
  if (path.empty() || path[0] != '/') Die(StrCat("the path ", text, " has no leading slash"));
  route.segments = absl::StrSplit(path.substr(1), '/');
  for (const std::string& segment : route.segments) {
    const bool variable = IsVariable(segment);
    if (segment.empty() || (variable && segment.find_first_of("=*.") != std::string::npos) ||
        (!variable && segment.find_first_of("{}*") != std::string::npos)) {
      Die(StrCat("the path ", text, " uses a template this transcoder does not know"));
    }
    if (variable && route.method->input_type()->FindFieldByName(segment.substr(1, segment.size() - 2)) == nullptr) {
      Die(StrCat(text, ": ", route.method->input_type()->full_name(), " has no such field"));
    }
  }
}

Route MakeRoute(const MethodDescriptor& method, const google::api::HttpRule& rule, const std::string& service) {
  Route route;
  route.method = &method;
  route.service = service;
  route.rpc_path = StrCat("/", method.service()->full_name(), "/", method.name());
  std::string path;
  switch (rule.pattern_case()) {
    case google::api::HttpRule::kGet:
      route.http_method = "GET", path = rule.get();
      break;
    case google::api::HttpRule::kPut:
      route.http_method = "PUT", path = rule.put();
      break;
    case google::api::HttpRule::kPost:
      route.http_method = "POST", path = rule.post();
      break;
    case google::api::HttpRule::kDelete:
      route.http_method = "DELETE", path = rule.delete_();
      break;
    case google::api::HttpRule::kPatch:
      route.http_method = "PATCH", path = rule.patch();
      break;
    default:
      Die(StrCat(method.full_name(), " has no HTTP method this transcoder knows"));
  }
  ParseTemplate(path, route);
  const auto& options = method.options();
  route.body = rule.body();
  route.scope = options.GetExtension(common::v1::scope);
  if (route.scope.empty()) Die(StrCat(method.full_name(), " is served over HTTP but declares no scope"));
  route.body_limit = options.GetExtension(common::v1::body_limit);
  if (const auto status = options.GetExtension(common::v1::success_status); status != 0)
    route.success_status = int(status);
  switch (options.GetExtension(common::v1::transfer)) {
    case common::v1::TRANSFER_UPLOAD:
      route.transfer = Route::Transfer::kUpload;
      break;
    case common::v1::TRANSFER_DOWNLOAD:
      route.transfer = Route::Transfer::kDownload;
      break;
    default:
      break;
  }
  route.server_streaming = method.server_streaming();
  if (method.client_streaming() && route.transfer != Route::Transfer::kUpload)
    Die(StrCat(method.full_name(), ": only uploads stream from the client"));
  if (!route.body.empty() && route.body != "*" && method.input_type()->FindFieldByName(route.body) == nullptr)
    Die(StrCat(method.full_name(), ": no field ", route.body));
  return route;
}

FieldError ParameterError(std::string_view name, std::string_view code, std::string_view detail) {
  return {FieldError::Place::kParameter, std::string(name), std::string(code), std::string(detail)};
}

// The field of `message` that takes list parameters, if it has one.
const FieldDescriptor* ListField(const Message& message) {
  const auto& descriptor = *message.GetDescriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor* field = descriptor.field(i);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_repeated() &&
        field->message_type()->full_name() == kListQuery)
      return field;
  }
  return nullptr;
}

// Sets the fields named by `parameters`. `reserved`: fields that path or body already bind.
void BindParameters(const std::vector<std::pair<std::string, std::string>>& parameters,
                    const std::vector<std::string>& reserved, Message& message, std::vector<FieldError>& errors) {
  std::map<std::string, int> seen;
  for (const auto& [name, value] : parameters) {
    const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
    const bool bound = std::find(reserved.begin(), reserved.end(), name) != reserved.end();
    if (field == nullptr || bound || field->is_map() || field->options().GetExtension(common::v1::output_only)) {
      errors.push_back(ParameterError(name, "unknown_parameter", "there is no such parameter here"));
    } else if (++seen[name] > 1) {
      errors.push_back(ParameterError(name, "repeated", "this parameter may be given once"));
    } else if (std::string wrong = SetFromText(message, *field, value); !wrong.empty()) {
      errors.push_back(ParameterError(name, "invalid_value", wrong));
    }
  }
}

absl::Status InvalidParameters(std::vector<FieldError> errors) {
  const std::string detail = StrCat(errors[0].name, ": ", errors[0].detail);
  return MakeProblem("invalid-parameter", detail, std::move(errors));
}

}  // namespace

Transcoder::Transcoder(const std::vector<std::pair<std::string, std::string>>& files) {
  for (const auto& [name, service] : files) {
    const auto* file = DescriptorPool::generated_pool()->FindFileByName(name);
    if (file == nullptr) Die(StrCat("no file ", name, " is linked in"));
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        const MethodDescriptor& method = *file->service(s)->method(m);
        if (!method.options().HasExtension(google::api::http)) continue;
        const google::api::HttpRule& rule = method.options().GetExtension(google::api::http);
        routes_.push_back(MakeRoute(method, rule, service));
        for (const auto& more : rule.additional_bindings()) routes_.push_back(MakeRoute(method, more, service));
      }
    }
  }
}

absl::StatusOr<Transcoder::Match> Transcoder::Find(std::string_view http_method,
                                                   const std::vector<std::string>& segments, std::string* allow) const {
  std::string verb;
  std::string last = segments.empty() ? "" : segments.back();
  // A verb is cut off only where a route has it: an id may hold a colon.
  if (const size_t colon = last.rfind(':'); colon != std::string::npos) verb = last.substr(colon + 1);
  std::vector<std::string> allowed;
  for (const Route& route : routes_) {
    if (route.segments.size() != segments.size() || (!route.verb.empty() && route.verb != verb)) continue;
    Match match{&route, {}};
    bool fits = true;
    for (size_t i = 0; i < segments.size() && fits; ++i) {
      std::string_view given = segments[i];
      if (i + 1 == segments.size() && !route.verb.empty()) given.remove_suffix(route.verb.size() + 1);
      if (IsVariable(route.segments[i])) {
        fits = !given.empty() &&
               (!route.verb.empty() || i + 1 < segments.size() || given.find(':') == std::string_view::npos);
        match.variables.emplace_back(route.segments[i].substr(1, route.segments[i].size() - 2), std::string(given));
      } else {
        fits = given == route.segments[i];
      }
    }
    if (!fits) continue;
    if (route.http_method == http_method || (http_method == "HEAD" && route.http_method == "GET")) return match;
    allowed.push_back(route.http_method);
    if (route.http_method == "GET") allowed.push_back("HEAD");
  }
  if (allowed.empty()) return MakeProblem("not-found", "");
  std::sort(allowed.begin(), allowed.end());
  allowed.erase(std::unique(allowed.begin(), allowed.end()), allowed.end());
  if (allow != nullptr) *allow = absl::StrJoin(allowed, ", ");
  return MakeProblem("method-not-allowed", "");
}

absl::StatusOr<std::unique_ptr<Message>> Transcoder::Request(const Match& match, std::string_view query,
                                                             const JsonValue* body) const {
  const Route& route = *match.route;
  std::unique_ptr<Message> message = NewMessage(*route.method->input_type());
  if (route.body.empty()) {
    if (body != nullptr) return MakeProblem("malformed-request", "this request takes no body");
  } else if (route.body == "*") {
    if (body != nullptr) RETURN_IF_ERROR(FromJson(*body, *message));
  } else {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(route.body);
    if (body == nullptr) return MakeProblem("json-invalid", "a JSON body is required");
    RETURN_IF_ERROR(FromJson(*body, *message->GetReflection()->MutableMessage(message.get(), field)));
  }
  std::vector<std::string> reserved;
  if (!route.body.empty() && route.body != "*") reserved.push_back(route.body);
  for (const auto& [name, value] : match.variables) {
    reserved.push_back(name);
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(name);
    const auto* reflection = message->GetReflection();
    // The body may name the object again, but not another one.
    if (route.body == "*" && reflection->HasField(*message, field) && reflection->GetString(*message, field) != value) {
      return MakeProblem(
          "validation-failed", "the body names another object than the path",
          {{FieldError::Place::kPointer, StrCat("/", name), "invalid_value", "this differs from the path"}});
    }
    // A value that cannot be of its type names nothing that exists.
    if (!SetFromText(*message, *field, value).empty()) return MakeProblem("not-found", "");
  }
  ASSIGN_OR_RETURN(const http::Parameters parameters, http::ParseQueryString(query));
  const FieldDescriptor* list = ListField(*message);
  if (route.body == "*") {
    if (!parameters.empty())
      return InvalidParameters(
          {ParameterError(parameters[0].first, "unknown_parameter", "this request takes no parameters in its URL")});
  } else if (list != nullptr) {
    reserved.push_back(list->name());
    std::vector<std::string_view> others;
    for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
      const std::string& name = message->GetDescriptor()->field(i)->name();
      if (std::find(reserved.begin(), reserved.end(), name) == reserved.end()) others.push_back(name);
    }
    std::map<std::string, std::string> taken;
    auto& out = static_cast<common::v1::ListQuery&>(*message->GetReflection()->MutableMessage(message.get(), list));
    RETURN_IF_ERROR(http::ParseListQuery(parameters, others, &taken, &out));
    std::vector<FieldError> errors;
    BindParameters({taken.begin(), taken.end()}, reserved, *message, errors);
    if (!errors.empty()) return InvalidParameters(std::move(errors));
  } else {
    std::vector<FieldError> errors;
    BindParameters(parameters, reserved, *message, errors);
    if (!errors.empty()) return InvalidParameters(std::move(errors));
  }
  return message;
}

absl::StatusOr<std::unique_ptr<Message>> Transcoder::UploadRequest(const Match& match, std::string_view query) const {
  std::unique_ptr<Message> message = NewMessage(*match.route->method->input_type());
  const FieldDescriptor* options = message->GetDescriptor()->FindFieldByName("options");
  if (options == nullptr) return absl::InternalError(StrCat(match.route->rpc_path, " is an upload without options"));
  ASSIGN_OR_RETURN(const http::Parameters parameters, http::ParseQueryString(query));
  std::vector<FieldError> errors;
  BindParameters(parameters, {}, *message->GetReflection()->MutableMessage(message.get(), options), errors);
  if (!errors.empty()) return InvalidParameters(std::move(errors));
  return message;
}

absl::StatusOr<std::string> Transcoder::Response(const Route& route, std::string_view bytes, StreamNote* note) const {
  std::unique_ptr<Message> message = NewMessage(*route.method->output_type());
  if (!message->ParseFromArray(bytes.data(), int(bytes.size())))
    return absl::InternalError(
        StrCat(route.rpc_path, " answered with something else than ", message->GetDescriptor()->full_name()));
  if (note != nullptr) {
    for (const auto& [name, value] : {std::pair("event", &note->event), std::pair("event_id", &note->event_id)}) {
      const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(name);
      if (field == nullptr || field->cpp_type() != FieldDescriptor::CPPTYPE_STRING || field->is_repeated()) continue;
      *value = message->GetReflection()->GetString(*message, field);
      // One line each, whatever they hold.
      std::erase_if(*value, [](char c) { return static_cast<unsigned char>(c) < 0x20; });
    }
  }
  std::string json;
  AppendJson(*message, json);
  return json;
}

}  // namespace mainstay::rpc
