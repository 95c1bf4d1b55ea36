-- SPDX-License-Identifier: Apache-2.0
-- Flows from SQL, for any application role granted EXECUTE. After 0013, whose jobs it takes.

-- From SQL, in the caller's own transaction, all or none:
--   SELECT * FROM mainstay.enqueue_flow(
--     ARRAY(SELECT mainstay.flow_job(mainstay.new_job('page.render', json_build_object('page', n))) FROM generate_series(1, 100) n)
--     || mainstay.flow_job(mainstay.new_job('book.bind'), needs => '{*}'));
CREATE TYPE mainstay.flow_job AS (job mainstay.new_job, name text, needs text[], runs_on text);
CREATE FUNCTION mainstay.flow_job(job mainstay.new_job, name text DEFAULT NULL, needs text[] DEFAULT NULL, runs_on text DEFAULT 'succeeded') RETURNS mainstay.flow_job
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT ROW(job, name, needs, runs_on)::mainstay.flow_job
$$;
CREATE FUNCTION mainstay.enqueue_flow(jobs mainstay.flow_job[], label text DEFAULT '') RETURNS TABLE (item integer, name text, id text, flow text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
#variable_conflict use_column
DECLARE
  new_flow uuid := mainstay.new_job_id();
  tenants text[];
  ids uuid[];
  wrong record;
BEGIN
  IF coalesce(cardinality(jobs), 0) = 0 OR cardinality(jobs) > 10000 THEN
    RAISE EXCEPTION 'mainstay.flows: expected 1 to 10000 jobs' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  SELECT j.place, v.field, v.detail INTO wrong
  FROM (SELECT u.*, u.ordinality AS place FROM unnest(jobs) WITH ORDINALITY u) j
  CROSS JOIN LATERAL (VALUES
    ('name', octet_length(j.name) > 100 OR j.name = '*', 'at most 100 bytes, and not "*"'),
    ('needs', cardinality(j.needs) > 1000, 'at most 1000 names'),
    ('runs_on', coalesce(j.runs_on, '') NOT IN ('done', 'succeeded', 'failed'), 'expected done, succeeded or failed')) AS v (field, bad, detail)
  WHERE v.bad ORDER BY j.place LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'mainstay.flows: item %: %: %', wrong.place - 1, wrong.field, wrong.detail USING ERRCODE = 'invalid_parameter_value', COLUMN = wrong.field;
  END IF;
  SELECT array_agg(DISTINCT (j.job).tenant) INTO tenants FROM unnest(jobs) j;
  IF cardinality(tenants) > 1 THEN
    RAISE EXCEPTION 'mainstay.flows: the jobs of a flow belong to one tenant' USING ERRCODE = 'invalid_parameter_value', COLUMN = 'tenant';
  END IF;
  SELECT array_agg(mainstay.parse_id('job', b.id) ORDER BY b.item), bool_or(b.existed) AS existed INTO wrong
  FROM mainstay.enqueue_batch(ARRAY(SELECT j.job FROM unnest(jobs) WITH ORDINALITY j ORDER BY j.ordinality)) b;
  ids := wrong.array_agg;
  IF wrong.existed THEN
    RAISE EXCEPTION 'mainstay.flows: unique_key: held by another job' USING ERRCODE = 'unique_violation', COLUMN = 'unique_key';
  END IF;
  PERFORM mainstay.create_flow(new_flow, tenants[1], left(label, 200), 'sql:' || session_user);
  PERFORM mainstay.add_flow_jobs(new_flow, NULL, ids,
    ARRAY(SELECT j.name FROM unnest(jobs) WITH ORDINALITY j ORDER BY j.ordinality),
    ARRAY(SELECT (CASE j.runs_on WHEN 'done' THEN 1 WHEN 'succeeded' THEN 2 ELSE 3 END)::smallint FROM unnest(jobs) WITH ORDINALITY j ORDER BY j.ordinality),
    ARRAY(SELECT j.ordinality::integer FROM unnest(jobs) WITH ORDINALITY j CROSS JOIN LATERAL unnest(j.needs) WITH ORDINALITY n (need, place) ORDER BY j.ordinality, n.place),
    ARRAY(SELECT n.need FROM unnest(jobs) WITH ORDINALITY j CROSS JOIN LATERAL unnest(j.needs) WITH ORDINALITY n (need, place) ORDER BY j.ordinality, n.place));
  RETURN QUERY SELECT (j.ordinality - 1)::integer, j.name, mainstay.format_id('job', ids[j.ordinality]), mainstay.format_id('flow', new_flow) FROM unnest(jobs) WITH ORDINALITY j ORDER BY j.ordinality;
END $$;

REVOKE ALL ON FUNCTION mainstay.enqueue_flow(mainstay.flow_job[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mainstay.enqueue_flow(mainstay.flow_job[], text) TO mainstay_worker;
