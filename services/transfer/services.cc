// SPDX-License-Identifier: Apache-2.0
#include "services/transfer/services.h"

#include <pqxx/pqxx>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/introspect.h"
#include "libs/records/list.h"
#include "libs/telemetry/log.h"
#include "libs/transfer/imports.h"
#include "libs/transfer/report.h"

namespace mainstay::transfer {
namespace {

void FillTime(absl::Time time, google::protobuf::Timestamp* out) {
  const timespec spec = absl::ToTimespec(time);
  out->set_seconds(spec.tv_sec);
  out->set_nanos(static_cast<int32_t>(spec.tv_nsec));
}

void FillCounts(std::string_view json, google::protobuf::Map<std::string, int64_t>* out) {
  const auto document = JsonDocument::Parse(std::string(json));
  if (!document.ok() || !document->root().is_object()) return;
  for (const JsonValue::Member& member : document->root().members()) {
    int64_t count = 0;
    if (absl::SimpleAtoi(ToAbsl(member.value.text()), &count)) (*out)[std::string(member.key)] = count;
  }
}

void Fill(const ImportRow& row, v1::Import* out) {
  out->set_id(FormatId("imp", row.id));
  out->set_tenant(row.tenant);
  out->set_resource(row.request.resource);
  out->set_mode(row.request.mode);
  out->set_commit(row.request.commit);
  out->set_on_error(row.request.on_error);
  out->set_dry_run(row.request.dry_run);
  v1::ImportState state = v1::IMPORT_STATE_UNSPECIFIED;
  v1::ImportState_Parse(StrCat("IMPORT_STATE_", absl::AsciiStrToUpper(row.state)), &state);
  out->set_state(state);
  out->set_file_name(row.file_name);
  out->set_file_size(row.file_size);
  out->set_sha256(row.sha256);
  auto* rows = out->mutable_rows();
  rows->set_total(row.rows.total);
  rows->set_created(row.rows.created);
  rows->set_updated(row.rows.updated);
  rows->set_unchanged(row.rows.unchanged);
  rows->set_deleted(row.rows.deleted);
  rows->set_skipped(row.rows.skipped);
  rows->set_error(row.rows.error);
  FillCounts(row.errors_by_code, out->mutable_errors_by_code());
  if (const auto job = ParseUuid(row.job); job.ok()) out->set_job_id(FormatId("job", *job));
  out->set_error_code(row.error_code);
  out->set_error(row.error);
  out->set_created_by(row.created_by);
  FillTime(row.created_at, out->mutable_created_at());
  if (row.finished_at != absl::InfinitePast()) FillTime(row.finished_at, out->mutable_finished_at());
  out->set_catalog_hash(row.catalog_hash);
}

void Fill(const ExportRow& row, v1::Export* out) {
  out->set_id(FormatId("exp", row.id));
  out->set_tenant(row.tenant);
  out->set_resource(row.request.resource);
  out->set_format(row.request.format);
  out->set_query(row.request.query);
  v1::ExportState state = v1::EXPORT_STATE_UNSPECIFIED;
  v1::ExportState_Parse(StrCat("EXPORT_STATE_", absl::AsciiStrToUpper(row.state)), &state);
  out->set_state(state);
  out->set_rows(row.rows);
  out->set_size(row.size);
  out->set_sha256(row.sha256);
  if (const auto job = ParseUuid(row.job); job.ok()) out->set_job_id(FormatId("job", *job));
  out->set_error_code(row.error_code);
  out->set_error(row.error);
  out->set_created_by(row.created_by);
  FillTime(row.created_at, out->mutable_created_at());
  if (row.finished_at != absl::InfinitePast()) FillTime(row.finished_at, out->mutable_finished_at());
  FillTime(row.expires_at, out->mutable_expires_at());
  out->set_catalog_hash(row.catalog_hash);
}

absl::StatusOr<Uuid> IdParameter(std::string_view prefix, std::string_view text) {
  auto id = ParseId(prefix, text);
  // What cannot be an id names nothing.
  if (!id.ok())
    return MakeProblem("not-found",
                       StrCat("there is no ", prefix == "imp" ? "import " : "export ", TruncateUtf8(text, 64)));
  return id;
}

// The fields of one import or export by name, for lists; id and counts that the page's flat columns carry.
std::string_view CellOf(const records::RowsPage& page, size_t row, std::string_view field) {
  for (size_t c = 0; c < page.fields.size(); ++c)
    if (page.fields[c] == field) return page.rows[row][c] ? std::string_view(*page.rows[row][c]) : std::string_view();
  return {};
}
int64_t NumberOf(const records::RowsPage& page, size_t row, std::string_view field) {
  int64_t value = 0;
  return absl::SimpleAtoi(ToAbsl(CellOf(page, row, field)), &value) ? value : 0;
}

// A resource over one of our views, read from the database once.
absl::StatusOr<catalog::Resource> Described(pqxx::transaction_base& tx, std::string_view view,
                                            const catalog::SystemResourceOptions& options, absl::Mutex& mu,
                                            std::optional<catalog::Resource>& known) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  absl::MutexLock lock(&mu);
  if (!known) {
    ASSIGN_OR_RETURN(known, catalog::SystemResource(tx, view, options));
  }
  return *known;
}

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
        ImportRow row;
        const absl::Status stored =
            parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
              ASSIGN_OR_RETURN(
                  created, transfer::CreateImport(tx, call, request, file, model->hash, parts_.options, absl::Now()));
              ASSIGN_OR_RETURN(row, transfer::GetImport(tx, call.principal, created.id));
              return absl::OkStatus();
            });
        if (!stored.ok() || created.existed) {
          const absl::Status removed = parts_.blobs.Delete(call, file.id);
          if (!removed.ok()) log::Info("an upload that is not needed stays until it expires", {{"blob", file.id}});
        }
        RETURN_IF_ERROR(stored);
        parts_.handoff.Publish(created.enqueued);
        Fill(row, response);
        return absl::OkStatus();
      });
}

