// SPDX-License-Identifier: Apache-2.0
#include "libs/records/http_shared.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"

namespace mainstay::records {

using catalog::ModelPtr;
using catalog::Resource;

constexpr size_t kMaxCachedRights = 2048;

AccessPtr ModelCache::AccessOf(const Resource& resource, const Principal& principal) {
  std::string key = resource.name;
  for (const std::string& role : principal.roles) StrAppend(&key, "\x1f", role);
  if (access.size() > kMaxCachedRights) access.clear();
  AccessPtr& found = access[std::move(key)];
  if (found == nullptr) found = MakeAccess(*model, resource, principal.roles);
  return found;
}

CachePtr CacheFor(const ModelPtr& model) {
  thread_local CachePtr current;
  if (current == nullptr || current->model != model) {
    current = std::make_shared<ModelCache>();
    current->model = model;
  }
  return current;
}

absl::StatusOr<const Resource*> FindResource(const ModelPtr& model, std::string_view name) {
  const Resource* resource = model->FindResource(name);
  if (resource == nullptr) return NotFound();
  if (!resource->problem.empty())
    return MakeProblem("resource-unavailable", "this resource does not fit the database at the moment");
  return resource;
}

absl::Status NotFound() {
  return MakeProblem("not-found", "");
}
absl::Status BadHeader(std::string_view name, std::string_view detail) {
  return MakeProblem("invalid-parameter", detail,
                     {{.place = FieldError::Place::kHeader,
                       .name = std::string(name),
                       .code = "invalid",
                       .detail = std::string(detail)}});
}
absl::Status BadParameter(std::string_view name, std::string_view detail) {
  return MakeProblem("invalid-parameter", detail,
                     {{.place = FieldError::Place::kParameter,
                       .name = std::string(name),
                       .code = "invalid",
                       .detail = std::string(detail)}});
}
absl::Status NotAllowed(std::string_view allow) {
  return MakeProblem(Problem{.type = "method-not-allowed", .members = {{"allow", StrCat("\"", allow, "\"")}}});
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

absl::StatusOr<Tags> ParseTags(const http::Request& request, std::string_view name) {
  Tags out;
  const std::string* header = request.Header(name);
  if (header == nullptr) return out;
  out.present = true;
  std::string_view rest = Trim(*header);
  if (rest == "*") {
    out.any = true;
    return out;
  }
  while (!rest.empty()) {
    bool weak = false;
    if (rest.starts_with("W/")) {
      weak = true;
      rest.remove_prefix(2);
    }
    const size_t end = rest.starts_with('"') ? rest.find('"', 1) : std::string_view::npos;
    if (end == std::string_view::npos) return BadHeader(name, "entity tags in quotes are expected");
    out.tags.emplace_back(std::string(rest.substr(1, end - 1)), weak);
    rest = Trim(rest.substr(end + 1));
    if (rest.empty()) break;
    if (!rest.starts_with(',')) return BadHeader(name, "entity tags are separated by commas");
    rest = Trim(rest.substr(1));
    if (rest.empty() || out.tags.size() > 200) return BadHeader(name, "entity tags in quotes are expected");
  }
  if (out.tags.empty()) return BadHeader(name, "entity tags in quotes are expected");
  return out;
}

std::vector<std::string> VersionsOf(const Tags& tags) {
  std::vector<std::string> out;
  if (!tags.present || tags.any) return out;
  for (const auto& [tag, weak] : tags.tags)
    out.push_back(weak ? "\x01" : tag.substr(0, tag.rfind('.')));  // \x01 is no version
  return out;
}

bool Matches(const Tags& tags, std::string_view etag) {
  if (!tags.present) return false;
  if (tags.any) return true;
  if (etag.starts_with("W/")) etag.remove_prefix(2);
  for (const auto& [tag, weak] : tags.tags)
    if (etag.size() == tag.size() + 2 && etag.substr(1, tag.size()) == tag) return true;
  return false;
}

absl::StatusOr<Accepted> Negotiate(const http::Request& request, absl::Span<const std::string_view> offers) {
  const std::string* header = request.Header("accept");
  if (header == nullptr || Trim(*header).empty()) return Accepted{};
  std::optional<Accepted> best;
  double best_quality = 0;
  for (absl::string_view part : absl::StrSplit(*header, ',')) {
    const std::string_view range = Trim(ToStd(part));
    const size_t semicolon = std::min(range.find(';'), range.size());
    const std::string_view type = Trim(range.substr(0, semicolon));
    double quality = 1;
    std::string parameters;
    for (absl::string_view parameter : absl::StrSplit(ToAbsl(range.substr(semicolon)), ';', absl::SkipEmpty())) {
      const std::string_view trimmed = Trim(ToStd(parameter));
      if (trimmed.starts_with("q=")) {
        if (!absl::SimpleAtod(ToAbsl(trimmed.substr(2)), &quality)) quality = 0;
      } else {
        StrAppend(&parameters, parameters.empty() ? "" : ";", trimmed);
      }
    }
    if (quality <= best_quality) continue;
    for (size_t i = 0; i < offers.size(); ++i) {
      const std::string_view family = offers[i].substr(0, offers[i].find('/') + 1);
      const bool fits = type.empty() || type == "*/*" || type == offers[i] ||
                        (type.ends_with("/*") && type.substr(0, type.size() - 1) == family);
      if (!fits) continue;
      best = Accepted{.offer = i, .parameters = parameters};
      best_quality = quality;
      break;
    }
  }
  if (best.has_value()) return *std::move(best);
  std::string served;
  for (const std::string_view offer : offers) StrAppend(&served, served.empty() ? "" : ", ", offer);
  return MakeProblem(Problem{.type = "not-acceptable",
                             .detail = StrCat("what is served here: ", served),
                             .members = {{"accept", StrCat("\"", served, "\"")}}});
}

absl::Status CheckAccept(const http::Request& request) {
  static constexpr std::string_view kJson[] = {"application/json"};
  return Negotiate(request, kJson).status();
}

absl::Status CheckContentType(const http::Request& request, bool patch) {
  const auto refuse = [&] {
    return MakeProblem(
        Problem{.type = "unsupported-media-type",
                .detail = "application/json in UTF-8 is expected",
                .members = {patch ? std::pair<std::string, std::string>(
                                        "accept-patch", "\"application/merge-patch+json, application/json\"")
                                  : std::pair<std::string, std::string>("accept", "\"application/json\"")}});
  };
  const std::string* encoding = request.Header("content-encoding");
  if (encoding != nullptr && !absl::EqualsIgnoreCase(*encoding, "identity"))
    return MakeProblem(Problem{.type = "unsupported-media-type",
                               .detail = "send the body without a content coding",
                               .members = {{"accept-encoding", "\"identity\""}}});
  const std::string* header = request.Header("content-type");
  if (header == nullptr) return refuse();
  std::vector<absl::string_view> parts = absl::StrSplit(*header, ';');
  const std::string_view type = Trim(ToStd(parts[0]));
  if (!absl::EqualsIgnoreCase(ToAbsl(type), "application/json") &&
      !(patch && absl::EqualsIgnoreCase(ToAbsl(type), "application/merge-patch+json")))
    return refuse();
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::string_view parameter = Trim(ToStd(parts[i]));
    if (!absl::EqualsIgnoreCase(ToAbsl(parameter), "charset=utf-8") &&
        !absl::EqualsIgnoreCase(ToAbsl(parameter), "charset=\"utf-8\""))
      return refuse();
  }
  return absl::OkStatus();
}

http::Response Json(int status, std::string body, std::string etag) {
  http::Response response = http::Response::Json(status, std::move(body));
  response.headers.emplace_back("cache-control", "private, no-cache");
  response.headers.emplace_back("vary", "Authorization, Accept");
  if (!etag.empty()) response.headers.emplace_back("etag", std::move(etag));
  return response;
}

http::Response NotModified(std::string etag) {
  http::Response response;
  response.status = 304;
  response.headers.emplace_back("etag", std::move(etag));
  response.headers.emplace_back("cache-control", "private, no-cache");
  response.headers.emplace_back("vary", "Authorization, Accept");
  return response;
}

void CancelOnDisconnect(const http::Request* request, const std::shared_ptr<postgres::Session>& session) {
  if (request == nullptr || !request->on_disconnect) return;
  request->on_disconnect([weak = std::weak_ptr<postgres::Session>(session)] {
    if (const auto alive = weak.lock()) alive->Cancel();
  });
}

}  // namespace mainstay::records
