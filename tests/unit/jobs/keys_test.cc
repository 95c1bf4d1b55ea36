// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/keys.h"

#include <catch2/catch.hpp>

namespace mainstay::jobs {
namespace {

TEST_CASE("a stream's key keeps its queue on one node") {
  CHECK(StreamKey("mail", 6) == "mainstay:jobs:{mail}:6");
  CHECK(StreamKey("mail", 6, Route("mail.send", 2)) == "mainstay:jobs:{mail}:6:mail.send@2");
  CHECK(Route("mail.send") == "mail.send");
}

TEST_CASE("an entry reads back as it was written, args verbatim") {
  Entry entry{.id = NewUuid(),
              .fence = 9007199254740993,
              .attempt = 3,
              .kind = "mail.send",
              .args = R"({"a": 1.50, "b":"x  y"})"};
  const auto back = DecodeEntry(EncodeEntry(entry));
  REQUIRE(back.has_value());
  CHECK(back->id == entry.id);
  CHECK(back->fence == entry.fence);
  CHECK(back->attempt == 3);
  CHECK(back->kind == "mail.send");
  CHECK(back->args == entry.args);
  entry.args.reset();
  CHECK_FALSE(DecodeEntry(EncodeEntry(entry))->args.has_value());
}

TEST_CASE("what no version of ours wrote is refused, whatever it is") {
  const std::string id = NewUuid().ToString();
  for (const std::string& text :
       {std::string(), std::string("x"), id, id + " ", id + " 1", id + " 1 0", id + " 1 0 ", id + " x 0 k",
        id + " 1 x k", id + " 1x 0 k", std::string(10000, ' '), id.substr(1) + " 1 0 k"}) {
    INFO(text);
    CHECK_FALSE(DecodeEntry(text).has_value());
  }
}

}  // namespace
}  // namespace mainstay::jobs
