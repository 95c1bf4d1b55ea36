// SPDX-License-Identifier: Apache-2.0
// Internal: the statements over the catalog's own tables. Those over pg_catalog stand in introspect.cc.
#pragma once

namespace mainstay::catalog::sql {

// One publisher at a time; held to the end of the transaction.
inline constexpr char kLockPublish[] = "SELECT pg_advisory_xact_lock(hashtextextended('mainstay.catalog.publish', 0))";

inline constexpr char kReady[] =
    "SELECT to_regclass('mainstay.catalog_active') IS NOT NULL AND (SELECT count(*) = 2 FROM pg_roles WHERE rolname IN "
    "('mainstay_gateway', 'mainstay_worker'))";

inline constexpr char kActive[] = "SELECT hash FROM mainstay.catalog_active";

inline constexpr char kStored[] =
    "SELECT hash, files::text, variables::text, tables::text FROM mainstay.catalogs WHERE hash = $1";

inline constexpr char kStore[] =
    "INSERT INTO mainstay.catalogs (hash, files, variables, tables, published_by) VALUES ($1, $2::jsonb, $3::jsonb, "
    "$4::jsonb, $5) ON CONFLICT (hash) DO NOTHING";

inline constexpr char kActivate[] = R"sql(
INSERT INTO mainstay.catalog_active (one, hash, activated_by) VALUES (true, $1, $2)
ON CONFLICT (one) DO UPDATE SET hash = excluded.hash, activated_at = now(), activated_by = excluded.activated_by)sql";

inline constexpr char kQueryColumns[] =
    "UPDATE mainstay.catalog_active SET query_columns = $1::jsonb WHERE query_columns <> $1::jsonb";
inline constexpr char kStoredQueryColumns[] = "SELECT query_columns::text FROM mainstay.catalog_active";

inline constexpr char kHistory[] =
    "INSERT INTO mainstay.catalog_history (hash, previous, activated_by) VALUES ($1, nullif($2, ''), $3)";

// $1 tables or sequences (quoted names), $2 rights, position by position; answers what each service role has.
inline constexpr char kTableRights[] = R"sql(
SELECT wanted.t, wanted.p, r.role, has_table_privilege(r.role, wanted.t::regclass, wanted.p)
FROM unnest($1::text[], $2::text[]) AS wanted(t, p) CROSS JOIN (VALUES ('mainstay_gateway'), ('mainstay_worker')) AS r(role))sql";
inline constexpr char kSequenceRights[] = R"sql(
SELECT wanted.s, r.role, has_sequence_privilege(r.role, wanted.s::regclass, 'USAGE')
FROM unnest($1::text[]) AS wanted(s) CROSS JOIN (VALUES ('mainstay_gateway'), ('mainstay_worker')) AS r(role))sql";
inline constexpr char kSchemaRights[] = R"sql(
SELECT wanted.s, r.role, has_schema_privilege(r.role, wanted.s, 'USAGE')
FROM unnest($1::text[]) AS wanted(s) CROSS JOIN (VALUES ('mainstay_gateway'), ('mainstay_worker')) AS r(role))sql";
inline constexpr char kTableExists[] = "SELECT to_regclass($1) IS NOT NULL";

// Whether a table of another domain exists with these columns ($2), so that open work in it can be asked for.
inline constexpr char kHasColumns[] =
    "SELECT count(*) = cardinality($2::text[]) FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND "
    "NOT attisdropped AND attname = ANY($2::text[])";

// What this process runs; clears rows of processes that are gone.
inline constexpr char kReport[] = R"sql(
INSERT INTO mainstay.catalog_seen (service, instance, hash, problem) VALUES ($1, $2, $3, $4)
ON CONFLICT (service, instance) DO UPDATE SET hash = excluded.hash, seen_at = now(), problem = excluded.problem)sql";
// Who reported within the last three reports (Watcher): the process is there.
inline constexpr char kFollowers[] = R"sql(
SELECT service, instance, hash, problem FROM mainstay.catalog_seen
WHERE seen_at > now() - interval '90 seconds' ORDER BY service, instance)sql";
inline constexpr char kClearSeen[] = "DELETE FROM mainstay.catalog_seen WHERE seen_at < now() - interval '1 hour'";
inline constexpr char kForget[] = "DELETE FROM mainstay.catalog_seen WHERE service = $1 AND instance = $2";

}  // namespace mainstay::catalog::sql
