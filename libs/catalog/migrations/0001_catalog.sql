-- SPDX-License-Identifier: Apache-2.0
-- Published catalogs. A row of catalogs is immutable and named by its hash; catalog_active (one row at most) says which one serves.

CREATE TABLE mainstay.catalogs (
  hash text PRIMARY KEY CHECK (hash ~ '^[0-9a-f]{64}$'),
  files jsonb NOT NULL,            -- [{"name": …, "text": …}] as they were given
  variables jsonb NOT NULL,        -- {"name": "value"} that the files use; never secrets: those are references into mainstay.secrets
  tables jsonb NOT NULL,           -- {"\"shop\".\"orders\"": "SELECT, INSERT"}: the rights it gives the services on the user's tables
  published_at timestamptz NOT NULL DEFAULT now(),
  published_by text NOT NULL
);

CREATE TABLE mainstay.catalog_active (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  hash text NOT NULL REFERENCES mainstay.catalogs,
  activated_at timestamptz NOT NULL DEFAULT now(),
  activated_by text NOT NULL
);

-- Every activation, newest last.
CREATE TABLE mainstay.catalog_history (
  position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  hash text NOT NULL REFERENCES mainstay.catalogs,
  previous text REFERENCES mainstay.catalogs,
  activated_at timestamptz NOT NULL DEFAULT now(),
  activated_by text NOT NULL
);

-- What each process runs. A row is renewed every 30 s; rows an hour old are cleared by whoever reports next.
CREATE TABLE mainstay.catalog_seen (
  service text NOT NULL,
  instance text NOT NULL,
  hash text NOT NULL,              -- '' before the first load
  seen_at timestamptz NOT NULL DEFAULT now(),
  problem text NOT NULL DEFAULT '', -- why the active catalog could not be loaded, or which resources are broken
  PRIMARY KEY (service, instance)
);

GRANT SELECT ON mainstay.catalogs, mainstay.catalog_active, mainstay.catalog_history, mainstay.catalog_seen
  TO mainstay_gateway, mainstay_webhooks, mainstay_integrations, mainstay_transfer, mainstay_worker;
GRANT INSERT, UPDATE, DELETE ON mainstay.catalog_seen
  TO mainstay_gateway, mainstay_webhooks, mainstay_integrations, mainstay_transfer, mainstay_worker;
