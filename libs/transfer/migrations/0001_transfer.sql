-- SPDX-License-Identifier: Apache-2.0
-- Files, imports and exports. The row is the truth; a file without a row is nobody's, a staging table can always be made again from the file.

-- Files that the transfer service keeps; the content lies in its store under the same id. Only rows of files that are whole and durable stand here.
CREATE TABLE mainstay.blobs (
  id           uuid PRIMARY KEY,
  tenant       text NOT NULL,
  size         bigint NOT NULL,
  sha256       text NOT NULL,
  content_type text NOT NULL DEFAULT '',
  name         text NOT NULL DEFAULT '',
  created_by   text NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NOT NULL
);
CREATE INDEX blobs_expiry ON mainstay.blobs (expires_at);

CREATE TABLE mainstay.imports (
  id             uuid PRIMARY KEY,
  tenant         text NOT NULL,
  resource       text NOT NULL,
  mapping        text NOT NULL DEFAULT '',     -- declared import of the catalog, if one was named
  mode           text NOT NULL CHECK (mode IN ('create', 'update', 'upsert', 'delete', 'ignore')),
  "commit"       text NOT NULL CHECK ("commit" IN ('all', 'chunks')),
  on_error       text NOT NULL CHECK (on_error IN ('abort', 'skip')),
  dry_run        boolean NOT NULL,
  key            text[] NOT NULL DEFAULT '{}', -- fields that identify a row; empty: the primary key
  state          text NOT NULL DEFAULT 'queued'
                 CHECK (state IN ('queued', 'running', 'succeeded', 'succeeded_with_errors', 'failed', 'rejected', 'cancelled')),
  blob           uuid NOT NULL,
  file_name      text NOT NULL DEFAULT '',
  file_size      bigint NOT NULL,
  sha256         text NOT NULL,
  -- SHA-256 over tenant, content, resource, mapping, mode, key and dry_run: the same again is the same import, not another one.
  identity       text NOT NULL,
  job            uuid,
  fence          bigint NOT NULL DEFAULT 0,    -- of the job's run that may write here; a later run raises it
  detection      jsonb,                        -- encoding, dialect, header and mapping as they were found
  staged_rows    bigint NOT NULL DEFAULT 0,    -- data records read from the file so far …
  staged_good    bigint NOT NULL DEFAULT 0,    -- … and how many of them stand in staging: compared with it after a crash
  staged         boolean NOT NULL DEFAULT false,
  merged_row     bigint NOT NULL DEFAULT 0,    -- commit: chunks: all rows up to this one are committed
  rows_total     bigint NOT NULL DEFAULT 0,
  rows_created   bigint NOT NULL DEFAULT 0,
  rows_updated   bigint NOT NULL DEFAULT 0,
  rows_unchanged bigint NOT NULL DEFAULT 0,
  rows_deleted   bigint NOT NULL DEFAULT 0,
  rows_skipped   bigint NOT NULL DEFAULT 0,
  rows_error     bigint NOT NULL DEFAULT 0,
  errors_by_code jsonb NOT NULL DEFAULT '{}',
  errors_kept    bigint NOT NULL DEFAULT 0,
  error_code     text NOT NULL DEFAULT '',
  error          text NOT NULL DEFAULT '',
  created_by     text NOT NULL,
  created_at     timestamptz NOT NULL DEFAULT now(),
  started_at     timestamptz,
  finished_at    timestamptz,
  expires_at     timestamptz NOT NULL,
  catalog_hash   text NOT NULL DEFAULT ''
);
-- An import that wrote nothing may be tried again with the same file.
CREATE UNIQUE INDEX imports_identity ON mainstay.imports (identity) WHERE state NOT IN ('failed', 'rejected', 'cancelled');
CREATE INDEX imports_tenant ON mainstay.imports (tenant, id);
CREATE INDEX imports_open ON mainstay.imports (job) WHERE state IN ('queued', 'running');
CREATE INDEX imports_expiry ON mainstay.imports (expires_at);

