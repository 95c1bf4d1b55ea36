// SPDX-License-Identifier: Apache-2.0
// The statements of flows; what they lock stands in the migration.
#pragma once

#include "libs/jobs/sql.h"

namespace mainstay::jobs::sql {

// In the transaction that finished them. $1 ids, $2 their final states.
inline constexpr Named kFinishFlowJobs = {"flows_finish",
                                          "SELECT mainstay.finish_flow_jobs($1::uuid[], $2::smallint[])"};
// In the transaction that redrives them; those without a flow are passed over.
inline constexpr Named kReviveFlowJobs = {"flows_revive", "SELECT mainstay.revive_flow_jobs($1::uuid[])"};

inline constexpr Named kCreateFlow = {"flows_create", "SELECT mainstay.create_flow($1::uuid, $2, $3, $4)"};
inline constexpr Named kAddFlowJobs = {
    "flows_add",
    "SELECT mainstay.add_flow_jobs($1::uuid, $2::uuid, $3::uuid[], $4::text[], $5::smallint[], $6::integer[], "
    "$7::text[])"};
// The flow of a job. $2: the caller's tenant, '*': any.
inline constexpr Named kFlowOf = {"flows_of", R"sql(
SELECT f.id, f.tenant FROM mainstay.job_flow_jobs m JOIN mainstay.job_flows f ON f.id = m.flow WHERE m.job = $1::uuid AND (f.tenant = $2 OR $2 = '*'))sql"};

// What the finishing transactions left: waiting jobs that were locked when their turn came.
inline constexpr Named kReleaseLate = {"flows_release_late", R"sql(
SELECT mainstay.release_flow_jobs(ARRAY(SELECT w.job FROM mainstay.job_flow_waits w JOIN mainstay.jobs j ON j.id = w.job
  WHERE w.released_at IS NULL AND mainstay.flow_wait_is_over(w) LIMIT 1000)))sql"};
// Waiting jobs whose turn cannot come any more: one that had to succeed is cancelled, discarded, or dead and purged;
// or all succeeded and a failure was waited for. Locks them, skips locked ones.
inline constexpr Named kHopeless = {"flows_hopeless", R"sql(
SELECT j.id, j.fence, w.runs_on FROM mainstay.job_flow_waits w JOIN mainstay.jobs j ON j.id = w.job AND j.state = 2
WHERE w.released_at IS NULL AND NOT mainstay.flow_wait_is_over(w)
  AND (w.runs_on = 2 AND w.lost > 0 OR w.runs_on = 3 AND w.succeeded >= w.needs
       OR w.runs_on = 2 AND w.dead > 0 AND EXISTS (SELECT 1 FROM mainstay.job_flow_edges e JOIN mainstay.job_flow_jobs m ON m.job = e.needs AND m.state = 9
            WHERE e.waiter = w.job AND NOT EXISTS (SELECT 1 FROM mainstay.jobs_history h WHERE h.id = m.job)))
ORDER BY j.id LIMIT 500 FOR UPDATE OF j SKIP LOCKED)sql"};
// Flows whose last job finished $1 seconds ago; a few at a time.
inline constexpr Named kForgetFlows = {"flows_forget", R"sql(
WITH old AS (
  SELECT f.id FROM mainstay.job_flows f
  WHERE f.created_at < clock_timestamp() - $1::float8 * interval '1 second'
    AND NOT EXISTS (SELECT 1 FROM mainstay.job_flow_jobs m WHERE m.flow = f.id AND (m.state IS NULL OR m.finished_at > clock_timestamp() - $1::float8 * interval '1 second'))
  ORDER BY f.id LIMIT 20 FOR UPDATE SKIP LOCKED
), members AS (
  DELETE FROM mainstay.job_flow_jobs m USING old o WHERE m.flow = o.id RETURNING m.job
), waits AS (
  DELETE FROM mainstay.job_flow_waits w USING old o WHERE w.flow = o.id
), edges AS (
  DELETE FROM mainstay.job_flow_edges e USING members m WHERE e.needs = m.job
)
DELETE FROM mainstay.job_flows f USING old o WHERE f.id = o.id)sql"};

// One flow as operators see it, and its jobs in the order they were added. $2: the caller's tenant, '*': any.
inline constexpr Named kReadFlow = {"flows_read", R"sql(
SELECT id, tenant, label, created_by, (extract(epoch FROM created_at) * 1000000)::bigint, (extract(epoch FROM finished_at) * 1000000)::bigint, total, waiting, open, succeeded, discarded,
       cancelled, dead
FROM mainstay.flows_view WHERE uid = $1::uuid AND (tenant = $2 OR $2 = '*'))sql"};
inline constexpr Named kOpenFlowJobs = {"flows_open_jobs", R"sql(
SELECT j.id, j.fence FROM mainstay.job_flow_jobs m JOIN mainstay.jobs j ON j.id = m.job WHERE m.flow = $1::uuid ORDER BY j.id FOR UPDATE OF j)sql"};
// Of those that wait for nobody: how many in each state. Who holds the slot of its key counts as published.
inline constexpr Named kOpenFlowStates = {"flows_open_states", R"sql(
SELECT CASE WHEN j.state = 2 AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id) THEN 4 ELSE j.state END, count(*)
FROM mainstay.job_flow_jobs m JOIN mainstay.jobs j ON j.id = m.job LEFT JOIN mainstay.job_flow_waits w ON w.job = m.job AND w.released_at IS NULL
WHERE m.flow = $1::uuid AND m.state IS NULL AND w.job IS NULL GROUP BY 1)sql"};
inline constexpr Named kDeadFlowJobs = {
    "flows_dead_jobs", "SELECT job FROM mainstay.job_flow_jobs WHERE flow = $1::uuid AND state = 9 ORDER BY job"};

}  // namespace mainstay::jobs::sql
