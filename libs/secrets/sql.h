// SPDX-License-Identifier: Apache-2.0
// This library's statements.
#pragma once

namespace mainstay::secrets::sql {

// One writer per secret at a time, so that versions are dense. $1 tenant, $2 name.
inline constexpr char kLockSecret[] =
    "SELECT pg_advisory_xact_lock(hashtextextended('mainstay.secrets|' || $1 || '|' || $2, 0))";
inline constexpr char kNextVersion[] =
    "SELECT coalesce(max(version), 0) + 1 FROM mainstay.secrets WHERE tenant = $1 AND name = $2";
// $3 the overlap in milliseconds. Older versions never live longer than they already would have.
inline constexpr char kRetireVersions[] = R"sql(
UPDATE mainstay.secrets SET expires_at = least(expires_at, clock_timestamp() + $3::bigint * interval '1 millisecond')
WHERE tenant = $1 AND name = $2 AND (expires_at IS NULL OR expires_at > clock_timestamp()))sql";
inline constexpr char kInsertSecret[] =
    "INSERT INTO mainstay.secrets (tenant, name, version, kek_id, wrapped_key, sealed) VALUES ($1, $2, $3::integer, "
    "$4, decode($5, 'hex'), decode($6, 'hex'))";
inline constexpr char kSelectSecret[] = R"sql(
SELECT tenant, version, kek_id, encode(wrapped_key, 'hex'), encode(sealed, 'hex') FROM mainstay.secrets
WHERE tenant = ANY (ARRAY[$1, '']) AND name = $2 AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY tenant = $1 DESC, version DESC)sql";
// The version that stays free of gaps: a secret put again after this starts at 1, which the AAD tells apart from an old
// copy only by its data key.
inline constexpr char kRemoveSecret[] = "DELETE FROM mainstay.secrets WHERE tenant = $1 AND name = $2";
inline constexpr char kListSecrets[] = R"sql(
SELECT DISTINCT ON (tenant, name) tenant, name, version, (extract(epoch FROM created_at) * 1000000)::bigint FROM mainstay.secrets
WHERE expires_at IS NULL OR expires_at > clock_timestamp() ORDER BY tenant, name, version DESC)sql";

inline constexpr char kInsertApiKey[] = R"sql(
INSERT INTO mainstay.api_keys (id, tenant, name, roles, secret_hash, expires_at)
VALUES ($1::uuid, $2, $3, $4::text[], decode($5, 'hex'), CASE WHEN $6 = '' THEN NULL ELSE $6::timestamptz END))sql";
inline constexpr char kRevokeApiKey[] =
    "UPDATE mainstay.api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = $1::uuid RETURNING "
    "id";
inline constexpr char kListApiKeys[] = R"sql(
SELECT id, tenant, name, roles, (extract(epoch FROM created_at) * 1000000)::bigint, (extract(epoch FROM expires_at) * 1000000)::bigint,
       (extract(epoch FROM revoked_at) * 1000000)::bigint FROM mainstay.api_keys ORDER BY created_at, id)sql";

}  // namespace mainstay::secrets::sql
