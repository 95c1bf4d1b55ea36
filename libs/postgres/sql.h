// SPDX-License-Identifier: Apache-2.0
// This library's own statements.
#pragma once

namespace mainstay::postgres::sql {

// $1 name, $2 holder, $3 ttl in milliseconds. Locks the lease's row. No row returned: another holder's lease is valid.
// The database's clock is the only one asked.
inline constexpr char kAcquireLease[] = R"sql(
INSERT INTO mainstay.leases AS l (name, holder, fence, expires_at) VALUES ($1, $2, 1, clock_timestamp() + $3::bigint * interval '1 millisecond')
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = l.fence + (l.holder <> excluded.holder OR l.expires_at <= clock_timestamp())::int,
  expires_at = excluded.expires_at
WHERE l.holder = excluded.holder OR l.expires_at <= clock_timestamp()
RETURNING fence)sql";

inline constexpr char kReleaseLease[] =
    "UPDATE mainstay.leases SET expires_at = '-infinity' WHERE name = $1 AND holder = $2 AND fence = $3";

}  // namespace mainstay::postgres::sql
