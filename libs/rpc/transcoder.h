// SPDX-License-Identifier: Apache-2.0
// From an HTTP request to an RPC and back, for every method with a google.api.http annotation: a new RPC needs no code
// at the edge.
//
// Path templates have literals, {field} (one segment) and a :verb at the end. What neither path nor body binds comes
// from the query: a field of type common.v1.ListQuery takes the list parameters through the one parser of
// libs/http/list_query.h, any other parameter sets the field of its name. Constant after construction; thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/base/json.h"

namespace google::protobuf {
class Message;
class MethodDescriptor;
}  // namespace google::protobuf

namespace mainstay::rpc {

struct Route {
  const google::protobuf::MethodDescriptor* method = nullptr;
  std::string service;                // the process that serves it: "worker"
  std::string rpc_path;               // "/mainstay.jobs.v1.JobsService/GetJob"
  std::string http_method;            // "GET"
  std::vector<std::string> segments;  // literals; "{id}" for a variable
  std::string verb;                   // after the colon of the last segment
  std::string body;                   // "", "*", or the field that the body fills
  std::string scope;
  int64_t body_limit = 0;  // 0: the server's default
  int success_status = 200;
  enum class Transfer { kJson, kUpload, kDownload } transfer = Transfer::kJson;
  bool server_streaming = false;
};

// The type and id of a message of a stream as a server-sent event, from its string fields of these names.
struct StreamNote {
  std::string event, event_id;
};

class Transcoder {
 public:
  // All annotated methods of these files: {"mainstay/jobs/v1/jobs.proto", "worker"}. Dies on an annotation it does not
  // understand: a mistake in a proto.
  explicit Transcoder(const std::vector<std::pair<std::string, std::string>>& files);

  struct Match {
    const Route* route = nullptr;
    std::vector<std::pair<std::string, std::string>> variables;  // field → value
  };
  // not-found; or method-not-allowed, whose Allow is in *allow.
  absl::StatusOr<Match> Find(std::string_view http_method, const std::vector<std::string>& segments,
                             std::string* allow) const;

  // The request message. `body`: null when none was sent. Mistakes are problems: invalid-parameter for the query,
  // validation-failed for the body, all at once.
  absl::StatusOr<std::unique_ptr<google::protobuf::Message>> Request(const Match& match, std::string_view query,
                                                                     const JsonValue* body) const;
  // The first message of an upload: the query's parameters in its `options`.
  absl::StatusOr<std::unique_ptr<google::protobuf::Message>> UploadRequest(const Match& match,
                                                                           std::string_view query) const;
  // The JSON of a serialized response. `note`, if given, gets what its fields `event` and `event_id` hold.
  absl::StatusOr<std::string> Response(const Route& route, std::string_view bytes, StreamNote* note = nullptr) const;

  const std::vector<Route>& routes() const { return routes_; }

 private:
  std::vector<Route> routes_;
};

}  // namespace mainstay::rpc
