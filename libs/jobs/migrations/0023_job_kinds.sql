-- SPDX-License-Identifier: Apache-2.0
-- What kinds of jobs there are and what their arguments must look like, as workers announced it when they started: libs/jobs/kinds.h.

CREATE TABLE mainstay.job_kinds (
  kind         text NOT NULL,
  version      smallint NOT NULL,              -- of the arguments
  schema       json,                           -- JSON Schema of them; null: anything
  announced_by text NOT NULL,                  -- host:pid of a worker, or who put it
  announced_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (kind, version)
);

GRANT SELECT, INSERT, UPDATE ON mainstay.job_kinds TO mainstay_worker;
GRANT SELECT ON mainstay.job_kinds TO mainstay_webhooks, mainstay_transfer, mainstay_integrations, mainstay_gateway;
