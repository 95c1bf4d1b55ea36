-- SPDX-License-Identifier: Apache-2.0
-- A run does not reach past one of its key that is written as running, and a holder has one at most.
CREATE OR REPLACE FUNCTION mainstay.take_key_runs(holders uuid[], fences bigint[], keys bigint[], sizes integer[], routes text[])
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
                                   AND j.state = 2 AND mainstay.job_route(j.kind, j.version) = ANY (routes) AS ok
      FROM mainstay.jobs j WHERE j.key_hash = h.key_hash AND j.state IN (2, 5) AND j.seq > h.seq ORDER BY j.seq LIMIT i.size) n
  ), ends AS (
    SELECT l.holder, l.key_hash, max(l.seq) AS last FROM line l WHERE l.ok GROUP BY 1, 2 ORDER BY 2
  ), marked AS (
    UPDATE mainstay.job_slots s SET last_seq = e.last, taken_at = clock_timestamp() FROM ends e WHERE s.key_hash = e.key_hash AND s.job = e.holder AND s.last_seq IS NULL RETURNING s.job
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
