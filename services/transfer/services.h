// SPDX-License-Identifier: Apache-2.0
// transfer.v1 over libs/transfer: from RPC to library, nothing more. Handlers wait on gRPC's threads; an upload or
// download holds one for as long as it lasts, so their number is bounded apart (beyond it: overloaded), and short calls
// always find a thread.
#pragma once

#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/catalog/model.h"
#include "libs/jobs/enqueue.h"
#include "libs/postgres/pool.h"
#include "libs/records/system_view.h"
#include "libs/rpc/call.h"
#include "libs/transfer/blobs.h"
#include "libs/transfer/options.h"
#include "mainstay/transfer/v1/transfer.grpc.pb.h"

namespace mainstay::transfer {

// Streams at once.
class StreamPermits {
 public:
  explicit StreamPermits(int limit) : limit_(limit) {}
  class Permit {
   public:
    explicit Permit(StreamPermits* owner) : owner_(owner) {}
    Permit(Permit&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)) {}
    ~Permit();

   private:
    StreamPermits* owner_;
  };
  absl::StatusOr<Permit> Take();

 private:
  const int limit_;
  absl::Mutex mu_;
  int taken_ ABSL_GUARDED_BY(mu_) = 0;
};

struct ServiceParts {
  const rpc::Guard& guard;
  postgres::Pool& pool;
  Blobs& blobs;
  jobs::Handoff& handoff;
  std::function<catalog::ModelPtr()> model;
  StreamPermits& permits;
  std::string cursor_key;  // 32 bytes
  TransferOptions options;
};

class ImportsServiceImpl : public v1::ImportsService::Service {
 public:
  explicit ImportsServiceImpl(ServiceParts parts);
  grpc::Status CreateImport(grpc::ServerContext* context, grpc::ServerReader<v1::CreateImportRequest>* reader,
                            v1::Import* response) override;
  grpc::Status GetImport(grpc::ServerContext* context, const v1::GetImportRequest* request,
                         v1::Import* response) override;
  grpc::Status ListImports(grpc::ServerContext* context, const v1::ListImportsRequest* request,
                           v1::ListImportsResponse* response) override;
  grpc::Status ListImportErrors(grpc::ServerContext* context, const v1::ListImportErrorsRequest* request,
                                v1::ListImportErrorsResponse* response) override;
  grpc::Status DownloadImportReport(grpc::ServerContext* context, const v1::DownloadImportReportRequest* request,
                                    grpc::ServerWriter<common::v1::FileChunk>* writer) override;

 private:
  const ServiceParts parts_;
  records::SystemView imports_, errors_;
};

class ExportsServiceImpl : public v1::ExportsService::Service {
 public:
  explicit ExportsServiceImpl(ServiceParts parts);
  grpc::Status CreateExport(grpc::ServerContext* context, const v1::CreateExportRequest* request,
                            v1::Export* response) override;
  grpc::Status GetExport(grpc::ServerContext* context, const v1::GetExportRequest* request,
                         v1::Export* response) override;
  grpc::Status ListExports(grpc::ServerContext* context, const v1::ListExportsRequest* request,
                           v1::ListExportsResponse* response) override;
  grpc::Status DownloadExport(grpc::ServerContext* context, const v1::DownloadExportRequest* request,
                              grpc::ServerWriter<common::v1::FileChunk>* writer) override;

 private:
  const ServiceParts parts_;
  records::SystemView exports_;
};

class BlobsServiceImpl : public v1::BlobsService::Service {
 public:
  explicit BlobsServiceImpl(ServiceParts parts) : parts_(std::move(parts)) {}
  grpc::Status WriteBlob(grpc::ServerContext* context, grpc::ServerReader<v1::WriteBlobRequest>* reader,
                         v1::Blob* response) override;
  grpc::Status ReadBlob(grpc::ServerContext* context, const v1::ReadBlobRequest* request,
                        grpc::ServerWriter<common::v1::FileChunk>* writer) override;
  grpc::Status DeleteBlob(grpc::ServerContext* context, const v1::DeleteBlobRequest* request,
                          v1::DeleteBlobResponse* response) override;

 private:
  const ServiceParts parts_;
};

}  // namespace mainstay::transfer
