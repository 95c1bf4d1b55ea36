// SPDX-License-Identifier: Apache-2.0
// The grammar without a database: every mistake is found at once, where it stands, and said in a sentence.
#include "libs/catalog/parse.h"

#include <catch2/catch.hpp>

#include "absl/strings/str_split.h"
#include "libs/catalog/declarations.h"
#include "tests/support/environment.h"
#include "tests/support/status.h"

namespace mainstay::catalog {
namespace {

using testing::IsOk;

// What is wrong with one file "c.yaml", a line each.
std::vector<std::string> Wrong(const std::string& text, const Variables& variables = {},
                               const ParseLimits& limits = {}) {
  absl::StatusOr<Document> document = ParseFiles({{"c.yaml", text}}, variables, limits);
  if (document.ok()) return {};
  return absl::StrSplit(std::string(document.status().message()), '\n');
}

// A resource with these lines added.
std::string Resource(const std::string& more) {
  return "resources:\n  orders:\n    table: shop.orders\n    tenant: tenant_id\n" + more;
}

using Lines = std::vector<std::string>;

TEST_CASE("the demo catalog parses, with its variable given") {
  absl::StatusOr<std::vector<File>> files = ReadFolder(testing::SourceDir() + "/deploy/demo/catalog");
  REQUIRE_THAT(files, IsOk());
  Variables variables = {{"payments_url", "http://127.0.0.1:9000"}};
  absl::StatusOr<Document> document = ParseFiles(*files, variables);
  REQUIRE_THAT(document, IsOk());
  const Model& model = document->declarations().model;
  CHECK(model.providers.at("payments").base_url == "http://127.0.0.1:9000");
  CHECK(model.providers.at("payments").operations.at("get_payment").params == std::vector<std::string>{"id"});
  CHECK(model.providers.at("payments").operations.at("list_payments").params == std::vector<std::string>{"status?"});
  CHECK(model.providers.at("payments").operations.at("list_payments").query.at("status") == "{status}");
  CHECK(model.sources.at("payments").scheme.preset == "stripe");
  CHECK(model.queues.contains("mainstay"));
  absl::StatusOr<Document> again = ParseFiles(*files, variables);
  CHECK(document->hash() == again->hash());
  variables["payments_url"] = "http://127.0.0.1:9001";
  CHECK(ParseFiles(*files, variables)->hash() != document->hash());
  variables["unused"] = "x";
  CHECK(ParseFiles(*files, variables)->hash() != document->hash());
  absl::StatusOr<Document> without = ParseFiles(*files, {});
  REQUIRE_FALSE(without.ok());
  CHECK_THAT(std::string(without.status().message()),
             Catch::Contains("the variable ${payments_url} has no value; give it with --set payments_url=VALUE"));
}

TEST_CASE("mistakes carry file, line, column and path") {
  CHECK(Wrong(Resource("    offsett: true\n")) ==
        Lines{"c.yaml:5:5: resources.orders.offsett: the key \"offsett\" is not known here; did you mean \"offset\"?"});
  CHECK(Wrong(Resource("    offset: yes\n")) ==
        Lines{"c.yaml:5:13: resources.orders.offset: \"yes\" is not true or false"});
  CHECK(Wrong(Resource("    max_limit: many\n")) ==
        Lines{"c.yaml:5:16: resources.orders.max_limit: \"many\" is not a whole number"});
  CHECK(Wrong(Resource("    max_limit: 1001\n")) ==
        Lines{"c.yaml:5:16: resources.orders.max_limit: 1001 is not between 1 and 1000"});
  CHECK(Wrong(Resource("    cache: 10\n")) == Lines{"c.yaml:5:12: resources.orders.cache: \"10\" is not a duration; "
                                                    "write for example 250ms, 30s, 5m, 1h30m or 7d"});
  CHECK(Wrong(Resource("    views: {short: [id, id]}\n")) ==
        Lines{"c.yaml:5:25: resources.orders.views.short[1]: \"id\" stands twice in the list"});
  CHECK(Wrong(Resource("    fields: {Total: {}}\n")) ==
        Lines{"c.yaml:5:14: resources.orders.fields.Total: a field's public name is [a-z][a-z0-9_]*, at most 63 "
              "characters; name the column by `column:`"});
  CHECK(Wrong(Resource("    fields: {total: [1]}\n")) ==
        Lines{"c.yaml:5:21: resources.orders.fields.total: expected a map of settings, got a list"});
  CHECK(Wrong(Resource("    fields:\n      email: {pattern: 'a(b'}\n")) ==
        Lines{"c.yaml:6:24: resources.orders.fields.email.pattern: not a pattern in RE2's syntax: missing ): a(b"});
  CHECK(Wrong(Resource("    relations: {x: {by: a}}\n")) ==
        Lines{"c.yaml:5:20: resources.orders.relations.x: say either `to: RESOURCE` (one row) or `many: RESOURCE` (a "
              "list)"});
  CHECK(Wrong(Resource("    permissions: {staff: {actions: [reed]}}\n")) ==
        Lines{"c.yaml:5:37: resources.orders.permissions.staff.actions[0]: \"reed\" is not read, aggregate, create, "
              "update, "
              "delete or all"});
}

TEST_CASE("columns are counted in characters, also behind letters of several bytes") {
  CHECK(Wrong("roles: {a: {description: 'äöü€', scope: x}}\n") ==
        Lines{"c.yaml:1:34: roles.a.scope: the key \"scope\" is not known here; did you mean \"scopes\"?"});
}

TEST_CASE("a resource says how it stands to tenants") {
  CHECK(Wrong("resources:\n  orders: {table: shop.orders}\n") ==
        Lines{"c.yaml:2:11: resources.orders: names no tenant: write `tenant: FIELD`, or `shared: read` where every "
              "tenant may see every row, or `shared: write` where every tenant may also change "
              "every row"});
  CHECK(Wrong("resources:\n  orders: {table: shop.orders, shared: read, tenant: t}\n") ==
        Lines{"c.yaml:2:40: resources.orders.shared: a resource with a tenant column is not shared; remove one of the "
              "two"});
}

TEST_CASE("the suite's and the system's own tables can't be exposed") {
  for (const char* table :
       {"mainstay.jobs", "pg_catalog.pg_authid", "information_schema.tables", "\"mainstay\".secrets"}) {
    Lines wrong = Wrong("resources: {x: {shared: read, table: '" + std::string(table) + "'}}\n");
    REQUIRE(wrong.size() == 1);
    CHECK_THAT(wrong[0], Catch::Contains("are not the catalog's to expose"));
  }
}

TEST_CASE("all mistakes of all files come at once, in the order of the files") {
  absl::StatusOr<Document> document = ParseFiles({{"b.yaml", "queues: {mail: {priority: 12}}\n"},
                                                  {"a.yaml", "queues: {mail: {weight: 0, priorty: 1}}\nrolls: {}\n"}});
  REQUIRE_FALSE(document.ok());
  CHECK(Lines(absl::StrSplit(std::string(document.status().message()), '\n')) ==
        Lines{"a.yaml:1:25: queues.mail.weight: 0 is not between 1 and 1000",
              "a.yaml:1:28: queues.mail.priorty: the key \"priorty\" is not known here; did you mean \"priority\"?",
              "a.yaml:2:1: rolls: the key \"rolls\" is not known here; did you mean \"roles\"?",
              "b.yaml:1:10: queues.mail: is declared already at a.yaml:1:10"});
}

TEST_CASE("what is no YAML is said with its place") {
  CHECK(Wrong("roles: {a: [1, 2}\n") == Lines{"c.yaml:1:17: not valid YAML: illegal flow end"});
  CHECK(Wrong("roles:\n\t- x\n").size() == 1);
  CHECK(Wrong("roles: {a: \xff}\n") == Lines{"c.yaml:1:1: the file is not valid UTF-8"});
  CHECK(Wrong(std::string("roles: {a: {description: \"\0\"}}", 29)) ==
        Lines{"c.yaml:1:1: the file contains a NUL character"});
  CHECK(Wrong("roles: {}\n---\nroles: {}\n") ==
        Lines{"c.yaml:1:1: the file holds more than one document; remove the line \"---\" between them"});
  CHECK(Wrong("- a\n- b\n") == Lines{"c.yaml:1:1: expected a map of settings, got a list"});
  CHECK(Wrong("roles: {a: !!python/object {}}\n").size() == 1);
  CHECK(Wrong("").empty());
  CHECK(Wrong("# nothing yet\n").empty());
}

TEST_CASE("a key stands once") {
  CHECK(Wrong("queues:\n  a: {}\n  b: {}\n  a: {}\n") ==
        Lines{"c.yaml:4:3: the key \"a\" stands twice in the same map"});
  CHECK(Wrong("roles: {a: {scopes: [], \"scopes\": []}}\n") ==
        Lines{"c.yaml:1:25: the key \"scopes\" stands twice in the same map"});
}

TEST_CASE("aliases share, but can't blow up") {
  CHECK(Wrong("roles:\n  a: &x {scopes: ['jobs:read']}\n  b: *x\n").empty());
  std::string bomb = "roles:\n  a0: &a0 {scopes: ['jobs:read']}\n";
  for (int i = 1; i < 12; ++i) {
    bomb += "  a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) bomb += std::string(j ? ", " : "") + "*a" + std::to_string(i - 1);
    bomb += "]\n";
  }
  Lines wrong = Wrong(bomb);
  REQUIRE_FALSE(wrong.empty());
  CHECK_THAT(wrong.front(),
             Catch::Contains("the catalog holds more than 1000000 values, aliases counted as often as they are used"));
  CHECK(Wrong("roles: &r {a: *r}\n") == Lines{"c.yaml:1:15: this alias stands inside what it refers to"});
}

TEST_CASE("depth and size are bounded") {
  CHECK_THAT(Wrong("roles: " + std::string(100, '[') + std::string(100, ']') + "\n").front(),
             Catch::Contains("maps and lists are nested more than 24 deep"));
  CHECK_FALSE(Wrong("roles: " + std::string(100'000, '[')).empty());
  CHECK_THAT(Wrong("roles: {}", {}, {.file_bytes = 5}).front(), Catch::Contains("the file is larger than 5 bytes"));
  CHECK_THAT(Wrong("roles: {}", {}, {.total_bytes = 5}).front(), Catch::Contains("the catalog is larger than 5 bytes"));
  absl::StatusOr<Document> none = ParseFiles({});
  REQUIRE_FALSE(none.ok());
  CHECK_THAT(std::string(none.status().message()), Catch::Contains("the catalog has no files"));
}

TEST_CASE("variables are put in as text, never as YAML") {
  const std::string text = "providers: {p: {base_url: '${url}/v1', idempotency_header: 'X-$${k}'}}\n";
  absl::StatusOr<Document> document = ParseFiles({{"c.yaml", text}}, {{"url", "https://api.example"}});
  REQUIRE_THAT(document, IsOk());
  CHECK(document->declarations().model.providers.at("p").base_url == "https://api.example/v1");
  CHECK(document->declarations().model.providers.at("p").idempotency_header == "X-${k}");
  Lines wrong = Wrong(text, {{"url", "https://x\nroles: {evil: {scopes: ['*']}}"}});
  REQUIRE(wrong.size() == 1);
  CHECK_THAT(wrong[0], Catch::Contains("is not https://HOST"));
  CHECK(Wrong("queues: {q: {priority: '${p}'}}\n", {{"p", "3"}}).empty());
  CHECK(Wrong("providers: {p: {base_url: '${Url}'}}\n").front() ==
        "c.yaml:1:27: \"${\" begins a variable like ${api_url}; for the characters themselves write \"$${\"");
}

TEST_CASE("sources: schemes, expressions, routes") {
  const std::string head = "sources:\n  pay:\n    scheme: stripe\n    secrets: [pay-secret]\n    tenant: acme\n";
  CHECK(Wrong(head).empty());
  CHECK(Wrong(head + "    event: {id: 'body.id'}\n") ==
        Lines{"c.yaml:6:17: sources.pay.event.id[0]: \"body.id\" is not json:…, header:…, sig:…, query:…, form:… or "
              "const:…"});
  CHECK(Wrong(head + "    routes:\n      - types: ['a.*.b']\n        job: {kind: k}\n") ==
        Lines{"c.yaml:7:17: sources.pay.routes[0].types[0]: a type is exact, or ends in the only \"*\" (payment.*)"});
  CHECK(Wrong(head + "    routes:\n      - types: x\n") ==
        Lines{"c.yaml:7:9: sources.pay.routes[0]: a route does something: `apply` writes to resources, `job` enqueues "
              "a job"});
  CHECK(Wrong(head + "    routes:\n      - types: x\n        apply: {resource: r, map: {a: 'fetched:a'}}\n") ==
        Lines{"c.yaml:8:39: sources.pay.routes[0].apply[0].map.a: nothing is fetched in this route; add `fetch`, or "
              "take the value from the event with json:…"});
  CHECK(Wrong("sources: {p: {scheme: {encoding: hexx}, secrets: ['sk_live_ABC'], tenant: a}}\n") ==
        Lines{"c.yaml:1:23: sources.p.scheme: without a preset the key \"signature_header\" is needed",
              "c.yaml:1:34: sources.p.scheme.encoding: \"hexx\" is not hex, hex-any-case, base64 or base64url; did you "
              "mean \"hex\"?",
              "c.yaml:1:51: sources.p.secrets[0]: this is no name of a secret ([a-z][a-z0-9_./-]*); secrets themselves "
              "never stand in a catalog"});
  CHECK(Wrong("sources: {p: {scheme: stripe, secrets: [s]}}\n") ==
        Lines{"c.yaml:1:14: sources.p: say either `tenant: NAME` or `tenant_from: [json:…]`"});
}

TEST_CASE("providers: addresses, credentials, operations") {
  auto provider = [](const std::string& more) {
    return Wrong("providers:\n  p:\n    base_url: https://api.example\n" + more);
  };
  CHECK(provider("").empty());
  CHECK(provider("    auth: {header: X-Key, secret: p-key}\n").empty());
  CHECK(provider("    auth: {header: X-Key}\n") ==
        Lines{"c.yaml:4:11: providers.p.auth: the key \"secret\" is missing"});
  CHECK(provider("    auth: {bearer: a, basic: b}\n").size() == 1);
  CHECK(provider("    auth: {bearer: 'sk_live_4eC39Hq'}\n") ==
        Lines{"c.yaml:4:20: providers.p.auth.bearer: this is no name of a secret ([a-z][a-z0-9_./-]*); secrets "
              "themselves never stand in a catalog"});
  CHECK(provider("    operations: {get: {get: 'payments'}}\n") ==
        Lines{"c.yaml:4:29: providers.p.operations.get.get: \"payments\" is not a path like /payments/{id}; queries go "
              "under `query`"});
  CHECK(provider("    operations: {o: {get: /a, post: /b}}\n") ==
        Lines{"c.yaml:4:37: providers.p.operations.o.post: an operation has one method"});
  CHECK(provider("    operations: {o: {timeout: 3s}}\n") ==
        Lines{"c.yaml:4:21: providers.p.operations.o: names no request; write for example `get: /payments/{id}`"});
  CHECK(provider("    error_map: {'40': transient, '402': later}\n") ==
        Lines{"c.yaml:4:17: providers.p.error_map.40: a case is a status (\"402\") or a status with a body value "
              "(\"409:code=key_in_use\")",
              "c.yaml:4:41: providers.p.error_map.402: \"later\" is not auth, throttled, transient, permanent, "
              "not_found, conflict or validation"});
  for (const char* url : {"ftp://x", "https://user:pass@x", "https://x?q=1", "https://x#f", "x.example"})
    CHECK(Wrong("providers: {p: {base_url: '" + std::string(url) + "'}}\n").size() == 1);
}

TEST_CASE("queues and schedules") {
  CHECK(Wrong("queues: {q: {soft_limit: 10m, hard_limit: 5m}}\n") ==
        Lines{"c.yaml:1:43: queues.q.hard_limit: 5m is shorter than the soft limit of 10m: no handler could end by "
              "itself"});
  absl::StatusOr<Document> document =
      ParseFiles({{"c.yaml",
                   "queues: {q: {soft_limit: 2h}}\nschedules: {s: {cron: '30 2 * * mon-fri', kind: k, tenant: t, args: "
                   "{n: 1, text: '1', deep: [true, null, 1.50]}}}\n"}});
  REQUIRE_THAT(document, IsOk());
  CHECK(document->declarations().model.queues.at("q").hard_limit == absl::Minutes(140));
  CHECK(document->declarations().model.schedules.at("s").args == R"({"n":1,"text":"1","deep":[true,null,1.50]})");
  auto cron = [](const std::string& text) {
    return Wrong("schedules: {s: {kind: k, tenant: t, cron: '" + text + "'}}\n");
  };
  for (const char* good : {"* * * * *", "*/5 0-6,22 1 jan,mar 7", "0 0 31 12 SUN", "@daily", "0 */2 * * * *"})
    CHECK(cron(good).empty());
  for (const char* bad : {"* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "5-1 * * * *",
                          "*/0 * * * *", "a * * * *", "-1 * * * *", "1,, * * * *", "@reboot", "0 0 30 2 *"})
    CHECK(cron(bad).size() == 1);
  CHECK(cron("0 25 * * *") == Lines{"c.yaml:1:43: schedules.s.cron: hour \"25\" (character 3): expected 0 to 23"});
  CHECK(Wrong("schedules: {s: {cron: '* * * * *', kind: k, tenant: t, zone: Europe/Brlin}}\n") ==
        Lines{"c.yaml:1:62: schedules.s.zone: the time zone \"Europe/Brlin\" is not known; write for example UTC or "
              "Europe/Berlin"});
  CHECK(Wrong("schedules: {s: {cron: '* * * * *', kind: k, tenant: '*', overlap: replace, missed_window: 32d}}\n")
            .size() == 2);
}

TEST_CASE("names keep to their alphabet") {
  CHECK(Wrong("resources: {Orders: {table: a.b, shared: read}}\n").size() == 1);
  CHECK(Wrong("resources: {order--items: {table: a.b, shared: read}}\n").size() == 1);
  CHECK(Wrong("resources: {order_items: {table: a.b, shared: read}}\n").size() == 1);
  CHECK(Wrong("queues: {'a b': {}}\n").size() == 1);
  CHECK(Wrong("roles: {admin: {}}\n") ==
        Lines{"c.yaml:1:9: roles.admin: the role admin is built in and may do everything; choose another name"});
  CHECK(Wrong("roles: {'source:x': {}}\n").size() == 1);
  CHECK(Wrong("roles: {a: {scopes: ['jobs', 'jobs:read', '*']}}\n") ==
        Lines{"c.yaml:1:22: roles.a.scopes[0]: \"jobs\" is not a scope; write for example jobs:read, imports:write or "
              "\"*\""});
  CHECK(Wrong("resources: {x: {table: 'a.b.c', shared: read}}\n").size() == 1);
  CHECK(Wrong("resources: {x: {table: 'a.\"b', shared: read}}\n").size() == 1);
  CHECK(Wrong(Resource("    fields: {and: {}}\n")).size() == 1);
}

TEST_CASE("a catalog without end of mistakes is cut") {
  std::string text = "queues:\n";
  for (int i = 0; i < 300; ++i) text += "  q" + std::to_string(i) + ": {priority: 99}\n";
  Lines wrong = Wrong(text);
  CHECK(wrong.size() == 101);
  CHECK(wrong.back() == "… and 200 more");
}

TEST_CASE("folders are read in the order of names, without what is no YAML") {
  testing::TempDir folder;
  absl::StatusOr<std::vector<File>> empty = ReadFolder(folder.path());
  CHECK(absl::IsNotFound(empty.status()));
  CHECK(absl::IsNotFound(ReadFolder(folder.path() + "/none").status()));
  for (const char* name : {"b.yaml", "a.yml", ".hidden.yaml", "notes.txt"}) {
    FILE* file = std::fopen((folder.path() + "/" + name).c_str(), "w");
    std::fputs("roles: {}\n", file);
    std::fclose(file);
  }
  absl::StatusOr<std::vector<File>> files = ReadFolder(folder.path());
  REQUIRE_THAT(files, IsOk());
  REQUIRE(files->size() == 2);
  CHECK((*files)[0].name == "a.yml");
  CHECK((*files)[1].text == "roles: {}\n");
}

}  // namespace
}  // namespace mainstay::catalog
