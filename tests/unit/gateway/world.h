// SPDX-License-Identifier: Apache-2.0
// A small suite for tests of the edge: a real HTTP server in front, real gRPC services behind, one principal.
#pragma once

#include <curl/curl.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "libs/base/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/strings.h"
#include "libs/rpc/call.h"
#include "libs/rpc/principal_token.h"

namespace mainstay::gateway {

struct HttpAnswer {
  long status = 0;
  std::string body, headers;  // header names as sent
};

inline size_t AppendTo(char* data, size_t size, size_t n, void* out) {
  static_cast<std::string*>(out)->append(data, size * n);
  return size * n;
}

inline HttpAnswer Http(int port, const std::string& method, const std::string& target,
                       const std::string* body = nullptr, const std::vector<std::string>& headers = {}) {
  HttpAnswer answer;
  CURL* curl = curl_easy_init();
  curl_slist* list = curl_slist_append(nullptr, "Expect:");
  for (const std::string& header : headers) list = curl_slist_append(list, header.c_str());
  curl_easy_setopt(curl, CURLOPT_URL, StrCat("http://127.0.0.1:", port, target).c_str());
  curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT, 30L);
  if (body != nullptr) {
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body->size()));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body->data());
  }
  curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method.c_str());
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, AppendTo);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer.body);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, AppendTo);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &answer.headers);
  if (curl_easy_perform(curl) == CURLE_OK) curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
  curl_slist_free_all(list);
  curl_easy_cleanup(curl);
  return answer;
}

// The gateway's keys, and what a service behind it uses to check them.
struct Keys {
  Ed25519KeyPair pair = NewEd25519KeyPair();
  rpc::Signer signer{"gateway", pair.private_key, Clock::Real()};
  std::unique_ptr<rpc::Guard> Guard(const std::string& service) {
    return std::make_unique<rpc::Guard>(service, rpc::Verifier(service, {{"gateway", pair.public_key}}, Clock::Real()),
                                        [](const std::vector<std::string>& roles, std::string_view) {
                                          return std::find(roles.begin(), roles.end(), "admin") != roles.end();
                                        });
  }
};

}  // namespace mainstay::gateway
