// SPDX-License-Identifier: Apache-2.0
// Every statement of the engine, by name, with what it locks. They are prepared once per connection; the engine's pool
// pins their plans (prepared on an empty table, PostgreSQL would else choose scans and keep them). Fenced statements
// take arrays and change only rows whose (id, fence) still match.
#pragma once

namespace mainstay::jobs::sql {

struct Named {
  const char* name;
  const char* text;
};

// ---- producers ----

// Both read a queue's settings and whether its window is open once per queue and priority, so no producer keeps a hint
// of its own, and insert nothing when a queue is not known that should be. Kinds with a lane wait for the dispatcher.
// Locks: only the new rows. Arrays stand in subselects so that the planner does not look at them: it would make a new
// plan for each call.
//
// The many jobs of a call that differ in their arguments only. $1 ids, $2 args, $3 queue, $4 priority, $5 may the queue
// be unknown.
inline constexpr Named kEnqueueAlike = {"jobs_enqueue_alike", R"sql(
WITH s AS MATERIALIZED (
  SELECT coalesce($4::smallint, q.priority, 4::smallint) AS priority, coalesce($8::integer, q.max_attempts, 20) AS max_attempts, coalesce(q.max_crashes, 3::smallint) AS max_crashes,
         w.open_until > statement_timestamp() AND mainstay.job_route($7::text, $15::smallint) <> ALL (q.lanes) AS open, q.name IS NOT NULL AS known
  FROM (SELECT $3::text AS name) i LEFT JOIN mainstay.job_queues q ON q.name = i.name LEFT JOIN mainstay.job_windows w ON w.queue = q.name AND w.priority = coalesce($4::smallint, q.priority)
), added AS (
  INSERT INTO mainstay.jobs (id, args, tenant, kind, queue, priority, state, max_attempts, max_crashes, tags, principal, traceparent, request_id, catalog_hash, options, version, published_at)
  SELECT unnest((SELECT $1::uuid[])), unnest((SELECT $2::json[])), $6::text, $7::text, $3::text, s.priority, CASE WHEN s.open THEN 4 ELSE 3 END, s.max_attempts, s.max_crashes, $9::text[],
         $10::json, $11::text, $12::text, $13::text, $14::jsonb, $15::smallint, CASE WHEN s.open THEN clock_timestamp() END
  FROM s WHERE s.known OR $5::boolean
)
SELECT s.priority, s.open, s.known OR $5::boolean, 0 FROM s)sql"};

// Any jobs. $1 to $3, $27: their different queues, priorities (NULL: the queue's), may that queue be unknown, routes;
// $6 says which of these each job has. The other arrays by column, in the order of the items, which becomes the order
// of `seq`.
inline constexpr Named kEnqueue = {"jobs_enqueue", R"sql(
WITH s AS MATERIALIZED (
  SELECT g.n, g.queue, coalesce(g.priority, q.priority, 4::smallint) AS priority, coalesce(q.max_attempts, 20) AS max_attempts, coalesce(q.max_crashes, 3::smallint) AS max_crashes,
         w.open_until > statement_timestamp() AND g.route <> ALL (q.lanes) AS open, q.name IS NOT NULL OR g.lenient AS known
  FROM unnest((SELECT $1::text[]), (SELECT $2::smallint[]), (SELECT $3::boolean[]), (SELECT $27::text[])) WITH ORDINALITY AS g (queue, priority, lenient, route, n)
  LEFT JOIN mainstay.job_queues q ON q.name = g.queue LEFT JOIN mainstay.job_windows w ON w.queue = q.name AND w.priority = coalesce(g.priority, q.priority)
), a AS MATERIALIZED (
  SELECT array_agg(s.queue ORDER BY n) AS queue, array_agg(s.priority ORDER BY n) AS priority, array_agg(s.max_attempts ORDER BY n) AS max_attempts,
         array_agg(s.max_crashes ORDER BY n) AS max_crashes, array_agg(coalesce(s.open, false) ORDER BY n) AS open FROM s HAVING bool_and(s.known)
), added AS (
  INSERT INTO mainstay.jobs (id, tenant, kind, queue, priority, state, args, sensitive_args, run_at, due_at, deadline, unique_hash, unique_key, key_hash, seq, ordering_key, limit_hash,
                             concurrency_key, concurrency_limit, max_attempts, max_crashes, tags, principal, traceparent, request_id, catalog_hash, options, version, published_at)
  SELECT r.id, r.tenant, r.kind, r.queue, r.priority, r.state, r.args, r.sealed::bytea, r.run_at, CASE WHEN r.state = 1 THEN r.run_at END, r.deadline, r.unique_hash, r.unique_key, r.key_hash,
         CASE WHEN r.key_hash IS NOT NULL THEN nextval('mainstay.job_seq') END, r.ordering_key, r.limit_hash, r.concurrency_key, r.concurrency_limit, r.max_attempts, r.max_crashes,
         r.tags::text[], r.principal::json, r.traceparent, r.request_id, r.catalog_hash, r.options::jsonb, coalesce(r.version, 0::smallint), CASE WHEN r.state = 4 THEN clock_timestamp() END
  FROM (
    SELECT t.*, a.queue[t.g] AS queue, a.priority[t.g] AS priority, coalesce(t.attempts, a.max_attempts[t.g]) AS max_attempts, a.max_crashes[t.g] AS max_crashes,
           CASE WHEN t.run_at > now() THEN 1 WHEN t.key_hash IS NOT NULL OR t.limit_hash IS NOT NULL THEN 2 WHEN a.open[t.g] THEN 4 ELSE 3 END::smallint AS state
    FROM a, unnest((SELECT $4::uuid[]), (SELECT $5::json[]), (SELECT $6::smallint[]), (SELECT $7::text[]), (SELECT $8::text[]), (SELECT $9::text[]), (SELECT $10::text[]), (SELECT $11::text[]),
                   (SELECT $12::text[]), (SELECT $13::text[]), (SELECT $14::timestamptz[]), (SELECT $15::timestamptz[]), (SELECT $16::uuid[]), (SELECT $17::text[]), (SELECT $18::bigint[]),
                   (SELECT $19::text[]), (SELECT $20::bigint[]), (SELECT $21::text[]), (SELECT $22::smallint[]), (SELECT $23::integer[]), (SELECT $24::text[]), (SELECT $25::text[]),
                   (SELECT $26::smallint[]))
         AS t (id, args, g, tenant, kind, principal, traceparent, request_id, catalog_hash, sealed, run_at, deadline, unique_hash, unique_key, key_hash, ordering_key, limit_hash,
               concurrency_key, concurrency_limit, attempts, tags, options, version)
  ) r
)
SELECT s.priority, s.open, s.known, (extract(epoch FROM now()) * 1000000)::bigint FROM s ORDER BY s.n)sql"};

// Takes unique keys or names their holders (see the migration). Locks: the keys it took, until the caller commits.
inline constexpr Named kTakeUnique = {
    "jobs_take_unique", "SELECT hash, holder FROM mainstay.take_job_unique($1::uuid[], $2::uuid[], NULL)"};
// The same for keys of which some are held for a time: $3 seconds from now, $4 or until this unit of UTC ends.
inline constexpr Named kTakeUniqueFor = {"jobs_take_unique_for", R"sql(
SELECT hash, holder FROM mainstay.take_job_unique($1::uuid[], $2::uuid[], ARRAY(
  SELECT mainstay.job_unique_until(u.seconds * interval '1 second', u.unit) FROM unnest($3::float8[], $4::text[]) WITH ORDINALITY AS u (seconds, unit, n) ORDER BY u.n)))sql"};
// New arguments for jobs that have not started. Those that were handed out go back, due at once, under a raised fence.
// Locks the rows in order. $2 args, $3 sealed ones, $4 version.
inline constexpr Named kReplaceArgs = {"jobs_replace_args", R"sql(
SELECT id FROM mainstay.replace_job_args($1::uuid[], $2::json[], $3::text[], $4::smallint[]) AS id)sql"};
// Jobs that are not final yet.
inline constexpr Named kAlive = {"jobs_alive", "SELECT id FROM mainstay.jobs WHERE id = ANY ($1::uuid[])"};

// After the commit. Locks: the taken slots, their jobs for share. Jobs that must wait for the dispatcher (limits,
// lanes, pauses) have their slot, but do not come back.
inline constexpr Named kPromoteKeys = {"jobs_promote_keys", "SELECT * FROM mainstay.promote_keys($1::bigint[])"};

// ---- workers ----

// What a worker needs of a job it takes; the order is that of Taken (reading.cc). `args` comes before, then whether its
// start deadline has passed and whether it is paused.
#define MAINSTAY_JOB_HEAD                                                                                      \
  "j.id, j.fence, j.attempt, j.kind, j.queue, j.priority, j.tenant, j.principal, j.max_attempts, j.key_hash, " \
  "j.traceparent, j.request_id, j.checkpoint, "
#define MAINSTAY_JOB_TAIL                                                                           \
  ", extract(epoch FROM clock_timestamp() - coalesce(j.run_at, j.created_at))::float8, j.options, " \
  "encode(j.sensitive_args, 'hex'), j.version, j.crashes, j.max_crashes, j.suspicions "

// The start check of one batch of entries: what is finished, cancelled or fenced does not come back. A keyed job runs
// only while it holds its key's slot. No lock, no write. Whether anything is paused is looked up once for the batch. $1
// ids, $2 fences, $3 whether args are wanted (they were not in the entry). Last: how many wait behind it for its key, 8
// at most.
inline constexpr Named kCheck = {"jobs_check", "SELECT " MAINSTAY_JOB_HEAD R"sql(
  CASE WHEN i.want THEN j.args::text END, j.deadline <= clock_timestamp(),
  (SELECT EXISTS (SELECT 1 FROM mainstay.job_pauses))
  AND EXISTS (SELECT 1 FROM mainstay.job_pauses_now p WHERE (p.scope = 'queue' AND p.name = j.queue) OR (p.scope = 'kind' AND p.name = j.kind)
              OR (p.scope = 'tenant' AND p.name = j.tenant) OR (p.scope = 'key' AND p.key_hash = j.key_hash)))sql" MAINSTAY_JOB_TAIL
                                               R"sql(,
  CASE WHEN j.key_hash IS NOT NULL THEN (SELECT count(*) FROM (SELECT 1 FROM mainstay.jobs n WHERE n.key_hash = j.key_hash AND n.state = 2 AND n.seq > j.seq ORDER BY n.seq LIMIT 8) f)::integer ELSE 0 END
FROM unnest($1::uuid[], $2::bigint[], $3::boolean[]) AS i (id, fence, want) JOIN mainstay.jobs j ON j.id = i.id AND j.fence = i.fence
WHERE j.state = 4 OR (j.state = 2 AND j.limit_hash IS NULL AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id)))sql"};

