// SPDX-License-Identifier: Apache-2.0
#include "libs/records/value.h"

#include <catch2/catch.hpp>

#include "libs/records/list.h"
#include "libs/records/merge.h"
#include "libs/records/patterns.h"

namespace mainstay::records {
namespace {

using catalog::ColumnType;
using catalog::Field;
using catalog::TypeFamily;

ColumnType Type(TypeFamily family, const std::string& name = "text") {
  ColumnType type;
  type.family = family;
  type.name = name;
  return type;
}

// The converted text, or the code in angle brackets.
std::string Convert(const ColumnType& type, std::string_view text) {
  std::string out;
  const ValueError error = ConvertText(type, text, out);
  return error.ok() ? out : "<" + error.code + ">";
}
std::string Json(const ColumnType& type, std::string_view text) {
  std::string out;
  AppendJsonValue(type, text, out);
  return out;
}

TEST_CASE("integers keep every digit and are never rounded") {
  const ColumnType big = Type(TypeFamily::kInt64, "bigint");
  CHECK(Convert(big, "9223372036854775807") == "9223372036854775807");
  CHECK(Convert(big, "9223372036854775808") == "<out_of_range>");
  CHECK(Convert(big, "-9223372036854775808") == "-9223372036854775808");
  CHECK(Convert(big, "-0") == "0");
  for (const char* text : {"1.0", "1e2", "", "-", "+1", " 1", "1 ", "0x10", "abc"})
    CHECK(Convert(big, text) == "<invalid_type>");
  CHECK(Convert(Type(TypeFamily::kInt16), "32768") == "<out_of_range>");
  CHECK(Convert(Type(TypeFamily::kInt32), "-2147483648") == "-2147483648");
}

TEST_CASE("decimals are exact, whatever their exponent") {
  ColumnType money = Type(TypeFamily::kDecimal, "numeric");
  money.precision = 10;
  money.scale = 2;
  CHECK(Convert(money, "12.5") == "12.5");
  CHECK(Convert(money, "12.500") == "12.5");
  CHECK(Convert(money, "1.25e1") == "12.5");
  CHECK(Convert(money, "99999999.99") == "99999999.99");
  CHECK(Convert(money, "100000000") == "<out_of_range>");
  CHECK(Convert(money, "0.001") == "<out_of_range>");
  CHECK(Convert(money, "1e400") == "<out_of_range>");
  CHECK(Convert(money, "-0") == "0");
  CHECK(Convert(money, "007.10") == "7.1");
  for (const char* text : {"NaN", "", ".5", "5.", "1e", "1,5", "--1"}) CHECK(Convert(money, text) == "<invalid_type>");
  CHECK(Convert(Type(TypeFamily::kDecimal), "0.1234567890123456789012345678901234567890") ==
        "0.123456789012345678901234567890123456789");
  CHECK(Convert(Type(TypeFamily::kDecimal), "12e-3") == "0.012");
}

TEST_CASE("dates, times and others are checked by the calendar and by form") {
  CHECK(Convert(Type(TypeFamily::kDate), "2024-02-29") == "2024-02-29");
  CHECK(Convert(Type(TypeFamily::kDate), "2023-02-30") == "<invalid_type>");
  CHECK(Convert(Type(TypeFamily::kTimestampTz), "2026-11-24T08:15:30+02:00") == "2026-11-24T06:15:30.000000Z");
  CHECK(Convert(Type(TypeFamily::kTimestampTz), "2026-11-24T08:15:30") == "<invalid_type>");
  CHECK(Convert(Type(TypeFamily::kTime), "08:15") == "08:15");
  CHECK(Convert(Type(TypeFamily::kTime), "24:00") == "<invalid_type>");
  CHECK(Convert(Type(TypeFamily::kUuid), "0190A1B2-0000-7000-8000-000000000001") ==
        "0190a1b2-0000-7000-8000-000000000001");
  CHECK(Convert(Type(TypeFamily::kBytes), "AQL_") == "\\x0102ff");
  CHECK(Convert(Type(TypeFamily::kBytes), "AQ==") == "<invalid_type>");
  CHECK(Convert(Type(TypeFamily::kText), std::string("a\0b", 3)) == "<invalid_characters>");
  CHECK(Convert(Type(TypeFamily::kJson, "jsonb"), "{\"a\":\"\\u0000\"}") == "<invalid_characters>");
  CHECK(Convert(Type(TypeFamily::kJson, "jsonb"), "{\"a\":\"\\\\u0000\"}") == "{\"a\":\"\\\\u0000\"}");
  CHECK(Convert(Type(TypeFamily::kBool), "t") == "<invalid_type>");
  ColumnType status = Type(TypeFamily::kEnum);
  status.enum_values = {"open", "paid"};
  CHECK(Convert(status, "Open") == "<one_of>");
}

TEST_CASE("arrays come as JSON or as PostgreSQL text") {
  ColumnType tags = Type(TypeFamily::kText, "text[]");
  tags.array = true;
  CHECK(Convert(tags, R"(["a","b,\"c",null])") == R"({"a","b,\"c",NULL})");
  CHECK(Convert(tags, "{a,\"b c\"}") == R"({"a","b c"})");
  CHECK(Convert(tags, "[1]") == "<invalid_type>");
  CHECK(Convert(tags, "a") == "<invalid_type>");
  CHECK(Json(tags, R"({a,"b,\"c",NULL,"NULL"})") == R"(["a","b,\"c",null,"NULL"])");
  ColumnType numbers = Type(TypeFamily::kInt64, "bigint[]");
  numbers.array = true;
  CHECK(Json(numbers, "{{1,2},{3,4}}") == R"([["1","2"],["3","4"]])");
  CHECK(Json(numbers, "[0:1]={1,2}") == R"(["1","2"])");
  CHECK(Json(numbers, "{}") == "[]");
}

TEST_CASE("columns become JSON in one form each") {
  CHECK(Json(Type(TypeFamily::kInt64), "9007199254740993") == "\"9007199254740993\"");
  CHECK(Json(Type(TypeFamily::kInt32), "7") == "7");
  CHECK(Json(Type(TypeFamily::kDecimal), "1.10") == "\"1.10\"");
  CHECK(Json(Type(TypeFamily::kBool), "f") == "false");
  CHECK(Json(Type(TypeFamily::kFloat64), "NaN") == "\"NaN\"");
  CHECK(Json(Type(TypeFamily::kFloat64), "1e+20") == "1e+20");
  CHECK(Json(Type(TypeFamily::kTimestampTz), "2026-11-24 08:15:30.12+00") == "\"2026-11-24T08:15:30.120000Z\"");
  CHECK(Json(Type(TypeFamily::kTimestampTz), "2026-11-24 08:15:30+00") == "\"2026-11-24T08:15:30.000000Z\"");
  CHECK(Json(Type(TypeFamily::kTimestampTz), "infinity") == "\"infinity\"");
  CHECK(Json(Type(TypeFamily::kBytes), "\\x0102ff") == "\"AQL_\"");
  CHECK(Json(Type(TypeFamily::kText), "a\"b\n") == "\"a\\\"b\\n\"");
  CHECK(Json(Type(TypeFamily::kJson), "{\"a\":1}") == "{\"a\":1}");
  CHECK(PlainText(Type(TypeFamily::kBool), "t") == "true");
  CHECK(PlainText(Type(TypeFamily::kTimestampTz), "2026-11-24 08:15:30+00") == "2026-11-24T08:15:30.000000Z");
}

TEST_CASE("validation names every rule that a value breaks") {
  Field field;
  field.name = "code";
  field.type = Type(TypeFamily::kText, "character varying");
  field.type.max_length = 5;
  field.min_length = 2;
  field.pattern = "[a-z]+";
  std::vector<FieldError> errors;
  CHECK(ValidateValue(field, "abc", errors) == "abc");
  CHECK(errors.empty());
  CHECK_FALSE(ValidateValue(field, "ABCDEF", errors).has_value());
  REQUIRE(errors.size() == 2);
  CHECK(errors[0].code == "too_long");
  CHECK(errors[1].code == "pattern");
  CHECK(errors[0].name == "code");
  errors.clear();
  ValidateValue(field, "a", errors);
  CHECK(errors.at(0).code == "too_short");
  errors.clear();
  // Characters count, not bytes; and what looks empty is refused where text identifies.
  CHECK(ValidateValue(Field{.name = "n",
                            .type =
                                [] {
                                  ColumnType t = Type(TypeFamily::kText);
                                  t.max_length = 3;
                                  return t;
                                }()},
                      "äöü", errors) == "äöü");
  Field key{.name = "k", .type = Type(TypeFamily::kText), .identifier = true};
  CHECK_FALSE(ValidateValue(key,
                            "a\xE2\x80\x8B"
                            "b",
                            errors)
                  .has_value());
  CHECK(errors.at(0).code == "invalid_characters");
  errors.clear();
  Field composed{.name = "c", .type = Type(TypeFamily::kText), .normalize = true};
  CHECK(ValidateValue(composed, "e\xCC\x81", errors) == "\xC3\xA9");
  Field price{.name = "p", .type = Type(TypeFamily::kDecimal), .minimum = "0", .maximum = "10.50"};
  CHECK(ValidateValue(price, "10.5", errors) == "10.5");
  CHECK(errors.empty());
  ValidateValue(price, "10.51", errors);
  ValidateValue(price, "-0.01", errors);
  CHECK(errors.size() == 2);
}

TEST_CASE("values of a type are ordered as in that type") {
  const ColumnType number = Type(TypeFamily::kDecimal);
  CHECK(CompareValues(number, "9", "10") < 0);
  CHECK(CompareValues(number, "-9", "-10") > 0);
  CHECK(CompareValues(number, "1.50", "1.5") == 0);
  CHECK(CompareValues(number, "0.1", "0.09") > 0);
  CHECK(CompareValues(Type(TypeFamily::kDate), "2024-01-02", "2024-01-10") < 0);
}

TEST_CASE("merge patches reach into objects") {
  const auto patched = [](std::string target, std::string patch) {
    const auto document = JsonDocument::Parse(patch);
    REQUIRE(document.ok());
    return MergePatch(target, document->root());
  };
  // RFC 7396, appendix A.
  CHECK(patched(R"({"a":"b"})", R"({"a":"c"})") == R"({"a":"c"})");
  CHECK(patched(R"({"a":"b"})", R"({"b":"c"})") == R"({"a":"b","b":"c"})");
  CHECK(patched(R"({"a":"b","b":"c"})", R"({"a":null})") == R"({"b":"c"})");
  CHECK(patched(R"({"a":["b"]})", R"({"a":"c"})") == R"({"a":"c"})");
  CHECK(patched(R"({"a":{"b":"c"}})", R"({"a":{"b":"d","c":null}})") == R"({"a":{"b":"d"}})");
  CHECK(patched(R"({"e":null})", R"({"a":1})") == R"({"e":null,"a":1})");
  CHECK(patched(R"([1,2])", R"({"a":"b","c":null})") == R"({"a":"b"})");
  CHECK(patched("", R"({"a":{"bb":{"ccc":null}}})") == R"({"a":{"bb":{}}})");
}

}  // namespace
}  // namespace mainstay::records
