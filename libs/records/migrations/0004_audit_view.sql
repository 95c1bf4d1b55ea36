-- SPDX-License-Identifier: Apache-2.0
-- The audit as /mainstay/v1/audit-events shows it.
CREATE VIEW mainstay.audit_events_view AS
  SELECT e.id AS uid, mainstay.format_id('aud', e.id) AS id, e.tenant, e.at, e.subject, e.roles, e.request_id, e.resource, e.action, e.outcome, coalesce(e.record, '') AS record,
         e.created, e.updated, e.deleted
  FROM mainstay.audit_events e;
GRANT SELECT ON mainstay.audit_events_view TO mainstay_worker;
