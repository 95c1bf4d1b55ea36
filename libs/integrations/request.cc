// SPDX-License-Identifier: Apache-2.0
#include "libs/integrations/request.h"

#include <algorithm>
#include <map>

#include "absl/strings/numbers.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::integrations {
namespace {

const JsonValue* FindPath(const JsonValue& root, std::string_view path) {
  const JsonValue* value = &root;
  while (!path.empty() && value != nullptr) {
    size_t dot = path.find('.');
    value = value->Find(path.substr(0, dot));
    path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
  }
  return value;
}

std::optional<std::string> Text(const JsonValue* value) {
  if (value == nullptr) return std::nullopt;
  if (value->is_string() || value->is_number()) return std::string(value->text());
  if (value->is_bool()) return value->boolean() ? "true" : "false";
  return std::nullopt;
}

// The names in braces of a template, "?" kept.
std::vector<std::string_view> Names(std::string_view text) {
  std::vector<std::string_view> names;
  while (true) {
    size_t open = text.find('{');
    size_t close = open == std::string_view::npos ? open : text.find('}', open);
    if (close == std::string_view::npos) return names;
    names.push_back(text.substr(open + 1, close - open - 1));
    text = text.substr(close + 1);
  }
}

std::string_view Bare(std::string_view name) {
  if (!name.empty() && name.back() == '?') name.remove_suffix(1);
  return name;
}

}  // namespace

std::string Request::QueryString() const {
  std::string out;
  for (const auto& [name, value] : query)
    StrAppend(&out, out.empty() ? "?" : "&", PercentEncode(name), "=", PercentEncode(value));
  return out;
}

void Request::Set(std::string_view name, std::string_view value) {
  for (auto& [known, old] : query) {
    if (known != name) continue;
    old = std::string(value);
    return;
  }
  query.emplace_back(std::string(name), std::string(value));
}

absl::StatusOr<Request> BuildRequest(const catalog::Operation& operation, std::string_view params_json) {
  JsonDocument document;
  std::map<std::string, std::string, std::less<>> given;
  std::vector<FieldError> errors;
  if (!params_json.empty()) {
    ASSIGN_OR_RETURN(document, JsonDocument::Parse(std::string(params_json)));
    if (!document.root().is_object()) return MakeProblem("validation-failed", "params must be a JSON object");
    for (const auto& member : document.root().members()) {
      if (member.value.is_null()) continue;
      std::optional<std::string> text = Text(&member.value);
      if (!text) {
        errors.push_back({FieldError::Place::kPointer, StrCat("/params/", member.key), "invalid_type",
                          "text, a number or a boolean was expected"});
        continue;
      }
      given.emplace(std::string(member.key), *std::move(text));
    }
  }
  std::vector<std::string_view> declared = Names(operation.path);
  for (const auto& [parameter, value] : operation.query)
    for (std::string_view name : Names(value)) declared.push_back(name);
  for (const std::string& name : operation.params) declared.push_back(name);
  for (const auto& entry : given) {
    const std::string& name = entry.first;
    bool known = std::any_of(declared.begin(), declared.end(), [&](std::string_view d) { return Bare(d) == name; });
    if (!known)
      errors.push_back({FieldError::Place::kPointer, StrCat("/params/", name), "unknown_field",
                        StrCat("operation ", operation.name, " has no such parameter")});
  }
  std::vector<std::string_view> missing;
  for (std::string_view name : declared) {
    if (!name.empty() && name.back() == '?') continue;
    if (given.find(name) != given.end() || std::find(missing.begin(), missing.end(), name) != missing.end()) continue;
    missing.push_back(name);
    errors.push_back({FieldError::Place::kPointer, StrCat("/params/", name), "required", "missing"});
  }

  Request request;
  std::string_view rest = operation.path;
  while (!rest.empty()) {
    size_t open = rest.find('{');
    StrAppend(&request.path, rest.substr(0, open));
    if (open == std::string_view::npos) break;
    size_t close = rest.find('}', open);
    if (close == std::string_view::npos)
      return absl::InternalError(StrCat("operation ", operation.name, ": a { without its } in the path"));
    std::string_view name = Bare(rest.substr(open + 1, close - open - 1));
    auto value = given.find(name);
    if (value != given.end()) {
      // A value must stay one segment of the path.
      if (value->second.empty() || value->second == "." || value->second == "..")
        errors.push_back(
            {FieldError::Place::kPointer, StrCat("/params/", name), "invalid_value", "cannot be part of a path"});
      StrAppend(&request.path, PercentEncode(value->second));
    }
    rest = rest.substr(close + 1);
  }
  for (const auto& [parameter, value] : operation.query) {
    std::vector<std::string_view> names = Names(value);
    if (names.size() == 1 && value.size() == names[0].size() + 2) {
      auto found = given.find(Bare(names[0]));
      if (found != given.end()) request.query.emplace_back(parameter, found->second);
    } else {
      request.query.emplace_back(parameter, value);
    }
  }
  if (!errors.empty())
    return MakeProblem("validation-failed", StrCat("The parameters of ", operation.name, " are not valid"),
                       std::move(errors));
  return request;
}

