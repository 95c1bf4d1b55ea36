// SPDX-License-Identifier: Apache-2.0
#include "libs/base/json_schema.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/status.h"

namespace mainstay {
namespace {

// What is wrong, as "pointer code" joined by blanks; empty when nothing is.
std::string Wrong(const std::string& schema, const std::string& value) {
  const auto compiled = JsonSchema::Compile(schema);
  REQUIRE_THAT(compiled, testing::IsOk());
  const auto document = JsonDocument::Parse(value);
  REQUIRE_THAT(document, testing::IsOk());
  std::vector<FieldError> errors;
  compiled->Check(document->root(), "/args", errors);
  std::string all;
  for (const FieldError& error : errors) absl::StrAppend(&all, all.empty() ? "" : " ", error.name, " ", error.code);
  return all;
}
std::string Refused(const std::string& schema) {
  return std::string(JsonSchema::Compile(schema).status().message());
}

constexpr char kMail[] = R"({
  "type": "object", "required": ["to"], "additionalProperties": false, "description": "a mail",
  "properties": {
    "to": {"type": "string", "pattern": "^[^@ ]+@[^@ ]+$", "maxLength": 20, "format": "email"},
    "copies": {"type": "integer", "minimum": 1, "exclusiveMaximum": 10},
    "kind": {"enum": ["plain", "html"]},
    "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "minItems": 1, "maxItems": 3, "uniqueItems": true}
  },
  "$defs": {"part": {"type": ["string", "null"], "minLength": 2}}
})";

TEST_CASE("a value that fits is fine, one that does not is told where and why") {
  CHECK(Wrong(kMail, R"({"to": "a@b", "copies": 1.0, "kind": "html", "parts": ["xx", null]})").empty());
  CHECK(Wrong(kMail, "{}") == "/args/to required");
  CHECK(Wrong(kMail, "[]") == "/args invalid_type");
  CHECK(Wrong(kMail, R"({"to": 7})") == "/args/to invalid_type");
  CHECK(Wrong(kMail, R"({"to": "nobody"})") == "/args/to invalid_format");
  CHECK(Wrong(kMail, R"({"to": "a@bcdefghijklmnopqrstuvw"})") == "/args/to too_long");
  CHECK(Wrong(kMail, R"({"to": "a@b", "copies": 1.5})") == "/args/copies invalid_type");
  CHECK(Wrong(kMail, R"({"to": "a@b", "copies": 0})") == "/args/copies out_of_range");
  CHECK(Wrong(kMail, R"({"to": "a@b", "copies": 10})") == "/args/copies out_of_range");
  CHECK(Wrong(kMail, R"({"to": "a@b", "kind": "HTML"})") == "/args/kind not_in_list");
  CHECK(Wrong(kMail, R"({"to": "a@b", "parts": []})") == "/args/parts too_short");
  CHECK(Wrong(kMail, R"({"to": "a@b", "parts": ["aa", "bb", "cc", "dd"]})") == "/args/parts too_many");
  CHECK(Wrong(kMail, R"({"to": "a@b", "parts": ["aa", "aa"]})") == "/args/parts duplicate");
  CHECK(Wrong(kMail, R"({"to": "a@b", "parts": ["aa", "b", 3]})") ==
        "/args/parts/1 too_short /args/parts/2 invalid_type");
  CHECK(Wrong(kMail, R"({"to": "a@b", "a/b~c": 1})") == "/args/a~1b~0c unknown_field");
}

TEST_CASE("characters are counted, not bytes") {
  CHECK(Wrong(R"({"maxLength": 3})", R"("äöü")").empty());
  CHECK(Wrong(R"({"minLength": 4})", R"("äöü")") == "/args too_short");
}

TEST_CASE("numbers are compared by their digits") {
  CHECK(Wrong(R"({"maximum": 9007199254740993})", "9007199254740993").empty());
  CHECK(Wrong(R"({"maximum": 9007199254740992})", "9007199254740993") == "/args out_of_range");
  CHECK(Wrong(R"({"minimum": -0.10})", "-0.1").empty());
  CHECK(Wrong(R"({"minimum": -0.1})", "-0.11") == "/args out_of_range");
  CHECK(Wrong(R"({"exclusiveMinimum": 0})", "1e-300").empty());
  CHECK(Wrong(R"({"const": 100})", "1.00e2").empty());
  CHECK(Wrong(R"({"type": "integer"})", "1.20e1").empty());
  CHECK(Wrong(R"({"uniqueItems": true})", "[1, 1.0]") == "/args duplicate");
  CHECK(Wrong(R"({"enum": [{"a": 1, "b": [0]}]})", R"({"b": [0.0], "a": 1})").empty());
}

