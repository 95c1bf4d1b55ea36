// SPDX-License-Identifier: Apache-2.0
// Adding jobs from outside, with all they can ask for: over HTTP, in plain SQL, with the command line.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Suite, assertProblem, eventually } from './lib/suite.mjs';

let suite;
before(async () => {
  suite = await Suite.start();
});
after(() => suite?.stop());

const kind = 'mainstay.noop';
const key = () => `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;
const post = (job) => suite.api('POST', '/mainstay/v1/jobs', { body: job });
const later = '3600s';
const ended = (id) =>
  eventually(async () => {
    const job = await suite.ok(200, 'GET', `/mainstay/v1/jobs/${id}?wait=10s`);
    return job.finished_at ? job : undefined;
  });

describe('over HTTP', () => {
  it('a job with every option is stored as asked and shown so', async () => {
    const job = await suite.ok(201, 'POST', '/mainstay/v1/jobs', {
      body: {
        kind,
        args: { sleep_ms: 1 },
        priority: 3,
        delay: later,
        unique_key: key(),
        unique_scope: 'queue',
        unique_for: '7200s',
        unique_keep: true,
        on_conflict: 'reject',
        ordering_key: 'o',
        concurrency_key: 'c',
        concurrency_limit: 2,
        max_attempts: 7,
        backoff: { kind: 'fixed', base: '2s' },
        soft_limit: '60s',
        hard_limit: '90s',
        retention: '86400s',
        tags: ['a'],
        version: 1,
        traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      },
    });
    assert.equal(job.state, 'scheduled');
    const stored = await suite.ok(200, 'GET', `/mainstay/v1/jobs/${job.id}`);
    for (const name of ['priority', 'ordering_key', 'concurrency_key', 'concurrency_limit', 'max_attempts', 'version', 'traceparent'])
      assert.deepEqual(stored[name], job[name], name);
    assert.equal(stored.concurrency_limit, 2);
    assert.deepEqual(JSON.parse(await suite.value(`SELECT options FROM mainstay.jobs WHERE mainstay.format_id('job', id) = '${job.id}'`)), {
      backoff: { kind: 'fixed', base_ms: 2000 },
      soft_ms: 60000,
      hard_ms: 90000,
      retention_s: 86400,
    });
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${job.id}:cancel`, { body: {} });
  });

  it('wrong fields are refused by their pointers and nothing is added', async () => {
    const before = await suite.value('SELECT count(*) FROM mainstay.jobs');
    for (const [job, pointer] of [
      [{ kind: 'nobody.knows' }, '/kind'],
      [{ kind, queue: 'nobody-has-it' }, '/queue'],
      [{ kind, priority: 10 }, '/priority'],
      [{ kind, run_at: '2099-01-01T00:00:00Z' }, '/run_at'],
      [{ kind, delay: '-1s' }, '/delay'],
      [{ kind, max_attempts: 0 }, '/max_attempts'],
      [{ kind, concurrency_key: 'c', concurrency_limit: -1 }, '/concurrency_limit'],
      [{ kind, hard_limit: '-1s' }, '/hard_limit'],
      [{ kind, soft_limit: '2s', hard_limit: '1s' }, '/hard_limit'],
      [{ kind, backoff: { base: '-1s' } }, '/backoff/base'],
      [{ kind, retention: '-1s' }, '/retention'],
      [{ kind, unique_keep: true }, '/unique_key'],
      [{ kind, version: -1 }, '/version'],
      [{ kind, traceparent: 'x' }, '/traceparent'],
    ]) {
      const answer = await post(job);
      assertProblem(answer, 422, 'validation-failed');
      assert.equal(answer.json.errors[0].pointer, pointer, answer.text);
    }
    const batch = await suite.api('POST', '/mainstay/v1/jobs:batchCreate', { body: { items: [{ kind }, { kind, hard_limit: '-1s' }] } });
    assertProblem(batch, 422, 'validation-failed');
    assert.equal(batch.json.errors[0].pointer, '/items/1/hard_limit');
    const many = await suite.api('POST', '/mainstay/v1/jobs:batchCreate', { body: { items: Array.from({ length: 10001 }, () => ({ kind, delay: later })) } });
    assertProblem(many, 422, 'validation-failed');
    assert.equal(many.json.errors[0].pointer, '/items');
    assert.equal(await suite.value('SELECT count(*) FROM mainstay.jobs'), before);
  });

  it("arguments that do not fit the schema of their kind are refused by their pointers, at enqueue and when they are edited", async () => {
    const kinds = await suite.ok(200, 'GET', '/mainstay/v1/job-kinds');
    const noop = kinds.data.find((each) => each.kind === kind);
    assert.equal(noop.alive, true);
    assert.equal(noop.schema.properties.sleep_ms.maximum, 600000);
    const before = await suite.value('SELECT count(*) FROM mainstay.jobs');
    const answer = await post({ kind, args: { sleep_ms: 'long', fail_times: -1 } });
    assertProblem(answer, 422, 'validation-failed');
    assert.deepEqual(answer.json.errors.map((error) => [error.pointer, error.code]), [['/args/sleep_ms', 'invalid_type'], ['/args/fail_times', 'out_of_range']]);
    const batch = await suite.api('POST', '/mainstay/v1/jobs:batchCreate', { body: { items: [{ kind }, { kind, args: { sleep_ms: 1.5 } }] } });
    assertProblem(batch, 422, 'validation-failed');
    assert.equal(batch.json.errors[0].pointer, '/items/1/args/sleep_ms');
    assert.equal(await suite.value('SELECT count(*) FROM mainstay.jobs'), before);
    const job = await suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind, delay: later, args: { sleep_ms: 5 } } });
    const edit = await suite.api('PATCH', `/mainstay/v1/jobs/${job.id}`, { body: { args: { sleep_ms: -5 }, reason: 'test' } });
    assertProblem(edit, 422, 'validation-failed');
    assert.equal(edit.json.errors[0].pointer, '/args/sleep_ms');
    assert.deepEqual((await suite.ok(200, 'GET', `/mainstay/v1/jobs/${job.id}`)).args, { sleep_ms: 5 });
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${job.id}:cancel`, { body: {} });
  });

  it('a kind that is announced can be enqueued and waits for a worker; a schema that cannot be checked is refused', async () => {
    const name = `test.k${key()}`;
    assertProblem(await post({ kind: name }), 422, 'validation-failed');
    const wrong = await suite.api('PUT', `/mainstay/v1/job-kinds/${name}`, { body: { schema: { properties: { to: { typ: 'string' } } } } });
    assertProblem(wrong, 422, 'validation-failed');
    assert.equal(wrong.json.errors[0].pointer, '/schema');
    assert.match(wrong.json.errors[0].detail, /\/properties\/to\/typ: unknown keyword/);
    const put = await suite.ok(200, 'PUT', `/mainstay/v1/job-kinds/${name}`, { body: { schema: { type: 'object', required: ['to'] } } });
    assert.ok(!put.alive);
    await eventually(async () => (await post({ kind: name })).json.errors?.[0]?.pointer === '/args/to');
    const job = await suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind: name, delay: later, args: { to: 1 } } });
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${job.id}:cancel`, { body: {} });
  });

  it('a taken unique key: the job that holds it, its new arguments, or 409', async () => {
    const unique_key = key();
    const first = await suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind, delay: later, unique_key, args: { n: 1 } } });
    assert.ok(!first.existed);
    const second = await suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind, unique_key, args: { n: 2 } } });
    assert.equal(second.id, first.id);
    assert.equal(second.existed, true);
    assert.deepEqual(second.args, { n: 1 });
    const third = await suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind, unique_key, args: { n: 3 }, on_conflict: 'replace' } });
    assert.equal(third.id, first.id);
    assert.equal(third.replaced, true);
    assert.deepEqual(third.args, { n: 3 });
    const fourth = await post({ kind, unique_key, on_conflict: 'reject' });
    assertProblem(fourth, 409, 'unique-violation');
    assert.equal(fourth.json.errors[0].pointer, '/unique_key');
    assert.equal(fourth.json.job, first.id);
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${first.id}:cancel`, { body: {} });
    const fifth = await suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind, unique_key } });
    assert.notEqual(fifth.id, first.id);
  });

  it('sensitive arguments reach the handler and no one else', async () => {
    const job = await suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind, sensitive: true, max_attempts: 2, args: { fail_times: 1, card: '4111111111111111' }, backoff: { kind: 'fixed', base: '0.1s' } } });
    assert.equal(job.args, '[sensitive]');
    const done = await ended(job.id);
    assert.equal(done.state, 'succeeded', JSON.stringify(done));
    assert.deepEqual(done.result, { attempt: 2 });  // so it read fail_times
    assert.equal(done.args, '[sensitive]');
    assert.equal(await suite.value(`SELECT count(*) FROM mainstay.jobs_history h WHERE h::text LIKE '%4111111111111111%'`), '0');
  });

  it('single jobs of many callers at once are all there, each its own', async () => {
    const tag = key();
    const jobs = await Promise.all(Array.from({ length: 30 }, (_, n) => suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind, args: { n }, tags: [tag] } })));
    assert.equal(new Set(jobs.map((job) => job.id)).size, 30);
    jobs.forEach((job, n) => assert.deepEqual(job.args, { n }));
    await eventually(async () => Number(await suite.value(`SELECT count(*) FROM mainstay.jobs_history WHERE '${tag}' = ANY (tags) AND state = 6`)) === 30);
  });
});

describe('in SQL', () => {
  it('a trigger adds jobs in the transaction of the change: none when it rolls back, all run when it commits', async () => {
    const tag = key();
    await suite.sql(`CREATE TABLE t_${tag} (id int);
      CREATE FUNCTION f_${tag}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM mainstay.enqueue_batch(ARRAY(SELECT mainstay.new_job('${kind}', json_build_object('id', n.id), tenant => 'acme', tags => ARRAY['${tag}']) FROM fresh n)); RETURN NULL; END $$;
      CREATE TRIGGER t AFTER INSERT ON t_${tag} REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION f_${tag}()`);
    await suite.sql(`BEGIN; INSERT INTO t_${tag} SELECT generate_series(1, 50); ROLLBACK`);
    await suite.sql(`INSERT INTO t_${tag} SELECT generate_series(1, 20)`);
    await eventually(async () => Number(await suite.value(`SELECT count(*) FROM mainstay.jobs_history WHERE '${tag}' = ANY (tags) AND state = 6`)) === 20);
    assert.equal(await suite.value(`SELECT count(*) FROM mainstay.jobs WHERE '${tag}' = ANY (tags)`), '0');
  });
});

describe('F30: a commit that comes late', () => {
  it('starts the job after it, though younger jobs have run meanwhile', async () => {
    const tag = key();
    const open = suite.sql(`BEGIN; SELECT mainstay.enqueue('${kind}', tenant => 'acme', tags => ARRAY['${tag}-old']); SELECT pg_sleep(3); COMMIT`);
    await eventually(async () => (await suite.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND wait_event = 'PgSleep'")) === '1');
    const young = await suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind, tags: [tag] } });
    assert.equal((await ended(young.id)).state, 'succeeded');
    await open;
    await eventually(async () => (await suite.value(`SELECT count(*) FROM mainstay.jobs_history WHERE '${tag}-old' = ANY (tags) AND state = 6`)) === '1');
    assert.equal(await suite.value(`SELECT a.started_at > b.finished_at FROM mainstay.jobs_history a, mainstay.jobs_history b WHERE '${tag}-old' = ANY (a.tags) AND '${tag}' = ANY (b.tags)`), 't');
  });
});

describe('with the command line', () => {
  it('options are the fields of the API', async () => {
    const unique_key = key();
    const { stdout } = await suite.cli(['jobs', 'enqueue', kind, '--args', '{"n":1}', '--delay', '1h', '--priority', '2', '--unique-key', unique_key, '--unique-for', '2h', '--concurrency-key', 'c', '--concurrency-limit', '3', '--max-attempts', '4',
      '--backoff', 'fixed', '--backoff-base', '5s', '--soft-limit', '1m', '--retention', '24h', '--tag', 'x', '--tag', 'y', '--version', '2', '--json']);
    const job = JSON.parse(stdout);
    assert.equal(job.state, 'scheduled');
    assert.deepEqual(job.tags, ['x', 'y']);
    assert.equal(job.concurrency_limit, 3);
    assert.equal(job.version, 2);
    assert.deepEqual(JSON.parse(await suite.value(`SELECT options FROM mainstay.jobs WHERE unique_key = '${unique_key}'`)), { backoff: { kind: 'fixed', base_ms: 5000 }, soft_ms: 60000, retention_s: 86400 });
    const taken = await suite.cli(['jobs', 'enqueue', kind, '--unique-key', unique_key, '--on-conflict', 'reject']);
    assert.notEqual(taken.code, 0);
    assert.match(taken.stderr, /unique key/);
    assert.match((await suite.cli(['jobs', 'enqueue', kind, '--priority', '12'])).stderr, /priority/);
    assert.equal((await suite.cli(['jobs', 'cancel', job.id])).code, 0);
  });
});
