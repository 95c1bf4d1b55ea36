// SPDX-License-Identifier: Apache-2.0
// Flows through the edge and the command line: made in one call, followed, cancelled, put right after failures, through the death of the worker.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Suite, assertProblem, eventually } from './lib/suite.mjs';

let suite;
before(async () => {
  suite = await Suite.start();
});
after(() => suite?.stop());

const kind = 'mainstay.noop';
const long = Boolean(process.env.MAINSTAY_TEST_LONG);
const job = (more = {}, args) => ({ job: { kind, ...(args ? { args } : {}) }, ...more });
const create = (jobs, more = {}) => suite.ok(201, 'POST', '/mainstay/v1/flows', { body: { jobs, ...more } });
const get = (id) => suite.ok(200, 'GET', `/mainstay/v1/flows/${id}`);
const finished = (id, within = 60000) =>
  eventually(async () => {
    const flow = await get(id);
    return flow.finished_at ? flow : undefined;
  }, { within, what: `the end of ${id}` });
// Every page of the flow's jobs.
async function members(id, filter = '') {
  const all = [];
  for (let cursor = ''; ; ) {
    const page = await suite.ok(200, 'GET', `/mainstay/v1/flows/${id}/jobs?limit=200${filter}${cursor && `&cursor=${cursor}`}`);
    all.push(...page.data);
    if (!page.page.has_more) return all;
    cursor = page.page.next_cursor;
  }
}

test('a flow fans out and in: each job starts after those it waits for, and counts and list say how far it is', async () => {
  const made = await create(
    [job({ name: 'a' }, { sleep_ms: 300 }), job({ name: 'b' }, { sleep_ms: 100 }), job({ name: 'c', needs: ['a'] }), job({ name: 'end', needs: ['*'], runs_on: 'done' }), job({ name: 'alarm', needs: ['a', 'b', 'c'], runs_on: 'failed' })],
    { label: 'a book' },
  );
  assert.deepEqual(made.jobs.map((each) => each.name), ['a', 'b', 'c', 'end', 'alarm']);
  const flow = await finished(made.id);
  assert.equal(flow.label, 'a book');
  assert.deepEqual([flow.total, flow.waiting, flow.open, flow.succeeded, flow.discarded, flow.running], [5, 0, 0, 4, 1, 0]);
  const list = await members(made.id);
  assert.deepEqual(list.map((each) => [each.id, each.name, each.state]), made.jobs.map((each) => [each.id, each.name, each.name === 'alarm' ? 'discarded' : 'succeeded']));
  assert.deepEqual([list[3].runs_on, list[3].needs_total, list[3].needs_succeeded], ['done', 3, 3]);
  assert.equal(list[0].runs_on, null);
  const [a, , c, end] = await Promise.all(made.jobs.map((each) => suite.job(each.id)));
  assert.ok(c.started_at > a.finished_at);
  assert.ok(end.started_at > c.finished_at);
  assert.deepEqual((await members(made.id, '&filter[state]=discarded')).map((each) => each.name), ['alarm']);
  const flows = await suite.ok(200, 'GET', '/mainstay/v1/flows?filter[label]=a%20book');
  assert.deepEqual(flows.data.map((each) => [each.id, each.succeeded]), [[made.id, 4]]);
});

test('pages of flows are walked by cursor, each flow once, newest first', async () => {
  const ids = [];
  for (let n = 0; n < 5; n += 1) ids.push((await create([job()], { label: 'paged' })).id);
  const seen = [];
  for (let cursor = ''; ; ) {
    const page = await suite.ok(200, 'GET', `/mainstay/v1/flows?filter[label]=paged&limit=2${cursor && `&cursor=${cursor}`}`);
    assert.ok(page.data.length <= 2);
    seen.push(...page.data.map((each) => each.id));
    if (!page.page.has_more) break;
    cursor = page.page.next_cursor;
  }
  assert.deepEqual(seen, ids.reverse());
});

