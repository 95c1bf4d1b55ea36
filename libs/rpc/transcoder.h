// SPDX-License-Identifier: Apache-2.0
// HTTP/JSON for every RPC that has a google.api.http annotation, from the descriptors alone: a new RPC needs no code.
//
// Immutable after construction, thread-safe. Knows paths, parameters and bodies; sends nothing. A list RPC's ListQuery is filled by the one parser of
// libs/http/list_query.h; other parameters bind to the request's fields by name. Methods marked internal have no route.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace google::protobuf {
class Descriptor;
class Message;
class MethodDescriptor;
}  // namespace google::protobuf

namespace mainstay::rpc {

struct Route {
  std::string http_method;            // "POST"
  std::string path;                   // "/mainstay/v1/jobs/{id}:cancel"
  const google::protobuf::MethodDescriptor* method = nullptr;
  std::string domain;                 // "jobs": of the package mainstay.jobs.v1
  std::string rpc;                    // "/mainstay.jobs.v1.JobsService/CancelJob"
  std::string body;                   // "", "*" or a field
  std::string scope;
  int64_t body_limit = 1 << 20;
  bool upload = false, download = false, server_stream = false;
  int success_status = 200;

  struct Part {
    std::string text;   // literal, or the field of a variable
    bool variable = false;
  };
  std::vector<Part> parts;
  std::string verb;     // after the colon of the last segment
};

using PathValues = std::vector<std::pair<std::string, std::string>>;  // field → text

struct Match {
  const Route* route = nullptr;
  PathValues values;
};

class Transcoder {
 public:
  // All services linked into this process. Fails when two routes are the same or an annotation names a field that does not exist.
  static absl::StatusOr<Transcoder> Create();

  const std::vector<Route>& routes() const { return *routes_; }
  // not-found, or method-not-allowed with the member `allow`.
  absl::StatusOr<Match> Find(std::string_view http_method, const std::vector<std::string>& segments) const;

  // The request from path, query (undecoded) and body. `body` is the raw text of the HTTP body; "" with `has_body` false when the client sent none. Every violation at once: invalid-parameter
  // for path and query, validation-failed for the body.
  static absl::StatusOr<std::unique_ptr<google::protobuf::Message>> Bind(const Match& match, std::string_view query,
                                                                         bool has_body, std::string body);
  // Of an upload: the first message of the client's stream, with its options from the query.
  static absl::StatusOr<std::unique_ptr<google::protobuf::Message>> BindUpload(const Match& match, std::string_view query);

  static std::unique_ptr<google::protobuf::Message> New(const google::protobuf::Descriptor& type);

 private:
  explicit Transcoder(std::shared_ptr<const std::vector<Route>> routes) : routes_(std::move(routes)) {}
  std::shared_ptr<const std::vector<Route>> routes_;
};

}  // namespace mainstay::rpc
