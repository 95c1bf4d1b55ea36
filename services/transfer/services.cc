// SPDX-License-Identifier: Apache-2.0
#include "services/transfer/services.h"

#include <pqxx/pqxx>

#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/telemetry/log.h"
#include "libs/transfer/escape.h"
#include "libs/transfer/imports.h"
#include "libs/transfer/report.h"

namespace mainstay::transfer {
namespace {

absl::Status ClientGone() {
  return absl::CancelledError("the client went away");
}

// Sends a file: the first chunk describes it, a problem before it stays a problem.
absl::Status SendFile(BlobReader& reader, common::v1::FileInfo info,
                      grpc::ServerWriter<common::v1::FileChunk>* writer) {
  common::v1::FileChunk chunk;
  *chunk.mutable_info() = std::move(info);
  bool sent = false;
  while (true) {
    ASSIGN_OR_RETURN(const std::string_view piece, reader.Next());
    if (piece.empty() && sent) return absl::OkStatus();
    chunk.set_data(piece.data(), piece.size());
    if (!writer->Write(chunk)) return ClientGone();
    chunk.Clear();
    sent = true;
    if (piece.empty()) return absl::OkStatus();
  }
}

}  // namespace

StreamPermits::Permit::~Permit() {
  if (owner_ == nullptr) return;
  absl::MutexLock lock(&owner_->mu_);
  --owner_->taken_;
}

absl::StatusOr<StreamPermits::Permit> StreamPermits::Take() {
  absl::MutexLock lock(&mu_);
  if (taken_ >= limit_)
    return MakeProblem(
        {.type = "overloaded", .detail = "too many files are being sent at once", .retry_after = absl::Seconds(2)});
  ++taken_;
  return Permit(this);
}

// ---- imports ----

ImportsServiceImpl::ImportsServiceImpl(ServiceParts parts)
    : parts_(std::move(parts)),
      imports_({.view = "mainstay.imports_view",
                .id_prefix = "imp",
                .singular = "import",
                .resource = {.name = "imports",
                             .key = "uid",
                             .default_sort = "-uid",
                             .filterable = {"id", "resource", "mode", "state", "sha256", "job_id", "created_at",
                                            "created_by"},
                             .sortable = {"created_at"},
                             .hidden = {"uid"},
                             .offset_allowed = true},
                .cursor_key = parts_.cursor_key},
               parts_.model),
      errors_({.view = "mainstay.import_errors_view",
               .singular = "error",
               .resource = {.name = "import-errors",
                            .key = "id",
                            .default_sort = "row,id",
                            .filterable = {"import", "row", "line", "column", "field", "code", "severity"},
                            .sortable = {"row", "line"},
                            .max_limit = 1000,
                            .offset_allowed = true},
               .cursor_key = parts_.cursor_key},
              parts_.model) {}

grpc::Status ImportsServiceImpl::CreateImport(grpc::ServerContext* context,
                                              grpc::ServerReader<v1::CreateImportRequest>* reader,
                                              v1::Import* response) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ImportsService/CreateImport", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const StreamPermits::Permit permit, parts_.permits.Take());
        v1::CreateImportRequest message;
        if (!reader->Read(&message)) return MakeProblem("malformed-request", "the upload has no first message");
        const v1::ImportOptions options = message.options();
        const catalog::ModelPtr model = parts_.model();
        ASSIGN_OR_RETURN(const ImportRequest request,
                         ResolveImport(*model, call.principal, options.resource(), options.import(), options.mode(),
                                       options.commit(), options.on_error(), options.dry_run()));
        const int64_t announced = message.chunk().info().size();
        const bool has_info = message.chunk().has_info();
        ASSIGN_OR_RETURN(
            std::unique_ptr<BlobWriter> writer,
            parts_.blobs.Write(call, {.name = message.chunk().info().name(),
                                      .content_type = message.chunk().info().content_type(),
                                      .expires_at = absl::Now() + parts_.options.import_retention + absl::Hours(24)}));
        int64_t received = 0;
        do {
          received += static_cast<int64_t>(message.chunk().data().size());
          RETURN_IF_ERROR(writer->Write(message.chunk().data()));
        } while (reader->Read(&message));
        // A stream that broke off ends the same way as one that was finished: only the context tells.
        if (context->IsCancelled()) return ClientGone();
        if (has_info && announced >= 0 && announced != received && !(announced == 0 && received > 0))
          return MakeProblem("malformed-request",
                             StrCat("the upload has ", received, " bytes where ", announced, " were announced"));
        ASSIGN_OR_RETURN(const BlobInfo file, writer->Finish());
        CreatedImport created;
        const absl::Status stored =
            parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
              ASSIGN_OR_RETURN(
                  created, transfer::CreateImport(tx, call, request, file, model->hash, parts_.options, absl::Now()));
              return imports_.Get(tx, call, FormatId("imp", created.id), response);
            });
        if (!stored.ok() || created.existed) {
          const absl::Status removed = parts_.blobs.Delete(call, file.id);
          if (!removed.ok()) log::Info("an upload that is not needed stays until it expires", {{"blob", file.id}});
        }
        RETURN_IF_ERROR(stored);
        parts_.handoff.Publish(created.enqueued);
        return absl::OkStatus();
      });
}

