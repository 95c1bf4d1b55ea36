// SPDX-License-Identifier: Apache-2.0
// The grammar of `sources`: who sends webhooks, how they are signed, and what becomes of them.
#include <algorithm>

#include "absl/strings/match.h"
#include "libs/base/strings.h"
#include "libs/catalog/sections.h"

namespace mainstay::catalog {
namespace {

// "json:data.object.id" and its like. `words` are the allowed prefixes.
std::string ExpressionProblem(const std::string& text, const std::vector<std::string>& words) {
  size_t colon = text.find(':');
  std::string word = text.substr(0, colon);
  if (colon == std::string::npos || std::find(words.begin(), words.end(), word) == words.end()) {
    std::vector<std::string> forms;
    forms.reserve(words.size());
    for (const std::string& w : words) forms.push_back(w + ":…");
    return StrCat("\"", text, "\" is not ", Choice(forms));
  }
  std::string rest = text.substr(colon + 1);
  if (rest.empty() && word != "const") return StrCat("nothing stands after \"", word, ":\"");
  if (word == "event" && rest != "id" && rest != "type" && rest != "time" && rest != "entity")
    return StrCat("\"event:", rest, "\" is not event:id, event:type, event:time or event:entity");
  return "";
}

void ReadValueSource(Reader& r, std::string_view key, ValueSource* out) {
  r.List(key, out);
  for (size_t i = 0; i < out->size(); ++i) {
    std::string problem = ExpressionProblem((*out)[i], {"json", "header", "sig", "query", "form", "const"});
    if (!problem.empty())
      r.context().mistakes.push_back(MistakeAt(r.context().out, StrCat(r.Path(key), "[", i, "]"), problem));
  }
}

void ReadExpressions(Reader& r, std::string_view key, std::map<std::string, std::string>* out,
                     const std::vector<std::string>& words) {
  r.Map(key, out);
  for (const auto& [name, expression] : *out) {
    std::string problem = ExpressionProblem(expression, words);
    if (!problem.empty())
      r.context().mistakes.push_back(MistakeAt(r.context().out, StrCat(r.Path(key), ".", name), problem));
  }
}

void ReadScheme(Reader& parent, SignatureScheme* scheme) {
  const Yaml* value = parent.Take("scheme");
  if (value == nullptr) {
    if (parent.node().kind == Yaml::Kind::kMap)
      parent.Fail(parent.node().at, parent.path(),
                  "the key \"scheme\" is missing: a preset's name (stripe, github, standard-webhooks …) or a map");
    return;
  }
  if (value->kind == Yaml::Kind::kScalar) {
    scheme->preset = value->text;
    if (!IsPlainName(scheme->preset)) parent.Fail("scheme", StrCat("\"", scheme->preset, "\" is not a preset's name"));
    return;
  }
  Reader r(parent.context(), *value, parent.Path("scheme"), "scheme");
  r.Text("preset", &scheme->preset);
  r.Word("algorithm", &scheme->algorithm, {"hmac-sha256", "hmac-sha1", "sha256", "ed25519"});
  r.Text("signed_content", &scheme->signed_content);
  r.Text("signature_header", &scheme->signature_header);
  r.Text("header_format", &scheme->header_format);
  r.Text("signature_key", &scheme->signature_key);
  r.Word("encoding", &scheme->encoding, {"hex", "hex-any-case", "base64", "base64url"});
  r.Word("key_encoding", &scheme->key_encoding, {"text", "base64", "hex", "whsec-base64"});
  r.Text("timestamp", &scheme->timestamp);
  if (!scheme->timestamp.empty()) {
    std::string problem = ExpressionProblem(scheme->timestamp, {"json", "header", "sig"});
    if (!problem.empty()) r.Fail("timestamp", problem);
  }
  r.Word("timestamp_unit", &scheme->timestamp_unit, {"s", "ms", "iso8601"});
  r.Duration("tolerance_past", &scheme->tolerance_past, absl::ZeroDuration(), kDay);
  r.Duration("tolerance_future", &scheme->tolerance_future, absl::ZeroDuration(), kDay);
  if (value->kind == Yaml::Kind::kMap && scheme->preset.empty() && !r.Has("signature_header"))
    r.Fail(value->at, r.path(), "without a preset the key \"signature_header\" is needed");
  r.Done();
}

const std::vector<std::string> kApplyWords = {"json", "fetched", "event", "const"};
const std::vector<std::string> kParamWords = {"json", "event", "const"};

ApplyRoute ReadApply(Reader::Context& context, const Yaml& value, const std::string& path) {
  Reader r(context, value, path, "apply");
  ApplyRoute apply;
  r.Required("resource", &apply.resource);
  r.Word("mode", &apply.mode, {"create", "update", "upsert"});
  r.List("key", &apply.key);
  ReadExpressions(r, "map", &apply.map, kApplyWords);
  if (apply.map.empty())
    r.Fail(value.at, path, "the key \"map\" is missing: FIELD: EXPRESSION for each field to write");
  r.Text("stale", &apply.stale_field);
  r.Map("when", &apply.when);
  for (const auto& [expression, value] : apply.when) {
    std::string problem = ExpressionProblem(expression, kApplyWords);
    if (!problem.empty())
      context.mistakes.push_back(MistakeAt(context.out, StrCat(r.Path("when"), ".", expression), problem, true));
  }
  if (const Yaml* transitions = r.Take("transitions")) {
    Reader t(context, *transitions, r.Path("transitions"), "transitions");
    t.Required("field", &apply.status_field);
    const Yaml* allowed = t.Take("allowed");
    if (allowed == nullptr) {
      t.Fail(transitions->at, t.path(), "the key \"allowed\" is missing: FROM: [TO, …] for each status");
    } else if (allowed->kind != Yaml::Kind::kMap) {
      t.Fail("allowed", StrCat("expected a map of FROM: [TO, …], got ", KindWord(*allowed)));
    } else {
      Reader from(context, *allowed, t.Path("allowed"), "");
      for (const Yaml::Member& member : allowed->members) from.List(member.key, &apply.transitions[member.key]);
    }
    t.Done();
  }
  r.Done();
  return apply;
}

Route ReadRoute(Reader::Context& context, const Yaml& value, const std::string& path) {
  Reader r(context, value, path, "route");
  Route route;
  r.List("types", &route.types);
  if (route.types.empty())
    r.Fail(value.at, path, "the key \"types\" is missing: the event types this route takes, \"*\" for all");
  for (size_t i = 0; i < route.types.size(); ++i) {
    size_t star = route.types[i].find('*');
    if (route.types[i].empty() || (star != std::string::npos && star + 1 != route.types[i].size()))
      context.mistakes.push_back(MistakeAt(context.out, StrCat(path, ".types[", i, "]"),
                                           "a type is exact, or ends in the only \"*\" (payment.*)"));
  }
  if (const Yaml* fetch = r.Take("fetch")) {
    Reader f(context, *fetch, r.Path("fetch"), "fetch");
    route.fetch.emplace();
    f.Required("provider", &route.fetch->provider);
    f.Text("connection", &route.fetch->connection);
    f.Required("operation", &route.fetch->operation);
    ReadExpressions(f, "params", &route.fetch->params, kParamWords);
    f.Done();
  }
  r.EachItem("apply", [&](const Yaml& v, const std::string& p) { route.apply.push_back(ReadApply(context, v, p)); });
  if (const Yaml* job = r.Take("job")) {
    Reader j(context, *job, r.Path("job"), "route_job");
    route.job.emplace();
    j.Required("kind", &route.job->kind);
    route.job->queue = "default";
    j.Text("queue", &route.job->queue);
    j.Done();
  }
  if (route.apply.empty() && !route.job && value.kind == Yaml::Kind::kMap)
    r.Fail(value.at, path, "a route does something: `apply` writes to resources, `job` enqueues a job");
  if (!route.fetch) {
    for (size_t i = 0; i < route.apply.size(); ++i) {
      for (const auto& [field, expression] : route.apply[i].map)
        if (absl::StartsWith(expression, "fetched:"))
          context.mistakes.push_back(
              MistakeAt(context.out, StrCat(path, ".apply[", i, "].map.", field),
                        "nothing is fetched in this route; add `fetch`, or take the value from the event with json:…"));
    }
  }
  r.Done();
  return route;
}

}  // namespace

Source ReadSource(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "source");
  Source source;
  source.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Bool("enabled", &source.enabled);
  r.Text("tenant", &source.tenant, 63);
  ReadValueSource(r, "tenant_from", &source.tenant_from);
  if (r.Has("tenant") == r.Has("tenant_from"))
    r.Fail(r.node().at, path, "say either `tenant: NAME` or `tenant_from: [json:…]`");
  if (source.tenant == "*") r.Fail("tenant", "a source writes for one tenant, not for all");
  ReadScheme(r, &source.scheme);
  r.List("secrets", &source.secrets);
  if (source.secrets.empty())
    r.Fail(r.node().at, path, "the key \"secrets\" is missing: names of secrets set with `mainstay secrets set`");
  for (size_t i = 0; i < source.secrets.size(); ++i)
    if (!IsSecretName(source.secrets[i]))
      context.mistakes.push_back(
          MistakeAt(context.out, StrCat(path, ".secrets[", i, "]"),
                    "this is no name of a secret ([a-z][a-z0-9_./-]*); secrets themselves never stand in a catalog"));
  if (const Yaml* event = r.Take("event")) {
    Reader e(context, *event, r.Path("event"), "event");
    ReadValueSource(e, "id", &source.event_id);
    ReadValueSource(e, "type", &source.event_type);
    ReadValueSource(e, "time", &source.event_time);
    e.Word("time_unit", &source.event_time_unit, {"s", "ms", "iso8601"});
    ReadValueSource(e, "entity", &source.entity);
    e.Done();
  }
  r.List("content_types", &source.content_types);
  r.Bytes("max_body", &source.max_body, 1, 16 << 20);
  r.Duration("dedup_window", &source.dedup_window, absl::Minutes(1), kDay * 400);
  r.EachItem("routes", [&](const Yaml& v, const std::string& p) { source.routes.push_back(ReadRoute(context, v, p)); });
  r.Done();
  return source;
}

}  // namespace mainstay::catalog
