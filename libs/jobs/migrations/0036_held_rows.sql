-- SPDX-License-Identifier: Apache-2.0
-- As before, and a key whose slot is taken is left alone without waiting for the transaction that may be passing it on: who frees a slot looks at its key again after its commit.
CREATE OR REPLACE FUNCTION mainstay.promote_job_keys(keys bigint[])
RETURNS TABLE (id uuid, fence bigint, attempt integer, kind text, queue text, priority smallint, args text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  again bigint[] := keys;
  taken bigint[];
BEGIN
  FOR round IN 1..5 LOOP
    WITH heads AS (
      SELECT k.key, h.id, h.fence
      FROM (SELECT DISTINCT u AS key FROM unnest(again) u WHERE NOT EXISTS (SELECT 1 FROM mainstay.job_slots s WHERE s.key_hash = u)) k
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