std::optional<std::string> NextLink(const std::vector<std::string>& headers) {
  for (const std::string& header : headers) {
    std::string_view rest = header;
    while (true) {
      size_t open = rest.find('<');
      size_t close = open == std::string_view::npos ? open : rest.find('>', open);
      if (close == std::string_view::npos) break;
      std::string_view url = rest.substr(open + 1, close - open - 1);
      rest = rest.substr(close + 1);
      // Parameters up to the comma that is not inside quotes.
      bool quoted = false;
      size_t end = 0;
      for (; end < rest.size(); ++end) {
        if (rest[end] == '\\' && quoted)
          ++end;
        else if (rest[end] == '"')
          quoted = !quoted;
        else if (rest[end] == ',' && !quoted)
          break;
      }
      std::string parameters(rest.substr(0, std::min(end, rest.size())));
      for (char& c : parameters)
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
      rest = end < rest.size() ? rest.substr(end + 1) : std::string_view();
      for (size_t at = parameters.find("rel"); at != std::string::npos; at = parameters.find("rel", at + 3)) {
        size_t p = at + 3;
        if (at > 0 && parameters[at - 1] != ';' && parameters[at - 1] != ' ' && parameters[at - 1] != '\t') continue;
        while (p < parameters.size() && parameters[p] == ' ') ++p;
        if (p >= parameters.size() || parameters[p] != '=') continue;
        ++p;
        while (p < parameters.size() && parameters[p] == ' ') ++p;
        std::string_view value = std::string_view(parameters).substr(p);
        if (!value.empty() && value[0] == '"')
          value = value.substr(1, value.find('"', 1) == std::string_view::npos ? value.size() : value.find('"', 1) - 1);
        else
          value = value.substr(0, value.find_first_of("; \t"));
        // A list of relation types, separated by blanks.
        while (!value.empty()) {
          size_t blank = value.find(' ');
          if (value.substr(0, blank) == "next") return std::string(url);
          value = blank == std::string_view::npos ? std::string_view() : value.substr(blank + 1);
        }
        break;
      }
    }
  }
  return std::nullopt;
}

absl::StatusOr<PageRead> ReadPage(const catalog::Pagination& pagination, const JsonValue& body,
                                  const std::vector<std::string>& link_headers, std::string_view sent) {
  PageRead page;
  const JsonValue* items = FindPath(body, pagination.items);
  if (items == nullptr || !items->is_array())
    return absl::InvalidArgumentError(StrCat("the page has no array of items at \"", pagination.items, "\""));
  page.items = std::string(items->raw());
  page.count = int64_t(items->items().size());

  if (pagination.style == "link_header") {
    page.next_url = NextLink(link_headers);
  } else if (pagination.style == "next_url") {
    page.next_url = Text(FindPath(body, pagination.cursor_path));
    if (page.next_url && page.next_url->empty()) page.next_url.reset();
  } else if (pagination.style == "cursor") {
    page.next_value = Text(FindPath(body, pagination.cursor_path));
    if (page.next_value && (page.next_value->empty() || *page.next_value == sent)) page.next_value.reset();
  } else if (pagination.style == "last_id") {
    const JsonValue* more = pagination.has_more_path.empty() ? nullptr : FindPath(body, pagination.has_more_path);
    bool has_more = more != nullptr ? more->is_bool() && more->boolean() : page.count >= pagination.page_size;
    if (has_more && page.count > 0) {
      page.next_value = Text(FindPath(items->items().back(), pagination.id_path.empty() ? "id" : pagination.id_path));
      if (!page.next_value) return absl::InvalidArgumentError("the last item of the page has no id");
    }
  } else if (pagination.style == "offset" || pagination.style == "page") {
    int64_t at = 0;
    if (sent.empty())
      at = pagination.style == "page" ? 1 : 0;
    else if (!absl::SimpleAtoi(ToAbsl(sent), &at))
      return absl::InvalidArgumentError("the position is no number");
    const JsonValue* more = pagination.has_more_path.empty() ? nullptr : FindPath(body, pagination.has_more_path);
    bool has_more = more != nullptr && more->is_bool() ? more->boolean() : page.count >= pagination.page_size;
    if (has_more && page.count > 0) page.next_value = StrCat(at + (pagination.style == "page" ? 1 : page.count));
  } else {
    return absl::InvalidArgumentError(StrCat("pagination style \"", pagination.style, "\" is unknown"));
  }
  return page;
}

}  // namespace mainstay::integrations
