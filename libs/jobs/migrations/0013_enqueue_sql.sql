-- SPDX-License-Identifier: Apache-2.0
-- Enqueue from SQL with everything a job can ask for, one or many, and what enqueue from C++ shares with it.
--
--   SELECT mainstay.enqueue('mail.send', '{"to": 7}', tenant => 'acme', delay => '1 hour');
--   SELECT * FROM mainstay.enqueue_batch(ARRAY(SELECT mainstay.new_job('mail.send', json_build_object('to', n.id), tenant => n.tenant) FROM new_rows n));   -- also in a trigger
--
-- Sensitive arguments are not among it: they are sealed by a key that the database must not have.

CREATE TYPE mainstay.new_job AS (
  kind text, args json, tenant text, queue text, priority integer, run_at timestamptz, unique_key text, ordering_key text, max_attempts integer, tags text[],
  deadline timestamptz, traceparent text, delay interval, unique_scope text, unique_for interval, unique_bucket text, unique_keep boolean, on_conflict text,
  concurrency_key text, concurrency_limit integer, version integer, backoff text, backoff_base interval, backoff_cap interval, soft_limit interval,
  hard_limit interval, retention interval
);
CREATE FUNCTION mainstay.new_job(
  kind text, args json DEFAULT '{}', tenant text DEFAULT 'default', queue text DEFAULT 'default', priority integer DEFAULT NULL, run_at timestamptz DEFAULT NULL,
  unique_key text DEFAULT NULL, ordering_key text DEFAULT NULL, max_attempts integer DEFAULT NULL, tags text[] DEFAULT NULL, deadline timestamptz DEFAULT NULL,
  traceparent text DEFAULT NULL, delay interval DEFAULT NULL, unique_scope text DEFAULT 'kind', unique_for interval DEFAULT NULL, unique_bucket text DEFAULT NULL,
  unique_keep boolean DEFAULT false, on_conflict text DEFAULT 'ignore', concurrency_key text DEFAULT NULL, concurrency_limit integer DEFAULT NULL,
  version integer DEFAULT 0, backoff text DEFAULT NULL, backoff_base interval DEFAULT NULL, backoff_cap interval DEFAULT NULL, soft_limit interval DEFAULT NULL,
  hard_limit interval DEFAULT NULL, retention interval DEFAULT NULL)
RETURNS mainstay.new_job LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT ROW(
    kind, args, tenant, queue, priority, run_at, unique_key, ordering_key, max_attempts, tags, deadline, traceparent, delay, unique_scope, unique_for,
    unique_bucket, unique_keep, on_conflict, concurrency_key, concurrency_limit, version, backoff, backoff_base, backoff_cap, soft_limit, hard_limit, retention)::mainstay.new_job
$$;

-- When a unique key that is held for a time is free again; null: with its job's end.
CREATE FUNCTION mainstay.job_unique_until(period interval, bucket text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN bucket IS NOT NULL THEN (date_trunc(bucket, clock_timestamp() AT TIME ZONE 'UTC') + ('1 ' || bucket)::interval) AT TIME ZONE 'UTC' ELSE clock_timestamp() + period END
$$;

-- New arguments for jobs that have not started; returns those. What was handed out goes back, due at once, under a raised fence, so that whoever was given it may not start it (or is
-- fenced, if it has just done so). A keyed job keeps its place. Locks the rows in order, so two callers cannot deadlock; a job on its way to its end is waited for, and is gone then.
CREATE FUNCTION mainstay.replace_job_args(ids uuid[], new_args json[], new_sealed text[], new_versions smallint[]) RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
  WITH waiting AS MATERIALIZED (
    SELECT j.id, j.state = 4 OR (j.state = 2 AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id)) AS out
    FROM mainstay.jobs j WHERE j.id = ANY (ids) AND j.state IN (1, 2, 3, 4) AND j.started_at IS NULL AND j.attempt + j.crashes + j.snoozes = 0 ORDER BY j.id FOR UPDATE
  )
  UPDATE mainstay.jobs j
  SET args = i.args, sensitive_args = i.sealed::bytea, version = i.version, fence = j.fence + w.out::integer, state = CASE WHEN w.out THEN 1 ELSE j.state END,
      due_at = CASE WHEN w.out THEN clock_timestamp() ELSE j.due_at END, published_at = CASE WHEN w.out THEN NULL ELSE j.published_at END
  FROM waiting w JOIN unnest(ids, new_args, new_sealed, new_versions) AS i (id, args, sealed, version) ON i.id = w.id
  WHERE j.id = w.id RETURNING j.id
