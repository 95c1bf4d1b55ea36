// SPDX-License-Identifier: Apache-2.0
#include "libs/rpc/transcoder.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor_database.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <map>
#include <set>

#include "google/api/annotations.pb.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/http/list_query.h"
#include "libs/rpc/json.h"
#include "mainstay/common/v1/common.pb.h"
#include "mainstay/common/v1/options.pb.h"

namespace mainstay::rpc {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

// "mainstay.jobs.v1" → "jobs".
std::string Domain(const std::string& package) {
  const size_t first = package.find('.');
  const size_t second = package.find('.', first + 1);
  return first == std::string::npos ? package : package.substr(first + 1, second - first - 1);
}

bool IsListQuery(const FieldDescriptor& field) {
  return field.message_type() == common::v1::ListQuery::descriptor() && !field.is_repeated();
}

// The last colon of the last segment sets off the verb.
std::pair<std::string_view, std::string_view> SplitVerb(std::string_view segment) {
  const size_t colon = segment.rfind(':');
  if (colon == std::string_view::npos) return {segment, {}};
  return {segment.substr(0, colon), segment.substr(colon + 1)};
}

absl::Status ParsePath(Route& route) {
  std::string_view path = route.path;
  const auto bad = [&](std::string_view why) {
    return absl::InternalError(StrCat(route.rpc, ": path ", route.path, ": ", why));
  };
  if (path.empty() || path[0] != '/') return bad("does not begin with a slash");
  path.remove_prefix(1);
  while (true) {
    const size_t slash = std::min(path.find('/'), path.size());
    std::string_view segment = path.substr(0, slash);
    const bool last = slash == path.size();
    if (last) {
      const auto [text, verb] = SplitVerb(segment);
      segment = text;
      route.verb = verb;
    }
    if (segment.empty()) return bad("an empty segment");
    Route::Part part;
    if (segment.front() == '{') {
      if (segment.back() != '}') return bad("only {field} is supported");
      part.variable = true;
      part.text = segment.substr(1, segment.size() - 2);
      const FieldDescriptor* field = route.method->input_type()->FindFieldByName(part.text);
      if (field == nullptr || field->is_repeated() || field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE)
        return bad("its variable is no scalar field of the request");
    } else {
      part.text = segment;
    }
    route.parts.push_back(std::move(part));
    if (last) return absl::OkStatus();
    path.remove_prefix(slash + 1);
  }
}

absl::Status AddRule(const google::api::HttpRule& rule, Route route, std::vector<Route>& routes) {
  switch (rule.pattern_case()) {
    case google::api::HttpRule::kGet:
      route.http_method = "GET";
      route.path = rule.get();
      break;
    case google::api::HttpRule::kPost:
      route.http_method = "POST";
      route.path = rule.post();
      break;
    case google::api::HttpRule::kPut:
      route.http_method = "PUT";
      route.path = rule.put();
      break;
    case google::api::HttpRule::kPatch:
      route.http_method = "PATCH";
      route.path = rule.patch();
      break;
    case google::api::HttpRule::kDelete:
      route.http_method = "DELETE";
      route.path = rule.delete_();
      break;
    default:
      return absl::InternalError(StrCat(route.rpc, ": this kind of HTTP rule is not supported"));
  }
  route.body = rule.body();
  RETURN_IF_ERROR(ParsePath(route));
  if (!route.body.empty() && route.body != "*" && route.method->input_type()->FindFieldByName(route.body) == nullptr)
    return absl::InternalError(StrCat(route.rpc, ": the request has no field ", route.body));
  routes.push_back(std::move(route));
  return absl::OkStatus();
}

absl::Status AddMethod(const MethodDescriptor& method, std::vector<Route>& routes) {
  const auto& options = method.options();
  if (!options.HasExtension(google::api::http) || options.GetExtension(common::v1::internal)) return absl::OkStatus();
  Route route;
  route.method = &method;
  route.domain = Domain(method.file()->package());
  route.rpc = StrCat("/", method.service()->full_name(), "/", method.name());
  route.scope = options.GetExtension(common::v1::scope);
  if (route.scope.empty()) return absl::InternalError(StrCat(route.rpc, " is served over HTTP but declares no scope"));
  if (const uint32_t limit = options.GetExtension(common::v1::body_limit); limit > 0) route.body_limit = limit;
  const auto transfer = options.GetExtension(common::v1::transfer);
  route.upload = transfer == common::v1::TRANSFER_UPLOAD;
  route.download = transfer == common::v1::TRANSFER_DOWNLOAD;
  route.server_stream = method.server_streaming();
  if (route.upload != method.client_streaming() || (route.download && !method.server_streaming()))
    return absl::InternalError(StrCat(route.rpc, ": client streams are served over HTTP as uploads only, downloads are server streams"));
  route.success_status = int(options.GetExtension(common::v1::success_status));
  if (route.success_status == 0) route.success_status = method.output_type()->field_count() == 0 ? 204 : 200;
  const google::api::HttpRule& rule = options.GetExtension(google::api::http);
  RETURN_IF_ERROR(AddRule(rule, route, routes));
  for (const auto& more : rule.additional_bindings()) RETURN_IF_ERROR(AddRule(more, route, routes));
  return absl::OkStatus();
}

bool PathMatches(const Route& route, const std::vector<std::string>& segments, PathValues* values) {
  if (route.parts.size() != segments.size()) return false;
  for (size_t i = 0; i < segments.size(); ++i) {
    std::string_view segment = segments[i];
    if (i + 1 == segments.size()) {
      const auto [text, verb] = SplitVerb(segment);
      if (verb != route.verb || (route.verb.empty() && text.size() != segment.size())) return false;
      segment = text;
    }
    const Route::Part& part = route.parts[i];
    if (part.variable) {
      if (segment.empty()) return false;
      if (values != nullptr) values->emplace_back(part.text, std::string(segment));
    } else if (segment != part.text) {
      return false;
    }
  }
  return true;
}

FieldError Parameter(std::string_view name, std::string_view code, std::string_view detail) {
  return {FieldError::Place::kParameter, std::string(name), std::string(code), std::string(detail)};
}

// Path values into the message, then the query: into the ListQuery field if there is one, and into `target`'s fields by
// name, but for those in `taken`.
absl::Status BindParameters(const Match& match, std::string_view query, std::set<std::string> taken, Message& message,
                            Message& target) {
  std::vector<FieldError> errors;
  std::string code, detail;
  for (const auto& [name, text] : match.values) {
    if (!SetFromText(*message.GetDescriptor()->FindFieldByName(name), text, message, code, detail))
      errors.push_back(Parameter(name, code, detail));
    taken.insert(name);
  }
  ASSIGN_OR_RETURN(const http::Parameters parameters, http::ParseQueryString(query));
  const Descriptor& type = *target.GetDescriptor();
  const FieldDescriptor* list = nullptr;
  for (int i = 0; i < type.field_count(); ++i)
    if (IsListQuery(*type.field(i))) list = type.field(i);

  const auto bindable = [&](const std::string& name) -> const FieldDescriptor* {
    const FieldDescriptor* field = type.FindFieldByName(name);
    if (field == nullptr || taken.count(name) != 0 || field == list || field->is_map() ||
        field->options().GetExtension(common::v1::output_only) || field->options().GetExtension(common::v1::raw_json))
      return nullptr;
    const Descriptor* inner = field->message_type();
    const bool text_form = inner == nullptr || inner->full_name() == "google.protobuf.Timestamp" ||
                           inner->full_name() == "google.protobuf.Duration";
    return text_form ? field : nullptr;
  };

  http::Parameters for_list;
  std::set<std::string> seen;
  for (const auto& [name, text] : parameters) {
    const FieldDescriptor* field = bindable(name);
    if (field == nullptr) {
      if (list == nullptr) errors.push_back(Parameter(name, "unknown_parameter", "there is no such parameter"));
      for_list.emplace_back(name, text);
      continue;
    }
    if (!seen.insert(name).second && !field->is_repeated()) {
      errors.push_back(Parameter(name, "invalid_value", "the parameter stands twice"));
      continue;
    }
    // Lists of words: "a,b" as well as the parameter again.
    std::string_view rest = text;
    while (true) {
      const size_t comma = field->is_repeated() ? rest.find(',') : std::string_view::npos;
      if (!SetFromText(*field, rest.substr(0, comma), target, code, detail)) errors.push_back(Parameter(name, code, detail));
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  }
  if (list != nullptr) {
    auto* out = static_cast<common::v1::ListQuery*>(target.GetReflection()->MutableMessage(&target, list));
    RETURN_IF_ERROR(http::ParseListQuery(for_list, {}, nullptr, out));
  }
  if (!errors.empty()) return MakeProblem("invalid-parameter", "a parameter is wrong", std::move(errors));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Transcoder> Transcoder::Create() {
  std::vector<std::string> files;
  DescriptorPool::internal_generated_database()->FindAllFileNames(&files);
  std::sort(files.begin(), files.end());
  auto routes = std::make_shared<std::vector<Route>>();
  for (const std::string& name : files) {
    if (name.compare(0, 7, "google/") == 0 || name.compare(0, 5, "grpc/") == 0) continue;
    const FileDescriptor* file = DescriptorPool::generated_pool()->FindFileByName(name);
    for (int s = 0; file != nullptr && s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m)
        RETURN_IF_ERROR(AddMethod(*file->service(s)->method(m), *routes));
    }
  }
  std::map<std::string, const Route*> shapes;
  for (const Route& route : *routes) {
    std::string shape = route.http_method;
    for (const Route::Part& part : route.parts) StrAppend(&shape, "/", part.variable ? "{}" : part.text);
    StrAppend(&shape, ":", route.verb);
    if (!shapes.emplace(shape, &route).second)
      return absl::InternalError(StrCat(route.rpc, " and ", shapes[shape]->rpc, " have the same path"));
  }
  return Transcoder(std::move(routes));
}

absl::StatusOr<Match> Transcoder::Find(std::string_view http_method, const std::vector<std::string>& segments) const {
  if (http_method == "HEAD") http_method = "GET";
  std::set<std::string> allowed;
  for (const Route& route : *routes_) {
    if (!PathMatches(route, segments, nullptr)) continue;
    if (route.http_method == http_method) {
      Match match{&route, {}};
      PathMatches(route, segments, &match.values);
      return match;
    }
    allowed.insert(route.http_method);
    if (route.http_method == "GET") allowed.insert("HEAD");
  }
  if (allowed.empty()) return MakeProblem("not-found", "");
  std::string list;
  for (const std::string& method : allowed) StrAppend(&list, list.empty() ? "" : ", ", method);
  Problem problem{.type = "method-not-allowed"};
  problem.members.emplace_back("allow", JsonQuote(list));
  return MakeProblem(std::move(problem));
}

std::unique_ptr<Message> Transcoder::New(const Descriptor& type) {
  return std::unique_ptr<Message>(google::protobuf::MessageFactory::generated_factory()->GetPrototype(&type)->New());
}

absl::StatusOr<std::unique_ptr<Message>> Transcoder::Bind(const Match& match, std::string_view query, bool has_body,
                                                          std::string body) {
  const Route& route = *match.route;
  std::unique_ptr<Message> message = New(*route.method->input_type());
  std::set<std::string> taken;
  if (route.body == "*") {
    // Nothing may come from the query.
    const Descriptor& type = *message->GetDescriptor();
    for (int i = 0; i < type.field_count(); ++i) taken.insert(type.field(i)->name());
  } else if (!route.body.empty()) {
    taken.insert(route.body);
  }
  RETURN_IF_ERROR(BindParameters(match, query, taken, *message, *message));
  if (route.body.empty()) {
    if (has_body && !body.empty()) return MakeProblem("malformed-request", "this request takes no body");
    return message;
  }
  // A verb without parameters may come without a body.
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(has_body ? std::move(body) : std::string("{}")));
  std::vector<FieldError> errors;
  if (route.body == "*") {
    std::vector<std::string> skip;
    for (const auto& [name, text] : match.values) skip.push_back(name);
    ReadJson(document.root(), "", skip, *message, errors);
  } else {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(route.body);
    ReadJson(document.root(), "", {}, *message->GetReflection()->MutableMessage(message.get(), field), errors);
  }
  if (errors.empty()) return message;
  const std::string detail = errors.size() == 1 ? "1 field is wrong" : StrCat(errors.size(), " fields are wrong");
  return MakeProblem("validation-failed", detail, std::move(errors));
}

absl::StatusOr<std::unique_ptr<Message>> Transcoder::BindUpload(const Match& match, std::string_view query) {
  std::unique_ptr<Message> message = New(*match.route->method->input_type());
  const FieldDescriptor* options = message->GetDescriptor()->FindFieldByName("options");
  if (options == nullptr) {
    RETURN_IF_ERROR(BindParameters(match, query, {match.route->body}, *message, *message));
  } else {
    RETURN_IF_ERROR(
        BindParameters(match, query, {}, *message, *message->GetReflection()->MutableMessage(message.get(), options)));
  }
  return message;
}

}  // namespace mainstay::rpc