TEST_CASE("alternatives, conditions and names") {
  const std::string any = R"({"anyOf": [{"type": "string"}, {"type": "number", "minimum": 3}]})";
  CHECK(Wrong(any, "4").empty());
  CHECK(Wrong(any, "2") == "/args invalid_value");
  const std::string one = R"({"oneOf": [{"minimum": 3}, {"maximum": 5}]})";
  CHECK(Wrong(one, "1").empty());
  CHECK(Wrong(one, "4") == "/args invalid_value");
  CHECK(Wrong(R"({"not": {"type": "null"}})", "null") == "/args invalid_value");
  CHECK(Wrong(R"({"allOf": [{"required": ["a"]}, {"required": ["b"]}]})", "{}") == "/args/a required /args/b required");
  const std::string either =
      R"({"if": {"required": ["card"]}, "then": {"required": ["cvc"]}, "else": {"required": ["iban"]}})";
  CHECK(Wrong(either, R"({"card": 1})") == "/args/cvc required");
  CHECK(Wrong(either, "{}") == "/args/iban required");
  CHECK(Wrong(R"({"dependentRequired": {"a": ["b"]}})", R"({"a": 1})") == "/args/b required");
  CHECK(Wrong(R"({"propertyNames": {"pattern": "^x"}})", R"({"y": 1})") == "/args/y invalid_format");
  CHECK(Wrong(R"({"patternProperties": {"^n_": {"type": "number"}}, "additionalProperties": false})",
              R"({"n_a": "x", "b": 1})") == "/args/n_a invalid_type /args/b unknown_field");
  CHECK(Wrong(R"({"prefixItems": [true, {"type": "null"}], "items": false})", "[1, null, 2]") ==
        "/args/2 unknown_field");
  CHECK(Wrong(R"({"items": [{"type": "null"}], "additionalItems": {"type": "string"}})", R"([null, 1])") ==
        "/args/1 invalid_type");
  CHECK(Wrong(R"({"contains": {"const": 1}})", "[0, 2]") == "/args invalid_value");
  CHECK(Wrong("false", "1") == "/args unknown_field");
  CHECK(Wrong("true", "1").empty());
}

TEST_CASE("a schema may refer to itself") {
  const std::string tree = R"({"type": "object", "properties": {"left": {"$ref": "#"}, "n": {"type": "integer"}}})";
  CHECK(Wrong(tree, R"({"n": 1, "left": {"n": 2, "left": {"n": "3"}}})") == "/args/left/left/n invalid_type");
}

TEST_CASE("no value and no schema takes for ever: what is too much work is refused") {
  CHECK(Wrong(R"({"$ref": "#"})", "1") == "/args too_deep");
  CHECK(Wrong(R"({"not": {"$ref": "#"}})", "1") == "/args too_deep");
  const std::string twice = R"({"oneOf": [{"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
                                          {"properties": {"a": {"$ref": "#"}}, "required": ["a"]}]})";
  std::string deep = "1";
  for (int i = 0; i < 30; ++i) deep = absl::StrCat(R"({"a": )", deep, "}");
  CHECK(Wrong(twice, deep) == "/args too_deep");
  const std::string slow(200000, 'a');
  CHECK(Wrong(R"({"pattern": "^(a|aa)+$"})", absl::StrCat("\"", slow, "b\"")) == "/args invalid_format");
  CHECK(Wrong(R"({"pattern": "^[a-z ]*$"})", absl::StrCat("\"", slow, "\"")).empty());
}

TEST_CASE("errors are as many as asked for") {
  const auto compiled = JsonSchema::Compile(R"({"items": {"type": "null"}})");
  REQUIRE_THAT(compiled, testing::IsOk());
  const auto document = JsonDocument::Parse("[1,1,1,1,1]");
  std::vector<FieldError> errors;
  compiled->Check(document->root(), "", errors, 3);
  CHECK(errors.size() == 3);
}

TEST_CASE("a schema that could not be checked whole is refused with its place") {
  CHECK(Refused(R"({"properties": {"to": {"typ": "string"}}})") == "/properties/to/typ: unknown keyword");
  CHECK(Refused(R"({"multipleOf": 2})") == "/multipleOf: unknown keyword");
  CHECK(Refused(R"({"type": "text"})").find("/type: expected null") == 0);
  CHECK(Refused(R"({"minLength": -1})").find("/minLength: ") == 0);
  CHECK(Refused(R"({"pattern": "(?=x)y"})").find("/pattern: not a pattern of RE2") == 0);
  CHECK(Refused(R"({"items": {"$ref": "#/$defs/none"}})") == "/items/$ref: there is no #/$defs/none");
  CHECK(Refused(R"({"$ref": "https://example.org/x"})").find("/$ref: expected a place in this document") == 0);
  CHECK(Refused(R"({"properties": {"a": 1}})").find("/properties/a: expected a schema") == 0);
  CHECK(Refused("7").find("/: expected a schema") == 0);
  CHECK(Refused("{").find("/: ") == 0);
  CHECK(Refused(absl::StrCat(R"({"description": ")", std::string(70000, 'x'), R"("})")).find("limit is 65536") !=
        std::string::npos);
}

}  // namespace
}  // namespace mainstay
