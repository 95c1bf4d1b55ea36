// SPDX-License-Identifier: Apache-2.0
#include "services/worker/work_service.h"

#include <grpcpp/grpcpp.h>

#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/secrets/api_keys.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;

constexpr char kMethod[] = "mainstay.jobs.v1.WorkService/Work", kPrincipal[] = "mainstay-principal";
constexpr absl::string_view kScheme = "bearer ";

absl::Status Busy() {
  return MakeProblem(
      Problem{.type = "overloaded", .detail = "too many workers come at once", .retry_after = absl::Seconds(2)});
}

}  // namespace

// gRPC may run a reaction inside the call that caused it, so nothing calls gRPC with a lock held. The call may be used
// until Finish, so Finish waits for the write that is under way and for whoever holds the stream. Lives until OnDone.
class WorkService::Stream : public grpc::ServerBidiReactor<pb::WorkerMessage, pb::ServerMessage>,
                            public StreamLink,
                            public std::enable_shared_from_this<WorkService::Stream> {
 public:
  Stream(WorkService& service, grpc::CallbackServerContext* context) : service_(service), context_(context) {}

  void Begin(const absl::Status& status) {
    self_ = shared_from_this();
    status.ok() ? OnDesk([this] { Admit(); }) : End(status);
  }

  // ---- StreamLink ----
  void Opened(const StreamRunner::SessionPtr& session) override {
    bool gone;
    {
      absl::MutexLock lock(&mu_);
      session_ = session;
      gone = ending_.has_value();
    }
    if (gone) service_.runner_.Gone(session);
  }
  void Write(pb::ServerMessage message) override {
    {
      absl::MutexLock lock(&mu_);
      if (ending_.has_value()) return;
      writing_ = true;
      out_ = std::move(message);
    }
    StartWrite(&out_);
  }
  void End(absl::Status status) override {
    const Hold hold(*this);
    if (!hold) return;
    bool cut;
    {
      absl::MutexLock lock(&mu_);
      if (ending_.has_value()) return;
      ending_ = std::move(status);
      // A first word on why there will be no session is small; later ones may never be read.
      cut = writing_ && session_ != nullptr;
    }
    if (cut) context_->TryCancel();
  }
  void ReadOn() override {
    const Hold hold(*this);
    if (hold) StartRead(&in_);
  }

  // ---- gRPC ----
  void OnReadDone(bool ok) override {
    const Hold hold(*this);
    if (!hold) return;
    const StreamRunner::SessionPtr session = Session();
    if (!ok) {
      if (session == nullptr || service_.runner_.SaysNoMore(session)) End(absl::OkStatus());
    } else if (session == nullptr) {
      OnDesk([this] { Open(); });
    } else {
      if (service_.runner_.Received(session, in_)) StartRead(&in_);
      if (absl::Now() - checked_ >= service_.recheck_) {
        checked_ = absl::Now();
        OnDesk([this] { Recheck(); });
      }
    }
  }
  void OnWriteDone(bool ok) override {
    const Hold hold(*this);
    StreamRunner::SessionPtr session;
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      session = session_;
    }
    if (!ok) {
      if (session != nullptr) service_.runner_.Gone(session);
      End(absl::CancelledError("the worker went away"));
    } else if (session != nullptr) {
      service_.runner_.Written(session);
    }
  }
  void OnCancel() override {
    if (const auto session = Session(); session != nullptr) service_.runner_.Gone(session);
    End(absl::CancelledError("the worker went away"));
  }
  void OnDone() override {
    if (const auto session = Session(); session != nullptr) service_.runner_.Gone(session);
    --service_.streams_;
    self_.reset();
  }

 private:
  // While it lives the call does too. False when it has been finished.
  class Hold {
   public:
    explicit Hold(Stream& stream) : stream_(stream), held_(stream.Take()) {}
    Hold(const Hold&) = delete;
    ~Hold() {
      if (held_) stream_.Release();
    }
    explicit operator bool() const { return held_; }

   private:
    Stream& stream_;
    const bool held_;
  };
  bool Take() {
    absl::MutexLock lock(&mu_);
    if (finished_) return false;
    ++holds_;
    return true;
  }
  void Release() {
    absl::Status status;
    {
      absl::MutexLock lock(&mu_);
      if (--holds_ > 0 || writing_ || !ending_.has_value()) return;
      finished_ = true;
      status = *ending_;
    }
    Finish(service_.parts_.guard.Conclude(kMethod, call_, began_, status));
  }

  void OnDesk(std::function<void()> work) {
    auto held = std::make_shared<Hold>(*this);
    if (!*held) return;
    // The stream is there as long as the hold is.
    if (!service_.desk_.Post([keep = shared_from_this(), held, work = std::move(work)]() mutable {
          work();
          held.reset();
        }))
      End(Busy());
  }

  StreamRunner::SessionPtr Session() {
    absl::MutexLock lock(&mu_);
    return session_;
  }
  bool BySuite() const { return context_->client_metadata().find(kPrincipal) != context_->client_metadata().end(); }

  absl::StatusOr<Principal> KeyHolder() const {
    const auto& metadata = context_->client_metadata();
    const auto header = metadata.find("authorization");
    const absl::string_view text = header == metadata.end()
                                       ? absl::string_view()
                                       : absl::string_view(header->second.data(), header->second.size());
    if (!absl::StartsWithIgnoreCase(text, kScheme))
      return MakeProblem("unauthenticated", "a valid API key is required: authorization: Bearer mst_…");
    const std::string key(text.substr(kScheme.size()));
    Principal principal;
    RETURN_IF_ERROR(service_.parts_.pool.Autocommit(
        absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(principal, secrets::CheckApiKey(tx, key, absl::Now()));
          return absl::OkStatus();
        }));
    return principal;
  }
  absl::StatusOr<CallContext> Caller() const {
    if (BySuite()) return service_.parts_.guard.Admit(*context_, kMethod);
    ASSIGN_OR_RETURN(Principal principal, KeyHolder());
    return service_.parts_.guard.Admit(*context_, kMethod, std::move(principal));
  }

  // ---- on the desk ----
  void Admit() {
    call_ = Caller();
    if (!call_.ok()) return End(call_.status());
    checked_ = absl::Now();
    StartRead(&in_);
  }
  void Open() {
    if (in_.message_case() != pb::WorkerMessage::kHello) {
      pb::ServerMessage out;
      out.mutable_error()->set_field("hello");
      out.mutable_error()->set_message("the first message is hello");
      Write(std::move(out));
      return End(absl::InvalidArgumentError("the first message is hello"));
    }
    if (service_.runner_.Open(shared_from_this(), call_->principal, in_.hello())) StartRead(&in_);
  }
  void Recheck() {
    if (BySuite()) return;  // a token of a minute is good for the stream that it opened
    const absl::StatusOr<CallContext> call = Caller();
    if (call.ok() || absl::IsUnavailable(call.status()) || absl::IsDeadlineExceeded(call.status())) return;
    if (const auto session = Session(); session != nullptr) service_.runner_.Expel(session, call.status());
  }

  WorkService& service_;
  grpc::CallbackServerContext* const context_;
  const absl::Time began_ = absl::Now();
  absl::StatusOr<CallContext> call_ = absl::CancelledError("the worker went away");  // before the first read
  absl::Time checked_;                                                               // the reads'
  pb::WorkerMessage in_;
  pb::ServerMessage out_;
  std::shared_ptr<Stream> self_;
  absl::Mutex mu_;
  StreamRunner::SessionPtr session_ ABSL_GUARDED_BY(mu_);
  int holds_ ABSL_GUARDED_BY(mu_) = 0;
  bool writing_ ABSL_GUARDED_BY(mu_) = false, finished_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> ending_ ABSL_GUARDED_BY(mu_);
};

WorkService::WorkService(ServiceParts parts, Desk& desk, StreamRunner& runner, int max_streams, absl::Duration recheck)
    : parts_(std::move(parts)), desk_(desk), runner_(runner), max_streams_(max_streams), recheck_(recheck) {}

grpc::ServerBidiReactor<pb::WorkerMessage, pb::ServerMessage>* WorkService::Work(grpc::CallbackServerContext* context) {
  auto stream = std::make_shared<Stream>(*this, context);
  Stream* const raw = stream.get();
  if (++streams_ > max_streams_) {
    raw->Begin(Busy());
  } else {
    raw->Begin(absl::OkStatus());
  }
  return raw;
}

}  // namespace mainstay::worker