$$;

-- For any application role granted EXECUTE: adds jobs in the caller's own transaction, all or none, at most 10,000. One row per job, in the order given: its id ("job_…"), of the job
-- that holds the unique key if there was one. Which kinds exist is known by the workers alone, so an unknown kind waits visibly. A refusal names the field, also as the error's column.
CREATE FUNCTION mainstay.enqueue_batch(jobs mainstay.new_job[]) RETURNS TABLE (item integer, id text, existed boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
#variable_conflict use_column
DECLARE
  n integer := coalesce(cardinality(jobs), 0);
  wrong record;
  ids uuid[];
  hashes uuid[];
  holders uuid[];
BEGIN
  IF n > 10000 THEN
    RAISE EXCEPTION 'mainstay.enqueue: % jobs in a call, the limit is 10000', n USING ERRCODE = 'invalid_parameter_value';
  END IF;
  SELECT j.place, v.field, v.detail INTO wrong
  FROM (SELECT u.*, u.ordinality AS place FROM unnest(jobs) WITH ORDINALITY u) j
  CROSS JOIN LATERAL (VALUES
    ('kind', j.kind IS NULL OR j.kind !~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$' OR length(j.kind) > 100, 'expected lower-case words joined by dots, like "mail.send"'),
    ('args', j.args IS NULL, 'expected JSON'),
    ('args', octet_length(j.args::text) > 262144, 'has ' || octet_length(j.args::text) || ' bytes, the limit is 262144'),
    ('tenant', j.tenant IS NULL OR j.tenant IN ('', '*') OR octet_length(j.tenant) > 100, 'a job belongs to one tenant'),
    ('queue', NOT EXISTS (SELECT 1 FROM mainstay.job_queues q WHERE q.name = j.queue AND q.declared), 'there is no queue "' || left(j.queue, 100) || '"'),
    ('priority', j.priority NOT BETWEEN 0 AND 9, j.priority || ' is not between 0 (first) and 9 (last)'),
    ('run_at', j.run_at > now() + interval '5 years', 'more than five years ahead'),
    ('delay', j.delay NOT BETWEEN interval '0' AND interval '5 years', 'expected 0 to 5 years'),
    ('delay', j.delay IS NOT NULL AND j.run_at IS NOT NULL, 'give either run_at or delay'),
    ('unique_key', octet_length(j.unique_key) > 512, 'at most 512 bytes'),
    ('unique_key', coalesce(j.unique_key, '') = '' AND (j.unique_for IS NOT NULL OR j.unique_bucket IS NOT NULL OR j.unique_keep), 'options of a unique key are given, but no key'),
    ('unique_scope', coalesce(j.unique_scope, '') NOT IN ('kind', 'queue', 'tenant'), 'expected kind, queue or tenant'),
    ('unique_for', j.unique_for NOT BETWEEN interval '1 microsecond' AND interval '366 days', 'expected up to 366 days'),
    ('unique_bucket', j.unique_bucket NOT IN ('minute', 'hour', 'day', 'week', 'month'), 'expected minute, hour, day, week or month'),
    ('unique_bucket', j.unique_bucket IS NOT NULL AND j.unique_for IS NOT NULL, 'give either unique_for or unique_bucket'),
    ('unique_keep', j.unique_keep AND j.unique_for IS NULL AND j.unique_bucket IS NULL, 'needs unique_for or unique_bucket: a key is not kept for ever'),
    ('on_conflict', coalesce(j.on_conflict, '') NOT IN ('ignore', 'replace', 'reject'), 'expected ignore, replace or reject'),
    ('ordering_key', octet_length(j.ordering_key) > 512, 'at most 512 bytes'),
    ('concurrency_key', octet_length(j.concurrency_key) > 512, 'at most 512 bytes'),
    ('concurrency_key', coalesce(j.concurrency_key, '') = '' AND j.concurrency_limit IS NOT NULL, 'concurrency_key and concurrency_limit belong together'),
    ('concurrency_limit', j.concurrency_key <> '' AND j.concurrency_limit IS NULL, 'concurrency_key and concurrency_limit belong together'),
    ('concurrency_limit', j.concurrency_limit NOT BETWEEN 1 AND 32767, j.concurrency_limit || ' is not between 1 and 32767'),
    ('max_attempts', j.max_attempts NOT BETWEEN 1 AND 1000, j.max_attempts || ' is not between 1 and 1000'),
    ('tags', cardinality(j.tags) > 32, 'at most 32 tags'),
    ('tags', EXISTS (SELECT 1 FROM unnest(j.tags) t WHERE t IS NULL OR octet_length(t) NOT BETWEEN 1 AND 100), '1 to 100 bytes each'),
    ('deadline', j.deadline < coalesce(j.run_at, now() + j.delay), 'before run_at: the job could never start'),
    ('traceparent', j.traceparent !~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$', 'expected a W3C traceparent'),
    ('version', j.version IS NULL OR j.version NOT BETWEEN 0 AND 32767, 'expected 0 to 32767'),
    ('backoff', j.backoff NOT IN ('exponential', 'fixed'), 'expected exponential or fixed'),
    ('backoff_base', j.backoff_base NOT BETWEEN interval '1 millisecond' AND interval '30 days', 'expected 1 ms to 30 days'),
    ('backoff_cap', j.backoff_cap NOT BETWEEN interval '1 millisecond' AND interval '30 days', 'expected 1 ms to 30 days'),
    ('backoff_cap', j.backoff_cap < j.backoff_base, 'less than the base'),
    ('soft_limit', j.soft_limit NOT BETWEEN interval '1 millisecond' AND interval '30 days', 'expected 1 ms to 30 days'),
    ('hard_limit', j.hard_limit NOT BETWEEN interval '1 millisecond' AND interval '30 days', 'expected 1 ms to 30 days'),
    ('hard_limit', j.hard_limit < j.soft_limit, 'less than the soft limit'),
    ('retention', j.retention NOT BETWEEN interval '0' AND interval '3650 days', 'expected 0 to 3650 days')
  ) AS v (field, bad, detail)
  WHERE v.bad ORDER BY j.place LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'mainstay.enqueue: %: %', CASE WHEN n > 1 THEN 'item ' || wrong.place - 1 || ': ' ELSE '' END || wrong.field, wrong.detail
      USING ERRCODE = 'invalid_parameter_value', COLUMN = wrong.field;
  END IF;

  SELECT array_agg(mainstay.new_job_id() ORDER BY j.ordinality),
         array_agg(CASE WHEN j.unique_key <> '' THEN mainstay.job_unique_hash(j.tenant, CASE j.unique_scope WHEN 'kind' THEN j.kind WHEN 'queue' THEN 'queue:' || j.queue ELSE '' END, j.unique_key) END
                   ORDER BY j.ordinality)
  INTO ids, hashes FROM unnest(jobs) WITH ORDINALITY j;
  IF array_remove(hashes, NULL) <> '{}' THEN
    -- Of several with one key the first is to have it.
    WITH firsts AS (
      SELECT DISTINCT ON (h.hash) h.hash, ids[h.ordinality] AS job, CASE WHEN j.unique_for IS NOT NULL OR j.unique_bucket IS NOT NULL THEN mainstay.job_unique_until(j.unique_for, j.unique_bucket) END AS until
      FROM unnest(hashes) WITH ORDINALITY AS h (hash, ordinality) JOIN unnest(jobs) WITH ORDINALITY j ON j.ordinality = h.ordinality
      WHERE h.hash IS NOT NULL ORDER BY h.hash, h.ordinality
    ), asked AS (
      SELECT array_agg(f.hash) AS hashes, array_agg(f.job) AS jobs, array_agg(f.until) AS untils FROM firsts f
    ), taken AS MATERIALIZED (
      SELECT t.hash, t.holder FROM asked a, mainstay.take_job_unique(a.hashes, a.jobs, a.untils) t
    )
    SELECT array_agg(t.holder ORDER BY h.ordinality) INTO holders FROM unnest(hashes) WITH ORDINALITY AS h (hash, ordinality) LEFT JOIN taken t ON t.hash = h.hash;
    SELECT h.ordinality AS place, h.holder INTO wrong
    FROM unnest(holders, ids) WITH ORDINALITY AS h (holder, job, ordinality) JOIN unnest(jobs) WITH ORDINALITY j ON j.ordinality = h.ordinality
    WHERE h.holder <> h.job AND j.on_conflict = 'reject' ORDER BY 1 LIMIT 1;
    IF FOUND THEN
      RAISE EXCEPTION 'mainstay.enqueue: %unique_key: held by %', CASE WHEN n > 1 THEN 'item ' || wrong.place - 1 || ': ' ELSE '' END, mainstay.format_id('job', wrong.holder)
        USING ERRCODE = 'unique_violation', COLUMN = 'unique_key';
    END IF;
  END IF;

  INSERT INTO mainstay.jobs (id, tenant, kind, queue, priority, state, args, run_at, due_at, deadline, unique_hash, unique_key, key_hash, seq, ordering_key, limit_hash, concurrency_key,
                             concurrency_limit, max_attempts, max_crashes, tags, principal, traceparent, options, version)
  SELECT r.new_id, r.tenant, r.kind, r.queue, r.priority, CASE WHEN r.starts > now() THEN 1 WHEN r.ordering_key <> '' THEN 2 ELSE 3 END, r.args, r.starts, CASE WHEN r.starts > now() THEN r.starts END,
         r.deadline, CASE WHEN NOT coalesce(r.unique_keep, false) THEN r.hash END, nullif(r.unique_key, ''), CASE WHEN r.ordering_key <> '' THEN mainstay.job_key_hash(r.tenant, r.ordering_key) END,
         CASE WHEN r.ordering_key <> '' THEN nextval('mainstay.job_seq') END, nullif(r.ordering_key, ''),
         CASE WHEN r.concurrency_key <> '' THEN mainstay.job_key_hash(r.tenant, r.concurrency_key) END, nullif(r.concurrency_key, ''), r.concurrency_limit, r.attempts, r.max_crashes, r.tags,
         json_build_object('subject', 'sql:' || session_user, 'roles', '[]'::json), r.traceparent, nullif(r.options, '{}'), r.version
  FROM (
    SELECT j.new_id, j.tenant, j.kind, j.queue, coalesce(j.priority, q.priority) AS priority, coalesce(j.run_at, now() + j.delay) AS starts, j.args, j.deadline, j.hash, j.unique_key, j.unique_keep,
           j.ordering_key, j.concurrency_key, j.concurrency_limit, coalesce(j.max_attempts, q.max_attempts) AS attempts, q.max_crashes, j.tags, j.traceparent, j.version,
           jsonb_strip_nulls(jsonb_build_object(
             'backoff', CASE WHEN j.backoff IS NOT NULL OR j.backoff_base IS NOT NULL OR j.backoff_cap IS NOT NULL THEN
               jsonb_build_object('kind', j.backoff, 'base_ms', (extract(epoch FROM j.backoff_base) * 1000)::bigint, 'cap_ms', (extract(epoch FROM j.backoff_cap) * 1000)::bigint) END,
             'soft_ms', (extract(epoch FROM j.soft_limit) * 1000)::bigint, 'hard_ms', (extract(epoch FROM j.hard_limit) * 1000)::bigint,
             'retention_s', extract(epoch FROM j.retention)::bigint)) AS options
    FROM ROWS FROM (unnest(jobs), unnest(ids), unnest(hashes), unnest(holders)) WITH ORDINALITY AS j (
         kind, args, tenant, queue, priority, run_at, unique_key, ordering_key, max_attempts, tags, deadline, traceparent, delay, unique_scope, unique_for,
         unique_bucket, unique_keep, on_conflict, concurrency_key, concurrency_limit, version, backoff, backoff_base, backoff_cap, soft_limit, hard_limit,
         retention, new_id, hash, holder, item)
    JOIN mainstay.job_queues q ON q.name = j.queue
    WHERE j.holder IS NULL OR j.holder = j.new_id ORDER BY j.item
  ) r;

  IF EXISTS (SELECT 1 FROM unnest(jobs) j WHERE j.on_conflict = 'replace') AND holders IS NOT NULL THEN
    WITH last AS (
      SELECT DISTINCT ON (h.holder) h.holder, j.args, j.version
      FROM unnest(holders, ids) WITH ORDINALITY AS h (holder, job, ordinality) JOIN unnest(jobs) WITH ORDINALITY j ON j.ordinality = h.ordinality
      WHERE h.holder <> h.job AND j.on_conflict = 'replace' ORDER BY h.holder, h.ordinality DESC
    ), asked AS (
      SELECT array_agg(l.holder) AS ids, array_agg(l.args) AS args, array_agg(l.version::smallint) AS versions FROM last l
    )
    SELECT l.holder INTO wrong FROM last l
    WHERE l.holder <> ALL (ARRAY(SELECT mainstay.replace_job_args(a.ids, a.args, NULL, a.versions) FROM asked a WHERE a.ids IS NOT NULL))
      AND NOT EXISTS (SELECT 1 FROM mainstay.jobs k WHERE k.id = l.holder) LIMIT 1;
    IF FOUND THEN  -- it ended between the two statements, so there is nothing to replace any more
      RAISE EXCEPTION 'mainstay.enqueue: a unique key changes hands' USING ERRCODE = 'serialization_failure';
    END IF;
  END IF;
  RETURN QUERY SELECT (h.ordinality - 1)::integer, mainstay.format_id('job', coalesce(h.holder, h.job)), coalesce(h.holder <> h.job, false)
    FROM unnest(ids, holders) WITH ORDINALITY AS h (job, holder, ordinality) ORDER BY h.ordinality;
END $$;

-- The one job form. Roles that were granted the old function keep what they had.
DO $do$
DECLARE
  old regprocedure := 'mainstay.enqueue(text, json, text, text, integer, timestamptz, text, text, integer, text[], timestamptz, text)';
  grantees text[];
BEGIN
  SELECT array_agg(CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) INTO grantees
  FROM pg_proc p, aclexplode(p.proacl) a WHERE p.oid = old AND a.privilege_type = 'EXECUTE' AND a.grantee <> p.proowner;
  EXECUTE 'DROP FUNCTION ' || old;
  CREATE FUNCTION mainstay.enqueue(
  kind text, args json DEFAULT '{}', tenant text DEFAULT 'default', queue text DEFAULT 'default', priority integer DEFAULT NULL, run_at timestamptz DEFAULT NULL,
  unique_key text DEFAULT NULL, ordering_key text DEFAULT NULL, max_attempts integer DEFAULT NULL, tags text[] DEFAULT NULL, deadline timestamptz DEFAULT NULL,
  traceparent text DEFAULT NULL, delay interval DEFAULT NULL, unique_scope text DEFAULT 'kind', unique_for interval DEFAULT NULL, unique_bucket text DEFAULT NULL,
  unique_keep boolean DEFAULT false, on_conflict text DEFAULT 'ignore', concurrency_key text DEFAULT NULL, concurrency_limit integer DEFAULT NULL,
  version integer DEFAULT 0, backoff text DEFAULT NULL, backoff_base interval DEFAULT NULL, backoff_cap interval DEFAULT NULL, soft_limit interval DEFAULT NULL,
  hard_limit interval DEFAULT NULL, retention interval DEFAULT NULL)
  RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
    SELECT b.id FROM mainstay.enqueue_batch(ARRAY[mainstay.new_job(
      kind, args, tenant, queue, priority, run_at, unique_key, ordering_key, max_attempts, tags, deadline, traceparent, delay, unique_scope, unique_for,
      unique_bucket, unique_keep, on_conflict, concurrency_key, concurrency_limit, version, backoff, backoff_base, backoff_cap, soft_limit, hard_limit, retention)]) b
  $$;
  REVOKE ALL ON FUNCTION mainstay.enqueue(text, json, text, text, integer, timestamptz, text, text, integer, text[], timestamptz, text, interval, text, interval, text, boolean, text, text, integer, integer, text, interval, interval, interval, interval, interval), mainstay.enqueue_batch(mainstay.new_job[]), mainstay.replace_job_args(uuid[], json[], text[], smallint[]),
    mainstay.job_unique_until(interval, text) FROM PUBLIC;
  EXECUTE format('GRANT EXECUTE ON FUNCTION mainstay.enqueue(text, json, text, text, integer, timestamptz, text, text, integer, text[], timestamptz, text, interval, text, interval, text, boolean, text, text, integer, integer, text, interval, interval, interval, interval, interval), mainstay.enqueue_batch(mainstay.new_job[]) TO %s',
                 coalesce(array_to_string(grantees, ', '), 'mainstay_worker'));
END $do$;
GRANT EXECUTE ON FUNCTION mainstay.replace_job_args(uuid[], json[], text[], smallint[]), mainstay.job_unique_until(interval, text)
  TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway, mainstay_worker;
