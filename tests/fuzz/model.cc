// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "tests/fuzz/fuzz.h"

namespace mainstay::fuzz {

using catalog::TypeFamily;

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
    field.filterable = field.indexed = true;
    field.sortable = family != TypeFamily::kJson && family != TypeFamily::kBytes;
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
  catalog::Relation up;
  up.name = "row";
  up.kind = catalog::Relation::Kind::kToOne;
  up.target = "rows";
  up.columns = {"row_id"};
  up.target_columns = {"id"};
  children.relations["row"] = up;
  catalog::Relation relation;
  relation.name = "children";
  relation.kind = catalog::Relation::Kind::kToMany;
  relation.target = "children";
  relation.columns = {"id"};
  relation.target_columns = {"row_id"};
  relation.nested = true;
  rows.relations["children"] = relation;
  rows.offset_allowed = true;
  rows.views["short"] = {"id", "t"};
  model.resources["rows"] = rows;
  model.resources["children"] = children;
  return model;
}

}  // namespace mainstay::fuzz