grpc::Status ImportsServiceImpl::GetImport(grpc::ServerContext* context, const v1::GetImportRequest* request,
                                           v1::Import* response) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ImportsService/GetImport", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, IdParameter("imp", request->id()));
        return parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const ImportRow row, transfer::GetImport(tx, call.principal, id));
          response->Clear();
          Fill(row, response);
          return absl::OkStatus();
        });
      });
}

grpc::Status ImportsServiceImpl::ListImports(grpc::ServerContext* context, const v1::ListImportsRequest* request,
                                             v1::ListImportsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ImportsService/ListImports", [&](const CallContext& call) -> absl::Status {
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          response->Clear();
          ASSIGN_OR_RETURN(const catalog::Resource resource,
                           Described(tx, "mainstay.imports_view",
                                     {.name = "imports",
                                      .key = "uid",
                                      .default_sort = "-uid",
                                      .filterable = {"id", "resource", "mode", "state", "sha256", "job_id",
                                                     "created_at", "created_by"},
                                      .sortable = {"created_at"},
                                      .hidden = {"uid"},
                                      .offset_allowed = true},
                                     mu_, imports_));
          ASSIGN_OR_RETURN(records::RowsPage page,
                           records::ListRows(tx, resource, *parts_.model(), call, request->query(), parts_.cursor_key));
          for (size_t i = 0; i < page.rows.size(); ++i) {
            v1::Import* out = response->add_data();
            RETURN_IF_ERROR(records::FillMessage(page, i, out));
            if (std::find(page.fields.begin(), page.fields.end(), "rows_total") == page.fields.end()) continue;
            auto* rows = out->mutable_rows();
            rows->set_total(NumberOf(page, i, "rows_total"));
            rows->set_created(NumberOf(page, i, "rows_created"));
            rows->set_updated(NumberOf(page, i, "rows_updated"));
            rows->set_unchanged(NumberOf(page, i, "rows_unchanged"));
            rows->set_deleted(NumberOf(page, i, "rows_deleted"));
            rows->set_skipped(NumberOf(page, i, "rows_skipped"));
            rows->set_error(NumberOf(page, i, "rows_error"));
            FillCounts(CellOf(page, i, "errors_by_code_json"), out->mutable_errors_by_code());
          }
          *response->mutable_page() = std::move(page.page);
          return absl::OkStatus();
        });
      });
}