// What may follow holders of keys ($1 ids, $2 fences, $3 keys, $4 at most so many each, $5 routes): the holder, then
// the columns of kCheck. Locks the holders for share, their slots.
inline constexpr Named kTakeRuns = {
    "jobs_take_runs", "SELECT r.holder, " MAINSTAY_JOB_HEAD "j.args::text, false, false" MAINSTAY_JOB_TAIL R"sql(
FROM mainstay.take_key_runs($1::uuid[], $2::bigint[], $3::bigint[], $4::integer[], $5::text[]) WITH ORDINALITY AS r (holder, id, fence, n)
JOIN mainstay.jobs j ON j.id = r.id AND j.fence = r.fence ORDER BY r.n)sql"};
// In the transaction of what handed holders of keys out anew, after it.
inline constexpr Named kCutRuns = {"jobs_cut_runs", "SELECT mainstay.cut_key_runs($1::bigint[])"};
// Runs of which nothing was finished for $1 seconds, though the job whose turn it is has not lasted a heartbeat: their
// worker is gone.
inline constexpr Named kStuckRuns = {"jobs_stuck_runs", R"sql(
SELECT j.id, j.fence FROM mainstay.job_slots s JOIN mainstay.jobs j ON j.id = s.job
WHERE s.last_seq IS NOT NULL AND j.state = 2 AND s.taken_at < clock_timestamp() - $1::float8 * interval '1 second' LIMIT 1000)sql"};

// While Redis is away: takes jobs of one stream from the backlog, raising the fence; also those published so long ago
// that their entry is out of reach. Locks the rows, skips locked ones. $1 queue, $2 priority, $3 after this id, $4
// limit, $5 kinds, $6 worker, $7 stale after (seconds).
// Of limited queues only what the dispatcher let through (published and stale).
inline constexpr Named kClaim = {"jobs_claim", R"sql(
WITH next AS (
  SELECT j.id FROM mainstay.jobs j
  WHERE j.queue = $1 AND j.priority = $2 AND j.id > $3::uuid AND mainstay.job_route(j.kind, j.version) = ANY ($5::text[])
    AND ((j.state = 3 AND NOT EXISTS (SELECT 1 FROM mainstay.job_queues q WHERE q.name = j.queue AND q.closed))
         OR (j.state = 4 AND j.published_at < clock_timestamp() - $7::float8 * interval '1 second'))
    AND NOT ((SELECT EXISTS (SELECT 1 FROM mainstay.job_pauses))
             AND EXISTS (SELECT 1 FROM mainstay.job_pauses_now p WHERE (p.scope = 'queue' AND p.name = j.queue) OR (p.scope = 'kind' AND p.name = j.kind)
                         OR (p.scope = 'tenant' AND p.name = j.tenant) OR (p.scope = 'key' AND p.key_hash = j.key_hash)))
  ORDER BY j.id LIMIT $4 FOR UPDATE SKIP LOCKED
)
UPDATE mainstay.jobs j SET state = 5, fence = j.fence + 1, worker = $6::uuid, started_at = coalesce(j.started_at, clock_timestamp())
FROM next n WHERE j.id = n.id
RETURNING )sql" MAINSTAY_JOB_HEAD "j.args::text, j.deadline <= clock_timestamp(), false" MAINSTAY_JOB_TAIL};
// The same for holders of keys. $5 queues, NULL: any.
inline constexpr Named kClaimKeyed = {"jobs_claim_keyed", R"sql(
WITH next AS (
  SELECT j.id FROM mainstay.job_slots s JOIN mainstay.jobs j ON j.id = s.job
  WHERE j.state = 2 AND j.limit_hash IS NULL AND mainstay.job_route(j.kind, j.version) = ANY ($2::text[]) AND ($5::text[] IS NULL OR j.queue = ANY ($5::text[])) AND greatest(s.taken_at, j.published_at) < clock_timestamp() - $4::float8 * interval '1 second'
    AND NOT EXISTS (SELECT 1 FROM mainstay.job_queues q WHERE q.name = j.queue AND q.closed)
    AND NOT ((SELECT EXISTS (SELECT 1 FROM mainstay.job_pauses))
             AND EXISTS (SELECT 1 FROM mainstay.job_pauses_now p WHERE (p.scope = 'queue' AND p.name = j.queue) OR (p.scope = 'kind' AND p.name = j.kind)
                         OR (p.scope = 'tenant' AND p.name = j.tenant) OR (p.scope = 'key' AND p.key_hash = j.key_hash)))
  LIMIT $1 FOR UPDATE OF j SKIP LOCKED
)
UPDATE mainstay.jobs j SET state = 5, fence = j.fence + 1, worker = $3::uuid, started_at = coalesce(j.started_at, clock_timestamp())
FROM next n WHERE j.id = n.id
RETURNING )sql" MAINSTAY_JOB_HEAD "j.args::text, j.deadline <= clock_timestamp(), false" MAINSTAY_JOB_TAIL};

// Final states: out of the hot table, into history, unique keys freed; one statement, fenced. Locks the rows of the
// batch. $7: runs to count, NULL for one. $11: how long (ms) the transaction may then be idle before its commit, NULL:
// as its session. Returns one row: how many changed, the changed ids and their key hashes where they have one, those
// with a flow and their states.
inline constexpr Named kComplete = {"jobs_complete", R"sql(
WITH gone AS (
  DELETE FROM mainstay.jobs j
  USING unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::integer[], $8::float8[]) AS i (id, fence, final, result, code, message, ran, took)
  WHERE j.id = i.id AND j.fence = i.fence
  RETURNING j.*, i.final, i.result, i.code, i.message, j.attempt + coalesce(i.ran, 1) AS attempts, i.took
), freed AS (
  DELETE FROM mainstay.job_unique u USING gone g WHERE u.hash = g.unique_hash AND u.job = g.id
), kept AS (
  INSERT INTO mainstay.jobs_history (id, fence, run_at, deadline, created_at, started_at, worker, state, priority, attempt, crashes, snoozes, max_attempts, max_crashes, tenant, kind,
                                     queue, args, sensitive_args, result, unique_key, ordering_key, tags, principal, traceparent, request_id, catalog_hash, errors, progress,
                                     checkpoint, options, fingerprint, version, concurrency_key, concurrency_limit, unique_hash)
  SELECT g.id, g.fence, g.run_at, g.deadline, g.created_at, coalesce(g.started_at, clock_timestamp() - g.took * interval '1 second'), coalesce($9::uuid, g.worker), g.final, g.priority,
         g.attempts, g.crashes, g.snoozes, g.max_attempts, g.max_crashes, g.tenant, g.kind, g.queue, g.args, g.sensitive_args, g.result::json, g.unique_key, g.ordering_key, g.tags,
         g.principal, g.traceparent, g.request_id, g.catalog_hash,
         CASE WHEN g.code IS NULL THEN g.errors
              ELSE coalesce(CASE WHEN jsonb_array_length(g.errors) >= 20 THEN g.errors - 0 ELSE g.errors END, '[]'::jsonb)
                   || jsonb_build_object('attempt', g.attempts, 'at', clock_timestamp(), 'code', g.code, 'message', g.message, 'worker', $10::text) END,
         g.progress, g.checkpoint, g.options, CASE WHEN g.final = 9 AND g.code IS NOT NULL THEN mainstay.job_fingerprint(g.code, g.message) END,
         g.version, g.concurrency_key, g.concurrency_limit, g.unique_hash
  FROM gone g
)
SELECT count(*), array_agg(id) FILTER (WHERE key_hash IS NOT NULL), array_agg(key_hash) FILTER (WHERE key_hash IS NOT NULL),
       array_agg(id) FILTER (WHERE flow IS NOT NULL), array_agg(final) FILTER (WHERE flow IS NOT NULL),
       CASE WHEN $11::text IS NOT NULL THEN set_config('idle_in_transaction_session_timeout', $11, true) END FROM gone)sql"};

// Retries and snoozes: due later, under a raised fence. A keyed job keeps its slot, so its key waits for it. $3 delay
// (seconds), $4 error (else a snooze), $7 as $11 of kComplete.
inline constexpr Named kRetry = {"jobs_retry", R"sql(
UPDATE mainstay.jobs j
SET state = 1, fence = j.fence + 1, due_at = clock_timestamp() + i.delay * interval '1 second', run_at = clock_timestamp() + i.delay * interval '1 second', worker = NULL, published_at = NULL,
    started_at = NULL, suspicions = 0, attempt = j.attempt + CASE WHEN i.code IS NULL THEN 0 ELSE 1 END, snoozes = j.snoozes + CASE WHEN i.code IS NULL THEN 1 ELSE 0 END,
    fingerprint = CASE WHEN i.code IS NULL THEN j.fingerprint ELSE mainstay.job_fingerprint(i.code, i.message) END,
    errors = CASE WHEN i.code IS NULL THEN j.errors
                  ELSE coalesce(CASE WHEN jsonb_array_length(j.errors) >= 20 THEN j.errors - 0 ELSE j.errors END, '[]'::jsonb)
                       || jsonb_build_object('attempt', j.attempt + 1, 'at', clock_timestamp(), 'code', i.code, 'message', i.message, 'worker', $6::text) END
FROM unnest($1::uuid[], $2::bigint[], $3::float8[], $4::text[], $5::text[]) AS i (id, fence, delay, code, message)
WHERE j.id = i.id AND j.fence = i.fence
RETURNING j.id, CASE WHEN $7::text IS NOT NULL THEN set_config('idle_in_transaction_session_timeout', $7, true) END, j.key_hash)sql"};

