// SPDX-License-Identifier: Apache-2.0
// The statements of schedules, with what they lock. `now` parameters are null in production: the clock is PostgreSQL's.
// Times go in and out as microseconds since 1970.
#pragma once

#include "libs/jobs/sql.h"

namespace mainstay::jobs::sql {

// Is this catalog the active one? Without any (tests, before the first publish), every one is.
inline constexpr Named kCatalogIsActive = {"schedules_catalog_is_active", R"sql(
SELECT NOT EXISTS (SELECT 1 FROM mainstay.catalog_active) OR EXISTS (SELECT 1 FROM mainstay.catalog_active WHERE hash = $1))sql"};

// Locks the rows in order of name, so two leaders cannot deadlock here.
inline constexpr Named kSyncSchedules = {"schedules_sync", R"sql(
INSERT INTO mainstay.schedules AS s (name, tenant, kind, queue, args, cron, zone, role, missed, missed_window, overlap, off, catalog_hash, decided_until)
SELECT t.name, t.tenant, t.kind, t.queue, t.args::json, t.cron, t.zone, t.role, t.missed, t.missed_window * interval '1 second', t.overlap, t.off, $13, coalesce($14::timestamptz, clock_timestamp())
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::float8[], $11::text[], $12::boolean[])
     AS t (name, tenant, kind, queue, args, cron, zone, role, missed, missed_window, overlap, off)
ORDER BY t.name
ON CONFLICT (name) DO UPDATE SET tenant = excluded.tenant, kind = excluded.kind, queue = excluded.queue, args = excluded.args, cron = excluded.cron, zone = excluded.zone,
  role = excluded.role, missed = excluded.missed, missed_window = excluded.missed_window, overlap = excluded.overlap, off = excluded.off, catalog_hash = excluded.catalog_hash,
  declared = true,
  decided_until = CASE WHEN s.declared AND s.cron = excluded.cron AND s.zone = excluded.zone AND s.off = excluded.off THEN s.decided_until ELSE excluded.decided_until END)sql"};
inline constexpr Named kUndeclareSchedules = {
    "schedules_undeclare",
    "UPDATE mainstay.schedules SET declared = false, next_at = NULL, decided_until = coalesce($2::timestamptz, "
    "clock_timestamp()) WHERE declared AND name <> ALL ($1::text[])"};
inline constexpr Named kSchedulePositions = {"schedules_positions", R"sql(
SELECT name, cron, zone, (extract(epoch FROM decided_until) * 1000000)::bigint FROM mainstay.schedules WHERE declared AND NOT off AND paused_at IS NULL ORDER BY name FOR UPDATE)sql"};
// Null where a schedule rests.
inline constexpr Named kSetNextTimes = {"schedules_set_next", R"sql(
UPDATE mainstay.schedules s SET next_at = t.next_at
FROM (SELECT d.name, u.next_at FROM mainstay.schedules d LEFT JOIN unnest($1::text[], $2::timestamptz[]) AS u (name, next_at) ON u.name = d.name) t
WHERE s.name = t.name AND s.next_at IS DISTINCT FROM t.next_at)sql"};

// The clock, and the schedules that are due first. No lock.
inline constexpr Named kUpcoming = {"schedules_upcoming", R"sql(
SELECT (extract(epoch FROM n.now) * 1000000)::bigint, s.name, (extract(epoch FROM s.next_at) * 1000000)::bigint
FROM (SELECT coalesce($1::timestamptz, clock_timestamp()) AS now) n
LEFT JOIN LATERAL (SELECT name, next_at FROM mainstay.schedules WHERE next_at IS NOT NULL ORDER BY next_at LIMIT 200) s ON true)sql"};

