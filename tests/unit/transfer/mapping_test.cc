// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/mapping.h"

#include <catch2/catch.hpp>

#include "libs/tabular/record.h"
#include "tests/support/status.h"

namespace mainstay::transfer {
namespace {

using records::MergeMode;
using testing::HasProblem;
using testing::IsOk;
using Names = std::vector<std::string>;

catalog::Resource People() {
  catalog::Resource people;
  people.name = "people";
  const auto add = [&](std::string name, bool nullable, bool has_default) -> catalog::Field& {
    catalog::Field field;
    field.name = field.column = std::move(name);
    field.type.family = catalog::TypeFamily::kText;
    field.nullable = nullable;
    field.has_default = has_default;
    field.position = static_cast<int>(people.fields.size());
    people.fields.push_back(std::move(field));
    return people.fields.back();
  };
  add("id", false, true);
  add("tenant_id", false, false);
  add("email", false, false).aliases = {"e-mail", "Mail address"};
  add("full_name", true, false);
  add("salary", true, false);
  add("secret", true, false).hidden = true;
  add("version", false, true);
  people.key = {0};
  people.tenant = 1;
  people.version = 6;
  people.unique_keys = {{1, 2}};
  people.permissions["staff"] = {
      .read = true, .create = true, .update = true, .all_fields_writable = false, .writable = {"email", "full_name"}};
  people.permissions["reader"] = {.read = true};
  return people;
}
const Principal kAdmin{"acme", "key_a", {"admin"}}, kStaff{"acme", "key_s", {"staff"}},
    kReader{"acme", "key_r", {"reader"}};

std::string RefusedFor(const absl::StatusOr<Mapping>& mapping) {
  return mapping.ok() ? "" : tabular::GetRefusal(mapping.status()).value_or(tabular::Refusal{}).code;
}
std::vector<int> Fields(const Mapping& mapping) {
  std::vector<int> out;
  for (const MappedColumn& column : mapping.columns) out.push_back(column.field);
  return out;
}

TEST_CASE("headers find their fields by name, folded name, alias and declaration") {
  const catalog::Resource people = People();
  for (const Names& headers : {Names{"email", "full_name"}, Names{"EMAIL", "Full Name"}, Names{"E-Mail", "FullName"},
                               Names{"Mail address", "full-name"}}) {
    const auto mapping = MapColumns(people, nullptr, kAdmin, MergeMode::kCreate, {}, headers);
    INFO(headers[0]);
    REQUIRE_THAT(mapping, IsOk());
    CHECK(Fields(*mapping) == std::vector<int>{2, 3});
  }
  catalog::ImportMapping declared;
  declared.columns = {{"Kontakt", "email"}};
  const auto mapping = MapColumns(people, &declared, kAdmin, MergeMode::kCreate, {}, {"Kontakt", "Fax"});
  REQUIRE_THAT(mapping, IsOk());
  CHECK(Fields(*mapping) == std::vector<int>{2});
  CHECK(mapping->warnings == Names{"header.unknown: Fax"});
}

TEST_CASE("what is missing, twice or not the caller's is refused before any row") {
  const catalog::Resource people = People();
  CHECK(RefusedFor(MapColumns(people, nullptr, kAdmin, MergeMode::kCreate, {}, {"full_name"})) ==
        "header.missing_required");
  CHECK(RefusedFor(MapColumns(people, nullptr, kAdmin, MergeMode::kUpdate, {}, {"full_name"})) ==
        "header.missing_required");
  CHECK(RefusedFor(MapColumns(people, nullptr, kAdmin, MergeMode::kCreate, {}, {"email", "E-Mail"})) ==
        "header.duplicate");
  CHECK(RefusedFor(MapColumns(people, nullptr, kStaff, MergeMode::kCreate, {}, {"email", "salary"})) ==
        "header.forbidden");
  CHECK(RefusedFor(MapColumns(people, nullptr, kAdmin, MergeMode::kCreate, {}, {"secret"})) ==
        "header.missing_required");
  CHECK(MapColumns(people, nullptr, kAdmin, MergeMode::kCreate, {}, {"email", "secret"})->warnings ==
        Names{"header.unknown: secret"});
}

TEST_CASE("the key is the one asked for, the primary key, or a unique key that the file has") {
  const catalog::Resource people = People();
  CHECK(MapColumns(people, nullptr, kAdmin, MergeMode::kUpsert, {"email"}, {"email"})->key == Names{"email"});
  CHECK(MapColumns(people, nullptr, kAdmin, MergeMode::kUpsert, {}, {"email"})->key == Names{"email"});
  CHECK(MapColumns(people, nullptr, kAdmin, MergeMode::kUpdate, {}, {"id", "email"})->key == Names{"id"});
  CHECK(MapColumns(people, nullptr, kAdmin, MergeMode::kCreate, {}, {"email"})->key.empty());
}

TEST_CASE("an export of ours maps back: what the suite fills is carried along, not written") {
  const catalog::Resource people = People();
  const auto mapping =
      MapColumns(people, nullptr, kAdmin, MergeMode::kUpdate, {}, {"id", "tenant_id", "email", "version"});
  REQUIRE_THAT(mapping, IsOk());
  CHECK(Fields(*mapping) == std::vector<int>{0, 2});
  CHECK(mapping->warnings == Names{"header.read_only: tenant_id", "header.read_only: version"});
  const auto report = MapColumns(people, nullptr, kAdmin, MergeMode::kCreate, {},
                                 {"email", "_row", "_status", "_error_codes", "_errors"});
  REQUIRE_THAT(report, IsOk());
  CHECK(report->status_column == 2);
  CHECK(report->warnings.empty());
}

TEST_CASE("rights are asked for by mode") {
  catalog::Resource people = People();
  CHECK_THAT(CheckAllowed(people, kStaff, MergeMode::kUpsert), IsOk());
  CHECK_THAT(CheckAllowed(people, kStaff, MergeMode::kDelete), HasProblem("forbidden"));
  CHECK_THAT(CheckAllowed(people, kReader, MergeMode::kUpdate), HasProblem("forbidden"));
  CHECK_THAT(CheckAllowed(people, kAdmin, MergeMode::kDelete), IsOk());
  people.read_only = true;
  CHECK_THAT(CheckAllowed(people, kAdmin, MergeMode::kCreate), HasProblem("forbidden"));
}

}  // namespace
}  // namespace mainstay::transfer
