// SPDX-License-Identifier: Apache-2.0
// The operators' side of jobs from outside: waiting, watching, dead letters, operations on many jobs, figures; over HTTP and with the command line, also while the worker is killed.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Suite, assertProblem, bin, eventually, sleep } from './lib/suite.mjs';

let suite;
before(async () => {
  suite = await Suite.start();
});
after(() => suite?.stop());

const unique = () => `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;
const enqueue = (more = {}) => suite.ok(201, 'POST', '/mainstay/v1/jobs', { body: { kind: 'mainstay.noop', ...more } });
const noId = 'job_00000000000000000000000000';

// Dead jobs as the engine leaves them, many at once.
async function addDead(n, { tag, message = "'row ' || n || ' is broken'", tenant = 'acme', args = '{}' }) {
  await suite.sql(`INSERT INTO mainstay.jobs_history (id, fence, created_at, kind, state, priority, attempt, crashes, snoozes, max_attempts, max_crashes, tenant, queue, args, principal, tags, errors, fingerprint)
    SELECT mainstay.new_job_id(), 3, now(), 'mainstay.noop', 9, 4, 2, 0, 0, 2, 3, '${tenant}', 'default', '${args}', '{"subject":"test","roles":[]}', ARRAY['${tag}'],
           jsonb_build_array(jsonb_build_object('attempt', 2, 'at', now(), 'code', 'broken', 'message', ${message}, 'worker', 'w')), mainstay.job_fingerprint('broken', ${message})
    FROM generate_series(1, ${n}) n`);
}

// Reads a stream of server-sent events: events() are those so far, close() goes away.
async function events(target, headers = {}) {
  const abort = new AbortController();
  const answer = await fetch(suite.url + target, { headers: { Authorization: `Bearer ${suite.keys.admin}`, Accept: 'text/event-stream', ...headers }, signal: abort.signal });
  const stream = { status: answer.status, type: answer.headers.get('content-type'), list: [], ended: false, close: () => abort.abort() };
  if (answer.status !== 200) {
    stream.text = await answer.text();
    return stream;
  }
  (async () => {
    let rest = '';
    for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
      rest += chunk;
      for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
        const event = {};
        for (const line of rest.slice(0, end).split('\n')) {
          const colon = line.indexOf(': ');
          if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 2);
        }
        if (event.data) event.data = JSON.parse(event.data);
        stream.list.push(event);
        rest = rest.slice(end + 2);
      }
    }
    stream.ended = true;
  })().catch(() => {
    stream.ended = true;
  });
  return stream;
}

const metric = async (name) => {
  const text = await (await fetch(`http://127.0.0.1:${suite.settings.port_worker_admin}/metrics`)).text();
  return Number(text.match(new RegExp(`^${name} (.*)$`, 'm'))?.[1]);
};
const operation = (id) => suite.ok(200, 'GET', `/mainstay/v1/job-operations/${id}`);
const ended = (id, within = 90000) =>
  eventually(
    async () => {
      const o = await operation(id);
      return o.state !== 'running' ? o : undefined;
    },
    { within, what: `the end of ${id}` },
  );