grpc::Status ImportsServiceImpl::ListImportErrors(grpc::ServerContext* context,
                                                  const v1::ListImportErrorsRequest* request,
                                                  v1::ListImportErrorsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ImportsService/ListImportErrors", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, IdParameter("imp", request->id()));
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          response->Clear();
          RETURN_IF_ERROR(transfer::GetImport(tx, call.principal, id).status());
          ASSIGN_OR_RETURN(const catalog::Resource resource,
                           Described(tx, "mainstay.import_errors_view",
                                     {.name = "import-errors",
                                      .key = "id",
                                      .default_sort = "row,id",
                                      .filterable = {"import", "row", "line", "column", "field", "code", "severity"},
                                      .sortable = {"row", "line"},
                                      .hidden = {},
                                      .max_limit = 1000,
                                      .offset_allowed = true},
                                     mu_, errors_));
          // Their filter within this import.
          common::v1::ListQuery query = request->query();
          common::v1::Filter filter;
          auto* own = filter.mutable_and_()->add_filters()->mutable_condition();
          own->set_field("import");
          own->set_op("eq");
          own->add_values(id.ToString());
          if (query.has_filter()) *filter.mutable_and_()->add_filters() = query.filter();
          *query.mutable_filter() = std::move(filter);
          ASSIGN_OR_RETURN(records::RowsPage page,
                           records::ListRows(tx, resource, *parts_.model(), call, query, parts_.cursor_key));
          for (size_t i = 0; i < page.rows.size(); ++i)
            RETURN_IF_ERROR(records::FillMessage(page, i, response->add_data()));
          *response->mutable_page() = std::move(page.page);
          return absl::OkStatus();
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
        ASSIGN_OR_RETURN(const Uuid id, IdParameter("imp", request->id()));
        ImportRow row;
        RETURN_IF_ERROR(parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(row, transfer::GetImport(tx, call.principal, id));
          return absl::OkStatus();
        }));
        common::v1::FileChunk chunk;
        chunk.mutable_info()->set_name(StrCat(FormatId("imp", id), "-report.csv"));
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

grpc::Status ExportsServiceImpl::CreateExport(grpc::ServerContext* context, const v1::CreateExportRequest* request,
                                              v1::Export* response) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ExportsService/CreateExport", [&](const CallContext& call) -> absl::Status {
        const catalog::ModelPtr model = parts_.model();
        ASSIGN_OR_RETURN(const ExportRequest resolved, ResolveExport(*model, call.principal, request->resource(),
                                                                     request->format(), request->query()));
        CreatedExport created;
        ExportRow row;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(created,
                           transfer::CreateExport(tx, call, resolved, model->hash, parts_.options, absl::Now()));
          ASSIGN_OR_RETURN(row, transfer::GetExport(tx, call.principal, created.id));
          return absl::OkStatus();
        }));
        parts_.handoff.Publish(created.enqueued);
        Fill(row, response);
        return absl::OkStatus();
      });
}

grpc::Status ExportsServiceImpl::GetExport(grpc::ServerContext* context, const v1::GetExportRequest* request,
                                           v1::Export* response) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ExportsService/GetExport", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, IdParameter("exp", request->id()));
        return parts_.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const ExportRow row, transfer::GetExport(tx, call.principal, id));
          response->Clear();
          Fill(row, response);
          return absl::OkStatus();
        });
      });
}

grpc::Status ExportsServiceImpl::ListExports(grpc::ServerContext* context, const v1::ListExportsRequest* request,
                                             v1::ListExportsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ExportsService/ListExports", [&](const CallContext& call) -> absl::Status {
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          response->Clear();
          ASSIGN_OR_RETURN(
              const catalog::Resource resource,
              Described(tx, "mainstay.exports_view",
                        {.name = "exports",
                         .key = "uid",
                         .default_sort = "-uid",
                         .filterable = {"id", "resource", "format", "state", "job_id", "created_at", "created_by"},
                         .sortable = {"created_at"},
                         .hidden = {"uid"},
                         .offset_allowed = true},
                        mu_, exports_));
          ASSIGN_OR_RETURN(records::RowsPage page,
                           records::ListRows(tx, resource, *parts_.model(), call, request->query(), parts_.cursor_key));
          for (size_t i = 0; i < page.rows.size(); ++i)
            RETURN_IF_ERROR(records::FillMessage(page, i, response->add_data()));
          *response->mutable_page() = std::move(page.page);
          return absl::OkStatus();
        });
      });
}

grpc::Status ExportsServiceImpl::DownloadExport(grpc::ServerContext* context, const v1::DownloadExportRequest* request,
                                                grpc::ServerWriter<common::v1::FileChunk>* writer) {
  return parts_.guard.Handle(
      *context, "mainstay.transfer.v1.ExportsService/DownloadExport", [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const StreamPermits::Permit permit, parts_.permits.Take());
        ASSIGN_OR_RETURN(const Uuid id, IdParameter("exp", request->id()));
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
