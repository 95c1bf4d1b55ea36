-- SPDX-License-Identifier: Apache-2.0
-- Queues: turns among tenants, lanes, pauses, limits. The dispatcher (libs/jobs/dispatcher.cc) decides, these tables remember.
--
-- What must not cost: a job that goes straight into an open window writes no index entry for any of this, and handing one out of the backlog stays a HOT update.

ALTER TABLE mainstay.jobs
  ADD COLUMN IF NOT EXISTS version smallint NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS limit_hash bigint,
  ADD COLUMN IF NOT EXISTS concurrency_limit smallint,
  -- Has been in the backlog. Set with the state `ready` and never taken back: the index below must not move when the job is handed out.
  ADD COLUMN waits boolean NOT NULL DEFAULT false;

-- Whoever makes a job ready puts it into the backlog's index, also a statement that has never heard of it. A new job of a concurrency key waits for its slot first.
CREATE FUNCTION mainstay.job_waits() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, mainstay AS $$
BEGIN
  IF TG_OP = 'INSERT' AND NEW.limit_hash IS NOT NULL THEN
    NEW.state := 2;
  ELSE
    NEW.waits := true;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER jobs_waits BEFORE INSERT OR UPDATE OF state ON mainstay.jobs FOR EACH ROW WHEN (NEW.state = 3 AND NOT NEW.waits) EXECUTE FUNCTION mainstay.job_waits();
UPDATE mainstay.jobs SET waits = true WHERE state = 3;

-- The backlog by turns: a tenant's jobs in order, and its neighbours one probe away, whatever stands between. Bytes order, so that the dispatcher sorts as the index does.
CREATE INDEX jobs_turns ON mainstay.jobs (queue, priority, tenant COLLATE "C", id) WHERE waits;
-- Jobs of a concurrency key in their order.
CREATE INDEX jobs_limit ON mainstay.jobs (limit_hash, id) WHERE limit_hash IS NOT NULL;
-- Due jobs by turns, for the moment when more are due than can be released at once.
CREATE INDEX jobs_due_turns ON mainstay.jobs (queue, tenant COLLATE "C", due_at) WHERE due_at IS NOT NULL;

