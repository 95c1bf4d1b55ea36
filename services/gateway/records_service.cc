// SPDX-License-Identifier: Apache-2.0
#include "services/gateway/records_service.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <exception>
#include <utility>

#include "libs/base/strings.h"
#include "libs/postgres/async.h"
#include "libs/records/http.h"
#include "libs/telemetry/log.h"
#include "mainstay/records/v1/records.grpc.pb.h"

namespace mainstay::gateway {
namespace {

namespace asio = boost::asio;
namespace pb = mainstay::records::v1;

}  // namespace

struct RecordsService::Impl : pb::RecordsService::CallbackService {
  using Api = records::HttpApi;

  Impl(const rpc::Guard& g, Api& r, std::function<catalog::ModelPtr()> m, std::vector<Loop> l)
      : guard(g), api(r), model(std::move(m)), loops(std::move(l)) {}

  // Checks the caller on gRPC's thread, runs `operation` on a loop, answers from there. gRPC keeps request and response
  // until Finish.
  template <typename Operation>
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* context, std::string_view method, Operation operation) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::StatusOr<CallContext> call = guard.Admit(*context, method);
    if (!call.ok()) {
      reactor->Finish(rpc::ToGrpc(call.status()));
      return reactor;
    }
    const Loop& loop = loops[next.fetch_add(1, std::memory_order_relaxed) % loops.size()];
    asio::co_spawn(*loop.context, Serve(reactor, *std::move(call), *loop.postgres, std::move(operation)),
                   asio::detached);
    return reactor;
  }

  template <typename Operation>
  asio::awaitable<void> Serve(grpc::ServerUnaryReactor* reactor, CallContext call, postgres::AsyncPostgres& postgres,
                              Operation operation) {
    absl::Status status = absl::InternalError("the operation threw");
    try {
      const catalog::ModelPtr current = model();
      status = co_await operation(call, current, postgres);
    } catch (const std::exception& e) {
      log::Error("records.v1", {{"exception", e.what()}, {"request_id", call.request_id}});
    }
    reactor->Finish(rpc::ToGrpc(status));
  }

  // An operation that answers with a message: stores it in `out`.
  template <typename Request, typename Response>
  auto Answering(asio::awaitable<absl::StatusOr<Response>> (Api::*operation)(const Request&, const CallContext&,
                                                                             const catalog::ModelPtr&,
                                                                             postgres::AsyncPostgres&),
                 const Request* request, Response* out) {
    return [this, operation, request, out](const CallContext& call, const catalog::ModelPtr& current,
                                           postgres::AsyncPostgres& postgres) -> asio::awaitable<absl::Status> {
      absl::StatusOr<Response> answer = co_await (api.*operation)(*request, call, current, postgres);
      if (!answer.ok()) co_return answer.status();
      *out = *std::move(answer);
      co_return absl::OkStatus();
    };
  }

  grpc::ServerUnaryReactor* GetRecord(grpc::CallbackServerContext* context, const pb::GetRecordRequest* request,
                                      pb::Record* response) override {
    return Run(context, "mainstay.records.v1.RecordsService/GetRecord", Answering(&Api::Get, request, response));
  }
  grpc::ServerUnaryReactor* ListRecords(grpc::CallbackServerContext* context, const pb::ListRecordsRequest* request,
                                        pb::ListRecordsResponse* response) override {
    return Run(context, "mainstay.records.v1.RecordsService/ListRecords", Answering(&Api::List, request, response));
  }
  grpc::ServerUnaryReactor* CreateRecord(grpc::CallbackServerContext* context, const pb::CreateRecordRequest* request,
                                         pb::Record* response) override {
    return Run(context, "mainstay.records.v1.RecordsService/CreateRecord", Answering(&Api::Create, request, response));
  }
  grpc::ServerUnaryReactor* UpdateRecord(grpc::CallbackServerContext* context, const pb::UpdateRecordRequest* request,
                                         pb::Record* response) override {
    return Run(context, "mainstay.records.v1.RecordsService/UpdateRecord", Answering(&Api::Update, request, response));
  }
  grpc::ServerUnaryReactor* BatchRecords(grpc::CallbackServerContext* context, const pb::BatchRecordsRequest* request,
                                         pb::BatchRecordsResponse* response) override {
    return Run(context, "mainstay.records.v1.RecordsService/BatchRecords", Answering(&Api::Batch, request, response));
  }
  grpc::ServerUnaryReactor* DeleteRecord(grpc::CallbackServerContext* context, const pb::DeleteRecordRequest* request,
                                         pb::DeleteRecordResponse*) override {
    return Run(
        context, "mainstay.records.v1.RecordsService/DeleteRecord",
        [this, request](const CallContext& call, const catalog::ModelPtr& current, postgres::AsyncPostgres& postgres) {
          return api.Delete(*request, call, current, postgres);
        });
  }

  const rpc::Guard& guard;
  Api& api;
  const std::function<catalog::ModelPtr()> model;
  const std::vector<Loop> loops;
  std::atomic<size_t> next{0};
};

RecordsService::RecordsService(const rpc::Guard& guard, records::HttpApi& records,
                               std::function<catalog::ModelPtr()> model, std::vector<Loop> loops)
    : impl_(new Impl(guard, records, std::move(model), std::move(loops))) {}
RecordsService::~RecordsService() = default;
grpc::Service& RecordsService::service() {
  return *impl_;
}

}  // namespace mainstay::gateway
