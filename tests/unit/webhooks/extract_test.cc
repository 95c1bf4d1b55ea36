// SPDX-License-Identifier: Apache-2.0
#include "libs/webhooks/extract.h"

#include <catch2/catch.hpp>

#include "tests/support/status.h"

namespace mainstay::webhooks {
namespace {

using mainstay::testing::IsOk;

JsonDocument Parsed(std::string text) {
  auto document = JsonDocument::Parse(std::move(text));
  REQUIRE_THAT(document, IsOk());
  return *std::move(document);
}

TEST_CASE("values are found by path, the first source that is present wins") {
  JsonDocument body = Parsed(
      R"({"data":{"object":{"id":"pay_1","n":12345678901234567890,"list":[{"x":true}]}},"none":null,"empty":""})");
  Delivery delivery;
  delivery.target = "/hooks/x?a=1&b=%20&c=2&c=3";
  delivery.headers = {{"x-id", "h1"}, {"twice", "1"}, {"twice", "2"}};
  auto get = [&](catalog::ValueSource sources) { return Extract(sources, delivery, &body.root()); };
  CHECK(get({"json:data.object.id"}) == "pay_1");
  CHECK(get({"json:data.object.n"}) == "12345678901234567890");
  CHECK(get({"json:data.object.list.0.x"}) == "true");
  CHECK(get({"json:missing", "header:X-Id"}) == "h1");
  CHECK(get({"json:none", "json:empty", "const:c"}) == "c");
  CHECK(get({"query:a"}) == "1");
  CHECK_FALSE(get({"query:c"}).has_value());
  CHECK_FALSE(get({"header:Twice"}).has_value());
  CHECK_FALSE(get({"json:data.object"}).has_value());
  CHECK_FALSE(get({"json:data.object.list.7"}).has_value());
  CHECK_FALSE(get({}).has_value());
}

TEST_CASE("form values are read from the body") {
  Delivery delivery;
  delivery.body = "MessageSid=SM1&Body=a+b%21";
  CHECK(Extract({"form:MessageSid"}, delivery, nullptr) == "SM1");
  CHECK(Extract({"form:Body"}, delivery, nullptr) == "a b!");
}

TEST_CASE("times are plain digits or RFC 3339") {
  CHECK(*ParseSenderTime("1767225600", "s") == absl::FromUnixSeconds(1767225600));
  CHECK(*ParseSenderTime("1767225600123", "ms") == absl::FromUnixMillis(1767225600123));
  CHECK(*ParseSenderTime("2026-01-01T00:00:00Z", "iso8601") == absl::FromUnixSeconds(1767225600));
  for (const char* bad : {"", "12a", "-1", "+1", "1.5", " 1", "99999999999999999"})
    CHECK_FALSE(ParseSenderTime(bad, "s").ok());
  CHECK_FALSE(ParseSenderTime("1767225600000", "s").ok());
}

}  // namespace
}  // namespace mainstay::webhooks