test('what is wrong with a flow is refused by its pointer, and nothing of it is added', async () => {
  const count = () => suite.value('SELECT (SELECT count(*) FROM mainstay.job_flows) + (SELECT count(*) FROM mainstay.jobs_view)');
  const before = await count();
  const key = `u-${Date.now()}`;
  const holder = await suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind, delay: '3600s', unique_key: key } });
  for (const [jobs, pointer, code] of [
    [[job({ name: 'a', needs: ['b'] }), job({ name: 'b', needs: ['a'] })], '/jobs/0/needs/0', 'out_of_order'],
    [[job({ name: 'a', needs: ['a'] })], '/jobs/0/needs/0', 'cycle'],
    [[job({ name: 'a' }), job({ needs: ['a', 'nobody'] })], '/jobs/1/needs/1', 'unknown'],
    [[job({ needs: ['*'] })], '/jobs/0/needs/0', 'unknown'],
    [[job({ name: 'a' }), job({ name: 'b' }), job({ name: 'a' })], '/jobs/2/name', 'duplicate'],
    [[job({ name: '*' })], '/jobs/0/name', 'invalid_value'],
    [[], '/jobs', 'required'],
    [Array.from({ length: 10001 }, () => job()), '/jobs', 'too_many'],
    [Array.from({ length: 500 }, () => job({ needs: [] })).map((each, n) => (n ? { ...each, needs: ['*'] } : each)), '/jobs', 'too_many'],
    [[job(), { job: { kind: 'nobody.knows' } }], '/jobs/1/job/kind', 'unknown'],
    [[job(), job({}, { sleep_ms: 'long' })], '/jobs/1/job/args/sleep_ms', 'invalid_type'],
    [[job(), { job: { kind, priority: 11 } }], '/jobs/1/job/priority', 'out_of_range'],
    [[job(), { job: { kind, unique_key: key, on_conflict: 'ignore' } }], '/jobs/1/job/on_conflict', 'invalid_value'],
    [[job(), { name: 'x' }], '/jobs/1/job', 'required'],
    [[job({ runs_on: 'sometimes' })], '/jobs/0/runs_on'],
    [[job({ need: [] })], '/jobs/0/need', 'unknown_field'],
  ]) {
    const answer = await suite.api('POST', '/mainstay/v1/flows', { body: { jobs } });
    assertProblem(answer, 422, 'validation-failed');
    assert.equal(answer.json.errors[0].pointer, pointer, answer.text);
    if (code) assert.equal(answer.json.errors[0].code, code, answer.text);
  }
  const label = await suite.api('POST', '/mainstay/v1/flows', { body: { label: 'x'.repeat(201), jobs: [job()] } });
  assertProblem(label, 422, 'validation-failed');
  assert.equal(label.json.errors[0].pointer, '/label');
  const taken = await suite.api('POST', '/mainstay/v1/flows', { body: { jobs: [job(), { job: { kind, unique_key: key } }] } });
  assertProblem(taken, 409, 'unique-violation');
  await suite.ok(200, 'POST', `/mainstay/v1/jobs/${holder.id}:cancel`, { body: {} });
  assert.equal(await count(), String(Number(before) + 1));
});

test("another tenant's flow is not there, nor is one that never was", async () => {
  const made = await create([job()]);
  for (const [id, key] of [[made.id, 'globex'], ['flow_00000000000000000000000000', 'admin'], ['nonsense', 'admin']]) {
    assertProblem(await suite.api('GET', `/mainstay/v1/flows/${id}`, { key }), 404, 'not-found');
    assertProblem(await suite.api('GET', `/mainstay/v1/flows/${id}/jobs`, { key }), 404, 'not-found');
    assertProblem(await suite.api('POST', `/mainstay/v1/flows/${id}:cancel`, { key, body: {} }), 404, 'not-found');
    assertProblem(await suite.api('POST', `/mainstay/v1/flows/${id}:retry`, { key, body: {} }), 404, 'not-found');
  }
  const theirs = await suite.ok(200, 'GET', '/mainstay/v1/flows', { key: 'globex' });
  assert.deepEqual(theirs.data, []);
});

test('a cancelled flow ends at once, also what runs, and starts none of those that waited', async () => {
  const made = await create([job({ name: 'a' }, { sleep_ms: 60000 }), job({ needs: ['a'] }), job({ needs: ['*'], runs_on: 'failed' })]);
  await eventually(async () => (await get(made.id)).running + (await get(made.id)).published === 1);
  const flow = await suite.ok(200, 'POST', `/mainstay/v1/flows/${made.id}:cancel`, { body: { reason: 'changed my mind' } });
  assert.deepEqual([flow.cancelled, flow.waiting, flow.open], [3, 0, 0]);
  const first = await suite.job(made.jobs[0].id);
  assert.equal(first.state, 'cancelled');
  assert.match(first.errors.at(-1).message, /changed my mind/);
});

