-- SPDX-License-Identifier: Apache-2.0
-- Runs: a worker that holds a key's slot may take the jobs behind it along, run them one after another and finish many in one statement. The slot says how far its run reaches and whose
-- turn it is; members keep their state and fence. Whoever moves a slot, or hands out its job anew, without being the run's holder first raises the fences of what is left of the run, so
-- that the holder can finish none of it.
ALTER TABLE mainstay.job_slots ADD COLUMN last_seq bigint;  -- null: no run

-- The next in line by the index's own order: a bitmap would be made of all that wait for a key, and sorted, to take the first.
ALTER FUNCTION mainstay.promote_job_keys(bigint[]) SET enable_bitmapscan = off;

-- Ends the runs of these keys, in the transaction of what changed their jobs and after it: the lock on the job whose turn it is orders this against take_key_runs.
CREATE FUNCTION mainstay.cut_key_runs(keys bigint[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  cut bigint[];
BEGIN
  SELECT array_agg(l.key_hash) INTO cut
  FROM (SELECT s.key_hash FROM mainstay.job_slots s WHERE s.key_hash = ANY (keys) AND s.last_seq IS NOT NULL ORDER BY s.key_hash FOR UPDATE) l;
  IF cut IS NULL THEN
    RETURN 0;
  END IF;
  UPDATE mainstay.jobs j SET fence = j.fence + 1, state = 2, worker = NULL, started_at = NULL
  FROM mainstay.job_slots s WHERE s.key_hash = ANY (cut) AND j.key_hash = s.key_hash AND j.seq <= s.last_seq AND j.state IN (2, 5) AND j.id <> s.job;
  UPDATE mainstay.job_slots s SET last_seq = NULL WHERE s.key_hash = ANY (cut);
  RETURN cardinality(cut);
END $$;

-- The jobs that may follow these holders of slots, at most so many each, in order: those next in line as long as they are of the holder's queue and of `routes`, and nothing speaks against
-- their running now. The slots are marked first and the holders looked at again afterwards: one that was handed out anew meanwhile gets nobody.
CREATE FUNCTION mainstay.take_key_runs(holders uuid[], fences bigint[], keys bigint[], sizes integer[], routes text[])
RETURNS TABLE (holder uuid, id uuid, fence bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  followers uuid[];
  follower_fences bigint[];
  follower_holders uuid[];
  counted text[] := ARRAY(SELECT q.name FROM mainstay.job_queues q WHERE q.closed OR q.lanes <> '{}');
  marked uuid[];
  good uuid[];
BEGIN
  IF EXISTS (SELECT 1 FROM mainstay.job_pauses) THEN
    RETURN;
  END IF;
  WITH line AS MATERIALIZED (
    SELECT h.id AS holder, h.key_hash, n.id, n.fence, n.seq, bool_and(n.ok) OVER (PARTITION BY h.key_hash ORDER BY n.seq) AS ok
    FROM unnest(holders, fences, keys, sizes) AS i (id, fence, key_hash, size)
    -- By id, whatever the planner makes of states and queues.
    CROSS JOIN LATERAL (
      SELECT j.id, j.key_hash, j.seq, j.queue FROM mainstay.jobs j WHERE j.id = i.id AND j.fence = i.fence AND j.state = 2 AND j.queue <> ALL (counted) OFFSET 0) h
    CROSS JOIN LATERAL (
      SELECT j.id, j.fence, j.seq, j.queue = h.queue AND j.limit_hash IS NULL AND j.deadline IS NULL AND j.sensitive_args IS NULL AND j.suspicions = 0 AND j.crashes = 0
                                   AND mainstay.job_route(j.kind, j.version) = ANY (routes) AS ok
      FROM mainstay.jobs j WHERE j.key_hash = h.key_hash AND j.state = 2 AND j.seq > h.seq ORDER BY j.seq LIMIT i.size) n
  ), ends AS (
    SELECT l.holder, l.key_hash, max(l.seq) AS last FROM line l WHERE l.ok GROUP BY 1, 2 ORDER BY 2
  ), marked AS (
    UPDATE mainstay.job_slots s SET last_seq = e.last, taken_at = clock_timestamp() FROM ends e WHERE s.key_hash = e.key_hash AND s.job = e.holder RETURNING s.job
  )
  SELECT (SELECT array_agg(m.job) FROM marked m), array_agg(l.holder ORDER BY l.key_hash, l.seq), array_agg(l.id ORDER BY l.key_hash, l.seq), array_agg(l.fence ORDER BY l.key_hash, l.seq)
  INTO marked, follower_holders, followers, follower_fences FROM line l WHERE l.ok;
  IF marked IS NULL THEN
    RETURN;
  END IF;
  SELECT array_agg(g.id) INTO good FROM (
    SELECT j.id FROM unnest(holders, fences) AS i (id, fence) JOIN mainstay.jobs j ON j.id = i.id AND j.fence = i.fence AND j.state = 2
    WHERE i.id = ANY (marked) ORDER BY j.key_hash FOR SHARE OF j) g;
  IF cardinality(marked) > coalesce(cardinality(good), 0) THEN
    UPDATE mainstay.job_slots s SET last_seq = NULL WHERE s.key_hash = ANY (keys) AND s.job = ANY (marked) AND s.job <> ALL (coalesce(good, '{}'));
  END IF;
  RETURN QUERY SELECT f.holder, f.id, f.fence FROM unnest(follower_holders, followers, follower_fences) WITH ORDINALITY AS f (holder, id, fence, n) WHERE f.holder = ANY (good) ORDER BY f.n;
END $$;

-- What goes to the streams: jobs that hold their slots now, unless the dispatcher must hand them out.
CREATE FUNCTION mainstay.hand_out_keyed(ids uuid[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  may_go uuid[] := ARRAY(SELECT mainstay.keyed_that_may_go(ids));
BEGIN
  RETURN QUERY
    SELECT j.id, j.fence, j.attempt, j.kind, j.queue, j.priority, CASE WHEN j.sensitive_args IS NULL AND octet_length(j.args::text) <= 4096 THEN j.args::text END
    FROM mainstay.jobs j WHERE j.id = ANY (may_go);
END $$;

-- promote_job_keys, and what comes of it.
CREATE FUNCTION mainstay.promote_keys(keys bigint[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
#variable_conflict use_column
DECLARE
  ids uuid[] := ARRAY(SELECT p.id FROM mainstay.promote_job_keys(keys) p);
BEGIN
  IF cardinality(ids) > 0 THEN
    RETURN QUERY SELECT * FROM mainstay.hand_out_keyed(ids);
  END IF;
END $$;

-- In the transaction that finished `finished` (with their keys): a run that goes on keeps its slot, which names the member whose turn it is (`turns`, with their fences); every other slot
-- goes to the next in line, or is freed. The caller then commits, promotes the freed keys once more (a job committed meanwhile met the old slot) and adds the returned jobs to their
-- streams. Successors are locked, for a cancel may be deleting them. Slots are locked in order.
CREATE FUNCTION mainstay.pass_keys(finished uuid[], keys bigint[], turns uuid[], turn_fences bigint[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text, freed bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  next_ids uuid[];
  cut bigint[];
  free bigint[];
BEGIN
  PERFORM 1 FROM unnest(finished, keys) AS f (job, key) JOIN mainstay.job_slots s ON s.key_hash = f.key AND s.job = f.job ORDER BY s.key_hash FOR UPDATE OF s;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF cardinality(turns) > 0 THEN
    WITH turn AS MATERIALIZED (
      SELECT j.id, j.fence, j.key_hash, j.seq FROM unnest(turns, turn_fences) AS t (id, fence) JOIN mainstay.jobs j ON j.id = t.id AND j.fence = t.fence ORDER BY j.key_hash FOR SHARE OF j
    )
    UPDATE mainstay.job_slots s SET job = t.id, fence = t.fence, taken_at = clock_timestamp() FROM turn t
    WHERE s.key_hash = t.key_hash AND t.seq <= s.last_seq AND NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.id = s.job);
  END IF;
  WITH next AS MATERIALIZED (
    SELECT s.key_hash, s.last_seq, n.id, n.fence, n.seq FROM unnest(finished, keys) AS f (job, key) JOIN mainstay.job_slots s ON s.key_hash = f.key AND s.job = f.job
    LEFT JOIN LATERAL (
      SELECT j.id, j.fence, j.seq FROM mainstay.jobs j WHERE j.key_hash = s.key_hash AND (j.state = 2 OR (j.state = 5 AND j.seq <= s.last_seq)) ORDER BY j.seq LIMIT 1 FOR SHARE) n ON true
  ), moved AS (
    UPDATE mainstay.job_slots s SET job = n.id, fence = n.fence + coalesce(n.seq <= n.last_seq, false)::integer, taken_at = clock_timestamp(),
           last_seq = CASE WHEN n.seq <= n.last_seq THEN s.last_seq END
    FROM next n WHERE n.id IS NOT NULL AND s.key_hash = n.key_hash
  ), gone AS (
    DELETE FROM mainstay.job_slots s USING next n WHERE n.id IS NULL AND s.key_hash = n.key_hash
  )
  SELECT array_agg(n.id) FILTER (WHERE n.id IS NOT NULL), array_agg(n.key_hash) FILTER (WHERE n.seq <= n.last_seq), array_agg(n.key_hash) FILTER (WHERE n.id IS NULL)
  INTO next_ids, cut, free FROM next n;
  IF cut IS NOT NULL THEN
    UPDATE mainstay.jobs j SET fence = j.fence + 1, state = 2, worker = NULL, started_at = NULL
    FROM mainstay.job_slots s WHERE s.key_hash = ANY (cut) AND j.key_hash = s.key_hash AND j.state IN (2, 5) AND j.seq <= s.last_seq;
    UPDATE mainstay.job_slots s SET last_seq = NULL WHERE s.key_hash = ANY (cut);
  END IF;
  IF next_ids IS NOT NULL THEN
    RETURN QUERY SELECT h.*, NULL::bigint FROM mainstay.hand_out_keyed(next_ids) h;
  END IF;
  IF free IS NOT NULL THEN
    RETURN QUERY SELECT NULL::uuid, NULL::bigint, NULL::integer, NULL::text, NULL::text, NULL::smallint, NULL::text, u FROM unnest(free) u;
  END IF;
END $$;
-- For workers of the release before.
CREATE OR REPLACE FUNCTION mainstay.pass_job_keys(finished uuid[], keys bigint[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text)
LANGUAGE sql AS $$ SELECT p.id, p.fence, p.attempt, p.kind, p.queue, p.priority, p.args FROM mainstay.pass_keys(finished, keys, '{}', '{}') p WHERE p.id IS NOT NULL $$;

-- As before, and a job that gets new arguments ends the run that it is in.
CREATE OR REPLACE FUNCTION mainstay.replace_job_args(ids uuid[], new_args json[], new_sealed text[], new_versions smallint[]) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
  RETURN QUERY
    WITH waiting AS MATERIALIZED (
      SELECT j.id, j.state = 4 OR (j.state = 2 AND EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = j.key_hash AND s.job = j.id)) AS out
      FROM mainstay.jobs j WHERE j.id = ANY (ids) AND j.state IN (1, 2, 3, 4) AND j.started_at IS NULL AND j.attempt + j.crashes + j.snoozes = 0 ORDER BY j.id FOR UPDATE
    )
    UPDATE mainstay.jobs j
    SET args = i.args, sensitive_args = i.sealed::bytea, version = i.version, fence = j.fence + w.out::integer, state = CASE WHEN w.out THEN 1 ELSE j.state END,
        due_at = CASE WHEN w.out THEN clock_timestamp() ELSE j.due_at END, published_at = CASE WHEN w.out THEN NULL ELSE j.published_at END
    FROM waiting w JOIN unnest(ids, new_args, new_sealed, new_versions) AS i (id, args, sealed, version) ON i.id = w.id
    WHERE j.id = w.id RETURNING j.id;
  PERFORM mainstay.cut_key_runs(ARRAY(SELECT j.key_hash FROM mainstay.jobs j WHERE j.id = ANY (ids) AND j.key_hash IS NOT NULL));
END $$;

REVOKE ALL ON FUNCTION mainstay.cut_key_runs(bigint[]), mainstay.take_key_runs(uuid[], bigint[], bigint[], integer[], text[]), mainstay.hand_out_keyed(uuid[]), mainstay.promote_keys(bigint[]),
  mainstay.pass_keys(uuid[], bigint[], uuid[], bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mainstay.promote_keys(bigint[]) TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway, mainstay_worker;
GRANT EXECUTE ON FUNCTION mainstay.cut_key_runs(bigint[]), mainstay.take_key_runs(uuid[], bigint[], bigint[], integer[], text[]), mainstay.hand_out_keyed(uuid[]),
  mainstay.pass_keys(uuid[], bigint[], uuid[], bigint[]) TO mainstay_worker;
