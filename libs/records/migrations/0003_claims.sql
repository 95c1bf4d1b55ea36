-- SPDX-License-Identifier: Apache-2.0
-- What policies of row security may ask of the caller, where the catalog says `row_security: true`. Empty and '{}' outside of the services' transactions.
CREATE FUNCTION mainstay.current_tenant() RETURNS text LANGUAGE sql STABLE AS $$ SELECT coalesce(current_setting('mainstay.tenant', true), '') $$;
CREATE FUNCTION mainstay.current_subject() RETURNS text LANGUAGE sql STABLE AS $$ SELECT coalesce(current_setting('mainstay.subject', true), '') $$;
CREATE FUNCTION mainstay.current_roles() RETURNS text[] LANGUAGE sql STABLE AS $$ SELECT coalesce(nullif(current_setting('mainstay.roles', true), ''), '{}')::text[] $$;
