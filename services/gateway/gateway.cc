// SPDX-License-Identifier: Apache-2.0
#include "services/gateway/gateway.h"

#include <boost/asio/this_coro.hpp>
#include <string_view>
#include <utility>

#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"

namespace mainstay::gateway {
namespace {

namespace asio = boost::asio;

bool IsRead(const http::Request& request) {
  return request.method == "GET" || request.method == "HEAD";
}

// A page of plain text for people who follow a problem's type.
http::Response ProblemPage(const http::Request& request) {
  const ProblemType& type = FindProblemType(request.segments[1]);
  if (type.slug != request.segments[1]) return http::ProblemResponse(MakeProblem("not-found", ""), request);
  http::Response response;
  response.headers.emplace_back("content-type", "text/plain; charset=utf-8");
  response.headers.emplace_back("cache-control", "public, max-age=86400");
  response.body =
      StrCat(type.title, "\n\n", type.help, "\n\nStatus: ", type.http_status, "\nType:   /problems/", type.slug, "\n");
  return response;
}

}  // namespace

Gateway::Gateway(ModelSource model, records::HttpApi& records, SuiteApi& suite, Hooks& hooks,
                 std::vector<rpc::Dependency> dependencies, std::function<bool()> draining)
    : model_(std::move(model)),
      records_(records),
      suite_(suite),
      hooks_(hooks),
      dependencies_(std::move(dependencies)),
      draining_(std::move(draining)) {}

void Gateway::AddLoop(asio::io_context& loop, postgres::AsyncPostgres& postgres) {
  loops_.push_back({&loop, &postgres, std::make_unique<Authenticator>(postgres, Clock::Real())});
}

asio::awaitable<http::Response> Gateway::Handle(http::Request& request) {
  http::Response response = co_await Route(request);
  co_return response;
}

asio::awaitable<http::Response> Gateway::Route(http::Request& request) {
  const auto& segments = request.segments;
  const std::string_view first = segments.empty() ? std::string_view() : std::string_view(segments[0]);
  const bool records = first == "v1" || first.substr(0, 3) == "v1:";
  const bool suite = first == "mainstay" && segments.size() >= 2 && segments[1] == "v1";
  if (!records && !suite) {
    if (first == "hooks") {
      http::Response response = co_await hooks_.Handle(request);
      co_return response;
    }
    if (segments.size() == 1 && (first == "healthz" || first == "readyz")) {
      if (!IsRead(request))
        co_return http::ProblemResponse(
            MakeProblem(Problem{.type = "method-not-allowed", .members = {{"allow", "\"GET, HEAD\""}}}), request);
      co_return first == "healthz" ? http::Response::Json(200, "{\"status\":\"ok\"}") : Readiness();
    }
    if (segments.size() == 2 && first == "problems" && IsRead(request)) co_return ProblemPage(request);
    co_return http::ProblemResponse(MakeProblem("not-found", ""), request);
  }

  // Which loop is this? A handful at most: a scan is cheaper than a map.
  const auto executor = co_await asio::this_coro::executor;
  const auto& context = asio::query(executor, asio::execution::context);
  const Loop* loop = nullptr;
  for (const Loop& candidate : loops_) {
    if (static_cast<asio::execution_context*>(candidate.context) == &context) loop = &candidate;
  }
  if (loop == nullptr)
    co_return http::ProblemResponse(absl::InternalError("a request on a loop without connections"), request);

  absl::StatusOr<Principal> principal = co_await loop->authenticator->Authenticate(request);
  if (!principal.ok()) co_return http::ProblemResponse(principal.status(), request);
  CallContext call;
  call.principal = *std::move(principal);
  call.deadline = request.deadline;
  call.request_id = request.request_id;
  call.traceparent = request.traceparent;
  const catalog::ModelPtr model = model_();
  if (records) {
    http::Response response = co_await records_.Handle(request, call, model, *loop->postgres);
    co_return response;
  }
  http::Response response = co_await suite_.Handle(request, call, *model);
  co_return response;
}

http::Response Gateway::Readiness() const {
  const bool draining = draining_();
  std::string body;
  JsonWriter json(body);
  json.BeginObject()
      .Key("status")
      .String(draining ? "draining" : "ready")
      .Key("catalog")
      .String(model_()->hash)
      .Key("dependencies")
      .BeginObject();
  for (const rpc::Dependency& dependency : dependencies_)
    json.Key(dependency.name).String(dependency.health().ok() ? "ok" : "degraded");
  json.EndObject().EndObject();
  return http::Response::Json(draining ? 503 : 200, std::move(body));
}

}  // namespace mainstay::gateway