// Jobs whose process died. $3 delay (seconds) and $4 evidence of one that ran alone: it pays with its crash budget, and
// is due later. NULL: a suspect, handed out again at once to run alone, by the caller for those that come back as
// `published` or that hold a key; what has a lane goes back to the dispatcher. It keeps the places that it counts for.
// Fenced.
inline constexpr Named kCrash = {"jobs_crash", R"sql(
UPDATE mainstay.jobs j
SET fence = j.fence + 1, worker = NULL, started_at = NULL,
    due_at = CASE WHEN i.evidence IS NOT NULL THEN clock_timestamp() + i.delay * interval '1 second' END,
    (state, published_at) = (
      SELECT n.next, CASE WHEN n.next IN (2, 4) THEN clock_timestamp() END
      FROM (SELECT CASE WHEN i.evidence IS NOT NULL THEN 1
                        WHEN EXISTS (SELECT 1 FROM mainstay.job_queues q WHERE q.name = j.queue AND mainstay.job_route(j.kind, j.version) = ANY (q.lanes)) THEN 3
                        WHEN j.key_hash IS NOT NULL AND j.limit_hash IS NULL THEN 2 ELSE 4 END AS next) n),
    crashes = j.crashes + CASE WHEN i.evidence IS NULL THEN 0 ELSE 1 END, suspicions = j.suspicions + 1,
    fingerprint = CASE WHEN i.evidence IS NULL THEN j.fingerprint ELSE mainstay.job_fingerprint('crashed', i.evidence) END,
    errors = CASE WHEN i.evidence IS NULL THEN j.errors
                  ELSE coalesce(CASE WHEN jsonb_array_length(j.errors) >= 20 THEN j.errors - 0 ELSE j.errors END, '[]'::jsonb)
                       || jsonb_build_object('attempt', j.attempt + 1, 'at', clock_timestamp(), 'code', 'crashed', 'message', i.evidence, 'worker', $5::text) END
FROM unnest($1::uuid[], $2::bigint[], $3::float8[], $4::text[]) AS i (id, fence, delay, evidence)
WHERE j.id = i.id AND j.fence = i.fence
RETURNING j.id, j.fence, j.attempt, j.kind, j.queue, j.priority, CASE WHEN j.sensitive_args IS NULL AND octet_length(j.args::text) <= 4096 THEN j.args::text END, j.state, j.crashes, j.max_crashes, j.key_hash)sql"};

// Hands jobs out anew (drain, sweep, reclaim): fence raised first, then the caller adds those that come back as
// `published` or that hold a key. $3: 3 back to the backlog, 4 published. 1 looked at again in two seconds (a keyed job
// that may not run now, but keeps its place). $4 crashes and $5 suspicions to count; from the fourth suspicion on each
// is a crash. Those go out one by one at random moments, later each time: whoever takes its worker down must not take
// the same bystanders along again. Fenced.
// What only the dispatcher may hand out (limits, lanes) goes back to it, whatever $3 says; of keyed ones only the
// holder of the slot goes out.
inline constexpr Named kReissue = {"jobs_reissue", R"sql(
UPDATE mainstay.jobs j
SET fence = j.fence + 1, worker = NULL, started_at = NULL,
    due_at = CASE WHEN i.crashes > 0 OR i.suspicions > 0 THEN clock_timestamp() + (0.1 + random() / 2) * 2 ^ least(j.crashes + j.suspicions + 1, 7) * interval '1 second'
                  WHEN $3::smallint = 1 THEN clock_timestamp() + interval '2 seconds' END,
    (state, published_at) = (
      SELECT n.next, CASE WHEN n.next IN (2, 4) AND j.limit_hash IS NULL THEN clock_timestamp() END
      FROM (SELECT CASE WHEN $3::smallint = 1 OR i.crashes > 0 OR i.suspicions > 0 THEN 1
                        WHEN j.limit_hash IS NOT NULL THEN 2
                        WHEN EXISTS (SELECT 1 FROM mainstay.job_queues q WHERE q.name = j.queue AND (q.closed OR mainstay.job_route(j.kind, j.version) = ANY (q.lanes))) THEN 3
                        WHEN j.key_hash IS NOT NULL THEN 2 ELSE $3::smallint END AS next) n),
    crashes = j.crashes + coalesce(i.crashes, 0) + CASE WHEN i.suspicions > 0 AND j.suspicions >= 3 THEN 1 ELSE 0 END, suspicions = j.suspicions + coalesce(i.suspicions, 0)
FROM unnest($1::uuid[], $2::bigint[], $4::smallint[], $5::smallint[]) AS i (id, fence, crashes, suspicions)
WHERE j.id = i.id AND j.fence = i.fence AND j.state IN (2, 4, 5)
RETURNING j.id, j.fence, j.attempt, j.kind, j.queue, j.priority, CASE WHEN j.sensitive_args IS NULL AND octet_length(j.args::text) <= 4096 THEN j.args::text END,
          CASE WHEN j.state = 2 AND (j.limit_hash IS NOT NULL OR NOT EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id)) THEN 3 ELSE j.state END,
          j.crashes, j.max_crashes, j.key_hash)sql"};

// See the migration: in the finishing transaction, after kComplete. Locks the keys' slots in order, their successors
// for share. $3 whose turn it is in runs that go on, $4 their fences. What is handed out, then freed keys (last
// column).
inline constexpr Named kPassKeys = {
    "jobs_pass_keys", "SELECT * FROM mainstay.pass_keys($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[])"};

// Jobs that outlived a heartbeat: from now on this worker's lease row is their lease. Refused when that lease has run
// out. Those that a lost answer had already marked are named again. Fenced.
inline constexpr Named kMarkRunning = {"jobs_mark_running", R"sql(
UPDATE mainstay.jobs j SET state = 5, worker = $3::uuid, started_at = coalesce(j.started_at, clock_timestamp() - i.since * interval '1 second')
FROM unnest($1::uuid[], $2::bigint[], $4::float8[]) AS i (id, fence, since)
WHERE j.id = i.id AND j.fence = i.fence AND (j.state IN (2, 4) OR (j.state = 5 AND j.worker = $3::uuid)) AND EXISTS (SELECT 1 FROM mainstay.job_workers w WHERE w.id = $3::uuid AND w.lease_until > clock_timestamp())
RETURNING j.id)sql"};

// Jobs that another worker had given to somebody who now turns to this one ($3): they go on under a raised fence, so
// that whatever the other still does with them counts no more. Last: how long they have been running. Locks the rows.
inline constexpr Named kAdopt = {"jobs_adopt", R"sql(
UPDATE mainstay.jobs j SET state = 5, fence = j.fence + 1, worker = $3::uuid, started_at = coalesce(j.started_at, clock_timestamp())
FROM unnest($1::uuid[], $2::bigint[]) AS i (id, fence)
WHERE j.id = i.id AND j.fence = i.fence AND j.state IN (2, 4, 5)
RETURNING )sql" MAINSTAY_JOB_HEAD "NULL::text, false, false" MAINSTAY_JOB_TAIL
                                               ", extract(epoch FROM clock_timestamp() - j.started_at)::float8"};
// Whether it is a job's turn in its run: all before it are stored. No row: it is no longer ours.
inline constexpr Named kItsTurn = {"jobs_its_turn", R"sql(
SELECT EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id) FROM mainstay.jobs j WHERE j.id = $1::uuid AND j.fence = $2)sql"};
// Which of these runs gave their job its final state. No lock.
inline constexpr Named kFinishedUnder = {"jobs_finished_under", R"sql(
SELECT h.id FROM unnest($1::uuid[], $2::bigint[]) AS i (id, fence) JOIN mainstay.jobs_history h ON h.id = i.id AND h.fence = i.fence WHERE h.state <> 8)sql"};

// Of these ids, those that cannot be finished now, because somebody else has locked their row, their key's slot, or the
// next in line for it. Locks the others, for the statement.
inline constexpr Named kLocked = {"jobs_locked", R"sql(
WITH these AS MATERIALIZED (
  SELECT j.id, j.key_hash FROM mainstay.jobs j WHERE j.id = ANY ($1::uuid[])
), next AS MATERIALIZED (
  SELECT k.key_hash, n.id FROM (SELECT DISTINCT t.key_hash FROM these t WHERE t.key_hash IS NOT NULL) k
  CROSS JOIN LATERAL (SELECT j.id FROM mainstay.jobs j WHERE j.key_hash = k.key_hash AND j.state IN (2, 5) AND j.id <> ALL ($1::uuid[]) ORDER BY j.seq LIMIT 1) n
), free AS MATERIALIZED (
  SELECT j.id FROM mainstay.jobs j WHERE j.id = ANY ($1::uuid[]) FOR UPDATE SKIP LOCKED
), free_next AS MATERIALIZED (
  SELECT j.id FROM mainstay.jobs j WHERE j.id = ANY (ARRAY(SELECT n.id FROM next n)) FOR SHARE SKIP LOCKED
), free_slots AS MATERIALIZED (
  SELECT s.key_hash FROM mainstay.job_slots s WHERE s.key_hash = ANY (ARRAY(SELECT t.key_hash FROM these t WHERE t.key_hash IS NOT NULL)) FOR UPDATE SKIP LOCKED
), held_keys AS (
  SELECT n.key_hash FROM next n WHERE n.id NOT IN (SELECT f.id FROM free_next f)
  UNION
  SELECT s.key_hash FROM these t JOIN mainstay.job_slots s ON s.key_hash = t.key_hash WHERE s.key_hash NOT IN (SELECT f.key_hash FROM free_slots f)
)
SELECT t.id FROM these t WHERE t.id NOT IN (SELECT f.id FROM free f) OR t.key_hash IN (SELECT h.key_hash FROM held_keys h))sql"};

// Which of these are still ours. No lock.
inline constexpr Named kHeld = {"jobs_held", R"sql(
SELECT j.id FROM unnest($1::uuid[], $2::bigint[]) AS i (id, fence) JOIN mainstay.jobs j ON j.id = i.id AND j.fence = i.fence)sql"};

// Progress and checkpoints of several jobs ($3, $4: NULL keeps what is there). Fenced.
inline constexpr Named kNotes = {"jobs_notes", R"sql(
UPDATE mainstay.jobs j SET progress = coalesce(i.progress::jsonb, j.progress), checkpoint = coalesce(i.checkpoint::json, j.checkpoint)
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[]) AS i (id, fence, progress, checkpoint)
WHERE j.id = i.id AND j.fence = i.fence RETURNING j.id)sql"};

// The worker's lease. $5 seconds.
inline constexpr Named kRenewWorker = {"jobs_renew_worker", R"sql(
INSERT INTO mainstay.job_workers AS w (id, name, kinds, in_flight, lease_until, draining, queues, may_lead, lanes)
VALUES ($1::uuid, $2, $3::text[], $4, clock_timestamp() + $5::float8 * interval '1 second', $6, $7::text[], $8, $9::text[])
ON CONFLICT (id) DO UPDATE SET in_flight = excluded.in_flight, lease_until = excluded.lease_until, draining = excluded.draining, kinds = excluded.kinds,
  queues = excluded.queues, may_lead = excluded.may_lead, lanes = excluded.lanes)sql"};
