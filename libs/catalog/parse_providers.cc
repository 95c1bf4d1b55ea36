// SPDX-License-Identifier: Apache-2.0
// The grammar of `providers`: other companies' APIs.
#include <re2/re2.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/catalog/sections.h"

namespace mainstay::catalog {
namespace {

void ReadRate(Reader& parent, std::string_view key, RateLimit* rate) {
  const Yaml* value = parent.Take(key);
  if (value == nullptr) return;
  Reader r(parent.context(), *value, parent.Path(key), "rate");
  r.Int("limit", &rate->limit, 1, 1'000'000'000);
  if (!r.Has("limit") && value->kind == Yaml::Kind::kMap) r.Fail(value->at, r.path(), "the key \"limit\" is missing");
  r.Duration("period", &rate->period, absl::Milliseconds(1), kDay * 31);
  r.Int("burst", &rate->burst, 1, 1'000'000'000);
  r.Done();
}

void AddParam(const std::string& name, bool optional, std::vector<std::string>* params) {
  for (std::string& known : *params) {
    if (known == name) return;
    if (known == name + "?") {
      if (!optional) known = name;
      return;
    }
  }
  params->push_back(optional ? name + "?" : name);
}

Operation ReadOperation(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "operation");
  Operation operation;
  operation.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  std::string where;
  for (const char* method : {"get", "head", "post", "put", "patch", "delete"}) {
    if (r.Has(method) && !operation.method.empty()) r.Fail(method, "an operation has one method");
    std::string target;
    r.Text(method, &target);
    if (r.Has(method) && operation.method.empty()) {
      operation.method = absl::AsciiStrToUpper(method);
      operation.path = target;
      where = method;
    }
  }
  if (operation.method.empty() && member.value->kind == Yaml::Kind::kMap)
    r.Fail(r.node().at, path, "names no request; write for example `get: /payments/{id}`");
  static const RE2 kPath("(/([A-Za-z0-9._~!$&'()*+,;=:@%-]|\\{[a-z][a-z0-9_]*\\})*)+");
  if (!where.empty() && !RE2::FullMatch(operation.path, kPath))
    r.Fail(where, StrCat("\"", operation.path, "\" is not a path like /payments/{id}; queries go under `query`"));
  static const RE2 kInPath("\\{([a-z][a-z0-9_]*)\\}"), kInQuery("\\{([a-z][a-z0-9_]*)(\\?)?\\}");
  re2::StringPiece rest(operation.path);
  std::string name, mark;
  while (RE2::FindAndConsume(&rest, kInPath, &name)) AddParam(name, false, &operation.params);
  r.Map("query", &operation.query);
  for (auto& [parameter, value] : operation.query) {
    if (!absl::StrContains(value, '{')) continue;
    mark.clear();
    if (!RE2::FullMatch(value, kInQuery, &name, &mark)) {
      context.mistakes.push_back(
          MistakeAt(context.out, StrCat(r.Path("query"), ".", parameter),
                    StrCat("\"", value, "\" is neither a constant nor one parameter like {status} or {status?}")));
      continue;
    }
    AddParam(name, !mark.empty(), &operation.params);
    value = StrCat("{", name, "}");
  }
  std::vector<std::string> more;
  r.List("params", &more);
  static const RE2 kParam("([a-z][a-z0-9_]*)(\\?)?");
  for (size_t i = 0; i < more.size(); ++i) {
    mark.clear();
    if (!RE2::FullMatch(more[i], kParam, &name, &mark)) {
      context.mistakes.push_back(MistakeAt(context.out, StrCat(r.Path("params"), "[", i, "]"),
                                           "a parameter is a name like status, or status? where it may be left out"));
    } else {
      AddParam(name, !mark.empty(), &operation.params);
    }
  }
  r.Bool("idempotent", &operation.idempotent);
  r.Duration("timeout", &operation.timeout, absl::Milliseconds(1), absl::Hours(1));
  if (const Yaml* pagination = r.Take("pagination")) {
    Reader p(context, *pagination, r.Path("pagination"), "pagination");
    Pagination& out = operation.pagination;
    p.Word("style", &out.style, {"link_header", "next_url", "cursor", "offset", "page", "last_id"});
    if (!p.Has("style") && pagination->kind == Yaml::Kind::kMap)
      p.Fail(pagination->at, p.path(), "the key \"style\" is missing");
    p.Text("items", &out.items);
    p.Text("cursor", &out.cursor_path);
    p.Text("cursor_param", &out.cursor_param);
    p.Text("size_param", &out.size_param);
    p.Text("has_more", &out.has_more_path);
    p.Text("id", &out.id_path);
    p.Int("page_size", &out.page_size, 1, 100'000);
    p.Int("max_pages", &out.max_pages, 1, 1'000'000);
    p.Done();
  }
  r.Done();
  return operation;
}

}  // namespace

Provider ReadProvider(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "provider");
  Provider provider;
  provider.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Required("base_url", &provider.base_url);
  static const RE2 kUrl("https?://[^/?#@\\s\\\\{}]+(/[^?#\\s\\\\]*)?");
  if (!provider.base_url.empty() && !RE2::FullMatch(provider.base_url, kUrl))
    r.Fail("base_url", StrCat("\"", provider.base_url,
                              "\" is not https://HOST or https://HOST/PATH, without user, query and fragment"));
  while (absl::EndsWith(provider.base_url, "/")) provider.base_url.pop_back();
  provider.auth = "none";
  if (const Yaml* auth = r.Take("auth")) {
    if (auth->kind == Yaml::Kind::kScalar) {
      if (auth->text != "none") r.Fail("auth", "expected none, or a map such as {bearer: SECRET}");
    } else {
      Reader a(context, *auth, r.Path("auth"), "auth");
      a.Text("bearer", &provider.auth_secret);
      std::string basic, header, query;
      a.Text("basic", &basic);
      a.Text("header", &header);
      a.Text("query", &query);
      int ways = a.Has("bearer") + a.Has("basic") + a.Has("header") + a.Has("query");
      if (ways != 1 && auth->kind == Yaml::Kind::kMap)
        a.Fail(auth->at, a.path(),
               "say one of `bearer: SECRET`, `basic: SECRET`, `header: NAME` or `query: NAME` with `secret: SECRET`");
      if (a.Has("bearer")) provider.auth = "bearer";
      if (a.Has("basic")) provider.auth = "basic", provider.auth_secret = basic;
      if (a.Has("header")) provider.auth = "header", provider.auth_name = header;
      if (a.Has("query")) provider.auth = "query", provider.auth_name = query;
      std::string secret;
      a.Text("secret", &secret);
      bool named = a.Has("header") || a.Has("query");
      if (named) provider.auth_secret = secret;
      if (named && !a.Has("secret")) a.Fail(auth->at, a.path(), "the key \"secret\" is missing");
      if (!named && a.Has("secret")) a.Fail("secret", "stands only beside `header` or `query`");
      if (ways == 1 && !provider.auth_secret.empty() && !IsSecretName(provider.auth_secret))
        a.Fail(named ? "secret" : provider.auth,
               "this is no name of a secret ([a-z][a-z0-9_./-]*); secrets themselves never stand in a catalog");
      a.Done();
    }
  }
  r.Text("idempotency_header", &provider.idempotency_header);
  ReadRate(r, "rate", &provider.rate);
  r.Int("concurrency", &provider.concurrency, 1, 10'000);
  r.Duration("timeout", &provider.timeout, absl::Milliseconds(1), absl::Hours(1));
  r.Duration("connect_timeout", &provider.connect_timeout, absl::Milliseconds(1), absl::Minutes(5));
  r.Int("max_attempts", &provider.max_attempts, 1, 20);
  r.Map("error_map", &provider.error_map);
  static const std::vector<std::string> kClasses = {"auth",      "throttled", "transient", "permanent",
                                                    "not_found", "conflict",  "validation"};
  for (const auto& [when, cls] : provider.error_map) {
    std::string place = StrCat(r.Path("error_map"), ".", when);
    static const RE2 kWhen("[1-5][0-9][0-9](:[A-Za-z0-9_.]+=.+)?");
    if (!RE2::FullMatch(when, kWhen))
      context.mistakes.push_back(
          MistakeAt(context.out, place,
                    "a case is a status (\"402\") or a status with a body value (\"409:code=key_in_use\")", true));
    if (std::find(kClasses.begin(), kClasses.end(), cls) == kClasses.end())
      context.mistakes.push_back(MistakeAt(context.out, place, StrCat("\"", cls, "\" is not ", Choice(kClasses))));
  }
  r.Each("operations", [&](const Yaml::Member& m, const std::string& p) {
    provider.operations[m.key] = ReadOperation(context, m, p);
  });
  r.Done();
  return provider;
}

}  // namespace mainstay::catalog
