// SPDX-License-Identifier: Apache-2.0
// A provider for tests: a real HTTP/1.1 server on a free port of 127.0.0.1, a thread per connection, whose every answer
// the test decides. Closes after each answer.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace mainstay::integrations {

class HttpStub {
 public:
  struct Request {
    std::string method, target, body;
    std::map<std::string, std::string> headers;  // names lower-case
  };
  struct Response {
    int status = 200;
    std::vector<std::pair<std::string, std::string>> headers;
    std::string body = "{}";
    absl::Duration delay;  // before the answer
    bool hang_up = false;  // reads the request, answers nothing
  };
  // Called for each request with its number, from 0.
  explicit HttpStub(std::function<Response(const Request&, int)> answer);
  ~HttpStub();
  std::string url() const;  // "http://127.0.0.1:4711"
  std::vector<Request> requests();

 private:
  void Serve(int socket);
  const std::function<Response(const Request&, int)> answer_;
  int listener_ = -1, port_ = 0;
  std::thread acceptor_;
  absl::Mutex mu_;
  std::vector<Request> requests_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> connections_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mainstay::integrations
