-- SPDX-License-Identifier: Apache-2.0
-- More that a job can ask for when it is enqueued. Rarely used options without a column of their own are in `options` (libs/jobs/job_options.h).

ALTER TABLE mainstay.jobs
  ADD COLUMN IF NOT EXISTS version smallint NOT NULL DEFAULT 0,  -- of its kind: what its args look like
  ADD COLUMN IF NOT EXISTS limit_hash bigint,                  -- job_key_hash of concurrency_key: at most concurrency_limit jobs of it run at once, on all workers together
  ADD COLUMN concurrency_key text,
  ADD COLUMN IF NOT EXISTS concurrency_limit smallint;
-- `unique_hash` of a job is what is freed when it is final. A job whose key outlives it (held for a period) has none; its row in job_unique expires.
ALTER TABLE mainstay.jobs_history
  ADD COLUMN version smallint NOT NULL DEFAULT 0,
  ADD COLUMN concurrency_key text,
  ADD COLUMN concurrency_limit smallint,
  ADD COLUMN unique_hash uuid;
UPDATE mainstay.jobs_history SET unique_hash = mainstay.job_unique_hash(tenant, kind, unique_key) WHERE unique_key IS NOT NULL;

CREATE INDEX job_unique_expires ON mainstay.job_unique (expires_at) WHERE expires_at IS NOT NULL;

-- Takes unique keys for jobs about to be inserted, or names their holders. In the caller's transaction: a key that another transaction is just taking or freeing is waited for;
-- one that is taken stays unlocked, so any number of callers can be told so at once, and the holder's end is not held up. Keys are taken in order, so two callers cannot deadlock.
-- hashes: each at most once. expires: when a key is free again whatever became of its job; null: with the job's end.
CREATE FUNCTION mainstay.take_job_unique(hashes uuid[], jobs uuid[], expires timestamptz[]) RETURNS TABLE (hash uuid, holder uuid)
LANGUAGE plpgsql SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  taken uuid[];
  seen uuid[];
BEGIN
  FOR round IN 1..10 LOOP
    WITH added AS (
      INSERT INTO mainstay.job_unique AS u (hash, job, expires_at)
      SELECT t.hash, t.job, t.until FROM unnest(hashes, jobs, expires) AS t (hash, job, until) ORDER BY t.hash
      ON CONFLICT (hash) DO NOTHING RETURNING u.hash
    )
    SELECT array_agg(a.hash) INTO taken FROM added a;
    IF taken IS NOT NULL THEN
      RETURN QUERY SELECT t.hash, t.job FROM unnest(hashes, jobs) AS t (hash, job) WHERE t.hash = ANY (taken);
      SELECT array_agg(t.hash), array_agg(t.job), array_agg(t.until) INTO hashes, jobs, expires
      FROM unnest(hashes, jobs, expires) AS t (hash, job, until) WHERE t.hash <> ALL (taken);
    END IF;
    EXIT WHEN coalesce(cardinality(hashes), 0) = 0;
    -- Taken by others, at least a moment ago. Periods that are over end here.
    WITH old AS (
      SELECT u.hash FROM mainstay.job_unique u WHERE u.hash = ANY (hashes) AND u.expires_at <= clock_timestamp() ORDER BY u.hash FOR UPDATE
    )
    UPDATE mainstay.job_unique u SET job = t.job, expires_at = t.until FROM old o JOIN unnest(hashes, jobs, expires) AS t (hash, job, until) ON t.hash = o.hash
    WHERE u.hash = o.hash;
    seen := '{}';
    FOR hash, holder IN SELECT u.hash, u.job FROM mainstay.job_unique u WHERE u.hash = ANY (hashes) LOOP
      seen := seen || hash;
      RETURN NEXT;
    END LOOP;
    SELECT array_agg(t.hash), array_agg(t.job), array_agg(t.until) INTO hashes, jobs, expires
    FROM unnest(hashes, jobs, expires) AS t (hash, job, until) WHERE t.hash <> ALL (seen);
    EXIT WHEN coalesce(cardinality(hashes), 0) = 0;  -- else its holder ended between the two statements
  END LOOP;
  IF cardinality(hashes) > 0 THEN
    RAISE EXCEPTION 'a unique key changes hands too fast' USING ERRCODE = 'serialization_failure';
  END IF;
END $$;

CREATE OR REPLACE VIEW mainstay.jobs_view AS
  SELECT j.id AS uid, mainstay.format_id('job', j.id) AS id, j.tenant, j.kind, j.queue,
         CASE WHEN j.state = 2 AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id) THEN 'published'
              ELSE mainstay.job_state_name(j.state) END AS state,
         j.priority::integer AS priority, CASE WHEN j.sensitive_args IS NULL THEN j.args ELSE '"[sensitive]"'::json END AS args, NULL::json AS result,
         CASE WHEN j.state = 5 THEN j.attempt + 1 ELSE j.attempt END AS attempt, j.max_attempts, j.crashes::integer AS crashes, j.max_crashes::integer AS max_crashes, j.snoozes,
         j.fence, j.errors, j.progress, j.unique_key, j.ordering_key, j.tags, j.run_at, j.deadline, j.created_at, j.started_at, NULL::timestamptz AS finished_at,
         j.principal ->> 'subject' AS principal, j.traceparent, j.request_id, j.catalog_hash, j.worker::text AS worker,
         j.version::integer AS version, j.concurrency_key, j.concurrency_limit::integer AS concurrency_limit
  FROM mainstay.jobs j
  UNION ALL
  SELECT h.id, mainstay.format_id('job', h.id), h.tenant, h.kind, h.queue, mainstay.job_state_name(h.state), h.priority::integer,
         CASE WHEN h.sensitive_args IS NULL THEN h.args ELSE '"[sensitive]"'::json END, h.result, h.attempt, h.max_attempts, h.crashes::integer, h.max_crashes::integer, h.snoozes,
         h.fence, h.errors, h.progress, h.unique_key, h.ordering_key, h.tags, h.run_at, h.deadline, h.created_at, h.started_at, h.finished_at,
         h.principal ->> 'subject', h.traceparent, h.request_id, h.catalog_hash, h.worker::text,
         h.version::integer, h.concurrency_key, h.concurrency_limit::integer
  FROM mainstay.jobs_history h;

REVOKE ALL ON FUNCTION mainstay.take_job_unique(uuid[], uuid[], timestamptz[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mainstay.take_job_unique(uuid[], uuid[], timestamptz[])
  TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway, mainstay_worker;
