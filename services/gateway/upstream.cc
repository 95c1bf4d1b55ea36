// SPDX-License-Identifier: Apache-2.0
#include "services/gateway/upstream.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <utility>
#include <vector>

#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/rpc/call.h"
#include "services/gateway/handover.h"

namespace mainstay::gateway {
namespace {

namespace asio = boost::asio;

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string FromBuffer(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string out;
  if (buffer.Valid() && buffer.Dump(&slices).ok()) {
    out.reserve(buffer.Length());
    for (const grpc::Slice& slice : slices) out.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return out;
}

// A transport's failure is ours to word; a service's own problem passes through.
absl::Status Translate(const std::string& service, const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && status.error_details().empty()) {
    return MakeProblem("service-unavailable", StrCat("the ", service, " service is not available"));
  }
  return rpc::FromGrpc(status);
}

struct Unary {
  grpc::ClientContext context;
  grpc::ByteBuffer request, response;
  Handover<grpc::Status> done;
};

// One stream in either direction. Owned by gRPC until OnDone and by its reader or writer.
class Stream : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
               public std::enable_shared_from_this<Stream> {
 public:
  void Begin() {
    self_ = shared_from_this();
    // A hold, for reads and writes start from outside the reactor's own callbacks.
    AddHold();
    StartCall();
  }
  void OnReadDone(bool ok) override { read_.Put(ok); }
  void OnWriteDone(bool ok) override { written_.Put(ok); }
  void OnDone(const grpc::Status& status) override {
    done_.Put(status);
    self_.reset();
  }
  void Release() {
    if (!std::exchange(released_, true)) RemoveHold();
  }

  grpc::ClientContext context;
  grpc::ByteBuffer in, out;
  Handover<bool> read_, written_;
  Handover<grpc::Status> done_;

 private:
  std::shared_ptr<Stream> self_;
  bool released_ = false;
};

class Reader : public UpstreamReader {
 public:
  Reader(std::string service, std::shared_ptr<Stream> stream)
      : service_(std::move(service)), stream_(std::move(stream)) {}
  ~Reader() override {
    if (!ended_) {
      stream_->context.TryCancel();
      stream_->Release();
    }
  }
  void Cancel() override { stream_->context.TryCancel(); }
  asio::awaitable<absl::StatusOr<std::optional<std::string>>> Next() override {
    if (ended_) co_return std::optional<std::string>();
    stream_->in.Clear();
    stream_->StartRead(&stream_->in);
    const bool ok = co_await stream_->read_.Take();
    if (ok) co_return std::optional<std::string>(FromBuffer(stream_->in));
    ended_ = true;
    stream_->Release();
    const grpc::Status status = co_await stream_->done_.Take();
    if (!status.ok()) co_return Translate(service_, status);
    co_return std::optional<std::string>();
  }

 private:
  const std::string service_;
  std::shared_ptr<Stream> stream_;
  bool ended_ = false;
};

class Writer : public UpstreamWriter {
 public:
  Writer(std::string service, std::shared_ptr<Stream> stream)
      : service_(std::move(service)), stream_(std::move(stream)) {}
  ~Writer() override {
    if (!ended_) {
      stream_->context.TryCancel();
      stream_->Release();
    }
  }
  asio::awaitable<absl::Status> Write(std::string message) override {
    stream_->out = ToBuffer(message);
    stream_->StartWrite(&stream_->out);
    const bool ok = co_await stream_->written_.Take();
    if (!ok) co_return absl::CancelledError("the call has ended");
    co_return absl::OkStatus();
  }
  asio::awaitable<absl::StatusOr<std::string>> Finish() override {
    stream_->StartWritesDone();
    stream_->StartRead(&stream_->in);
    const bool answered = co_await stream_->read_.Take();
    ended_ = true;
    stream_->Release();
    const grpc::Status status = co_await stream_->done_.Take();
    if (!status.ok()) co_return Translate(service_, status);
    if (!answered) co_return absl::InternalError("the service ended the call without an answer");
    co_return FromBuffer(stream_->in);
  }

 private:
  const std::string service_;
  std::shared_ptr<Stream> stream_;
  bool ended_ = false;
};

// Cancels the call when the coroutine that waits for it is destroyed.
struct CancelOnDestroy {
  std::shared_ptr<Unary> call;
  ~CancelOnDestroy() { call->context.TryCancel(); }
};

}  // namespace

struct Upstream::Impl {
  std::shared_ptr<grpc::Channel> channel;
  grpc::GenericStub stub;
  rpc::Signer& signer;

  std::shared_ptr<Stream> Open(const std::string& service, const std::string& method, const CallContext& context) {
    auto stream = std::make_shared<Stream>();
    rpc::PrepareCall(stream->context, context, signer, service);
    stub.PrepareBidiStreamingCall(&stream->context, method, grpc::StubOptions(), stream.get());
    return stream;
  }
};

Upstream::Upstream(std::string service, const std::shared_ptr<grpc::Channel>& channel, rpc::Signer& signer)
    : service_(std::move(service)), impl_(new Impl{channel, grpc::GenericStub(channel), signer}) {}
Upstream::~Upstream() = default;

asio::awaitable<absl::StatusOr<std::string>> Upstream::Call(std::string method, std::string request,
                                                            const CallContext& context,
                                                            std::function<void(std::function<void()>)> on_cancel) {
  auto call = std::make_shared<Unary>();
  rpc::PrepareCall(call->context, context, impl_->signer, service_);
  call->request = ToBuffer(request);
  const CancelOnDestroy guard{call};
  if (on_cancel) on_cancel([call] { call->context.TryCancel(); });
  impl_->stub.UnaryCall(&call->context, method, grpc::StubOptions(), &call->request, &call->response,
                        [call](grpc::Status status) { call->done.Put(std::move(status)); });
  const grpc::Status status = co_await call->done.Take();
  if (!status.ok()) co_return Translate(service_, status);
  co_return FromBuffer(call->response);
}

std::unique_ptr<UpstreamReader> Upstream::Read(const std::string& method, const std::string& request,
                                               const CallContext& context) {
  auto stream = impl_->Open(service_, method, context);
  stream->out = ToBuffer(request);
  stream->StartWriteLast(&stream->out, grpc::WriteOptions());
  stream->Begin();
  return std::make_unique<Reader>(service_, std::move(stream));
}

std::unique_ptr<UpstreamWriter> Upstream::Write(const std::string& method, const CallContext& context) {
  auto stream = impl_->Open(service_, method, context);
  stream->Begin();
  return std::make_unique<Writer>(service_, std::move(stream));
}

absl::Status Upstream::Health() const {
  // Asking with try_to_connect wakes an idle channel, so that a service that came back is seen without traffic.
  switch (impl_->channel->GetState(true)) {
    case GRPC_CHANNEL_READY:
    case GRPC_CHANNEL_IDLE:
    case GRPC_CHANNEL_CONNECTING:
      return absl::OkStatus();
    default:
      return absl::UnavailableError(StrCat("the ", service_, " service cannot be reached"));
  }
}

}  // namespace mainstay::gateway
