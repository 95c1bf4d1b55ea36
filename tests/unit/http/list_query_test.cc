// SPDX-License-Identifier: Apache-2.0
#include "libs/http/list_query.h"

#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>

#include <catch2/catch.hpp>

#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "mainstay/common/v1/common.pb.h"

namespace mainstay::http {
namespace {

namespace pb = mainstay::common::v1;

// The query as text, without the places (they have a test of their own).
std::string Shape(std::string_view query) {
  const auto parsed = ParseListQuery(query);
  if (!parsed.ok()) return ProblemFromStatus(parsed.status()).type;
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  std::string text;
  printer.PrintToString(*parsed, &text);
  std::string out;
  while (!text.empty()) {  // drops place: "…"
    const size_t at = text.find("place: \"");
    out += text.substr(0, at);
    if (at == std::string::npos) break;
    text.erase(0, text.find("\" ", at + 8) + 2);
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

std::string Type(std::string_view query) {
  const auto parsed = ParseListQuery(query);
  return parsed.ok() ? "ok" : ProblemFromStatus(parsed.status()).type;
}

std::string JsonType(std::string json, const ListQueryLimits& limits = {}) {
  const auto document = JsonDocument::Parse(std::move(json));
  if (!document.ok()) return ProblemFromStatus(document.status()).type;
  const auto parsed = ParseListQueryJson(document->root(), limits);
  return parsed.ok() ? "ok" : ProblemFromStatus(parsed.status()).type;
}

}  // namespace

TEST_CASE("conditions are read with their operator, several are ANDed") {
  CHECK(Shape("") == "");
  CHECK(Shape("filter[status]=open") == R"(filter { condition { field: "status" op: "eq" values: "open" } })");
  CHECK(Shape("filter%5Bage%5D%5Bgte%5D=18") == R"(filter { condition { field: "age" op: "gte" values: "18" } })");
  CHECK(
      Shape("filter[age][gte]=18&filter[age][lt]=65") ==
      R"(filter { and { filters { condition { field: "age" op: "gte" values: "18" } } filters { condition { field: "age" op: "lt" values: "65" } } } })");
  CHECK(Shape("filter[author.country]=FR") ==
        R"(filter { condition { field: "author.country" op: "eq" values: "FR" } })");
  CHECK(Shape("filter[name]=a%2Bb+c") == R"(filter { condition { field: "name" op: "eq" values: "a+b c" } })");
}

TEST_CASE("groups, negation and quantifiers nest") {
  CHECK(
      Shape("filter[or][0][age][lt]=18&filter[or][1][vip]=true&filter[or][0][vip]=false") ==
      R"(filter { or { filters { and { filters { condition { field: "age" op: "lt" values: "18" } } filters { condition { field: "vip" op: "eq" values: "false" } } } } filters { condition { field: "vip" op: "eq" values: "true" } } } })");
  CHECK(Shape("filter[not][status]=open") ==
        R"(filter { not { condition { field: "status" op: "eq" values: "open" } } })");
  CHECK(
      Shape("filter[comments][some][approved]=true") ==
      R"(filter { related { relation: "comments" quantifier: "some" filter { condition { field: "approved" op: "eq" values: "true" } } } })");
}

TEST_CASE("a list of values is comma-separated, with an escape, or indexed") {
  CHECK(Shape("filter[s][in]=a,b%5C,c,") ==
        R"(filter { condition { field: "s" op: "in" values: "a" values: "b,c" values: "" } })");
  CHECK(Shape("filter[s][in][1]=b,x&filter[s][in][0]=a") ==
        R"(filter { condition { field: "s" op: "in" values: "a" values: "b,x" } })");
}

TEST_CASE("sort, fields, expansions and the single values") {
  CHECK(Shape("sort=-created_at,rank:nulls_last") ==
        R"(sort { field: "created_at" descending: true } sort { field: "rank" nulls: NULLS_ORDER_LAST })");
  CHECK(Shape("fields=id,author.name") == R"(fields: "id" fields: "author.name")");
  CHECK(Shape("fields=*") == "");
  CHECK(
      Shape("expand[comments][limit]=5&expand=author,comments&expand[comments][filter][ok]=true&expand[comments][sort]="
            "-id") ==
      R"(expand { path: "author" } expand { path: "comments" query { filter { condition { field: "ok" op: "eq" values: "true" } } sort { field: "id" descending: true } limit: 5 } })");
  CHECK(Shape("limit=200&count=exact&deleted=only&view=short&cursor=abc") ==
        R"(limit: 200 cursor: "abc" count: COUNT_MODE_EXACT deleted: DELETED_MODE_ONLY view: "short")");
  CHECK(Shape("offset=100") == "offset: 100");
}

TEST_CASE("a condition tells where it stood") {
  const auto query = ParseListQuery("filter[or][0][age][lt]=18&filter[or][1][a][some][b]=1");
  REQUIRE(query.ok());
  CHECK(query->filter().or_().filters(0).condition().place() == "filter[or][0][age][lt]");
  CHECK(query->filter().or_().filters(1).related().place() == "filter[or][1][a][some]");
  const auto refused = ParseListQuery("filter[age][gte]=1&filter[age][above]=18");
  CHECK(ProblemFromStatus(refused.status()).errors.at(0).name == "filter[age][above]");
}

TEST_CASE("what is unknown, repeated or out of form is refused with its problem") {
  const std::pair<const char*, const char*> cases[] = {
      {"limit=0", "invalid-parameter"},
      {"limit=-1", "invalid-parameter"},
      {"limit=1e3", "invalid-parameter"},
      {"limit=1001", "invalid-parameter"},
      {"limit=1000000000000000000000000000000", "invalid-parameter"},
      {"limit=10&limit=20", "invalid-parameter"},
      {"limit", "invalid-parameter"},
      {"limit=%31%30&limit=10", "invalid-parameter"},
      {"nope=1", "invalid-parameter"},
      {"&", "invalid-parameter"},
      {"=1", "invalid-parameter"},
      {"limit=10&", "invalid-parameter"},
      {"filter[a[b]=1", "invalid-parameter"},
      {"filter[a]]=1", "invalid-parameter"},
      {"filter[a=1", "invalid-parameter"},
      {"filter[]=1", "invalid-parameter"},
      {"filter[a]x=1", "invalid-parameter"},
      {"filter=1", "filter-invalid"},
      {"filter[or]=1", "filter-invalid"},
      {"filter[or][9999999][a]=1", "filter-invalid"},
      {"filter[or][1][a]=1", "filter-invalid"},
      {"filter[or][00][a]=1", "filter-invalid"},
      {"filter[a][nope]=1", "filter-invalid"},
      {"filter[a][eq][b]=1", "filter-invalid"},
      {"filter[a]=1&filter[a][gt]=1", "filter-invalid"},
      {"filter[a][gt]=1&filter[a]=1", "filter-invalid"},
      {"filter[a][is_null]=maybe", "filter-invalid"},
      {"filter[a][some]=1", "filter-invalid"},
      {"filter[some]=1", "unknown-field"},
      {"filter[a%20or%201%3D1]=1", "unknown-field"},
      {"filter[A]=1", "unknown-field"},
      {"filter[a..b]=1", "unknown-field"},
      {"filter[%D0%B0ge]=1", "unknown-field"},
      {"filter[name]=%00", "invalid-parameter"},
      {"filter[name]=%ff", "invalid-parameter"},
      {"filter[name]=%c0%af", "invalid-parameter"},
      {"filter[name]=%zz", "invalid-parameter"},
      {"filter[name]=%4", "invalid-parameter"},
      {"sort=a,a", "invalid-parameter"},
      {"sort=", "invalid-parameter"},
      {"sort=a,b,c,d,e,f,g,h,i", "invalid-parameter"},
      {"sort=a:nulls_up", "invalid-parameter"},
      {"sort=a;drop", "unknown-field"},
      {"fields=id,id", "invalid-parameter"},
      {"fields=", "invalid-parameter"},
      {"expand=a.b.c.d", "expand-too-deep"},
      {"expand=a,b,c,d,e,f,g,h,i,j,k", "expand-too-deep"},
      {"expand[a][offset]=1", "invalid-parameter"},
      {"expand[a]=1", "invalid-parameter"},
      {"offset=10001", "offset-too-deep"},
      {"offset=1&cursor=x", "invalid-parameter"},
      {"offset=0&cursor=x", "invalid-parameter"},
      {"cursor=", "cursor-invalid"},
      {"count=all", "invalid-parameter"},
      {"deleted=yes", "invalid-parameter"},
      {"view=a.b", "invalid-parameter"},
  };
  for (const auto& [query, type] : cases) {
    INFO(query);
    CHECK(Type(query) == type);
  }
  CHECK(Type("cursor=" + std::string(4097, 'a')) == "cursor-invalid");
}

TEST_CASE("the size of a filter is bounded: leaves, depth, values, parameters") {
  const auto many = [](int n) {
    std::string query;
    for (int i = 0; i < n; ++i) StrAppend(&query, i == 0 ? "" : "&", "filter[f", i, "]=1");
    return query;
  };
  CHECK(Type(many(50)) == "ok");
  CHECK(Type(many(51)) == "filter-invalid");
  CHECK(Type(many(10000)) == "invalid-parameter");
  CHECK(Type("filter[not][not][not][not][not][a]=1") == "ok");
  CHECK(Type("filter[not][not][not][not][not][not][a]=1") == "filter-invalid");
  const auto values = [](int n) {
    std::string list = "filter[a][in]=0";
    for (int i = 1; i < n; ++i) StrAppend(&list, ",", i);
    return list;
  };
  CHECK(Type(values(100)) == "ok");
  CHECK(Type(values(101)) == "filter-invalid");
  // Conditions in expansions count with the others.
  CHECK(Type(many(50) + "&expand[a][filter][b]=1") == "filter-invalid");
}

TEST_CASE("the caller's own parameters are handed over, not refused") {
  pb::ListQuery query;
  std::map<std::string, std::string> taken;
  CHECK(ParseListQuery({{"wait", "5s"}, {"limit", "3"}}, {"wait"}, &taken, &query).ok());
  CHECK(taken == std::map<std::string, std::string>{{"wait", "5s"}});
  CHECK(query.limit() == 3);
  CHECK_FALSE(ParseListQuery({{"wait", "5s"}, {"wait", "6s"}}, {"wait"}, &taken, &query).ok());
}

TEST_CASE("the JSON form gives the same query as the URL") {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"filter":{"age":{"gte":18},"or":[{"a":"x"},{"not":{"b":true}}]},"sort":"-a,b","limit":5})",
       "filter[age][gte]=18&filter[or][0][a]=x&filter[or][1][not][b]=true&sort=-a,b&limit=5"},
      {R"({"filter":{"s":{"in":["a","b,c",3]}},"fields":["id","s"],"count":"exact"})",
       "filter[s][in]=a,b%5C,c,3&fields=id,s&count=exact"},
      {R"({"expand":{"comments":{"limit":"5","filter":{"ok":true}}}})",
       "expand[comments][limit]=5&expand[comments][filter][ok]=true"},
      {R"({"expand":["author"],"filter":{"items":{"some":{"n":{"gt":9007199254740993}}}}})",
       "expand=author&filter[items][some][n][gt]=9007199254740993"},
      {R"({"filter":{}})", ""},
  };
  for (const auto& [json, url] : cases) {
    INFO(json);
    const auto document = JsonDocument::Parse(json);
    REQUIRE(document.ok());
    auto from_json = ParseListQueryJson(document->root(), {});
    auto from_url = ParseListQuery(url);
    REQUIRE(from_json.ok());
    REQUIRE(from_url.ok());
    const auto* place = pb::Filter::Condition::descriptor()->FindFieldByName("place");
    const auto* related_place = pb::Filter::Related::descriptor()->FindFieldByName("place");
    google::protobuf::util::MessageDifferencer differ;
    differ.IgnoreField(place);
    differ.IgnoreField(related_place);
    CHECK(differ.Compare(*from_json, *from_url));
  }
}

