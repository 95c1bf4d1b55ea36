// SPDX-License-Identifier: Apache-2.0
// Reading records over HTTP, 64 connections, everyone on the same rows of the same database. fastify runs as one process (two are slower on two cores).
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { residentMegabytes } from './cpu.mjs';
import { Peer, here, output, rounds, row, version } from './measure.mjs';

export const names = ['get', 'list', 'page', 'deep-page', 'stream'];
const pgbin = '/usr/lib/postgresql/15/bin';
const columns = 'id, tenant_id, customer_id, number, status, total, currency, note, version, created_at, updated_at';
const pageFields = 'id,number,status,total,created_at,customer.id,customer.name,customer.email,items.id,items.quantity,items.unit_price,items.product.id,items.product.sku,items.product.name,items.product.price';
const graphql = `query Page($before: Datetime!) { allOrders(first: 50, orderBy: CREATED_AT_DESC, filter: {tenantId: {equalTo: "acme"}, createdAt: {lessThan: $before}}) { nodes {
  id number status total createdAt customerByCustomerId { id name email } orderItemsByOrderId { nodes { id quantity unitPrice productByProductId { id sku name price } } } } pageInfo { hasNextPage endCursor } } }`;

// The load of one contender. In target and body {id} becomes an order of acme, {time} a moment while there were orders. Fails when an answer is not 200.
async function load(url, target, { token = '', body = '', seconds }) {
  const out = await output('wrk', ['-t', '1', '-c', '64', '-d', `${seconds}s`, '--timeout', '30s', '-s', path.join(here, 'wrk.lua'), url], {
    env: { ...process.env, BENCH_TOKEN: token, BENCH_TARGET: target, BENCH_BODY: body },
  });
  const { bad, ...figures } = JSON.parse(out.split('\n').find((line) => line.startsWith('{')));
  assert.equal(bad, 0, `${bad} requests failed at ${url}${target}`);
  return figures;
}

