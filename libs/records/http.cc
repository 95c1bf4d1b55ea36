// SPDX-License-Identifier: Apache-2.0
#include "libs/records/http.h"

#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/records/http_read.h"
#include "libs/records/http_write.h"
#include "mainstay/records/v1/records.pb.h"

namespace mainstay::records {

using boost::asio::awaitable;
using catalog::ModelPtr;
using catalog::Resource;

namespace {

http::Response Options(std::string_view allow) {
  http::Response response;
  response.status = 204;
  response.headers.emplace_back("allow", allow);
  return response;
}
}  // namespace

absl::Status Validate(const HttpApiOptions& options) {
  if (options.cursor_key.size() != 32) return absl::InvalidArgumentError("cursor_key: 32 bytes are expected");
  if (options.cursor_life <= absl::ZeroDuration() || options.idempotency_life <= absl::ZeroDuration())
    return absl::InvalidArgumentError("cursor_life and idempotency_life must be positive");
  if (options.exact_count_cap < 1) return absl::InvalidArgumentError("exact_count_cap must be positive");
  if (options.exact_count_time <= absl::ZeroDuration() || options.stream_life <= absl::ZeroDuration())
    return absl::InvalidArgumentError("exact_count_time and stream_life must be positive");
  if (options.query_cost_limit < 1 || options.aggregate_cost_limit < 1 || options.max_streams < 1)
    return absl::InvalidArgumentError("query_cost_limit, aggregate_cost_limit and max_streams must be positive");
  if (options.nested_default_limit < 1 || options.nested_default_limit > options.nested_max_limit)
    return absl::InvalidArgumentError("nested_default_limit must be between 1 and nested_max_limit");
  return absl::OkStatus();
}

struct HttpApi::Impl {
  Impl(HttpApiOptions o, Clock& clock) : options(std::move(o)), reads(options, clock), writes(options) {}

  awaitable<absl::StatusOr<http::Response>> Route(http::Request& request, const CallContext& context,
                                                  const ModelPtr& model, postgres::AsyncPostgres& postgres) const {
    const auto& segments = request.segments;
    if (segments.size() < 2 || segments.size() > 3 || segments[0] != "v1") co_return NotFound();
    std::string_view name = segments[1];
    const size_t colon = name.find(':');
    std::string_view verb;
    if (colon != std::string_view::npos) {
      verb = name.substr(colon + 1);
      name = name.substr(0, colon);
      if (segments.size() != 2 || (verb != "query" && verb != "aggregate")) co_return NotFound();
    }
    CO_ASSIGN_OR_RETURN(const Resource* const resource, FindResource(model, name));
    const CachePtr cache = CacheFor(model);
    const AccessPtr access = cache->AccessOf(*resource, context.principal);
    const std::string& method = request.method;
    const bool get = method == "GET" || method == "HEAD";
    const bool writable = !resource->read_only;
    if (segments.size() == 2) {
      const std::string allow = verb == "query"       ? "POST, OPTIONS"
                                : verb == "aggregate" ? "GET, HEAD, OPTIONS"
                                : writable            ? "GET, HEAD, POST, QUERY, OPTIONS"
                                                      : "GET, HEAD, QUERY, OPTIONS";
      const bool query = verb.empty() ? method == "QUERY" : method == "POST";
      if (method == "OPTIONS") co_return Options(allow);
      if (verb == "aggregate") {
        if (!get) co_return NotAllowed(allow);
        absl::StatusOr<http::Response> response =
            co_await reads.HandleAggregate(request, context, cache, *resource, postgres);
        co_return response;
      }
      if (!verb.empty() && !query) co_return NotAllowed(allow);
      if (query || (get && verb.empty())) {
        absl::StatusOr<http::Response> response =
            co_await reads.HandleList(request, context, cache, *resource, *access, query, postgres);
        co_return response;
      }
      CO_RETURN_IF_ERROR(CheckAccept(request));
      if (method == "POST" && writable) {
        absl::StatusOr<http::Response> response = co_await writes.HandleWrite(
            request, context, cache, *resource, access, WriteRequest::Kind::kCreate, {}, postgres);
        co_return response;
      }
      co_return NotAllowed(allow);
    }
    const std::string allow = !writable                      ? "GET, HEAD, OPTIONS"
                              : resource->client_chooses_key ? "GET, HEAD, PATCH, PUT, DELETE, OPTIONS"
                                                             : "GET, HEAD, PATCH, DELETE, OPTIONS";
    if (method == "OPTIONS") co_return Options(allow);
    CO_RETURN_IF_ERROR(CheckAccept(request));
    // The last segment as sent: commas inside a part of a composite key are encoded.
    const std::string_view id = std::string_view(request.path).substr(request.path.rfind('/') + 1);
    if (get) {
      absl::StatusOr<http::Response> response =
          co_await reads.HandleOne(request, context, cache, *resource, *access, id, postgres);
      co_return response;
    }
    WriteRequest::Kind kind = WriteRequest::Kind::kPatch;
    if (method == "PATCH" && writable) {
      kind = WriteRequest::Kind::kPatch;
    } else if (method == "PUT" && writable && resource->client_chooses_key) {
      kind = WriteRequest::Kind::kPut;
    } else if (method == "DELETE" && writable) {
      kind = WriteRequest::Kind::kDelete;
    } else {
      co_return NotAllowed(allow);
    }
    CO_ASSIGN_OR_RETURN(std::vector<std::string> key, ParseKey(*resource, id));
    absl::StatusOr<http::Response> response =
        co_await writes.HandleWrite(request, context, cache, *resource, access, kind, std::move(key), postgres);
    co_return response;
  }

