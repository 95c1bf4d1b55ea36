-- SPDX-License-Identifier: Apache-2.0
-- Flows: jobs that wait for other jobs. A waiting job is `blocked` without any key; it becomes due in the transaction that finishes the last job it waits for, and goes out like any
-- job whose time has come. Jobs without a flow touch nothing of this.
--
-- Locks are taken in one order by everybody: the job, its member row, the counters of those that wait (by id), and then waiting jobs, which are skipped when locked (a cancel is on its
-- way, or the upkeep looks again): so finishing, adding, cancelling and redriving meet without deadlocks.

ALTER TABLE mainstay.jobs ADD COLUMN flow uuid;

CREATE TABLE mainstay.job_flows (
  id         uuid PRIMARY KEY,
  tenant     text NOT NULL,
  label      text NOT NULL,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX job_flows_public_id ON mainstay.job_flows (mainstay.format_id('flow', id));

CREATE TABLE mainstay.job_flow_jobs (
  job         uuid PRIMARY KEY,
  flow        uuid NOT NULL,
  name        text,                    -- by which others wait for it
  state       smallint,                -- once it is final; null again when it is redriven
  finished_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX job_flow_jobs_flow ON mainstay.job_flow_jobs (flow, job);
CREATE UNIQUE INDEX job_flow_jobs_name ON mainstay.job_flow_jobs (flow, name) WHERE name IS NOT NULL;

CREATE TABLE mainstay.job_flow_edges (
  needs  uuid NOT NULL,
  waiter uuid NOT NULL,
  PRIMARY KEY (needs, waiter)
);
CREATE INDEX job_flow_edges_waiter ON mainstay.job_flow_edges (waiter);

-- One row per waiting job: how many it waits for, and how they ended. `released_at` is set once: a redriven child changes the counts, but starts no second run.
CREATE TABLE mainstay.job_flow_waits (
  job         uuid PRIMARY KEY,
  flow        uuid NOT NULL,
  runs_on     smallint NOT NULL,        -- 1 all done, 2 all succeeded, 3 the first failure
  needs       integer NOT NULL,
  succeeded   integer NOT NULL DEFAULT 0,
  dead        integer NOT NULL DEFAULT 0,
  lost        integer NOT NULL DEFAULT 0, -- cancelled or discarded: will never succeed
  released_at timestamptz
) WITH (fillfactor = 50);
CREATE INDEX job_flow_waits_flow ON mainstay.job_flow_waits (flow);
CREATE INDEX job_flow_waits_open ON mainstay.job_flow_waits (job) WHERE released_at IS NULL;

CREATE FUNCTION mainstay.flow_wait_is_over(w mainstay.job_flow_waits) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE w.runs_on WHEN 1 THEN w.succeeded + w.dead + w.lost >= w.needs WHEN 2 THEN w.succeeded >= w.needs ELSE w.dead + w.lost > 0 END
$$;

-- Waiting jobs become due. Their keys, which they did not have while they waited, are theirs from now on: order of a key is order of release.
CREATE FUNCTION mainstay.release_flow_jobs(waiters uuid[]) RETURNS void LANGUAGE sql SET search_path = pg_catalog, mainstay AS $$
  WITH free AS (
    SELECT j.id FROM mainstay.jobs j WHERE j.id = ANY (waiters) AND j.state = 2 AND j.key_hash IS NULL AND j.limit_hash IS NULL ORDER BY j.id FOR UPDATE SKIP LOCKED
  ), due AS (
    UPDATE mainstay.jobs j
    SET state = 1, due_at = greatest(clock_timestamp(), j.run_at), key_hash = mainstay.job_key_hash(j.tenant, j.ordering_key),
        seq = CASE WHEN j.ordering_key IS NOT NULL THEN nextval('mainstay.job_seq') END, limit_hash = mainstay.job_key_hash(j.tenant, j.concurrency_key)
    FROM free f WHERE j.id = f.id RETURNING j.id
  )
  UPDATE mainstay.job_flow_waits w SET released_at = clock_timestamp() FROM due d WHERE w.job = d.id
$$;

-- In the transaction that finished jobs of flows: counts them, and releases whoever waited for nothing else. Children of one flow that finish at once queue for the counters here, so
-- exactly one of them is the last.
CREATE FUNCTION mainstay.finish_flow_jobs(ids uuid[], states smallint[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, mainstay AS $$
DECLARE
  free uuid[];
BEGIN
  PERFORM FROM mainstay.job_flow_jobs m WHERE m.job = ANY (ids) ORDER BY m.job FOR UPDATE;
  UPDATE mainstay.job_flow_jobs m SET state = i.state, finished_at = clock_timestamp() FROM unnest(ids, states) AS i (id, state) WHERE m.job = i.id;
  PERFORM FROM mainstay.job_flow_waits w WHERE w.job IN (SELECT e.waiter FROM mainstay.job_flow_edges e WHERE e.needs = ANY (ids)) ORDER BY w.job FOR UPDATE;
  WITH met AS (
    SELECT e.waiter, count(*) FILTER (WHERE i.state = 6) AS succeeded, count(*) FILTER (WHERE i.state = 9) AS dead, count(*) FILTER (WHERE i.state IN (7, 8)) AS lost
    FROM unnest(ids, states) AS i (id, state) JOIN mainstay.job_flow_edges e ON e.needs = i.id GROUP BY e.waiter
  ), counted AS (
    UPDATE mainstay.job_flow_waits w SET succeeded = w.succeeded + m.succeeded, dead = w.dead + m.dead, lost = w.lost + m.lost FROM met m WHERE w.job = m.waiter RETURNING w
  )
  SELECT array_agg((c.w).job) INTO free FROM counted c WHERE (c.w).released_at IS NULL AND mainstay.flow_wait_is_over(c.w);
  IF free IS NOT NULL THEN
    PERFORM mainstay.release_flow_jobs(free);
  END IF;
END $$;

-- In the transaction that redrives dead jobs: those of flows are waited for again.
CREATE FUNCTION mainstay.revive_flow_jobs(ids uuid[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, mainstay AS $$
DECLARE
  members uuid[];
BEGIN
  SELECT array_agg(m.job) INTO members FROM (SELECT m.job FROM mainstay.job_flow_jobs m WHERE m.job = ANY (ids) AND m.state = 9 ORDER BY m.job FOR UPDATE) m;
  IF members IS NULL THEN
    RETURN;
  END IF;
  UPDATE mainstay.jobs j SET flow = m.flow FROM mainstay.job_flow_jobs m WHERE m.job = ANY (members) AND j.id = m.job;
  UPDATE mainstay.job_flow_jobs m SET state = NULL, finished_at = NULL WHERE m.job = ANY (members);
  PERFORM FROM mainstay.job_flow_waits w WHERE w.job IN (SELECT e.waiter FROM mainstay.job_flow_edges e WHERE e.needs = ANY (members)) ORDER BY w.job FOR UPDATE;
  UPDATE mainstay.job_flow_waits w SET dead = w.dead - m.n
  FROM (SELECT e.waiter, count(*) AS n FROM mainstay.job_flow_edges e WHERE e.needs = ANY (members) GROUP BY e.waiter) m WHERE w.job = m.waiter;
END $$;

-- Makes jobs that the caller's transaction has just added members of a flow. `parent`: a member that adds them while it runs; whoever waits for it waits for them too. Item `waiters[n]`
-- (from 1) waits for `needs[n]`: the name of an item before it or of a member, or `*`: all items before it. So there are no cycles.
CREATE FUNCTION mainstay.add_flow_jobs(of_flow uuid, parent uuid, ids uuid[], names text[], runs_on smallint[], waiters integer[], needs text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
DECLARE
  unknown record;
  waiting uuid[];
  free uuid[];
BEGIN
  IF parent IS NOT NULL THEN
    PERFORM FROM mainstay.job_flow_jobs m WHERE m.job = parent AND m.flow = of_flow AND m.state IS NULL FOR SHARE;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'mainstay.flows: parent: the job that adds others has finished' USING ERRCODE = 'invalid_parameter_value', COLUMN = 'parent';
    END IF;
  END IF;
  PERFORM FROM mainstay.job_flow_jobs m WHERE m.flow = of_flow AND m.name = ANY (needs) ORDER BY m.job FOR SHARE;
  BEGIN
    INSERT INTO mainstay.job_flow_jobs (job, flow, name) SELECT i.id, of_flow, nullif(i.name, '') FROM unnest(ids, names) AS i (id, name);
  EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'mainstay.flows: name: two jobs of a flow have the same name' USING ERRCODE = 'invalid_parameter_value', COLUMN = 'name';
  END;
  SELECT a.waiter, a.need INTO unknown
  FROM unnest(waiters, needs) AS a (waiter, need) LEFT JOIN mainstay.job_flow_jobs m ON m.flow = of_flow AND m.name = a.need
  LEFT JOIN unnest(ids) WITH ORDINALITY AS i (id, place) ON i.id = m.job
  WHERE a.need <> '*' AND (m.job IS NULL OR i.place >= a.waiter) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'mainstay.flows: item %: needs: no job before it has the name "%"', unknown.waiter - 1, left(unknown.need, 100) USING ERRCODE = 'invalid_parameter_value', COLUMN = 'needs';
  END IF;
  IF (SELECT sum(CASE WHEN a.need = '*' THEN a.waiter - 1 ELSE 1 END) FROM unnest(waiters, needs) AS a (waiter, need)) > 100000 THEN
    RAISE EXCEPTION 'mainstay.flows: needs: more than 100000 dependencies in a call' USING ERRCODE = 'invalid_parameter_value', COLUMN = 'needs';
  END IF;
  INSERT INTO mainstay.job_flow_edges (needs, waiter)
  SELECT m.job, ids[a.waiter] FROM unnest(waiters, needs) AS a (waiter, need) JOIN mainstay.job_flow_jobs m ON m.flow = of_flow AND m.name = a.need WHERE a.need <> '*'
  UNION
  SELECT i.id, w.id FROM unnest(waiters, needs) AS a (waiter, need) JOIN unnest(ids) WITH ORDINALITY AS w (id, place) ON w.place = a.waiter
  JOIN unnest(ids) WITH ORDINALITY AS i (id, place) ON i.place < a.waiter WHERE a.need = '*';
  INSERT INTO mainstay.job_flow_waits (job, flow, runs_on, needs, succeeded, dead, lost)
  SELECT w.id, of_flow, w.runs_on, count(*), count(*) FILTER (WHERE m.state = 6), count(*) FILTER (WHERE m.state = 9), count(*) FILTER (WHERE m.state IN (7, 8))
  FROM unnest(ids, runs_on) AS w (id, runs_on) JOIN mainstay.job_flow_edges e ON e.waiter = w.id JOIN mainstay.job_flow_jobs m ON m.job = e.needs GROUP BY w.id, w.runs_on;

  IF parent IS NOT NULL THEN
    WITH held AS (
      SELECT w.job FROM mainstay.job_flow_waits w JOIN mainstay.job_flow_edges e ON e.waiter = w.job AND e.needs = parent WHERE w.released_at IS NULL AND w.job <> ALL (ids) ORDER BY w.job FOR UPDATE OF w
    ), edges AS (
      INSERT INTO mainstay.job_flow_edges (needs, waiter) SELECT i.id, h.job FROM held h CROSS JOIN unnest(ids) AS i (id)
    )
    UPDATE mainstay.job_flow_waits w SET needs = w.needs + cardinality(ids) FROM held h WHERE w.job = h.job;
  END IF;

  SELECT array_agg(w.job), array_agg(w.job) FILTER (WHERE mainstay.flow_wait_is_over(w)) INTO waiting, free FROM mainstay.job_flow_waits w WHERE w.job = ANY (ids);
  UPDATE mainstay.jobs j SET flow = of_flow WHERE j.id = ANY (ids) AND j.id <> ALL (coalesce(waiting, '{}'));
  IF waiting IS NOT NULL THEN
    UPDATE mainstay.jobs j SET flow = of_flow, state = 2, due_at = NULL, published_at = NULL, key_hash = NULL, seq = NULL, limit_hash = NULL WHERE j.id = ANY (waiting);
  END IF;
  IF free IS NOT NULL THEN
    PERFORM mainstay.release_flow_jobs(free);
  END IF;
END $$;

CREATE FUNCTION mainstay.create_flow(id uuid, tenant text, label text, created_by text) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
  INSERT INTO mainstay.job_flows (id, tenant, label, created_by) VALUES ($1, $2, $3, $4)
$$;

-- Flows with what has become of their jobs. Counting reads the flow's jobs.
CREATE VIEW mainstay.flows_view AS
  SELECT f.id AS uid, mainstay.format_id('flow', f.id) AS id, f.tenant, f.label, f.created_by, f.created_at, c.total, c.waiting, c.open, c.succeeded, c.discarded, c.cancelled, c.dead,
         CASE WHEN c.waiting + c.open = 0 THEN c.finished_at END AS finished_at
  FROM mainstay.job_flows f
  CROSS JOIN LATERAL (
    SELECT count(*)::integer AS total, count(*) FILTER (WHERE m.state IS NULL AND w.job IS NOT NULL)::integer AS waiting, count(*) FILTER (WHERE m.state IS NULL AND w.job IS NULL)::integer AS open,
           count(*) FILTER (WHERE m.state = 6)::integer AS succeeded, count(*) FILTER (WHERE m.state = 7)::integer AS discarded, count(*) FILTER (WHERE m.state = 8)::integer AS cancelled,
           count(*) FILTER (WHERE m.state = 9)::integer AS dead, max(m.finished_at) AS finished_at
    FROM mainstay.job_flow_jobs m LEFT JOIN mainstay.job_flow_waits w ON w.job = m.job AND w.released_at IS NULL WHERE m.flow = f.id) c;

REVOKE ALL ON FUNCTION mainstay.release_flow_jobs(uuid[]), mainstay.finish_flow_jobs(uuid[], smallint[]), mainstay.revive_flow_jobs(uuid[]),
  mainstay.add_flow_jobs(uuid, uuid, uuid[], text[], smallint[], integer[], text[]), mainstay.create_flow(uuid, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mainstay.release_flow_jobs(uuid[]), mainstay.finish_flow_jobs(uuid[], smallint[]), mainstay.revive_flow_jobs(uuid[])
  TO mainstay_worker;
GRANT EXECUTE ON FUNCTION mainstay.add_flow_jobs(uuid, uuid, uuid[], text[], smallint[], integer[], text[]), mainstay.create_flow(uuid, text, text, text)
  TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway, mainstay_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON mainstay.job_flows, mainstay.job_flow_jobs, mainstay.job_flow_edges, mainstay.job_flow_waits TO mainstay_worker;
GRANT SELECT ON mainstay.flows_view TO mainstay_worker;