grpc::Status ImportsServiceImpl::GetImport(grpc::ServerContext* context, const v1::GetImportRequest* request,
                                           v1::Import* response) {
  return parts_.guard.Handle(*context, "mainstay.transfer.v1.ImportsService/GetImport", [&](const CallContext& call) {
    return parts_.pool.Autocommit(
        call.deadline, [&](pqxx::transaction_base& tx) { return imports_.Get(tx, call, request->id(), response); });
  });
}

grpc::Status ImportsServiceImpl::ListImports(grpc::ServerContext* context, const v1::ListImportsRequest* request,
                                             v1::ListImportsResponse* response) {
  return parts_.guard.Handle(*context, "mainstay.transfer.v1.ImportsService/ListImports", [&](const CallContext& call) {
    return parts_.pool.Snapshot(
        call.deadline, [&](pqxx::transaction_base& tx) { return imports_.List(tx, call, request->query(), response); });
  });
}

grpc::Status ImportsServiceImpl::ListImportErrors(grpc::ServerContext* context,
                                                  const v1::ListImportErrorsRequest* request,
                                                  v1::ListImportErrorsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ImportsService/ListImportErrors", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, imports_.Key(request->id()));
        // Their filter within this import.
        common::v1::ListQuery query = request->query();
        common::v1::Filter filter;
        auto* own = filter.mutable_and_()->add_filters()->mutable_condition();
        own->set_field("import");
        own->set_op("eq");
        own->add_values(id.ToString());
        if (query.has_filter()) *filter.mutable_and_()->add_filters() = query.filter();
        *query.mutable_filter() = std::move(filter);
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          RETURN_IF_ERROR(transfer::GetImport(tx, call.principal, id).status());
          return errors_.List(tx, call, query, response);
        });
      });
}

grpc::Status ImportsServiceImpl::DownloadImportReport(grpc::ServerContext* context,
                                                      const v1::DownloadImportReportRequest* request,
                                                      grpc::ServerWriter<common::v1::FileChunk>* writer) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ImportsService/DownloadImportReport",
      [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const StreamPermits::Permit permit, parts_.permits.Take());
        ASSIGN_OR_RETURN(const Uuid id, imports_.Key(request->id()));
        ImportRow row;
        RETURN_IF_ERROR(parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(row, transfer::GetImport(tx, call.principal, id));
          return absl::OkStatus();
        }));
        common::v1::FileChunk chunk;
        chunk.mutable_info()->set_name(
            StrCat(FormatId("imp", id), "-report", IsEscaped(row.file_name) ? kEscapedTag : "", ".csv"));
        chunk.mutable_info()->set_content_type("text/csv; charset=utf-8; header=present");
        chunk.mutable_info()->set_size(-1);
        return WriteReport(parts_.pool, parts_.blobs, call, row, [&](std::string_view text) -> absl::Status {
          while (!text.empty()) {
            const std::string_view piece = text.substr(0, kChunkBytes);
            chunk.set_data(piece.data(), piece.size());
            if (!writer->Write(chunk)) return ClientGone();
            chunk.Clear();
            text.remove_prefix(piece.size());
          }
          return absl::OkStatus();
        });
      });
}

// ---- exports ----

ExportsServiceImpl::ExportsServiceImpl(ServiceParts parts)
    : parts_(std::move(parts)),
      exports_({.view = "mainstay.exports_view",
                .id_prefix = "exp",
                .singular = "export",
                .resource = {.name = "exports",
                             .key = "uid",
                             .default_sort = "-uid",
                             .filterable = {"id", "resource", "format", "state", "job_id", "created_at", "created_by"},
                             .sortable = {"created_at"},
                             .hidden = {"uid"},
                             .offset_allowed = true},
                .cursor_key = parts_.cursor_key},
               parts_.model) {}

grpc::Status ExportsServiceImpl::CreateExport(grpc::ServerContext* context, const v1::CreateExportRequest* request,
                                              v1::Export* response) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ExportsService/CreateExport", [&](const CallContext& call) -> absl::Status {
        const catalog::ModelPtr model = parts_.model();
        ASSIGN_OR_RETURN(const ExportRequest resolved, ResolveExport(*model, call.principal, request->resource(),
                                                                     request->format(), request->query()));
        CreatedExport created;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(created,
                           transfer::CreateExport(tx, call, resolved, model->hash, parts_.options, absl::Now()));
          return exports_.Get(tx, call, FormatId("exp", created.id), response);
        }));
        parts_.handoff.Publish(created.enqueued);
        return absl::OkStatus();
      });
}