describe('waiting and watching', () => {
  it('answers many who wait as soon as the job ends, while others are served', async () => {
    const job = await enqueue({ delay: '1h' });
    const waiting = Array.from({ length: 40 }, () => suite.ok(200, 'GET', `/mainstay/v1/jobs/${job.id}?wait=60s`));
    await eventually(async () => (await metric('mainstay_jobs_watches')) >= 40, { what: '40 who wait' });
    await suite.ok(200, 'GET', '/mainstay/v1/jobs?limit=1');
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${job.id}:cancel`, { body: {} });
    for (const answer of await Promise.all(waiting)) assert.equal(answer.state, 'cancelled');
    // A job that has ended is answered at once, one that does not end after the time.
    assert.equal((await suite.ok(200, 'GET', `/mainstay/v1/jobs/${job.id}?wait=60s`)).state, 'cancelled');
    const later = await enqueue({ delay: '1h' });
    assert.equal((await suite.ok(200, 'GET', `/mainstay/v1/jobs/${later.id}?wait=300ms`)).state, 'scheduled');
    assertProblem(await suite.api('GET', `/mainstay/v1/jobs/${later.id}?wait=61s`), 400, 'invalid-parameter');
    assertProblem(await suite.api('GET', `/mainstay/v1/jobs/${later.id}?wait=1s`, { key: 'globex' }), 404, 'not-found');
  });

  it('streams every state of a job until it is final, with ids, and spares what was seen', async () => {
    const job = await enqueue({ args: { fail_times: 1 }, max_attempts: 2, delay: '1s' });
    const stream = await events(`/mainstay/v1/jobs/${job.id}:watch`);
    assert.equal(stream.type, 'text/event-stream');
    await eventually(() => stream.ended, { within: 60000, what: 'the end of the stream' });
    const states = stream.list.filter((e) => e.event === 'job').map((e) => e.data.job.state);
    assert.equal(states[0], 'scheduled');
    assert.equal(states.at(-1), 'succeeded');
    assert.ok(stream.list.every((e) => e.id), JSON.stringify(stream.list));
    assert.equal(stream.list.at(-1).data.job.attempt, 2);
    const again = await events(`/mainstay/v1/jobs/${job.id}:watch`, { 'Last-Event-ID': stream.list.at(-1).id });
    await eventually(() => again.ended, { what: 'the end of the second stream' });
    assert.deepEqual(again.list, []);
    // JSON Lines for everybody else.
    const lines = await suite.api('GET', `/mainstay/v1/jobs/${job.id}:watch`);
    assert.match(lines.headers.get('content-type'), /ndjson/);
    assert.equal(JSON.parse(lines.text.trim()).job.state, 'succeeded');
  });

  it('forgets a watcher that went away, and tells another tenant nothing', async () => {
    const job = await enqueue({ delay: '1h' });
    const stream = await events(`/mainstay/v1/jobs/${job.id}:watch`);
    await eventually(() => stream.list.length === 1, { what: 'the first event' });
    // Nothing happens for a while: a comment says that the stream is alive.
    await eventually(() => stream.list.some((e) => e.data === undefined), { within: 60000, what: 'a heartbeat' });
    const before = await metric('mainstay_jobs_watches');
    assert.ok(before >= 1);
    stream.close();
    await eventually(async () => (await metric('mainstay_jobs_watches')) < before, { what: 'one watch less' });
    const foreign = await events(`/mainstay/v1/jobs/${job.id}:watch`, { Authorization: `Bearer ${suite.keys.globex}` });
    await eventually(() => foreign.ended || foreign.status !== 200, { what: 'the refusal' });
    if (foreign.status === 200) {
      assert.equal(foreign.list[0].event, 'problem');
      assert.equal(foreign.list[0].data.type, '/problems/not-found');
    }
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${job.id}:cancel`, { body: {} });
  });

  it('streams a queue as it changes', async () => {
    const stream = await events('/mainstay/v1/queues/default:watch');
    await eventually(() => stream.list.length >= 1, { what: 'the first event' });
    const { id } = await enqueue({ delay: '1h' });
    const more = Number(stream.list[0].data.queue.scheduled);
    await eventually(() => Number(stream.list.at(-1).data?.queue?.scheduled) > more, { what: 'one more that is scheduled' });
    stream.close();
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${id}:cancel`, { body: {} });
    const none = await events('/mainstay/v1/queues/no-such-queue:watch');
    await eventually(() => none.ended || none.status !== 200, { what: 'the refusal' });
    if (none.status === 200) assert.equal(none.list[0].data.type, '/problems/not-found');
  });
});

describe('dead letters', () => {
  it('keeps every error, groups them, lets the arguments be put right and the job be run again', async () => {
    const tag = unique();
    const job = await enqueue({ args: { fail_times: 9 }, max_attempts: 2, tags: [tag] });
    const dead = await suite.job(job.id, { within: 60000 });
    assert.equal(dead.state, 'dead');
    assert.equal(dead.errors.length, 2);
    for (const error of dead.errors) assert.ok(error.message && error.code === 'asked_to_fail' && error.at && error.worker && error.attempt);

    const groups = (await suite.ok(200, 'GET', '/mainstay/v1/jobs:fingerprints?kind=mainstay.noop&queue=default')).data;
    const group = groups.find((g) => g.code === 'asked_to_fail');
    assert.ok(group && Number(group.count) >= 1 && group.first_seen <= group.last_seen, JSON.stringify(groups));
    const list = await suite.ok(200, 'GET', `/mainstay/v1/jobs?filter[state]=dead&filter[fingerprint]=${group.fingerprint}&filter[tags][has]=${tag}`);
    assert.deepEqual(list.data.map((j) => j.id), [job.id]);

    assertProblem(await suite.api('PATCH', `/mainstay/v1/jobs/${job.id}`, { body: { args: {} } }), 422, 'validation-failed');
    assertProblem(await suite.api('PATCH', `/mainstay/v1/jobs/${job.id}`, { key: 'globex', body: { args: {}, reason: 'x' } }), 404, 'not-found');
    const edited = await suite.ok(200, 'PATCH', `/mainstay/v1/jobs/${job.id}`, { body: { args: { fail_times: 0 }, reason: 'fixed' }, headers: { 'Content-Type': 'application/merge-patch+json' } });
    assert.deepEqual(edited.args, { fail_times: 0 });
    assert.equal(edited.state, 'dead');
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${job.id}:retry`, { body: { reason: 'fixed' } });
    const done = await suite.job(job.id);
    assert.equal(done.state, 'succeeded');
    assert.equal(done.errors.length, 2);
    assertProblem(await suite.api('PATCH', `/mainstay/v1/jobs/${job.id}`, { body: { args: {}, reason: 'x' } }), 422, 'rule-violation');

    assert.equal((await suite.api('DELETE', `/mainstay/v1/jobs/${job.id}`)).status, 204);
    assertProblem(await suite.api('DELETE', `/mainstay/v1/jobs/${job.id}`), 404, 'not-found');
    assertProblem(await suite.api('DELETE', `/mainstay/v1/jobs/${noId}`), 404, 'not-found');
  });

  it('edits a waiting job, which then runs with the new arguments', async () => {
    const job = await enqueue({ args: { fail_times: 5 }, max_attempts: 1, delay: '2s' });
    await suite.ok(200, 'PATCH', `/mainstay/v1/jobs/${job.id}`, { body: { args: { fail_times: 0 }, reason: 'typo' } });
    const done = await suite.job(job.id);
    assert.equal(done.state, 'succeeded');
    assert.equal(Number(done.fence), 2);
  });
});

