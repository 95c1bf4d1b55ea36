-- SPDX-License-Identifier: Apache-2.0
-- The view has the fields of the API: counts as one object, and what the detection of the file warned of.
DROP VIEW mainstay.imports_view;
CREATE VIEW mainstay.imports_view AS
  SELECT i.id AS uid, mainstay.format_id('imp', i.id) AS id, i.tenant, i.resource, i.mapping, i.mode, i."commit", i.on_error, i.dry_run, i.state, i.file_name,
         i.file_size, i.sha256,
         jsonb_build_object('total', i.rows_total, 'created', i.rows_created, 'updated', i.rows_updated, 'unchanged', i.rows_unchanged, 'deleted', i.rows_deleted,
                            'skipped', i.rows_skipped, 'error', i.rows_error) AS rows,
         i.errors_by_code, ARRAY(SELECT jsonb_array_elements_text(coalesce(i.detection -> 'warnings', '[]'))) AS warnings,
         mainstay.format_id('job', i.job) AS job_id, i.error_code, i.error, i.created_by, i.created_at, i.finished_at, i.catalog_hash
  FROM mainstay.imports i;
GRANT SELECT ON mainstay.imports_view TO mainstay_transfer;