export async function records(suite, { quick, only = names, log }) {
  const seconds = quick ? 5 : 10;
  const times = quick ? 1 : 3;
  const mine = (target) => () => load(suite.url, target, { token: suite.keys.admin, seconds });
  const results = [];
  const skipped = [];
  // All figures of ours against one peer's.
  const compare = (benchmark, figures, peer, name) => {
    for (const [metric, unit] of [['per_s', '1/s'], ['p50_ms', 'ms'], ['p99_ms', 'ms'], ['max_ms', 'ms']])
      if (figures.mainstay[metric] && figures[peer][metric]) results.push(row(benchmark, metric, unit, figures.mainstay[metric], figures[peer][metric], name));
  };
  const wanted = (name) => only.includes(name);
  const fastify = new Peer('fastify.mjs', { database: suite.database });
  try {
    const { port } = await fastify.next();
    const peer = `http://127.0.0.1:${port}`;
    const peerName = `${version('fastify')} + ${version('pg')}`;
    const theirs = (target) => () => load(peer, target, { seconds });
    const both = async (target, peerTarget) => [await suite.ok(200, 'GET', target), await (await fetch(`${peer}${peerTarget}`)).json()];
    const warm = async (target, peerTarget) => {
      for (const [url, what, token] of [[suite.url, target, suite.keys.admin], [peer, peerTarget, '']]) await load(url, what, { token, seconds: quick ? 1 : 3 });
    };

    if (wanted('get')) {
      const script = path.join(suite.data, 'get.pgbench');
      writeFileSync(script, `\\set n random(0, 3999)\n\\set m random(1, 4)\nSELECT ${columns} FROM shop.orders WHERE id = 5 * :n + :m AND tenant_id = 'acme';\n`);
      const pgbench = async () => {
        const out = await output(`${pgbin}/pgbench`, ['-n', '-M', 'prepared', '-c', '16', '-j', '2', '-T', String(seconds), '-f', script, suite.database]);
        return { per_s: Number(out.match(/tps = ([\d.]+)/)[1]) };
      };
      // The same answer from both, or the figures mean nothing.
      const [a, b] = await both('/v1/orders/1', '/v1/orders/1');
      assert.deepEqual([a.number, a.total, a.status], [b.number, b.total, b.status]);
      await warm('/v1/orders/{id}', '/v1/orders/{id}');
      const figures = await rounds({ mainstay: mine('/v1/orders/{id}'), fastify: theirs('/v1/orders/{id}'), pgbench }, times, log);
      compare('get', figures, 'fastify', peerName);
      compare('get', figures, 'pgbench', 'pgbench -M prepared, 16 clients');
    }

    if (wanted('list')) {
      const target = '/v1/orders?sort=-created_at&limit=50&filter[created_at][lt]={time}';
      const at = '2025-06-01T00:00:00Z';
      const [a, b] = await both(target.replace('{time}', at), `/v1/orders?before=${at}`);
      assert.deepEqual(a.data.map((order) => [order.id, order.total]), b.data.map((order) => [order.id, order.total]));
      assert.equal(a.data.length, 50);
      await warm(target, '/v1/orders?before={time}');
      const figures = await rounds({ mainstay: mine(target), fastify: theirs('/v1/orders?before={time}') }, times, log);
      compare('list', figures, 'fastify', peerName);
    }

    if (wanted('page')) {
      const target = `/v1/orders?sort=-created_at&limit=50&filter[created_at][lt]={time}&fields=${pageFields}`;
      const at = '2025-06-01T00:00:00Z';
      const [a, b] = await both(target.replace('{time}', at), `/v1/orders-page?before=${at}`);
      assert.deepEqual(a.data.map((order) => [order.id, order.customer.name, order.items.data.map((item) => item.product.sku)]), b.data.map((order) => [order.id, order.customer.name, order.items.map((item) => item.product.sku)]));
      await warm(target, '/v1/orders-page?before={time}');
      const contenders = { mainstay: mine(target), fastify: theirs('/v1/orders-page?before={time}') };
      let graph;
      try {
        graph = new Peer('postgraphile.mjs', { database: suite.database });
        const { port: graphPort } = await graph.next();
        const body = JSON.stringify({ query: graphql, variables: { before: '{time}' } });
        const url = `http://127.0.0.1:${graphPort}`;
        const answer = await (await fetch(`${url}/graphql`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: body.replace('{time}', at) })).json();
        assert.deepEqual(answer.data?.allOrders.nodes.map((order) => [String(order.id), order.customerByCustomerId.name]), a.data.map((order) => [order.id, order.customer.name]), JSON.stringify(answer.errors));
        await load(url, '/graphql', { body, seconds: 1 });
        contenders.postgraphile = () => load(url, '/graphql', { body, seconds });
      } catch (error) {
        skipped.push(`page against PostGraphile: ${error.message.slice(0, 300)}`);
      }
      try {
        const figures = await rounds(contenders, times, log);
        compare('page', figures, 'fastify', `${peerName}, three prepared statements`);
        if (contenders.postgraphile) compare('page', figures, 'postgraphile', version('postgraphile'));
      } finally {
        await graph?.stop();
      }
    }

    if (wanted('deep-page') || wanted('stream')) {
      // Half a million more orders of one tenant: it is now over a hundred times the size of the other.
      await suite.sql(`INSERT INTO shop.orders (tenant_id, customer_id, number, status, total, note, created_at, updated_at)
        SELECT 'acme', 1, 'B-' || n, 'open', n / 100.0, repeat('n', 80), t, t FROM (SELECT n, TIMESTAMPTZ '2024-01-01 00:00:00Z' + n * INTERVAL '1 second' AS t FROM generate_series(1, 520000) n) g; ANALYZE shop.orders`);
    }
    if (wanted('deep-page')) {
      const target = '/v1/orders?sort=-created_at&limit=50&fields=id,number,total';
      const pages = 10000;
      let cursor = '';
      let first = '';
      for (let page = 1; page < pages; page += 1) {
        const { page: at } = await suite.ok(200, 'GET', `${target}${cursor && `&cursor=${cursor}`}`);
        cursor = at.next_cursor;
        first ||= cursor;
      }
      const figures = await rounds({ first: mine(`${target}&cursor=${first}`), mainstay: mine(`${target}&cursor=${cursor}`) }, times, log);
      compare('deep-page', figures, 'first', 'mainstay: page 2 of the same list');
      // The small tenant beside the big one, by the same plans.
      const small = () => load(suite.url, target, { token: suite.keys.globex, seconds });
      const beside = await rounds({ mainstay: small, big: mine(target) }, times, log);
      results.push(row('deep-page', 'per_s_small_tenant', '1/s', beside.mainstay.per_s, beside.big.per_s, 'mainstay: the tenant with a hundred times as many rows'));
    }
    if (wanted('stream')) {
      const gateway = [suite.pid('gateway')];
      const mainstay = async () => {
        const before = residentMegabytes(gateway);
        let most = before;
        const sampling = setInterval(() => { most = Math.max(most, residentMegabytes(gateway)); }, 50);
        const begun = process.hrtime.bigint();
        const answer = await fetch(`${suite.url}/v1/orders`, { headers: { Authorization: `Bearer ${suite.keys.admin}`, Accept: 'application/x-ndjson' } });
        assert.equal(answer.status, 200);
        let bytes = 0;
        for await (const piece of answer.body) bytes += piece.length;
        clearInterval(sampling);
        return { per_s_mb: bytes / 1e6 / (Number(process.hrtime.bigint() - begun) / 1e9), mb: bytes / 1e6, growth_mb: most - before };
      };
      const copy = async () => {
        const begun = process.hrtime.bigint();
        const out = await output('sh', ['-c', `psql '${suite.database}' -c "COPY (SELECT row_to_json(o) FROM (SELECT ${columns} FROM shop.orders WHERE tenant_id = 'acme' ORDER BY created_at DESC, id DESC) o) TO STDOUT" | wc -c`]);
        return { per_s_mb: Number(out) / 1e6 / (Number(process.hrtime.bigint() - begun) / 1e9) };
      };
      await mainstay();
      const figures = await rounds({ mainstay, copy }, times, log);
      assert.ok(figures.mainstay.mb > 150, `only ${figures.mainstay.mb} MB were streamed`);
      results.push(row('stream', 'per_s_mb', 'MB/s', figures.mainstay.per_s_mb, figures.copy.per_s_mb, 'psql COPY of row_to_json, the same rows'));
      results.push(row('stream', 'growth_mb', 'MB', figures.mainstay.growth_mb, 32, `the limit, for ${Math.round(figures.mainstay.mb)} MB`));
    }
    return { results, skipped };
  } finally {
    await fastify.stop();
  }
}