describe('operations', () => {
  it('F55: redrives what a filter matches, looked at first, with the worker killed on the way, each job once', async () => {
    const tag = unique();
    await addDead(1500, { tag });
    await addDead(20, { tag, tenant: 'globex' });
    const filter = { tags: { has: tag } };
    const preview = await suite.ok(200, 'POST', '/mainstay/v1/job-operations:preview', { body: { kind: 'redrive', filter } });
    assert.equal(preview.count, '1500');
    assert.equal(preview.count_kind, 'exact');
    assert.equal(preview.samples.length, 10);
    assert.equal(await suite.value(`SELECT count(*) FROM mainstay.jobs_history WHERE tags = ARRAY['${tag}'] AND state = 9`), '1520');

    const created = await suite.ok(201, 'POST', '/mainstay/v1/job-operations', { body: { kind: 'redrive', filter, reason: 'provider is back', rate: 250 } });
    assert.match(created.id, /^jop_/);
    assert.equal(created.state, 'running');
    assert.deepEqual(created.filter, filter);
    await eventually(async () => Number((await operation(created.id)).done) > 100, { within: 60000, what: 'some progress' });
    await suite.kill('worker');
    const halfway = Number(await suite.value(`SELECT done FROM mainstay.job_operations WHERE reason = 'provider is back' AND filter::text LIKE '%${tag}%'`));
    assert.ok(halfway > 100 && halfway < 1500, `${halfway}`);
    await suite.restart('worker');
    const done = await ended(created.id, 180000);
    assert.equal(done.state, 'succeeded', JSON.stringify(done));
    assert.equal(done.total, '1500');
    assert.equal(Number(done.done), 1500);
    await eventually(async () => (await suite.value(`SELECT count(*) FROM mainstay.jobs_history WHERE tags = ARRAY['${tag}'] AND state = 6`)) === '1500', { within: 90000, what: 'all redriven jobs to succeed' });
    assert.deepEqual(
      await suite.sql(`SELECT count(DISTINCT id), count(*), min(options->'retried'->>'reason'), min(options->'retried'->>'operation'), min(fence) >= 4 FROM mainstay.jobs_history WHERE tags = ARRAY['${tag}'] AND state = 6`),
      [['1500', '1500', 'provider is back', created.id, 't']],
    );
    assert.equal(await suite.value(`SELECT count(*) FROM mainstay.jobs_history WHERE tags = ARRAY['${tag}'] AND tenant = 'globex' AND state = 9`), '20');
    // Once more: nothing is left to do.
    const again = await ended((await suite.ok(201, 'POST', '/mainstay/v1/job-operations', { body: { kind: 'redrive', filter, reason: 'twice' } })).id);
    assert.equal(again.done, '0');
    const listed = await suite.ok(200, 'GET', '/mainstay/v1/job-operations?filter[kind]=redrive&filter[state]=succeeded');
    assert.ok(listed.data.some((o) => o.id === created.id && o.author));
  });

  it('stops a redrive whose jobs fail again, and leaves the rest dead', async () => {
    const tag = unique();
    await addDead(400, { tag, args: '{"fail_times": 99}' });
    const created = await suite.ok(201, 'POST', '/mainstay/v1/job-operations', {
      body: { kind: 'redrive', filter: { tags: { has: tag } }, reason: 'hope', rate: 500, max_failure_share: 0.2, failure_window: 40 },
    });
    const stopped = await ended(created.id);
    assert.equal(stopped.state, 'stopped', JSON.stringify(stopped));
    assert.match(stopped.message, /failed again/);
    assert.ok(Number(stopped.done) < 400);
    assert.ok(Number(stopped.failed_again) >= 20);
    const cancelled = await suite.ok(200, 'POST', `/mainstay/v1/job-operations/${created.id}:cancel`, { body: {} });
    assert.equal(cancelled.state, 'cancelled');
    // Those that went out must not trouble the tests that follow.
    await ended((await suite.ok(201, 'POST', '/mainstay/v1/job-operations', { body: { kind: 'cancel', filter: { tags: { has: tag } }, reason: 'clean up' } })).id);
  });

  it('cancels and purges by filter', async () => {
    const tag = unique();
    await suite.ok(200, 'POST', '/mainstay/v1/jobs:batchCreate', { body: { items: Array.from({ length: 300 }, (_, n) => ({ kind: 'mainstay.noop', delay: '1h', tags: [tag], unique_key: `${tag}-${n}` })) } });
    const filter = { tags: { has: tag } };
    assertProblem(await suite.api('POST', '/mainstay/v1/job-operations', { body: { kind: 'cancel', filter, reason: 'x', max_affected: 299 } }), 409, 'max-affected-exceeded');
    const cancel = await ended((await suite.ok(201, 'POST', '/mainstay/v1/job-operations', { body: { kind: 'cancel', filter, reason: 'by mistake', max_affected: 300 } })).id);
    assert.equal(cancel.done, '300');
    assert.equal(await suite.value(`SELECT count(*) FROM mainstay.job_unique u JOIN mainstay.jobs_history h ON h.id = u.job WHERE h.tags = ARRAY['${tag}']`), '0');
    const purge = await ended((await suite.ok(201, 'POST', '/mainstay/v1/job-operations', { body: { kind: 'purge', filter, reason: 'no traces' } })).id);
    assert.equal(purge.done, '300');
    assert.equal(await suite.value(`SELECT count(*) FROM mainstay.jobs_history WHERE tags = ARRAY['${tag}']`), '0');
  });

  it('refuses what makes no sense and names the place', async () => {
    const post = (body) => suite.api('POST', '/mainstay/v1/job-operations', { body });
    const empty = await post({});
    assertProblem(empty, 422, 'validation-failed');
    assert.deepEqual(empty.json.errors.map((e) => e.pointer).sort(), ['/filter', '/kind', '/reason']);
    const wrong = await post({ kind: 'purge', filter: {}, reason: 'x', rate: -1, max_failure_share: 0.5, failure_window: 3 });
    assertProblem(wrong, 422, 'validation-failed');
    assert.deepEqual(wrong.json.errors.map((e) => e.pointer).sort(), ['/failure_window', '/max_failure_share', '/rate']);
    for (const [filter, place] of [[{ colour: 'red' }, 'colour'], [{ key_hash: '1' }, 'key_hash'], [{ priority: 'high' }, 'priority']]) {
      const answer = await post({ kind: 'redrive', filter, reason: 'x' });
      assert.equal(answer.status, 400, answer.text);
      assert.ok(answer.text.includes(place), answer.text);
    }
    assert.equal((await post({ kind: 'redrive', filter: [], reason: 'x' })).status, 422);
    assert.equal((await post({ kind: 'explode', filter: {}, reason: 'x' })).status, 422);
    assertProblem(await suite.api('GET', '/mainstay/v1/job-operations/jop_00000000000000000000000000'), 404, 'not-found');
    assertProblem(await suite.api('POST', '/mainstay/v1/job-operations', { key: 'globex', body: { kind: 'purge', filter: {}, reason: 'x' } }), 403, 'forbidden');
    assertProblem(await suite.api('GET', '/mainstay/v1/jobs:fingerprints?limit=0x'), 400, 'invalid-parameter');
    assertProblem(await suite.api('GET', '/mainstay/v1/jobs:fingerprints?limit=201'), 400, 'invalid-parameter');
  });
});

