// SPDX-License-Identifier: Apache-2.0
// Imports as rows: made by the transfer service in one transaction with their job, filled in by the worker, read by
// both.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/ids.h"
#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/jobs/enqueue.h"
#include "libs/transfer/blob_client.h"
#include "libs/transfer/options.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::transfer {

inline constexpr char kImportJob[] = "imports.run";
inline constexpr char kExportJob[] = "exports.run";
inline constexpr char kStartExportJob[] = "exports.start";
// The suite's own queue, always there.
inline constexpr char kQueue[] = "mainstay";

// What the caller asked for, with what the catalog declares filled in.
struct ImportRequest {
  std::string resource;
  std::string mapping;  // a declared import, or empty
  std::string mode, commit, on_error;
  bool dry_run = false;
  std::vector<std::string> key;
};

struct RowCounts {
  int64_t total = 0, created = 0, updated = 0, unchanged = 0, deleted = 0, skipped = 0, error = 0;
};

struct ImportRow {
  Uuid id;
  std::string tenant;
  ImportRequest request;
  std::string state;
  Uuid blob;
  std::string file_name;
  int64_t file_size = 0;
  std::string sha256;
  std::string job;  // UUID; empty: none
  int64_t fence = 0;
  std::string detection;  // JSON, or empty
  int64_t staged_rows = 0, staged_good = 0;
  bool staged = false;
  int64_t merged_row = 0;
  RowCounts rows;
  std::string errors_by_code = "{}";
  int64_t errors_kept = 0;
  std::string error_code, error;
  std::string created_by;
  absl::Time created_at, finished_at;  // InfinitePast: not yet
  std::string catalog_hash;
};

// Checks names and rights before a byte of the file is taken: problems name the parameter. `resource`, `import`,
// `mode`, `commit`, `on_error` as the caller sent them.
absl::StatusOr<ImportRequest> ResolveImport(const catalog::Model& model, const Principal& principal,
                                            std::string_view resource, std::string_view import, std::string_view mode,
                                            std::string_view commit, std::string_view on_error, bool dry_run);

struct CreatedImport {
  Uuid id;
  bool existed = false;  // the same import was asked for before: that one
  std::vector<jobs::Enqueued> enqueued;
};
// Inserts the import and its job. When `existed`, nothing was written and the new blob is the caller's to delete.
absl::StatusOr<CreatedImport> CreateImport(pqxx::transaction_base& tx, const CallContext& context,
                                           const ImportRequest& request, const BlobInfo& file,
                                           std::string_view catalog_hash, const TransferOptions& options,
                                           absl::Time now);

// NotFound for another tenant's.
absl::StatusOr<ImportRow> GetImport(pqxx::transaction_base& tx, const Principal& principal, const Uuid& id);

// ---- exports ----

struct ExportRequest {
  std::string resource, format = "csv", query;
  bool raw = false;
};
struct ExportRow {
  Uuid id;
  std::string tenant;
  ExportRequest request;
  std::string state;
  int64_t rows = 0, size = 0;
  std::string sha256;
  std::string blob;  // UUID; empty: none
  std::string job;
  int64_t fence = 0;
  std::string error_code, error, created_by;
  absl::Time created_at, finished_at, expires_at;
  std::string catalog_hash;
};
absl::StatusOr<ExportRequest> ResolveExport(const catalog::Model& model, const Principal& principal,
                                            std::string_view resource, std::string_view format, std::string_view query);
struct CreatedExport {
  Uuid id;
  std::vector<jobs::Enqueued> enqueued;
};
absl::StatusOr<CreatedExport> CreateExport(pqxx::transaction_base& tx, const CallContext& context,
                                           const ExportRequest& request, std::string_view catalog_hash,
                                           const TransferOptions& options, absl::Time now);
absl::StatusOr<ExportRow> GetExport(pqxx::transaction_base& tx, const Principal& principal, const Uuid& id);

}  // namespace mainstay::transfer
