// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/integrations/http_stub.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <stdexcept>

#include "absl/time/clock.h"
#include "libs/base/strings.h"

namespace mainstay::integrations {

HttpStub::HttpStub(std::function<Response(const Request&, int)> answer) : answer_(std::move(answer)) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(listener_, 64) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw std::runtime_error("the stub cannot listen");
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] {
    while (true) {
      int accepted = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (accepted < 0) return;
      absl::MutexLock lock(&mu_);
      if (stopping_) {
        close(accepted);
        return;
      }
      connections_.emplace_back([this, accepted] { Serve(accepted); });
    }
  });
}

HttpStub::~HttpStub() {
  std::vector<std::thread> connections;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  close(listener_);
  {
    absl::MutexLock lock(&mu_);
    connections.swap(connections_);
  }
  for (std::thread& connection : connections) connection.join();
}

std::string HttpStub::url() const {
  return StrCat("http://127.0.0.1:", port_);
}

std::vector<HttpStub::Request> HttpStub::requests() {
  absl::MutexLock lock(&mu_);
  return requests_;
}

void HttpStub::Serve(int socket) {
  std::string input;
  char buffer[8192];
  size_t head_end = std::string::npos, length = 0;
  Request request;
  while (head_end == std::string::npos || input.size() < head_end + 4 + length) {
    ssize_t got = read(socket, buffer, sizeof buffer);
    if (got <= 0) {
      close(socket);
      return;
    }
    input.append(buffer, size_t(got));
    if (head_end != std::string::npos) continue;
    head_end = input.find("\r\n\r\n");
    if (head_end == std::string::npos) continue;
    std::string head = input.substr(0, head_end);
    size_t line = head.find("\r\n");
    std::string first = head.substr(0, line);
    size_t space = first.find(' ');
    request.method = first.substr(0, space);
    request.target = first.substr(space + 1, first.rfind(' ') - space - 1);
    while (line != std::string::npos) {
      size_t start = line + 2, end = head.find("\r\n", start);
      std::string field = head.substr(start, end == std::string::npos ? end : end - start);
      size_t colon = field.find(':');
      std::string name = field.substr(0, colon);
      for (char& c : name)
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
      if (colon != std::string::npos) request.headers[name] = field.substr(field.find_first_not_of(' ', colon + 1));
      line = end;
    }
    if (request.headers.count("content-length") != 0) length = std::stoul(request.headers["content-length"]);
  }
  request.body = input.substr(head_end + 4);
  int number = 0;
  {
    absl::MutexLock lock(&mu_);
    number = int(requests_.size());
    requests_.push_back(request);
  }
  Response response = answer_(request, number);
  absl::SleepFor(response.delay);
  if (!response.hang_up) {
    std::string out = StrCat("HTTP/1.1 ", response.status, " X\r\nContent-Length: ", response.body.size(),
                             "\r\nConnection: close\r\n");
    for (const auto& [name, value] : response.headers) StrAppend(&out, name, ": ", value, "\r\n");
    StrAppend(&out, "\r\n", response.body);
    for (size_t sent = 0; sent < out.size();) {
      ssize_t wrote = send(socket, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
      if (wrote <= 0) break;
      sent += size_t(wrote);
    }
  }
  shutdown(socket, SHUT_RDWR);
  close(socket);
}

}  // namespace mainstay::integrations
