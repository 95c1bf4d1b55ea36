// SPDX-License-Identifier: Apache-2.0
#include "libs/base/json.h"

#include <catch2/catch.hpp>
#include <limits>

#include "libs/base/problem.h"

namespace mainstay {
namespace {

std::string ProblemOf(std::string text) {
  const auto document = JsonDocument::Parse(std::move(text));
  return document.ok() ? "" : ProblemFromStatus(document.status()).type;
}
std::string PointerOf(std::string text) {
  const auto document = JsonDocument::Parse(std::move(text));
  return ProblemFromStatus(document.status()).errors.at(0).name;
}

}  // namespace

TEST_CASE("every kind of value is read, numbers as the text that was sent") {
  const auto document = JsonDocument::Parse(
      R"( {"a": [1, -0.50e+2, true, false, null], "b\u0062": "x\n\ud83d\ude00", "big": 9223372036854775808} )");
  REQUIRE(document.ok());
  const JsonValue& root = document->root();
  REQUIRE(root.Find("a")->items().size() == 5);
  CHECK(root.Find("a")->items()[1].text() == "-0.50e+2");
  CHECK(root.Find("a")->items()[2].boolean());
  CHECK_FALSE(root.Find("a")->items()[3].boolean());
  CHECK(root.Find("a")->items()[4].is_null());
  CHECK(root.Find("bb")->text() == "x\n\U0001F600");
  CHECK(root.Find("big")->text() == "9223372036854775808");
  CHECK(root.Find("c") == nullptr);
}

TEST_CASE("a value knows the bytes it had in the input") {
  const auto document = JsonDocument::Parse(R"({"payload": { "n":1.10 ,"x":[ ]} , "s": "\u0041"})");
  REQUIRE(document.ok());
  CHECK(document->root().Find("payload")->raw() == R"({ "n":1.10 ,"x":[ ]})");
  CHECK(document->root().Find("s")->raw() == R"("\u0041")");
}

TEST_CASE("a document can be moved and its values stay") {
  auto first = JsonDocument::Parse(R"({"k":"a\tb"})");
  REQUIRE(first.ok());
  const JsonDocument second = *std::move(first);
  CHECK(second.root().Find("k")->text() == "a\tb");
}

TEST_CASE("what is not RFC 8259 is refused") {
  const auto text =
      GENERATE(as<std::string>{}, "", " ", "{", "[1,]", "{\"a\":1,}", "{'a':1}", "{a:1}", "[1 2]", "nul", "NaN", "-",
               "+1", "01", "1.", ".5", "1e", "0x10", "1e401", "\"\n\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"",
               "\"\\udc00\"", "\"\\ud800\\u0041\"", "\"\x80\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\xef\xbb\xbf{}",
               "{} {}", "[] // c", "\"abc", "tru", "[1]]", "{\"a\" 1}");
  INFO(text);
  CHECK(ProblemOf(text) == "json-invalid");
}

TEST_CASE("duplicate keys are found at any depth, also when one of them is escaped") {
  CHECK(ProblemOf(R"({"a":1,"a":2})") == "json-duplicate-key");
  CHECK(ProblemOf(R"({"a":1,"\u0061":2})") == "json-duplicate-key");
  CHECK(PointerOf(R"({"x":[{"a":1,"a":2}]})") == "/x/0/a");
  CHECK(PointerOf(R"({"a/b~":{"c":1,"c":2}})") == "/a~1b~0/c");
  std::string large = "{";
  for (int i = 0; i < 100; ++i) large += "\"k" + std::to_string(i) + "\":1,";
  CHECK(ProblemOf(large + "\"z\":1}").empty());
  CHECK(ProblemOf(large + "\"k3\":1}") == "json-duplicate-key");
}

TEST_CASE("depth is limited without using the stack up") {
  CHECK(ProblemOf(std::string(32, '[') + std::string(32, ']')).empty());
  CHECK(ProblemOf(std::string(33, '[') + std::string(33, ']')) == "json-too-deep");
  CHECK(ProblemOf(std::string(100000, '[')) == "json-too-deep");
}

TEST_CASE("numbers are limited in length, not rounded") {
  CHECK(ProblemOf(std::string(64, '9')).empty());
  CHECK(ProblemOf(std::string(65, '9')) == "json-invalid");
  CHECK(ProblemOf("1e400").empty());
  CHECK(ProblemOf("1e-400").empty());
}

TEST_CASE("the writer separates, escapes and keeps what it cannot represent apart") {
  std::string out;
  JsonWriter(out)
      .BeginObject()
      .Key("a")
      .BeginArray()
      .Int(std::numeric_limits<int64_t>::min())
      .Double(0.1)
      .Double(std::numeric_limits<double>::quiet_NaN())
      .Null()
      .Bool(true)
      .EndArray()
      .Key("q\"")
      .String("\x01\n\xff\u00e9")
      .Key("r")
      .Raw("{}")
      .EndObject();
  CHECK(out == "{\"a\":[-9223372036854775808,0.1,\"NaN\",null,true],\"q\\\"\":\"\\u0001\\n\uFFFD\u00e9\",\"r\":{}}");
  CHECK(JsonDocument::Parse(out).ok());
}

TEST_CASE("what the writer escapes the reader gets back") {
  std::string all;
  for (int c = 0; c < 128; ++c) all += char(c);
  all += "\u20ac\U0001F600";
  const auto document = JsonDocument::Parse(JsonQuote(all));
  REQUIRE(document.ok());
  CHECK(document->root().text() == all);
}

TEST_CASE("every byte at every place of a text is quoted as JSON wants it") {
  for (int byte = 0; byte < 256; ++byte) {
    for (size_t size = 1; size <= 17; ++size) {
      for (size_t at = 0; at < size; ++at) {
        std::string text(size, 'a');
        text[at] = static_cast<char>(byte);
        const std::string quoted = JsonQuote(text);
        if (byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\') {
          REQUIRE(quoted == "\"" + text + "\"");
        } else {
          const auto document = JsonDocument::Parse(quoted);
          REQUIRE(document.ok());
          // A byte that is no character becomes U+FFFD.
          if (byte >= 0x80) text.replace(at, 1, "\uFFFD");
          REQUIRE(document->root().text() == text);
        }
      }
    }
  }
}

}  // namespace mainstay
