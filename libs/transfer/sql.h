// SPDX-License-Identifier: Apache-2.0
// The statements of this library. Each that writes to an import or export carries the fence of the job's run ($2): a
// run that was replaced changes nothing.
#pragma once

namespace mainstay::transfer::sql {

// ---- blobs (transfer service) ----
inline constexpr char kInsertBlob[] =
    "INSERT INTO mainstay.blobs (id, tenant, size, sha256, content_type, name, created_by, expires_at) VALUES "
    "($1::uuid, $2, $3::bigint, $4, $5, $6, $7, $8::timestamptz)";
// $2 is '*' for those who see every tenant.
inline constexpr char kFindBlob[] =
    "SELECT size, sha256, content_type, name FROM mainstay.blobs WHERE id = $1::uuid AND (tenant = $2 OR $2 = '*')";
inline constexpr char kDeleteBlob[] = "DELETE FROM mainstay.blobs WHERE id = $1::uuid AND (tenant = $2 OR $2 = '*')";
// A bounded piece; rows first, content after the commit. Skips what someone else is removing.
inline constexpr char kDeleteExpiredBlobs[] =
    "DELETE FROM mainstay.blobs WHERE id IN (SELECT id FROM mainstay.blobs WHERE expires_at < now() ORDER BY "
    "expires_at LIMIT 500 FOR UPDATE SKIP LOCKED) RETURNING id";
inline constexpr char kBlobExists[] = "SELECT 1 FROM mainstay.blobs WHERE id = $1::uuid";

// ---- imports ----
// The partial unique index decides between two uploads of the same file.
inline constexpr char kInsertImport[] =
    "INSERT INTO mainstay.imports (id, tenant, resource, mapping, mode, \"commit\", on_error, dry_run, key, blob, "
    "file_name, file_size, sha256, identity, "
    "created_by, expires_at, catalog_hash) VALUES ($1::uuid, $2, $3, $4, $5, $6, $7, $8::boolean, $9::text[], "
    "$10::uuid, $11, $12::bigint, $13, $14, $15, "
    "$16::timestamptz, $17) ON CONFLICT (identity) WHERE state NOT IN ('failed', 'rejected', 'cancelled') DO NOTHING "
    "RETURNING id";
inline constexpr char kFindImportByIdentity[] =
    "SELECT id FROM mainstay.imports WHERE identity = $1 AND state NOT IN ('failed', 'rejected', 'cancelled')";
inline constexpr char kSetImportJob[] = "UPDATE mainstay.imports SET job = $2::uuid WHERE id = $1::uuid";
inline constexpr char kGetImport[] =
    "SELECT id::text, tenant, resource, mapping, mode, \"commit\", on_error, dry_run, array_to_json(key)::text, state, "
    "blob::text, file_name, file_size, sha256, "
    "job::text, fence, coalesce(detection::text, ''), staged_rows, staged_good, staged, merged_row, rows_total, "
    "rows_created, rows_updated, rows_unchanged, rows_deleted, "
    "rows_skipped, rows_error, errors_by_code::text, errors_kept, error_code, error, created_by, (extract(epoch FROM "
    "created_at) * 1000000)::bigint, "
    "coalesce((extract(epoch FROM finished_at) * 1000000)::bigint, 0), catalog_hash FROM mainstay.imports WHERE id = "
    "$1::uuid AND (tenant = $2 OR $2 = '*')";
inline constexpr char kTakeImport[] =
    "UPDATE mainstay.imports SET fence = $2::bigint, state = 'running', started_at = coalesce(started_at, now()) "
    "WHERE id = $1::uuid AND fence <= $2::bigint AND state IN ('queued', 'running') RETURNING id";
inline constexpr char kResetImport[] =
    "UPDATE mainstay.imports SET detection = NULL, staged = false, staged_rows = 0, staged_good = 0, rows_error = 0, "
    "errors_by_code = '{}', errors_kept = 0, catalog_hash = $3 "
    "WHERE id = $1::uuid AND fence = $2::bigint";
inline constexpr char kDeleteErrors[] = "DELETE FROM mainstay.import_errors WHERE import = $1::uuid";
inline constexpr char kDeleteErrorsBehind[] =
    "DELETE FROM mainstay.import_errors WHERE import = $1::uuid AND row > $2::bigint";
inline constexpr char kDeleteStatusesBehind[] =
    "DELETE FROM mainstay.import_row_status WHERE import = $1::uuid AND first_row > $2::bigint";
inline constexpr char kCountErrors[] =
    "SELECT code, count(*) FROM mainstay.import_errors WHERE import = $1::uuid GROUP BY code";
inline constexpr char kCountErrorRows[] =
    "SELECT count(DISTINCT row) FROM mainstay.import_errors WHERE import = $1::uuid";
inline constexpr char kSetDetection[] =
    "UPDATE mainstay.imports SET detection = $3::jsonb WHERE id = $1::uuid AND fence = $2::bigint";
inline constexpr char kSetStaged[] =
    "UPDATE mainstay.imports SET staged_rows = $3::bigint, staged_good = $4::bigint, staged = $5::boolean, rows_error "
    "= $6::bigint, errors_by_code = $7::jsonb, "
    "errors_kept = $8::bigint WHERE id = $1::uuid AND fence = $2::bigint";
inline constexpr char kSetMerged[] =
    "UPDATE mainstay.imports SET merged_row = $3::bigint, rows_created = $4::bigint, rows_updated = $5::bigint, "
    "rows_unchanged = $6::bigint, rows_deleted = $7::bigint, "
    "rows_skipped = $8::bigint, rows_error = $9::bigint, errors_by_code = $10::jsonb, errors_kept = $11::bigint WHERE "
    "id = $1::uuid AND fence = $2::bigint";
inline constexpr char kFinishImport[] =
    "UPDATE mainstay.imports SET state = $3, error_code = $4, error = $5, rows_total = $6::bigint, rows_created = "
    "$7::bigint, rows_updated = $8::bigint, "
    "rows_unchanged = $9::bigint, rows_deleted = $10::bigint, rows_skipped = $11::bigint, rows_error = $12::bigint, "
    "errors_by_code = $13::jsonb, errors_kept = $14::bigint, "
    "finished_at = now() WHERE id = $1::uuid AND fence = $2::bigint AND state = 'running'";
inline constexpr char kInsertErrors[] =
    "INSERT INTO mainstay.import_errors (import, tenant, row, line, \"column\", field, code, value, message, "
    "suggestion) "
    "SELECT $1::uuid, $2, * FROM unnest($3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], "
    "$9::text[], $10::text[])";
inline constexpr char kInsertStatuses[] =
    "INSERT INTO mainstay.import_row_status (import, first_row, statuses) VALUES ($1::uuid, $2::bigint, decode($3, "
    "'hex')) "
    "ON CONFLICT (import, first_row) DO UPDATE SET statuses = excluded.statuses";
inline constexpr char kCreateStaging[] = "SELECT mainstay.create_import_staging($1::uuid, $2::integer)";
inline constexpr char kDropStaging[] = "SELECT mainstay.drop_import_staging($1::uuid)";
inline constexpr char kErrorsOfRows[] =
    "SELECT row, code, message, \"column\" FROM mainstay.import_errors WHERE import = $1::uuid AND row BETWEEN "
    "$2::bigint AND $3::bigint ORDER BY row, id";
inline constexpr char kStatusesOfRows[] =
    "SELECT first_row, encode(statuses, 'hex') FROM mainstay.import_row_status WHERE import = $1::uuid AND first_row "
    "<= $3::bigint "
    "AND first_row + length(statuses) > $2::bigint ORDER BY first_row";

// ---- exports ----
inline constexpr char kInsertExport[] =
    "INSERT INTO mainstay.exports (id, tenant, resource, format, query, raw, job, created_by, expires_at, "
    "catalog_hash) "
    "VALUES ($1::uuid, $2, $3, $4, $5, $6::boolean, $7::uuid, $8, $9::timestamptz, $10)";
inline constexpr char kGetExport[] =
    "SELECT id::text, tenant, resource, format, query, raw, state, rows, size, sha256, coalesce(blob::text, ''), "
    "job::text, fence, error_code, error, created_by, "
    "(extract(epoch FROM created_at) * 1000000)::bigint, coalesce((extract(epoch FROM finished_at) * 1000000)::bigint, "
    "0), "
    "(extract(epoch FROM expires_at) * 1000000)::bigint, catalog_hash FROM mainstay.exports WHERE id = $1::uuid AND "
    "(tenant = $2 OR $2 = '*')";
inline constexpr char kTakeExport[] =
    "UPDATE mainstay.exports SET fence = $2::bigint, state = 'running', started_at = coalesce(started_at, now()) "
    "WHERE id = $1::uuid AND fence <= $2::bigint AND state IN ('queued', 'running') RETURNING id";
inline constexpr char kFinishExport[] =
    "UPDATE mainstay.exports SET state = $3, rows = $4::bigint, size = $5::bigint, sha256 = $6, blob = nullif($7, "
    "'')::uuid, error_code = $8, error = $9, finished_at = now() "
    "WHERE id = $1::uuid AND fence = $2::bigint AND state = 'running'";

// ---- upkeep (transfer service) ----
inline constexpr char kSettle[] = "SELECT mainstay.settle_transfers()";
inline constexpr char kDropLeakedStaging[] = "SELECT mainstay.drop_leaked_import_staging()";
inline constexpr char kDeleteExpiredImports[] =
    "DELETE FROM mainstay.imports WHERE id IN (SELECT id FROM mainstay.imports WHERE expires_at < now() AND "
    "finished_at IS NOT NULL ORDER BY expires_at LIMIT 50)";
inline constexpr char kDeleteExpiredExports[] =
    "DELETE FROM mainstay.exports WHERE id IN (SELECT id FROM mainstay.exports WHERE expires_at < now() AND "
    "finished_at IS NOT NULL ORDER BY expires_at LIMIT 500)";

}  // namespace mainstay::transfer::sql
