-- SPDX-License-Identifier: Apache-2.0
-- Events that other companies sent us, as they came: exact body, headers, verdict. The job that processes an event is inserted in the same transaction.

CREATE TABLE mainstay.webhook_events (
  id             uuid PRIMARY KEY,
  tenant         text NOT NULL,                 -- '' when an invalid event did not say: only operators see it
  source         text NOT NULL,
  external_id    text NOT NULL DEFAULT '',      -- the sender's own id
  type           text NOT NULL DEFAULT '',
  entity         text NOT NULL DEFAULT '',      -- what the event is about; its jobs run one after another
  state          text NOT NULL CHECK (state IN ('received', 'processed', 'stale', 'unrouted', 'invalid', 'failed')),
  event_time     timestamptz,                   -- as the sender says
  received_at    timestamptz NOT NULL,
  processed_at   timestamptz,
  job_id         uuid,                          -- the last job made for it
  detail         text NOT NULL DEFAULT '',      -- why it is invalid, failed or not done yet
  catalog_hash   text NOT NULL DEFAULT '',
  dedup_key      text NOT NULL,
  target         text NOT NULL,
  headers        json NOT NULL,                 -- [[name, value], …] without credentials
  content_type   text NOT NULL DEFAULT '',
  body           bytea NOT NULL,
  remote_address text NOT NULL DEFAULT '',
  request_id     text NOT NULL DEFAULT '',
  traceparent    text NOT NULL DEFAULT ''
);
CREATE INDEX webhook_events_list ON mainstay.webhook_events (tenant, received_at DESC, id DESC);
-- The few that need somebody's eye.
CREATE INDEX webhook_events_trouble ON mainstay.webhook_events (source, id) WHERE state IN ('invalid', 'failed', 'unrouted');

-- What was seen, for as long as the source's window lasts. Small on purpose: looked up for every delivery.
CREATE TABLE mainstay.webhook_dedup (
  tenant     text NOT NULL,
  source     text NOT NULL,
  key        text NOT NULL,                     -- "id:" and the sender's id, else "sha256:" and the body's digest
  event      uuid NOT NULL,
  duplicates bigint NOT NULL DEFAULT 0,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (tenant, source, key)
) WITH (fillfactor = 80);
CREATE INDEX webhook_dedup_expiry ON mainstay.webhook_dedup (expires_at);

-- As the API lists them. `uid` is the sort key that the indexes know.
CREATE VIEW mainstay.webhook_events_view AS
  SELECT e.id AS uid, mainstay.format_id('evt', e.id) AS id, e.tenant, e.source, e.external_id, e.type, e.entity, e.state, e.event_time, e.received_at,
         e.processed_at, coalesce(d.duplicates, 0) AS duplicates, CASE WHEN e.job_id IS NULL THEN '' ELSE mainstay.format_id('job', e.job_id) END AS job_id,
         e.detail, e.catalog_hash
  FROM mainstay.webhook_events e
  LEFT JOIN mainstay.webhook_dedup d ON d.tenant = e.tenant AND d.source = e.source AND d.key = e.dedup_key AND d.event = e.id;

GRANT SELECT, INSERT, UPDATE ON mainstay.webhook_events TO mainstay_webhooks;
GRANT SELECT, INSERT, UPDATE, DELETE ON mainstay.webhook_dedup TO mainstay_webhooks;
GRANT SELECT ON mainstay.webhook_events_view TO mainstay_webhooks;
-- The worker runs webhooks.process.
GRANT SELECT, UPDATE ON mainstay.webhook_events TO mainstay_worker;