describe('lists', () => {
  it('finds jobs by state, queue, kind, tag, time, key and id, page by page, waiting and finished alike', async () => {
    const tag = unique();
    const since = new Date(Date.now() - 2000).toISOString();
    const items = Array.from({ length: 25 }, (_, n) => ({ kind: 'mainstay.noop', tags: [tag], delay: n < 10 ? '1h' : undefined, ordering_key: n === 3 ? `o-${tag}` : undefined, unique_key: n === 4 ? `u-${tag}` : undefined }));
    const { items: jobs } = await suite.ok(200, 'POST', '/mainstay/v1/jobs:batchCreate', { body: { items } });
    for (const job of jobs.slice(10)) await suite.job(job.id);
    const walk = async (query) => {
      const ids = [];
      let cursor = '';
      do {
        const page = await suite.ok(200, 'GET', `/mainstay/v1/jobs?limit=7&${query}${cursor}`);
        ids.push(...page.data.map((j) => j.id));
        cursor = page.page.has_more ? `&cursor=${encodeURIComponent(page.page.next_cursor)}` : '';
      } while (cursor);
      return ids;
    };
    const newest = jobs.map((j) => j.id).sort().reverse();
    assert.deepEqual(await walk(`filter[tags][has]=${tag}`), newest);
    assert.deepEqual(await walk(`filter[tags][has]=${tag}&filter[state]=succeeded&filter[kind]=mainstay.noop&filter[created_at][gte]=${since}`), jobs.slice(10).map((j) => j.id).sort().reverse());
    assert.deepEqual(await walk(`filter[tags][has]=${tag}&filter[state]=scheduled&filter[queue]=default`), jobs.slice(0, 10).map((j) => j.id).sort().reverse());
    assert.deepEqual(await walk(`filter[ordering_key]=o-${tag}&filter[state]=scheduled`), [jobs[3].id]);
    assert.deepEqual(await walk(`filter[unique_key]=u-${tag}`), [jobs[4].id]);
    assert.deepEqual(await walk(`filter[id][in]=${jobs[1].id},${jobs[20].id},${noId},nonsense`), [jobs[20].id, jobs[1].id].sort().reverse());
    assert.deepEqual(await walk(`filter[tags][has]=${tag}&filter[state]=dead`), []);
    assertProblem(await suite.api('GET', '/mainstay/v1/jobs?filter[due_at][is_null]=true'), 400, 'unknown-field');
    assertProblem(await suite.api('GET', '/mainstay/v1/jobs?filter[id][starts_with]=job_'), 400);
    assert.deepEqual((await suite.ok(200, 'GET', `/mainstay/v1/jobs?filter[tags][has]=${tag}`, { key: 'globex' })).data, []);
  });
});

