// SPDX-License-Identifier: Apache-2.0
// Internal: one value of a column between its three forms: what a client sends (text or JSON), what is bound, and what
// is answered.
//
// Everything a client sends is checked here before any SQL is sent, so that PostgreSQL hardly ever has to refuse a
// value. Nothing passes through a double but floats. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "libs/base/json.h"
#include "libs/catalog/model.h"

namespace mainstay::records {

// A code of the API ("invalid_type", "out_of_range", "too_long", "invalid_characters", "one_of") and a sentence; empty
// code: fine.
struct ValueError {
  std::string code, detail;
  bool ok() const { return code.empty(); }
};

// Checks `text` against the type and turns it into what is bound. Arrays are given as JSON ([…]) or PostgreSQL text
// ({…}).
ValueError ConvertText(const catalog::ColumnType& type, std::string_view text, std::string& out);
// The text form of a JSON value of a request body. NULL must have been dealt with. Only its kind is checked here;
// ConvertText does the rest.
ValueError TextFromJson(const catalog::ColumnType& type, const JsonValue& value, std::string& out);

// The type of one element of an array.
catalog::ColumnType ElementType(const catalog::ColumnType& type);
// "pg_catalog.numeric" and the like: what a parameter is cast to. Never cuts or rounds: no length, no precision.
const std::string& CastName(const catalog::ColumnType& type);

// The elements of a PostgreSQL array text of one dimension; nullopt: malformed or nested.
std::optional<std::vector<std::optional<std::string>>> ParsePgArray(std::string_view text);

// RFC 7396 on JSON text: `patch` (an object) applied to `target` (any JSON, or empty for none).
std::string MergePatch(std::string_view target, const JsonValue& patch);

}  // namespace mainstay::records
