-- SPDX-License-Identifier: Apache-2.0
-- What every domain stands on: typed ids in SQL, and leadership rows.

-- "job", uuid -> "job_" + 26 characters: Crockford base32, lower-case, 128 bits behind two zero bits. The twin of FormatId (libs/base/ids.h). Unrolled: lists call it per row.
CREATE FUNCTION mainstay.format_id(prefix text, id uuid) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
  digits CONSTANT text := '0123456789abcdefghjkmnpqrstvwxyz';
  hex CONSTANT text := replace(id::text, '-', '');
  hi CONSTANT bigint := ('x' || left(hex, 16))::bit(64)::bigint;
  lo CONSTANT bigint := ('x' || right(hex, 16))::bit(64)::bigint;
BEGIN
  RETURN prefix || '_' ||
    substr(digits, (((hi >> 61) & 7)::int) + 1, 1) || substr(digits, (((hi >> 56) & 31)::int) + 1, 1) || substr(digits, (((hi >> 51) & 31)::int) + 1, 1) ||
    substr(digits, (((hi >> 46) & 31)::int) + 1, 1) || substr(digits, (((hi >> 41) & 31)::int) + 1, 1) || substr(digits, (((hi >> 36) & 31)::int) + 1, 1) ||
    substr(digits, (((hi >> 31) & 31)::int) + 1, 1) || substr(digits, (((hi >> 26) & 31)::int) + 1, 1) || substr(digits, (((hi >> 21) & 31)::int) + 1, 1) ||
    substr(digits, (((hi >> 16) & 31)::int) + 1, 1) || substr(digits, (((hi >> 11) & 31)::int) + 1, 1) || substr(digits, (((hi >> 6) & 31)::int) + 1, 1) ||
    substr(digits, (((hi >> 1) & 31)::int) + 1, 1) || substr(digits, ((((hi & 1) << 4) | ((lo >> 60) & 15))::int) + 1, 1) || substr(digits, (((lo >> 55) & 31)::int) + 1, 1) ||
    substr(digits, (((lo >> 50) & 31)::int) + 1, 1) || substr(digits, (((lo >> 45) & 31)::int) + 1, 1) || substr(digits, (((lo >> 40) & 31)::int) + 1, 1) ||
    substr(digits, (((lo >> 35) & 31)::int) + 1, 1) || substr(digits, (((lo >> 30) & 31)::int) + 1, 1) || substr(digits, (((lo >> 25) & 31)::int) + 1, 1) ||
    substr(digits, (((lo >> 20) & 31)::int) + 1, 1) || substr(digits, (((lo >> 15) & 31)::int) + 1, 1) || substr(digits, (((lo >> 10) & 31)::int) + 1, 1) ||
    substr(digits, (((lo >> 5) & 31)::int) + 1, 1) || substr(digits, (((lo >> 0) & 31)::int) + 1, 1);
END $$;

-- The way back. Null for whatever is not an id with that prefix, so a filter by a malformed id finds nothing.
CREATE FUNCTION mainstay.parse_id(prefix text, id text) RETURNS uuid LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
  digits CONSTANT text := '0123456789abcdefghjkmnpqrstvwxyz';
  body CONSTANT text := substr(id, length(prefix) + 2);
  bits bit varying := B'';
BEGIN
  IF left(id, length(prefix) + 1) <> prefix || '_' OR body !~ '^[0-7][0-9a-hjkmnp-tv-z]{25}$' THEN
    RETURN NULL;
  END IF;
  FOR i IN 1..26 LOOP
    bits := bits || (strpos(digits, substr(body, i, 1)) - 1)::bit(5);
  END LOOP;
  RETURN (lpad(to_hex(substring(bits FROM 3 FOR 64)::bit(64)::bigint), 16, '0') || lpad(to_hex(substring(bits FROM 67 FOR 64)::bit(64)::bigint), 16, '0'))::uuid;
END $$;

-- Leadership (libs/postgres/lease.h). The fence rises with every change of holder.
CREATE TABLE mainstay.leases (
  name       text PRIMARY KEY,
  holder     text NOT NULL,
  fence      bigint NOT NULL,
  expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

GRANT EXECUTE ON FUNCTION mainstay.format_id(text, uuid), mainstay.parse_id(text, text) TO mainstay_gateway, mainstay_webhooks, mainstay_integrations, mainstay_transfer, mainstay_worker;
GRANT SELECT, INSERT, UPDATE ON mainstay.leases TO mainstay_webhooks, mainstay_integrations, mainstay_transfer, mainstay_worker;
