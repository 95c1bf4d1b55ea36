// SPDX-License-Identifier: Apache-2.0
#include "libs/records/http.h"

#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/records/claims.h"
#include "libs/records/http_changes.h"
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

constexpr std::string_view kUndelete = ":undelete";

std::optional<WriteRequest::Kind> BatchKind(std::string_view verb) {
  if (verb == "batchCreate") return WriteRequest::Kind::kCreate;
  if (verb == "batchUpdate") return WriteRequest::Kind::kPatch;
  if (verb == "batchDelete") return WriteRequest::Kind::kDelete;
  if (verb == "batchUpsert") return WriteRequest::Kind::kUpsert;
  return std::nullopt;
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
  Impl(HttpApiOptions o, Clock& clock)
      : options(std::move(o)), reads(options, clock), writes(options), changes(options, clock) {}

  // `direct`: for what outlives the request, and reads no table of the user's.
  awaitable<absl::StatusOr<http::Response>> Route(http::Request& request, const CallContext& context,
                                                  const ModelPtr& model, postgres::AsyncPostgres& postgres,
                                                  postgres::AsyncPostgres& direct) const {
    const auto& segments = request.segments;
    if (segments.size() == 1 && segments[0] == "v1:batch") {
      if (request.method == "OPTIONS") co_return Options("POST, OPTIONS");
      if (request.method != "POST") co_return NotAllowed("POST, OPTIONS");
      CO_RETURN_IF_ERROR(CheckAccept(request));
      absl::StatusOr<http::Response> response =
          co_await writes.HandleOperations(request, context, CacheFor(model), postgres);
      co_return response;
    }
    if (segments.size() < 2 || segments.size() > 4 || segments[0] != "v1") co_return NotFound();
    std::string_view name = segments[1];
    const size_t colon = name.find(':');
    std::string_view verb;
    if (colon != std::string_view::npos) {
      verb = name.substr(colon + 1);
      name = name.substr(0, colon);
      const bool known = verb == "query" || verb == "aggregate" || verb == "changes" || BatchKind(verb).has_value();
      if (segments.size() != 2 || !known) co_return NotFound();
    }
    CO_ASSIGN_OR_RETURN(const Resource* const resource, FindResource(model, name));
    const CachePtr cache = CacheFor(model);
    const AccessPtr access = cache->AccessOf(*resource, context.principal);
    const std::string& method = request.method;
    const bool get = method == "GET" || method == "HEAD";
    const bool writable = !resource->read_only;
    if (verb == "changes" || segments.size() == 4) {
      absl::StatusOr<http::Response> response = co_await Changes(request, context, cache, *resource, access, direct);
      co_return response;
    }
    if (segments.size() == 2) {
      const std::optional<WriteRequest::Kind> batch = BatchKind(verb);
      if (batch.has_value() && !writable) co_return NotFound();
      const std::string allow = verb == "aggregate" ? "GET, HEAD, OPTIONS"
                                : !verb.empty()     ? "POST, OPTIONS"
                                : writable          ? "GET, HEAD, POST, QUERY, OPTIONS"
                                                    : "GET, HEAD, QUERY, OPTIONS";
      const bool query = verb.empty() ? method == "QUERY" : method == "POST" && !batch.has_value();
      if (method == "OPTIONS") co_return Options(allow);
      if (verb == "aggregate") {
        if (!get) co_return NotAllowed(allow);
        absl::StatusOr<http::Response> response =
            co_await reads.HandleAggregate(request, context, cache, *resource, postgres);
        co_return response;
      }
      if (!verb.empty() && method != "POST") co_return NotAllowed(allow);
      if (batch.has_value()) {
        CO_RETURN_IF_ERROR(CheckAccept(request));
        absl::StatusOr<http::Response> response =
            co_await writes.HandleBatch(request, context, cache, *resource, access, *batch, postgres);
        co_return response;
      }
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
    // The last segment as sent: commas inside a part of a composite key are encoded, and so are colons.
    std::string_view id = std::string_view(request.path).substr(request.path.rfind('/') + 1);
    if (id.ends_with(kUndelete) && writable && resource->deleted_at >= 0) {
      id.remove_suffix(kUndelete.size());
      if (method == "OPTIONS") co_return Options("POST, OPTIONS");
      if (method != "POST") co_return NotAllowed("POST, OPTIONS");
      CO_RETURN_IF_ERROR(CheckAccept(request));
      CO_ASSIGN_OR_RETURN(std::vector<std::string> key, ParseKey(*resource, id));
      absl::StatusOr<http::Response> response = co_await writes.HandleWrite(
          request, context, cache, *resource, access, WriteRequest::Kind::kUndelete, std::move(key), postgres);
      co_return response;
    }
    const std::string allow = !writable                      ? "GET, HEAD, OPTIONS"
                              : resource->client_chooses_key ? "GET, HEAD, PATCH, PUT, DELETE, OPTIONS"
                                                             : "GET, HEAD, PATCH, DELETE, OPTIONS";
    if (method == "OPTIONS") co_return Options(allow);
    CO_RETURN_IF_ERROR(CheckAccept(request));
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

  // /v1/orders:changes and /v1/orders/7/history
  awaitable<absl::StatusOr<http::Response>> Changes(http::Request& request, const CallContext& context,
                                                    const CachePtr& cache, const Resource& resource, AccessPtr access,
                                                    postgres::AsyncPostgres& postgres) const {
    const bool feed = request.segments.size() == 2;
    if (feed ? !resource.changes : !resource.history.has_value() || request.segments[3] != "history")
      co_return NotFound();
    const bool get = request.method == "GET" || request.method == "HEAD";
    if (request.method == "OPTIONS") co_return Options("GET, HEAD, OPTIONS");
    if (!get) co_return NotAllowed("GET, HEAD, OPTIONS");
    absl::StatusOr<http::Response> response = NotFound();
    if (feed) {
      response = co_await changes.HandleFeed(request, context, cache, resource, std::move(access), postgres);
    } else {
      CO_RETURN_IF_ERROR(CheckAccept(request));
      // As sent: what stands between the last two slashes.
      const std::string_view path = std::string_view(request.path).substr(0, request.path.rfind('/'));
      CO_ASSIGN_OR_RETURN(std::vector<std::string> key, ParseKey(resource, path.substr(path.rfind('/') + 1)));
      response = co_await changes.HandleHistory(request, context, cache, resource, std::move(access), std::move(key),
                                                postgres);
    }
    co_return response;
  }

  const HttpApiOptions options;
  const HttpReads reads;
  const HttpWrites writes;
  const HttpChanges changes;
};

HttpApi::HttpApi(HttpApiOptions options, Clock& clock) : impl_(std::make_unique<Impl>(std::move(options), clock)) {}
HttpApi::~HttpApi() = default;

namespace {

// Runs an operation on connections that tell PostgreSQL who asks, where the model wants that.
template <typename Operation>
auto Claimed(const CallContext& context, ModelPtr model, postgres::AsyncPostgres& postgres, Operation operation)
    -> decltype(operation(postgres)) {
  const std::unique_ptr<postgres::AsyncPostgres> claimed = WithClaims(postgres, *model, context);
  auto answer = co_await operation(claimed == nullptr ? postgres : *claimed);
  co_return answer;
}

}  // namespace

awaitable<http::Response> HttpApi::Handle(http::Request& request, const CallContext& context, const ModelPtr& model,
                                          postgres::AsyncPostgres& postgres) {
  absl::StatusOr<http::Response> response;
  if (const auto claimed = WithClaims(postgres, *model, context); claimed == nullptr) {
    response = co_await impl_->Route(request, context, model, postgres, postgres);
  } else {
    response = co_await impl_->Route(request, context, model, *claimed, postgres);
  }
  if (!response.ok()) co_return http::ProblemResponse(response.status(), request);
  co_return *std::move(response);
}

awaitable<absl::StatusOr<v1::Record>> HttpApi::Get(const v1::GetRecordRequest& request, const CallContext& context,
                                                   const ModelPtr& model, postgres::AsyncPostgres& postgres) {
  return Claimed(context, model, postgres, [this, &request, &context, model](postgres::AsyncPostgres& on) {
    return impl_->reads.Get(request, context, model, on);
  });
}
awaitable<absl::StatusOr<v1::ListRecordsResponse>> HttpApi::List(const v1::ListRecordsRequest& request,
                                                                 const CallContext& context, const ModelPtr& model,
                                                                 postgres::AsyncPostgres& postgres) {
  return Claimed(context, model, postgres, [this, &request, &context, model](postgres::AsyncPostgres& on) {
    return impl_->reads.List(request, context, model, on);
  });
}
awaitable<absl::StatusOr<v1::Record>> HttpApi::Create(const v1::CreateRecordRequest& request,
                                                      const CallContext& context, const ModelPtr& model,
                                                      postgres::AsyncPostgres& postgres) {
  return Claimed(context, model, postgres, [this, &request, &context, model](postgres::AsyncPostgres& on) {
    return impl_->writes.Create(request, context, model, on);
  });
}
awaitable<absl::StatusOr<v1::Record>> HttpApi::Update(const v1::UpdateRecordRequest& request,
                                                      const CallContext& context, const ModelPtr& model,
                                                      postgres::AsyncPostgres& postgres) {
  return Claimed(context, model, postgres, [this, &request, &context, model](postgres::AsyncPostgres& on) {
    return impl_->writes.Update(request, context, model, on);
  });
}
awaitable<absl::StatusOr<v1::BatchRecordsResponse>> HttpApi::Batch(const v1::BatchRecordsRequest& request,
                                                                   const CallContext& context, const ModelPtr& model,
                                                                   postgres::AsyncPostgres& postgres) {
  return Claimed(context, model, postgres, [this, &request, &context, model](postgres::AsyncPostgres& on) {
    return impl_->writes.Batch(request, context, model, on);
  });
}
awaitable<absl::Status> HttpApi::Delete(const v1::DeleteRecordRequest& request, const CallContext& context,
                                        const ModelPtr& model, postgres::AsyncPostgres& postgres) {
  return Claimed(context, model, postgres, [this, &request, &context, model](postgres::AsyncPostgres& on) {
    return impl_->writes.Delete(request, context, model, on);
  });
}

}  // namespace mainstay::records
