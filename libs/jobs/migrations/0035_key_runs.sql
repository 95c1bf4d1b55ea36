-- SPDX-License-Identifier: Apache-2.0
-- Runs: a worker that holds a key's slot may take the jobs behind it along, run them one after another and finish many in one statement. The slot says how far its run reaches and whose
-- turn it is; members keep their state and fence. Whoever moves a slot, or hands out its job anew, without being the run's holder first raises the fences of what is left of the run, so
-- that the holder can finish none of it.
ALTER TABLE mainstay.job_slots ADD COLUMN last_seq bigint;  -- null: no run

-- Ends the runs of these keys, in the transaction of what changed their jobs and after it: the lock on the job whose turn it is orders this against take_key_runs.
CREATE FUNCTION mainstay.cut_key_runs(keys bigint[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
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
-- their running now. A holder that was handed out anew meanwhile gets none.
CREATE FUNCTION mainstay.take_key_runs(holders uuid[], fences bigint[], keys bigint[], sizes integer[], routes text[])
RETURNS TABLE (holder uuid, id uuid, fence bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
BEGIN
  IF EXISTS (SELECT 1 FROM mainstay.job_pauses) THEN
    RETURN;
  END IF;
  RETURN QUERY
    WITH held AS MATERIALIZED (
      SELECT j.id, j.queue, j.seq, j.key_hash, i.size FROM unnest(holders, fences, keys, sizes) AS i (id, fence, key_hash, size)
      JOIN mainstay.jobs j ON j.id = i.id AND j.fence = i.fence AND j.state = 2
      JOIN mainstay.job_queues q ON q.name = j.queue AND NOT q.closed AND q.lanes = '{}'
      ORDER BY i.key_hash FOR SHARE OF j
    ), line AS MATERIALIZED (
      SELECT h.id AS holder, h.key_hash, n.id, n.fence, n.seq, bool_and(n.ok) OVER (PARTITION BY h.key_hash ORDER BY n.seq) AS ok
      FROM held h CROSS JOIN LATERAL (
        SELECT j.id, j.fence, j.seq, j.queue = h.queue AND j.limit_hash IS NULL AND j.deadline IS NULL AND j.sensitive_args IS NULL AND j.suspicions = 0 AND j.crashes = 0
                                     AND mainstay.job_route(j.kind, j.version) = ANY (routes) AS ok
        FROM mainstay.jobs j WHERE j.key_hash = h.key_hash AND j.state = 2 AND j.seq > h.seq ORDER BY j.seq LIMIT h.size) n
    ), marked AS (
      UPDATE mainstay.job_slots s SET last_seq = r.last, taken_at = clock_timestamp() FROM (SELECT l.holder, l.key_hash, max(l.seq) AS last FROM line l WHERE l.ok GROUP BY 1, 2) r
      WHERE s.key_hash = r.key_hash AND s.job = r.holder RETURNING s.key_hash
    )
    SELECT l.holder, l.id, l.fence FROM line l JOIN marked m ON m.key_hash = l.key_hash WHERE l.ok ORDER BY l.key_hash, l.seq;
END $$;

-- pass_job_keys as before, and: the holder of a run that goes on names the member whose turn it is (`turns`, with its fence) and keeps the slot.
CREATE FUNCTION mainstay.pass_job_keys(finished uuid[], keys bigint[], turns uuid[], turn_fences bigint[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text)
LANGUAGE plpgsql SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  held bigint[];
  kept bigint[];
  slot mainstay.job_slots;
  next_job mainstay.jobs;
BEGIN
  SELECT array_agg(l.key_hash) INTO held
  FROM (SELECT s.key_hash FROM mainstay.job_slots s WHERE s.key_hash = ANY (keys) AND s.job = ANY (finished) ORDER BY s.key_hash FOR UPDATE) l;
  IF held IS NULL THEN
    RETURN;
  END IF;
  IF cardinality(turns) > 0 THEN
    WITH turn AS MATERIALIZED (
      SELECT j.id, j.fence, j.key_hash FROM unnest(turns, turn_fences) AS t (id, fence) JOIN mainstay.jobs j ON j.id = t.id AND j.fence = t.fence ORDER BY j.key_hash FOR SHARE OF j
    ), moved AS (
      UPDATE mainstay.job_slots s SET job = t.id, fence = t.fence, taken_at = clock_timestamp() FROM turn t
      WHERE s.key_hash = t.key_hash AND s.key_hash = ANY (held) AND s.last_seq IS NOT NULL RETURNING s.key_hash
    )
    SELECT array_agg(m.key_hash) INTO kept FROM moved m;
  END IF;
  FOR slot IN SELECT * FROM mainstay.job_slots s WHERE s.key_hash = ANY (held) AND s.key_hash <> ALL (coalesce(kept, '{}')) ORDER BY s.key_hash LOOP
    SELECT * INTO next_job FROM mainstay.jobs j WHERE j.key_hash = slot.key_hash AND (j.state = 2 OR (j.state = 5 AND j.seq <= slot.last_seq)) ORDER BY j.seq LIMIT 1 FOR SHARE;
    IF NOT FOUND THEN
      DELETE FROM mainstay.job_slots s WHERE s.key_hash = slot.key_hash;
      CONTINUE;
    END IF;
    IF next_job.seq <= slot.last_seq THEN
      UPDATE mainstay.jobs j SET fence = j.fence + 1, state = 2, worker = NULL, started_at = NULL WHERE j.key_hash = slot.key_hash AND j.state IN (2, 5) AND j.seq <= slot.last_seq;
      next_job.fence := next_job.fence + 1;
    END IF;
    UPDATE mainstay.job_slots s SET job = next_job.id, fence = next_job.fence, taken_at = clock_timestamp(), last_seq = NULL WHERE s.key_hash = slot.key_hash;
    id := next_job.id; fence := next_job.fence; attempt := next_job.attempt; kind := next_job.kind; queue := next_job.queue; priority := next_job.priority;
    args := CASE WHEN next_job.sensitive_args IS NULL AND octet_length(next_job.args::text) <= 4096 THEN next_job.args::text END;
    RETURN NEXT;
  END LOOP;
END $$;
-- For workers of the release before.
CREATE OR REPLACE FUNCTION mainstay.pass_job_keys(finished uuid[], keys bigint[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text)
LANGUAGE sql AS $$ SELECT * FROM mainstay.pass_job_keys(finished, keys, '{}', '{}') $$;

-- As before, and a job that gets new arguments ends the run that it is in.
CREATE OR REPLACE FUNCTION mainstay.replace_job_args(ids uuid[], new_args json[], new_sealed text[], new_versions smallint[]) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
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

REVOKE ALL ON FUNCTION mainstay.cut_key_runs(bigint[]), mainstay.take_key_runs(uuid[], bigint[], bigint[], integer[], text[]), mainstay.pass_job_keys(uuid[], bigint[], uuid[], bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mainstay.cut_key_runs(bigint[]), mainstay.take_key_runs(uuid[], bigint[], bigint[], integer[], text[]),
  mainstay.pass_job_keys(uuid[], bigint[], uuid[], bigint[]) TO mainstay_worker;
