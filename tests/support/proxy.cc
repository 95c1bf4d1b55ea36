// SPDX-License-Identifier: Apache-2.0
#include "tests/support/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"

namespace mainstay::testing {
namespace {

enum class Line { kOpen, kCut, kHold, kHoldReplies };

struct Connection {
  int client = -1, server = -1;
  std::atomic<bool> abandoned{false}, ended{false};
  std::thread up, down;
};

int Connect(const std::string& target) {
  if (target[0] == '/') {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, target.c_str(), sizeof(address.sun_path) - 1);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) return fd;
    close(fd);
    return -1;
  }
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(target.substr(target.find(':') + 1))));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) return fd;
  close(fd);
  return -1;
}

void Reset(int fd) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close(fd);
}

}  // namespace

struct Proxy::Impl {
  std::string target;
  int listener = -1, port = 0;
  std::atomic<Line> line{Line::kOpen};
  std::atomic<bool> stop{false};
  std::thread acceptor;
  absl::Mutex mu;
  std::vector<std::unique_ptr<Connection>> connections ABSL_GUARDED_BY(mu);

  bool Held(const Connection& c, bool reply) const {
    const Line now = line;
    return c.abandoned || now == Line::kHold || (reply && now == Line::kHoldReplies);
  }

  void Copy(Connection& c, int from, int to, bool reply) {
    char buffer[65536];
    while (!stop && !c.ended) {
      pollfd wait{.fd = from, .events = POLLIN, .revents = 0};
      if (Held(c, reply)) {
        poll(nullptr, 0, 5);
        continue;
      }
      if (poll(&wait, 1, 20) <= 0) continue;
      if (Held(c, reply)) continue;  // meanwhile
      const ssize_t n = recv(from, buffer, sizeof(buffer), 0);
      if (n <= 0) break;
      for (ssize_t at = 0; at < n;) {
        const ssize_t sent = send(to, buffer + at, static_cast<size_t>(n - at), MSG_NOSIGNAL);
        if (sent <= 0) break;
        at += sent;
      }
    }
    c.ended = true;
    shutdown(c.client, SHUT_RDWR);
    shutdown(c.server, SHUT_RDWR);
  }

  void Accept() {
    while (!stop) {
      pollfd wait{.fd = listener, .events = POLLIN, .revents = 0};
      if (poll(&wait, 1, 20) <= 0 || line == Line::kHold) {
        if (line == Line::kHold) poll(nullptr, 0, 5);
        continue;
      }
      const int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      if (client < 0) continue;
      const int server = line == Line::kCut ? -1 : Connect(target);
      if (server < 0) {
        Reset(client);
        continue;
      }
      auto made = std::make_unique<Connection>();
      Connection& c = *made;
      c.client = client;
      c.server = server;
      c.up = std::thread([this, &c] { Copy(c, c.client, c.server, false); });
      c.down = std::thread([this, &c] { Copy(c, c.server, c.client, true); });
      absl::MutexLock lock(&mu);
      connections.push_back(std::move(made));
      std::erase_if(connections, [](std::unique_ptr<Connection>& old) { return old->ended && Gone(*old); });
    }
  }
  // Of an ended one, whose threads are on their way out.
  static bool Gone(Connection& c) {
    c.up.join();
    c.down.join();
    Reset(c.client);
    close(c.server);
    return true;
  }
  void EndAll() {
    absl::MutexLock lock(&mu);
    for (auto& c : connections) {
      c->ended = true;
      Gone(*c);
    }
    connections.clear();
  }
};

Proxy::Proxy(std::string target) : impl_(std::make_shared<Impl>()) {
  impl_->target = std::move(target);
  impl_->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (bind(impl_->listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(impl_->listener, 128) != 0 ||
      getsockname(impl_->listener, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw std::runtime_error("a proxy found no port");
  impl_->port = ntohs(address.sin_port);
  impl_->acceptor = std::thread([impl = impl_.get()] { impl->Accept(); });
}
Proxy::~Proxy() {
  impl_->stop = true;
  impl_->acceptor.join();
  impl_->EndAll();
  close(impl_->listener);
}
int Proxy::port() const {
  return impl_->port;
}
void Proxy::Open() {
  impl_->line = Line::kOpen;
}
void Proxy::Cut() {
  impl_->line = Line::kCut;
  impl_->EndAll();
}
void Proxy::Hold() {
  impl_->line = Line::kHold;
}
void Proxy::HoldReplies() {
  impl_->line = Line::kHoldReplies;
}
void Proxy::Abandon() {
  absl::MutexLock lock(&impl_->mu);
  for (auto& c : impl_->connections) c->abandoned = true;
}

}  // namespace mainstay::testing
