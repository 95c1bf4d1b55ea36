// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/imports.h"

#include <pqxx/pqxx>

#include "libs/base/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/transfer/escape.h"
#include "libs/transfer/mapping.h"
#include "libs/transfer/sql.h"

namespace mainstay::transfer {
namespace {

absl::Status WrongParameter(std::string_view name, std::string_view code, std::string detail) {
  return MakeProblem("invalid-parameter", detail,
                     {{FieldError::Place::kParameter, std::string(name), std::string(code), detail}});
}

// An import or export belongs to one tenant, whose rows it sees.
absl::Status CheckOneTenant(const Principal& principal) {
  if (principal.tenant.empty() || principal.tenant == kAllTenants)
    return MakeProblem("forbidden", "an import or export belongs to one tenant: use a key of that tenant");
  return absl::OkStatus();
}

absl::StatusOr<const catalog::Resource*> FindResource(const catalog::Model& model, const Principal& principal,
                                                      std::string_view name) {
  const catalog::Resource* resource = model.FindResource(name);
  bool visible = resource != nullptr && principal.HasRole("admin");
  if (resource != nullptr && !visible)
    for (const std::string& role : principal.roles) visible |= resource->permissions.count(role) > 0;
  // One the caller may do nothing with looks like one that does not exist.
  if (!visible) return WrongParameter("resource", "unknown", StrCat("there is no resource ", TruncateUtf8(name, 64)));
  if (!resource->problem.empty())
    return MakeProblem("resource-unavailable", StrCat("the resource ", resource->name, " does not fit the database"));
  return resource;
}

absl::Time FromMicros(int64_t micros) {
  return micros == 0 ? absl::InfinitePast() : absl::FromUnixMicros(micros);
}

}  // namespace

absl::StatusOr<ImportRequest> ResolveImport(const catalog::Model& model, const Principal& principal,
                                            std::string_view resource, std::string_view import, std::string_view mode,
                                            std::string_view commit, std::string_view on_error, bool dry_run) {
  RETURN_IF_ERROR(CheckOneTenant(principal));
  ImportRequest out;
  out.dry_run = dry_run;
  if (!import.empty()) {
    const auto found = model.imports.find(std::string(import));
    if (found == model.imports.end())
      return WrongParameter("import", "unknown",
                            StrCat("there is no import ", TruncateUtf8(import, 64), " in the catalog"));
    const catalog::ImportMapping& declared = found->second;
    if (!resource.empty() && resource != declared.resource)
      return WrongParameter("resource", "conflict", StrCat("the import ", import, " goes into ", declared.resource));
    out.mapping = declared.name;
    out.resource = declared.resource;
    out.mode = declared.mode;
    out.commit = declared.commit;
    out.on_error = declared.on_error;
    out.key = declared.key;
  } else {
    if (resource.empty()) return WrongParameter("resource", "required", "resource or import says where the rows go");
    out.resource = std::string(resource);
    out.mode = "upsert";
    out.commit = "all";
    out.on_error = "abort";
  }
  if (!mode.empty()) out.mode = std::string(mode);
  if (!commit.empty()) out.commit = std::string(commit);
  if (!on_error.empty()) out.on_error = std::string(on_error);
  ASSIGN_OR_RETURN(const records::MergeMode merge_mode, ParseMode(out.mode));
  if (out.commit != "all" && out.commit != "chunks")
    return WrongParameter("commit", "not_in_list", "commit is all or chunks");
  if (out.on_error != "abort" && out.on_error != "skip")
    return WrongParameter("on_error", "not_in_list", "on_error is abort or skip");
  ASSIGN_OR_RETURN(const catalog::Resource* target, FindResource(model, principal, out.resource));
  RETURN_IF_ERROR(CheckAllowed(*target, principal, merge_mode));
  return out;
}

absl::StatusOr<CreatedImport> CreateImport(pqxx::transaction_base& tx, const CallContext& context,
                                           const ImportRequest& request, const BlobInfo& file,
                                           std::string_view catalog_hash, const TransferOptions& options,
                                           absl::Time now) {
  CreatedImport out;
  ASSIGN_OR_RETURN(const Uuid blob, ParseId("blob", file.id));
  PgArray key_array;
  std::string identity = StrCat(context.principal.tenant, "\x1f", file.sha256, "\x1f", request.resource, "\x1f",
                                request.mapping, "\x1f", request.mode, "\x1f", request.dry_run ? "dry" : "",
                                IsEscaped(file.name) ? "\x1f"
                                                       "escaped"
                                                     : "");
  for (const std::string& field : request.key) {
    key_array.Add(field);
    StrAppend(&identity, "\x1f", field);
  }
  identity = HexEncode(Sha256(identity));
  // An import whose job was cancelled or died must not answer for a new one.
  tx.exec(sql::kSettle);
  out.id = NewUuid();
  std::string args;
  JsonWriter(args).BeginObject().Key("id").String(FormatId("imp", out.id)).EndObject();
  const std::string key_text = std::move(key_array).Finish();
  const auto insert = [&] {
    return !tx.exec_params(sql::kInsertImport, out.id.ToString(), context.principal.tenant, request.resource,
                           request.mapping, request.mode, request.commit, request.on_error, request.dry_run, key_text,
                           blob.ToString(), file.name, file.size, file.sha256, identity, context.principal.subject,
                           FormatTimestamp(now + options.import_retention), std::string(catalog_hash))
                .empty();
  };
  // The one that was there may have failed between the two statements; then the second try is ours.
  for (int attempt = 0; attempt < 3; ++attempt) {
    if (insert()) {
      ASSIGN_OR_RETURN(out.enqueued,
                       jobs::Enqueue(tx, context,
                                     std::vector<jobs::JobSpec>{{.kind = kImportJob,
                                                                 .queue = kQueue,
                                                                 .args = args,
                                                                 .tags = {request.resource},
                                                                 .catalog_hash = std::string(catalog_hash)}}));
      tx.exec_params(sql::kSetImportJob, out.id.ToString(), out.enqueued.at(0).id.ToString());
      return out;
    }
    const pqxx::result found = tx.exec_params(sql::kFindImportByIdentity, identity);
    if (found.empty()) continue;
    ASSIGN_OR_RETURN(out.id, ParseUuid(found[0][0].c_str()));
    out.existed = true;
    return out;
  }
  return MakeProblem("transaction-conflict", "the same file is being imported by someone else");
}

absl::StatusOr<ImportRow> GetImport(pqxx::transaction_base& tx, const Principal& principal, const Uuid& id) {
  const pqxx::result rows = tx.exec_params(sql::kGetImport, id.ToString(), principal.tenant);
  if (rows.empty()) return MakeProblem("not-found", StrCat("there is no import ", FormatId("imp", id)));
  const pqxx::row r = rows[0];
  ImportRow out;
  int c = 0;
  const auto text = [&] { return std::string(r[c++].c_str()); };
  const auto number = [&] { return r[c++].as<int64_t>(); };
  ASSIGN_OR_RETURN(out.id, ParseUuid(text()));
  out.tenant = text();
  out.request.resource = text();
  out.request.mapping = text();
  out.request.mode = text();
  out.request.commit = text();
  out.request.on_error = text();
  out.request.dry_run = r[c++].as<bool>();
  {
    ASSIGN_OR_RETURN(const JsonDocument key, JsonDocument::Parse(text()));
    for (const JsonValue& field : key.root().items()) out.request.key.emplace_back(field.text());
  }
  out.state = text();
  ASSIGN_OR_RETURN(out.blob, ParseUuid(text()));
  out.file_name = text();
  out.file_size = number();
  out.sha256 = text();
  out.job = text();
  out.fence = number();
  out.detection = text();
  out.staged_rows = number();
  out.staged_good = number();
  out.staged = r[c++].as<bool>();
  out.merged_row = number();
  for (int64_t* count : {&out.rows.total, &out.rows.created, &out.rows.updated, &out.rows.unchanged, &out.rows.deleted,
                         &out.rows.skipped, &out.rows.error})
    *count = number();
  out.errors_by_code = text();
  out.errors_kept = number();
  out.error_code = text();
  out.error = text();
  out.created_by = text();
  out.created_at = FromMicros(number());
  out.finished_at = FromMicros(number());
  out.catalog_hash = text();
  return out;
}

absl::StatusOr<ExportRequest> ResolveExport(const catalog::Model& model, const Principal& principal,
                                            std::string_view resource, std::string_view format,
                                            std::string_view query) {
  RETURN_IF_ERROR(CheckOneTenant(principal));
  ExportRequest out;
  out.query = std::string(query);
  std::string_view name = resource;
  // A declared export may be named where a resource is; what it declares stands first.
  if (const auto declared = model.exports.find(std::string(resource));
      declared != model.exports.end() && model.FindResource(resource) == nullptr) {
    name = declared->second.resource;
    out.format = declared->second.format;
    std::string prefix = declared->second.query;
    if (!declared->second.fields.empty() && prefix.find("fields=") == std::string::npos) {
      StrAppend(&prefix, prefix.empty() ? "" : "&", "fields=");
      for (size_t i = 0; i < declared->second.fields.size(); ++i)
        StrAppend(&prefix, i == 0 ? "" : ",", declared->second.fields[i]);
    }
    if (out.query.empty()) {
      out.query = prefix;
    } else if (!prefix.empty()) {
      out.query = StrCat(prefix, "&", out.query);
    }
  }
  if (!format.empty()) out.format = std::string(format);
  if (out.format != "csv") {
    const std::string detail = "format is csv";
    return MakeProblem("validation-failed", detail, {{FieldError::Place::kPointer, "/format", "not_in_list", detail}});
  }
  const absl::StatusOr<const catalog::Resource*> target = FindResource(model, principal, name);
  if (!target.ok()) {
    Problem problem = ProblemFromStatus(target.status());
    if (problem.type == "invalid-parameter")
      return MakeProblem("validation-failed", problem.detail,
                         {{FieldError::Place::kPointer, "/resource", "unknown", problem.detail}});
    return target.status();
  }
  bool read = principal.HasRole("admin");
  for (const std::string& role : principal.roles) {
    const auto found = (*target)->permissions.find(role);
    read |= found != (*target)->permissions.end() && found->second.read;
  }
  if (!read) return MakeProblem("forbidden", StrCat("this key may not read ", (*target)->name));
  out.resource = (*target)->name;
  return out;
}

absl::StatusOr<CreatedExport> CreateExport(pqxx::transaction_base& tx, const CallContext& context,
                                           const ExportRequest& request, std::string_view catalog_hash,
                                           const TransferOptions& options, absl::Time now) {
  CreatedExport out;
  out.id = NewUuid();
  std::string args;
  JsonWriter(args).BeginObject().Key("id").String(FormatId("exp", out.id)).EndObject();
  ASSIGN_OR_RETURN(out.enqueued,
                   jobs::Enqueue(tx, context,
                                 std::vector<jobs::JobSpec>{{.kind = kExportJob,
                                                             .queue = kQueue,
                                                             .args = args,
                                                             .tags = {request.resource},
                                                             .catalog_hash = std::string(catalog_hash)}}));
  tx.exec_params(sql::kInsertExport, out.id.ToString(), context.principal.tenant, request.resource, request.format,
                 request.query, request.raw, out.enqueued.at(0).id.ToString(), context.principal.subject,
                 FormatTimestamp(now + options.export_retention), std::string(catalog_hash));
  return out;
}

absl::StatusOr<ExportRow> GetExport(pqxx::transaction_base& tx, const Principal& principal, const Uuid& id) {
  const pqxx::result rows = tx.exec_params(sql::kGetExport, id.ToString(), principal.tenant);
  if (rows.empty()) return MakeProblem("not-found", StrCat("there is no export ", FormatId("exp", id)));
  const pqxx::row r = rows[0];
  ExportRow out;
  int c = 0;
  const auto text = [&] { return std::string(r[c++].c_str()); };
  const auto number = [&] { return r[c++].as<int64_t>(); };
  ASSIGN_OR_RETURN(out.id, ParseUuid(text()));
  out.tenant = text();
  out.request.resource = text();
  out.request.format = text();
  out.request.query = text();
  out.request.raw = r[c++].as<bool>();
  out.state = text();
  out.rows = number();
  out.size = number();
  out.sha256 = text();
  out.blob = text();
  out.job = text();
  out.fence = number();
  out.error_code = text();
  out.error = text();
  out.created_by = text();
  out.created_at = FromMicros(number());
  out.finished_at = FromMicros(number());
  out.expires_at = FromMicros(number());
  out.catalog_hash = text();
  return out;
}

}  // namespace mainstay::transfer