  const HttpApiOptions options;
  const HttpReads reads;
  const HttpWrites writes;
};

HttpApi::HttpApi(HttpApiOptions options, Clock& clock) : impl_(std::make_unique<Impl>(std::move(options), clock)) {}
HttpApi::~HttpApi() = default;

awaitable<http::Response> HttpApi::Handle(http::Request& request, const CallContext& context, const ModelPtr& model,
                                          postgres::AsyncPostgres& postgres) {
  absl::StatusOr<http::Response> response = co_await impl_->Route(request, context, model, postgres);
  if (!response.ok()) co_return http::ProblemResponse(response.status(), request);
  co_return *std::move(response);
}

awaitable<absl::StatusOr<v1::Record>> HttpApi::Get(const v1::GetRecordRequest& request, const CallContext& context,
                                                   const ModelPtr& model, postgres::AsyncPostgres& postgres) {
  return impl_->reads.Get(request, context, model, postgres);
}
awaitable<absl::StatusOr<v1::ListRecordsResponse>> HttpApi::List(const v1::ListRecordsRequest& request,
                                                                 const CallContext& context, const ModelPtr& model,
                                                                 postgres::AsyncPostgres& postgres) {
  return impl_->reads.List(request, context, model, postgres);
}
awaitable<absl::StatusOr<v1::Record>> HttpApi::Create(const v1::CreateRecordRequest& request,
                                                      const CallContext& context, const ModelPtr& model,
                                                      postgres::AsyncPostgres& postgres) {
  return impl_->writes.Create(request, context, model, postgres);
}
awaitable<absl::StatusOr<v1::Record>> HttpApi::Update(const v1::UpdateRecordRequest& request,
                                                      const CallContext& context, const ModelPtr& model,
                                                      postgres::AsyncPostgres& postgres) {
  return impl_->writes.Update(request, context, model, postgres);
}
awaitable<absl::Status> HttpApi::Delete(const v1::DeleteRecordRequest& request, const CallContext& context,
                                        const ModelPtr& model, postgres::AsyncPostgres& postgres) {
  return impl_->writes.Delete(request, context, model, postgres);
}

}  // namespace mainstay::records
