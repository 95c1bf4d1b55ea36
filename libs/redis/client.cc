// SPDX-License-Identifier: Apache-2.0
#include "libs/redis/client.h"

#include <hiredis/hiredis.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>

#include "absl/random/random.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/crypto.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::redis {
namespace {

struct Address {
  std::string host, path, user, password;
  int port = 6379, database = 0;
};

absl::StatusOr<Address> ParseUrl(std::string_view url) {
  // Never repeats the URL: it may hold a password.
  const auto bad = [](std::string_view why) {
    return absl::InvalidArgumentError(
        StrCat("the Redis URL ", why, "; expected redis://[:password@]host:port[/db] or unix:///path.sock"));
  };
  Address address;
  if (url.starts_with("unix://")) {
    address.path = url.substr(7);
    if (address.path.empty() || address.path[0] != '/') return bad("names no absolute path");
    return address;
  }
  if (!url.starts_with("redis://")) return bad("does not start with redis:// or unix://");
  url.remove_prefix(8);
  if (const size_t at = url.rfind('@'); at != std::string_view::npos) {
    const std::string_view credentials = url.substr(0, at);
    const size_t colon = credentials.find(':');
    if (colon == std::string_view::npos) return bad("has a user but no password");
    const auto user = PercentDecode(credentials.substr(0, colon), false),
               password = PercentDecode(credentials.substr(colon + 1), false);
    if (!user.has_value() || !password.has_value()) return bad("has a bad percent escape");
    address.user = *user;
    address.password = *password;
    url.remove_prefix(at + 1);
  }
  const auto number = [](std::string_view text, int min, int max, int* out) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
    return error == std::errc() && end == text.data() + text.size() && *out >= min && *out <= max;
  };
  if (const size_t slash = url.find('/'); slash != std::string_view::npos) {
    const std::string_view database = url.substr(slash + 1);
    if (!database.empty() && !number(database, 0, 1'000'000, &address.database))
      return bad("has a database that is no number");
    url = url.substr(0, slash);
  }
  if (const size_t colon = url.rfind(':');
      colon != std::string_view::npos && url.find(']', colon) == std::string_view::npos) {
    if (!number(url.substr(colon + 1), 1, 65535, &address.port))
      return bad("has a port that is not between 1 and 65535");
    url = url.substr(0, colon);
  }
  if (url.starts_with('[') && url.ends_with(']')) url = url.substr(1, url.size() - 2);
  if (url.empty()) return bad("names no host");
  address.host = url;
  return address;
}

timeval SocketTimeout(absl::Duration duration) {
  return absl::ToTimeval(std::max(duration, absl::Milliseconds(1)));
}

Reply Convert(const redisReply* reply) {
  Reply out;
  switch (reply->type) {
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR:
      out.type = reply->type == REDIS_REPLY_STRING   ? Reply::Type::kString
                 : reply->type == REDIS_REPLY_STATUS ? Reply::Type::kStatus
                                                     : Reply::Type::kError;
      out.text.assign(reply->str, static_cast<size_t>(reply->len));
      break;
    case REDIS_REPLY_INTEGER:
      out.type = Reply::Type::kInteger;
      out.integer = reply->integer;
      break;
    case REDIS_REPLY_ARRAY:
      out.type = Reply::Type::kArray;
      out.elements.reserve(reply->elements);
      for (size_t i = 0; i < reply->elements; ++i) out.elements.push_back(Convert(reply->element[i]));
      break;
    default:
      break;
  }
  return out;
}

void AppendLength(std::string& out, char mark, size_t length) {
  char text[24];
  const auto [end, error] = std::to_chars(text, text + sizeof(text), length);
  out += mark;
  out.append(text, end);
  out += "\r\n";
}

// Sent and answered are far apart for large pipelines; this bounds what both sides must buffer.
constexpr size_t kChunk = 500;

}  // namespace

void AppendCommand(std::string& out, std::initializer_list<std::string_view> words) {
  AppendLength(out, '*', words.size());
  for (const std::string_view word : words) {
    AppendLength(out, '$', word.size());
    out += word;
    out += "\r\n";
  }
}

