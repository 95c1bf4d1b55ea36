-- SPDX-License-Identifier: Apache-2.0
-- Background jobs. The row is the truth; Redis streams only make the hand-off fast. States, transitions and the protocol: libs/jobs/README.md.
--
-- Hot rows (not final) live in mainstay.jobs and are deleted on their way into mainstay.jobs_history, which is partitioned by time. No index of the hot table
-- mentions `state`, so the dispatcher's ready → published is a HOT update; that is what the fillfactor leaves room for.

CREATE FUNCTION mainstay.job_state_name(state smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (ARRAY['scheduled','blocked','ready','published','running','succeeded','discarded','cancelled','dead'])[state]
$$;

-- 64 bits: two keys that collide are merely run one after another.
CREATE FUNCTION mainstay.job_key_hash(tenant text, key text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT ('x' || encode(substr(sha256(convert_to(tenant || E'\x1f' || key, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint
$$;

-- 128 bits: here a collision would swallow a job.
CREATE FUNCTION mainstay.job_unique_hash(tenant text, kind text, key text) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT encode(substr(sha256(convert_to(tenant || E'\x1f' || kind || E'\x1f' || key, 'UTF8')), 1, 16), 'hex')::uuid
$$;

-- UUID version 7 (RFC 9562) for jobs enqueued from SQL.
CREATE FUNCTION mainstay.new_job_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
  SELECT encode(set_byte(overlay(decode(replace(gen_random_uuid()::text, '-', ''), 'hex')
                PLACING substr(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 3) FROM 1 FOR 6),
                6, (get_byte(decode(replace(gen_random_uuid()::text, '-', ''), 'hex'), 7) & 15) | 112), 'hex')::uuid
$$;

-- Order of enqueue among the jobs of a key. Never cached: a client's block of numbers would let a later commit come first.
CREATE SEQUENCE mainstay.job_seq CACHE 1;

CREATE TABLE mainstay.jobs (
  id             uuid PRIMARY KEY,
  fence          bigint NOT NULL DEFAULT 1,     -- raised before the job is handed out again; every later write carries it
  seq            bigint,                        -- with key_hash
  key_hash       bigint,
  run_at         timestamptz,                   -- as asked for, or of the next retry
  due_at         timestamptz,                   -- not null while `scheduled`, and only then
  deadline       timestamptz,                   -- discarded when not started by then
  created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  published_at   timestamptz,
  started_at     timestamptz,
  unique_hash    uuid,
  worker         uuid,                          -- its holder while `running`: the lease is that worker's row
  state          smallint NOT NULL,             -- 1 scheduled 2 blocked 3 ready 4 published 5 running
  priority       smallint NOT NULL,
  attempt        integer NOT NULL DEFAULT 0,    -- runs that ended in an error
  crashes        smallint NOT NULL DEFAULT 0,   -- runs whose process or lease was lost
  suspicions     smallint NOT NULL DEFAULT 0,   -- was in the hands of a worker that died, perhaps not started
  snoozes        integer NOT NULL DEFAULT 0,
  max_attempts   integer NOT NULL,
  max_crashes    smallint NOT NULL,
  tenant         text NOT NULL,
  kind           text NOT NULL,
  queue          text NOT NULL,
  args           json NOT NULL,                 -- verbatim
  sensitive_args bytea,                         -- sealed; never in Redis, logs or views
  unique_key     text,
  ordering_key   text,
  tags           text[],
  principal      json NOT NULL,                 -- {"subject":…,"roles":[…]}: rights are derived again when the job runs
  traceparent    text,
  request_id     text,
  catalog_hash   text,
  errors         jsonb,                         -- [{attempt, at, code, message, worker}], the last 20
  progress       jsonb,                         -- {percent, message, counters}
  checkpoint     json,
  options        jsonb                          -- room for limits, backoff, retention, flow and redrive of single jobs
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.2, autovacuum_analyze_threshold = 50000, autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 500000);
-- The backlog in its order, also for claims while Redis is away. Scanned from a position, never from the head in a loop.
CREATE INDEX jobs_backlog ON mainstay.jobs (queue, priority, id);
-- These three hold only the few rows they are about.
CREATE INDEX jobs_due ON mainstay.jobs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_key ON mainstay.jobs (key_hash, seq) WHERE key_hash IS NOT NULL;
CREATE INDEX jobs_worker ON mainstay.jobs (worker) WHERE worker IS NOT NULL;

-- Finished jobs. Narrow index: found by id only; old days are dropped whole.
CREATE TABLE mainstay.jobs_history (
  id             uuid NOT NULL,
  fence          bigint NOT NULL,
  finished_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  run_at         timestamptz,
  deadline       timestamptz,
  created_at     timestamptz NOT NULL,
  started_at     timestamptz,
  worker         uuid,
  state          smallint NOT NULL,             -- 6 succeeded 7 discarded 8 cancelled 9 dead
  priority       smallint NOT NULL,
  attempt        integer NOT NULL,
  crashes        smallint NOT NULL,
  snoozes        integer NOT NULL,
  max_attempts   integer NOT NULL,
  max_crashes    smallint NOT NULL,
  tenant         text NOT NULL,
  kind           text NOT NULL,
  queue          text NOT NULL,
  args           json NOT NULL,
  sensitive_args bytea,
  result         json,
  unique_key     text,
  ordering_key   text,
  tags           text[],
  principal      json NOT NULL,
  traceparent    text,
  request_id     text,
  catalog_hash   text,
  errors         jsonb,
  progress       jsonb,
  checkpoint     json,
  options        jsonb
) PARTITION BY RANGE (finished_at);
CREATE INDEX jobs_history_id ON mainstay.jobs_history (id);
-- Only ever filled when upkeep could not make a day in time: completing a job must not fail for that.
CREATE TABLE mainstay.jobs_history_default PARTITION OF mainstay.jobs_history DEFAULT;

-- Makes the days ahead and drops those past retention. Run by the elected worker; a busy lock is left for the next round instead of holding up completions.
CREATE FUNCTION mainstay.maintain_job_history(days_ahead integer, retention interval) RETURNS TABLE (made integer, dropped integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET lock_timeout = '100ms' AS $$
DECLARE
  day date;
  part record;
BEGIN
  made := 0;
  dropped := 0;
  FOR day IN SELECT (now() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, days_ahead) n LOOP
    IF to_regclass('mainstay.jobs_history_' || to_char(day, 'YYYYMMDD')) IS NULL THEN
      BEGIN
        EXECUTE format('CREATE TABLE mainstay.%I PARTITION OF mainstay.jobs_history FOR VALUES FROM (%L) TO (%L)', 'jobs_history_' || to_char(day, 'YYYYMMDD'),
                       to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
        made := made + 1;
      EXCEPTION WHEN lock_not_available OR check_violation THEN
        NULL;  -- next round; rows of that day are in the default partition then
      END;
    END IF;
  END LOOP;
  FOR part IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
              WHERE i.inhparent = 'mainstay.jobs_history'::regclass AND c.relname ~ '^jobs_history_[0-9]{8}$'
                AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC' < now() - retention LOOP
    BEGIN
      EXECUTE format('DROP TABLE mainstay.%I', part.relname);
      dropped := dropped + 1;
    EXCEPTION WHEN lock_not_available THEN
      NULL;
    END;
  END LOOP;
  DELETE FROM mainstay.jobs_history_default WHERE finished_at < now() - retention;
  RETURN NEXT;
END $$;
SELECT mainstay.maintain_job_history(3, interval '3650 days');

-- Uniqueness can't span the partitions of history, so it has a table of its own, written in the same transactions as the jobs.
CREATE TABLE mainstay.job_unique (
  hash       uuid PRIMARY KEY,
  job        uuid NOT NULL,
  expires_at timestamptz             -- null: until the job is final
) WITH (fillfactor = 70);

-- Who may run for a key. Holding the slot is being published; the row of the job isn't rewritten for it.
CREATE TABLE mainstay.job_slots (
  key_hash bigint PRIMARY KEY,
  job      uuid NOT NULL,
  fence    bigint NOT NULL,          -- under which it was handed out last
  taken_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- Live workers. Renewed once per heartbeat for all jobs of the worker: that is the lease of everything `running` under it.
CREATE TABLE mainstay.job_workers (
  id          uuid PRIMARY KEY,
  name        text NOT NULL,         -- host:pid
  kinds       text[] NOT NULL,       -- what it announced; it is never given anything else
  started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  lease_until timestamptz NOT NULL,
  in_flight   integer NOT NULL DEFAULT 0,
  draining    boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- Queues: settings copied from the catalog by the elected worker (so that SQL can enqueue with the right defaults), and the pause, which survives deploys.
CREATE TABLE mainstay.job_queues (
  name          text PRIMARY KEY,
  priority      smallint NOT NULL DEFAULT 4,
  max_attempts  integer NOT NULL DEFAULT 20,
  max_crashes   smallint NOT NULL DEFAULT 3,
  concurrency   integer NOT NULL DEFAULT 0,
  declared      boolean NOT NULL DEFAULT true,   -- in the active catalog
  paused_at     timestamptz,
  paused_by     text,
  paused_reason text,
  paused_until  timestamptz
);
INSERT INTO mainstay.job_queues (name) VALUES ('default'), ('mainstay');

-- One row per stream: while the window is open, enqueue inserts `published` and adds to the stream itself; else `ready`. The dispatcher keeps it and must renew it.
CREATE TABLE mainstay.job_windows (
  queue      text NOT NULL,
  priority   smallint NOT NULL,
  open_until timestamptz NOT NULL DEFAULT '-infinity',
  PRIMARY KEY (queue, priority)
) WITH (fillfactor = 50);

-- Gives free slots to the lowest job of each key and returns those to be added to their streams. Called after the commit of an enqueue, never inside the caller's
-- transaction (completers would wait for it, and two callers could deadlock). Keys are taken in order. A head seen by the first statement may be finished by the time its
-- slot is ours (we waited for the slot's deleter), so each taken slot is checked by a later statement that locks the job against a cancel on its way.
CREATE FUNCTION mainstay.promote_job_keys(keys bigint[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  again bigint[] := keys;
  taken bigint[];
BEGIN
  FOR round IN 1..5 LOOP
    WITH heads AS (
      SELECT k.key, h.id, h.fence
      FROM (SELECT DISTINCT u AS key FROM unnest(again) u) k
      CROSS JOIN LATERAL (SELECT j.id, j.fence FROM mainstay.jobs j WHERE j.key_hash = k.key AND j.state = 2 ORDER BY j.seq LIMIT 1) h
    ), slots AS (
      INSERT INTO mainstay.job_slots (key_hash, job, fence) SELECT key, id, fence FROM heads ORDER BY key ON CONFLICT (key_hash) DO NOTHING RETURNING key_hash
    )
    SELECT array_agg(key_hash) INTO taken FROM slots;
    EXIT WHEN taken IS NULL;
    RETURN QUERY
      SELECT j.id, j.fence, j.attempt, j.kind, j.queue, j.priority, CASE WHEN j.sensitive_args IS NULL AND octet_length(j.args::text) <= 4096 THEN j.args::text END
      FROM mainstay.job_slots s JOIN mainstay.jobs j ON j.id = s.job AND j.state = 2
      WHERE s.key_hash = ANY (taken) FOR SHARE OF j;
    WITH stale AS (
      DELETE FROM mainstay.job_slots s WHERE s.key_hash = ANY (taken) AND NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.id = s.job AND j.state = 2) RETURNING s.key_hash
    )
    SELECT array_agg(key_hash) INTO again FROM stale;
    EXIT WHEN again IS NULL;
  END LOOP;
END $$;

-- In the transaction that finished `finished`: hands each key's slot to its next job, or frees it. The caller then commits, promotes the freed keys once more (a job
-- committed meanwhile met the old slot) and adds the returned jobs to their streams. The successor is locked, for a cancel may be deleting it.
CREATE FUNCTION mainstay.pass_job_keys(finished uuid[], keys bigint[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text)
LANGUAGE plpgsql SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  held bigint[];
  slot_key bigint;
  next_job mainstay.jobs;
BEGIN
  SELECT array_agg(l.key_hash) INTO held
  FROM (SELECT s.key_hash FROM mainstay.job_slots s WHERE s.key_hash = ANY (keys) AND s.job = ANY (finished) ORDER BY s.key_hash FOR UPDATE) l;
  IF held IS NULL THEN
    RETURN;
  END IF;
  FOREACH slot_key IN ARRAY held LOOP
    SELECT * INTO next_job FROM mainstay.jobs j WHERE j.key_hash = slot_key AND j.state = 2 ORDER BY j.seq LIMIT 1 FOR SHARE;
    IF FOUND THEN
      UPDATE mainstay.job_slots s SET job = next_job.id, fence = next_job.fence, taken_at = clock_timestamp() WHERE s.key_hash = slot_key;
      id := next_job.id; fence := next_job.fence; attempt := next_job.attempt; kind := next_job.kind; queue := next_job.queue; priority := next_job.priority;
      args := CASE WHEN next_job.sensitive_args IS NULL AND octet_length(next_job.args::text) <= 4096 THEN next_job.args::text END;
      RETURN NEXT;
    ELSE
      DELETE FROM mainstay.job_slots s WHERE s.key_hash = slot_key;
    END IF;
  END LOOP;
END $$;

-- For any application role granted EXECUTE: adds a job in the caller's own transaction. Returns its id ("job_…"), of the job that holds the unique key if there is one.
-- Which kinds exist is known by the workers alone, so an unknown kind waits visibly.
CREATE FUNCTION mainstay.enqueue(kind text, args json DEFAULT '{}', tenant text DEFAULT 'default', queue text DEFAULT 'default', priority integer DEFAULT NULL,
                                 run_at timestamptz DEFAULT NULL, unique_key text DEFAULT NULL, ordering_key text DEFAULT NULL, max_attempts integer DEFAULT NULL,
                                 tags text[] DEFAULT NULL, deadline timestamptz DEFAULT NULL, traceparent text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
#variable_conflict use_variable
DECLARE
  new_id uuid := mainstay.new_job_id();
  settings mainstay.job_queues;
  u_hash uuid;
  k_hash bigint;
  holder uuid;
BEGIN
  IF kind IS NULL OR kind !~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$' OR length(kind) > 100 THEN
    RAISE EXCEPTION 'mainstay.enqueue: kind "%" is not like "mail.send"', left(kind, 100) USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF tenant IS NULL OR tenant IN ('', '*') THEN
    RAISE EXCEPTION 'mainstay.enqueue: a job belongs to one tenant' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF octet_length(args::text) > 262144 THEN
    RAISE EXCEPTION 'mainstay.enqueue: args has % bytes, the limit is 262144', octet_length(args::text) USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF priority NOT BETWEEN 0 AND 9 THEN
    RAISE EXCEPTION 'mainstay.enqueue: priority % is not between 0 (first) and 9 (last)', priority USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF max_attempts NOT BETWEEN 1 AND 1000 THEN
    RAISE EXCEPTION 'mainstay.enqueue: max_attempts % is not between 1 and 1000', max_attempts USING ERRCODE = 'invalid_parameter_value';
  END IF;
  SELECT * INTO settings FROM mainstay.job_queues q WHERE q.name = queue AND q.declared;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'mainstay.enqueue: queue "%" is not declared', left(queue, 100) USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF unique_key <> '' THEN
    u_hash := mainstay.job_unique_hash(tenant, kind, unique_key);
    INSERT INTO mainstay.job_unique AS u (hash, job) VALUES (u_hash, new_id)
      ON CONFLICT (hash) DO UPDATE SET job = CASE WHEN u.expires_at <= clock_timestamp() THEN excluded.job ELSE u.job END RETURNING u.job INTO holder;
    IF holder <> new_id THEN
      RETURN mainstay.format_id('job', holder);
    END IF;
  END IF;
  IF ordering_key <> '' THEN
    k_hash := mainstay.job_key_hash(tenant, ordering_key);
  END IF;
  INSERT INTO mainstay.jobs (id, tenant, kind, queue, priority, state, args, run_at, due_at, deadline, unique_hash, unique_key, key_hash, seq, ordering_key,
                             max_attempts, max_crashes, tags, principal, traceparent)
  VALUES (new_id, tenant, kind, queue, coalesce(priority, settings.priority), CASE WHEN run_at > now() THEN 1 WHEN k_hash IS NOT NULL THEN 2 ELSE 3 END, args, run_at,
          CASE WHEN run_at > now() THEN run_at END, deadline, u_hash, nullif(unique_key, ''), k_hash, CASE WHEN k_hash IS NOT NULL THEN nextval('mainstay.job_seq') END,
          nullif(ordering_key, ''), coalesce(max_attempts, settings.max_attempts), settings.max_crashes, tags,
          json_build_object('subject', 'sql:' || session_user, 'roles', '[]'::json), traceparent);
  RETURN mainstay.format_id('job', new_id);
END $$;

-- Every job, hot or finished, as the API shows it. `uid` is the sort key that the indexes know.
CREATE VIEW mainstay.jobs_view AS
  SELECT j.id AS uid, mainstay.format_id('job', j.id) AS id, j.tenant, j.kind, j.queue,
         CASE WHEN j.state = 2 AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id) THEN 'published'
              ELSE mainstay.job_state_name(j.state) END AS state,
         j.priority::integer AS priority, CASE WHEN j.sensitive_args IS NULL THEN j.args ELSE '"[sensitive]"'::json END AS args, NULL::json AS result,
         CASE WHEN j.state = 5 THEN j.attempt + 1 ELSE j.attempt END AS attempt, j.max_attempts, j.crashes::integer AS crashes, j.max_crashes::integer AS max_crashes, j.snoozes,
         j.fence, j.errors, j.progress, j.unique_key, j.ordering_key, j.tags, j.run_at, j.deadline, j.created_at, j.started_at, NULL::timestamptz AS finished_at,
         j.principal ->> 'subject' AS principal, j.traceparent, j.request_id, j.catalog_hash, j.worker::text AS worker
  FROM mainstay.jobs j
  UNION ALL
  SELECT h.id, mainstay.format_id('job', h.id), h.tenant, h.kind, h.queue, mainstay.job_state_name(h.state), h.priority::integer,
         CASE WHEN h.sensitive_args IS NULL THEN h.args ELSE '"[sensitive]"'::json END, h.result, h.attempt, h.max_attempts, h.crashes::integer, h.max_crashes::integer, h.snoozes,
         h.fence, h.errors, h.progress, h.unique_key, h.ordering_key, h.tags, h.run_at, h.deadline, h.created_at, h.started_at, h.finished_at,
         h.principal ->> 'subject', h.traceparent, h.request_id, h.catalog_hash, h.worker::text
  FROM mainstay.jobs_history h;

-- Producers add jobs and look at those of their own making; only the worker changes them.
REVOKE ALL ON FUNCTION mainstay.maintain_job_history(integer, interval), mainstay.promote_job_keys(bigint[]), mainstay.pass_job_keys(uuid[], bigint[]),
  mainstay.enqueue(text, json, text, text, integer, timestamptz, text, text, integer, text[], timestamptz, text) FROM PUBLIC;
GRANT SELECT, INSERT ON mainstay.jobs TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway;
GRANT SELECT ON mainstay.jobs_history, mainstay.jobs_view TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway;
GRANT SELECT, INSERT, UPDATE ON mainstay.job_unique TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway;
GRANT SELECT ON mainstay.job_queues, mainstay.job_windows, mainstay.job_workers, mainstay.job_slots TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway;
GRANT USAGE ON SEQUENCE mainstay.job_seq TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway, mainstay_worker;
GRANT EXECUTE ON FUNCTION mainstay.promote_job_keys(bigint[]) TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway, mainstay_worker;
GRANT EXECUTE ON FUNCTION mainstay.enqueue(text, json, text, text, integer, timestamptz, text, text, integer, text[], timestamptz, text)
  TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway, mainstay_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON mainstay.jobs, mainstay.jobs_history, mainstay.job_unique, mainstay.job_slots, mainstay.job_workers, mainstay.job_queues,
  mainstay.job_windows TO mainstay_worker;
GRANT SELECT ON mainstay.jobs_view TO mainstay_worker;
GRANT EXECUTE ON FUNCTION mainstay.maintain_job_history(integer, interval), mainstay.pass_job_keys(uuid[], bigint[]) TO mainstay_worker;