describe('figures', () => {
  it('shows workers with what they run, and what queues do', async () => {
    const slow = await enqueue({ args: { sleep_ms: 20000 } });
    const workers = await eventually(
      async () => {
        const { data } = await suite.ok(200, 'GET', '/mainstay/v1/workers');
        return data.some((w) => w.running.some((j) => j.id === slow.id)) ? data : undefined;
      },
      { within: 60000, what: 'the job in the hands of its worker' },
    );
    const worker = workers.find((w) => w.running.some((j) => j.id === slow.id));
    assert.equal(worker.alive, true);
    assert.ok(worker.kinds.includes('mainstay.noop') && worker.in_flight >= 1 && worker.lease_until > worker.started_at);
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${slow.id}:cancel`, { body: {} });

    await enqueue({ args: { sleep_ms: 30 } });
    const stats = await eventually(
      async () => {
        const read = await suite.ok(200, 'GET', '/mainstay/v1/queues/default:stats');
        return Number(read.last_minute?.succeeded) > 0 ? read : undefined;
      },
      { within: 60000, what: 'figures of the last minute' },
    );
    assert.equal(stats.name, 'default');
    assert.ok(stats.last_minute.runs_per_second > 0 && stats.last_minute.ran.p50_seconds > 0 && stats.last_15_minutes.queued.p99_seconds > 0);
    assert.ok(stats.kinds.some((k) => k.kind === 'mainstay.noop' && Number(k.last_15_minutes.succeeded) > 0));
    const buckets = stats.last_15_minutes.ran.buckets;
    assert.equal(buckets.reduce((sum, b) => sum + Number(b.count), 0), ['succeeded', 'failed', 'dead', 'discarded', 'snoozed'].reduce((sum, name) => sum + Number(stats.last_15_minutes[name]), 0));
    const text = await (await fetch(`http://127.0.0.1:${suite.settings.port_worker_admin}/metrics`)).text();
    assert.match(text, /mainstay_jobs_runs_total\{[^}]*kind="mainstay.noop"[^}]*outcome="succeeded"[^}]*\} [1-9]/);
    assert.doesNotMatch(text, /job_0|tenant="/);
    await enqueue({ delay: '1h' });
    await eventually(async () => /mainstay_jobs_depth\{[^}]*queue="default"[^}]*state="scheduled"[^}]*\} [1-9]/.test(await (await fetch(`http://127.0.0.1:${suite.settings.port_worker_admin}/metrics`)).text()), { within: 60000, what: 'the depth among the metrics' });
    assert.ok(stats.counted_at);
    for (const name of ['scheduled', 'blocked', 'ready', 'published', 'running']) assert.match(stats[name], /^\d+$/);
    assert.ok((await suite.ok(200, 'GET', '/mainstay/v1/queues:stats')).data.some((q) => q.name === 'default'));
    assertProblem(await suite.api('GET', '/mainstay/v1/queues/no-such-queue:stats'), 404, 'not-found');
    assertProblem(await suite.api('GET', '/mainstay/v1/workers', { key: 'globex' }), 403, 'forbidden');
  });
});

