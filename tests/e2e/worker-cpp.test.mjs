// SPDX-License-Identifier: Apache-2.0
// The worker of deploy/examples/worker-cpp, beside the suite's own: it gets its kinds, its handlers change the shop's tables once, and a long job goes on from its checkpoint when the
// worker is killed.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { Suite, assertProblem, bin, eventually } from './lib/suite.mjs';

let suite;
const workers = [];

async function startWorker() {
  const worker = spawn(path.join(bin, 'example-worker'), ['--config', path.join(suite.data, 'config/own-worker.yaml')], { env: { PATH: process.env.PATH }, stdio: ['ignore', 'pipe', 'pipe'] });
  worker.ended = new Promise((done) => worker.once('exit', (code, signal) => done(signal ?? code)));
  let log = '';
  for (const stream of [worker.stdout, worker.stderr]) stream.on('data', (text) => (log += text));
  workers.push(worker);
  await eventually(() => log.includes('the worker takes jobs'), { what: `the worker's start; it said: ${log}` });
  return worker;
}
const enqueue = (job) => suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: job });

before(async () => {
  suite = await Suite.start();
});
after(async () => {
  for (const worker of workers) worker.kill('SIGKILL');
  await suite?.stop();
});

test('before it ever ran its kinds are unknown; then it announces them, with what their arguments look like', async () => {
  assertProblem(await suite.api('POST', '/mainstay/v1/jobs', { body: { kind: 'shop.ship', args: { order: '1' } } }), 422, 'validation-failed');
  await startWorker();
  const wrong = await eventually(async () => {
    const answer = await suite.api('POST', '/mainstay/v1/jobs', { body: { kind: 'shop.ship', args: { order: 'seven' } } });
    return answer.json.errors?.[0].pointer === '/args/order' && answer;
  });
  assertProblem(wrong, 422, 'validation-failed');
});

test('an order is shipped in the transaction that finishes the job; one that is not paid makes it dead at once', async () => {
  const order = await suite.ok(201, 'POST', '/v1/orders', { body: { customer_id: '1', number: `SHIP-${Date.now()}`, status: 'paid', total: '10.00' } });
  const done = await suite.job((await enqueue({ kind: 'shop.ship', args: { order: order.id } })).id);
  assert.equal(done.state, 'succeeded', JSON.stringify(done.errors));
  assert.deepEqual(done.result, { shipped: order.number });
  assert.equal((await suite.ok(200, 'GET', `/v1/orders/${order.id}`)).status, 'shipped');
  const again = await suite.job((await enqueue({ kind: 'shop.ship', args: { order: order.id } })).id);
  assert.equal(again.state, 'dead');
  assert.equal(again.attempt, 1);
});

test('F2: a long job whose worker is killed goes on in another from its checkpoint, and its sum is right', async () => {
  const sum = await suite.value("SELECT sum(total) FROM shop.orders WHERE tenant_id = 'acme'");
  const job = await enqueue({ kind: 'shop.revenue', args: { pause_ms: 300 } });
  const after = () => suite.value(`SELECT coalesce(max((checkpoint ->> 'after')::bigint), 0) FROM mainstay.jobs WHERE mainstay.format_id('job', id) = '${job.id}'`);
  await eventually(async () => Number(await after()) > 0);
  workers.at(-1).kill('SIGKILL');
  await workers.at(-1).ended;
  const reached = Number(await after());
  await startWorker();
  const done = await suite.job(job.id, { within: 120000 });
  assert.equal(done.state, 'succeeded', JSON.stringify(done.errors));
  assert.equal(done.result.sum, sum);
  assert.ok(Number(done.result.began_after) >= reached, `${done.result.began_after} >= ${reached}`);
});

test('SIGTERM drains it: a long job is handed back at no cost, the worker ends with 0', async () => {
  const job = await enqueue({ kind: 'shop.revenue', args: { pause_ms: 60000 } });
  await eventually(async () => (await suite.ok(200, 'GET', `/mainstay/v1/jobs/${job.id}`)).progress?.message);
  workers.at(-1).kill('SIGTERM');
  assert.equal(await Promise.race([workers.at(-1).ended, new Promise((done) => setTimeout(done, 90000, 'still there'))]), 0);
  const back = await suite.ok(200, 'GET', `/mainstay/v1/jobs/${job.id}`);
  assert.ok(!back.finished_at);
  assert.deepEqual([back.crashes, back.errors ?? []], [0, []]);
  await suite.ok(200, 'POST', `/mainstay/v1/jobs/${job.id}:cancel`, { body: {} });
});
