-- SPDX-License-Identifier: Apache-2.0
-- The jobs of a flow as a list: who waits for how many, and what became of each, also of those that history has forgotten.

-- Ids made in one millisecond have no order: rows are inserted in the order of the call, and this remembers it.
ALTER TABLE mainstay.job_flow_jobs ADD COLUMN place bigint GENERATED ALWAYS AS IDENTITY;
CREATE INDEX job_flow_jobs_place ON mainstay.job_flow_jobs (flow, place);
DROP INDEX mainstay.job_flow_jobs_flow;

CREATE VIEW mainstay.flow_jobs_view AS
  SELECT m.job AS uid, mainstay.format_id('job', m.job) AS id, m.flow AS flow_uid, m.place, f.tenant, m.name, coalesce(j.kind, (SELECT h.kind FROM mainstay.jobs_history h WHERE h.id = m.job LIMIT 1)) AS kind,
         CASE WHEN m.state IS NOT NULL THEN mainstay.job_state_name(m.state)
              WHEN j.state = 2 AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id) THEN 'published'
              ELSE mainstay.job_state_name(j.state) END AS state,
         CASE w.runs_on WHEN 1 THEN 'done' WHEN 2 THEN 'succeeded' WHEN 3 THEN 'failed' END AS runs_on, w.needs AS needs_total, w.succeeded AS needs_succeeded, w.dead AS needs_dead, w.lost AS needs_lost,
         w.released_at, m.finished_at
  FROM mainstay.job_flow_jobs m
  JOIN mainstay.job_flows f ON f.id = m.flow
  LEFT JOIN mainstay.jobs j ON j.id = m.job
  LEFT JOIN mainstay.job_flow_waits w ON w.job = m.job;
GRANT SELECT ON mainstay.flow_jobs_view TO mainstay_worker;
