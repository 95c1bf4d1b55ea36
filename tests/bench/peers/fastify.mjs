// SPDX-License-Identifier: Apache-2.0
// The peer of records: what one would write by hand with fastify and pg, with a prepared statement and a schema for the answer.
import Fastify from 'fastify';
import pg from 'pg';

const settings = JSON.parse(process.argv[2]);
const url = new URL(settings.database);
const pool = new pg.Pool({ host: url.searchParams.get('host'), port: Number(url.searchParams.get('port')), user: url.searchParams.get('user'), database: url.pathname.slice(1), max: 16 });
const text = { type: ['string', 'null'] };
const fastify = Fastify();
fastify.get('/v1/orders/:id', {
  schema: { response: { 200: { type: 'object', properties: { id: text, tenant_id: text, customer_id: text, number: text, status: text, total: text, currency: text, note: text, version: text, created_at: text, updated_at: text } } } },
}, async (request, reply) => {
  const { rows } = await pool.query({ name: 'get', text: settings.sql, values: [request.params.id] });
  if (rows.length === 0) return reply.code(404).send({ title: 'Not found' });
  const [order] = rows;
  order.created_at = order.created_at.toISOString();
  order.updated_at = order.updated_at.toISOString();
  return order;
});
await fastify.listen({ port: 0, host: '127.0.0.1' });
console.log(JSON.stringify({ port: fastify.server.address().port }));
process.on('SIGTERM', () => process.exit(0));
