-- SPDX-License-Identifier: Apache-2.0
-- Answers to requests that carried an Idempotency-Key, written in the same transaction as the change.
CREATE TABLE mainstay.idempotency (
  tenant text NOT NULL,
  scope bytea NOT NULL,        -- SHA-256 of principal, method, path and key
  fingerprint bytea NOT NULL,  -- SHA-256 of path, query, media type and body
  status integer NOT NULL,
  location text,
  etag text,
  body text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (tenant, scope)
);
CREATE INDEX idempotency_expires_at ON mainstay.idempotency (expires_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON mainstay.idempotency TO mainstay_gateway;
