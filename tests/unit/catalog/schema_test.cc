// SPDX-License-Identifier: Apache-2.0
// Parser, JSON Schema and reference are one grammar: a key that one of them knows, all know.
#include "libs/catalog/schema.h"

#include <catch2/catch.hpp>
#include <set>

#include "libs/base/json.h"
#include "libs/catalog/parse.h"
#include "tests/support/environment.h"
#include "tests/support/status.h"

namespace mainstay::catalog {
namespace {

// Every kind of map the grammar has.
constexpr char kEverything[] = R"(
resources:
  things:
    table: a.things
    shared: write
    fields: {name: {}}
    relations: {other: {to: things}}
    permissions: {staff: {actions: all}}
    checks: {c: {that: 'filter[name]=x'}}
    jobs: {j: {on: create, kind: k}}
roles: {staff: {}}
sources:
  s:
    scheme: {preset: stripe}
    secrets: [x]
    tenant: t
    event: {id: 'json:id'}
    routes:
      - types: '*'
        fetch: {provider: p, operation: o}
        apply: {resource: things, map: {name: 'json:name'}, transitions: {field: name, allowed: {a: [b]}}}
        job: {kind: k}
providers:
  p: {base_url: 'https://x.example', auth: {bearer: s}, rate: {limit: 1}, operations: {o: {get: /x, pagination: {style: page}}}}
queues: {q: {backoff: {base: 1s}}}
schedules: {s: {cron: '* * * * *', kind: k, tenant: t}}
imports: {i: {resource: things}}
exports: {e: {resource: things}}
limits: {l: {limit: 1}}
)";

TEST_CASE("the JSON Schema knows exactly the keys that the parser accepts, and the reference names each") {
  absl::StatusOr<JsonDocument> schema = JsonDocument::Parse(std::string(JsonSchema()));
  REQUIRE_THAT(schema, testing::IsOk());
  absl::StatusOr<Document> document = ParseFiles({{"all.yaml", kEverything}});
  REQUIRE_THAT(document, testing::IsOk());
  const std::string reference = testing::ReadFile(testing::SourceDir() + "/libs/catalog/README.md");
  const JsonValue* definitions = schema->root().Find("$defs");
  REQUIRE(definitions != nullptr);
  std::set<std::string> kinds;
  for (const auto& [kind, keys] : document->accepted_keys()) {
    if (kind.empty()) continue;  // maps whose keys are the author's own
    INFO("kind " << kind);
    kinds.insert(kind);
    const JsonValue* definition = kind == "catalog" ? &schema->root() : definitions->Find(kind);
    REQUIRE(definition != nullptr);
    std::set<std::string> known;
    for (const JsonValue::Member& member : definition->Find("properties")->members())
      known.insert(std::string(member.key));
    CHECK(known == keys);
    CHECK(definition->Find("additionalProperties")->kind() == JsonValue::Kind::kBool);
    for (const std::string& key : keys) {
      INFO("key " << key);
      CHECK(reference.find("`" + key + "`") != std::string::npos);
    }
  }
  for (const JsonValue::Member& member : definitions->members()) CHECK(kinds.contains(std::string(member.key)));
}

TEST_CASE("the schema's references lead somewhere") {
  const std::string text(JsonSchema());
  absl::StatusOr<JsonDocument> schema = JsonDocument::Parse(text);
  REQUIRE_THAT(schema, testing::IsOk());
  size_t found = 0;
  for (size_t at = text.find("#/$defs/"); at != std::string::npos; at = text.find("#/$defs/", at + 1)) {
    const std::string name = text.substr(at + 8, text.find('"', at) - at - 8);
    CHECK(schema->root().Find("$defs")->Find(name) != nullptr);
    ++found;
  }
  CHECK(found > 20);
}

}  // namespace
}  // namespace mainstay::catalog
