-- SPDX-License-Identifier: Apache-2.0
-- The demo's data: about 100,000 rows for two tenants, the same on every machine. No random numbers, no clock: every value follows from its row's number.
-- Run by deploy/run after schema.sql, in one transaction. What the services may do with the tables is granted by publishing the catalog.

-- A whole number below `below` that looks random and follows from n and a name.
CREATE FUNCTION pg_temp.pick(n bigint, salt text, below int) RETURNS int LANGUAGE sql IMMUTABLE AS
  $$ SELECT (('x' || substr(md5(salt || n), 1, 7))::bit(28)::int % below) $$;

INSERT INTO shop.tenants (id, name) VALUES ('acme', 'Acme Outfitters'), ('globex', 'Globex Trading');

-- Every fifth row belongs to globex.
CREATE FUNCTION pg_temp.tenant(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
  $$ SELECT CASE WHEN n % 5 = 0 THEN 'globex' ELSE 'acme' END $$;

INSERT INTO shop.customers (id, tenant_id, email, name, country, phone, credit_limit, marketing_consent, born_on, password_hash, created_at, updated_at)
SELECT n, pg_temp.tenant(n),
       'customer' || n || '@example.com',
       (ARRAY['Ada', 'Bruno', 'Chiara', 'Dmitri', 'Eiko', 'Farid', 'Grace', 'Hugo', 'Ines', 'Jonas', 'Kofi', 'Lena'])[1 + pg_temp.pick(n, 'given', 12)] || ' ' ||
       (ARRAY['Almeida', 'Becker', 'Costa', 'Dubois', 'Eriksen', 'Fischer', 'García', 'Haddad', 'Ito', 'Jansen', 'Kowalski', 'Lindqvist'])[1 + pg_temp.pick(n, 'family', 12)],
       (ARRAY['DE', 'FR', 'ES', 'IT', 'NL', 'PL', 'SE', 'PT', 'GB', 'US'])[1 + pg_temp.pick(n, 'country', 10)],
       CASE WHEN n % 3 = 0 THEN NULL ELSE '+49 30 ' || lpad(pg_temp.pick(n, 'phone', 10000000)::text, 7, '0') END,
       pg_temp.pick(n, 'credit', 500000) / 100.0, n % 4 = 0,
       DATE '1950-01-01' + pg_temp.pick(n, 'born', 20000),
       'argon2id$' || md5('password' || n),
       TIMESTAMPTZ '2025-01-01 00:00:00Z' + n * INTERVAL '17 minutes', TIMESTAMPTZ '2025-01-01 00:00:00Z' + n * INTERVAL '17 minutes'
FROM generate_series(1, 10000) n;

INSERT INTO shop.products (id, tenant_id, sku, name, price, tags, attributes, created_at)
SELECT n, pg_temp.tenant(n), 'SKU-' || lpad(n::text, 5, '0'),
       (ARRAY['Trail', 'City', 'Summit', 'Harbour', 'Night', 'Forest'])[1 + pg_temp.pick(n, 'line', 6)] || ' ' ||
       (ARRAY['jacket', 'boot', 'tent', 'lamp', 'rope', 'bottle', 'pack', 'stove'])[1 + pg_temp.pick(n, 'thing', 8)] || ' ' || n,
       (100 + pg_temp.pick(n, 'price', 29900)) / 100.0,
       CASE n % 3 WHEN 0 THEN ARRAY['new'] WHEN 1 THEN ARRAY['sale', 'outdoor'] ELSE '{}'::text[] END,
       jsonb_build_object('colour', (ARRAY['red', 'green', 'blue', 'black'])[1 + pg_temp.pick(n, 'colour', 4)], 'grams', 100 + pg_temp.pick(n, 'weight', 4000)),
       TIMESTAMPTZ '2024-12-01 00:00:00Z' + n * INTERVAL '1 hour'
FROM generate_series(1, 1000) n;

-- Customers and products are of the order's own tenant: multiples of five with multiples of five.
INSERT INTO shop.orders (id, tenant_id, customer_id, number, status, total, note, created_at, updated_at)
SELECT n, pg_temp.tenant(n),
       CASE WHEN n % 5 = 0 THEN 5 * (1 + pg_temp.pick(n, 'customer', 2000)) ELSE 5 * pg_temp.pick(n, 'customer', 2000) + 1 + pg_temp.pick(n, 'which', 4) END,
       'A-' || lpad(n::text, 6, '0'),
       (ARRAY['draft', 'open', 'open', 'paid', 'paid', 'shipped', 'shipped', 'shipped', 'cancelled', 'refunded'])[1 + pg_temp.pick(n, 'status', 10)]::shop.order_status,
       0, CASE WHEN n % 10 = 0 THEN 'Please ring twice.' END,
       TIMESTAMPTZ '2025-02-01 00:00:00Z' + n * INTERVAL '19 minutes', TIMESTAMPTZ '2025-02-01 00:00:00Z' + n * INTERVAL '19 minutes'
FROM generate_series(1, 20000) n;

INSERT INTO shop.order_items (id, tenant_id, order_id, product_id, quantity, unit_price)
SELECT i.id, pg_temp.tenant(i.order_id), i.order_id, p.id, 1 + pg_temp.pick(i.id, 'quantity', 5), p.price
FROM (SELECT n AS id, (n + 2) / 3 AS order_id FROM generate_series(1, 60000) n) i
JOIN shop.products p ON p.id = CASE WHEN i.order_id % 5 = 0 THEN 5 * (1 + pg_temp.pick(i.id, 'product', 200))
                                    ELSE 5 * pg_temp.pick(i.id, 'product', 200) + 1 + pg_temp.pick(i.id, 'variant', 4) END;

UPDATE shop.orders o SET total = i.total
FROM (SELECT order_id, sum(quantity * unit_price) AS total FROM shop.order_items GROUP BY order_id) i WHERE i.order_id = o.id;

INSERT INTO shop.payments (id, tenant_id, order_id, status, amount, currency, provider_updated_at, created_at, updated_at)
SELECT 'pay_demo' || lpad(id::text, 6, '0'), tenant_id, id, CASE WHEN status = 'refunded' THEN 'refunded' ELSE 'succeeded' END::shop.payment_status, total, currency,
       created_at + INTERVAL '5 minutes', created_at + INTERVAL '5 minutes', created_at + INTERVAL '5 minutes'
FROM shop.orders WHERE status IN ('paid', 'shipped', 'refunded');

INSERT INTO shop.subscriptions (id, tenant_id, customer_id, plan, active, period, started_at)
SELECT n, pg_temp.tenant(n), n, (ARRAY['basic', 'plus', 'pro'])[1 + pg_temp.pick(n, 'plan', 3)], n % 7 <> 0,
       daterange(DATE '2025-01-01' + pg_temp.pick(n, 'from', 200), DATE '2026-01-01' + pg_temp.pick(n, 'to', 200)),
       TIMESTAMPTZ '2025-01-01 00:00:00Z' + n * INTERVAL '1 day' / 24
FROM generate_series(1, 2000) n;

SELECT setval(pg_get_serial_sequence('shop.' || t, 'id'), 1000000) FROM unnest(ARRAY['customers', 'products', 'orders', 'order_items', 'subscriptions']) t;