struct Client::Impl {
  explicit Impl(ClientOptions o) : options(std::move(o)), address(ParseUrl(options.url)) {}
  ~Impl() { Drop(); }

  void Drop() {
    if (context != nullptr) redisFree(context);
    context = nullptr;
  }

  void SetHealth(absl::Status status) {
    absl::MutexLock lock(&health_mu);
    health = std::move(status);
  }

  // Any trouble of the connection: it is dropped, since what still arrives on it answers something else.
  absl::Status Fail(std::string_view what, bool sent) {
    const std::string reason = context != nullptr && context->err != 0 ? context->errstr : "connection lost";
    Drop();
    // The first attempt to come back is at once: most failures are an idle connection that was closed.
    absl::Status status =
        absl::UnavailableError(StrCat("Redis: ", what, ": ", reason, sent ? " (outcome unknown)" : ""));
    SetHealth(status);
    return status;
  }

  absl::Status Connect() {
    if (context != nullptr) return absl::OkStatus();
    RETURN_IF_ERROR(address.status());
    const absl::Time now = absl::Now();
    if (now < next_attempt) {
      absl::MutexLock lock(&health_mu);
      return health;
    }
    const timeval timeout = SocketTimeout(options.connect_timeout);
    context = address->path.empty() ? redisConnectWithTimeout(address->host.c_str(), address->port, timeout)
                                    : redisConnectUnixWithTimeout(address->path.c_str(), timeout);
    absl::Status status;
    if (context == nullptr || context->err != 0) {
      status = Fail("connecting", false);
    } else {
      redisSetTimeout(context, SocketTimeout(options.command_timeout));
      if (address->path.empty()) redisEnableKeepAlive(context);
      std::vector<Command> greeting;
      if (!address->password.empty())
        greeting.push_back(address->user.empty() ? Command{"AUTH", address->password}
                                                 : Command{"AUTH", address->user, address->password});
      if (address->database != 0) greeting.push_back({"SELECT", std::to_string(address->database)});
      // Also tells "loading its data set" and "out of clients" apart from being ready.
      greeting.push_back({"PING"});
      std::vector<Reply> replies;
      status = Exchange(greeting, 0, greeting.size(), &replies);
      for (const Reply& reply : replies) {
        if (reply.ok() || !status.ok()) continue;
        status = absl::UnavailableError(StrCat("Redis refuses the connection: ", reply.text));
        SetHealth(status);
        Drop();
      }
    }
    if (!status.ok()) {
      backoff = std::clamp(backoff * 2, options.reconnect_min, options.reconnect_max);
      next_attempt = absl::Now() + backoff * absl::Uniform(random, 0.5, 1.0);
      return status;
    }
    backoff = absl::ZeroDuration();
    ++generation;
    SetHealth(absl::OkStatus());
    return status;
  }

  // Sends commands [from, to) and reads their replies. The context must be there.
  absl::Status Exchange(const std::vector<Command>& commands, size_t from, size_t to, std::vector<Reply>* replies) {
    std::vector<const char*> argv;
    std::vector<size_t> lengths;
    for (size_t i = from; i < to; ++i) {
      argv.clear();
      lengths.clear();
      for (const std::string& word : commands[i]) {
        argv.push_back(word.data());
        lengths.push_back(word.size());
      }
      if (redisAppendCommandArgv(context, static_cast<int>(argv.size()), argv.data(), lengths.data()) != REDIS_OK)
        return Fail("sending", true);
    }
    for (size_t i = from; i < to; ++i) {
      void* raw = nullptr;
      if (redisGetReply(context, &raw) != REDIS_OK || raw == nullptr) return Fail(commands[i][0], true);
      replies->push_back(Convert(static_cast<redisReply*>(raw)));
      freeReplyObject(raw);
    }
    return absl::OkStatus();
  }

  // An idle connection has nothing to say. If it is readable, the server closed it (a restart, `timeout`): better to
  // know before sending.
  void DropIfClosed() {
    if (context == nullptr) return;
    char byte;
    const ssize_t n = recv(context->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0 || n > 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) Drop();
  }

