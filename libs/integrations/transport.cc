// SPDX-License-Identifier: Apache-2.0
#include "libs/integrations/transport.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netdb.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "libs/base/strings.h"

namespace mainstay::integrations {
namespace {

// Everything one transfer needs while libcurl works on it. Lives on the transport's thread.
struct Transfer {
  HttpAttempt attempt;
  std::function<void(HttpOutcome)> done;
  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  curl_slist* resolve = nullptr;
  HttpOutcome outcome;
  int64_t header_bytes = 0;
  int header_lines = 0;
  std::string violation;  // of a limit
  std::string url;

  ~Transfer() {
    if (easy != nullptr) curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
    curl_slist_free_all(resolve);
  }
};

size_t OnBody(char* data, size_t, size_t size, void* user) {
  auto& t = *static_cast<Transfer*>(user);
  if (int64_t(t.outcome.body.size() + size) > t.attempt.limits.body_bytes) {
    t.violation = "too_large";
    return 0;
  }
  t.outcome.body.append(data, size);
  if (t.outcome.body.size() > (1 << 20)) {
    curl_off_t wire = 0;
    curl_easy_getinfo(t.easy, CURLINFO_SIZE_DOWNLOAD_T, &wire);
    if (wire > 0 && int64_t(t.outcome.body.size()) / wire > t.attempt.limits.expansion) {
      t.violation = "decompression_bomb";
      return 0;
    }
  }
  return size;
}

size_t OnHeader(char* data, size_t, size_t size, void* user) {
  auto& t = *static_cast<Transfer*>(user);
  t.header_bytes += int64_t(size);
  if (t.header_bytes > t.attempt.limits.header_bytes || ++t.header_lines > t.attempt.limits.header_lines) {
    t.violation = "headers_too_large";
    return 0;
  }
  std::string_view line(data, size);
  while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) line.remove_suffix(1);
  if (line.substr(0, 5) == "HTTP/") {
    t.outcome.headers.clear();  // after a 1xx
    return size;
  }
  size_t colon = line.find(':');
  if (colon == std::string_view::npos) return size;
  std::string name(line.substr(0, colon));
  for (char& c : name)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
  t.outcome.headers.emplace_back(std::move(name), std::string(value));
  return size;
}

// The last gate: the address libcurl is about to dial must be one that was checked for this very attempt.
curl_socket_t OnOpenSocket(void* user, curlsocktype, curl_sockaddr* address) {
  auto& t = *static_cast<Transfer*>(user);
  Address dialled;
  if (address->family == AF_INET) {
    std::memcpy(dialled.bytes.data(), &reinterpret_cast<const sockaddr_in*>(&address->addr)->sin_addr, 4);
  } else if (address->family == AF_INET6) {
    dialled.v6 = true;
    std::memcpy(dialled.bytes.data(), &reinterpret_cast<const sockaddr_in6*>(&address->addr)->sin6_addr, 16);
  } else {
    return CURL_SOCKET_BAD;
  }
  if (std::find(t.attempt.addresses.begin(), t.attempt.addresses.end(), dialled) == t.attempt.addresses.end()) {
    t.violation = "address_not_allowed";
    return CURL_SOCKET_BAD;
  }
  return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

absl::Duration Micros(CURL* easy, CURLINFO info) {
  curl_off_t value = 0;
  curl_easy_getinfo(easy, info, &value);
  return absl::Microseconds(value);
}

class CurlTransport : public Transport {
 public:
  explicit CurlTransport(CurlTransportOptions options) : options_(std::move(options)) {
    static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
    (void)initialised;
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = wake_;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
    multi_ = curl_multi_init();
    curl_multi_setopt(multi_, CURLMOPT_SOCKETFUNCTION, &CurlTransport::OnSocket);
    curl_multi_setopt(multi_, CURLMOPT_SOCKETDATA, this);
    curl_multi_setopt(multi_, CURLMOPT_TIMERFUNCTION, &CurlTransport::OnTimer);
    curl_multi_setopt(multi_, CURLMOPT_TIMERDATA, this);
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, long(options_.max_connections));
    thread_ = std::thread([this] { Run(); });
  }

  ~CurlTransport() override {
    {
      absl::MutexLock lock(&mu_);
      stopping_ = true;
    }
    Wake();
    thread_.join();
    curl_multi_cleanup(multi_);
    close(wake_);
    close(epoll_);
  }

  void Send(HttpAttempt attempt, std::function<void(HttpOutcome)> done) override {
    auto transfer = std::make_unique<Transfer>();
    transfer->attempt = std::move(attempt);
    transfer->done = std::move(done);
    {
      absl::ReleasableMutexLock lock(&mu_);
      if (stopping_ || in_flight_ >= options_.max_in_flight) {
        lock.Release();
        HttpOutcome outcome;
        outcome.error = "queue_refused";
        transfer->done(std::move(outcome));
        return;
      }
      ++in_flight_;
      incoming_.push_back(std::move(transfer));
    }
    Wake();
  }

 private:
  void Wake() {
    uint64_t one = 1;
    [[maybe_unused]] ssize_t written = write(wake_, &one, sizeof one);
  }

  static int OnSocket(CURL*, curl_socket_t socket, int what, void* user, void* known) {
    auto& self = *static_cast<CurlTransport*>(user);
    if (what == CURL_POLL_REMOVE) {
      epoll_ctl(self.epoll_, EPOLL_CTL_DEL, socket, nullptr);
      return 0;
    }
    epoll_event event{};
    event.events =
        ((what & CURL_POLL_IN) ? uint32_t(EPOLLIN) : 0u) | ((what & CURL_POLL_OUT) ? uint32_t(EPOLLOUT) : 0u);
    event.data.fd = socket;
    if (known == nullptr) {
      // The number may be known to epoll still when libcurl closed and reopened it.
      if (epoll_ctl(self.epoll_, EPOLL_CTL_ADD, socket, &event) != 0)
        epoll_ctl(self.epoll_, EPOLL_CTL_MOD, socket, &event);
      curl_multi_assign(self.multi_, socket, user);
    } else {
      epoll_ctl(self.epoll_, EPOLL_CTL_MOD, socket, &event);
    }
    return 0;
  }

  static int OnTimer(CURLM*, long timeout_ms, void* user) {
    auto& self = *static_cast<CurlTransport*>(user);
    self.timer_ = timeout_ms < 0 ? absl::InfiniteFuture() : absl::Now() + absl::Milliseconds(timeout_ms);
    return 0;
  }

  void Begin(std::unique_ptr<Transfer> owned) {
    Transfer* t = owned.get();
    t->easy = curl_easy_init();
    CURL* e = t->easy;
    const HttpAttempt& a = t->attempt;
    t->url = a.target.Url();
    curl_easy_setopt(e, CURLOPT_PRIVATE, t);
    curl_easy_setopt(e, CURLOPT_URL, t->url.c_str());
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_PROXY, "");
    curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, a.target.scheme.c_str());
    curl_easy_setopt(e, CURLOPT_REDIR_PROTOCOLS_STR, a.target.scheme.c_str());
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(e, CURLOPT_NETRC, long(CURL_NETRC_IGNORED));
    curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, long(CURL_HTTP_VERSION_2TLS));
    curl_easy_setopt(e, CURLOPT_ACCEPT_ENCODING, "gzip");
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, long(std::max<int64_t>(1, absl::ToInt64Milliseconds(a.timeout))));
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS,
                     long(std::max<int64_t>(1, absl::ToInt64Milliseconds(std::min(a.connect_timeout, a.timeout)))));
    curl_easy_setopt(e, CURLOPT_MAXFILESIZE_LARGE, curl_off_t(a.limits.body_bytes));
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, &OnBody);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, &OnHeader);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, &OnOpenSocket);
    curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, t);
    if (!options_.ca_file.empty()) curl_easy_setopt(e, CURLOPT_CAINFO, options_.ca_file.c_str());
    if (!a.target.literal) {
      std::string pin = StrCat(a.target.host, ":", a.target.port, ":");
      for (size_t i = 0; i < a.addresses.size(); ++i) {
        bool v6 = a.addresses[i].v6;
        StrAppend(&pin, i ? "," : "", v6 ? "[" : "", a.addresses[i].ToString(), v6 ? "]" : "");
      }
      t->resolve = curl_slist_append(nullptr, pin.c_str());
      curl_easy_setopt(e, CURLOPT_RESOLVE, t->resolve);
    }
    if (a.method == "GET") {
      curl_easy_setopt(e, CURLOPT_HTTPGET, 1L);
    } else if (a.method == "HEAD") {
      curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
    } else {
      curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(a.body.size()));
      curl_easy_setopt(e, CURLOPT_POSTFIELDS, a.body.data());
      curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, a.method.c_str());
    }
    bool typed = false;
    for (const auto& [name, value] : a.headers) {
      typed |= name.size() == 12 && strncasecmp(name.c_str(), "content-type", 12) == 0;
      t->headers = curl_slist_append(t->headers, StrCat(name, ": ", value).c_str());
    }
    if (!typed) t->headers = curl_slist_append(t->headers, "Content-Type:");
    t->headers = curl_slist_append(t->headers, "Expect:");
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, t->headers);
    active_.emplace(t, std::move(owned));
    if (curl_multi_add_handle(multi_, e) != CURLM_OK) Finish(t, CURLE_FAILED_INIT);
  }

  void Finish(Transfer* t, CURLcode code) {
    HttpOutcome& o = t->outcome;
    long status = 0, request_size = 0, connects = 0, version = 0;
    curl_off_t wire = 0;
    char* peer = nullptr;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &request_size);
    curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &connects);
    curl_easy_getinfo(t->easy, CURLINFO_HTTP_VERSION, &version);
    curl_easy_getinfo(t->easy, CURLINFO_SIZE_DOWNLOAD_T, &wire);
    curl_easy_getinfo(t->easy, CURLINFO_PRIMARY_IP, &peer);
    o.status = int(status);
    o.connect = Micros(t->easy, CURLINFO_CONNECT_TIME_T);
    o.tls = Micros(t->easy, CURLINFO_APPCONNECT_TIME_T);
    o.first_byte = Micros(t->easy, CURLINFO_STARTTRANSFER_TIME_T);
    o.total = Micros(t->easy, CURLINFO_TOTAL_TIME_T);
    o.reused = connects == 0;
    o.wire_bytes = wire;
    if (peer != nullptr) o.peer = peer;
    o.http_version = version == CURL_HTTP_VERSION_2_0 ? "2" : version == CURL_HTTP_VERSION_1_0 ? "1.0" : "1.1";
    if (code == CURLE_OK) {
      o.sent = Sent::kComplete;
    } else {
      o.sent = request_size > 0 ? Sent::kPartly : Sent::kNotSent;
      switch (code) {
        case CURLE_OPERATION_TIMEDOUT:
          o.error = "timeout";
          break;
        case CURLE_COULDNT_RESOLVE_HOST:
          o.error = "dns";
          break;
        case CURLE_COULDNT_CONNECT:
          o.error = "connect";
          break;
        case CURLE_SSL_CONNECT_ERROR:
          o.error = "tls";
          break;
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CACERT_BADFILE:
          o.error = "tls_verification";
          o.definite = true;
          break;
        case CURLE_FILESIZE_EXCEEDED:
          o.error = "too_large";
          o.definite = true;
          break;
        case CURLE_BAD_CONTENT_ENCODING:
          o.error = "bad_encoding";
          o.definite = true;
          break;
        default:
          o.error = "reset";
      }
      if (!t->violation.empty()) {
        o.error = t->violation;
        o.definite = true;
      }
      o.body.clear();
    }
    curl_multi_remove_handle(multi_, t->easy);
    auto at = active_.find(t);
    std::unique_ptr<Transfer> owned = std::move(at->second);
    active_.erase(at);
    {
      absl::MutexLock lock(&mu_);
      --in_flight_;
    }
    owned->done(std::move(owned->outcome));
  }

  void Collect() {
    int left = 0;
    while (CURLMsg* message = curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      CURLcode code = message->data.result;
      Transfer* transfer = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
      Finish(transfer, code);
    }
  }

  void Run() {
    epoll_event events[256];
    while (true) {
      std::deque<std::unique_ptr<Transfer>> fresh;
      bool stop = false;
      {
        absl::MutexLock lock(&mu_);
        fresh.swap(incoming_);
        stop = stopping_;
      }
      for (auto& transfer : fresh) Begin(std::move(transfer));
      if (stop) {
        while (!active_.empty()) Finish(active_.begin()->first, CURLE_ABORTED_BY_CALLBACK);
        return;
      }
      int running = 0;
      absl::Duration wait = std::clamp(timer_ - absl::Now(), absl::ZeroDuration(), absl::Seconds(1));
      // Rounded up: a shorter wait would spin until the timer is due.
      int count = epoll_wait(epoll_, events, 256, int(absl::ToInt64Milliseconds(wait + absl::Microseconds(999))));
      for (int i = 0; i < count; ++i) {
        if (events[i].data.fd == wake_) {
          uint64_t drained;
          [[maybe_unused]] ssize_t size = read(wake_, &drained, sizeof drained);
          continue;
        }
        int mask = ((events[i].events & EPOLLIN) ? CURL_CSELECT_IN : 0) |
                   ((events[i].events & EPOLLOUT) ? CURL_CSELECT_OUT : 0) |
                   ((events[i].events & (EPOLLERR | EPOLLHUP)) ? CURL_CSELECT_ERR : 0);
        curl_multi_socket_action(multi_, events[i].data.fd, mask, &running);
      }
      if (absl::Now() >= timer_) {
        timer_ = absl::InfiniteFuture();
        curl_multi_socket_action(multi_, CURL_SOCKET_TIMEOUT, 0, &running);
      }
      Collect();
    }
  }

  const CurlTransportOptions options_;
  CURLM* multi_ = nullptr;
  int epoll_ = -1, wake_ = -1;
  // Of the thread alone.
  absl::Time timer_ = absl::InfiniteFuture();
  absl::flat_hash_map<Transfer*, std::unique_ptr<Transfer>> active_;

  absl::Mutex mu_;
  std::deque<std::unique_ptr<Transfer>> incoming_ ABSL_GUARDED_BY(mu_);
  int in_flight_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

