-- SPDX-License-Identifier: Apache-2.0
-- What workers announce and streams are named after: libs/jobs/keys.h, Route.

CREATE OR REPLACE FUNCTION mainstay.job_route(kind text, version smallint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN version = 0 THEN kind ELSE kind || '@' || version END
$$;
