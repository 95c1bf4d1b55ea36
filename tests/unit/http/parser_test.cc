// SPDX-License-Identifier: Apache-2.0
#include "libs/http/parser.h"

#include <catch2/catch.hpp>

#include "libs/base/problem.h"
#include "libs/base/strings.h"

namespace mainstay::http {
namespace {

// "ok", "more", or the problem.
std::string Parse(std::string_view bytes, Head* head = nullptr) {
  HeadParser parser;
  Head local;
  switch (parser.Feed(bytes, {}, head != nullptr ? *head : local)) {
    case HeadParser::State::kMore:
      return "more";
    case HeadParser::State::kDone:
      return "ok";
    default:
      return ProblemFromStatus(parser.error()).type;
  }
}
std::string With(std::string_view lines) {
  return Parse(StrCat("POST /a HTTP/1.1\r\nHost: h\r\n", lines, "\r\n"));
}
std::string Path(std::string_view target) {
  return Parse(StrCat("GET ", target, " HTTP/1.1\r\nHost: h\r\n\r\n"));
}

// The decoded body and whether it ended, or the problem.
std::string Chunks(std::string_view bytes, size_t step = 1 << 20) {
  ChunkDecoder decoder;
  std::string out;
  while (!bytes.empty() && !decoder.done()) {
    std::string_view piece = bytes.substr(0, step);
    const size_t before = piece.size();
    if (const absl::Status status = decoder.Decode(piece, 1 << 20, out); !status.ok())
      return ProblemFromStatus(status).type;
    bytes.remove_prefix(before - piece.size());
  }
  return StrCat(out, decoder.done() ? "|" : "…", bytes);
}

}  // namespace

TEST_CASE("a request head is taken apart") {
  Head head;
  REQUIRE(Parse("GET /v1/a%20b?x=1&y HTTP/1.1\r\nHost: Example.org:80\r\nX-A:  b \r\nConnection: close\r\n\r\nrest",
                &head) == "ok");
  CHECK(head.method == "GET");
  CHECK(head.target == "/v1/a%20b?x=1&y");
  CHECK(head.path == "/v1/a%20b");
  CHECK(head.query == "x=1&y");
  CHECK(head.segments == std::vector<std::string>{"v1", "a b"});
  CHECK(head.host == "example.org");
  CHECK(head.headers[1] == std::make_pair(std::string("x-a"), std::string("b")));
  CHECK_FALSE(head.keep_alive);
  CHECK(head.content_length == 0);
}

TEST_CASE("byte by byte it comes out the same") {
  const std::string bytes = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";
  HeadParser parser;
  Head head;
  for (size_t n = 1; n < bytes.size(); ++n)
    REQUIRE(parser.Feed(std::string_view(bytes).substr(0, n), {}, head) == HeadParser::State::kMore);
  REQUIRE(parser.Feed(bytes, {}, head) == HeadParser::State::kDone);
  CHECK(parser.consumed() == bytes.size());
  CHECK(head.content_length == 5);
}

TEST_CASE("a length that two readers could read differently is refused") {
  const std::pair<const char*, const char*> cases[] = {
      {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "malformed-request"},
      {"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "malformed-request"},
      {"Content-Length: 5\r\nContent-Length: 6\r\n", "malformed-request"},
      {"Content-Length: 5\r\nContent-Length: 5\r\n", "malformed-request"},
      {"Content-Length: 3, 3\r\n", "malformed-request"},
      {"Content-Length: +5\r\n", "malformed-request"},
      {"Content-Length: -5\r\n", "malformed-request"},
      {"Content-Length: 0x5\r\n", "malformed-request"},
      {"Content-Length: \r\n", "malformed-request"},
      {"Content-Length: 99999999999999999999\r\n", "malformed-request"},
      {"Transfer-Encoding: chunked, identity\r\n", "malformed-request"},
      {"Transfer-Encoding: chunked, chunked\r\n", "malformed-request"},
      {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "malformed-request"},
      {"Transfer-Encoding: chunked,\r\n", "malformed-request"},
      {"Transfer-Encoding:\r\n", "malformed-request"},
      {"Transfer-Encoding: gzip, chunked\r\n", "not-implemented"},
      {"Transfer-Encoding: xchunked\r\n", "not-implemented"},
      {"Transfer-Encoding: identity\r\n", "not-implemented"},
      {"Transfer-Encoding: Chunked\r\n", "ok"},
      {"Content-Length : 5\r\n", "malformed-request"},
      {"A: b\r\n folded\r\n", "malformed-request"},
      {"A: b\r\n\tfolded\r\n", "malformed-request"},
      {"A: b\nB: c\r\n", "malformed-request"},
      {"A: b\rB: c\r\n", "malformed-request"},
      {"A: b\x01\r\n", "malformed-request"},
      {"A: \xff\r\n", "malformed-request"},
      {"A: \xc3\xa4\r\n", "ok"},
      {": b\r\n", "malformed-request"},
      {"no colon\r\n", "malformed-request"},
      {"Host: h\r\n", "malformed-request"},
      {"Expect: 100-continue\r\n", "ok"},
      {"Expect: tea\r\n", "expectation-failed"},
      {"Upgrade: h2c\r\nConnection: Upgrade\r\n", "ok"},
  };
  for (const auto& [lines, result] : cases) {
    INFO(lines);
    CHECK(With(lines) == result);
  }
  CHECK(With(std::string("A: b\0c\r\n", 8)) == "malformed-request");
  CHECK(Parse("POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n") == "malformed-request");
}

TEST_CASE("request lines: version, method, host") {
  CHECK(Parse("GET / HTTP/1.1\r\n\r\n") == "malformed-request");
  CHECK(Parse("GET / HTTP/1.0\r\n\r\n") == "ok");
  CHECK(Parse("GET / HTTP/3.7\r\nHost: h\r\n\r\n") == "version-not-supported");
  CHECK(Parse("PRI * HTTP/2.0\r\n\r\n") == "version-not-supported");
  CHECK(Parse("GET / HTTP/1.1 \r\nHost: h\r\n\r\n") == "malformed-request");
  CHECK(Parse("GET  / HTTP/1.1\r\nHost: h\r\n\r\n") == "malformed-request");
  CHECK(Parse("GET / http/1.1\r\nHost: h\r\n\r\n") == "malformed-request");
  CHECK(Parse("GET /\r\nHost: h\r\n\r\n") == "malformed-request");
  CHECK(Parse("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n") == "malformed-request");
  CHECK(Parse("GET / HTTP/1.1\n\n") == "malformed-request");
  CHECK(Parse("delete / HTTP/1.1\r\nHost: h\r\n\r\n") == "not-implemented");
  CHECK(Parse("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n") == "not-implemented");
  CHECK(Parse("BREW / HTTP/1.1\r\nHost: h\r\n\r\n") == "not-implemented");
  CHECK(Parse("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n") == "method-not-allowed");
  CHECK(Parse("GET / HTTP/1.1\r\nHost: a b\r\n\r\n") == "malformed-request");
  CHECK(Parse("GET / HTTP/1.1\r\nHost:\r\n\r\n") == "malformed-request");
  CHECK(Parse("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n") == "malformed-request");
  CHECK(Parse("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n") == "ok");
  CHECK(Parse("QUERY / HTTP/1.1\r\nHost: h\r\n\r\n") == "ok");
  CHECK(Parse("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n") == "ok");
  CHECK(Parse("GET * HTTP/1.1\r\nHost: h\r\n\r\n") == "malformed-request");
  CHECK(Parse("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n") == "malformed-request");
  Head head;
  CHECK(Parse("GET http://Other:81/p?q HTTP/1.1\r\nHost: h\r\n\r\n", &head) == "ok");
  CHECK(head.host == "other");
  CHECK(head.path == "/p");
  CHECK(head.query == "q");
}

TEST_CASE("lines, header blocks and fields are bounded, without waiting for their end") {
  CHECK(Parse("GET /" + std::string(9000, 'a')) == "uri-too-long");
  CHECK(Parse("GET / HTTP/1.1\r\nA: " + std::string(9000, 'a')) == "header-too-large");
  std::string block = "GET / HTTP/1.1\r\nHost: h\r\n", many = block;
  for (int i = 0; i < 5; ++i) StrAppend(&block, "A", i, ": ", std::string(5500, 'a'), "\r\n");
  for (int i = 0; i < 101; ++i) StrAppend(&many, "A", i, ": b\r\n");
  CHECK(Parse(block + "\r\n") == "header-too-large");
  CHECK(Parse(many + "\r\n") == "header-too-large");
}

TEST_CASE("paths with dots, encoded slashes, NUL and broken escapes are refused, empty segments are kept") {
  for (const char* target : {"/a/../b", "/a/%2e%2e/b", "/.", "/%2E", "/a%2Fb", "/a%2fb", "/a%5cb", "/a%00", "/a%zz",
                             "/a%4", "/a%c0%af", "/a%ff", "/a%0a"}) {
    INFO(target);
    CHECK(Path(target) == "invalid-path");
  }
  CHECK(Path("/a\xc3\xa4") == "malformed-request");
  CHECK(Path("/a#b") == "malformed-request");
  std::vector<std::string> segments;
  CHECK(DecodePath("/a//b/", segments).ok());
  CHECK(segments == std::vector<std::string>{"a", "", "b", ""});
  CHECK(DecodePath("/", segments).ok());
  CHECK(segments.empty());
}

TEST_CASE("chunked bodies are decoded, whatever the pieces; trailers are dropped") {
  const std::string body = "5\r\nhello\r\n6;ext=\"1\"\r\n world\r\n0\r\nAuthorization: x\r\n\r\nNEXT";
  CHECK(Chunks(body) == "hello world|NEXT");
  CHECK(Chunks(body, 1) == "hello world|NEXT");
  CHECK(Chunks("0\r\n\r\n") == "|");
  CHECK(Chunks("5\r\nhel") == "hel…");
}

TEST_CASE("what is no chunked body is refused") {
  for (const char* bytes :
       {"\r\n", "x\r\n", "-1\r\n", "0x5\r\n", "5 \r\nhello\r\n", "5\nhello\r\n", "5\r\nhelloX\r\n", "5\r\nhello\n",
        "1000000000000000\r\n", "ffffffffffffffffff\r\n", "0\r\nA: b\n\r\n", "5\r\rhello"}) {
    INFO(bytes);
    CHECK(Chunks(bytes) == "malformed-request");
  }
  CHECK(Chunks("5;" + std::string(2000, 'a') + "\r\nhello\r\n") == "malformed-request");
  CHECK(Chunks("0\r\nA: " + std::string(20000, 'a') + "\r\n\r\n") == "header-too-large");
}

}  // namespace mainstay::http
