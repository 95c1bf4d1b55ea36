// SPDX-License-Identifier: Apache-2.0
// Who goes when, from outside: pauses with author and reason, why a job waits, kinds that nobody serves; over HTTP and with the command line.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Suite, assertProblem, eventually } from './lib/suite.mjs';

let suite;
before(async () => {
  suite = await Suite.start();
});
after(() => suite?.stop());

const kind = 'mainstay.noop';
const enqueue = (more = {}) => suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind, ...more } });
const explain = async (id) => {
  const { reasons } = await suite.ok(200, 'GET', `/mainstay/v1/jobs/${id}:explain`);
  return Object.fromEntries(reasons.map(({ code, detail }) => [code, detail]));
};
const ended = (id) =>
  eventually(async () => {
    const job = await suite.ok(200, 'GET', `/mainstay/v1/jobs/${id}?wait=10s`);
    return job.finished_at ? job : undefined;
  }, { within: 60000 });

describe('pauses', () => {
  it('S14: a paused kind starts nothing, the API says who paused it and why, and it goes on afterwards', async () => {
    const pause = await suite.ok(201, 'POST', '/mainstay/v1/job-pauses', { body: { scope: 'kind', name: kind, reason: 'a wrong template' } });
    assert.match(pause.id, /^pause_/);
    assert.ok(pause.author);
    const { data } = await suite.ok(200, 'GET', '/mainstay/v1/job-pauses');
    assert.deepEqual(data.map(({ scope, name, reason }) => ({ scope, name, reason })), [{ scope: 'kind', name: kind, reason: 'a wrong template' }]);
    const job = await enqueue();
    const why = await eventually(async () => (await explain(job.id)).paused);
    assert.match(why, /the kind mainstay\.noop was paused by .*: a wrong template/);
    // It survives the worker.
    await suite.restart('worker');
    await eventually(async () => (await suite.readyz('worker')).status === 200, { within: 60000 });
    assert.match((await explain(job.id)).paused, /a wrong template/);
    await suite.ok(204, 'DELETE', `/mainstay/v1/job-pauses/${pause.id}`);
    assert.equal((await ended(job.id)).state, 'succeeded');
    assertProblem(await suite.api('DELETE', `/mainstay/v1/job-pauses/${pause.id}`), 404, 'not-found');
  });

  it('a pause that says too little is refused by its fields', async () => {
    for (const body of [{ scope: 'planet', name: 'x', reason: 'r' }, { scope: 'kind', name: kind, reason: 'r', ends_at: '2001-01-01T00:00:00Z' }])
      assert.equal((await suite.api('POST', '/mainstay/v1/job-pauses', { body })).status, 422);
    assertProblem(await suite.api('POST', '/mainstay/v1/job-pauses', { body: { scope: 'queue', name: 'nobody-has-it', reason: 'r' } }), 404, 'not-found');
    assert.deepEqual((await suite.ok(200, 'GET', '/mainstay/v1/job-pauses')).data, []);
  });

  it('the command line pauses, explains and resumes', async () => {
    assert.equal((await suite.cli(['queues', 'pause', 'default', '--reason', 'maintenance'])).code, 0);
    const job = await enqueue();
    await eventually(async () => (await suite.cli(['jobs', 'explain', job.id])).stdout.includes('the queue default was paused by'));
    assert.match((await suite.cli(['pauses', 'list'])).stdout, /maintenance/);
    assert.equal((await suite.cli(['queues', 'resume', 'default'])).code, 0);
    assert.equal((await ended(job.id)).state, 'succeeded');
    assert.match((await suite.cli(['jobs', 'explain', job.id])).stdout, /finished/);
  });
});

describe('why a job waits', () => {
  it('for its time, for its key, for a limit', async () => {
    const late = await enqueue({ delay: '3600s' });
    assert.match((await explain(late.id)).scheduled, /due in/);
    const ordering_key = `k${Date.now()}`;
    const args = { sleep_ms: 4000 };
    const first = await enqueue({ ordering_key, args }), second = await enqueue({ ordering_key });
    // The first gets its turn after its commit.
    await eventually(async () => (await explain(second.id)).ordering_key?.startsWith(`1 jobs of the ordering key ${ordering_key} come before it; ${first.id} has its turn`));
    const concurrency = { concurrency_key: ordering_key, concurrency_limit: 1 };
    const one = await enqueue({ ...concurrency, args });
    await eventually(async () => !(await explain(one.id)).concurrency_key);
    const two = await enqueue(concurrency);
    assert.match((await explain(two.id)).concurrency_key, /^1 of 1 jobs/);
    for (const { id } of [first, second, one, two]) assert.equal((await ended(id)).state, 'succeeded');
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${late.id}:cancel`, { body: {} });
  });

  it('F48: for a worker that knows its version; the queue and the doctor report it', async () => {
    const job = await enqueue({ version: 7 });
    assert.match((await eventually(async () => (await explain(job.id)).no_handler)), /no live worker of the queue default has announced mainstay\.noop@7/);
    const { data } = await suite.ok(200, 'GET', '/mainstay/v1/queues');
    const queue = data.find(({ name }) => name === 'default');
    assert.equal(queue.workers, 1);
    assert.deepEqual(queue.unserved_kinds.map(({ kind: name, waiting }) => [name, Number(waiting)]), [['mainstay.noop@7', 1]]);
    assert.match((await suite.cli(['doctor'])).stdout, /BAD +queue default +1 jobs of mainstay\.noop@7 wait/);
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${job.id}:cancel`, { body: {} });
  });

  it('another tenant\'s and unknown jobs are not there', async () => {
    assertProblem(await suite.api('GET', '/mainstay/v1/jobs/job_00000000000000000000000000:explain'), 404, 'not-found');
  });
});
