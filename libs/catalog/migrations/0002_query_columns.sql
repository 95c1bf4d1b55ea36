-- SPDX-License-Identifier: Apache-2.0
-- What the queries of the catalog that serves give, as they did when it was published: for services that may not read what the queries read, and so can't ask PostgreSQL.

ALTER TABLE mainstay.catalog_active ADD COLUMN query_columns jsonb NOT NULL DEFAULT '[]';  -- [{"name": …, "columns": [["day", "1082"], …]}]: names and types' oids
