// SPDX-License-Identifier: Apache-2.0
#include "libs/http/server.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/random/random.h"
#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/http/parser.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"
#include "libs/telemetry/trace.h"

namespace mainstay::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using SteadyClock = std::chrono::steady_clock;
constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);

constexpr size_t kPiece = 64 << 10;
constexpr size_t kInitialBuffer = 4 << 10;
constexpr size_t kJoinBody = 16 << 10;  // up to here head and body are copied together into one write
constexpr int kProgress = 1 << 10;      // bytes within body_stall that count as progress
constexpr absl::Duration kSlow = absl::Seconds(1);
constexpr auto kSweep = std::chrono::milliseconds(100);
constexpr auto kLinger = std::chrono::seconds(1);

SteadyClock::duration ToChrono(absl::Duration duration) {
  return std::chrono::nanoseconds(absl::ToInt64Nanoseconds(duration));
}

absl::InsecureBitGen& Random() {
  thread_local absl::InsecureBitGen random;
  return random;
}

// Milliseconds and 80 random bits as 26 characters of Crockford's base32: sorts by time, found again in the logs.
std::string NewRequestId(absl::Time now) {
  static constexpr char kDigits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  std::string id(26, '0');
  uint64_t time = uint64_t(absl::ToUnixMillis(now));
  for (int i = 9; i >= 0; --i, time >>= 5) id[size_t(i)] = kDigits[time & 31];
  for (size_t half = 10; half < 26; half += 8) {
    uint64_t bits = absl::Uniform<uint64_t>(Random());
    for (size_t i = 0; i < 8; ++i, bits >>= 5) id[half + i] = kDigits[bits & 31];
  }
  return id;
}

bool IsRequestId(std::string_view id) {
  return !id.empty() && id.size() <= 64 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '.' || c == '_' || c == '-';
  });
}

void PutHex(uint64_t value, char* out) {
  for (int i = 15; i >= 0; --i, value >>= 4) out[i] = "0123456789abcdef"[value & 15];
}

// A span of this request: in the client's trace when it sent one. Ids need no secrecy, so no system randomness.
std::string NewTraceparent(const std::string* parent) {
  std::string text = "00-00000000000000000000000000000000-0000000000000000-01";
  const auto context = parent != nullptr ? trace::Parse(*parent) : std::nullopt;
  if (context) {
    std::memcpy(text.data() + 3, context->trace_id.data(), 32);
    text[54] = context->sampled ? '1' : '0';
  } else {
    PutHex(absl::Uniform<uint64_t>(Random()), text.data() + 3);
    PutHex(absl::Uniform<uint64_t>(Random()) | 1, text.data() + 19);
  }
  PutHex(absl::Uniform<uint64_t>(Random()) | 1, text.data() + 36);
  return text;
}

// "Date: …\r\n", made once a second per thread.
std::string_view DateLine(absl::Time now) {
  thread_local int64_t second = -1;
  thread_local std::string line;
  if (const int64_t current = absl::ToUnixSeconds(now); current != second) {
    second = current;
    line = "Date: " + absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", now, absl::UTCTimeZone()) + "\r\n";
  }
  return line;
}

struct Counters {
  explicit Counters(const std::string& name)
      : seconds(metrics::Histogram("mainstay_http_server_seconds",
                                   "Time from a request's head to the end of its answer.", metrics::LatencyBuckets(),
                                   {{"listener", name}})),
        connections(metrics::Gauge("mainstay_http_connections", "Open connections.", {{"listener", name}})),
        refused(metrics::Counter("mainstay_http_connections_refused_total", "Connections over the cap.",
                                 {{"listener", name}})) {
    for (size_t i = 0; i < by_class.size(); ++i) {
      by_class[i] = &metrics::Counter("mainstay_http_requests_total", "Requests answered, by class of status.",
                                      {{"listener", name}, {"status", StrCat(int(i) + 1, "xx")}});
    }
  }
  std::array<prometheus::Counter*, 5> by_class{};
  prometheus::Histogram& seconds;
  prometheus::Gauge& connections;
  prometheus::Counter& refused;
};

class Connection;

struct Loop {
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard{context.get_executor()};
  asio::steady_timer sweep{context};
  std::vector<Connection*> connections;  // used on the loop only
  std::thread thread;
  int index = 0;
};

}  // namespace

const std::string* Request::Header(std::string_view name) const {
  for (const auto& [key, value] : headers)
    if (key == name) return &value;
  return nullptr;
}