CREATE TABLE mainstay.import_errors (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  import     uuid NOT NULL REFERENCES mainstay.imports ON DELETE CASCADE,
  tenant     text NOT NULL,
  row        bigint NOT NULL,        -- data record, from 1
  line       bigint NOT NULL,        -- physical line of the file, from 1
  "column"   text NOT NULL DEFAULT '',
  field      text NOT NULL DEFAULT '',
  code       text NOT NULL,
  severity   text NOT NULL DEFAULT 'error',
  value      text NOT NULL DEFAULT '',
  message    text NOT NULL,
  suggestion text NOT NULL DEFAULT ''
);
CREATE INDEX import_errors_row ON mainstay.import_errors (import, row, id);

-- What became of each row, a byte per row from first_row on: c u n (unchanged) d s (skipped) e (error). The report is made from this and the file.
CREATE TABLE mainstay.import_row_status (
  import    uuid NOT NULL REFERENCES mainstay.imports ON DELETE CASCADE,
  first_row bigint NOT NULL,
  statuses  bytea NOT NULL,
  PRIMARY KEY (import, first_row)
);

CREATE TABLE mainstay.exports (
  id           uuid PRIMARY KEY,
  tenant       text NOT NULL,
  resource     text NOT NULL,
  format       text NOT NULL,
  query        text NOT NULL DEFAULT '',
  raw          boolean NOT NULL DEFAULT false, -- without the escape against formulas
  state        text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
  rows         bigint NOT NULL DEFAULT 0,
  size         bigint NOT NULL DEFAULT 0,
  sha256       text NOT NULL DEFAULT '',
  blob         uuid,
  job          uuid,
  fence        bigint NOT NULL DEFAULT 0,
  error_code   text NOT NULL DEFAULT '',
  error        text NOT NULL DEFAULT '',
  created_by   text NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  started_at   timestamptz,
  finished_at  timestamptz,
  expires_at   timestamptz NOT NULL,
  catalog_hash text NOT NULL DEFAULT ''
);
CREATE INDEX exports_tenant ON mainstay.exports (tenant, id);
CREATE INDEX exports_open ON mainstay.exports (job) WHERE state IN ('queued', 'running');
CREATE INDEX exports_expiry ON mainstay.exports (expires_at);

-- Staging tables are the owner's; a service can only ask for one. Unlogged: PostgreSQL empties them after its own crash, which the counts above betray.
CREATE FUNCTION mainstay.import_staging_name(import uuid) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT 'import_staging_' || replace(import::text, '-', '')
$$;
CREATE FUNCTION mainstay.create_import_staging(import uuid, columns integer) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
DECLARE
  name CONSTANT text := mainstay.import_staging_name(import);
BEGIN
  IF columns < 1 OR columns > 1100 THEN
    RAISE EXCEPTION 'a staging table has 1 to 1100 columns';
  END IF;
  EXECUTE format('DROP TABLE IF EXISTS mainstay.%I', name);
  EXECUTE format('CREATE UNLOGGED TABLE mainstay.%I (row bigint PRIMARY KEY, line bigint NOT NULL, %s) WITH (autovacuum_enabled = false)', name,
                 (SELECT string_agg(format('c%s text', c), ', ' ORDER BY c) FROM generate_series(0, columns - 1) c));
  EXECUTE format('GRANT SELECT, INSERT, DELETE ON mainstay.%I TO mainstay_worker', name);
  RETURN name;
