// SPDX-License-Identifier: Apache-2.0
// Bodies of every make against the binding of JSON to rows: no input may crash it, and whatever it lets through is a
// value of its column. A plain driver that mutates; no database.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <random>

#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/records/value.h"
#include "libs/records/write.h"

namespace mainstay::records {
namespace {

using catalog::TypeFamily;

// One field of every family, arrays too, a hidden one, and children.
catalog::Model EveryType() {
  catalog::Model model;
  catalog::Resource rows;
  rows.name = "rows";
  rows.schema = "f";
  rows.table = "rows";
  const auto add = [&](catalog::Resource& resource, const std::string& name, TypeFamily family,
                       const std::string& type) -> catalog::Field& {
    catalog::Field field;
    field.name = field.column = name;
    field.type.family = family;
    field.type.name = type;
    field.position = static_cast<int>(resource.fields.size());
    resource.fields.push_back(field);
    return resource.fields.back();
  };
  add(rows, "id", TypeFamily::kInt64, "pg_catalog.int8").nullable = false;
  add(rows, "b", TypeFamily::kBool, "pg_catalog.bool");
  add(rows, "i2", TypeFamily::kInt16, "pg_catalog.int2");
  add(rows, "i4", TypeFamily::kInt32, "pg_catalog.int4");
  catalog::Field& decimal = add(rows, "d", TypeFamily::kDecimal, "pg_catalog.numeric");
  decimal.type.precision = 10;
  decimal.type.scale = 2;
  add(rows, "f4", TypeFamily::kFloat32, "pg_catalog.float4");
  add(rows, "f8", TypeFamily::kFloat64, "pg_catalog.float8");
  catalog::Field& text = add(rows, "t", TypeFamily::kText, "pg_catalog.text");
  text.max_length = 10;
  text.pattern = "[a-z]*";
  catalog::Field& normal = add(rows, "n", TypeFamily::kText, "pg_catalog.text");
  normal.normalize = normal.identifier = true;
  add(rows, "u", TypeFamily::kUuid, "pg_catalog.uuid");
  add(rows, "day", TypeFamily::kDate, "pg_catalog.date");
  add(rows, "clock", TypeFamily::kTime, "pg_catalog.time");
  add(rows, "at", TypeFamily::kTimestampTz, "pg_catalog.timestamptz");
  add(rows, "local", TypeFamily::kTimestamp, "pg_catalog.timestamp");
  add(rows, "y", TypeFamily::kBytes, "pg_catalog.bytea");
  add(rows, "j", TypeFamily::kJson, "pg_catalog.jsonb");
  add(rows, "e", TypeFamily::kEnum, "f.mood").type.enum_values = {"sad", "ok"};
  add(rows, "a", TypeFamily::kInt32, "pg_catalog.int4").type.array = true;
  add(rows, "s", TypeFamily::kText, "pg_catalog.text").type.array = true;
  add(rows, "secret", TypeFamily::kText, "pg_catalog.text").hidden = true;
  rows.key = {0};
  rows.client_chooses_key = true;
  catalog::Resource children;
  children.name = "children";
  children.schema = "f";
  children.table = "children";
  add(children, "id", TypeFamily::kInt64, "pg_catalog.int8").has_default = true;
  add(children, "row_id", TypeFamily::kInt64, "pg_catalog.int8");
  add(children, "text", TypeFamily::kText, "pg_catalog.text");
  children.key = {0};
  catalog::Relation relation;
  relation.name = "children";
  relation.kind = catalog::Relation::Kind::kToMany;
  relation.target = "children";
  relation.columns = {"id"};
  relation.target_columns = {"row_id"};
  relation.nested = true;
  rows.relations["children"] = relation;
  model.resources["rows"] = rows;
  model.resources["children"] = children;
  return model;
}

void CheckRows(const catalog::Resource& resource, const CheckedWrite& checked) {
  const MergeRows& rows = checked.rows;
  for (size_t i = 0; i < rows.rows.size(); ++i) {
    REQUIRE(rows.rows[i].size() == rows.fields.size());
    for (size_t c = 0; c < rows.fields.size(); ++c) {
      const catalog::Field* field = resource.FindField(rows.fields[c]);
      REQUIRE(field != nullptr);
      REQUIRE_FALSE(field->hidden);
      if (!rows.rows[i][c].has_value()) continue;
      std::vector<FieldError> errors;
      const auto bound = ValidateValue(*field, *rows.rows[i][c], errors);
      REQUIRE(errors.empty());
      REQUIRE(bound.has_value());
      REQUIRE(bound->find('\0') == std::string::npos);
    }
  }
}

// True: something of it would have been written.
bool Try(const catalog::Model& model, const std::string& body) {
  auto document = JsonDocument::Parse(body);
  if (!document.ok()) return false;
  const AccessSource access_of = [&](const catalog::Resource& resource) {
    return MakeAccess(model, resource, {"admin"});
  };
  const catalog::Resource& resource = *model.FindResource("rows");
  bool passed = false;
  for (const WriteRequest::Kind kind : {WriteRequest::Kind::kCreate, WriteRequest::Kind::kPatch,
                                        WriteRequest::Kind::kUpsert, WriteRequest::Kind::kDelete}) {
    for (const bool refs : {false, true}) {
      WriteRequest request{.kind = kind, .resource = &resource, .access = access_of(resource)};
      request.keys_inside = kind == WriteRequest::Kind::kPatch || kind == WriteRequest::Kind::kDelete;
      request.refs = refs;
      if (document->root().is_array()) {
        for (const JsonValue& item : document->root().items())
          request.items.push_back({.body = &item, .pointer = StrCat("/items/", request.items.size())});
      } else {
        request.items.push_back({.body = &document->root()});
      }
      CheckedWrite checked;
      const absl::Status status = CheckWrite(request, model, access_of, false, checked);
      if (!status.ok()) {
        REQUIRE(FindProblemType(ProblemFromStatus(status).type).http_status < 500);
        continue;
      }
      if (!refs) {
        CheckRows(resource, checked);
        for (const auto& children : checked.children) CheckRows(*children.request.resource, *children.checked);
      }
      passed = true;
    }
  }
  return passed;
}

TEST_CASE("bodies of every make are refused or bound, never worse") {
  const catalog::Model model = EveryType();
  const std::vector<std::string> seeds = {
      R"({"id":"1","b":true,"i2":-32768,"i4":7,"d":"12.50","f4":1.5,"f8":"NaN","t":"abc","n":"é","u":"00000000-0000-4000-8000-000000000000","day":"2024-02-29"})",
      R"({"id":9223372036854775807,"clock":"23:59:59.999999","at":"2026-01-01T00:00:00+01:00","y":"_-8","j":{"k":[1,{"x":null}]},"e":"ok","a":[1,2,null],"s":["x","{,}\""]})",
      R"([{"id":"1","t":"a"},{"id":"2","children":[{"text":"c"},{"text":null}]},{"id":"3","@etag":"\"1.ab\""}])",
      R"({"id":{"$ref":"0.id"},"secret":"s","__proto__":{},"t":"\u0000","d":1e400,"i4":1.0,"at":"now"})",
      R"({"id":"1","children":[[],7,{"row_id":"9"},{"text":{"$ref":"0.t"}}],"j":"\ud83d\ude00"})",
  };
  const std::vector<std::string> bits = {"null",
                                         "true",
                                         "-0",
                                         "1e5",
                                         "\"\"",
                                         "[]",
                                         "{}",
                                         "\"\\u0000\"",
                                         "99999999999999999999",
                                         "\"2023-02-30\"",
                                         "[[1]]",
                                         "{\"$ref\":\"0.id\"}",
                                         "\"$\"",
                                         ",",
                                         ":",
                                         "\\",
                                         "\"",
                                         "\xff",
                                         "\xed\xa0\x80"};
  int passed = 0;
  for (const std::string& seed : seeds) passed += Try(model, seed);
  CHECK(passed >= 2);
  std::mt19937 random(20261126);
  const auto pick = [&](size_t n) { return static_cast<size_t>(random() % n); };
  const int rounds = std::getenv("MAINSTAY_TEST_LONG") != nullptr ? 500'000 : 4'000;
  for (int i = 0; i < rounds; ++i) {
    std::string body = seeds[pick(seeds.size())];
    for (size_t edits = 1 + pick(4); edits > 0; --edits) {
      const size_t at = pick(body.size() + 1), length = std::min(pick(6), body.size() - at);
      switch (pick(4)) {
        case 0:
          body.replace(at, length, bits[pick(bits.size())]);
          break;
        case 1:
          body.erase(at, length);
          break;
        case 2:
          body.insert(at, body.substr(pick(body.size() + 1), pick(20)));
          break;
        default: {
          // A value for another: what stands behind a colon.
          const size_t colon = body.find(':', at);
          if (colon == std::string::npos) break;
          const size_t end = body.find_first_of(",}", colon);
          if (end != std::string::npos) body.replace(colon + 1, end - colon - 1, bits[pick(13)]);
          break;
        }
      }
    }
    INFO(body);
    passed += Try(model, body);
  }
  CHECK(passed > rounds / 100);
}

}  // namespace
}  // namespace mainstay::records