Response Response::Json(int status, std::string body) {
  Response response;
  response.status = status;
  response.headers.emplace_back("content-type", "application/json");
  response.body = std::move(body);
  return response;
}

asio::awaitable<absl::StatusOr<std::string>> ReadAll(BodyReader& body) {
  absl::StatusOr<std::string> all = co_await body.Read();
  if (!all.ok() || all->empty()) co_return all;
  while (true) {
    absl::StatusOr<std::string> piece = co_await body.Read();
    if (!piece.ok()) co_return piece.status();
    if (piece->empty()) co_return all;
    all->append(*piece);
  }
}

Response ProblemResponse(const absl::Status& status, const Request& request) {
  Problem problem = ProblemFromStatus(status);
  const ProblemType& type = FindProblemType(problem.type);
  Response response;
  response.status = type.http_status;
  response.headers.emplace_back("content-type", "application/problem+json");
  response.headers.emplace_back("cache-control", "no-store");
  if (problem.retry_after) {
    const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(*problem.retry_after, absl::Seconds(1)));
    response.headers.emplace_back("retry-after", StrCat(std::max<int64_t>(seconds, 1)));
  }
  if (type.http_status == 401) response.headers.emplace_back("www-authenticate", "Bearer");
  // Members that are really headers: {"allow", "\"GET, POST\""}.
  std::erase_if(problem.members, [&](const std::pair<std::string, std::string>& member) {
    if (member.first != "allow" && member.first != "accept" && member.first != "accept-encoding" &&
        member.first != "accept-patch")
      return false;
    std::string value = member.second;
    std::erase(value, '"');
    response.headers.emplace_back(member.first, std::move(value));
    return true;
  });
  response.body = ProblemJson(problem, request.path, request.request_id);
  return response;
}

std::string_view Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 406:
      return "Not Acceptable";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 410:
      return "Gone";
    case 412:
      return "Precondition Failed";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 421:
      return "Misdirected Request";
    case 422:
      return "Unprocessable Content";
    case 428:
      return "Precondition Required";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return status < 300 ? "Success" : status < 400 ? "Redirection" : "Error";
  }
}

struct Server::Impl {
  Impl(ServerOptions o, Handler h) : options(std::move(o)), handler(std::move(h)), counters(options.name) {
    for (std::string& host : options.hosts)
      for (char& c : host)
        if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
    limits.request_line = size_t(options.max_request_line);
    limits.header_line = size_t(options.max_header_line);
    limits.header_block = size_t(options.max_header_block);
    limits.header_fields = size_t(options.max_header_fields);
    for (int i = 0; i < std::max(1, options.threads); ++i) {
      loops.push_back(std::make_unique<Loop>());
      loops.back()->index = i;
    }
  }

  asio::awaitable<void> Accept();
  asio::awaitable<void> Sweep(Loop& loop);

  ServerOptions options;
  const Handler handler;
  ParserLimits limits;
  Counters counters;
  std::vector<std::unique_ptr<Loop>> loops;
  std::optional<tcp::acceptor> acceptor;
  std::atomic<int> open{0};
  std::atomic<bool> draining{false};
  std::mutex mu;
  std::condition_variable closed;
  bool started = false, drained = false, stopped = false;
};

namespace {

// One client. Everything runs on its loop.
class Connection : public std::enable_shared_from_this<Connection>, public BodyReader {
 public:
  Connection(Server::Impl& server, Loop& loop, tcp::socket socket)
      : server_(server),
        loop_(loop),
        socket_(std::move(socket)),
        buffer_(new char[kInitialBuffer]),
        capacity_(kInitialBuffer) {
    loop_.connections.push_back(this);
    server_.counters.connections.Increment();
  }
  ~Connection() override {
    std::erase(loop_.connections, this);
    server_.counters.connections.Decrement();
    if (--server_.open == 0) {
      std::lock_guard lock(server_.mu);
      server_.closed.notify_all();
    }
  }

  asio::awaitable<void> Run();

  // ---- the loop's sweep ----
  void Expire(SteadyClock::time_point now) {
    if (now < deadline_) return;
    deadline_ = SteadyClock::time_point::max();
    expired_ = true;
    boost::system::error_code ignored;
    if (waiting_for_write_) {
      socket_.close(ignored);
    } else {
      socket_.cancel(ignored);
    }
  }
  // Drain: what waits for a next request ends now.
  void CloseIfIdle() {
    boost::system::error_code ignored;
    if (idle_) socket_.close(ignored);
  }
  void Abort() {
    boost::system::error_code ignored;
    socket_.close(ignored);
  }

