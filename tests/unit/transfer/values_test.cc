// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/values.h"

#include <catch2/catch.hpp>

namespace mainstay::transfer {
namespace {

using catalog::Field;
using catalog::TypeFamily;

Field Of(TypeFamily family, std::string type_name, int precision = 0, int scale = 0) {
  Field field;
  field.name = "f";
  field.type.family = family;
  field.type.name = std::move(type_name);
  field.type.precision = precision;
  field.type.scale = scale;
  return field;
}

// The value, or "!code".
std::string Parsed(const Field& field, std::string_view cell, std::string_view locale = "en",
                   std::string_view zone = "") {
  const ValueParser parser(field, locale, zone);
  std::vector<CellError> errors;
  const auto value = parser.Parse(cell, errors);
  if (!errors.empty()) {
    CHECK_FALSE(value.has_value());
    CHECK_FALSE(errors[0].message.empty());
    return "!" + errors[0].code;
  }
  return value ? *value : "(blank)";
}

TEST_CASE("decimals keep their digits and are never rounded") {
  const Field field = Of(TypeFamily::kDecimal, "numeric", 12, 2);
  struct Case {
    const char *cell, *locale, *value;
  };
  for (const Case& c : std::vector<Case>{{"12.50", "en", "12.5"},
                                         {" 12.5 ", "en", "12.5"},
                                         {"-0", "en", "0"},
                                         {"+7", "en", "7"},
                                         {"007.10", "en", "7.1"},
                                         {".5", "en", "0.5"},
                                         {"1,234.56", "en", "1234.56"},
                                         {"1.234,56", "de", "1234.56"},
                                         {"1 234,56", "fr", "1234.56"},
                                         {"1\xC2\xA0"
                                          "234,56",
                                          "fr", "1234.56"},
                                         {"1'234.56", "de-CH", "1234.56"},
                                         {"12,34,567.89", "en", "1234567.89"},
                                         {"(12)", "en", "-12"},
                                         {"12-", "en", "-12"},
                                         {"1e3", "en", "1000"},
                                         {"1.5E-1", "en", "0.15"},
                                         {"12.500", "en", "12.5"},
                                         {"12.505", "en", "!cell.too_precise"},
                                         {"12345678901", "en", "!cell.out_of_range"},
                                         {"BBB", "en", "!cell.invalid_number"},
                                         {"12,34.5", "en", "!cell.invalid_number"},
                                         {"1,2,3", "en", "!cell.invalid_number"},
                                         {"1.2.3", "en", "!cell.invalid_number"},
                                         {"5%", "en", "!cell.invalid_number"},
                                         {"--5", "en", "!cell.invalid_number"},
                                         {"1e999", "en", "!cell.invalid_number"},
                                         {"", "en", "(blank)"},
                                         {" \xC2\xA0\xE2\x80\x8B ", "en", "(blank)"}}) {
    INFO(c.cell << " in " << c.locale);
    CHECK(Parsed(field, c.cell, c.locale) == c.value);
  }
}

TEST_CASE("what the column proves outweighs the locale; contradictions are a warning and fall back to it") {
  const Field field = Of(TypeFamily::kDecimal, "numeric", 12, 2);
  CHECK(ProvenDecimalMark("1.234,56") == ',');
  CHECK(ProvenDecimalMark("1,234.56") == '.');
  CHECK(ProvenDecimalMark("12,5") == ',');
  CHECK(ProvenDecimalMark("0,123") == ',');
  CHECK(ProvenDecimalMark("1.234.567") == ',');
  CHECK(ProvenDecimalMark("1,234") == 0);
  CHECK(ProvenDecimalMark("12") == 0);
  std::vector<CellError> errors;
  ValueParser learned(field, "en", "");
  learned.Learn("12,5");
  learned.Learn("1.234");
  CHECK(learned.warning().empty());
  CHECK(learned.Parse("1.234", errors) == "1234");
  ValueParser mixed(field, "en", "");
  mixed.Learn("12,5");
  mixed.Learn("12.5");
  CHECK(mixed.warning() == "column.mixed_locale");
  CHECK(mixed.Parse("12.5", errors) == "12.5");
  ValueParser unsure(field, "en", "");
  unsure.Learn("1,234");
  CHECK(unsure.warning() == "column.ambiguous_number");
  CHECK(unsure.Parse("1,234", errors) == "1234");
  CHECK(errors.empty());
}

TEST_CASE("integers take whole numbers of their size") {
  CHECK(Parsed(Of(TypeFamily::kInt64, "bigint"), "1,234,567") == "1234567");
  CHECK(Parsed(Of(TypeFamily::kInt64, "bigint"), "9223372036854775807") == "9223372036854775807");
  CHECK(Parsed(Of(TypeFamily::kInt64, "bigint"), "9223372036854775808") == "!cell.out_of_range");
  CHECK(Parsed(Of(TypeFamily::kInt32, "integer"), "2147483648") == "!cell.out_of_range");
  CHECK(Parsed(Of(TypeFamily::kInt16, "smallint"), "-32769") == "!cell.out_of_range");
  CHECK(Parsed(Of(TypeFamily::kInt32, "integer"), "12.5") == "!cell.not_integer");
  CHECK(Parsed(Of(TypeFamily::kInt32, "integer"), "12.0") == "12");
  CHECK(Parsed(Of(TypeFamily::kInt32, "integer"), "1e3") == "!cell.invalid_number");
  CHECK(Parsed(Of(TypeFamily::kInt32, "integer"), "twelve") == "!cell.invalid_number");
}

TEST_CASE("booleans by their words") {
  const Field field = Of(TypeFamily::kBool, "boolean");
  for (const char* word : {"true", "TRUE", "Yes", "y", "1", "on", "x", "ja", "oui", "\xE3\x81\xAF\xE3\x81\x84"})
    CHECK(Parsed(field, word) == "true");
  for (const char* word : {"false", "No", "n", "0", "OFF", "nein", "non"}) CHECK(Parsed(field, word) == "false");
  CHECK(Parsed(field, "maybe") == "!cell.invalid_boolean");
  CHECK(Parsed(field, "2") == "!cell.invalid_boolean");
}

TEST_CASE("dates are ISO and checked by the calendar; times need an offset or a zone") {
  const Field date = Of(TypeFamily::kDate, "date");
  CHECK(Parsed(date, "2024-02-29") == "2024-02-29");
  CHECK(Parsed(date, "2023-02-29") == "!cell.invalid_date");
  CHECK(Parsed(date, "2023-13-01") == "!cell.invalid_date");
  CHECK(Parsed(date, "31.12.2023") == "!cell.invalid_date");
  CHECK(Parsed(date, "2023-1-1") == "!cell.invalid_date");
  const Field time = Of(TypeFamily::kTimestampTz, "timestamp with time zone");
  CHECK(Parsed(time, "2026-11-24T08:15:30Z") == "2026-11-24T08:15:30.000000Z");
  CHECK(Parsed(time, "2026-11-24 08:15:30.123456+05:30") == "2026-11-24T02:45:30.123456Z");
  CHECK(Parsed(time, "2026-11-24 08:15") == "!cell.ambiguous_time");
  CHECK(Parsed(time, "2026-07-01 12:00:00", "en", "Europe/Berlin") == "2026-07-01T10:00:00.000000Z");
  CHECK(Parsed(time, "2026-03-29 02:30:00", "en", "Europe/Berlin") == "!cell.ambiguous_time");
  CHECK(Parsed(time, "2026-10-25 02:30:00", "en", "Europe/Berlin") == "!cell.ambiguous_time");
  CHECK(Parsed(time, "2026-11-24T25:00:00Z") == "!cell.invalid_timestamp");
}

TEST_CASE("enums match exactly, then by case, and suggest what is near") {
  Field field = Of(TypeFamily::kEnum, "order_status");
  field.type.enum_values = {"draft", "open", "paid", "shipped"};
  CHECK(Parsed(field, "open") == "open");
  CHECK(Parsed(field, "OPEN") == "open");
  const ValueParser parser(field, "en", "");
  std::vector<CellError> errors;
  CHECK_FALSE(parser.Parse("shiped", errors).has_value());
  REQUIRE(errors.size() == 1);
  CHECK(errors[0].code == "cell.not_in_list");
  CHECK(errors[0].suggestion.find("shipped") != std::string::npos);
}

TEST_CASE("text is trimmed, normalised and held to the field's own rules") {
  Field field = Of(TypeFamily::kText, "character varying");
  field.type.max_length = 5;
  CHECK(Parsed(field, "  a b ") == "a b");
  CHECK(Parsed(field, "a\xCC\x88") == "\xC3\xA4");
  CHECK(Parsed(field, "123456") == "!cell.too_long");
  CHECK(Parsed(field, std::string_view("a\0b", 3)) == "!cell.invalid_character");
  Field email = Of(TypeFamily::kText, "text");
  email.name = "email";
  email.pattern = "[^@\\s]+@[^@\\s]+\\.[^@\\s]+";
  CHECK(Parsed(email, "a@b.example") == "a@b.example");
  CHECK(Parsed(email, "nobody") == "!cell.invalid_email");
  Field id = Of(TypeFamily::kText, "text");
  id.identifier = true;
  CHECK(Parsed(id, "00123") == "00123");
  CHECK(Parsed(id, "1.23E+15") == "!cell.scientific_id");
}

}  // namespace
}  // namespace mainstay::transfer
