// SPDX-License-Identifier: Apache-2.0
// The line between a program under test and its server, to be broken as networks break it.
//
// Listens on a port of 127.0.0.1 and passes bytes on to a server's port or Unix socket. One thread per direction of a
// connection; they end with the connection or with this.
#pragma once

#include <memory>
#include <string>

namespace mainstay::testing {

class Proxy {
 public:
  // `target`: "127.0.0.1:6379" or "/path/of/a/socket".
  explicit Proxy(std::string target);
  ~Proxy();
  Proxy(const Proxy&) = delete;
  int port() const;

  // Everything passes, also what was held.
  void Open();
  // Connections are reset, new ones at once.
  void Cut();
  // Packets vanish both ways and nothing is closed: what is sent waits in the kernel, as a resend would.
  void Hold();
  // The server hears and its answers are held.
  void HoldReplies();
  // Those that exist now stay silent for ever (a half-open connection); new ones pass.
  void Abandon();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace mainstay::testing