TEST_CASE("a wrong JSON query is refused with the same types and a pointer") {
  CHECK(JsonType(R"({"nope":1})") == "invalid-parameter");
  CHECK(JsonType(R"([])") == "invalid-parameter");
  CHECK(JsonType(R"({"limit":1e1})") == "invalid-parameter");
  CHECK(JsonType(R"({"limit":1.0})") == "invalid-parameter");
  CHECK(JsonType(R"({"limit":null})") == "invalid-parameter");
  CHECK(JsonType(R"({"filter":{"a":null}})") == "filter-invalid");
  CHECK(JsonType(R"({"filter":[]})") == "filter-invalid");
  CHECK(JsonType(R"({"filter":{"or":{}}})") == "filter-invalid");
  CHECK(JsonType(R"({"filter":{"or":[]}})") == "filter-invalid");
  CHECK(JsonType(R"({"filter":{"a":[1]}})") == "filter-invalid");
  CHECK(JsonType(R"({"filter":{"a":{"in":"x"}}})") == "filter-invalid");
  CHECK(JsonType(R"({"filter":{"a":{"in":[[1]]}}})") == "filter-invalid");
  CHECK(JsonType(R"({"filter":{"a":{}}})") == "filter-invalid");
  CHECK(JsonType(R"({"filter":{"__proto__":1}})") == "unknown-field");
  CHECK(JsonType(R"({"cursor":"x","offset":0})") == "invalid-parameter");
  CHECK(JsonType(R"({"a":1,"a":2})") == "json-duplicate-key");
  ListQueryLimits body;
  body.values = kMaxValuesInBody;
  std::string list = R"({"filter":{"a":{"in":[0)";
  for (int i = 1; i < kMaxValuesInBody; ++i) StrAppend(&list, ",", i);
  CHECK(JsonType(list + "]}}}", body) == "ok");
  CHECK(JsonType(list + ",1]}}}", body) == "filter-invalid");
  const auto document = JsonDocument::Parse(R"({"filter":{"or":[{"a":1},{"b":{"above":2}}]}})");
  const auto refused = ParseListQueryJson(document->root(), {});
  CHECK(ProblemFromStatus(refused.status()).errors.at(0).name == "/filter/or/1/b/above");
}

}  // namespace mainstay::http
