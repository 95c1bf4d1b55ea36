// SPDX-License-Identifier: Apache-2.0
// get: one order by its id, 64 connections. Everyone runs the same SELECT on the same rows; fastify as one process (two are slower on two cores), pgbench as the database's own ceiling.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { Peer, here, output, rounds, row, version } from './measure.mjs';

const columns = 'id, tenant_id, customer_id, number, status, total, currency, note, version, created_at, updated_at';

export async function records(suite, { quick, log }) {
  const seconds = quick ? 5 : 10;
  const fastify = new Peer('fastify.mjs', { database: suite.database, sql: `SELECT ${columns} FROM shop.orders WHERE id = $1 AND tenant_id = 'acme'` });
  const script = path.join(suite.data, 'get.pgbench');
  writeFileSync(script, `\\set n random(0, 3999)\n\\set m random(1, 4)\nSELECT ${columns} FROM shop.orders WHERE id = 5 * :n + :m AND tenant_id = 'acme';\n`);
  const load = async (url, token, duration) => {
    const out = await output('wrk', ['-t', '1', '-c', '64', '-d', `${duration}s`, '-s', path.join(here, 'wrk.lua'), url], { env: { ...process.env, BENCH_TOKEN: token } });
    const figures = JSON.parse(out.split('\n').find((line) => line.startsWith('{')));
    assert.equal(figures.bad, 0, `${figures.bad} requests failed at ${url}`);
    delete figures.bad;
    return figures;
  };
  const pgbench = async (duration) => {
    const out = await output('/usr/lib/postgresql/15/bin/pgbench', ['-n', '-M', 'prepared', '-c', '16', '-j', '2', '-T', String(duration), '-f', script, suite.database]);
    return { per_s: Number(out.match(/tps = ([\d.]+)/)[1]) };
  };
  try {
    const { port } = await fastify.next();
    const peer = `http://127.0.0.1:${port}`;
    // The same answer from both, or the figures mean nothing.
    const mine = await suite.ok(200, 'GET', '/v1/orders/1');
    const theirs = await (await fetch(`${peer}/v1/orders/1`)).json();
    assert.deepEqual([mine.number, mine.total, mine.status], [theirs.number, theirs.total, theirs.status]);
    for (const [url, token] of [[suite.url, suite.keys.admin], [peer, '']]) await load(url, token, quick ? 1 : 3);
    const figures = await rounds({ mainstay: () => load(suite.url, suite.keys.admin, seconds), fastify: () => load(peer, '', seconds), pgbench: () => pgbench(seconds) }, quick ? 1 : 3, log);
    const name = `${version('fastify')} + ${version('pg')}`;
    return [
      row('get', 'per_s', '1/s', figures.mainstay.per_s, figures.fastify.per_s, name),
      row('get', 'p50_ms', 'ms', figures.mainstay.p50_ms, figures.fastify.p50_ms, name),
      row('get', 'p99_ms', 'ms', figures.mainstay.p99_ms, figures.fastify.p99_ms, name),
      row('get', 'per_s', '1/s', figures.mainstay.per_s, figures.pgbench.per_s, 'pgbench -M prepared, 16 clients'),
    ];
  } finally {
    await fastify.stop();
  }
}
