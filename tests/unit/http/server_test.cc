// SPDX-License-Identifier: Apache-2.0
// The server by raw bytes over real sockets.
#include "libs/http/server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <catch2/catch.hpp>
#include <optional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"

namespace mainstay::http {
namespace {

namespace asio = boost::asio;

class Client {
 public:
  explicit Client(int port, int receive_buffer = 0) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(uint16_t(port));
    ::inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    REQUIRE(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  }
  ~Client() { Close(); }
  void Close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(size_t(n));
    }
    return true;
  }
  // More bytes into the buffer; false at the end of the stream or after `timeout`.
  bool Fill(int timeout_ms = 5000) {
    pollfd p{fd_, POLLIN, 0};
    if (::poll(&p, 1, timeout_ms) <= 0) return false;
    char buffer[65536];
    const ssize_t n = ::recv(fd_, buffer, sizeof(buffer), 0);
    if (n <= 0) {
      closed_ = true;
      return false;
    }
    in_.append(buffer, size_t(n));
    return true;
  }
  struct Answer {
    int status = 0;
    std::string head, body;
    std::string Problem() const {
      const auto document = JsonDocument::Parse(body);
      if (!document.ok() || document->root().Find("type") == nullptr) return "";
      return std::string(document->root().Find("type")->text().substr(10));
    }
    bool Has(std::string_view line) const { return head.find(StrCat("\r\n", line)) != std::string::npos; }
  };
  // One answer with Content-Length (or none), chunked left as it is.
  std::optional<Answer> Read(bool head_only = false) {
    size_t end;
    while ((end = in_.find("\r\n\r\n")) == std::string::npos)
      if (!Fill()) return std::nullopt;
    Answer answer;
    answer.head = in_.substr(0, end + 2);
    in_.erase(0, end + 4);
    answer.status = std::stoi(answer.head.substr(9, 3));
    size_t length = 0;
    if (const size_t at = answer.head.find("Content-Length: "); at != std::string::npos)
      length = size_t(std::stoll(answer.head.substr(at + 16)));
    if (head_only || answer.status == 304) length = 0;
    while (in_.size() < length)
      if (!Fill()) return std::nullopt;
    answer.body = in_.substr(0, length);
    in_.erase(0, length);
    return answer;
  }
  // Everything until the server closes.
  std::string ReadAll(int timeout_ms = 5000) {
    while (Fill(timeout_ms)) {
    }
    return std::exchange(in_, "");
  }
  bool ClosedByServer(int timeout_ms = 5000) {
    while (Fill(timeout_ms)) {
    }
    return closed_;
  }
  std::string in_;
  bool closed_ = false;

 private:
  int fd_;
};

class CountingSource : public BodySource {
 public:
  CountingSource(int pieces, size_t size, bool fail) : left_(pieces), size_(size), fail_(fail) {}
  asio::awaitable<absl::StatusOr<std::string>> Next() override {
    if (left_-- > 0) co_return std::string(size_, 'x');
    if (fail_) co_return absl::InternalError("broken");
    co_return std::string();
  }

 private:
  int left_;
  const size_t size_;
  const bool fail_;
};