test('dead jobs of a flow are retried together; who waited for them goes on then, once', async () => {
  const fails = (n) => ({ job: { kind, args: { fail_times: 1 }, max_attempts: 1 }, name: `f${n}` });
  const made = await create([fails(1), fails(2), job({ name: 'ok' }), job({ name: 'end', needs: ['*'] })]);
  await eventually(async () => (await get(made.id)).dead === 2);
  const { flow, retried } = await suite.ok(200, 'POST', `/mainstay/v1/flows/${made.id}:retry`, { body: { reason: 'fixed' } });
  assert.deepEqual([retried, flow.dead, flow.waiting], [2, 0, 1]);
  await eventually(async () => (await get(made.id)).dead === 2); // run 1 of fresh budgets fails as asked again
  for (const each of await members(made.id, '&filter[state]=dead'))
    await suite.ok(200, 'PATCH', `/mainstay/v1/jobs/${each.id}`, { body: { args: {}, reason: 'the data are right now' } });
  assert.equal((await suite.cli(['flows', 'retry', made.id, '--reason', 'data fixed'])).code, 0);
  const done = await finished(made.id);
  assert.deepEqual([done.succeeded, done.dead], [4, 0]);
  const again = await suite.ok(200, 'POST', `/mainstay/v1/flows/${made.id}:retry`, { body: {} });
  assert.equal(again.retried, 0);
});

test(`F54: a flow of ${long ? '10,000' : '1,000'} children that succeed, fail, die and are cancelled while the worker is killed: one callback, after all of them, and right counts`, async () => {
  const size = long ? 9998 : 998;
  const jobs = Array.from({ length: size }, (_, n) => {
    if (n % 50 === 1) return { job: { kind, args: { fail_times: 1 }, max_attempts: 1 } };
    if (n % 50 === 2) return { job: { kind, args: { fail_times: 1 } } };
    if (n % 50 === 3) return { job: { kind, delay: '3600s' } };
    return { job: { kind } };
  });
  jobs.push({ name: 'callback', needs: ['*'], runs_on: 'done', job: { kind, tags: ['callback'] } });
  const made = await create(jobs, { label: 'F54' });
  assert.equal(made.jobs.length, size + 1);
  await suite.kill('worker');
  await suite.restart('worker');
  const kinds = (rest) => jobs.slice(0, size).filter((_, n) => n % 50 === rest).length;
  for (const each of made.jobs.filter((_, n) => n < size && n % 50 === 3)) await suite.ok(200, 'POST', `/mainstay/v1/jobs/${each.id}:cancel`, { body: {} });
  const flow = await finished(made.id, 300000);
  assert.deepEqual([flow.total, flow.succeeded, flow.dead, flow.cancelled], [size + 1, size + 1 - kinds(1) - kinds(3), kinds(1), kinds(3)]);
  const callback = await suite.job(made.jobs.at(-1).id);
  assert.equal(callback.state, 'succeeded');
  const rest = await suite.value(`SELECT count(*) FROM mainstay.flow_jobs_view WHERE name IS DISTINCT FROM 'callback' AND finished_at > '${callback.started_at}' AND flow_uid = (SELECT uid FROM mainstay.flows_view WHERE id = '${made.id}')`);
  assert.equal(rest, '0');
  const { retried } = await suite.ok(200, 'POST', `/mainstay/v1/flows/${made.id}:retry`, { body: { reason: 'F54' } });
  assert.equal(retried, kinds(1));
  const after = await finished(made.id, 300000);
  assert.equal(after.total, size + 1);
  assert.equal(await suite.value("SELECT count(*) FROM mainstay.jobs_history WHERE 'callback' = ANY (tags)"), '1');
});

test('the command line makes a flow from a file of JSON, shows it and its jobs', async () => {
  const { stdout, code, stderr } = await suite.cli(['flows', 'create', '--json'], { input: JSON.stringify({ label: 'cli', jobs: [job({ name: 'a' }), job({ needs: ['a'] })] }) });
  assert.equal(code, 0, stderr);
  const { id } = JSON.parse(stdout);
  await finished(id);
  assert.match((await suite.cli(['flows', 'get', id])).stdout, /succeeded +2/);
  assert.match((await suite.cli(['flows', 'list', '--label', 'cli'])).stdout, new RegExp(id));
  assert.match((await suite.cli(['flows', 'jobs', id, '--name', 'a'])).stdout, /mainstay\.noop +succeeded/);
  assert.equal((await suite.cli(['flows', 'cancel', id])).code, 0); // nothing is left to cancel
  const wrong = await suite.cli(['flows', 'create'], { input: '{"jobs":[{"needs":["x"],"job":{"kind":"mainstay.noop"}}]}' });
  assert.equal(wrong.code, 1);
  assert.match(wrong.stderr, /\/jobs\/0\/needs\/0/);
});
