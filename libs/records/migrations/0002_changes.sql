-- SPDX-License-Identifier: Apache-2.0
-- What was written, by whom: the audit of all writes, and the images of those to resources with `changes` or `history`. Both are written in the transaction of the change.
-- Service roles may add and read, never change or remove: mainstay.trim_record_changes is the only way out.

-- One row per merge (a request, a chunk of an import) or denied attempt.
CREATE TABLE mainstay.audit_events (
  id uuid NOT NULL,
  tenant text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  subject text NOT NULL,
  roles text[] NOT NULL,
  request_id text NOT NULL,
  resource text NOT NULL,
  action text NOT NULL,    -- create update delete restore upsert
  outcome text NOT NULL CHECK (outcome IN ('done', 'denied')),
  record text,             -- the id, where it is about one record
  created integer NOT NULL DEFAULT 0,
  updated integer NOT NULL DEFAULT 0,
  deleted integer NOT NULL DEFAULT 0,
  PRIMARY KEY (id)
);
CREATE INDEX audit_events_tenant ON mainstay.audit_events (tenant, at DESC, id DESC);
GRANT INSERT, SELECT ON mainstay.audit_events TO mainstay_gateway, mainstay_worker;

-- One row per written row: outbox of the changes feed, and history. A reader's position is (xid, id) below pg_snapshot_xmin: whatever commits later has a greater xid, so nothing is
-- ever overtaken. Images hold the table's columns under their own names, without hidden sensitive ones.
CREATE TABLE mainstay.record_changes (
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  tenant text NOT NULL,    -- of the row; '' where the resource has none
  resource text NOT NULL,
  key text[] NOT NULL,     -- as PostgreSQL prints its parts
  operation text NOT NULL, -- created updated deleted restored
  before jsonb,
  after jsonb,
  at timestamptz NOT NULL DEFAULT now(),
  subject text NOT NULL,
  event uuid NOT NULL,     -- of audit_events
  keep_until timestamptz NOT NULL,
  PRIMARY KEY (xid, id)
);
CREATE INDEX record_changes_feed ON mainstay.record_changes (resource, tenant, xid, id);
CREATE INDEX record_changes_history ON mainstay.record_changes (resource, key, xid, id);
CREATE INDEX record_changes_keep_until ON mainstay.record_changes (keep_until);
GRANT INSERT, SELECT ON mainstay.record_changes TO mainstay_gateway, mainstay_worker;

-- How far each resource's feed has been cut off: a reader that stands before it has missed something.
CREATE TABLE mainstay.record_change_floors (
  resource text PRIMARY KEY,
  xid xid8 NOT NULL,
  id bigint NOT NULL
);
GRANT SELECT ON mainstay.record_change_floors TO mainstay_gateway, mainstay_worker;

-- Removes what is past its time, and what lies beyond `most` rows of a resource whose rows are kept for the feed alone. At most `batch` rows a call, so that it never holds much;
-- returns how many. One caller at a time: the others find nothing to do.
CREATE FUNCTION mainstay.trim_record_changes(resources text[], batch integer DEFAULT 5000, most bigint DEFAULT 1000000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
DECLARE
  gone integer;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('mainstay.trim_record_changes', 7305)) THEN
    RETURN 0;
  END IF;
  WITH old AS (
    SELECT c.xid, c.id FROM mainstay.record_changes c WHERE c.keep_until < now() ORDER BY c.keep_until LIMIT batch
  ), surplus AS (
    SELECT c.xid, c.id FROM unnest(resources) AS r (resource)
    CROSS JOIN LATERAL (SELECT k.xid, k.id FROM mainstay.record_changes k WHERE k.resource = r.resource ORDER BY k.xid DESC, k.id DESC OFFSET most LIMIT batch) c
    JOIN mainstay.record_changes x USING (xid, id) WHERE x.keep_until <= x.at + interval '24 hours'
  ), removed AS (
    DELETE FROM mainstay.record_changes c USING (SELECT xid, id FROM old UNION SELECT xid, id FROM surplus) o WHERE c.xid = o.xid AND c.id = o.id RETURNING c.resource, c.xid, c.id
  ), last AS (
    SELECT DISTINCT ON (r.resource) r.resource, r.xid, r.id FROM removed r ORDER BY r.resource, r.xid DESC, r.id DESC
  ), raised AS (
    INSERT INTO mainstay.record_change_floors AS f (resource, xid, id) SELECT l.resource, l.xid, l.id FROM last l
    ON CONFLICT (resource) DO UPDATE SET xid = excluded.xid, id = excluded.id WHERE (f.xid, f.id) < (excluded.xid, excluded.id)
  )
  SELECT count(*) INTO gone FROM removed;
  RETURN gone;
END $$;
REVOKE ALL ON FUNCTION mainstay.trim_record_changes(text[], integer, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mainstay.trim_record_changes(text[], integer, bigint) TO mainstay_gateway, mainstay_worker;

-- Jobs that a write declares (catalog: `jobs`), in the writer's transaction and with the writer's rights. NULL where there are none.
CREATE FUNCTION mainstay.enqueue_for(jobs mainstay.new_job[], subject text, roles json) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
DECLARE
  made uuid[];
BEGIN
  IF coalesce(cardinality(jobs), 0) = 0 THEN
    RETURN 0;
  END IF;
  FOR i IN 0 .. (cardinality(jobs) - 1) / 10000 LOOP
    SELECT array_agg(mainstay.parse_id('job', b.id)) INTO made FROM mainstay.enqueue_batch(jobs[i * 10000 + 1 : (i + 1) * 10000]) b WHERE NOT b.existed;
    UPDATE mainstay.jobs j SET principal = json_build_object('subject', subject, 'roles', roles) WHERE j.id = ANY (made);
  END LOOP;
  RETURN cardinality(jobs);
END $$;
REVOKE ALL ON FUNCTION mainstay.enqueue_for(mainstay.new_job[], text, json) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mainstay.enqueue_for(mainstay.new_job[], text, json), mainstay.new_job(text, json, text, text, integer, timestamptz, text, text, integer, text[], timestamptz, text, interval, text, interval, text, boolean, text, text, integer, integer, text, interval, interval, interval, interval, interval)
  TO mainstay_gateway, mainstay_worker;