END $$;
CREATE FUNCTION mainstay.drop_import_staging(import uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
BEGIN
  EXECUTE format('DROP TABLE IF EXISTS mainstay.%I', mainstay.import_staging_name(import));
END $$;
-- Those whose import has ended or is gone.
CREATE FUNCTION mainstay.drop_leaked_import_staging() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay SET lock_timeout = '1s' AS $$
DECLARE
  leaked text;
  dropped integer := 0;
BEGIN
  FOR leaked IN
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'mainstay'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^import_staging_[0-9a-f]{32}$'
      AND NOT EXISTS (SELECT 1 FROM mainstay.imports i WHERE i.id = substr(c.relname, 16)::uuid AND i.state IN ('queued', 'running'))
  LOOP
    EXECUTE format('DROP TABLE IF EXISTS mainstay.%I', leaked);
    dropped := dropped + 1;
  END LOOP;
  RETURN dropped;
END $$;

-- An import or export whose job ended without it (cancelled, dead) has ended too. Set-based, by upkeep and before a replay is answered.
CREATE FUNCTION mainstay.settle_transfers() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, mainstay AS $$
DECLARE
  settled integer;
  more integer;
BEGIN
  UPDATE mainstay.imports i
  SET state = CASE h.state WHEN 9 THEN 'failed' ELSE 'cancelled' END, finished_at = h.finished_at,
      error_code = CASE h.state WHEN 9 THEN 'job.dead' ELSE 'job.cancelled' END, error = 'the job ended before the import did'
  FROM mainstay.jobs_history h
  WHERE i.state IN ('queued', 'running') AND h.id = i.job AND h.state IN (7, 8, 9);
  GET DIAGNOSTICS settled = ROW_COUNT;
  UPDATE mainstay.exports e
  SET state = CASE h.state WHEN 9 THEN 'failed' ELSE 'cancelled' END, finished_at = h.finished_at,
      error_code = CASE h.state WHEN 9 THEN 'job.dead' ELSE 'job.cancelled' END, error = 'the job ended before the export did'
  FROM mainstay.jobs_history h
  WHERE e.state IN ('queued', 'running') AND h.id = e.job AND h.state IN (7, 8, 9);
  GET DIAGNOSTICS more = ROW_COUNT;
  RETURN settled + more;
END $$;

-- As the API shows them. `uid` is the sort key that the indexes know.
CREATE VIEW mainstay.imports_view AS
  SELECT i.id AS uid, mainstay.format_id('imp', i.id) AS id, i.tenant, i.resource, i.mapping, i.mode, i."commit", i.on_error, i.dry_run, i.state, i.file_name,
         i.file_size, i.sha256, i.rows_total, i.rows_created, i.rows_updated, i.rows_unchanged, i.rows_deleted, i.rows_skipped, i.rows_error,
         i.errors_by_code AS errors_by_code_json,
         mainstay.format_id('job', i.job) AS job_id, i.error_code, i.error, i.created_by, i.created_at, i.finished_at, i.catalog_hash
  FROM mainstay.imports i;
CREATE VIEW mainstay.import_errors_view AS
  SELECT e.id, e.import, e.tenant, e.row, e.line, e."column", e.field, e.code, e.severity, e.value, e.message, e.suggestion FROM mainstay.import_errors e;
CREATE VIEW mainstay.exports_view AS
  SELECT e.id AS uid, mainstay.format_id('exp', e.id) AS id, e.tenant, e.resource, e.format, e.query, e.state, e.rows, e.size, e.sha256,
         mainstay.format_id('job', e.job) AS job_id, e.error_code, e.error, e.created_by, e.created_at, e.finished_at, e.expires_at, e.catalog_hash
  FROM mainstay.exports e;

REVOKE ALL ON FUNCTION mainstay.create_import_staging(uuid, integer), mainstay.drop_import_staging(uuid), mainstay.drop_leaked_import_staging(),
  mainstay.settle_transfers() FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON mainstay.blobs, mainstay.imports, mainstay.exports TO mainstay_transfer;
GRANT SELECT ON mainstay.import_errors, mainstay.import_row_status, mainstay.imports_view, mainstay.import_errors_view, mainstay.exports_view TO mainstay_transfer;
GRANT EXECUTE ON FUNCTION mainstay.drop_leaked_import_staging(), mainstay.settle_transfers() TO mainstay_transfer, mainstay_worker;
GRANT SELECT, UPDATE ON mainstay.imports, mainstay.exports TO mainstay_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON mainstay.import_errors, mainstay.import_row_status TO mainstay_worker;
GRANT EXECUTE ON FUNCTION mainstay.import_staging_name(uuid), mainstay.create_import_staging(uuid, integer), mainstay.drop_import_staging(uuid) TO mainstay_worker;
