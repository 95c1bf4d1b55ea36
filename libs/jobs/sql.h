// SPDX-License-Identifier: Apache-2.0
// Every statement of the engine, by name, with what it locks. They are prepared once per connection; the engine's pool pins their plans (prepared on an
// empty table, PostgreSQL would else choose scans and keep them). Fenced statements take arrays and change only rows whose (id, fence) still match.
#pragma once

namespace mainstay::jobs::sql {

struct Named {
  const char* name;
  const char* text;
};

// ---- producers ----

// $1 to $18: arrays by column; where all jobs share a value the array is empty (unnest pads with NULL) and the scalar ($19 …) counts. The lateral join keeps the order of the items,
// which is the order of `seq`. Locks: only the new rows. Whether the window is open is read here, so no producer keeps a hint of its own.
inline constexpr Named kEnqueue = {"jobs_enqueue", R"sql(
INSERT INTO mainstay.jobs (id, tenant, kind, queue, priority, state, args, run_at, due_at, deadline, unique_hash, unique_key, key_hash, seq, ordering_key,
                           max_attempts, max_crashes, tags, principal, traceparent, request_id, catalog_hash, published_at)
SELECT r.id, r.tenant, r.kind, r.queue, r.priority, r.state, r.args, r.run_at, CASE WHEN r.state = 1 THEN r.run_at END, r.deadline, r.unique_hash, r.unique_key, r.key_hash,
       CASE WHEN r.key_hash IS NOT NULL THEN nextval('mainstay.job_seq') END, r.ordering_key, r.max_attempts, r.max_crashes, r.tags::text[], r.principal, r.traceparent, r.request_id,
       r.catalog_hash, CASE WHEN r.state = 4 THEN clock_timestamp() END
FROM (
  SELECT t.id, coalesce(t.tenant, $19) AS tenant, coalesce(t.kind, $20) AS kind, coalesce(t.queue, $21) AS queue, coalesce(t.priority, s.priority, 4::smallint) AS priority,
         CASE WHEN t.run_at > now() THEN 1 WHEN t.key_hash IS NOT NULL THEN 2 WHEN s.open_until > statement_timestamp() THEN 4 ELSE 3 END::smallint AS state,
         coalesce(t.args, $22)::json AS args, t.run_at, t.deadline, t.unique_hash, t.unique_key, t.key_hash, t.ordering_key, coalesce(t.max_attempts, s.max_attempts, 20) AS max_attempts,
         coalesce(s.max_crashes, 3::smallint) AS max_crashes, t.tags, coalesce(t.principal, $23)::json AS principal, coalesce(t.traceparent, $24) AS traceparent,
         coalesce(t.request_id, $25) AS request_id, coalesce(t.catalog_hash, $26) AS catalog_hash
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::timestamptz[], $8::timestamptz[], $9::uuid[], $10::text[], $11::bigint[], $12::text[],
              $13::integer[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[])
       AS t (id, tenant, kind, queue, args, priority, run_at, deadline, unique_hash, unique_key, key_hash, ordering_key, max_attempts, principal, traceparent, request_id, catalog_hash, tags)
  LEFT JOIN LATERAL (
    SELECT q.priority, q.max_attempts, q.max_crashes, w.open_until
    FROM mainstay.job_queues q LEFT JOIN mainstay.job_windows w ON w.queue = q.name AND w.priority = coalesce(t.priority, q.priority)
    WHERE q.name = coalesce(t.queue, $21) LIMIT 1
  ) s ON true
) r
RETURNING id, state, priority)sql"};

// Takes unique keys or names their holders; sorted, so two callers cannot deadlock here. A conflicting key's row stays locked until the caller commits.
inline constexpr Named kTakeUnique = {"jobs_take_unique", R"sql(
INSERT INTO mainstay.job_unique AS u (hash, job)
SELECT t.hash, t.job FROM unnest($1::uuid[], $2::uuid[]) AS t (hash, job) ORDER BY t.hash
ON CONFLICT (hash) DO UPDATE SET job = CASE WHEN u.expires_at <= clock_timestamp() THEN excluded.job ELSE u.job END
RETURNING u.hash, u.job)sql"};

// After the commit. Locks: the taken slots, their jobs for share.
inline constexpr Named kPromoteKeys = {"jobs_promote_keys", "SELECT id, fence, attempt, kind, queue, priority, args FROM mainstay.promote_job_keys($1::bigint[])"};

}  // namespace mainstay::jobs::sql