struct World {
  explicit World(ServerOptions options = {}) {
    options.threads = 2;
    options.header_timeout = std::min(options.header_timeout, absl::Milliseconds(400));
    options.body_stall = std::min(options.body_stall, absl::Milliseconds(400));
    server.emplace(options, [this](Request& request) { return Handle(request); });
    REQUIRE(server->Start().ok());
  }
  asio::awaitable<Response> Handle(Request& request) {
    ++handled;
    Response response;
    if (request.path == "/echo" || request.path == "/big") {
      if (request.path == "/big") request.body->set_limit(int64_t(1) << 40);
      absl::StatusOr<std::string> body = co_await http::ReadAll(*request.body);
      if (!body.ok()) co_return ProblemResponse(body.status(), request);
      response.body = *std::move(body);
    } else if (request.path == "/count") {
      request.body->set_limit(int64_t(1) << 40);
      int64_t total = 0;
      while (true) {
        absl::StatusOr<std::string> piece = co_await request.body->Read();
        if (!piece.ok()) co_return ProblemResponse(piece.status(), request);
        if (piece->empty()) break;
        if (piece->size() > 64 << 10) co_return ProblemResponse(absl::InternalError("a piece is too large"), request);
        total += int64_t(piece->size());
      }
      response.body = StrCat(total);
    } else if (request.path == "/refuse") {
      co_return ProblemResponse(MakeProblem("unauthenticated", ""), request);
    } else if (request.path == "/throw") {
      throw std::runtime_error("secret of the handler");
    } else if (request.path == "/stream" || request.path == "/broken") {
      response.stream = std::make_unique<CountingSource>(3, 5, request.path == "/broken");
    } else if (request.path == "/sized") {
      response.stream = std::make_unique<CountingSource>(3, 5, false);
      response.stream_length = 15;
    } else if (request.path == "/endless") {
      response.stream = std::make_unique<CountingSource>(1 << 30, 64 << 10, false);
    } else if (request.path == "/wait") {
      asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::seconds(5));
      request.on_disconnect([&] {
        disconnected.Notify();
        timer.cancel();
      });
      waiting.Notify();
      try {
        co_await timer.async_wait(asio::use_awaitable);
      } catch (const boost::system::system_error&) {
      }
    } else if (request.path == "/slow") {
      if (!waiting.HasBeenNotified()) waiting.Notify();
      asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(300));
      co_await timer.async_wait(asio::use_awaitable);
      response.body = "done";
    } else if (request.path == "/inject") {
      response.headers.emplace_back("x-a", "1\r\nX-Evil: 2");
    } else if (request.path == "/ids") {
      response.body = StrCat(request.request_id, " ", request.traceparent, " ",
                             absl::ToInt64Seconds(request.deadline - absl::Now()));
    } else {
      response.body = StrCat(request.method, " ", request.path, "?", request.query);
    }
    co_return response;
  }
  Client::Answer Ask(std::string_view bytes) {
    Client client(server->port());
    client.Send(bytes);
    auto answer = client.Read();
    REQUIRE(answer.has_value());
    return *answer;
  }
  Client::Answer Get(std::string_view target, std::string_view lines = "") {
    return Ask(StrCat("GET ", target, " HTTP/1.1\r\nHost: h\r\n", lines, "\r\n"));
  }
  std::atomic<int> handled{0};
  absl::Notification waiting, disconnected;
  std::optional<Server> server;
};

}  // namespace

TEST_CASE("an answer carries length, date, request id and nosniff") {
  World world;
  const auto answer = world.Get("/v1/x?y=1");
  CHECK(answer.status == 200);
  CHECK(answer.body == "GET /v1/x?y=1");
  CHECK(answer.Has("Content-Length: 13"));
  CHECK(answer.Has("Date: "));
  CHECK(answer.Has("X-Request-Id: "));
  CHECK(answer.Has("X-Content-Type-Options: nosniff"));
}

TEST_CASE("pipelined requests are answered in order on one connection") {
  World world;
  Client client(world.server->port());
  std::string bytes;
  for (int i = 0; i < 1000; ++i)
    StrAppend(&bytes, i % 2 == 0 ? "GET" : "POST", " /", i, " HTTP/1.1\r\nHost: h\r\n",
              i % 2 == 0 ? "" : "Content-Length: 3\r\n", "\r\n", i % 2 == 0 ? "" : "abc");
  std::thread sender([&] { client.Send(bytes); });
  bool in_order = true;
  for (int i = 0; i < 1000; ++i) {
    const auto answer = client.Read();
    in_order &= answer && answer->body == StrCat(i % 2 == 0 ? "GET /" : "POST /", i, "?");
  }
  sender.join();
  CHECK(in_order);
}

TEST_CASE("a smuggled request is never seen: 400, closed") {
  World world;
  for (const char* bytes :
       {"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil "
        "HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\nGET /evil HTTP/1.1\r\nHost: "
        "h\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nGET /evil "
        "HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: h\r\nA: b\nX: c\r\n\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n"}) {
    INFO(bytes);
    Client client(world.server->port());
    client.Send(bytes);
    const auto answer = client.Read();
    REQUIRE(answer.has_value());
    CHECK(answer->status == 400);
    CHECK(answer->Problem() == "malformed-request");
    CHECK(answer->Has("Connection: close"));
    CHECK(client.ReadAll().empty());
    CHECK(client.closed_);
  }
  CHECK(world.handled == 0);
}

TEST_CASE("a chunked body with a bad chunk ends the connection before the next request") {
  World world;
  Client client(world.server->port());
  client.Send(
      "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\nGET /evil HTTP/1.1\r\nHost: "
      "h\r\n\r\n");
  const auto answer = client.Read();
  CHECK(answer->status == 400);
  CHECK(client.ReadAll().empty());
  CHECK(world.handled == 1);
}

