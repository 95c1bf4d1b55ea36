-- SPDX-License-Identifier: Apache-2.0
-- What operators need: errors that can be grouped, lists that stay fast over a million jobs, operations on many jobs at once, figures per queue.
--
-- Everything here is paid by the jobs it is about: a job that succeeds without a key or a tag writes no index entry more than before.

-- The same failure has the same fingerprint: code and message with ids, numbers and long hexadecimal words taken out. Made once, when the error is stored.
CREATE FUNCTION mainstay.job_fingerprint(code text, message text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT left(encode(sha256(convert_to(coalesce(code, '') || E'\x1f' || regexp_replace(regexp_replace(lower(left(coalesce(message, ''), 1000)),
         '\m[a-z]{2,6}_[0-9a-z]{16,}\M|\m[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\M|\m0x[0-9a-f]+\M|\m[0-9a-f]{8,}\M|[0-9]+', '#', 'g'),
         '#([-.:,+t ]?#)+', '#', 'g'), 'UTF8')), 'hex'), 16)
$$;

ALTER TABLE mainstay.jobs ADD COLUMN fingerprint text;          -- of the last error
ALTER TABLE mainstay.jobs_history ADD COLUMN fingerprint text;  -- of the error it ended with
UPDATE mainstay.jobs_history SET fingerprint = mainstay.job_fingerprint(errors -> -1 ->> 'code', errors -> -1 ->> 'message') WHERE state IN (7, 9) AND errors IS NOT NULL;

-- Lists of finished jobs. All but succeeded ones; failures by fingerprint; keys and tags only where a job has them. A queue or kind among the succeeded is found by walking
-- the ids, newest first: an index on them would cost every completion.
CREATE INDEX jobs_history_unsuccessful ON mainstay.jobs_history (id) WHERE mainstay.job_state_name(state) <> 'succeeded';
CREATE INDEX jobs_history_fingerprint ON mainstay.jobs_history (fingerprint, kind, queue, tenant, finished_at) INCLUDE (id) WHERE fingerprint IS NOT NULL;
CREATE INDEX jobs_history_ordering_key ON mainstay.jobs_history (ordering_key, id) WHERE ordering_key IS NOT NULL;
CREATE INDEX jobs_history_unique_key ON mainstay.jobs_history (unique_key, id) WHERE unique_key IS NOT NULL;
CREATE INDEX jobs_history_tags ON mainstay.jobs_history USING gin (tags) WHERE tags IS NOT NULL;
-- Of waiting jobs. None of these columns changes on a job's way, so handing it out stays a HOT update. Its ordering key is found by jobs_key.
CREATE INDEX jobs_unique_key ON mainstay.jobs (unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX jobs_tags ON mainstay.jobs USING gin (tags) WHERE tags IS NOT NULL;

-- Jobs as the lists show them: waiting ones, finished ones, all. Who asks for certain states reads only the half that can have them (services/worker/job_query.cc).
-- due_at and key_hash are there for their indexes.
CREATE VIEW mainstay.jobs_hot AS
  SELECT j.id AS uid, mainstay.format_id('job', j.id) AS id, j.tenant, j.kind, j.queue,
         CASE WHEN j.state = 2 AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id) THEN 'published'
              ELSE mainstay.job_state_name(j.state) END AS state,
         j.priority::integer AS priority, CASE WHEN j.sensitive_args IS NULL THEN j.args ELSE '"[sensitive]"'::json END AS args, NULL::json AS result,
         CASE WHEN j.state = 5 THEN j.attempt + 1 ELSE j.attempt END AS attempt, j.max_attempts, j.crashes::integer AS crashes, j.max_crashes::integer AS max_crashes, j.snoozes,
         j.fence, j.errors, j.progress, j.unique_key, j.ordering_key, j.tags, j.run_at, j.deadline, j.created_at, j.started_at, NULL::timestamptz AS finished_at,
         j.principal ->> 'subject' AS principal, j.traceparent, j.request_id, j.catalog_hash, j.worker::text AS worker, j.fingerprint, j.due_at, j.key_hash
  FROM mainstay.jobs j;
CREATE VIEW mainstay.jobs_done AS
  SELECT h.id AS uid, mainstay.format_id('job', h.id) AS id, h.tenant, h.kind, h.queue, mainstay.job_state_name(h.state) AS state, h.priority::integer AS priority,
         CASE WHEN h.sensitive_args IS NULL THEN h.args ELSE '"[sensitive]"'::json END AS args, h.result, h.attempt, h.max_attempts, h.crashes::integer AS crashes,
         h.max_crashes::integer AS max_crashes, h.snoozes, h.fence, h.errors, h.progress, h.unique_key, h.ordering_key, h.tags, h.run_at, h.deadline, h.created_at, h.started_at,
         h.finished_at, h.principal ->> 'subject' AS principal, h.traceparent, h.request_id, h.catalog_hash, h.worker::text AS worker, h.fingerprint, NULL::timestamptz AS due_at,
         NULL::bigint AS key_hash
  FROM mainstay.jobs_history h;
CREATE VIEW mainstay.jobs_all AS SELECT * FROM mainstay.jobs_hot UNION ALL SELECT * FROM mainstay.jobs_done;

-- Something done to all jobs that a filter matches, in bounded steps, by a job of the engine (kind mainstay.operation). This row is its checkpoint: a step and its counters commit
-- together, so whoever continues does so exactly where the last step ended.
CREATE TABLE mainstay.job_operations (
  id                uuid PRIMARY KEY,
  tenant            text NOT NULL,               -- whose jobs; '*' for all
  kind              text NOT NULL CHECK (kind IN ('redrive', 'purge', 'cancel')),
  state             text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'succeeded', 'stopped', 'cancelled', 'failed')),
  filter            json NOT NULL,               -- as asked
  rate              float8,                      -- jobs per second at most
  max_failure_share float8,                      -- redrive: stop when this share of the last failure_window redriven jobs failed again
  failure_window    integer NOT NULL DEFAULT 100,
  author            text NOT NULL,
  roles             text[] NOT NULL,
  reason            text NOT NULL,
  job               uuid NOT NULL,               -- of the engine, that executes it
  fence             bigint NOT NULL DEFAULT 0,   -- that job's, under which the last step was made: an older holder makes no more
  catalog_hash      text,
  position          uuid,                        -- jobs up to this id were looked at
  total             bigint,                      -- matching jobs when it began, at most 1,000,001
  done              bigint NOT NULL DEFAULT 0,
  skipped           bigint NOT NULL DEFAULT 0,   -- changed meanwhile, or their unique key is taken
  failed_again      bigint NOT NULL DEFAULT 0,   -- of the redriven ones that were watched
  watched           uuid[] NOT NULL DEFAULT '{}',      -- redriven, and not decided yet
  outcomes          boolean[] NOT NULL DEFAULT '{}',   -- of the last failure_window decided ones: true failed
  message           text,                        -- why it stopped or failed, or what it waits for
  created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  started_at        timestamptz,
  updated_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at       timestamptz
) WITH (fillfactor = 50);
CREATE INDEX job_operations_open ON mainstay.job_operations (tenant) WHERE state = 'running';

