// SPDX-License-Identifier: Apache-2.0
// The peer of records: what one would write by hand with fastify and pg, with prepared statements and a schema for each answer.
import Fastify from 'fastify';
import pg from 'pg';

const settings = JSON.parse(process.argv[2]);
const url = new URL(settings.database);
const pool = new pg.Pool({ host: url.searchParams.get('host'), port: Number(url.searchParams.get('port')), user: url.searchParams.get('user'), database: url.pathname.slice(1), max: 16 });
const query = async (name, text, values) => (await pool.query({ name, text, values })).rows;
const object = (properties) => ({ type: 'object', properties });
const list = (items) => ({ type: 'array', items });
const text = { type: ['string', 'null'] };
const columns = ['id', 'tenant_id', 'customer_id', 'number', 'status', 'total', 'currency', 'note', 'version', 'created_at', 'updated_at'];
const whole = object(Object.fromEntries(columns.map((name) => [name, text])));
const page = object({ limit: { type: 'integer' }, has_more: { type: 'boolean' }, next_cursor: text });
const shown = (order) => {
  order.created_at = order.created_at.toISOString();
  if (order.updated_at) order.updated_at = order.updated_at.toISOString();
  return order;
};
const cut = (rows) => {
  const more = rows.length > 50;
  if (more) rows.pop();
  const last = rows[rows.length - 1];
  return { limit: 50, has_more: more, next_cursor: more ? Buffer.from(JSON.stringify([last.created_at, last.id])).toString('base64url') : null };
};
const ordersSql = `SELECT ${columns.join(', ')} FROM shop.orders WHERE tenant_id = 'acme' AND created_at < $1 ORDER BY created_at DESC, id DESC LIMIT 51`;

const fastify = Fastify();
fastify.get('/v1/orders/:id', { schema: { response: { 200: whole } } }, async (request, reply) => {
  const rows = await query('get', `SELECT ${columns.join(', ')} FROM shop.orders WHERE id = $1 AND tenant_id = 'acme'`, [request.params.id]);
  if (rows.length === 0) return reply.code(404).send({ title: 'Not found' });
  return shown(rows[0]);
});
fastify.get('/v1/orders', { schema: { response: { 200: object({ data: list(whole), page }) } } }, async (request) => {
  const rows = await query('list', ordersSql, [request.query.before]);
  const at = cut(rows);
  return { data: rows.map(shown), page: at };
});
const product = object({ id: text, sku: text, name: text, price: text });
const expanded = object({ id: text, number: text, status: text, total: text, created_at: text, customer: object({ id: text, name: text, email: text }), items: list(object({ id: text, quantity: { type: 'integer' }, unit_price: text, product })) });
fastify.get('/v1/orders-page', { schema: { response: { 200: object({ data: list(expanded), page }) } } }, async (request) => {
  const orders = await query('page', "SELECT id, customer_id, number, status, total, created_at FROM shop.orders WHERE tenant_id = 'acme' AND created_at < $1 ORDER BY created_at DESC, id DESC LIMIT 51", [request.query.before]);
  const at = cut(orders);
  const [customers, items] = await Promise.all([
    query('customers', "SELECT id, name, email FROM shop.customers WHERE tenant_id = 'acme' AND id = ANY($1::bigint[])", [[...new Set(orders.map((order) => order.customer_id))]]),
    query('items', "SELECT i.order_id, i.id, i.quantity, i.unit_price, p.id AS product_id, p.sku, p.name, p.price FROM shop.order_items i JOIN shop.products p ON p.id = i.product_id WHERE i.tenant_id = 'acme' AND i.order_id = ANY($1::bigint[]) ORDER BY i.order_id, i.id", [orders.map((order) => order.id)]),
  ]);
  const customerOf = new Map(customers.map((customer) => [customer.id, customer]));
  const itemsOf = new Map(orders.map((order) => [order.id, []]));
  for (const item of items)
    itemsOf.get(item.order_id).push({ id: item.id, quantity: item.quantity, unit_price: item.unit_price, product: { id: item.product_id, sku: item.sku, name: item.name, price: item.price } });
  return { data: orders.map((order) => ({ ...shown(order), customer: customerOf.get(order.customer_id), items: itemsOf.get(order.id) })), page: at };
});
await fastify.listen({ port: 0, host: '127.0.0.1' });
console.log(JSON.stringify({ port: fastify.server.address().port }));
process.on('SIGTERM', () => process.exit(0));
