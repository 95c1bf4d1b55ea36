-- SPDX-License-Identifier: Apache-2.0
-- Secrets: value sealed by a data key of its own, the data key wrapped by a key that stands outside the database (libs/secrets/secrets.h). Only the owner writes;
-- what a service can read is of no use to it without the key file.
CREATE TABLE mainstay.secrets (
  tenant      text NOT NULL,               -- '' is the whole installation
  name        text NOT NULL,
  version     integer NOT NULL,
  kek_id      text NOT NULL,
  wrapped_key bytea NOT NULL,
  sealed      bytea NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at  timestamptz,                 -- set when a newer version replaced it
  PRIMARY KEY (tenant, name, version)
);

-- Keys of the API. Only a hash of the secret part; a revoked key's row stays, so that what it did can still be named.
CREATE TABLE mainstay.api_keys (
  id           uuid PRIMARY KEY,
  tenant       text NOT NULL,              -- '*' sees all
  name         text NOT NULL,
  roles        text[] NOT NULL,
  secret_hash  bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at   timestamptz,
  revoked_at   timestamptz,
  last_used_at timestamptz
) WITH (fillfactor = 70);

-- What may be listed: never the hash.
CREATE VIEW mainstay.api_keys_view AS
SELECT mainstay.format_id('key', k.id) AS id, k.tenant, k.name, k.roles, k.created_at, k.expires_at, k.revoked_at, k.last_used_at FROM mainstay.api_keys k;

GRANT SELECT ON mainstay.secrets TO mainstay_webhooks, mainstay_integrations;
GRANT SELECT (id, tenant, name, roles, secret_hash, created_at, expires_at, revoked_at, last_used_at), UPDATE (last_used_at) ON mainstay.api_keys TO mainstay_gateway;
GRANT SELECT ON mainstay.api_keys_view TO mainstay_gateway;
