-- SPDX-License-Identifier: Apache-2.0
-- Keys move on with fewer look-ups: a slot that is locked is not looked for again, and a job that was locked to become the holder is handed out as it was read, unless something in the
-- suite is closed, paused or limited.
CREATE FUNCTION mainstay.keyed_may_all_go() RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, mainstay SET enable_seqscan = off AS $$
BEGIN
  RETURN NOT EXISTS (SELECT 1 FROM mainstay.job_queues q WHERE q.closed OR q.lanes <> '{}') AND NOT EXISTS (SELECT 1 FROM mainstay.job_pauses)
         AND NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.limit_hash IS NOT NULL);
END $$;

CREATE OR REPLACE FUNCTION mainstay.promote_keys(keys bigint[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
#variable_conflict use_column
DECLARE
  ids uuid[];
BEGIN
  IF mainstay.keyed_may_all_go() THEN
    RETURN QUERY SELECT * FROM mainstay.promote_job_keys(keys);
    RETURN;
  END IF;
  ids := ARRAY(SELECT p.id FROM mainstay.promote_job_keys(keys) p);
  IF cardinality(ids) > 0 THEN
    RETURN QUERY SELECT * FROM mainstay.hand_out_keyed(ids);
  END IF;
END $$;

CREATE OR REPLACE FUNCTION mainstay.pass_keys(finished uuid[], keys bigint[], turns uuid[], turn_fences bigint[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text, freed bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  held bigint[];   -- keys whose slots name a finished job
  lasts bigint[];  -- how far their runs reach
  next_ids uuid[];
  cut bigint[];
  free bigint[];
BEGIN
  SELECT array_agg(l.key_hash), array_agg(l.last_seq) INTO held, lasts FROM (
    SELECT s.key_hash, s.last_seq FROM unnest(finished, keys) AS f (job, key) JOIN mainstay.job_slots s ON s.key_hash = f.key AND s.job = f.job ORDER BY s.key_hash FOR UPDATE OF s) l;
  IF held IS NULL THEN
    RETURN;
  END IF;
  IF cardinality(turns) > 0 THEN
    -- What goes on needs nothing further.
    WITH turn AS MATERIALIZED (
      SELECT j.id, j.fence, j.key_hash, j.seq FROM unnest(turns, turn_fences) AS t (id, fence) JOIN mainstay.jobs j ON j.id = t.id AND j.fence = t.fence ORDER BY j.key_hash FOR SHARE OF j
    ), moved AS (
      UPDATE mainstay.job_slots s SET job = t.id, fence = t.fence, taken_at = clock_timestamp() FROM turn t
      WHERE s.key_hash = t.key_hash AND t.seq <= s.last_seq AND NOT EXISTS (SELECT 1 FROM mainstay.jobs j WHERE j.id = s.job) RETURNING s.key_hash
    )
    SELECT array_agg(h.key), array_agg(h.last) INTO held, lasts FROM unnest(held, lasts) AS h (key, last) WHERE NOT EXISTS (SELECT 1 FROM moved m WHERE m.key_hash = h.key);
    IF held IS NULL THEN
      RETURN;
    END IF;
  END IF;
  WITH next AS MATERIALIZED (
    SELECT h.key, h.last, n.id, n.fence, n.seq FROM unnest(held, lasts) AS h (key, last)
    LEFT JOIN LATERAL (
      SELECT j.id, j.fence, j.seq FROM mainstay.jobs j WHERE j.key_hash = h.key AND (j.state = 2 OR (j.state = 5 AND j.seq <= h.last)) ORDER BY j.seq LIMIT 1 FOR SHARE) n ON true
  ), moved AS (
    UPDATE mainstay.job_slots s SET job = n.id, fence = n.fence + coalesce(n.seq <= n.last, false)::integer, taken_at = clock_timestamp(),
           last_seq = CASE WHEN n.seq <= n.last THEN s.last_seq END
    FROM next n WHERE n.id IS NOT NULL AND s.key_hash = n.key
  ), gone AS (
    DELETE FROM mainstay.job_slots s USING next n WHERE n.id IS NULL AND s.key_hash = n.key
  )
  SELECT array_agg(n.id) FILTER (WHERE n.id IS NOT NULL), array_agg(n.key) FILTER (WHERE n.seq <= n.last), array_agg(n.key) FILTER (WHERE n.id IS NULL)
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

REVOKE ALL ON FUNCTION mainstay.keyed_may_all_go() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mainstay.keyed_may_all_go() TO mainstay_worker;