// Who works at the ends of its streams.
inline constexpr Named kSetStreams = {"jobs_set_streams",
                                      "UPDATE mainstay.job_workers SET streams = $2::json WHERE id = $1::uuid"};
inline constexpr Named kCouldLead = {"jobs_could_lead",
                                     "SELECT 1 FROM mainstay.job_workers w WHERE w.may_lead AND NOT w.draining AND "
                                     "w.id <> $1::uuid AND w.lease_until > clock_timestamp() LIMIT 1"};
inline constexpr Named kRemoveWorker = {"jobs_remove_worker",
                                        "DELETE FROM mainstay.job_workers w WHERE w.id = $1::uuid AND NOT EXISTS "
                                        "(SELECT 1 FROM mainstay.jobs j WHERE j.worker = w.id)"};

// All streams with their pauses, lanes ("" is the one that all workers of the queue share; else the route that a worker
// must have announced to read it) and weights, for libs/jobs/shares.h.
inline constexpr Named kStreams = {"jobs_streams", R"sql(
SELECT w.queue, w.priority, EXISTS (SELECT 1 FROM mainstay.job_pauses_now p WHERE p.scope = 'queue' AND p.name = w.queue), l.lane, q.weight, q.weighted, q.priority
FROM mainstay.job_windows w JOIN mainstay.job_queues q ON q.name = w.queue
CROSS JOIN LATERAL (SELECT '' AS lane UNION ALL SELECT n.route FROM mainstay.job_lanes n WHERE n.queue = w.queue) l
ORDER BY w.priority, w.queue, l.lane)sql"};

// ---- upkeep (the elected worker; safe with two) ----

// The catalog's queues, for SQL producers; those no longer declared stay as long as jobs name them, but take no new
// ones from SQL.
inline constexpr Named kSyncQueues = {"jobs_sync_queues", R"sql(
WITH declared AS (
  SELECT * FROM unnest($1::text[], $2::smallint[], $3::integer[], $4::smallint[], $5::integer[], $6::smallint[], $7::float8[], $8::float8[], $9::float8[], $10::boolean[])
         AS t (name, priority, max_attempts, max_crashes, concurrency, weight, rate, tenant_rate, retention, weighted)
), gone AS (
  UPDATE mainstay.job_queues q SET declared = false WHERE q.declared AND NOT EXISTS (SELECT 1 FROM declared d WHERE d.name = q.name)
), streams AS (
  INSERT INTO mainstay.job_windows (queue, priority) SELECT name, priority FROM declared ON CONFLICT DO NOTHING
)
INSERT INTO mainstay.job_queues AS q (name, priority, max_attempts, max_crashes, concurrency, weight, rate, tenant_rate, retention, weighted)
SELECT name, priority, max_attempts, max_crashes, concurrency, weight, rate, tenant_rate, retention * interval '1 second', weighted FROM declared
ON CONFLICT (name) DO UPDATE SET priority = excluded.priority, max_attempts = excluded.max_attempts, max_crashes = excluded.max_crashes, concurrency = excluded.concurrency,
  weight = excluded.weight, rate = excluded.rate, tenant_rate = excluded.tenant_rate, retention = excluded.retention,
  weighted = excluded.weighted, declared = true
WHERE (q.priority, q.max_attempts, q.max_crashes, q.concurrency, q.weight, q.rate, q.tenant_rate, q.retention, q.weighted, q.declared)
      IS DISTINCT FROM (excluded.priority, excluded.max_attempts, excluded.max_crashes, excluded.concurrency, excluded.weight, excluded.rate, excluded.tenant_rate, excluded.retention, excluded.weighted, true))sql"};

// Queues and priorities that have jobs but no stream yet: one probe between each two that are known, so that the dead
// entries of finished jobs are not walked.
inline constexpr Named kFindStreams = {"jobs_find_streams", R"sql(
WITH known AS (
  SELECT '' AS queue, (-1)::smallint AS priority UNION ALL SELECT w.queue, w.priority FROM mainstay.job_windows w
), gaps AS (
  SELECT k.queue, k.priority, lead(k.queue) OVER o AS next_queue, lead(k.priority) OVER o AS next_priority FROM known k WINDOW o AS (ORDER BY k.queue, k.priority)
), found AS (
  SELECT f.queue, f.priority FROM gaps g CROSS JOIN LATERAL (
    SELECT j.queue, j.priority FROM mainstay.jobs j WHERE (j.queue, j.priority) > (g.queue, g.priority) AND (j.queue, j.priority) < (g.next_queue, g.next_priority)
    ORDER BY j.queue, j.priority LIMIT 1) f WHERE g.next_queue IS NOT NULL
  UNION ALL
  SELECT f.queue, f.priority FROM gaps g CROSS JOIN LATERAL (
    SELECT j.queue, j.priority FROM mainstay.jobs j WHERE (j.queue, j.priority) > (g.queue, g.priority) ORDER BY j.queue, j.priority LIMIT 1) f WHERE g.next_queue IS NULL
), queues AS (
  INSERT INTO mainstay.job_queues (name, declared) SELECT DISTINCT queue, false FROM found ON CONFLICT DO NOTHING
)
INSERT INTO mainstay.job_windows (queue, priority) SELECT queue, priority FROM found ON CONFLICT DO NOTHING)sql"};

inline constexpr Named kQueueSettings = {
    "jobs_queue_settings", "SELECT name, weighted, concurrency, rate, tenant_rate, lanes FROM mainstay.job_queues"};
inline constexpr Named kPausesNow = {"jobs_pauses_now",
                                     "SELECT scope, name, tenant, key_hash FROM mainstay.job_pauses_now"};
inline constexpr Named kTenantWeights = {"jobs_tenant_weights", "SELECT tenant, weight FROM mainstay.job_tenants"};
// One row per live worker and kind it announced, and whether it asks for a lane; a draining one takes nothing any more.
inline constexpr Named kLiveKinds = {"jobs_live_kinds", R"sql(
SELECT w.id, w.queues, k.kind, k.kind = ANY (w.lanes) FROM mainstay.job_workers w CROSS JOIN LATERAL unnest(w.kinds) AS k (kind)
WHERE w.lease_until > clock_timestamp() AND NOT w.draining)sql"};

// Lanes of a queue: $2 open, $3 closing (still read, no longer written), $4 gone.
inline constexpr Named kSetLanes = {"jobs_set_lanes", R"sql(
WITH opened AS (
  INSERT INTO mainstay.job_lanes AS l (queue, route) SELECT $1, r FROM unnest($2::text[]) r ON CONFLICT (queue, route) DO UPDATE SET closing_at = NULL WHERE l.closing_at IS NOT NULL
), closing AS (
  UPDATE mainstay.job_lanes l SET closing_at = clock_timestamp() WHERE l.queue = $1 AND l.route = ANY ($3::text[]) AND l.closing_at IS NULL
), gone AS (
  DELETE FROM mainstay.job_lanes l WHERE l.queue = $1 AND l.route = ANY ($4::text[])
)
UPDATE mainstay.job_queues q SET lanes = $5::text[] WHERE q.name = $1 AND q.lanes <> $5::text[])sql"};
inline constexpr Named kLanes = {
    "jobs_lanes",
    "SELECT queue, route, extract(epoch FROM clock_timestamp() - closing_at)::float8 FROM mainstay.job_lanes"};

// $3 seconds from now; 0 closes. $4: jobs of one call that may go in.
inline constexpr Named kSetWindow = {"jobs_set_window", R"sql(
UPDATE mainstay.job_windows SET open_until = CASE WHEN $3::float8 > 0 THEN clock_timestamp() + $3::float8 * interval '1 second' ELSE '-infinity' END WHERE queue = $1 AND priority = $2)sql"};
inline constexpr Named kCloseWindows = {
    "jobs_close_windows", "UPDATE mainstay.job_windows SET open_until = '-infinity' WHERE open_until > '-infinity'"};

// What is there to do? In one statement, for a tick that usually finds nothing: the known tenants ($1 to $4) that have
// jobs behind their positions, unknown tenants in the gaps between them ($5 to $8), due jobs, jobs of concurrency keys.
// No lock.
inline constexpr Named kPeek = {"jobs_peek", R"sql(
SELECT 1 AS what, t.n::integer, NULL::text FROM unnest($1::text[], $2::smallint[], $3::text[], $4::uuid[]) WITH ORDINALITY AS t (queue, priority, tenant, after, n)
CROSS JOIN LATERAL (
  SELECT FROM mainstay.jobs j WHERE j.waits AND j.queue = t.queue AND j.priority = t.priority AND j.tenant COLLATE "C" = t.tenant AND j.id > t.after AND j.state = 3 ORDER BY j.id LIMIT 1) f
UNION ALL
SELECT 2, g.n::integer, f.tenant FROM unnest($5::text[], $6::smallint[], $7::text[], $8::text[]) WITH ORDINALITY AS g (queue, priority, low, high, n)
CROSS JOIN LATERAL (
  WITH RECURSIVE found AS (
    (SELECT j.tenant FROM mainstay.jobs j WHERE j.waits AND j.queue = g.queue AND j.priority = g.priority AND j.tenant COLLATE "C" > g.low AND j.tenant COLLATE "C" < g.high
     ORDER BY j.tenant COLLATE "C" LIMIT 1)
    UNION ALL
    SELECT n.tenant FROM found CROSS JOIN LATERAL (
      SELECT j.tenant FROM mainstay.jobs j WHERE j.waits AND j.queue = g.queue AND j.priority = g.priority AND j.tenant COLLATE "C" > found.tenant AND j.tenant COLLATE "C" < g.high
      ORDER BY j.tenant COLLATE "C" LIMIT 1) n
  )
  SELECT found.tenant FROM found LIMIT 500) f
UNION ALL
SELECT 3, 0, NULL WHERE EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.due_at <= statement_timestamp())
UNION ALL
SELECT 4, 0, NULL WHERE EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.limit_hash IS NOT NULL))sql"};

