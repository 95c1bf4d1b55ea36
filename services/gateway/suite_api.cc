// SPDX-License-Identifier: Apache-2.0
#include "services/gateway/suite_api.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "mainstay/common/v1/common.pb.h"

namespace mainstay::gateway {
namespace {

namespace asio = boost::asio;
using google::protobuf::Message;

constexpr size_t kChunk = 64 << 10;
constexpr int64_t kMaxUpload = int64_t(1) << 30;
// How long a file may be on its way; the request's own limit is for requests that are answered at once.
constexpr absl::Duration kTransferTime = absl::Hours(1);

// "application/json; charset=utf-8" → "application/json".
std::string MediaType(const std::string* header) {
  if (header == nullptr) return "";
  std::string type = header->substr(0, header->find(';'));
  absl::StripAsciiWhitespace(&type);
  absl::AsciiStrToLower(&type);
  return type;
}

// Whether Accept, if sent, takes JSON.
bool AcceptsJson(const http::Request& request) {
  const std::string* header = request.Header("accept");
  if (header == nullptr || header->empty()) return true;
  std::string_view rest = *header;
  while (!rest.empty()) {
    const size_t comma = std::min(rest.find(','), rest.size());
    const std::string entry(rest.substr(0, comma));
    const std::string type = MediaType(&entry);
    const size_t q = entry.find("q=0");
    const bool refused = q != std::string::npos && entry.find_first_of("123456789", q + 2) == std::string::npos;
    if (!refused && (type == "*/*" || type == "application/*" || type == "application/json")) return true;
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return false;
}

// A change of an object may also say that it is a merge patch (RFC 7396).
absl::Status CheckJsonType(const http::Request& request) {
  if (const std::string* coding = request.Header("content-encoding");
      coding != nullptr && !absl::EqualsIgnoreCase(*coding, "identity")) {
    return MakeProblem(Problem{.type = "unsupported-media-type",
                               .detail = "send the body without a content coding",
                               .members = {{"accept-encoding", "\"identity\""}}});
  }
  const std::string* header = request.Header("content-type");
  const std::string type = MediaType(header);
  if (type != "application/json" && !(request.method == "PATCH" && type == "application/merge-patch+json"))
    return MakeProblem(Problem{.type = "unsupported-media-type",
                               .detail = "send application/json",
                               .members = {{"accept", "\"application/json\""}}});
  const size_t charset = header->find("charset=");
  if (charset != std::string::npos) {
    std::string value = header->substr(charset + 8);
    value.erase(std::remove(value.begin(), value.end(), '"'), value.end());
    if (!absl::EqualsIgnoreCase(value, "utf-8")) return MakeProblem("unsupported-media-type", "JSON is sent in UTF-8");
  }
  return absl::OkStatus();
}

// A file name as it may stand in Content-Disposition and in our rows: no path, no control characters, at most 200
// bytes.
std::string SafeFileName(std::string_view name) {
  if (const size_t slash = name.find_last_of("/\\"); slash != std::string_view::npos) name.remove_prefix(slash + 1);
  std::string out;
  for (char c : name) {
    if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f && c != '"') out += c;
  }
  return IsValidUtf8(out) ? std::string(TruncateUtf8(out, 200)) : "";
}

// attachment; filename="report.csv", with the RFC 6266 form beside it for names beyond ASCII.
std::string Disposition(std::string_view name) {
  const std::string safe = SafeFileName(name);
  const bool ascii = std::all_of(safe.begin(), safe.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  std::string out = "attachment";
  if (ascii && !safe.empty()) StrAppend(&out, "; filename=\"", safe, "\"");
  if (!ascii) StrAppend(&out, "; filename*=UTF-8''", PercentEncode(safe));
  return out;
}

void SetMessage(Message& message, const char* field, const Message& value) {
  message.GetReflection()->MutableMessage(&message, message.GetDescriptor()->FindFieldByName(field))->CopyFrom(value);
}

http::Response Answer(const http::Request& request, const rpc::Route& route, std::string json) {
  http::Response response;
  response.status = route.success_status;
  response.headers.emplace_back("cache-control", "private, no-cache");
  if (route.success_status == 204) return response;
  if (route.success_status == 201) {
    // What was created stands under its id.
    const auto created = JsonDocument::Parse(json);
    const JsonValue* id = created.ok() ? created->root().Find("id") : nullptr;
    if (id != nullptr && id->is_string())
      response.headers.emplace_back("location", StrCat(request.path, "/", id->text()));
  }
  response.headers.emplace_back("content-type", "application/json");
  response.body = std::move(json);
  return response;
}

// The chunks of a download as the response's body. The first was read already, for the headers.
class ChunkSource : public http::BodySource {
 public:
  ChunkSource(std::unique_ptr<UpstreamReader> reader, std::string first)
      : reader_(std::move(reader)), first_(std::move(first)) {}
  void Cancel() override { reader_->Cancel(); }
  asio::awaitable<absl::StatusOr<std::string>> Next() override {
    if (!first_.empty()) co_return std::exchange(first_, "");
    while (true) {
      absl::StatusOr<std::optional<std::string>> bytes = co_await reader_->Next();
      if (!bytes.ok()) co_return bytes.status();
      if (!bytes->has_value()) co_return std::string();
      common::v1::FileChunk chunk;
      if (!chunk.ParseFromString(**bytes)) co_return absl::InternalError("a chunk cannot be read");
      if (!chunk.data().empty()) co_return std::move(*chunk.mutable_data());
    }
  }

 private:
  const std::unique_ptr<UpstreamReader> reader_;
  std::string first_;
};

// The messages of a server stream as JSON Lines or server-sent events. After the first byte the status is sent: an
// error becomes the last event.
class EventSource : public http::BodySource {
 public:
  EventSource(std::unique_ptr<UpstreamReader> reader, const rpc::Transcoder& transcoder, const rpc::Route& route,
              bool sse, std::string request_id, std::string path)
      : reader_(std::move(reader)),
        transcoder_(transcoder),
        route_(route),
        sse_(sse),
        request_id_(std::move(request_id)),
        path_(std::move(path)) {}
  void Cancel() override { reader_->Cancel(); }
  asio::awaitable<absl::StatusOr<std::string>> Next() override {
    if (ended_) co_return std::string();
    absl::StatusOr<std::optional<std::string>> bytes = co_await reader_->Next();
    if (bytes.ok() && !bytes->has_value()) co_return std::string();
    rpc::StreamNote note;
    absl::StatusOr<std::string> json = bytes.ok() ? transcoder_.Response(route_, **bytes, &note) : bytes.status();
    if (json.ok()) co_return sse_ ? Event(note, *json) : *json + "\n";
    ended_ = true;
    const std::string problem = ProblemJson(ProblemFromStatus(json.status()), path_, request_id_);
    co_return sse_ ? StrCat("event: problem\ndata: ", problem, "\n\n") : problem + "\n";
  }

 private:
  // A heartbeat is a comment: it keeps the connection alive and wakes nobody.
  static std::string Event(const rpc::StreamNote& note, const std::string& json) {
    if (note.event == "heartbeat") return ": heartbeat\n\n";
    std::string out;
    if (!note.event.empty()) StrAppend(&out, "event: ", note.event, "\n");
    if (!note.event_id.empty()) StrAppend(&out, "id: ", note.event_id, "\n");
    StrAppend(&out, "data: ", json, "\n\n");
    return out;
  }

  const std::unique_ptr<UpstreamReader> reader_;
  const rpc::Transcoder& transcoder_;
  const rpc::Route& route_;
  const bool sse_;
  const std::string request_id_, path_;
  bool ended_ = false;
};

}  // namespace

SuiteApi::SuiteApi(std::map<std::string, Upstream*> upstreams)
    : transcoder_({{"mainstay/jobs/v1/flows.proto", "worker"},
                   {"mainstay/jobs/v1/jobs.proto", "worker"},
                   {"mainstay/jobs/v1/kinds.proto", "worker"},
                   {"mainstay/jobs/v1/monitoring.proto", "worker"},
                   {"mainstay/jobs/v1/operators.proto", "worker"},
                   {"mainstay/jobs/v1/queues.proto", "worker"},
                   {"mainstay/jobs/v1/schedules.proto", "worker"},
                   {"mainstay/records/v1/audit.proto", "worker"},
                   {"mainstay/webhooks/v1/webhooks.proto", "webhooks"},
                   {"mainstay/integrations/v1/integrations.proto", "integrations"},
                   {"mainstay/transfer/v1/transfer.proto", "transfer"}}),
      upstreams_(std::move(upstreams)) {}

asio::awaitable<http::Response> SuiteApi::Handle(http::Request& request, const CallContext& call,
                                                 const catalog::Model& model) {
  std::string allow;
  absl::StatusOr<http::Response> response = co_await Dispatch(request, call, model, &allow);
  if (response.ok()) co_return *std::move(response);
  if (request.method == "OPTIONS" && !allow.empty()) {
    http::Response options;
    options.status = 204;
    options.headers.emplace_back("allow", allow);
    co_return options;
  }
  http::Response problem = http::ProblemResponse(response.status(), request);
  if (!allow.empty()) problem.headers.emplace_back("allow", allow);
  co_return problem;
}

asio::awaitable<absl::StatusOr<http::Response>> SuiteApi::Dispatch(http::Request& request, const CallContext& call,
                                                                   const catalog::Model& model, std::string* allow) {
  CO_ASSIGN_OR_RETURN(const rpc::Transcoder::Match match, transcoder_.Find(request.method, request.segments, allow));
  const rpc::Route& route = *match.route;
  if (!model.HasScope(call.principal.roles, route.scope))
    co_return MakeProblem("forbidden", StrCat("this needs the scope ", route.scope));
  const auto upstream = upstreams_.find(route.service);
  if (upstream == upstreams_.end()) co_return absl::InternalError(StrCat("no upstream ", route.service));
  if (route.transfer == rpc::Route::Transfer::kUpload) {
    absl::StatusOr<http::Response> response = co_await Upload(request, call, match, *upstream->second);
    co_return response;
  }
  if (route.server_streaming) {
    absl::StatusOr<http::Response> response = co_await Stream(request, call, match, *upstream->second);
    co_return response;
  }
  absl::StatusOr<http::Response> response = co_await Unary(request, call, match, *upstream->second);
  co_return response;
}

asio::awaitable<absl::StatusOr<http::Response>> SuiteApi::Unary(http::Request& request, const CallContext& call,
                                                                const rpc::Transcoder::Match& match,
                                                                Upstream& upstream) {
  const rpc::Route& route = *match.route;
  if (!AcceptsJson(request)) co_return MakeProblem("not-acceptable", "application/json can be made");
  if (route.body_limit > 0) request.body->set_limit(route.body_limit);
  CO_ASSIGN_OR_RETURN(std::string text, co_await http::ReadAll(*request.body));
  std::optional<JsonDocument> document;
  if (!text.empty()) {
    CO_RETURN_IF_ERROR(CheckJsonType(request));
    CO_ASSIGN_OR_RETURN(document, JsonDocument::Parse(std::move(text)));
  }
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<Message> message,
                      transcoder_.Request(match, request.query, document ? &document->root() : nullptr));
  std::string bytes = message->SerializeAsString();
  CO_ASSIGN_OR_RETURN(const std::string answer,
                      co_await upstream.Call(route.rpc_path, std::move(bytes), call, request.on_disconnect));
  CO_ASSIGN_OR_RETURN(std::string json, transcoder_.Response(route, answer));
  co_return Answer(request, route, std::move(json));
}

asio::awaitable<absl::StatusOr<http::Response>> SuiteApi::Upload(http::Request& request, const CallContext& call,
                                                                 const rpc::Transcoder::Match& match,
                                                                 Upstream& upstream) {
  const rpc::Route& route = *match.route;
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<Message> first, transcoder_.UploadRequest(match, request.query));
  if (MediaType(request.Header("content-type")).substr(0, 10) == "multipart/") {
    co_return MakeProblem("unsupported-media-type",
                          "send the file itself as the body, e.g. curl --data-binary @customers.csv, not a form");
  }
  request.body->set_limit(route.body_limit > 0 ? route.body_limit : kMaxUpload);
  common::v1::FileChunk chunk;
  const std::string* name = request.Header("x-filename");
  chunk.mutable_info()->set_name(name != nullptr ? SafeFileName(PercentDecode(*name, false).value_or("")) : "");
  const std::string* type = request.Header("content-type");
  chunk.mutable_info()->set_content_type(type != nullptr ? std::string(TruncateUtf8(*type, 200))
                                                         : "application/octet-stream");
  chunk.mutable_info()->set_size(request.body->length());
  SetMessage(*first, "chunk", chunk);

