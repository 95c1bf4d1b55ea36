-- SPDX-License-Identifier: Apache-2.0
-- Jobs by the clock. What a schedule is comes from the catalog (copied by the elected worker); what must survive deploys stands here: the pause, and up to which time
-- everything is decided. One row per schedule and fire time, inserted with its job: with two leaders, or a leader that wakes up, a time still has one row and one job.

CREATE TABLE mainstay.schedules (
  name           text PRIMARY KEY,
  tenant         text NOT NULL,
  kind           text NOT NULL,
  queue          text NOT NULL,
  args           json NOT NULL,
  cron           text NOT NULL,
  zone           text NOT NULL,
  role           text NOT NULL,                -- whose rights its jobs have; '': none
  missed         text NOT NULL CHECK (missed IN ('skip', 'last', 'all')),
  missed_window  interval NOT NULL,
  overlap        text NOT NULL CHECK (overlap IN ('allow', 'skip', 'queue', 'replace')),
  declared       boolean NOT NULL DEFAULT true, -- in the active catalog
  off            boolean NOT NULL,              -- paused there
  catalog_hash   text NOT NULL,
  decided_until  timestamptz NOT NULL,          -- fire times up to here are decided; starts when the schedule, its cron or its zone does
  next_at        timestamptz,                   -- the first one after; null while paused or no longer declared
  paused_at      timestamptz,
  paused_by      text,
  paused_reason  text
) WITH (fillfactor = 50);
CREATE INDEX schedules_next ON mainstay.schedules (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE mainstay.schedule_runs (
  schedule     text NOT NULL,
  fire_at      timestamptz NOT NULL,            -- when it was due; of a run by hand: when it was asked for
  id           uuid NOT NULL,
  tenant       text NOT NULL,
  outcome      text NOT NULL CHECK (outcome IN ('enqueued', 'missed', 'overlap', 'refused')),
  job          uuid,
  by           text,                            -- of a run by hand
  error        text,
  catalog_hash text NOT NULL,
  decided_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (schedule, fire_at)
);
CREATE UNIQUE INDEX schedule_runs_id ON mainstay.schedule_runs (id);
CREATE INDEX schedule_runs_public_id ON mainstay.schedule_runs (mainstay.format_id('run', id));
CREATE INDEX schedule_runs_decided ON mainstay.schedule_runs (decided_at);

-- A function, so that the view over jobs may change under it. Null when the job is past its retention.
CREATE FUNCTION mainstay.schedule_job_state(job uuid) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT v.state FROM mainstay.jobs_view v WHERE v.uid = $1
$$;

CREATE VIEW mainstay.schedules_view AS
  SELECT s.name, s.tenant, s.kind, s.queue, s.args, s.cron, s.zone, s.role, s.missed, extract(epoch FROM s.missed_window)::integer AS missed_window_seconds, s.overlap,
         s.off OR s.paused_at IS NOT NULL AS paused, s.paused_at, CASE WHEN s.paused_at IS NULL AND s.off THEN 'catalog' ELSE s.paused_by END AS paused_by,
         CASE WHEN s.paused_at IS NULL AND s.off THEN 'the catalog says so' ELSE s.paused_reason END AS paused_reason,
         s.next_at AS next_run_at, (SELECT max(r.fire_at) FROM mainstay.schedule_runs r WHERE r.schedule = s.name) AS last_run_at, s.catalog_hash
  FROM mainstay.schedules s WHERE s.declared;

CREATE VIEW mainstay.schedule_runs_view AS
  SELECT r.id AS uid, mainstay.format_id('run', r.id) AS id, r.tenant, r.schedule, r.fire_at AS scheduled_at, r.outcome, mainstay.format_id('job', r.job) AS job,
         mainstay.schedule_job_state(r.job) AS job_state, r.by AS run_by, r.error, r.catalog_hash, r.decided_at
  FROM mainstay.schedule_runs r;

REVOKE ALL ON FUNCTION mainstay.schedule_job_state(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mainstay.schedule_job_state(uuid) TO mainstay_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON mainstay.schedules, mainstay.schedule_runs TO mainstay_worker;
GRANT SELECT ON mainstay.schedules_view, mainstay.schedule_runs_view TO mainstay_worker;