// Top-up of one stream: turns of tenants ($3 tenant, $4 behind this id, $5 at most so many). A HOT update: no index
// mentions what it changes. Only routes ($6) that may go now and no paused keys ($7); the others wait here, and are
// passed over until something changes. Returns what was published, then a row per tenant: where its turn ended, how
// many jobs were seen, how many of them could not go.
inline constexpr Named kDispatch = {"jobs_dispatch", R"sql(
WITH seen AS MATERIALIZED (
  SELECT t.n, s.id, s.ok FROM unnest($3::text[], $4::uuid[], $5::integer[]) WITH ORDINALITY AS t (tenant, after, take, n)
  CROSS JOIN LATERAL (
    SELECT j.id, mainstay.job_route(j.kind, j.version) = ANY ($6::text[]) AND (j.key_hash IS NULL OR j.key_hash <> ALL ($7::bigint[])) AS ok
    FROM mainstay.jobs j WHERE j.waits AND j.queue = $1 AND j.priority = $2 AND j.tenant COLLATE "C" = t.tenant AND j.id > t.after AND j.state = 3
    ORDER BY j.id LIMIT t.take) s
), published AS (
  UPDATE mainstay.jobs j SET state = 4, published_at = clock_timestamp() WHERE j.state = 3 AND j.id = ANY (ARRAY(SELECT seen.id FROM seen WHERE seen.ok))
  RETURNING j.id, j.fence, j.attempt, j.kind, j.queue, j.priority, CASE WHEN j.sensitive_args IS NULL AND octet_length(j.args::text) <= 4096 THEN j.args::text END,
            mainstay.job_route(j.kind, j.version)
)
SELECT p.*, NULL::integer, NULL::integer, NULL::integer FROM published p
UNION ALL
SELECT (array_agg(seen.id ORDER BY seen.id DESC))[1], NULL, NULL, NULL, NULL, NULL, NULL, NULL, seen.n::integer, count(*)::integer, (count(*) FILTER (WHERE NOT seen.ok))::integer
FROM seen GROUP BY seen.n)sql"};
// The same for jobs known by id: they came back behind their tenant's position (due again, given back).
inline constexpr Named kDispatchIds = {"jobs_dispatch_ids", R"sql(
UPDATE mainstay.jobs j SET state = 4, published_at = clock_timestamp()
WHERE j.id = ANY ($1::uuid[]) AND j.state = 3 AND mainstay.job_route(j.kind, j.version) = ANY ($2::text[]) AND (j.key_hash IS NULL OR j.key_hash <> ALL ($3::bigint[]))
  AND j.tenant <> ALL ($4::text[])
RETURNING j.id, j.fence, j.attempt, j.kind, j.queue, j.priority, CASE WHEN j.sensitive_args IS NULL AND octet_length(j.args::text) <= 4096 THEN j.args::text END,
          mainstay.job_route(j.kind, j.version))sql"};
// Kinds in a backlog that could not go: a sample of what stands behind an id.
inline constexpr Named kWaitingRoutes = {"jobs_waiting_routes", R"sql(
SELECT DISTINCT mainstay.job_route(w.kind, w.version) FROM (
  SELECT j.kind, j.version FROM mainstay.jobs j WHERE j.waits AND j.queue = $1 AND j.priority = $2 AND j.tenant COLLATE "C" = $3 AND j.id > $4::uuid AND j.state = 3 ORDER BY j.id LIMIT $5) w)sql"};

// A limited queue: how many may go. Locks: the counters of this queue, until the transaction ends.
inline constexpr Named kFreeQueueSlots = {"jobs_free_queue_slots", "SELECT mainstay.free_queue_slots($1, $2)"};
inline constexpr Named kTakeQueueSlots = {"jobs_take_queue_slots", R"sql(
INSERT INTO mainstay.job_limit_slots AS s (limit_hash, job, fence)
SELECT mainstay.job_key_hash('*', $1), t.job, t.fence FROM unnest($2::uuid[], $3::bigint[]) AS t (job, fence)
ON CONFLICT (limit_hash, job) DO UPDATE SET fence = excluded.fence, taken_at = clock_timestamp())sql"};
inline constexpr Named kGrantLimits = {
    "jobs_grant_limits",
    "SELECT id, tenant, queue, priority, last_hash FROM mainstay.grant_job_limits($1::bigint, $2)"};

// Which jobs are due, oldest first; and, when there are more than can be released, some of every queue and tenant, from
// the pair behind ($1, $2) on: nobody waits for another's millions. The last row of a pair may be empty. No lock.
inline constexpr Named kDue = {"jobs_due", R"sql(
SELECT j.id FROM mainstay.jobs j WHERE j.due_at <= statement_timestamp() ORDER BY j.due_at LIMIT $1)sql"};
inline constexpr Named kDueTurns = {"jobs_due_turns", R"sql(
WITH RECURSIVE pairs AS (
  (SELECT j.queue, j.tenant FROM mainstay.jobs j WHERE j.due_at IS NOT NULL AND (j.queue, j.tenant COLLATE "C") > ($1, $2) ORDER BY j.queue, j.tenant COLLATE "C" LIMIT 1)
  UNION ALL
  SELECT n.queue, n.tenant FROM pairs p CROSS JOIN LATERAL (
    SELECT j.queue, j.tenant FROM mainstay.jobs j WHERE j.due_at IS NOT NULL AND (j.queue, j.tenant COLLATE "C") > (p.queue, p.tenant) ORDER BY j.queue, j.tenant COLLATE "C" LIMIT 1) n
), turns AS (SELECT * FROM pairs LIMIT $3)
SELECT d.id, s.queue, s.tenant FROM turns s LEFT JOIN LATERAL (
  SELECT j.id FROM mainstay.jobs j WHERE j.due_at IS NOT NULL AND j.queue = s.queue AND j.tenant COLLATE "C" = s.tenant AND j.due_at <= statement_timestamp() ORDER BY j.due_at LIMIT $4) d ON true)sql"};

// Releases due jobs. Where the window is open and nothing speaks against it they are published at once; a keyed one
// that still holds its slot (a retry) goes out again, the others queue for their key; what has a limit waits for its
// slot; the rest goes to the backlog. Locks the rows, skips locked ones.
inline constexpr Named kPromoteDue = {"jobs_promote_due", R"sql(
WITH due AS (
  SELECT j.id,
         NOT coalesce(q.closed OR mainstay.job_route(j.kind, j.version) = ANY (q.lanes), false) AND mainstay.job_route(j.kind, j.version) = ANY ($2::text[])
           AND NOT ((SELECT EXISTS (SELECT 1 FROM mainstay.job_pauses))
                    AND EXISTS (SELECT 1 FROM mainstay.job_pauses_now p WHERE (p.scope = 'queue' AND p.name = j.queue) OR (p.scope = 'kind' AND p.name = j.kind)
                                OR (p.scope = 'tenant' AND p.name = j.tenant) OR (p.scope = 'key' AND p.key_hash = j.key_hash))) AS direct,
         EXISTS (SELECT 1 FROM mainstay.job_windows w WHERE w.queue = j.queue AND w.priority = j.priority AND w.open_until > clock_timestamp()) AS open,
         j.key_hash IS NOT NULL AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id) AS holds
  FROM mainstay.jobs j LEFT JOIN mainstay.job_queues q ON q.name = j.queue
  WHERE j.id = ANY ($1::uuid[]) AND j.due_at <= clock_timestamp() FOR UPDATE OF j SKIP LOCKED
)
UPDATE mainstay.jobs j SET due_at = NULL,
       state = CASE WHEN j.limit_hash IS NOT NULL THEN 2 WHEN d.holds THEN CASE WHEN d.direct THEN 2 ELSE 3 END WHEN j.key_hash IS NOT NULL THEN 2 WHEN d.open AND d.direct THEN 4 ELSE 3 END,
       published_at = CASE WHEN j.limit_hash IS NULL AND (j.key_hash IS NOT NULL OR (d.open AND d.direct)) THEN clock_timestamp() END
FROM due d WHERE j.id = d.id
RETURNING j.id, j.fence, j.attempt, j.kind, j.queue, j.priority, CASE WHEN j.sensitive_args IS NULL AND octet_length(j.args::text) <= 4096 THEN j.args::text END, j.state, j.key_hash,
          d.holds, j.limit_hash)sql"};

// What should be in the streams since $1 seconds. Reads the whole hot table; the answer is bounded by the windows.
inline constexpr Named kPublished = {"jobs_published", R"sql(
SELECT j.id, j.fence FROM mainstay.jobs j WHERE j.state = 4 AND j.published_at <= clock_timestamp() - $1::float8 * interval '1 second')sql"};
// The same of those that hold their keys' slots, each by its id.
inline constexpr Named kHolders = {"jobs_holders", R"sql(
SELECT h.id, h.fence FROM mainstay.job_slots s
CROSS JOIN LATERAL (SELECT j.id, j.fence, j.state, j.limit_hash, j.published_at FROM mainstay.jobs j WHERE j.id = s.job OFFSET 0) h
WHERE h.state = 2 AND h.limit_hash IS NULL AND greatest(s.taken_at, h.published_at) <= clock_timestamp() - $1::float8 * interval '1 second')sql"};

// Slots whose job is gone, and keys that have waiting jobs and no slot: what a crash between two steps can leave. Given
// to promote_job_keys. Runs of such slots are cut before.
inline constexpr Named kLooseRuns = {"jobs_loose_runs", R"sql(
SELECT mainstay.cut_key_runs(ARRAY(SELECT s.key_hash FROM mainstay.job_slots s WHERE s.last_seq IS NOT NULL AND NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.id = s.job))))sql"};
inline constexpr Named kLooseKeys = {"jobs_loose_keys", R"sql(
WITH stale AS (
  DELETE FROM mainstay.job_slots s WHERE NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.id = s.job) RETURNING s.key_hash
)
SELECT key_hash FROM stale
UNION
(SELECT DISTINCT j.key_hash FROM mainstay.jobs j WHERE j.key_hash IS NOT NULL AND j.state = 2 AND NOT EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash) LIMIT $1::integer))sql"};

// Jobs of workers whose lease ran out, or whose row is gone.
inline constexpr Named kExpired = {"jobs_expired", R"sql(
SELECT j.id, j.fence FROM mainstay.jobs j
WHERE j.worker IS NOT NULL AND NOT EXISTS (SELECT 1 FROM mainstay.job_workers w WHERE w.id = j.worker AND w.lease_until > clock_timestamp())
  AND NOT EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job <> j.id AND j.seq <= s.last_seq) LIMIT 1000)sql"};