TEST_CASE("statuses of the refused: version, method, host, length, expectation") {
  ServerOptions options;
  options.hosts = {"Good.example"};
  World world(options);
  const auto ask = [&](std::string_view bytes) { return world.Ask(bytes).Problem(); };
  CHECK(ask("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n") == "misdirected-request");
  CHECK(world.Ask("GET / HTTP/1.1\r\nHost: good.example:8080\r\n\r\n").status == 200);
  CHECK(world.Ask("GET http://good.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n").status == 200);
  CHECK(ask("GET / HTTP/3.7\r\nHost: h\r\n\r\n") == "version-not-supported");
  CHECK(ask("BREW / HTTP/1.1\r\nHost: h\r\n\r\n") == "not-implemented");
  CHECK(ask("GET / HTTP/1.1\r\nHost: good.example\r\nExpect: tea\r\n\r\n") == "expectation-failed");
  CHECK(ask("GET / HTTP/1.1\r\nHost: good.example\r\nX-Request-Timeout-Ms: soon\r\n\r\n") == "invalid-parameter");
  CHECK(ask(StrCat("GET /", std::string(9000, 'a'), " HTTP/1.1\r\n")) == "uri-too-long");
}

TEST_CASE("a bad path is refused and the connection goes on") {
  World world;
  Client client(world.server->port());
  client.Send(
      "POST /a/%2e%2e/b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(client.Read()->Problem() == "invalid-path");
  CHECK(client.Read()->body == "GET /next?");
}

TEST_CASE("bodies: whole, chunked, in pieces, to the limit and not beyond") {
  ServerOptions options;
  options.body_limit = 1000;
  World world(options);
  CHECK(world.Ask("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello").body == "hello");
  CHECK(world.Ask("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").body ==
        "hello");
  CHECK(world.Ask(StrCat("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n", std::string(1000, 'a')))
            .body.size() == 1000);
  // Declared: refused before a byte of it came.
  CHECK(world.Ask("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n").Problem() == "content-too-large");
  // Streamed: at the limit, though the end never comes.
  CHECK(world
            .Ask(StrCat("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n",
                        std::string(1001, 'a')))
            .Problem() == "content-too-large");
}

TEST_CASE("Expect: 100-continue is answered when the handler wants the body, not before a refusal") {
  World world;
  Client client(world.server->port());
  client.Send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  CHECK(client.Read()->status == 100);
  client.Send("hello");
  CHECK(client.Read()->body == "hello");
  Client refused(world.server->port());
  refused.Send("POST /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  const auto answer = refused.Read();
  CHECK(answer->status == 401);
  CHECK(answer->Has("www-authenticate: Bearer"));
  CHECK(refused.ClosedByServer());
  Client large(world.server->port());
  large.Send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n");
  CHECK(large.Read()->status == 413);
}

TEST_CASE("an upload of 300 MB passes in pieces, at the handler's pace") {
  World world;
  Client client(world.server->port());
  const std::string piece(1 << 20, 'x');
  client.Send("POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 314572800\r\n\r\n");
  for (int i = 0; i < 300; ++i) REQUIRE(client.Send(piece));
  CHECK(client.Read()->body == "314572800");
}

TEST_CASE("an unread body does not become a request, and the answer still arrives") {
  World world;
  Client client(world.server->port());
  client.Send("POST /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n");
  client.Send(std::string(2'000'000, 'x'));
  const auto answer = client.Read();
  REQUIRE(answer.has_value());
  CHECK(answer->status == 401);
  CHECK(answer->Has("Connection: close"));
}

TEST_CASE("HEAD has the head of GET and no body") {
  World world;
  Client client(world.server->port());
  client.Send("HEAD /x HTTP/1.1\r\nHost: h\r\n\r\nGET /y HTTP/1.1\r\nHost: h\r\n\r\n");
  const auto head = client.Read(true);
  CHECK(head->Has("Content-Length: 8"));
  CHECK(client.Read()->body == "GET /y?");
}

TEST_CASE("streamed answers are chunked, sized ones have a length, broken ones have no last chunk") {
  World world;
  const auto all = [&](std::string_view target, std::string_view version) {
    Client client(world.server->port());
    client.Send(StrCat("GET ", target, " HTTP/", version, "\r\nHost: h\r\nConnection: close\r\n\r\n"));
    std::string text = client.ReadAll();
    return text.substr(text.find("\r\n\r\n") + 4);
  };
  CHECK(all("/stream", "1.1") == "5\r\nxxxxx\r\n5\r\nxxxxx\r\n5\r\nxxxxx\r\n0\r\n\r\n");
  CHECK(all("/broken", "1.1") == "5\r\nxxxxx\r\n5\r\nxxxxx\r\n5\r\nxxxxx\r\n");
  CHECK(all("/sized", "1.1") == "xxxxxxxxxxxxxxx");
  CHECK(all("/stream", "1.0") == "xxxxxxxxxxxxxxx");
}

TEST_CASE("HTTP/1.0 closes unless it asks to stay") {
  World world;
  Client client(world.server->port());
  client.Send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  CHECK(client.Read()->Has("Connection: keep-alive"));
  client.Send("GET /b HTTP/1.0\r\n\r\n");
  CHECK(client.Read()->Has("Connection: close"));
  CHECK(client.ClosedByServer());
}

TEST_CASE("a slow head and a slow body end in 408, an idle connection in silence") {
  ServerOptions options;
  options.idle_timeout = absl::Milliseconds(300);
  World world(options);
  Client head(world.server->port());
  head.Send("GET / HTTP/1.1\r\nHos");
  CHECK(head.Read()->Problem() == "request-timeout");
  CHECK(head.ClosedByServer());
  Client body(world.server->port());
  body.Send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe");
  CHECK(body.Read()->Problem() == "request-timeout");
  CHECK(body.ClosedByServer());
  Client idle(world.server->port());
  CHECK(idle.ClosedByServer());
  CHECK(idle.in_.empty());
}

TEST_CASE("bytes that trickle do not keep a slow client alive") {
  World world;
  Client client(world.server->port());
  client.Send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 500\r\n\r\n");
  const absl::Time start = absl::Now();
  while (client.Send("x") && !client.Fill(50) && absl::Now() - start < absl::Seconds(5)) {
  }
  CHECK(client.Read()->status == 408);
  CHECK(absl::Now() - start < absl::Seconds(3));
}

TEST_CASE("a client that does not read its answer is dropped") {
  ServerOptions options;
  options.write_timeout = absl::Milliseconds(300);
  World world(options);
  Client client(world.server->port(), 4096);
  client.Send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n");
  absl::SleepFor(absl::Milliseconds(1500));
  // What was on its way can still be read; then the end.
  CHECK(client.ClosedByServer());
}

TEST_CASE("a handler learns that its client has gone") {
  World world;
  Client client(world.server->port());
  client.Send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
  world.waiting.WaitForNotification();
  client.Close();
  CHECK(world.disconnected.WaitForNotificationWithTimeout(absl::Seconds(3)));
}

TEST_CASE("request ids are taken when well-formed and replaced otherwise; a trace is continued") {
  World world;
  CHECK(world.Get("/ids", "X-Request-Id: abc-1.2_3\r\n").body.substr(0, 10) == "abc-1.2_3 ");
  for (const char* bad : {"a b", "a\tb", "{}", ""}) {
    const auto answer = world.Get("/ids", StrCat("X-Request-Id: ", bad, "\r\n"));
    CHECK(answer.body.find(' ') == 26);
  }
  CHECK(world.Get("/ids", StrCat("X-Request-Id: ", std::string(65, 'a'), "\r\n")).body.find(' ') == 26);
  const auto traced = world.Get("/ids", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n");
  CHECK(traced.body.find("00-0af7651916cd43dd8448eb211c80319c-") != std::string::npos);
  CHECK(traced.body.find("b7ad6b7169203331") == std::string::npos);
  CHECK(world.Get("/ids", "X-Request-Timeout-Ms: 5000\r\n").body.back() == '4');
}

TEST_CASE("a header value cannot add a header, an exception shows nothing") {
  World world;
  const auto answer = world.Get("/inject");
  CHECK_FALSE(answer.Has("X-Evil"));
  const auto thrown = world.Get("/throw");
  CHECK(thrown.status == 500);
  CHECK(thrown.Problem() == "internal");
  CHECK(thrown.body.find("secret") == std::string::npos);
}

TEST_CASE("over the cap a connection gets 503 and nothing else") {
  ServerOptions options;
  options.max_connections = 2;
  World world(options);
  Client one(world.server->port()), two(world.server->port());
  one.Send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  two.Send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  REQUIRE(one.Read().has_value());
  REQUIRE(two.Read().has_value());
  Client three(world.server->port());
  CHECK(three.Read()->status == 503);
  CHECK(three.ClosedByServer());
}

TEST_CASE("drain answers what runs, closes what is idle, takes nothing new") {
  World world;
  Client idle(world.server->port()), busy(world.server->port());
  idle.Send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  REQUIRE(idle.Read().has_value());
  busy.Send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
  world.waiting.WaitForNotification();
  const int port = world.server->port();
  std::thread drain([&] { world.server->Drain(absl::Seconds(5)); });
  CHECK(idle.ClosedByServer());
  const auto answer = busy.Read();
  REQUIRE(answer.has_value());
  CHECK(answer->body == "done");
  CHECK(answer->Has("Connection: close"));
  drain.join();
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(uint16_t(port));
  ::inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
  CHECK(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0);
  ::close(fd);
}

}  // namespace mainstay::http