  absl::StatusOr<std::vector<Reply>> Run(const std::vector<Command>& commands) {
    for (const Command& command : commands) {
      if (command.empty()) return absl::InvalidArgumentError("an empty Redis command");
    }
    std::vector<Reply> replies;
    replies.reserve(commands.size());
    DropIfClosed();
    RETURN_IF_ERROR(Connect());
    for (size_t from = 0; from < commands.size(); from += kChunk) {
      RETURN_IF_ERROR(Exchange(commands, from, std::min(from + kChunk, commands.size()), &replies));
    }
    return replies;
  }

  const ClientOptions options;
  const absl::StatusOr<Address> address;
  absl::Mutex mu;  // of the connection: one exchange at a time
  redisContext* context ABSL_GUARDED_BY(mu) = nullptr;
  absl::Time next_attempt ABSL_GUARDED_BY(mu) = absl::InfinitePast();
  absl::Duration backoff ABSL_GUARDED_BY(mu);
  absl::BitGen random ABSL_GUARDED_BY(mu);
  std::atomic<uint64_t> generation{0};
  mutable absl::Mutex health_mu;
  absl::Status health ABSL_GUARDED_BY(health_mu);
};

Client::Client(ClientOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Client::~Client() = default;

absl::StatusOr<Reply> Client::Execute(const Command& command) {
  absl::MutexLock lock(&impl_->mu);
  ASSIGN_OR_RETURN(auto replies, impl_->Run({command}));
  return std::move(replies[0]);
}

absl::StatusOr<std::vector<Reply>> Client::Pipeline(const std::vector<Command>& commands) {
  absl::MutexLock lock(&impl_->mu);
  return impl_->Run(commands);
}

absl::StatusOr<std::string> Client::PipelineEncoded(std::string_view commands, size_t count) {
  absl::MutexLock lock(&impl_->mu);
  impl_->DropIfClosed();
  RETURN_IF_ERROR(impl_->Connect());
  std::string error;
  if (redisAppendFormattedCommand(impl_->context, commands.data(), commands.size()) != REDIS_OK)
    return impl_->Fail("sending", true);
  for (size_t i = 0; i < count; ++i) {
    void* raw = nullptr;
    if (redisGetReply(impl_->context, &raw) != REDIS_OK || raw == nullptr) return impl_->Fail("a pipeline", true);
    const auto* reply = static_cast<redisReply*>(raw);
    if (reply->type == REDIS_REPLY_ERROR && error.empty()) error.assign(reply->str, static_cast<size_t>(reply->len));
    freeReplyObject(raw);
  }
  return error;
}

absl::StatusOr<Reply> Client::Blocking(const Command& command, absl::Duration block) {
  absl::MutexLock lock(&impl_->mu);
  impl_->DropIfClosed();
  RETURN_IF_ERROR(impl_->Connect());
  redisSetTimeout(impl_->context, SocketTimeout(block + impl_->options.command_timeout));
  auto replies = impl_->Run({command});
  if (impl_->context != nullptr) redisSetTimeout(impl_->context, SocketTimeout(impl_->options.command_timeout));
  RETURN_IF_ERROR(replies.status());
  return std::move((*replies)[0]);
}

absl::StatusOr<Reply> Client::Script(std::string_view lua, const std::vector<std::string>& keys,
                                     const std::vector<std::string>& arguments) {
  Command command = {"EVALSHA", HexEncode(Sha1(lua)), std::to_string(keys.size())};
  command.insert(command.end(), keys.begin(), keys.end());
  command.insert(command.end(), arguments.begin(), arguments.end());
  absl::MutexLock lock(&impl_->mu);
  ASSIGN_OR_RETURN(auto replies, impl_->Run({command}));
  if (!replies[0].ok() && replies[0].text.starts_with("NOSCRIPT")) {
    command[0] = "EVAL";
    command[1] = std::string(lua);
    ASSIGN_OR_RETURN(replies, impl_->Run({command}));
  }
  return std::move(replies[0]);
}

absl::Status Client::Health() const {
  absl::MutexLock lock(&impl_->health_mu);
  return impl_->health;
}

uint64_t Client::generation() const {
  return impl_->generation;
}

}  // namespace mainstay::redis
