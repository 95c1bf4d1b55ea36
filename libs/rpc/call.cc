// SPDX-License-Identifier: Apache-2.0
#include "libs/rpc/call.h"

#include <google/protobuf/descriptor.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/error_details.h>
#include <prometheus/histogram.h>

#include <exception>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "libs/base/crypto.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"
#include "libs/telemetry/trace.h"
#include "mainstay/common/v1/options.pb.h"

namespace mainstay::rpc {
namespace {

constexpr char kPrincipal[] = "mainstay-principal";
constexpr char kTraceparent[] = "traceparent";
constexpr char kRequestId[] = "x-request-id";
constexpr char kDomain[] = "mainstay";
constexpr std::string_view kEdge = "gateway";
constexpr absl::Duration kDefaultDeadline = absl::Seconds(30);
constexpr int kMaxMessage = 16 << 20;
constexpr size_t kMaxErrors = 20;
constexpr size_t kMaxText = 1024;  // of a name or a detail, so that all fit into the trailers

std::string_view Metadata(const grpc::ServerContextBase& context, const char* key) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(key);
  return found == metadata.end() ? std::string_view() : std::string_view(found->second.data(), found->second.size());
}

// A place as a field path of BadRequest: "pointer:/name", "parameter:limit", "header:If-Match", so that it comes back
// as what it was.
constexpr std::string_view kPlaces[] = {"pointer:", "parameter:", "header:"};

absl::Time ToTime(std::chrono::system_clock::time_point deadline) {
  return deadline == std::chrono::system_clock::time_point::max() ? absl::Now() + kDefaultDeadline
                                                                  : absl::FromChrono(deadline);
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const Problem problem = ProblemFromStatus(status);
  google::rpc::Status details;
  // Codes agree by number (both are google.rpc.Code).
  details.set_code(int(status.code()));
  details.set_message(problem.detail.empty() ? std::string(FindProblemType(problem.type).title) : problem.detail);
  google::rpc::ErrorInfo info;
  info.set_reason(problem.type);
  info.set_domain(kDomain);
  for (const auto& [name, value] : problem.members) (*info.mutable_metadata())[name] = value;
  if (!problem.detail.empty()) (*info.mutable_metadata())["detail"] = problem.detail;
  details.add_details()->PackFrom(info);
  if (!problem.errors.empty()) {
    google::rpc::BadRequest bad;
    for (const FieldError& error : problem.errors) {
      if (size_t(bad.field_violations_size()) == kMaxErrors) break;
      auto* violation = bad.add_field_violations();
      violation->set_field(StrCat(kPlaces[size_t(error.place)], TruncateUtf8(error.name, kMaxText)));
      violation->set_description(StrCat(error.code, ": ", TruncateUtf8(error.detail, kMaxText)));
    }
    details.add_details()->PackFrom(bad);
  }
  if (problem.retry_after) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(*problem.retry_after));
    retry.mutable_retry_delay()->set_nanos(int32_t(absl::ToInt64Nanoseconds(*problem.retry_after % absl::Seconds(1))));
    details.add_details()->PackFrom(retry);
  }
  grpc::Status out;
  if (!grpc::SetErrorDetails(details, &out).ok())
    return grpc::Status(grpc::StatusCode(status.code()), details.message());
  return out;
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status plain(absl::StatusCode(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (status.error_details().empty() || !grpc::ExtractErrorDetails(status, &details).ok()) return plain;
  std::optional<Problem> problem;
  google::rpc::BadRequest bad;
  google::rpc::RetryInfo retry;
  bool has_retry = false;
  for (const auto& any : details.details()) {
    google::rpc::ErrorInfo info;
    if (any.UnpackTo(&info) && info.domain() == kDomain) {
      problem.emplace();
      problem->type = info.reason();
      for (const auto& [name, value] : info.metadata()) {
        if (name == "detail") {
          problem->detail = value;
        } else {
          problem->members.emplace_back(name, value);
        }
      }
    } else if (any.UnpackTo(&retry)) {
      has_retry = true;
    } else {
      any.UnpackTo(&bad);
    }
  }
  if (!problem) return plain;
  for (const auto& violation : bad.field_violations()) {
    FieldError error;
    error.name = violation.field();
    for (size_t i = 0; i < std::size(kPlaces); ++i) {
      if (violation.field().compare(0, kPlaces[i].size(), kPlaces[i]) == 0) {
        error.place = FieldError::Place(i);
        error.name = violation.field().substr(kPlaces[i].size());
      }
    }
    const std::string& description = violation.description();
    const size_t colon = description.find(": ");
    error.code = description.substr(0, colon);
    if (colon != std::string::npos) error.detail = description.substr(colon + 2);
    problem->errors.push_back(std::move(error));
  }
  if (has_retry)
    problem->retry_after =
        absl::Seconds(retry.retry_delay().seconds()) + absl::Nanoseconds(retry.retry_delay().nanos());
  return MakeProblem(*std::move(problem));
}

struct Guard::Impl {
  struct Method {
    std::string scope;
    bool internal = false;
    prometheus::Histogram* seconds = nullptr;
  };
  const std::string service;
  const Verifier verifier;
  const HasScope has_scope;
  absl::Mutex mu;
  absl::flat_hash_map<std::string, Method> methods ABSL_GUARDED_BY(mu);

  // What the proto says of "package.Service/Method". A method that is neither scoped nor internal is a mistake in the
  // proto: refused.
  absl::StatusOr<Method> Find(std::string_view name) {
    const std::string key(name);
    absl::MutexLock lock(&mu);
    if (const auto found = methods.find(key); found != methods.end()) return found->second;
    std::string full = key;
    if (const size_t slash = full.find('/'); slash != std::string::npos) full[slash] = '.';
    const auto* descriptor = google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(full);
    if (descriptor == nullptr) return absl::InternalError(StrCat("no method ", name, " in the protos"));
    Method method;
    method.scope = descriptor->options().GetExtension(common::v1::scope);
    method.internal = descriptor->options().GetExtension(common::v1::internal);
    if (method.scope.empty() && !method.internal)
      return absl::InternalError(StrCat("method ", name, " declares neither scope nor internal"));
    method.seconds = &metrics::Histogram("mainstay_rpc_server_seconds", "Time to serve an RPC.",
                                         metrics::LatencyBuckets(), {{"method", key}});
    return methods[key] = method;
  }
};

Guard::Guard(std::string service, Verifier verifier, HasScope has_scope)
    : impl_(new Impl{std::move(service), std::move(verifier), std::move(has_scope)}) {}
Guard::~Guard() = default;

absl::StatusOr<CallContext> Guard::Admit(const grpc::ServerContextBase& context, std::string_view method_name) const {
  ASSIGN_OR_RETURN(const Impl::Method method, impl_->Find(method_name));
  ASSIGN_OR_RETURN(VerifiedPrincipal verified, impl_->verifier.Verify(Metadata(context, kPrincipal)));
  // What the gateway signs for callers from outside has no business here; for itself it acts as a service.
  if (method.internal && verified.issuer == kEdge && verified.principal.subject.compare(0, 8, "service:") != 0)
    return MakeProblem("forbidden", "this is for services of the suite");
  return Admit(context, method_name, std::move(verified.principal));
}

absl::StatusOr<CallContext> Guard::Admit(const grpc::ServerContextBase& context, std::string_view method_name,
                                         Principal principal) const {
  ASSIGN_OR_RETURN(const Impl::Method method, impl_->Find(method_name));
  CallContext call;
  call.principal = std::move(principal);
  if (!method.internal && !impl_->has_scope(call.principal.roles, method.scope))
    return MakeProblem("forbidden", StrCat("this needs the scope ", method.scope));
  call.deadline = ToTime(context.deadline());
  if (call.deadline <= absl::Now()) return absl::DeadlineExceededError("the deadline had passed on arrival");
  const std::string_view request_id = Metadata(context, kRequestId);
  call.request_id = request_id.empty() ? HexEncode(RandomBytes(16)) : std::string(TruncateUtf8(request_id, 64));
  call.traceparent = trace::Child(Metadata(context, kTraceparent)).Traceparent();
  return call;
}

grpc::Status Guard::Handle(const grpc::ServerContextBase& context, std::string_view method,
                           absl::FunctionRef<absl::Status(const CallContext&)> body) const {
  const absl::Time start = absl::Now();
  absl::StatusOr<CallContext> call = Admit(context, method);
  absl::Status status = call.status();
  if (status.ok()) {
    try {
      status = body(*call);
    } catch (const std::exception& e) {
      status = absl::InternalError(StrCat("unexpected exception: ", e.what()));
    }
  }
  return Conclude(method, call, start, status);
}

grpc::Status Guard::Conclude(std::string_view method, const absl::StatusOr<CallContext>& call, absl::Time began,
                             const absl::Status& status) const {
  const absl::Duration elapsed = absl::Now() - began;
  if (auto found = impl_->Find(method); found.ok()) found->seconds->Observe(absl::ToDoubleSeconds(elapsed));
  const bool ours = status.code() == absl::StatusCode::kInternal || status.code() == absl::StatusCode::kUnknown ||
                    status.code() == absl::StatusCode::kDataLoss;
  const auto level = ours ? log::Level::kError : status.ok() ? log::Level::kDebug : log::Level::kInfo;
  log::Write(level, "rpc",
             {{"method", method},
              {"status", absl::StatusCodeToString(status.code())},
              {"detail", ToStd(status.message())},
              {"tenant", call.ok() ? call->principal.tenant : ""},
              {"subject", call.ok() ? call->principal.subject : ""},
              {"request_id", call.ok() ? call->request_id : ""},
              {"trace", call.ok() ? call->traceparent : ""},
              {"ms", absl::ToDoubleMilliseconds(elapsed)}});
  return ToGrpc(status);
}

void PrepareCall(grpc::ClientContext& context, const CallContext& call, Signer& signer, std::string_view audience) {
  const absl::Time deadline = call.deadline == absl::InfiniteFuture() ? absl::Now() + kDefaultDeadline : call.deadline;
  context.set_deadline(absl::ToChronoTime(deadline));
  context.AddMetadata(kPrincipal, signer.Sign(call.principal, audience));
  context.AddMetadata(kTraceparent, trace::Child(call.traceparent).Traceparent());
  if (!call.request_id.empty()) context.AddMetadata(kRequestId, call.request_id);
}

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessage);
  arguments.SetMaxSendMessageSize(kMaxMessage);
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, 64 << 10);
  arguments.SetLoadBalancingPolicyName("round_robin");
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  const bool has_scheme = address.find(':') != std::string::npos &&
                          (address.compare(0, 5, "unix:") == 0 || address.find(":///") != std::string::npos);
  return grpc::CreateCustomChannel(has_scheme ? address : "dns:///" + address, grpc::InsecureChannelCredentials(),
                                   arguments);
}

}  // namespace mainstay::rpc