-- What workers announce and lanes are named after; as in 0002.
CREATE OR REPLACE FUNCTION mainstay.job_route(kind text, version smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN version = 0 THEN kind ELSE kind || '@' || version END
$$;

ALTER TABLE mainstay.job_workers
  ADD COLUMN queues text[],                        -- the queues it takes jobs from; null: all
  ADD COLUMN may_lead boolean NOT NULL DEFAULT false;  -- does upkeep and reaches Redis: a leader without Redis makes way for it

ALTER TABLE mainstay.job_queues
  ADD COLUMN weighted boolean NOT NULL DEFAULT false,   -- its jobs' priorities are shares, not an order
  ADD COLUMN weight smallint NOT NULL DEFAULT 1,        -- among queues of the same priority, for workers that take several
  ADD COLUMN rate float8 NOT NULL DEFAULT 0,            -- jobs handed out per second, at most; 0: any number
  ADD COLUMN tenant_rate float8 NOT NULL DEFAULT 0,     -- the same for each tenant
  ADD COLUMN retention interval,                        -- of its finished jobs; null: as the workers are set
  ADD COLUMN lanes text[] NOT NULL DEFAULT '{}',        -- routes that some live worker of the queue did not announce: they wait for the dispatcher
  ADD COLUMN purged_until timestamptz,                  -- its finished jobs up to here were looked at for retention
  -- Everything of it goes through the dispatcher, that counts: its window stays shut to producers.
  ADD COLUMN closed boolean GENERATED ALWAYS AS (concurrency > 0 OR rate > 0 OR tenant_rate > 0) STORED;

-- A lane is a stream of its own, read only by workers that announced its route. Closing: all workers of the queue announce it again; it goes once it is empty.
CREATE TABLE mainstay.job_lanes (
  queue      text NOT NULL,
  route      text NOT NULL,
  opened_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  closing_at timestamptz,
  PRIMARY KEY (queue, route)
);

-- Nothing of this queue, kind, tenant or ordering key starts; enqueue goes on, running jobs finish. A row until someone takes it away or its end comes.
CREATE TABLE mainstay.job_pauses (
  id         uuid PRIMARY KEY,
  scope      text NOT NULL CHECK (scope IN ('queue', 'kind', 'tenant', 'key')),
  name       text NOT NULL,
  tenant     text NOT NULL DEFAULT '*',   -- whose key; of other scopes: '*'
  key_hash   bigint,                      -- of a key
  author     text NOT NULL,
  reason     text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ends_at    timestamptz,
  UNIQUE (scope, tenant, name),
  CHECK ((scope = 'key') = (key_hash IS NOT NULL))
);
INSERT INTO mainstay.job_pauses (id, scope, name, author, reason, created_at, ends_at)
  SELECT mainstay.new_job_id(), 'queue', q.name, coalesce(q.paused_by, ''), coalesce(q.paused_reason, ''), q.paused_at, q.paused_until FROM mainstay.job_queues q WHERE q.paused_at IS NOT NULL;
COMMENT ON COLUMN mainstay.job_queues.paused_at IS 'unused since 0006: job_pauses';
CREATE VIEW mainstay.job_pauses_now AS SELECT * FROM mainstay.job_pauses p WHERE p.ends_at IS NULL OR p.ends_at > clock_timestamp();
CREATE VIEW mainstay.job_pauses_view AS
  SELECT p.id AS uid, mainstay.format_id('pause', p.id) AS id, p.scope, p.name, nullif(p.tenant, '*') AS tenant, p.author, p.reason, p.created_at, p.ends_at FROM mainstay.job_pauses_now p;

-- Who runs under a limit: a concurrency key's, or a queue's (its hash is that of the queue under the tenant '*', which no job has). A slot counts while its job is on its way
-- (of a key also in the backlog), so the transaction that finishes, retries or takes back a job frees it, whoever runs it, and nothing can leak; the rows that are left over are
-- deleted by whoever counts next.
CREATE TABLE mainstay.job_limit_slots (
  limit_hash bigint NOT NULL,
  job        uuid NOT NULL,
  fence      bigint NOT NULL,  -- under which it was handed out
  taken_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (limit_hash, job)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX job_limit_slots_job ON mainstay.job_limit_slots (job);

-- Turns are equal unless a tenant has a weight.
CREATE TABLE mainstay.job_tenants (
  tenant text PRIMARY KEY,
  weight smallint NOT NULL CHECK (weight BETWEEN 1 AND 1000),
  author text NOT NULL,
  set_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- How many slots of a queue are free; the caller inserts what it takes in the same transaction. One counter at a time: two leaders must not see the same free slot.
CREATE FUNCTION mainstay.free_queue_slots(queue text, slots integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  hash bigint := mainstay.job_key_hash('*', queue);
BEGIN
  PERFORM pg_advisory_xact_lock(hash);
  DELETE FROM mainstay.job_limit_slots s WHERE s.limit_hash = hash AND NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.id = s.job AND j.state IN (4, 5));
  RETURN slots - (SELECT count(*) FROM mainstay.job_limit_slots s WHERE s.limit_hash = hash);
END $$;

-- Lets waiting jobs of concurrency keys into the backlog, as many of each key as its limit leaves room for, in order; up to `most` keys behind the hash `after`. A job that has
-- its slot is an ordinary job of the backlog from then on. Returns them, and a last row with the hash to go on from (null when the end was reached).
CREATE FUNCTION mainstay.grant_job_limits(after bigint, most integer) RETURNS TABLE (id uuid, tenant text, queue text, priority smallint, last_hash bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  hash bigint := after;
  live integer;
  head mainstay.jobs;
BEGIN
  PERFORM pg_advisory_xact_lock(mainstay.job_key_hash('*', ''));
  FOR n IN 1..most LOOP
    IF hash IS NULL THEN
      SELECT j.limit_hash INTO hash FROM mainstay.jobs j WHERE j.limit_hash IS NOT NULL ORDER BY j.limit_hash LIMIT 1;
    ELSE
      SELECT j.limit_hash INTO hash FROM mainstay.jobs j WHERE j.limit_hash > hash ORDER BY j.limit_hash LIMIT 1;
    END IF;
    EXIT WHEN hash IS NULL;
    DELETE FROM mainstay.job_limit_slots s WHERE s.limit_hash = hash AND NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.id = s.job AND j.state IN (3, 4, 5));
    SELECT count(*) INTO live FROM mainstay.job_limit_slots s WHERE s.limit_hash = hash;
    LOOP
      -- A job that has an ordering key as well must hold that first.
      SELECT * INTO head FROM mainstay.jobs j
      WHERE j.limit_hash = hash AND j.state = 2 AND (j.key_hash IS NULL OR EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id))
      ORDER BY j.id LIMIT 1 FOR UPDATE SKIP LOCKED;
      EXIT WHEN NOT FOUND OR live >= coalesce(head.concurrency_limit, 1);
      INSERT INTO mainstay.job_limit_slots (limit_hash, job, fence) VALUES (hash, head.id, head.fence) ON CONFLICT (limit_hash, job) DO UPDATE SET fence = excluded.fence;
      UPDATE mainstay.jobs j SET state = 3 WHERE j.id = head.id;
      live := live + 1;
      id := head.id; tenant := head.tenant; queue := head.queue; priority := head.priority; last_hash := NULL;
      RETURN NEXT;
    END LOOP;
  END LOOP;
  id := NULL; tenant := NULL; queue := NULL; priority := NULL; last_hash := hash;
  RETURN NEXT;
END $$;

-- Of keyed jobs that were given their key's slot: those that may go to their queue's shared stream at once. The others (their queue is limited or paused, their kind has a lane,
-- their kind, tenant or key is paused) go to the backlog, where the dispatcher decides; they keep their key. Those under a limit go on waiting for it.
CREATE FUNCTION mainstay.keyed_that_may_go(ids uuid[]) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM mainstay.job_queues q WHERE q.closed OR q.lanes <> '{}') AND NOT EXISTS (SELECT 1 FROM mainstay.job_pauses)
     AND NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.limit_hash IS NOT NULL) THEN
    RETURN QUERY SELECT unnest(ids);
    RETURN;
  END IF;
  UPDATE mainstay.jobs j SET state = 3
  WHERE j.id = ANY (ids) AND j.state = 2 AND j.limit_hash IS NULL
    AND (EXISTS (SELECT 1 FROM mainstay.job_queues q WHERE q.name = j.queue AND (q.closed OR mainstay.job_route(j.kind, j.version) = ANY (q.lanes)))
         OR EXISTS (SELECT 1 FROM mainstay.job_pauses_now p WHERE (p.scope = 'queue' AND p.name = j.queue) OR (p.scope = 'kind' AND p.name = j.kind)
                    OR (p.scope = 'tenant' AND p.name = j.tenant) OR (p.scope = 'key' AND p.key_hash = j.key_hash)));
  RETURN QUERY SELECT j.id FROM mainstay.jobs j WHERE j.id = ANY (ids) AND j.state = 2 AND j.limit_hash IS NULL;
END $$;

-- Finished jobs that asked for a shorter stay than the partition's.
CREATE INDEX jobs_history_retention ON mainstay.jobs_history (finished_at) WHERE options ? 'retention_s';

REVOKE ALL ON FUNCTION mainstay.free_queue_slots(text, integer), mainstay.grant_job_limits(bigint, integer), mainstay.keyed_that_may_go(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mainstay.keyed_that_may_go(uuid[]) TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway, mainstay_worker;
GRANT EXECUTE ON FUNCTION mainstay.free_queue_slots(text, integer), mainstay.grant_job_limits(bigint, integer) TO mainstay_worker;
GRANT SELECT ON mainstay.job_pauses, mainstay.job_pauses_now TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON mainstay.job_lanes, mainstay.job_pauses, mainstay.job_limit_slots, mainstay.job_tenants TO mainstay_worker;
GRANT SELECT ON mainstay.job_pauses_now, mainstay.job_pauses_view TO mainstay_worker;
