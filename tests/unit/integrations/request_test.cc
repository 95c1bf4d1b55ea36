// SPDX-License-Identifier: Apache-2.0
#include "libs/integrations/request.h"

#include <catch2/catch.hpp>

#include "tests/support/status.h"

namespace mainstay::integrations {
namespace {

using mainstay::testing::HasProblem;
using mainstay::testing::IsOk;

catalog::Operation GetPayment() {
  catalog::Operation operation;
  operation.name = "get_payment";
  operation.method = "GET";
  operation.path = "/payments/{id}/lines";
  operation.query = {{"status", "{status?}"}, {"expand", "all"}};
  return operation;
}

TEST_CASE("parameters become one segment or one query value") {
  auto request = BuildRequest(GetPayment(), R"({"id":"a/b?c#d","status":"x&y=z"})");
  REQUIRE_THAT(request, IsOk());
  CHECK(request->path == "/payments/a%2Fb%3Fc%23d/lines");
  CHECK(request->QueryString() == "?expand=all&status=x%26y%3Dz");
  auto plain = BuildRequest(GetPayment(), R"({"id":12345678901234567890,"status":null})");
  REQUIRE_THAT(plain, IsOk());
  CHECK(plain->path == "/payments/12345678901234567890/lines");
  CHECK(plain->QueryString() == "?expand=all");
}

TEST_CASE("missing, unknown and escaping parameters are named") {
  CHECK_THAT(BuildRequest(GetPayment(), "{}"), HasProblem("validation-failed"));
  CHECK_THAT(BuildRequest(GetPayment(), R"({"id":"1","typo":"2"})"), HasProblem("validation-failed"));
  CHECK_THAT(BuildRequest(GetPayment(), R"({"id":".."})"), HasProblem("validation-failed"));
  CHECK_THAT(BuildRequest(GetPayment(), R"({"id":""})"), HasProblem("validation-failed"));
  CHECK_THAT(BuildRequest(GetPayment(), R"({"id":{"a":1}})"), HasProblem("validation-failed"));
  auto problem = ProblemFromStatus(BuildRequest(GetPayment(), R"({"typo":"2","more":"3"})").status());
  CHECK(problem.errors.size() == 3);
}

TEST_CASE("the next link is found among others, quoted commas included") {
  CHECK(NextLink({R"(<https://a.example/?p=1>; rel="prev", <https://a.example/?p=3>; title="x, y"; rel="next")"}) ==
        "https://a.example/?p=3");
  CHECK(NextLink({"</items?p=2>; rel=next"}) == "/items?p=2");
  CHECK(NextLink({R"(<a>; rel="first next")"}) == "a");
  CHECK_FALSE(NextLink({R"(<a>; rel="last")", "garbage", "<open"}).has_value());
  CHECK_FALSE(NextLink({}).has_value());
}

PageRead Read(const catalog::Pagination& pagination, const std::string& json, std::string sent = "",
              std::vector<std::string> links = {}) {
  auto body = JsonDocument::Parse(json);
  REQUIRE_THAT(body, IsOk());
  auto page = ReadPage(pagination, body->root(), links, sent);
  REQUIRE_THAT(page, IsOk());
  return *page;
}

TEST_CASE("each style of pagination finds the next page and the end") {
  catalog::Pagination p;
  p.items = "data";
  p.page_size = 2;
  p.style = "last_id";
  p.has_more_path = "has_more";
  CHECK(Read(p, R"({"data":[{"id":"a"},{"id":"b"}],"has_more":true})").next_value == "b");
  CHECK_FALSE(Read(p, R"({"data":[{"id":"a"}],"has_more":false})").next_value.has_value());
  CHECK_FALSE(Read(p, R"({"data":[],"has_more":true})").next_value.has_value());
  p.style = "cursor";
  p.cursor_path = "meta.next";
  CHECK(Read(p, R"({"data":[1],"meta":{"next":"c2"}})").next_value == "c2");
  CHECK_FALSE(Read(p, R"({"data":[1],"meta":{"next":"c2"}})", "c2").next_value.has_value());
  CHECK_FALSE(Read(p, R"({"data":[1],"meta":{"next":null}})").next_value.has_value());
  p.style = "next_url";
  CHECK(Read(p, R"({"data":[1],"meta":{"next":"/x?p=2"}})").next_url == "/x?p=2");
  CHECK_FALSE(Read(p, R"({"data":[1],"meta":{"next":""}})").next_url.has_value());
  p = {};
  p.items = "";
  p.page_size = 2;
  p.style = "offset";
  CHECK(Read(p, "[1,2]").next_value == "2");
  CHECK(Read(p, "[3,4]", "2").next_value == "4");
  CHECK_FALSE(Read(p, "[5]", "4").next_value.has_value());
  p.style = "page";
  CHECK(Read(p, "[1,2]").next_value == "2");
  p.style = "link_header";
  CHECK(Read(p, "[1]", "", {"<https://a.example/2>; rel=next"}).next_url == "https://a.example/2");
  auto body = JsonDocument::Parse(R"({"items":[]})");
  CHECK_FALSE(ReadPage(p, body->root(), {}, "").ok());
}

}  // namespace
}  // namespace mainstay::integrations
