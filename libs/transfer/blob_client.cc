// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/blob_client.h"

#include <grpcpp/grpcpp.h>

#include "absl/time/time.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/rpc/call.h"
#include "libs/rpc/principal_token.h"
#include "mainstay/transfer/v1/transfer.grpc.pb.h"

namespace mainstay::transfer {
namespace {

constexpr char kAudience[] = "transfer";

class StreamReader : public BlobReader {
 public:
  explicit StreamReader(std::string id) { info_.id = std::move(id); }
  ~StreamReader() override {
    if (stream_ == nullptr || ended_) return;
    context_.TryCancel();
    common::v1::FileChunk rest;
    while (stream_->Read(&rest)) {
    }
    stream_->Finish();
  }
  absl::Status Open(v1::BlobsService::Stub& stub, const CallContext& call, rpc::Signer& signer) {
    rpc::PrepareCall(context_, call, signer, kAudience);
    v1::ReadBlobRequest request;
    request.set_id(info_.id);
    stream_ = stub.ReadBlob(&context_, request);
    // The first chunk brings the description; a refusal comes here too.
    if (!stream_->Read(&chunk_)) return End();
    info_.size = chunk_.info().size();
    info_.sha256 = chunk_.info().sha256();
    info_.content_type = chunk_.info().content_type();
    info_.name = chunk_.info().name();
    pending_ = true;
    return absl::OkStatus();
  }
  const BlobInfo& info() const override { return info_; }
  absl::StatusOr<std::string_view> Next() override {
    while (!ended_) {
      if (!pending_ && !stream_->Read(&chunk_)) {
        RETURN_IF_ERROR(End());
        if (received_ != info_.size) return absl::UnavailableError(StrCat("the stream of ", info_.id, " ended early"));
        break;
      }
      pending_ = false;
      received_ += static_cast<int64_t>(chunk_.data().size());
      if (!chunk_.data().empty()) return std::string_view(chunk_.data());
    }
    return std::string_view();
  }

 private:
  absl::Status End() {
    ended_ = true;
    return rpc::FromGrpc(stream_->Finish());
  }
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<common::v1::FileChunk>> stream_;
  common::v1::FileChunk chunk_;
  BlobInfo info_;
  int64_t received_ = 0;
  bool pending_ = false, ended_ = false;
};

class StreamWriter : public BlobWriter {
 public:
  StreamWriter(v1::BlobsService::Stub& stub, const CallContext& call, rpc::Signer& signer, const BlobSpec& spec) {
    rpc::PrepareCall(context_, call, signer, kAudience);
    stream_ = stub.WriteBlob(&context_, &answer_);
    const timespec expires = absl::ToTimespec(spec.expires_at);
    request_.mutable_expires_at()->set_seconds(expires.tv_sec);
    request_.mutable_expires_at()->set_nanos(static_cast<int32_t>(expires.tv_nsec));
    auto* info = request_.mutable_chunk()->mutable_info();
    info->set_name(spec.name);
    info->set_content_type(spec.content_type);
    info->set_size(-1);
  }
  ~StreamWriter() override {
    if (finished_) return;
    context_.TryCancel();
    stream_->Finish();
  }
  absl::Status Write(std::string_view data) override {
    while (!data.empty()) {
      const std::string_view piece = data.substr(0, kChunkBytes);
      request_.mutable_chunk()->set_data(piece.data(), piece.size());
      RETURN_IF_ERROR(Send());
      data.remove_prefix(piece.size());
    }
    return absl::OkStatus();
  }
  absl::StatusOr<BlobInfo> Finish() override {
    if (!sent_) RETURN_IF_ERROR(Send());
    if (finished_) return absl::FailedPreconditionError("the blob's stream has ended");
    stream_->WritesDone();
    finished_ = true;
    RETURN_IF_ERROR(rpc::FromGrpc(stream_->Finish()));
    return BlobInfo{answer_.id(), answer_.size(), answer_.sha256(), answer_.content_type(), answer_.name()};
  }

 private:
  // Blocks while the other side is behind: that is the flow control.
  absl::Status Send() {
    if (finished_) return absl::FailedPreconditionError("the blob's stream has ended");
    if (!stream_->Write(request_)) {
      finished_ = true;
      const absl::Status status = rpc::FromGrpc(stream_->Finish());
      return status.ok() ? absl::UnavailableError("the transfer service ended the stream early") : status;
    }
    sent_ = true;
    request_.clear_expires_at();
    request_.mutable_chunk()->clear_info();
    return absl::OkStatus();
  }
  grpc::ClientContext context_;
  v1::Blob answer_;
  v1::WriteBlobRequest request_;
  std::unique_ptr<grpc::ClientWriter<v1::WriteBlobRequest>> stream_;
  bool sent_ = false, finished_ = false;
};

class GrpcBlobClient : public BlobClient {
 public:
  GrpcBlobClient(std::shared_ptr<grpc::Channel> channel, rpc::Signer& signer)
      : stub_(v1::BlobsService::NewStub(std::move(channel))), signer_(signer) {}
  absl::StatusOr<std::unique_ptr<BlobReader>> Read(const CallContext& context, std::string_view id) override {
    auto reader = std::make_unique<StreamReader>(std::string(id));
    RETURN_IF_ERROR(reader->Open(*stub_, context, signer_));
    return std::unique_ptr<BlobReader>(std::move(reader));
  }
  absl::StatusOr<std::unique_ptr<BlobWriter>> Write(const CallContext& context, const BlobSpec& spec) override {
    return std::unique_ptr<BlobWriter>(new StreamWriter(*stub_, context, signer_, spec));
  }
  absl::Status Delete(const CallContext& context, std::string_view id) override {
    grpc::ClientContext call;
    rpc::PrepareCall(call, context, signer_, kAudience);
    v1::DeleteBlobRequest request;
    request.set_id(std::string(id));
    v1::DeleteBlobResponse response;
    return rpc::FromGrpc(stub_->DeleteBlob(&call, request, &response));
  }

 private:
  std::unique_ptr<v1::BlobsService::Stub> stub_;
  rpc::Signer& signer_;
};

}  // namespace

std::unique_ptr<BlobClient> MakeBlobClient(std::shared_ptr<grpc::Channel> channel, rpc::Signer& signer) {
  return std::make_unique<GrpcBlobClient>(std::move(channel), signer);
}

}  // namespace mainstay::transfer