describe('the command line', () => {
  it('waits for jobs, watches them, edits and redrives', async () => {
    const good = await enqueue({ args: { sleep_ms: 300 } });
    const waited = await suite.cli(['jobs', 'wait', good.id, '--timeout', '60s']);
    assert.equal(waited.code, 0, waited.stderr);
    assert.match(waited.stdout, /succeeded/);
    const tag = unique();
    const bad = await enqueue({ args: { fail_times: 5 }, max_attempts: 1, tags: [tag] });
    const watched = await suite.cli(['jobs', 'watch', bad.id]);
    assert.equal(watched.code, 1);
    assert.match(watched.stdout, /dead: asked_to_fail/);
    const late = await suite.cli(['jobs', 'wait', (await enqueue({ delay: '1h', tags: [tag] })).id, '--timeout', '200ms']);
    assert.match(late.stderr, /still scheduled/);

    assert.match((await suite.cli(['jobs', 'dead', '--kind', 'mainstay.noop'])).stdout, new RegExp(bad.id));
    assert.match((await suite.cli(['jobs', 'fingerprints'])).stdout, /asked_to_fail/);
    const edited = await suite.cli(['jobs', 'edit', bad.id, '--args', '{"fail_times":0}', '--reason', 'fixed']);
    assert.equal(edited.code, 0, edited.stderr);
    const dry = await suite.cli(['jobs', 'redrive', '--tag', tag, '--dry-run']);
    assert.match(dry.stdout, /exactly 1 jobs match/);
    assert.match(dry.stdout, new RegExp(bad.id));
    const redriven = await suite.cli(['jobs', 'redrive', '--tag', tag, '--reason', 'fixed', '--wait']);
    assert.equal(redriven.code, 0, redriven.stderr);
    assert.match(redriven.stdout, /succeeded {2}1 done of 1/);
    assert.equal((await suite.job(bad.id)).state, 'succeeded');
    assert.match((await suite.cli(['operations', 'list'])).stdout, /redrive +succeeded/);
    const cancelled = await suite.cli(['jobs', 'cancel-all', '--tag', tag, '--reason', 'end of test', '--wait']);
    assert.equal(cancelled.code, 0, cancelled.stderr);
    const purged = await suite.cli(['jobs', 'purge', '--tag', tag, '--reason', 'end of test', '--wait']);
    assert.match(purged.stdout, /3 done|2 done/);

    const nothing = await suite.cli(['jobs', 'purge', '--reason', 'oops']);
    assert.notEqual(nothing.code, 0);
    assert.match(nothing.stderr, /say which jobs/);
    assert.match((await suite.cli(['queues', 'list'])).stdout, /default/);
    assert.equal((await suite.cli(['queues', 'stats', 'default'])).code, 0);
    assert.match((await suite.cli(['workers', 'list'])).stdout, /true/);
    for (const words of [['jobs', 'redrive'], ['jobs', 'watch'], ['queues', 'stats'], ['workers', 'list'], ['operations', 'resume']]) {
      const help = await suite.cli([...words, '--help']);
      assert.equal(help.code, 0);
      assert.match(help.stdout, /Usage: mainstay/);
    }
  });

  it('follows a queue until it is interrupted', async () => {
    const child = spawn(path.join(bin, 'mainstay'), ['queues', 'watch', 'default', '--url', suite.url, '--key-file', path.join(suite.data, 'admin.key')]);
    let out = '';
    child.stdout.on('data', (data) => {
      out += data;
    });
    await eventually(() => /scheduled \d+/.test(out), { what: 'the first line' });
    child.kill('SIGINT');
    await new Promise((done) => child.on('close', done));
    await sleep(0);
  });
});