  CallContext transfer = call;
  transfer.deadline = absl::Now() + kTransferTime;
  const std::unique_ptr<UpstreamWriter> writer = upstream.Write(route.rpc_path, transfer);
  std::string bytes = first->SerializeAsString();
  absl::Status written = co_await writer->Write(std::move(bytes));
  const std::unique_ptr<Message> message(first->New());
  while (written.ok()) {
    // A body that breaks off ends the call without a last message (the writer's destructor), so that nothing half is
    // kept.
    CO_ASSIGN_OR_RETURN(const std::string piece, co_await request.body->Read());
    if (piece.empty()) break;
    for (size_t at = 0; at < piece.size() && written.ok(); at += kChunk) {
      common::v1::FileChunk next;
      next.set_data(piece.substr(at, kChunk));
      message->Clear();
      SetMessage(*message, "chunk", next);
      std::string part = message->SerializeAsString();
      written = co_await writer->Write(std::move(part));
    }
  }
  CO_ASSIGN_OR_RETURN(const std::string answer, co_await writer->Finish());
  CO_ASSIGN_OR_RETURN(std::string json, transcoder_.Response(route, answer));
  co_return Answer(request, route, std::move(json));
}

asio::awaitable<absl::StatusOr<http::Response>> SuiteApi::Stream(http::Request& request, const CallContext& call,
                                                                 const rpc::Transcoder::Match& match,
                                                                 Upstream& upstream) {
  const rpc::Route& route = *match.route;
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<Message> message, transcoder_.Request(match, request.query, nullptr));
  if (const std::string* last = request.Header("last-event-id"); last != nullptr) {
    const auto* field = message->GetDescriptor()->FindFieldByName("last_event_id");
    if (last->size() > 256) co_return MakeProblem("invalid-parameter", "Last-Event-ID is too long");
    if (field != nullptr) message->GetReflection()->SetString(message.get(), field, *last);
  }
  CallContext transfer = call;
  transfer.deadline = absl::Now() + kTransferTime;
  std::unique_ptr<UpstreamReader> reader = upstream.Read(route.rpc_path, message->SerializeAsString(), transfer);
  http::Response response;
  response.headers.emplace_back("cache-control", "private, no-cache");
  if (route.transfer == rpc::Route::Transfer::kDownload) {
    // The first chunk decides between a file and a problem.
    CO_ASSIGN_OR_RETURN(const std::optional<std::string> bytes, co_await reader->Next());
    common::v1::FileChunk chunk;
    if (!bytes || !chunk.ParseFromString(*bytes)) co_return absl::InternalError("a download without a first chunk");
    response.headers.emplace_back(
        "content-type", chunk.info().content_type().empty() ? "application/octet-stream" : chunk.info().content_type());
    response.headers.emplace_back("content-disposition", Disposition(chunk.info().name()));
    if (chunk.info().size() >= 0) response.stream_length = chunk.info().size();
    response.stream = std::make_unique<ChunkSource>(std::move(reader), chunk.data());
    co_return response;
  }
  const std::string* accept = request.Header("accept");
  const bool sse = accept != nullptr && accept->find("text/event-stream") != std::string::npos;
  response.headers.emplace_back("content-type", sse ? "text/event-stream" : "application/x-ndjson");
  response.stream =
      std::make_unique<EventSource>(std::move(reader), transcoder_, route, sse, request.request_id, request.path);
  co_return response;
}

}  // namespace mainstay::gateway