class SystemResolver : public Resolver {
 public:
  explicit SystemResolver(int threads) : state_(std::make_shared<State>()) {
    // Detached: getaddrinfo cannot be interrupted, and the process does not wait for it. They hold the state alive.
    for (int i = 0; i < threads; ++i) std::thread([state = state_] { Work(*state); }).detach();
  }
  ~SystemResolver() override {
    absl::MutexLock lock(&state_->mu);
    state_->stopping = true;
  }

  absl::StatusOr<std::vector<Address>> Resolve(const std::string& host, absl::Duration timeout) override {
    auto query = std::make_shared<Query>();
    query->host = host;
    {
      absl::MutexLock lock(&state_->mu);
      if (state_->queue.size() >= kMaxQueue) return absl::UnavailableError("the resolver is overloaded");
      state_->queue.push_back(query);
    }
    if (!query->ready.WaitForNotificationWithTimeout(timeout))
      return absl::DeadlineExceededError("the name was not resolved in time");
    return query->answer;
  }

 private:
  static constexpr size_t kMaxQueue = 256;
  struct Query {
    std::string host;
    absl::StatusOr<std::vector<Address>> answer = absl::UnavailableError("not resolved");
    absl::Notification ready;
  };
  struct State {
    absl::Mutex mu;
    std::deque<std::shared_ptr<Query>> queue ABSL_GUARDED_BY(mu);
    bool stopping ABSL_GUARDED_BY(mu) = false;
  };