grpc::Status ExportsServiceImpl::GetExport(grpc::ServerContext* context, const v1::GetExportRequest* request,
                                           v1::Export* response) {
  return parts_.guard.Handle(*context, "mainstay.transfer.v1.ExportsService/GetExport", [&](const CallContext& call) {
    return parts_.pool.Autocommit(
        call.deadline, [&](pqxx::transaction_base& tx) { return exports_.Get(tx, call, request->id(), response); });
  });
}

grpc::Status ExportsServiceImpl::ListExports(grpc::ServerContext* context, const v1::ListExportsRequest* request,
                                             v1::ListExportsResponse* response) {
  return parts_.guard.Handle(*context, "mainstay.transfer.v1.ExportsService/ListExports", [&](const CallContext& call) {
    return parts_.pool.Snapshot(
        call.deadline, [&](pqxx::transaction_base& tx) { return exports_.List(tx, call, request->query(), response); });
  });
}

grpc::Status ExportsServiceImpl::DownloadExport(grpc::ServerContext* context, const v1::DownloadExportRequest* request,
                                                grpc::ServerWriter<common::v1::FileChunk>* writer) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ExportsService/DownloadExport", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const StreamPermits::Permit permit, parts_.permits.Take());
        ASSIGN_OR_RETURN(const Uuid id, exports_.Key(request->id()));
        ExportRow row;
        RETURN_IF_ERROR(parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(row, transfer::GetExport(tx, call.principal, id));
          return absl::OkStatus();
        }));
        if (row.state != "succeeded")
          return MakeProblem("conflict", StrCat("the export is ", row.state, "; there is no file"));
        ASSIGN_OR_RETURN(const Uuid blob, ParseUuid(row.blob));
        ASSIGN_OR_RETURN(std::unique_ptr<BlobReader> reader, parts_.blobs.Read(call, FormatId("blob", blob)));
        common::v1::FileInfo info;
        info.set_name(reader->info().name);
        info.set_content_type(reader->info().content_type);
        info.set_size(reader->info().size);
        info.set_sha256(reader->info().sha256);
        return SendFile(*reader, std::move(info), writer);
      });
}

// ---- blobs ----

grpc::Status BlobsServiceImpl::WriteBlob(grpc::ServerContext* context, grpc::ServerReader<v1::WriteBlobRequest>* reader,
                                         v1::Blob* response) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.BlobsService/WriteBlob", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const StreamPermits::Permit permit, parts_.permits.Take());
        v1::WriteBlobRequest message;
        if (!reader->Read(&message)) return MakeProblem("malformed-request", "the stream has no first message");
        const absl::Time expires = message.has_expires_at() ? absl::FromUnixSeconds(message.expires_at().seconds())
                                                            : absl::Now() + absl::Hours(24);
        ASSIGN_OR_RETURN(std::unique_ptr<BlobWriter> writer,
                         parts_.blobs.Write(call, {.name = message.chunk().info().name(),
                                                   .content_type = message.chunk().info().content_type(),
                                                   .expires_at = expires}));
        do {
          RETURN_IF_ERROR(writer->Write(message.chunk().data()));
        } while (reader->Read(&message));
        if (context->IsCancelled()) return ClientGone();
        ASSIGN_OR_RETURN(const BlobInfo info, writer->Finish());
        response->set_id(info.id);
        response->set_size(info.size);
        response->set_sha256(info.sha256);
        response->set_content_type(info.content_type);
        response->set_name(info.name);
        return absl::OkStatus();
      });
}

grpc::Status BlobsServiceImpl::ReadBlob(grpc::ServerContext* context, const v1::ReadBlobRequest* request,
                                        grpc::ServerWriter<common::v1::FileChunk>* writer) {
  return parts_.guard.Handle(*context, "mainstay.transfer.v1.BlobsService/ReadBlob",
                             [&](const CallContext& call) -> absl::Status {
                               ASSIGN_OR_RETURN(const StreamPermits::Permit permit, parts_.permits.Take());
                               ASSIGN_OR_RETURN(std::unique_ptr<BlobReader> reader,
                                                parts_.blobs.ReadFrom(call, request->id(), request->offset()));
                               common::v1::FileInfo info;
                               info.set_name(reader->info().name);
                               info.set_content_type(reader->info().content_type);
                               info.set_size(reader->info().size);
                               info.set_sha256(reader->info().sha256);
                               return SendFile(*reader, std::move(info), writer);
                             });
}

grpc::Status BlobsServiceImpl::DeleteBlob(grpc::ServerContext* context, const v1::DeleteBlobRequest* request,
                                          v1::DeleteBlobResponse*) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.BlobsService/DeleteBlob",
      [&](const CallContext& call) -> absl::Status { return parts_.blobs.Delete(call, request->id()); });
}

}  // namespace mainstay::transfer
