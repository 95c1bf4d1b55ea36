-- SPDX-License-Identifier: Apache-2.0
-- Which credentials of a tenant go with which provider. The secret itself stands in mainstay.secrets under `secret`; here is only its name.
CREATE TABLE mainstay.connections (
  id           uuid PRIMARY KEY,
  tenant       text NOT NULL,                 -- '' serves every tenant without one of its own
  provider     text NOT NULL,
  name         text NOT NULL DEFAULT 'default',
  secret       text NOT NULL,
  state        text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'needs_reconnect', 'down')),
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_used_at timestamptz,                   -- to the minute
  UNIQUE (tenant, provider, name)
);

-- As the API lists them. `uid` is the sort key that the indexes know.
CREATE VIEW mainstay.connections_view AS
  SELECT c.id AS uid, mainstay.format_id('conn', c.id) AS id, c.tenant, c.provider, c.name, c.state, c.created_at, c.last_used_at
  FROM mainstay.connections c;

GRANT SELECT, UPDATE (last_used_at, state) ON mainstay.connections TO mainstay_integrations;
GRANT SELECT ON mainstay.connections_view TO mainstay_integrations;