// One schedule, if it is due; whoever comes second waits and then finds it decided. Locks the row.
inline constexpr Named kLockDue = {"schedules_lock_due", R"sql(
SELECT s.name, s.tenant, s.kind, s.queue, s.args::text, s.cron, s.zone, s.role, s.missed, s.overlap, extract(epoch FROM s.missed_window)::float8, s.catalog_hash,
       (extract(epoch FROM s.decided_until) * 1000000)::bigint, (extract(epoch FROM coalesce($2::timestamptz, clock_timestamp())) * 1000000)::bigint, s.off, s.paused_at IS NOT NULL
FROM mainstay.schedules s WHERE s.name = $1 AND s.declared AND s.next_at <= coalesce($2::timestamptz, clock_timestamp()) FOR UPDATE)sql"};
// The same for an operator, due or not. $3: the caller's tenant, '*': any.
inline constexpr Named kLockSchedule = {"schedules_lock", R"sql(
SELECT s.name, s.tenant, s.kind, s.queue, s.args::text, s.cron, s.zone, s.role, s.missed, s.overlap, extract(epoch FROM s.missed_window)::float8, s.catalog_hash,
       (extract(epoch FROM s.decided_until) * 1000000)::bigint, (extract(epoch FROM coalesce($2::timestamptz, clock_timestamp())) * 1000000)::bigint, s.off, s.paused_at IS NOT NULL
FROM mainstay.schedules s WHERE s.name = $1 AND s.declared AND (s.tenant = $3 OR $3 = '*') FOR UPDATE)sql"};

// Jobs of earlier runs that are not final; only those the schedule itself started. $1 tenant, $2 "schedule:<name>".
inline constexpr Named kUnfinishedRuns = {"schedules_unfinished", R"sql(
SELECT j.id FROM mainstay.jobs j WHERE j.key_hash = mainstay.job_key_hash($1, $2) AND j.principal ->> 'subject' = $2 ORDER BY j.seq LIMIT 1000)sql"};

// A time that has a row keeps it. Returns those that are new.
inline constexpr Named kInsertRuns = {"schedules_insert_runs", R"sql(
INSERT INTO mainstay.schedule_runs (schedule, fire_at, id, tenant, outcome, by, error, catalog_hash)
SELECT $1, t.fire_at, t.id, $2, t.outcome, $3, $4, $5 FROM unnest($6::timestamptz[], $7::uuid[], $8::text[]) AS t (fire_at, id, outcome) ORDER BY t.fire_at
ON CONFLICT (schedule, fire_at) DO NOTHING RETURNING id)sql"};
inline constexpr Named kSetRunJobs = {"schedules_set_jobs", R"sql(
UPDATE mainstay.schedule_runs r SET job = t.job FROM unnest($1::uuid[], $2::uuid[]) AS t (id, job) WHERE r.id = t.id)sql"};
inline constexpr Named kAdvanceSchedule = {
    "schedules_advance",
    "UPDATE mainstay.schedules SET decided_until = $2::timestamptz, next_at = $3::timestamptz WHERE name = $1"};

// $2: the caller's tenant, '*': any. No lock.
inline constexpr Named kReadPosition = {"schedules_read_position", R"sql(
SELECT cron, zone, (extract(epoch FROM greatest(decided_until, coalesce($3::timestamptz, clock_timestamp()))) * 1000000)::bigint, off OR paused_at IS NOT NULL
FROM mainstay.schedules WHERE name = $1 AND declared AND (tenant = $2 OR $2 = '*'))sql"};
inline constexpr Named kPauseSchedule = {"schedules_pause", R"sql(
UPDATE mainstay.schedules SET paused_at = clock_timestamp(), paused_by = $2, paused_reason = $3, next_at = NULL
WHERE name = $1 AND declared AND (tenant = $4 OR $4 = '*') RETURNING name)sql"};
inline constexpr Named kResumeSchedule = {
    "schedules_resume",
    "UPDATE mainstay.schedules SET paused_at = NULL, paused_by = NULL, paused_reason = NULL WHERE name = $1"};

// Rows past $1 seconds go, but never the last ten of a schedule; at most 10,000 a round. Schedules that the catalog
// dropped go with their last row.
inline constexpr Named kPruneRuns = {"schedules_prune", R"sql(
WITH old AS (
  SELECT r.id FROM mainstay.schedule_runs r
  WHERE r.decided_at < clock_timestamp() - $1::float8 * interval '1 second'
    AND (SELECT count(*) FROM (SELECT 1 FROM mainstay.schedule_runs n WHERE n.schedule = r.schedule AND n.fire_at > r.fire_at LIMIT 10) newer) = 10
  LIMIT 10000
), gone AS (
  DELETE FROM mainstay.schedules s WHERE NOT s.declared AND s.decided_until < clock_timestamp() - $1::float8 * interval '1 second' RETURNING s.name
), orphans AS (
  DELETE FROM mainstay.schedule_runs r USING gone g WHERE r.schedule = g.name
)
DELETE FROM mainstay.schedule_runs r USING old o WHERE r.id = o.id)sql"};

}  // namespace mainstay::jobs::sql