-- An operation whose job is gone (it was cancelled, or died) is shown as what it is.
CREATE VIEW mainstay.job_operations_view AS
  SELECT o.id AS uid, mainstay.format_id('jop', o.id) AS id, o.tenant, o.kind,
         CASE WHEN o.state = 'running' AND NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.id = o.job) THEN 'interrupted' ELSE o.state END AS state,
         o.filter, o.rate, o.max_failure_share, o.failure_window, o.author, o.reason, mainstay.format_id('job', o.job) AS job_id, o.total, o.done, o.skipped, o.failed_again,
         o.message, o.created_at, o.started_at, o.updated_at, o.finished_at
  FROM mainstay.job_operations o;

-- Runs per queue and kind in slots of ten seconds, added up by all workers once per heartbeat; an hour is kept. Histograms count by the bounds of libs/jobs/stats.h.
CREATE TABLE mainstay.job_stats (
  slot        timestamptz NOT NULL,
  queue       text NOT NULL,
  kind        text NOT NULL,
  succeeded   bigint NOT NULL DEFAULT 0,
  failed      bigint NOT NULL DEFAULT 0,         -- will be tried again
  dead        bigint NOT NULL DEFAULT 0,
  discarded   bigint NOT NULL DEFAULT 0,
  snoozed     bigint NOT NULL DEFAULT 0,
  queued      bigint[] NOT NULL,                 -- from when a job could run to its start
  ran         bigint[] NOT NULL,                 -- from its start to its end
  queued_seconds float8 NOT NULL DEFAULT 0,
  ran_seconds    float8 NOT NULL DEFAULT 0,
  PRIMARY KEY (slot, queue, kind)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE FUNCTION mainstay.add_counts(a bigint[], b bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY n) FROM unnest(a, b) WITH ORDINALITY AS t (x, y, n)
$$;

GRANT SELECT ON mainstay.jobs_hot, mainstay.jobs_done, mainstay.jobs_all, mainstay.job_operations_view TO mainstay_worker;
GRANT SELECT, INSERT, UPDATE ON mainstay.job_operations TO mainstay_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON mainstay.job_stats TO mainstay_worker;