inline constexpr Named kForgetWorkers = {"jobs_forget_workers", R"sql(
DELETE FROM mainstay.job_workers w WHERE w.lease_until < clock_timestamp() - interval '1 minute' AND NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.worker = w.id))sql"};

// Days older than the longest retention of all queues go.
inline constexpr Named kMaintainHistory = {"jobs_maintain_history", R"sql(
SELECT made, dropped FROM mainstay.maintain_job_history(3, greatest($1::float8 * interval '1 second', (SELECT max(retention) FROM mainstay.job_queues WHERE declared))))sql"};
// Queues that keep their jobs for less than a day's partition stays, with the times between which jobs have come due.
// Some minutes are looked at twice: a commit may come later than the time it carries.
inline constexpr Named kShortQueues = {"jobs_short_queues", R"sql(
SELECT q.name, coalesce(q.purged_until - interval '10 minutes', '-infinity'), now() - coalesce(q.retention, $1::float8 * interval '1 second') FROM mainstay.job_queues q
WHERE coalesce(q.retention, $1::float8 * interval '1 second') < greatest($1::float8 * interval '1 second', (SELECT max(retention) FROM mainstay.job_queues WHERE declared)))sql"};
// $1 queue, $2 from, $3 to, $4 rows at most. Reads the days between; locks the rows it deletes.
inline constexpr Named kPurgeQueue = {"jobs_purge_queue", R"sql(
WITH old AS (
  SELECT h.id, h.finished_at FROM mainstay.jobs_history h WHERE h.queue = $1 AND h.finished_at >= $2::timestamptz AND h.finished_at < $3::timestamptz LIMIT $4
), gone AS (
  DELETE FROM mainstay.jobs_history h USING old o WHERE h.id = o.id AND h.finished_at = o.finished_at RETURNING 1
)
SELECT count(*) FROM gone)sql"};
inline constexpr Named kPurgedQueue = {
    "jobs_purged_queue", "UPDATE mainstay.job_queues q SET purged_until = $2::timestamptz WHERE q.name = $1"};
inline constexpr Named kPurgeJobs = {"jobs_purge_jobs", R"sql(
WITH old AS (
  SELECT h.id, h.finished_at FROM mainstay.jobs_history h
  WHERE h.options ? 'retention_s' AND h.finished_at < now() - (h.options ->> 'retention_s')::float8 * interval '1 second' LIMIT $1
), gone AS (
  DELETE FROM mainstay.jobs_history h USING old o WHERE h.id = o.id AND h.finished_at = o.finished_at RETURNING 1
)
SELECT count(*) FROM gone)sql"};

// ---- figures ----

// One statement per heartbeat and worker. Workers meet in the same rows, in one order.
inline constexpr Named kAddStats = {"jobs_add_stats", R"sql(
INSERT INTO mainstay.job_stats AS s (slot, queue, kind, succeeded, failed, dead, discarded, snoozed, queued, ran, queued_seconds, ran_seconds)
SELECT to_timestamp(floor(extract(epoch FROM statement_timestamp()) / 10) * 10), t.queue, t.kind, t.succeeded, t.failed, t.dead, t.discarded, t.snoozed, t.queued::bigint[], t.ran::bigint[],
       t.queued_seconds, t.ran_seconds
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::float8[], $11::float8[])
     AS t (queue, kind, succeeded, failed, dead, discarded, snoozed, queued, ran, queued_seconds, ran_seconds)
ORDER BY t.queue COLLATE "C", t.kind COLLATE "C"
ON CONFLICT (slot, queue, kind) DO UPDATE SET succeeded = s.succeeded + excluded.succeeded, failed = s.failed + excluded.failed, dead = s.dead + excluded.dead,
  discarded = s.discarded + excluded.discarded, snoozed = s.snoozed + excluded.snoozed, queued = mainstay.add_counts(s.queued, excluded.queued), ran = mainstay.add_counts(s.ran, excluded.ran),
  queued_seconds = s.queued_seconds + excluded.queued_seconds, ran_seconds = s.ran_seconds + excluded.ran_seconds)sql"};
inline constexpr Named kForgetStats = {
    "jobs_forget_stats", "DELETE FROM mainstay.job_stats WHERE slot < statement_timestamp() - interval '1 hour'"};
// The last quarter of an hour: age of each slot's start against the current one's, and how much of the current one has
// passed. Added up by the reader (an aggregate over arrays costs ten times as much).
inline constexpr Named kReadStats = {"jobs_read_stats", R"sql(
SELECT s.queue, s.kind, extract(epoch FROM n.slot - s.slot)::integer, extract(epoch FROM statement_timestamp() - n.slot)::float8, s.succeeded, s.failed, s.dead, s.discarded, s.snoozed,
       s.queued, s.ran, s.queued_seconds, s.ran_seconds
FROM (SELECT to_timestamp(floor(extract(epoch FROM statement_timestamp()) / 10) * 10) AS slot) n
JOIN mainstay.job_stats s ON s.slot > n.slot - interval '900 seconds'
WHERE $1::text IS NULL OR s.queue = $1 ORDER BY s.queue, s.kind)sql"};

// ---- operators ----

// A job as the API shows it: $1 uuid, $2 tenant ('*': any).
inline constexpr Named kGet = {"jobs_get", R"sql(
SELECT uid, tenant, kind, queue, state, priority, args, result, attempt, max_attempts, crashes, max_crashes, snoozes, fence, errors, progress, unique_key, ordering_key, array_to_json(tags),
       (extract(epoch FROM run_at) * 1000000)::bigint, (extract(epoch FROM deadline) * 1000000)::bigint, (extract(epoch FROM created_at) * 1000000)::bigint,
       (extract(epoch FROM started_at) * 1000000)::bigint, (extract(epoch FROM finished_at) * 1000000)::bigint, principal, traceparent, request_id, catalog_hash, worker, version, concurrency_key, concurrency_limit
FROM mainstay.jobs_view WHERE uid = ANY ($1::uuid[]) AND (tenant = $2 OR $2 = '*'))sql"};
// The fence of a job that is not final, for a cancel or to see that it is; locks it.
inline constexpr Named kLockHot = {
    "jobs_lock_hot",
    "SELECT fence, state, key_hash FROM mainstay.jobs WHERE id = $1::uuid AND (tenant = $2 OR $2 = '*') FOR UPDATE"};
// Dead jobs, in order, locked; with the unique key they would have to take again. $1 ids, $2 tenant, $3 finished
// before.
inline constexpr Named kLockDead = {"jobs_lock_dead", R"sql(
SELECT h.id, h.unique_hash FROM mainstay.jobs_history h
WHERE h.id = ANY ($1::uuid[]) AND h.state = 9 AND (h.tenant = $2 OR $2 = '*') AND h.finished_at < $3::timestamptz ORDER BY h.id FOR UPDATE)sql"};
// Dead → back among the living, in order of their ids, with fresh budgets and a raised fence; their history rows go.
// Locked by kLockDead. $2 by, $3 why, $4 operation.
inline constexpr Named kRevive = {"jobs_revive", R"sql(
WITH dead AS (DELETE FROM mainstay.jobs_history WHERE id = ANY ($1::uuid[]) AND state = 9 RETURNING *)
INSERT INTO mainstay.jobs AS j (id, fence, seq, key_hash, deadline, created_at, unique_hash, state, priority, max_attempts, max_crashes, tenant, kind, queue, args, sensitive_args, unique_key,
                                ordering_key, tags, principal, traceparent, request_id, catalog_hash, errors, checkpoint, options, published_at, run_at, version, concurrency_key, concurrency_limit, limit_hash)
SELECT d.id, d.fence + 1, CASE WHEN d.ordering_key IS NOT NULL THEN nextval('mainstay.job_seq') END, mainstay.job_key_hash(d.tenant, d.ordering_key), NULL, d.created_at,
       d.unique_hash, CASE WHEN d.ordering_key IS NOT NULL OR d.concurrency_key IS NOT NULL THEN 2 WHEN d.open THEN 4 ELSE 3 END, d.priority, d.max_attempts, d.max_crashes, d.tenant,
       d.kind, d.queue, d.args, d.sensitive_args, d.unique_key, d.ordering_key, d.tags, d.principal, d.traceparent, d.request_id, d.catalog_hash, d.errors, d.checkpoint,
       coalesce(d.options, '{}'::jsonb) || jsonb_build_object('retried', jsonb_strip_nulls(jsonb_build_object('by', $2::text, 'reason', $3::text, 'at', clock_timestamp(), 'operation', $4::text))),
       CASE WHEN d.ordering_key IS NULL AND d.concurrency_key IS NULL AND d.open THEN clock_timestamp() END, clock_timestamp(),
       d.version, d.concurrency_key, d.concurrency_limit, mainstay.job_key_hash(d.tenant, d.concurrency_key)
FROM (SELECT dead.*, w.open_until > statement_timestamp() AND mainstay.job_route(dead.kind, dead.version) <> ALL (q.lanes) AS open
      FROM dead LEFT JOIN mainstay.job_windows w ON w.queue = dead.queue AND w.priority = dead.priority LEFT JOIN mainstay.job_queues q ON q.name = dead.queue ORDER BY dead.id) d
RETURNING j.id, j.fence, j.attempt, j.kind, j.queue, j.priority, CASE WHEN j.sensitive_args IS NULL AND octet_length(j.args::text) <= 4096 THEN j.args::text END, j.state, j.key_hash)sql"};

// New arguments of a job that waits, under a raised fence. What was handed out already is handed out anew by the
// caller.
inline constexpr Named kEditHot = {"jobs_edit_hot", R"sql(
UPDATE mainstay.jobs j SET args = $3::json, fence = j.fence + 1, published_at = CASE WHEN j.published_at IS NOT NULL THEN clock_timestamp() END,
  options = coalesce(j.options, '{}'::jsonb) || jsonb_build_object('edited', jsonb_build_object('by', $4::text, 'reason', $5::text, 'at', clock_timestamp()))
WHERE j.id = $1::uuid AND (j.tenant = $2 OR $2 = '*') AND j.state IN (1, 2, 3, 4) AND j.sensitive_args IS NULL
RETURNING j.id, j.fence, j.attempt, j.kind, j.queue, j.priority, CASE WHEN octet_length(j.args::text) <= 4096 THEN j.args::text END,
          j.state = 4 OR (j.state = 2 AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id)), array_remove(ARRAY[j.key_hash], NULL))sql"};
