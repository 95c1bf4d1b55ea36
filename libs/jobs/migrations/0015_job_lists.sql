-- SPDX-License-Identifier: Apache-2.0
-- The lists of jobs, so that the planner knows what a state is: conditions on its number have statistics and indexes, conditions on its name have neither.

DROP INDEX mainstay.jobs_history_unsuccessful;
CREATE INDEX jobs_history_unsuccessful ON mainstay.jobs_history (id) WHERE state <> 6;

DROP VIEW mainstay.jobs_all, mainstay.jobs_hot, mainstay.jobs_done;
-- The columns after `fingerprint` are for indexes alone; clients cannot name them.
CREATE VIEW mainstay.jobs_hot AS
  SELECT j.id AS uid, mainstay.format_id('job', j.id) AS id, j.tenant, j.kind, j.queue,
         CASE WHEN j.state = 2 AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id) THEN 'published'
              ELSE mainstay.job_state_name(j.state) END AS state,
         j.priority::integer AS priority, CASE WHEN j.sensitive_args IS NULL THEN j.args ELSE '"[sensitive]"'::json END AS args, NULL::json AS result,
         CASE WHEN j.state = 5 THEN j.attempt + 1 ELSE j.attempt END AS attempt, j.max_attempts, j.crashes::integer AS crashes, j.max_crashes::integer AS max_crashes, j.snoozes,
         j.fence, j.errors, j.progress, j.unique_key, j.ordering_key, j.tags, j.run_at, j.deadline, j.created_at, j.started_at, NULL::timestamptz AS finished_at,
         j.principal ->> 'subject' AS principal, j.traceparent, j.request_id, j.catalog_hash, j.worker::text AS worker, j.fingerprint,
         j.state AS state_number, j.due_at, j.key_hash, j.worker AS worker_uid
  FROM mainstay.jobs j;
CREATE VIEW mainstay.jobs_done AS
  SELECT h.id AS uid, mainstay.format_id('job', h.id) AS id, h.tenant, h.kind, h.queue, mainstay.job_state_name(h.state) AS state, h.priority::integer AS priority,
         CASE WHEN h.sensitive_args IS NULL THEN h.args ELSE '"[sensitive]"'::json END AS args, h.result, h.attempt, h.max_attempts, h.crashes::integer AS crashes,
         h.max_crashes::integer AS max_crashes, h.snoozes, h.fence, h.errors, h.progress, h.unique_key, h.ordering_key, h.tags, h.run_at, h.deadline, h.created_at, h.started_at,
         h.finished_at, h.principal ->> 'subject' AS principal, h.traceparent, h.request_id, h.catalog_hash, h.worker::text AS worker, h.fingerprint,
         h.state AS state_number, NULL::timestamptz AS due_at, mainstay.job_key_hash(h.tenant, h.ordering_key) AS key_hash, h.worker AS worker_uid
  FROM mainstay.jobs_history h;
CREATE VIEW mainstay.jobs_all AS SELECT * FROM mainstay.jobs_hot UNION ALL SELECT * FROM mainstay.jobs_done;
GRANT SELECT ON mainstay.jobs_hot, mainstay.jobs_done, mainstay.jobs_all TO mainstay_worker;