  // ---- BodyReader ----
  asio::awaitable<absl::StatusOr<std::string>> Read() override;
  int64_t length() const override { return head_.content_length; }
  void set_limit(int64_t bytes) override { body_limit_ = bytes; }

 private:
  enum class Got { kData, kEnd, kTimeout };
  std::string_view Buffered() const { return {buffer_.get() + begin_, end_ - begin_}; }
  void Consume(size_t n) {
    begin_ += n;
    if (begin_ == end_) begin_ = end_ = 0;
  }
  void MakeRoom(size_t want) {
    if (begin_ > 0 && capacity_ - end_ < want) {
      std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    if (capacity_ - end_ < want) {
      size_t capacity = capacity_;
      while (capacity - end_ < want) capacity *= 2;
      std::unique_ptr<char[]> larger(new char[capacity]);
      std::memcpy(larger.get(), buffer_.get() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
      buffer_ = std::move(larger);
      capacity_ = capacity;
    }
  }

  asio::awaitable<Got> Fill(SteadyClock::time_point deadline);
  asio::awaitable<bool> Write(std::string_view data);
  asio::awaitable<Response> Serve(Request& request);
  asio::awaitable<bool> Answer(Response& response, bool close);
  asio::awaitable<void> Linger();
  bool SkipBufferedBody();
  bool BodyDone() const { return head_.chunked ? chunks_.done() : body_left_ == 0; }
  void Watch(std::function<void()> on_disconnect);
  void Unwatch();
  void AppendHead(const Response& response, bool close, int64_t length, bool chunked);

  Server::Impl& server_;
  Loop& loop_;
  tcp::socket socket_;
  std::unique_ptr<char[]> buffer_;
  size_t capacity_, begin_ = 0, end_ = 0;
  std::string out_;

  SteadyClock::time_point deadline_ = SteadyClock::time_point::max();
  bool waiting_for_write_ = false, expired_ = false, idle_ = false;

  HeadParser parser_;
  Head head_;
  Request request_;
  std::string remote_;
  ChunkDecoder chunks_;
  int64_t body_left_ = 0, body_read_ = 0, body_limit_ = 0;
  bool continue_sent_ = false;
  absl::Status body_error_;
  SteadyClock::duration stall_left_{};
  int64_t progress_ = 0;

  std::function<void()> on_disconnect_;
  bool watching_ = false;  // a wait for readability is under way
};

asio::awaitable<Connection::Got> Connection::Fill(SteadyClock::time_point deadline) {
  Unwatch();
  deadline_ = deadline;
  expired_ = false;
  const auto [error, n] =
      co_await socket_.async_read_some(asio::buffer(buffer_.get() + end_, capacity_ - end_), kTuple);
  deadline_ = SteadyClock::time_point::max();
  if (error) co_return expired_ ? Got::kTimeout : Got::kEnd;
  end_ += n;
  co_return Got::kData;
}

asio::awaitable<absl::StatusOr<std::string>> Connection::Read() {
  const auto fail = [this](absl::Status status) {
    body_error_ = std::move(status);
    return body_error_;
  };
  if (!body_error_.ok()) co_return body_error_;
  if (BodyDone()) co_return std::string();
  const auto too_large = [&] {
    return fail(MakeProblem("content-too-large", StrCat("at most ", body_limit_, " bytes are allowed here")));
  };
  if (!head_.chunked && head_.content_length > body_limit_) co_return too_large();
  if (head_.expect_continue && !continue_sent_) {
    continue_sent_ = true;
    // Nothing to invite when the client has begun already.
    if (begin_ == end_) {
      const bool sent = co_await Write("HTTP/1.1 100 Continue\r\n\r\n");
      if (!sent) co_return fail(absl::CancelledError("the client is gone"));
    }
  }
  std::string out;
  while (true) {
    if (begin_ != end_) {
      if (head_.chunked) {
        std::string_view in = Buffered();
        const size_t before = in.size();
        const absl::Status decoded = chunks_.Decode(in, kPiece, out);
        Consume(before - in.size());
        if (!decoded.ok()) co_return fail(decoded);
        body_read_ += int64_t(out.size());
        if (body_read_ > body_limit_) co_return too_large();
        if (!out.empty() || chunks_.done()) co_return out;
      } else {
        const size_t n = size_t(std::min<int64_t>({int64_t(end_ - begin_), body_left_, int64_t(kPiece)}));
        out.assign(Buffered().substr(0, n));
        Consume(n);
        body_left_ -= int64_t(n);
        body_read_ += int64_t(n);
        co_return out;
      }
    }
    // The time the handler took does not count, only waiting for the client does.
    MakeRoom(head_.chunked || body_left_ > int64_t(kInitialBuffer) ? kPiece : kInitialBuffer / 2);
    const auto start = SteadyClock::now();
    const size_t had = end_ - begin_;
    const Got read = co_await Fill(start + stall_left_);
    if (read == Got::kTimeout) co_return fail(MakeProblem("request-timeout", "the body came too slowly"));
    if (read == Got::kEnd) co_return fail(absl::CancelledError("the client is gone"));
    progress_ += int64_t(end_ - begin_ - had);
    if (progress_ >= kProgress) {
      progress_ = 0;
      stall_left_ = ToChrono(server_.options.body_stall);
    } else {
      stall_left_ -= std::min(stall_left_, SteadyClock::now() - start);
    }
  }
}

asio::awaitable<bool> Connection::Write(std::string_view data) {
  while (!data.empty()) {
    // Nearly always the socket takes all at once, without a way through the reactor.
    const ssize_t n = ::send(socket_.native_handle(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      data.remove_prefix(size_t(n));
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) co_return false;
    deadline_ = SteadyClock::now() + ToChrono(server_.options.write_timeout);
    waiting_for_write_ = true;
    const auto [error] = co_await socket_.async_wait(tcp::socket::wait_write, kTuple);
    waiting_for_write_ = false;
    deadline_ = SteadyClock::time_point::max();
    if (error) co_return false;
  }
  co_return true;
}

void Connection::Watch(std::function<void()> on_disconnect) {
  on_disconnect_ = std::move(on_disconnect);
  if (watching_) return;
  watching_ = true;
  socket_.async_wait(tcp::socket::wait_read, [self = shared_from_this()](const boost::system::error_code& error) {
    self->watching_ = false;
    if (error || !self->on_disconnect_) return;
    char byte;
    const ssize_t n = ::recv(self->socket_.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    // More bytes are a pipelined request or the rest of a body: the client is there.
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))) return;
    std::exchange(self->on_disconnect_, nullptr)();
  });
}

void Connection::Unwatch() {
  on_disconnect_ = nullptr;
  if (!watching_) return;
  boost::system::error_code ignored;
  socket_.cancel(ignored);
  watching_ = false;
}

void Connection::AppendHead(const Response& response, bool close, int64_t length, bool chunked) {
  std::string& out = out_;
  out += head_.minor_version == 0 ? "HTTP/1.0 " : "HTTP/1.1 ";
  StrAppend(&out, response.status, " ", Reason(response.status), "\r\n", DateLine(absl::Now()),
            "X-Request-Id: ", request_.request_id, "\r\nX-Content-Type-Options: nosniff\r\n");
  for (const auto& [name, value] : response.headers) {
    out += name;
    out += ": ";
    const size_t start = out.size();
    out += value;
    // A value made from what a client sent must not become a header of its own.
    for (size_t i = start; i < out.size(); ++i)
      if (static_cast<unsigned char>(out[i]) < 0x20 || out[i] == 0x7f) out[i] = ' ';
    out += "\r\n";
  }
  if (chunked) out += "Transfer-Encoding: chunked\r\n";
  if (length >= 0) StrAppend(&out, "Content-Length: ", length, "\r\n");
  if (close) {
    out += "Connection: close\r\n";
  } else if (head_.minor_version == 0) {
    out += "Connection: keep-alive\r\n";
  }
  out += "\r\n";
}

// False: the connection is of no more use.
asio::awaitable<bool> Connection::Answer(Response& response, bool close) {
  out_.clear();
  const bool bodyless = response.status == 204 || response.status == 304;
  if (!response.stream || bodyless) {
    AppendHead(response, close, bodyless ? -1 : int64_t(response.body.size()), false);
    const bool with_body = !request_.head && !bodyless;
    if (with_body && response.body.size() <= kJoinBody) out_ += response.body;
    bool ok = co_await Write(out_);
    if (ok && with_body && response.body.size() > kJoinBody) ok = co_await Write(response.body);
    if (out_.capacity() > kPiece) out_ = std::string();
    co_return ok;
  }
  const bool sized = response.stream_length >= 0;
  const bool chunked = !sized && head_.minor_version >= 1;
  AppendHead(response, close, response.stream_length, chunked);
  if (request_.head) co_return co_await Write(out_);
  // The head goes out at once: the first piece may take a while.
  bool ok = co_await Write(out_);
  int64_t sent = 0;
  while (ok) {
    Watch([stream = response.stream.get()] { stream->Cancel(); });
    absl::StatusOr<std::string> piece = co_await response.stream->Next();
    Unwatch();
    if (!piece.ok()) co_return false;  // no last chunk: the client sees that the body is cut
    if (piece->empty()) break;
    sent += int64_t(piece->size());
    if (sized && sent > response.stream_length) co_return false;
    if (chunked) {
      out_.clear();
      StrAppend(&out_, absl::Hex(piece->size()), "\r\n");
      out_ += *piece;
      out_ += "\r\n";
      ok = co_await Write(out_);
    } else {
      ok = co_await Write(*piece);
    }
  }
  if (ok && sized && sent < response.stream_length) co_return false;
  if (ok && chunked) ok = co_await Write("0\r\n\r\n");
  co_return ok;
}

// Takes the rest of a body that is there already. False: there is more to come, which nobody will read.
bool Connection::SkipBufferedBody() {
  if (BodyDone()) return true;
  if (!body_error_.ok()) return false;
  if (head_.chunked) {
    std::string ignored;
    std::string_view in = Buffered();
    const size_t before = in.size();
    const absl::Status status = chunks_.Decode(in, 1 << 20, ignored);
    Consume(before - in.size());
    return status.ok() && chunks_.done();
  }
  const size_t n = size_t(std::min<int64_t>(int64_t(end_ - begin_), body_left_));
  Consume(n);
  body_left_ -= int64_t(n);
  return body_left_ == 0;
}

// Closes so that the answer arrives: unread bytes would make the kernel send a reset that overtakes it.
asio::awaitable<void> Connection::Linger() {
  boost::system::error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  const auto end = SteadyClock::now() + kLinger;
  for (int i = 0; i < 256; ++i) {
    begin_ = end_ = 0;
    const Got read = co_await Fill(end);
    if (read != Got::kData) break;
  }
  socket_.close(ignored);
}

asio::awaitable<Response> Connection::Serve(Request& request) {
  std::string what;
  try {
    co_return co_await server_.handler(request);
  } catch (const std::exception& e) {
    what = e.what();
  } catch (...) {
    what = "unknown exception";
  }
  log::Error("a request failed unexpectedly",
             {{"path", request.path}, {"request_id", request.request_id}, {"error", what}});
  co_return ProblemResponse(absl::InternalError(""), request);
}

asio::awaitable<void> Connection::Run() {
  boost::system::error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.non_blocking(true, ignored);
  if (const auto peer = socket_.remote_endpoint(ignored); !ignored) remote_ = peer.address().to_string();
  while (true) {
    // ---- the head ----
    parser_.Reset();
    head_.Clear();
    HeadParser::State state = HeadParser::State::kMore;
    auto head_end = SteadyClock::time_point::max();
    while (true) {
      if (begin_ != end_) {
        state = parser_.Feed(Buffered(), server_.limits, head_);
        if (state != HeadParser::State::kMore) break;
        if (head_end == SteadyClock::time_point::max())
          head_end = SteadyClock::now() + ToChrono(server_.options.header_timeout);
      }
      idle_ = begin_ == end_;
      if (idle_ && server_.draining) co_return;
      MakeRoom(1024);
      const Got read = co_await Fill(idle_ ? SteadyClock::now() + ToChrono(server_.options.idle_timeout) : head_end);
      if (read == Got::kTimeout && !idle_) {
        idle_ = false;
        request_ = Request();
        request_.request_id = NewRequestId(absl::Now());
        Response response =
            ProblemResponse(MakeProblem("request-timeout", "the request's head came too slowly"), request_);
        server_.counters.by_class[3]->Increment();
        if (co_await Answer(response, true)) co_await Linger();
        co_return;
      }
      idle_ = false;
      if (read != Got::kData) co_return;
    }

    // ---- the request ----
    const absl::Time start = absl::Now();
    Request& request = request_;
    request.method = head_.method;
    request.target.swap(head_.target);
    request.path.swap(head_.path);
    request.query.swap(head_.query);
    request.segments.swap(head_.segments);
    request.headers.swap(head_.headers);
    request.body = this;
    request.remote_address = remote_;
    request.head = request.method == "HEAD";
    request.loop = loop_.index;
    request.deadline = start + server_.options.request_timeout;
    request.on_disconnect = [this](std::function<void()> callback) { Watch(std::move(callback)); };
    const std::string* id = request.Header("x-request-id");
    request.request_id = id != nullptr && IsRequestId(*id) ? *id : NewRequestId(start);
    request.traceparent = NewTraceparent(request.Header("traceparent"));

    body_limit_ = server_.options.body_limit;
    body_read_ = progress_ = 0;
    body_left_ = head_.chunked ? 0 : head_.content_length;
    chunks_ = ChunkDecoder();
    continue_sent_ = false;
    body_error_ = absl::OkStatus();
    stall_left_ = ToChrono(server_.options.body_stall);

    Response response;
    bool close = !head_.keep_alive || server_.draining;
    absl::Status refused = state == HeadParser::State::kFailed ? parser_.error() : absl::OkStatus();
    if (refused.ok()) {
      Consume(parser_.consumed());
      if (!server_.options.hosts.empty() && std::find(server_.options.hosts.begin(), server_.options.hosts.end(),
                                                      head_.host) == server_.options.hosts.end())
        refused = MakeProblem("misdirected-request", "");
      if (const std::string* timeout = request.Header("x-request-timeout-ms"); timeout != nullptr && refused.ok()) {
        int64_t ms = 0;
        if (timeout->size() > 9 || !absl::SimpleAtoi(*timeout, &ms) || ms <= 0 || (*timeout)[0] == '+') {
          refused = MakeProblem(
              "invalid-parameter", "",
              {{FieldError::Place::kHeader, "X-Request-Timeout-Ms", "invalid_value", "milliseconds are expected"}});
        } else {
          request.deadline = std::min(request.deadline, start + absl::Milliseconds(ms));
        }
      }
    } else {
      if (parser_.fatal()) {
        close = true;
        body_left_ = -1;  // unknown: nothing after it is read as a request
      } else {
        Consume(parser_.consumed());
      }
      if (request.path.empty()) request.path = "/";
    }
    if (refused.ok()) {
      response = co_await Serve(request);
      Unwatch();
    } else {
      response = ProblemResponse(refused, request);
    }
    if (response.status == 408 || (!body_error_.ok() && body_error_.code() != absl::StatusCode::kCancelled))
      close = true;
    const bool rest = !SkipBufferedBody();
    close |= rest || server_.draining;
    const int status = response.status;
    const bool ok = co_await Answer(response, close);

    const absl::Duration elapsed = absl::Now() - start;
    server_.counters.by_class[size_t(std::clamp(status / 100, 1, 5) - 1)]->Increment();
    server_.counters.seconds.Observe(absl::ToDoubleSeconds(elapsed));
    // 501 and 505 are the client's mistakes.
    const bool ours = status >= 500 && status != 501 && status != 505;
    if (ours || (elapsed > kSlow && !response.stream)) {
      log::Write(status == 500 ? log::Level::kError : log::Level::kInfo, "request",
                 {{"method", request.method},
                  {"path", request.path},
                  {"status", status},
                  {"ms", absl::ToDoubleMilliseconds(elapsed)},
                  {"request_id", request.request_id},
                  {"trace", request.traceparent},
                  {"remote", request.remote_address}});
    }
    response.stream.reset();
    if (!ok) co_return;
    if (close) {
      if (rest || begin_ != end_) {
        co_await Linger();
      } else {
        socket_.shutdown(tcp::socket::shutdown_both, ignored);
      }
      co_return;
    }
    request.headers.clear();
    request.segments.clear();
    // A large body must not leave a large buffer on every idle connection.
    if (capacity_ > 4 * kInitialBuffer && begin_ == end_) {
      buffer_.reset(new char[kInitialBuffer]);
      capacity_ = kInitialBuffer;
      begin_ = end_ = 0;
    }
  }
}

}  // namespace

asio::awaitable<void> Server::Impl::Accept() {
  size_t next = 0;
  while (!draining) {
    Loop& loop = *loops[next++ % loops.size()];
    auto [error, socket] = co_await acceptor->async_accept(loop.context, kTuple);
    if (draining) co_return;
    if (error) {
      // Out of descriptors, mostly: connections that end free some.
      asio::steady_timer pause(loops[0]->context, std::chrono::milliseconds(50));
      co_await pause.async_wait(kTuple);
      continue;
    }
    if (open >= options.max_connections) {
      counters.refused.Increment();
      static constexpr std::string_view kFull =
          "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
      ::send(socket.native_handle(), kFull.data(), kFull.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      boost::system::error_code ignored;
      socket.close(ignored);
      continue;
    }
    ++open;
    asio::post(loop.context, [this, &loop, socket = std::move(socket)]() mutable {
      auto connection = std::make_shared<Connection>(*this, loop, std::move(socket));
      asio::co_spawn(
          loop.context, [connection] { return connection->Run(); },
          [connection](const std::exception_ptr& e) {
            if (!e) return;
            try {
              std::rethrow_exception(e);
            } catch (const std::exception& exception) {
              log::Error("a connection ended unexpectedly", {{"error", exception.what()}});
            }
          });
    });
  }
}

asio::awaitable<void> Server::Impl::Sweep(Loop& loop) {
  while (true) {
    loop.sweep.expires_after(kSweep);
    const auto [error] = co_await loop.sweep.async_wait(kTuple);
    if (error) co_return;
    const auto now = SteadyClock::now();
    for (Connection* connection : loop.connections) connection->Expire(now);
  }
}

Server::Server(ServerOptions options, Handler handler) : impl_(new Impl(std::move(options), std::move(handler))) {}

Server::~Server() {
  Stop();
}

absl::Status Server::Start() {
  boost::system::error_code error;
  const auto address = asio::ip::make_address(impl_->options.address, error);
  if (error)
    return absl::InvalidArgumentError(StrCat("\"", impl_->options.address, "\" is not an IP address to listen on"));
  const tcp::endpoint endpoint(address, uint16_t(impl_->options.port));
  impl_->acceptor.emplace(impl_->loops[0]->context);
  impl_->acceptor->open(endpoint.protocol(), error);
  if (!error) impl_->acceptor->set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) impl_->acceptor->bind(endpoint, error);
  if (!error) impl_->acceptor->listen(1024, error);
  if (error) {
    return absl::UnavailableError(
        StrCat("cannot listen on ", impl_->options.address, ":", impl_->options.port, ": ", error.message()));
  }
  asio::co_spawn(impl_->loops[0]->context, impl_->Accept(), asio::detached);
  for (auto& loop : impl_->loops) {
    asio::co_spawn(loop->context, impl_->Sweep(*loop), asio::detached);
    loop->thread = std::thread([&context = loop->context] { context.run(); });
  }
  impl_->started = true;
  return absl::OkStatus();
}

int Server::port() const {
  return impl_->acceptor->local_endpoint().port();
}

std::vector<asio::io_context*> Server::loops() {
  std::vector<asio::io_context*> contexts;
  for (auto& loop : impl_->loops) contexts.push_back(&loop->context);
  return contexts;
}

void Server::Drain(absl::Duration deadline) {
  if (!impl_->started || impl_->drained) return;
  impl_->drained = true;
  impl_->draining = true;
  asio::post(impl_->loops[0]->context, [impl = impl_.get()] {
    boost::system::error_code ignored;
    impl->acceptor->close(ignored);
  });
  for (auto& loop : impl_->loops) {
    asio::post(loop->context, [loop = loop.get()] {
      for (Connection* connection : loop->connections) connection->CloseIfIdle();
    });
  }
  {
    std::unique_lock lock(impl_->mu);
    impl_->closed.wait_for(lock, std::chrono::nanoseconds(absl::ToInt64Nanoseconds(deadline)),
                           [this] { return impl_->open == 0; });
  }
  for (auto& loop : impl_->loops) {
    asio::post(loop->context, [loop = loop.get()] {
      for (Connection* connection : loop->connections) connection->Abort();
    });
  }
}

void Server::Stop() {
  if (!impl_->started || impl_->stopped) return;
  Drain(absl::ZeroDuration());
  impl_->stopped = true;
  for (auto& loop : impl_->loops) {
    asio::post(loop->context, [loop = loop.get()] {
      loop->sweep.cancel();
      loop->guard.reset();
      asio::post(loop->context, [loop] { loop->context.stop(); });
    });
  }
  for (auto& loop : impl_->loops) loop->thread.join();
}

}  // namespace mainstay::http