  static void Work(State& state) {
    while (true) {
      std::shared_ptr<Query> query;
      {
        absl::MutexLock lock(&state.mu);
        auto something = [&state]()
                             ABSL_SHARED_LOCKS_REQUIRED(state.mu) { return state.stopping || !state.queue.empty(); };
        state.mu.Await(absl::Condition(&something));
        if (state.stopping) return;
        query = std::move(state.queue.front());
        state.queue.pop_front();
      }
      addrinfo hints{};
      hints.ai_socktype = SOCK_STREAM;
      addrinfo* list = nullptr;
      int error = getaddrinfo(query->host.c_str(), nullptr, &hints, &list);
      if (error == EAI_NONAME || error == EAI_NODATA) {
        query->answer = std::vector<Address>();
      } else if (error != 0) {
        query->answer = absl::UnavailableError(StrCat("resolving failed: ", gai_strerror(error)));
      } else {
        std::vector<Address> found;
        for (addrinfo* entry = list; entry != nullptr && found.size() < 32; entry = entry->ai_next) {
          Address address;
          if (entry->ai_family == AF_INET) {
            std::memcpy(address.bytes.data(), &reinterpret_cast<sockaddr_in*>(entry->ai_addr)->sin_addr, 4);
          } else if (entry->ai_family == AF_INET6) {
            address.v6 = true;
            std::memcpy(address.bytes.data(), &reinterpret_cast<sockaddr_in6*>(entry->ai_addr)->sin6_addr, 16);
          } else {
            continue;
          }
          if (std::find(found.begin(), found.end(), address) == found.end()) found.push_back(address);
        }
        query->answer = std::move(found);
      }
      if (list != nullptr) freeaddrinfo(list);
      query->ready.Notify();
    }
  }

  std::shared_ptr<State> state_;
};

}  // namespace

std::vector<std::string> HttpOutcome::Header(std::string_view lower_name) const {
  std::vector<std::string> values;
  for (const auto& [name, value] : headers)
    if (name == lower_name) values.push_back(value);
  return values;
}

HttpOutcome Transport::SendAndWait(HttpAttempt attempt) {
  struct Shared {
    absl::Notification ready;
    HttpOutcome outcome;
  };
  auto shared = std::make_shared<Shared>();
  Send(std::move(attempt), [shared](HttpOutcome outcome) {
    shared->outcome = std::move(outcome);
    shared->ready.Notify();
  });
  shared->ready.WaitForNotification();
  return std::move(shared->outcome);
}

std::unique_ptr<Transport> MakeCurlTransport(CurlTransportOptions options) {
  return std::make_unique<CurlTransport>(std::move(options));
}
std::unique_ptr<Resolver> MakeSystemResolver(int threads) {
  return std::make_unique<SystemResolver>(threads);
}

}  // namespace mainstay::integrations