inline constexpr Named kEditDead = {"jobs_edit_dead", R"sql(
UPDATE mainstay.jobs_history h SET args = $3::json, fence = h.fence + 1,
  options = coalesce(h.options, '{}'::jsonb) || jsonb_build_object('edited', jsonb_build_object('by', $4::text, 'reason', $5::text, 'at', clock_timestamp()))
WHERE h.id = $1::uuid AND (h.tenant = $2 OR $2 = '*') AND h.state = 9 AND h.sensitive_args IS NULL RETURNING h.id)sql"};
inline constexpr Named kDeleteFinished = {
    "jobs_delete_finished",
    "DELETE FROM mainstay.jobs_history WHERE id = $1::uuid AND (tenant = $2 OR $2 = '*') RETURNING id"};
inline constexpr Named kPurge = {"jobs_purge", R"sql(
DELETE FROM mainstay.jobs_history WHERE id = ANY ($1::uuid[]) AND (tenant = $2 OR $2 = '*') AND finished_at < $3::timestamptz)sql"};

// For those who wait: what differs whenever a job's row or its turn does; NULL when it is not among the waiting (any
// more).
inline constexpr Named kMarks = {"jobs_marks", R"sql(
SELECT i.id, CASE WHEN j.id IS NOT NULL THEN concat_ws('.', j.fence, j.xmin, (EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id))::integer) END
FROM unnest($1::uuid[]) AS i (id) LEFT JOIN mainstay.jobs j ON j.id = i.id)sql"};

// Everything that waits, by tenant and queue. Reads the whole hot table.
inline constexpr Named kDepths = {"jobs_depths", R"sql(
SELECT j.tenant, j.queue, count(*) FILTER (WHERE j.state = 1), count(*) FILTER (WHERE j.state = 2), count(*) FILTER (WHERE j.state = 3), count(*) FILTER (WHERE j.state = 4),
       count(*) FILTER (WHERE j.state = 5), extract(epoch FROM clock_timestamp() - min(coalesce(j.run_at, j.created_at)) FILTER (WHERE j.state IN (2, 3, 4)))::float8
FROM mainstay.jobs j GROUP BY j.tenant, j.queue)sql"};

inline constexpr Named kQueueExists = {"jobs_queue_exists", "SELECT 1 FROM mainstay.job_queues WHERE name = $1"};

// Live workers and those that fell silent a moment ago.
inline constexpr Named kWorkers = {"jobs_workers", R"sql(
SELECT w.id, w.name, array_to_json(w.kinds), (extract(epoch FROM w.started_at) * 1000000)::bigint, (extract(epoch FROM w.lease_until) * 1000000)::bigint, w.lease_until > clock_timestamp(),
       w.draining, w.in_flight, w.streams
FROM mainstay.job_workers w WHERE w.lease_until > clock_timestamp() - interval '1 minute' ORDER BY w.name, w.id LIMIT 1000)sql"};
// What they run: only jobs that have outlived a heartbeat have a worker in their row.
inline constexpr Named kRunning = {"jobs_running", R"sql(
SELECT r.worker, r.id, r.kind, r.queue, (extract(epoch FROM r.started_at) * 1000000)::bigint, r.progress FROM mainstay.job_workers w
CROSS JOIN LATERAL (
  SELECT j.worker, j.id, j.kind, j.queue, j.started_at, j.progress FROM mainstay.jobs j WHERE j.worker = w.id AND (j.tenant = $1 OR $1 = '*') ORDER BY j.started_at LIMIT 100
) r WHERE w.lease_until > clock_timestamp() - interval '1 minute')sql"};

// Groups of dead jobs, from the index of fingerprints alone; the newest of each shown group is looked up.
inline constexpr Named kFingerprints = {"jobs_fingerprints", R"sql(
SELECT g.fingerprint, g.kind, g.queue, g.n, (extract(epoch FROM g.first) * 1000000)::bigint, (extract(epoch FROM g.last) * 1000000)::bigint, l.code, l.message, l.id
FROM (
  SELECT h.fingerprint, h.kind, h.queue, count(*) AS n, min(h.finished_at) AS first, max(h.finished_at) AS last FROM mainstay.jobs_history h
  WHERE h.fingerprint IS NOT NULL AND (h.tenant = $1 OR $1 = '*') AND ($2 = '' OR h.queue = $2) AND ($3 = '' OR h.kind = $3) AND h.finished_at >= $4::timestamptz
  GROUP BY h.fingerprint, h.kind, h.queue ORDER BY count(*) DESC, max(h.finished_at) DESC LIMIT $5::integer
) g
CROSS JOIN LATERAL (
  SELECT h.id, h.errors -> -1 ->> 'code' AS code, h.errors -> -1 ->> 'message' AS message FROM mainstay.jobs_history h
  WHERE h.fingerprint = g.fingerprint AND h.kind = g.kind AND h.queue = g.queue AND (h.tenant = $1 OR $1 = '*') AND h.finished_at = g.last LIMIT 1
) l
ORDER BY g.n DESC, g.last DESC)sql"};

// ---- operations on many jobs ----

inline constexpr Named kAddOperation = {"jobs_add_operation", R"sql(
INSERT INTO mainstay.job_operations (id, tenant, kind, filter, rate, max_failure_share, failure_window, author, roles, reason, job, catalog_hash)
VALUES ($1::uuid, $2, $3, $4::json, $5::float8, $6::float8, $7, $8, $9::text[], $10, $11::uuid, nullif($12, '')))sql"};
// One step at a time, whoever makes it.
inline constexpr Named kLockOperation = {"jobs_lock_operation", R"sql(
SELECT tenant, kind, state, filter, rate, max_failure_share, failure_window, author, roles, reason, job, fence, position, total, done, skipped, failed_again, watched, outcomes,
       (extract(epoch FROM created_at) * 1000000)::bigint, started_at IS NOT NULL
FROM mainstay.job_operations WHERE id = $1::uuid AND (tenant = $2 OR $2 = '*') FOR UPDATE)sql"};
inline constexpr Named kSaveOperation = {"jobs_save_operation", R"sql(
UPDATE mainstay.job_operations SET state = $2, fence = $3, position = $4::uuid, done = $5, skipped = $6, failed_again = $7, watched = $8::uuid[], outcomes = $9::boolean[], message = $10,
  updated_at = clock_timestamp(), finished_at = CASE WHEN $2 <> 'running' THEN clock_timestamp() END WHERE id = $1::uuid)sql"};
inline constexpr Named kStartOperation = {
    "jobs_start_operation",
    "UPDATE mainstay.job_operations SET total = $2::bigint, started_at = clock_timestamp() WHERE id = $1::uuid AND "
    "started_at IS NULL"};
inline constexpr Named kFailOperation = {"jobs_fail_operation", R"sql(
UPDATE mainstay.job_operations SET state = 'failed', message = $2, finished_at = clock_timestamp(), updated_at = clock_timestamp() WHERE id = $1::uuid AND state = 'running')sql"};
inline constexpr Named kResumeOperation = {"jobs_resume_operation", R"sql(
UPDATE mainstay.job_operations SET state = 'running', job = $2::uuid, fence = 0, watched = '{}', outcomes = '{}', message = NULL, finished_at = NULL, updated_at = clock_timestamp()
WHERE id = $1::uuid)sql"};
inline constexpr Named kOpenOperations = {
    "jobs_open_operations",
    "SELECT count(*) FROM mainstay.job_operations o WHERE o.tenant = $1 AND o.state = 'running' AND EXISTS (SELECT 1 "
    "FROM mainstay.jobs j WHERE j.id = o.job)"};
inline constexpr Named kIsHot = {"jobs_is_hot", "SELECT EXISTS (SELECT 1 FROM mainstay.jobs WHERE id = $1::uuid)"};
// What became of jobs that were brought back: those that are decided, with true for a failure and NULL for what says
// nothing.
inline constexpr Named kDecided = {"jobs_decided", R"sql(
SELECT d.id, d.failed FROM (
  SELECT i.id, j.id IS NOT NULL AND j.attempt = 0 AND j.crashes = 0 AS open,
         CASE WHEN j.id IS NOT NULL THEN true WHEN h.state = 9 THEN true WHEN h.state = 6 THEN false END AS failed
  FROM unnest($1::uuid[]) AS i (id) LEFT JOIN mainstay.jobs j ON j.id = i.id
  LEFT JOIN LATERAL (SELECT h.state FROM mainstay.jobs_history h WHERE j.id IS NULL AND h.id = i.id LIMIT 1) h ON true
) d WHERE NOT d.open)sql"};
// Where a stride of ids ends.
inline constexpr Named kStrideFinished = {
    "jobs_stride_finished",
    "SELECT id FROM mainstay.jobs_history WHERE id > $1::uuid ORDER BY id OFFSET $2::integer - 1 LIMIT 1"};
inline constexpr Named kStrideHot = {
    "jobs_stride_hot", "SELECT id FROM mainstay.jobs WHERE id > $1::uuid ORDER BY id OFFSET $2::integer - 1 LIMIT 1"};
// In the order of ids, so that two cancels cannot wait for each other.
inline constexpr Named kLockHotMany = {"jobs_lock_hot_many", R"sql(
SELECT id, fence FROM mainstay.jobs WHERE id = ANY ($1::uuid[]) AND (tenant = $2 OR $2 = '*') ORDER BY id FOR UPDATE)sql"};

// ---- kinds ----

// $1 names, $2 versions, $3 schemas, $4 by whom. Locks the rows in order.
inline constexpr Named kAnnounceKinds = {"jobs_announce_kinds", R"sql(
INSERT INTO mainstay.job_kinds AS k (kind, version, schema, announced_by)
SELECT i.kind, i.version, i.schema::json, $4 FROM unnest($1::text[], $2::smallint[], $3::text[]) AS i (kind, version, schema) ORDER BY 1, 2
ON CONFLICT (kind, version) DO UPDATE SET schema = excluded.schema, announced_by = excluded.announced_by, announced_at = clock_timestamp())sql"};
inline constexpr Named kListKinds = {"jobs_list_kinds", R"sql(
SELECT k.kind, k.version, k.schema, k.announced_by, (extract(epoch FROM k.announced_at) * 1000000)::bigint,
       EXISTS (SELECT 1 FROM mainstay.job_workers w WHERE w.lease_until > clock_timestamp() AND CASE WHEN k.version = 0 THEN k.kind ELSE k.kind || '@' || k.version END = ANY (w.kinds))
FROM mainstay.job_kinds k ORDER BY k.kind, k.version)sql"};
// Kind, version, is it known, hash of its schema, the schema itself unless its hash is among $1; last: whether it is
// only named by a worker.
inline constexpr Named kKinds = {"jobs_kinds", R"sql(
SELECT k.kind, k.version, k.announced_at > clock_timestamp() - interval '30 days', md5(k.schema::text), CASE WHEN md5(k.schema::text) <> ALL ($1::text[]) THEN k.schema::text END, false
FROM mainstay.job_kinds k
UNION ALL
SELECT DISTINCT split_part(unnest(w.kinds), '@', 1), 0, true, NULL, NULL, true FROM mainstay.job_workers w WHERE w.lease_until > clock_timestamp() - interval '1 minute')sql"};

