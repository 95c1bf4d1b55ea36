// SPDX-License-Identifier: Apache-2.0
// The HTTP/1.1 server of the suite: strict parsing, bounded everything, one coroutine per connection on the Asio loops.
//
// What RFC 9112 does not allow is refused before routing (parser.h). A handler gets a Request whose body it reads at
// its own pace (flow control reaches the client's socket) and returns a Response, whole or streamed. One request at a
// time per connection; pipelined ones wait in order. A client that stalls is answered 408 or dropped by a sweep of its
// loop (every 100 ms), not by a timer of its own; running handlers are bounded by their deadline.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace mainstay::http {

// A request's body, read in pieces. After an error the connection is closed.
class BodyReader {
 public:
  virtual ~BodyReader() = default;
  // The next piece (at most 64 KiB); empty at the end. Fails with problems: content-too-large, request-timeout,
  // malformed-request.
  virtual boost::asio::awaitable<absl::StatusOr<std::string>> Read() = 0;
  // Declared Content-Length; -1 when chunked.
  virtual int64_t length() const = 0;
  // Raises or lowers the limit for this request; the server's default is 1 MiB. Counts decoded bytes.
  virtual void set_limit(int64_t bytes) = 0;
};

// A streamed response body. Destroyed early when the client goes away.
class BodySource {
 public:
  virtual ~BodySource() = default;
  // The next piece; empty at the end. An error closes the connection without a last chunk.
  virtual boost::asio::awaitable<absl::StatusOr<std::string>> Next() = 0;
  // On the loop, when the client went away while Next was pending: it should return soon.
  virtual void Cancel() {}
};

struct Request {
  std::string method;  // as sent, upper-case
  std::string target;  // path and query as sent
  std::string path;    // of `target`, before decoding
  std::vector<std::string>
      segments;       // decoded path: {"v1", "orders", "42"}; "." and ".." and encoded slashes were refused
  std::string query;  // after "?", as sent
  std::vector<std::pair<std::string, std::string>> headers;  // names lower-case, in order; trailers dropped
  BodyReader* body = nullptr;                                // never null
  std::string remote_address;                                // "203.0.113.9", from the socket (or a trusted proxy)
  std::string request_id;                                    // accepted or made
  std::string traceparent;  // this request's own span: child of the client's when it sent one
  absl::Time deadline;      // from X-Request-Timeout-Ms, at most the server's own
  bool head = false;        // HEAD: the handler answers as for GET, the server sends no body
  int loop = 0;             // which of Server::loops() this runs on

  // First header of that lower-case name; null when absent.
  const std::string* Header(std::string_view name) const;
  // Gives the server a function to call, on the loop, when the client closes the connection before the answer: a
  // handler with a query running cancels it. Forgotten once the handler has returned.
  std::function<void(std::function<void()>)> on_disconnect;
};

struct Response {
  int status = 200;
  std::vector<std::pair<std::string, std::string>>
      headers;  // without Content-Length, Date, Connection, X-Request-Id: the server's
  std::string body;
  std::unique_ptr<BodySource> stream;  // instead of body; sent chunked unless stream_length >= 0
  int64_t stream_length = -1;

  static Response Json(int status, std::string body);
};

// Reads the whole body within its limit.
boost::asio::awaitable<absl::StatusOr<std::string>> ReadAll(BodyReader& body);
// The reason phrase of a status.
std::string_view Reason(int status);

// application/problem+json from any status that is not OK, with Retry-After, Allow and WWW-Authenticate where they
// belong.
Response ProblemResponse(const absl::Status& status, const Request& request);

using Handler = std::function<boost::asio::awaitable<Response>(Request&)>;

struct ServerOptions {
  std::string name = "http";  // label of its metrics
  std::string address = "127.0.0.1";
  int port = 0;
  // Loops, one thread each.
  int threads = 2;
  int64_t body_limit = 1 << 20;
  int max_request_line = 8 << 10, max_header_block = 16 << 10, max_header_fields = 100, max_header_line = 8 << 10;
  absl::Duration header_timeout = absl::Seconds(10), body_stall = absl::Seconds(10), idle_timeout = absl::Seconds(60),
                 write_timeout = absl::Seconds(30);
  absl::Duration request_timeout = absl::Seconds(30);
  int max_connections = 20000;
  std::vector<std::string> hosts;  // allowed Host values; empty: any
};

class Server {
 public:
  // `handler` is called on the loop of the connection. Exceptions become 500 internal.
  Server(ServerOptions options, Handler handler);
  ~Server();
  absl::Status Start();  // listening when it returns
  int port() const;
  // The loops, for those whose sockets live on them (the pipelined PostgreSQL connections): as many as options.threads.
  std::vector<boost::asio::io_context*> loops();
  // Stops accepting, lets running requests finish until `deadline` with Connection: close, cuts off the rest. The loops
  // run on, for others use them. Harmless twice.
  void Drain(absl::Duration deadline);
  // Drains at once what has not been drained, then ends the loops. After this nothing of them runs; what lives on them
  // may go. Harmless twice.
  void Stop();

  struct Impl;  // of server.cc

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::http