inline constexpr Named kQueues = {"jobs_queues", R"sql(
SELECT q.name, p.id IS NOT NULL, p.author, p.reason,
       coalesce(c.scheduled, 0), coalesce(c.blocked, 0), coalesce(c.ready, 0), coalesce(c.published, 0), coalesce(c.running, 0), c.oldest,
       (SELECT count(*) FROM mainstay.job_workers w WHERE w.lease_until > clock_timestamp() AND NOT w.draining AND (w.queues IS NULL OR q.name = ANY (w.queues)))
FROM mainstay.job_queues q
LEFT JOIN mainstay.job_pauses_now p ON p.scope = 'queue' AND p.name = q.name
LEFT JOIN (SELECT j.queue, count(*) FILTER (WHERE j.state = 1) AS scheduled, count(*) FILTER (WHERE j.state = 2) AS blocked, count(*) FILTER (WHERE j.state = 3) AS ready,
                  count(*) FILTER (WHERE j.state = 4) AS published, count(*) FILTER (WHERE j.state = 5) AS running,
                  extract(epoch FROM clock_timestamp() - min(coalesce(j.run_at, j.created_at)) FILTER (WHERE j.state IN (2, 3, 4)))::float8 AS oldest
           FROM mainstay.jobs j WHERE j.tenant = $1 OR $1 = '*' GROUP BY j.queue) c ON c.queue = q.name
WHERE (q.declared OR c.queue IS NOT NULL) AND ($2::text IS NULL OR q.name = $2) ORDER BY q.name)sql"};
// A pause takes the place of an older one of the same thing. The windows of a queue close with it, so that nothing more
// is published; what is published already is put back by the start check.
inline constexpr Named kPause = {"jobs_pause", R"sql(
WITH closed AS (UPDATE mainstay.job_windows w SET open_until = '-infinity' WHERE $2 = 'queue' AND w.queue = $3)
INSERT INTO mainstay.job_pauses AS p (id, scope, name, tenant, key_hash, author, reason, ends_at)
VALUES ($1::uuid, $2, $3, $4, CASE WHEN $2 = 'key' THEN mainstay.job_key_hash($4, $3) END, $5, $6, $7::timestamptz)
ON CONFLICT (scope, tenant, name) DO UPDATE SET author = excluded.author, reason = excluded.reason, created_at = excluded.created_at, ends_at = excluded.ends_at
RETURNING p.id)sql"};
inline constexpr Named kResume = {
    "jobs_resume",
    "DELETE FROM mainstay.job_pauses p WHERE p.scope = $1 AND p.name = $2 AND p.tenant = $3 RETURNING p.id"};

// ---- pauses, and why a job waits ----

inline constexpr Named kPauseById = {"jobs_pause_by_id", R"sql(
SELECT p.id, p.scope, p.name, nullif(p.tenant, '*'), p.author, p.reason, (extract(epoch FROM p.created_at) * 1000000)::bigint, (extract(epoch FROM p.ends_at) * 1000000)::bigint
FROM mainstay.job_pauses_now p WHERE p.id = $1::uuid)sql"};
// Those that concern a tenant ('*': all of them).
inline constexpr Named kListPauses = {"jobs_list_pauses", R"sql(
SELECT p.id, p.scope, p.name, nullif(p.tenant, '*'), p.author, p.reason, (extract(epoch FROM p.created_at) * 1000000)::bigint, (extract(epoch FROM p.ends_at) * 1000000)::bigint
FROM mainstay.job_pauses_now p
WHERE $1 = '*' OR p.scope IN ('queue', 'kind') OR (p.scope = 'tenant' AND p.name = $1) OR (p.scope = 'key' AND p.tenant = $1) ORDER BY p.created_at, p.id)sql"};
inline constexpr Named kEndPause = {"jobs_end_pause", R"sql(
DELETE FROM mainstay.job_pauses p WHERE p.id = $1::uuid
  AND ($2 = '*' OR p.scope IN ('queue', 'kind') OR (p.scope = 'tenant' AND p.name = $2) OR (p.scope = 'key' AND p.tenant = $2)) RETURNING p.id)sql"};

// All that may hold up one job ($1, seen by tenant $2); what is ahead of it is counted up to $3. No lock.
inline constexpr Named kExplain = {"jobs_explain", R"sql(
SELECT CASE WHEN j.state = 2 AND k.job = j.id AND j.limit_hash IS NULL THEN 'published' ELSE mainstay.job_state_name(j.state) END AS state, j.queue, mainstay.job_route(j.kind, j.version) AS route,
       extract(epoch FROM j.due_at - clock_timestamp())::float8 AS due, j.attempt, j.snoozes, j.ordering_key, coalesce(k.job = j.id, false) AS holds_key,
       CASE WHEN k.job <> j.id THEN k.job END AS key_holder,
       (SELECT count(*) FROM (SELECT 1 FROM mainstay.jobs a WHERE a.key_hash = j.key_hash AND a.seq < j.seq LIMIT $3::integer) n) AS key_ahead,
       j.concurrency_key, j.concurrency_limit,
       EXISTS (SELECT 1 FROM mainstay.job_limit_slots s WHERE s.limit_hash = j.limit_hash AND s.job = j.id AND j.state IN (3, 4, 5)) AS holds_slot,
       (SELECT count(*) FROM mainstay.job_limit_slots s JOIN mainstay.jobs a ON a.id = s.job AND a.state IN (3, 4, 5) WHERE s.limit_hash = j.limit_hash) AS slots,
       (SELECT count(*) FROM (SELECT 1 FROM mainstay.jobs a WHERE a.limit_hash = j.limit_hash AND a.id < j.id AND a.state = 2 LIMIT $3::integer) n) AS slots_ahead,
       coalesce(q.concurrency, 0) AS concurrency, coalesce(q.rate, 0) AS rate, coalesce(q.tenant_rate, 0) AS tenant_rate,
       CASE WHEN q.concurrency > 0 THEN
         (SELECT count(*) FROM mainstay.job_limit_slots s JOIN mainstay.jobs a ON a.id = s.job AND a.state IN (4, 5) WHERE s.limit_hash = mainstay.job_key_hash('*', j.queue)) ELSE 0 END AS queue_slots,
       w.workers, w.announced,
       CASE WHEN j.state = 3 THEN (SELECT count(*) FROM (SELECT 1 FROM mainstay.jobs a WHERE a.waits AND a.queue = j.queue AND a.priority = j.priority AND a.tenant COLLATE "C" = j.tenant
                                                         AND a.id < j.id AND a.state = 3 LIMIT $3::integer) n) ELSE 0 END AS ahead,
       extract(epoch FROM clock_timestamp() - greatest(j.published_at, k.taken_at))::float8 AS published,
       (SELECT greatest(1, f.needs - f.succeeded - CASE f.runs_on WHEN 1 THEN f.dead + f.lost ELSE 0 END) FROM mainstay.job_flow_waits f WHERE f.job = j.id AND f.released_at IS NULL) AS needs,
       (SELECT coalesce(max(o.name), j.worker::text) FROM mainstay.job_workers o WHERE o.id = j.worker) AS worker
FROM mainstay.jobs j LEFT JOIN mainstay.job_slots k ON k.key_hash = j.key_hash LEFT JOIN mainstay.job_queues q ON q.name = j.queue
CROSS JOIN LATERAL (
  SELECT count(*)::integer AS workers, (count(*) FILTER (WHERE mainstay.job_route(j.kind, j.version) = ANY (o.kinds)))::integer AS announced
  FROM mainstay.job_workers o WHERE o.lease_until > clock_timestamp() AND NOT o.draining AND (o.queues IS NULL OR j.queue = ANY (o.queues))) w
WHERE j.id = $1::uuid AND (j.tenant = $2 OR $2 = '*'))sql"};
inline constexpr Named kExplainPauses = {"jobs_explain_pauses", R"sql(
SELECT CASE p.scope WHEN 'key' THEN 'ordering key' ELSE p.scope END, p.name, p.author, p.reason, (extract(epoch FROM p.created_at) * 1000000)::bigint, (extract(epoch FROM p.ends_at) * 1000000)::bigint
FROM mainstay.jobs j JOIN mainstay.job_pauses_now p ON (p.scope = 'queue' AND p.name = j.queue) OR (p.scope = 'kind' AND p.name = j.kind) OR (p.scope = 'tenant' AND p.name = j.tenant)
  OR (p.scope = 'key' AND p.key_hash = j.key_hash)
WHERE j.id = $1::uuid ORDER BY p.created_at)sql"};
inline constexpr Named kExplainFinished = {"jobs_explain_finished", R"sql(
SELECT mainstay.job_state_name(h.state), to_char(h.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM mainstay.jobs_history h WHERE h.id = $1::uuid AND (h.tenant = $2 OR $2 = '*') LIMIT 1)sql"};

// Kinds with jobs that could run, of which no live worker of their queue has announced the kind and version; the
// workers of all queues. Reads every unfinished job.
inline constexpr Named kUnserved = {"jobs_unserved", R"sql(
SELECT n.queue, n.route, n.waiting
FROM (SELECT j.queue, mainstay.job_route(j.kind, j.version) AS route, count(*) AS waiting FROM mainstay.jobs j
      WHERE j.state IN (2, 3, 4) AND (j.tenant = $1 OR $1 = '*') AND ($2::text IS NULL OR j.queue = $2) GROUP BY 1, 2) n
WHERE NOT EXISTS (SELECT 1 FROM mainstay.job_workers w WHERE w.lease_until > clock_timestamp() AND NOT w.draining AND (w.queues IS NULL OR n.queue = ANY (w.queues)) AND n.route = ANY (w.kinds))
ORDER BY n.waiting DESC, n.queue, n.route LIMIT 1000)sql"};

}  // namespace mainstay::jobs::sql
