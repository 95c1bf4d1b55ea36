// SPDX-License-Identifier: Apache-2.0
// Handlers outside the suite: the example workers in TypeScript and Python as processes of their own, and a bare client that does what no good worker does. Streams are cut by closing them, the server by signals.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { Suite, alive, eventually, root, sleep } from './lib/suite.mjs';

// Short enough to wait for, long enough for a busy machine.
Object.assign(process.env, { MAINSTAY_HEARTBEAT: '1s', MAINSTAY_LEASE: '9s', MAINSTAY_SWEEP: '3s' });

const typescript = path.join(root, 'deploy/examples/worker-typescript');
const python = path.join(root, 'deploy/examples/worker-python');
const { WorkService } = grpc.loadPackageDefinition(
  loader.loadSync('mainstay/jobs/v1/work.proto', { includeDirs: [path.join(root, 'proto')], keepCase: true, longs: String, defaults: true, oneofs: true }),
).mainstay.jobs.v1;

let suite;
let work;
let key;
const raws = [];
const workers = [];
before(async () => {
  work = mkdtempSync(path.join(tmpdir(), 'mainstay-stream-'));
  if (!existsSync(path.join(typescript, 'node_modules'))) execFileSync('npm', ['install', '--silent', '--no-audit', '--no-fund'], { cwd: typescript });
  execFileSync('npx', ['tsc', '--outDir', path.join(typescript, 'dist')], { cwd: typescript });
  execFileSync('protoc', ['-I', path.join(root, 'proto'), `--python_out=${work}`, 'mainstay/jobs/v1/work.proto', 'mainstay/common/v1/options.proto']);
  suite = await Suite.start();
  key = await newKey('*', 'worker');
  writeFileSync(path.join(work, 'worker.key'), key);
});
afterEach(() => {
  for (const raw of raws.splice(0)) raw.cut();
  for (const child of workers.splice(0)) child.kill('SIGKILL');
});
after(async () => {
  await suite?.stop();
  rmSync(work, { recursive: true, force: true });
});

const unique = () => `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;
const address = () => `127.0.0.1:${suite.settings.port_worker}`;
async function newKey(tenant, role) {
  const made = await suite.cli(['keys', 'create', '--tenant', tenant, '--role', role, '--name', 'a worker']);
  assert.equal(made.code, 0, made.stderr);
  return made.stdout.trim();
}
const kindOf = () => `t${unique()}.run`;
const get = (id) => suite.ok(200, 'GET', `/mainstay/v1/jobs/${id}`);
// A kind that no worker has announced yet is refused.
const enqueue = (kind, { args = {}, ...more } = {}) =>
  eventually(
    async () => {
      const answer = await suite.api('POST', '/mainstay/v1/jobs', { body: { kind, args, ...more } });
      if (answer.status === 422 && answer.text.includes('no worker knows the kind')) return undefined;
      assert.equal(answer.status, 201, answer.text);
      return answer.json.id;
    },
    { what: `a worker of ${kind}` },
  );
const row = async (id) => {
  const [[state, fence, crashes, attempt]] = await suite.sql(`SELECT state, fence, crashes, attempt FROM mainstay.jobs WHERE mainstay.format_id('job', id) = '${id}'
    UNION ALL SELECT state, fence, crashes, attempt FROM mainstay.jobs_history WHERE mainstay.format_id('job', id) = '${id}'`);
  return { state: Number(state), fence, crashes: Number(crashes), attempt: Number(attempt) };
};

// A worker that says and hears exactly what the test wants.
class Raw {
  constructor({ apiKey = key, metadata } = {}) {
    this.client = new WorkService(address(), grpc.credentials.createInsecure(), { 'grpc.max_send_message_length': -1, 'grpc.use_local_subchannel_pool': 1 });
    this.metadata = metadata ?? new grpc.Metadata();
    if (apiKey && !metadata) this.metadata.set('authorization', `Bearer ${apiKey}`);
    this.messages = [];
    this.stream = this.client.Work(this.metadata);
    this.stream.on('data', (message) => this.messages.push(message));
    this.stream.on('error', (error) => (this.error ??= error));
    this.stream.on('end', () => (this.ended = true));
    raws.push(this);
  }
  static async open(kinds, { credits = 10, held = [], session, ...options } = {}) {
    const raw = new Raw(options);
    raw.say({ hello: { name: 'raw', kinds: [].concat(kinds).map((kind) => (typeof kind === 'string' ? { kind } : kind)), credits, held, session } });
    raw.welcome = await raw.next('welcome');
    raw.beat = setInterval(() => raw.silent || raw.say({ heartbeat: {} }), 500);
    return raw;
  }
  say(message) {
    if (!this.cutOff) this.stream.write(message);
  }
  all(what) {
    return this.messages.filter((message) => message[what]).map((message) => message[what]);
  }
  // The next message of this sort that was not asked for yet.
  async next(what, check = () => true) {
    const index = await eventually(
      () => {
        const found = this.messages.findIndex((message) => message[what] && check(message[what]));
        if (found < 0 && this.error) throw this.error;
        return found + 1;
      },
      { what: `a ${what}` },
    );
    return this.messages.splice(index - 1, 1)[0][what];
  }
  async end() {
    return eventually(() => this.error ?? this.ended, { what: 'the end of the stream' });
  }
  result(job, outcome) {
    this.say({ result: { id: job.id, fence: job.fence, ...outcome } });
  }
  async done(job, value = null) {
    this.result(job, { done: { result_json: JSON.stringify(value) } });
    return this.next('ack', (ack) => ack.id === job.id && ack.checkpoint === '0');
  }
  // As a broken network does it: nothing more is said or heard.
  cut() {
    this.cutOff = true;
    clearInterval(this.beat);
    this.stream.cancel();
    this.client.close();
  }
}
const ref = ({ id, fence, receipt }) => ({ id, fence, receipt });

function spawnWorker(command, args, env) {
  const child = spawn(command, args, { env: { ...process.env, WORK_ADDRESS: address(), WORK_KEY_FILE: path.join(work, 'worker.key'), ...env }, stdio: ['ignore', 'inherit', 'inherit'] });
  child.gone = new Promise((done) => child.on('exit', (code, signal) => done({ code, signal })));
  workers.push(child);
  return child;
}
const startTypescript = (env) => spawnWorker('node', [path.join(typescript, 'dist/main.js')], { WORK_PROTOS: path.join(root, 'proto'), ...env });
const startPython = (env) => spawnWorker('/usr/bin/python3', [path.join(python, 'main.py')], { PYTHONPATH: work, PYTHONDONTWRITEBYTECODE: '1', ...env });

const languages = [
  { name: 'TypeScript', start: startTypescript, long: 'thumbnails.make', size: 'pages', end: 'examples.end', error: 'TypeError' },
  { name: 'Python', start: startPython, long: 'reports.make', size: 'parts', end: 'snakes.end', error: 'ValueError' },
];
for (const language of languages) {
  describe(`a worker in ${language.name}`, () => {
    it('runs jobs with progress, checkpoints and log lines, and is in the list of workers', async () => {
      language.start();
      const id = await enqueue(language.long, { args: { [language.size]: 4, ms: 20 } });
      const job = await suite.job(id, { within: 90000 });
      assert.equal(job.state, 'succeeded', JSON.stringify(job));
      assert.deepEqual(job.result, { [language.size]: 4, attempt: 1 });
      assert.equal(await suite.value(`SELECT checkpoint::text FROM mainstay.jobs_history WHERE mainstay.format_id('job', id) = '${id}'`), (await suite.value(`SELECT '{"${language.size === 'pages' ? 'page' : 'part'}":4}'::json::text`)).replace(':4', language.name === 'Python' ? ': 4' : ':4'));
      const slow = await enqueue(language.long, { args: { [language.size]: 100000, ms: 50 } });
      const remotes = async () => (await suite.ok(200, 'GET', '/mainstay/v1/workers')).data.flatMap((worker) => worker.remote);
      const remote = await eventually(async () => (await remotes()).find((one) => one.jobs.includes(slow)), { what: 'the worker in the list' });
      assert.ok(remote.kinds.includes(language.long) && remote.credits === 10 && remote.in_flight === 1 && remote.connected, JSON.stringify(remote));
      await suite.ok(200, 'POST', `/mainstay/v1/jobs/${slow}:cancel`, { body: {} });
      await eventually(async () => (await remotes()).every((one) => !one.jobs.includes(slow)), { what: 'the cancelled job to leave its worker' });
      assert.equal((await get(slow)).state, 'cancelled');
    });

    it('ends them in every way', async () => {
      language.start();
      const end = async (how, more) => suite.job(await enqueue(language.end, { args: { how }, ...more }), { within: 90000 });
      const done = await end('done');
      assert.equal(done.state, 'succeeded');
      assert.equal(done.result.tenant, 'acme');
      const retried = await end('retry', { max_attempts: 2 });
      assert.equal(retried.state, 'dead');
      assert.deepEqual(retried.errors.map(({ code, message }) => [code, message]), [['busy', 'the other side is busy'], ['busy', 'the other side is busy']]);
      const snoozed = await end('snooze');
      assert.deepEqual([snoozed.state, snoozed.result, snoozed.attempt], ['succeeded', 'awake', 1]);
      const discarded = await end('discard');
      assert.deepEqual([discarded.state, discarded.errors.at(-1).message], ['discarded', 'nobody wants it any more']);
      const thrown = await end('other', { max_attempts: 1 });
      assert.deepEqual([thrown.state, thrown.errors.at(-1).code], ['dead', language.error]);
    });

    it('told to stop, finishes what it can, gives the rest back at no cost, and ends', async () => {
      const first = language.start({ WORK_GRACE_SECONDS: '1' });
      const id = await enqueue(language.long, { args: { [language.size]: 200, ms: 20 } });
      await eventually(async () => (await get(id)).progress?.percent > 2, { what: 'the first steps' });
      first.kill('SIGTERM');
      assert.deepEqual(await first.gone, { code: 0, signal: null });
      language.start();
      const job = await suite.job(id, { within: 90000 });
      assert.deepEqual([job.state, job.result], ['succeeded', { [language.size]: 200, attempt: 1 }]);
      assert.equal((await row(id)).crashes, 0);
      assert.match(suite.file('logs/worker.log'), new RegExp(`"text":"going on at (page|part) \\d+"`));
    });

    it('F51: goes on with its jobs while the server is restarted, and reports them to the new one', async () => {
      language.start();
      const id = await enqueue(language.long, { args: { [language.size]: 150, ms: 40 } });
      await eventually(async () => (await get(id)).progress?.percent > 2, { what: 'the first steps' });
      await suite.restart('worker');
      const job = await suite.job(id, { within: 90000 });
      assert.deepEqual([job.state, job.result], ['succeeded', { [language.size]: 150, attempt: 1 }]);
      assert.ok(!suite.file('logs/worker.log').split('\n').some((line) => line.includes(id) && line.includes('going on at')), 'its handler ran once');
      assert.equal((await row(id)).crashes, 0);
    });

    it('goes on with its jobs when the server dies and comes back', async () => {
      language.start();
      const id = await enqueue(language.long, { args: { [language.size]: 150, ms: 40 } });
      await eventually(async () => (await get(id)).progress?.percent > 2, { what: 'the first steps' });
      await suite.kill('worker');
      await suite.restart('worker');
      const job = await suite.job(id, { within: 90000 });
      assert.deepEqual([job.state, job.result.attempt], ['succeeded', 1]);
    });
  });
}

describe('F49: credit', () => {
  it('is the most that a worker is given; a result makes room for one', async () => {
    const kind = kindOf();
    const raw = await Raw.open(kind, { credits: 3 });
    const ids = [];
    for (let n = 0; n < 6; n += 1) ids.push(await enqueue(kind));
    const jobs = [await raw.next('job'), await raw.next('job'), await raw.next('job')];
    await sleep(1500);
    assert.equal(raw.all('job').length, 0);
    await raw.done(jobs[0], 'first');
    const fourth = await raw.next('job');
    assert.equal(raw.all('job').length, 0);
    raw.say({ credit: { credits: 5 } });
    const fifth = await raw.next('job');
    const sixth = await raw.next('job');
    for (const job of [jobs[1], jobs[2], fourth, fifth, sixth]) await raw.done(job);
    for (const id of ids) assert.equal((await suite.job(id)).state, 'succeeded');
  });

  it('is not used by a worker that does not read: others get the jobs, and the server stays small with a thousand of them', async () => {
    const kind = kindOf();
    const client = new WorkService(address(), grpc.credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${key}`);
    const memory = () => Number(readFileSync(`/proc/${suite.pid('worker')}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)[1]) / 1024;
    const before = memory();
    const streams = [];
    let failed;
    for (let n = 0; n < 1000; n += 1) {
      const stream = client.Work(metadata);
      stream.on('error', (error) => (failed ??= error));
      stream.write({ hello: { name: `deaf ${n}`, kinds: [{ kind }], credits: 10 } });
      stream.pause(); // its welcome stays unread, and all that follows
      streams.push(stream);
    }
    const beat = setInterval(() => streams.forEach((stream) => stream.write({ heartbeat: {} })), 1500);
    await eventually(
      async () => {
        if (failed) throw failed;
        const metrics = await (await fetch(`http://127.0.0.1:${suite.settings.port_worker_admin}/metrics`)).text();
        return Number(metrics.match(/^mainstay_work_streams (\d+)/m)?.[1]) >= 1000;
      },
      { what: 'a thousand streams' },
    );
    const grown = memory() - before;
    assert.ok(grown < 150, `${grown} MB more with a thousand streams`);
    clearInterval(beat);
    for (const stream of streams) stream.cancel();
    client.close();
    await eventually(async () => (await (await fetch(`http://127.0.0.1:${suite.settings.port_worker_admin}/metrics`)).text()).includes('mainstay_work_streams 0'), { what: 'the end of the streams' });

    // One that stops reading has its credit at most; a reader gets the rest.
    const slow = await Raw.open(kind, { credits: 2 });
    slow.stream.pause();
    const big = 'x'.repeat(100000);
    const ids = [];
    for (let n = 0; n < 8; n += 1) ids.push(await enqueue(kind, { args: { big } }));
    const reader = await Raw.open(kind, { credits: 10 });
    const got = new Set();
    await eventually(async () => {
      for (const job of reader.all('job')) {
        if (got.has(job.id)) continue;
        got.add(job.id);
        reader.result(job, { done: {} });
      }
      return got.size >= 6;
    }, { what: 'the reader to get all but two' });
    slow.stream.resume();
    slow.say({ goodbye: {} });
    await eventually(async () => {
      for (const job of reader.all('job')) {
        if (got.has(job.id)) continue;
        got.add(job.id);
        reader.result(job, { done: {} });
      }
      return got.size >= 8;
    }, { what: 'the reader to get them all' });
    for (const id of ids) assert.equal((await suite.job(id)).state, 'succeeded');
  });
});

describe('a worker that is busy for long', () => {
  it('holds up no other kind of its queue, however many of its jobs wait', async () => {
    const kind = kindOf();
    const raw = await Raw.open(kind, { credits: 1 });
    await enqueue(kind, { queue: 'mainstay' }); // a queue without a limit, which waiting jobs would count for
    await raw.next('job');
    await suite.ok(200, 'POST', '/mainstay/v1/jobs:batchCreate', { body: { items: Array.from({ length: 2000 }, () => ({ kind, queue: 'mainstay' })) } });
    for (let n = 0; n < 5; n += 1) assert.equal((await suite.job(await enqueue('mainstay.noop', { queue: 'mainstay' }))).state, 'succeeded');
    assert.equal(raw.all('job').length, 0);
  });
});

describe('F48: versions', () => {
  it('a worker is given what it announced and nothing else; the rest waits for one that did', async () => {
    const kind = kindOf();
    const old = await Raw.open([{ kind }, { kind, version: 1 }]);
    const first = await enqueue(kind, { version: 1 });
    const second = await enqueue(kind, { version: 2 });
    const job = await old.next('job');
    assert.deepEqual([job.id, job.version], [first, 1]);
    await old.done(job);
    await sleep(1500);
    assert.equal(old.all('job').length, 0);
    assert.ok(['ready', 'published', 'scheduled'].includes((await get(second)).state));
    const fresh = await Raw.open([{ kind, version: 1 }, { kind, version: 2 }]);
    const later = await fresh.next('job');
    assert.deepEqual([later.id, later.version, later.attempt], [second, 2, 1]);
    await fresh.done(later);
    assert.deepEqual([(await suite.job(second)).state, old.all('job').length], ['succeeded', 0]);
  });
});

describe('schemas', () => {
  it('that a worker announces keep arguments of another form out, also while it is away', async () => {
    const kind = kindOf();
    const raw = await Raw.open({ kind, schema_json: '{"type":"object","required":["to"],"properties":{"to":{"type":"string"}}}' });
    await enqueue(kind, { args: { to: 'you' } });
    await raw.done(await raw.next('job'));
    raw.cut();
    const refused = await suite.api('POST', '/mainstay/v1/jobs', { body: { kind, args: { to: 7 } } });
    assert.equal(refused.status, 422, refused.text);
    assert.equal(refused.json.errors[0].pointer, '/args/to');
    await enqueue(kind, { args: { to: 'me' } });
  });
});

describe('F50: a stream that is cut', () => {
  it('after its hello: nothing is lost', async () => {
    const kind = kindOf();
    const raw = new Raw();
    raw.say({ hello: { name: 'raw', kinds: [{ kind }], credits: 1 } });
    raw.cut();
    const next = await Raw.open(kind);
    const id = await enqueue(kind);
    await next.done(await next.next('job'));
    assert.equal((await suite.job(id)).state, 'succeeded');
  });

  it('with a job in hand: it resumes under the same fence, with what was on the way given back', async () => {
    const kind = kindOf();
    const raw = await Raw.open(kind, { credits: 2 });
    const first = await enqueue(kind);
    const second = await enqueue(kind);
    const jobs = [await raw.next('job'), await raw.next('job')];
    raw.cut();
    // The second never arrived, as far as this worker knows.
    const kept = jobs.find((job) => job.id === first);
    const back = await Raw.open(kind, { credits: 2, held: [ref(kept)], session: raw.welcome.session });
    assert.deepEqual(back.welcome.held.map(({ id, fence }) => [id, fence]), [[first, kept.fence]]);
    const again = await back.next('job');
    assert.equal(again.id, second);
    assert.ok(BigInt(again.fence) > BigInt(jobs.find((job) => job.id === second).fence));
    await back.done(kept);
    await back.done(again);
    for (const id of [first, second]) {
      const job = await suite.job(id);
      assert.deepEqual([job.state, job.attempt], ['succeeded', 1]);
      assert.equal((await row(id)).crashes, 0);
    }
  });

  it('between heartbeats, for longer than a lease: the job is another worker\'s, at the cost of a lost lease, and the first is told', async () => {
    const kind = kindOf();
    const raw = await Raw.open(kind, { credits: 1 });
    const id = await enqueue(kind);
    const job = await raw.next('job');
    raw.cut();
    const other = await Raw.open(kind, { credits: 1 });
    const taken = await other.next('job');
    assert.equal(taken.id, id);
    assert.ok(BigInt(taken.fence) > BigInt(job.fence));
    assert.equal((await row(id)).crashes, 1);
    const back = await Raw.open(kind, { credits: 1, held: [ref(job)], session: raw.welcome.session });
    assert.deepEqual([back.welcome.held, back.welcome.stored], [[], []]);
    await other.done(taken, 'mine');
    assert.deepEqual((await suite.job(id)).result, 'mine');
  });

  it('a silent worker loses its jobs though its stream stands', async () => {
    const kind = kindOf();
    const raw = await Raw.open(kind, { credits: 1 });
    const id = await enqueue(kind);
    const job = await raw.next('job');
    raw.silent = true;
    const other = await Raw.open(kind, { credits: 1 });
    const taken = await other.next('job');
    assert.deepEqual([taken.id, taken.fence > job.fence], [id, true]);
    assert.equal((await raw.end()).code, grpc.status.DEADLINE_EXCEEDED);
    await other.done(taken);
  });

  it('before a result was acknowledged: said again it is accepted once, here and after a restart of the server', async () => {
    const kind = kindOf();
    let raw = await Raw.open(kind);
    const id = await enqueue(kind);
    const job = await raw.next('job');
    raw.result(job, { done: { result_json: '"once"' } });
    await suite.job(id);
    raw.cut(); // the acknowledgement is lost
    raw = await Raw.open(kind, { held: [ref(job)], session: raw.welcome.session });
    assert.deepEqual(raw.welcome.stored, [id]);
    raw.result(job, { discard: { reason: 'twice' } });
    assert.equal((await raw.next('error')).field, 'result.id', 'it is no longer in its hands');
    assert.equal((await row(id)).fence, job.fence);
    raw.cut();
    await suite.restart('worker');
    const later = await Raw.open(kind, { held: [ref(job)] });
    assert.deepEqual(later.welcome.stored, [id]);
    assert.equal((await suite.sql(`SELECT 1 FROM mainstay.jobs_history WHERE mainstay.format_id('job', id) = '${id}'`)).length, 1);
    assert.equal((await get(id)).result, 'once');
  });

  it('an orderly goodbye costs nothing and waits for nothing', async () => {
    const kind = kindOf();
    const raw = await Raw.open(kind, { credits: 2 });
    const ids = [await enqueue(kind), await enqueue(kind)];
    const jobs = [await raw.next('job'), await raw.next('job')];
    raw.result(jobs[0], { done: {} });
    raw.say({ goodbye: {} });
    assert.equal(await raw.end(), true);
    assert.ok(raw.all('ack').length === 1, 'the result was acknowledged before the end');
    const other = await Raw.open(kind);
    const again = await other.next('job');
    assert.equal(again.id, jobs[1].id);
    await other.done(again);
    for (const id of ids) assert.deepEqual([(await suite.job(id)).state, (await row(id)).crashes], ['succeeded', 0]);
  });
});

describe('F35: limits', () => {
  it('a handler that ignores them loses its job, not its credit; after three its stream is closed', async () => {
    const kind = kindOf();
    const raw = await Raw.open(kind, { credits: 3 });
    const ids = [];
    for (let n = 0; n < 4; n += 1) ids.push(await enqueue(kind, { soft_limit: '1s', hard_limit: '2s', max_attempts: 1 }));
    const jobs = [await raw.next('job'), await raw.next('job'), await raw.next('job')];
    await raw.next('cancel', (cancel) => cancel.id === jobs[0].id);
    await raw.next('fenced', (fenced) => fenced.id === jobs[0].id);
    const ended = await raw.end();
    assert.equal(ended.code, grpc.status.FAILED_PRECONDITION, ended.message);
    assert.equal(raw.all('job').length, 0, 'the fourth was not given to it');
    for (const job of jobs) {
      const dead = await suite.job(job.id);
      assert.deepEqual([dead.state, dead.errors.at(-1).code], ['dead', 'hard_limit']);
    }
    const other = await Raw.open(kind);
    const fourth = await other.next('job');
    assert.ok(ids.includes(fourth.id) && !jobs.some((job) => job.id === fourth.id));
    await other.done(fourth);
  });

  it('the credit of a job that was taken away comes back when the worker says how it ended', async () => {
    const kind = kindOf();
    const raw = await Raw.open(kind, { credits: 1 });
    const id = await enqueue(kind);
    const job = await raw.next('job');
    await suite.ok(200, 'POST', `/mainstay/v1/jobs/${id}:cancel`, { body: {} });
    await raw.next('fenced', (fenced) => fenced.id === id);
    const next = await enqueue(kind);
    await sleep(1500);
    assert.equal(raw.all('job').length, 0);
    raw.result(job, { done: { result_json: '"too late"' } });
    await raw.next('fenced', (fenced) => fenced.id === id);
    assert.equal((await get(id)).state, 'cancelled');
    const second = await raw.next('job');
    assert.equal(second.id, next);
    await raw.done(second);
  });
});

describe('F52: a malicious or broken worker', () => {
  it('is refused without a key, with a revoked one, without the scope, and for other tenants\' jobs', async () => {
    const refused = async (options) => (await new Raw(options).end()).code;
    assert.equal(await refused({ apiKey: null }), grpc.status.UNAUTHENTICATED);
    assert.equal(await refused({ apiKey: `${key.slice(0, -2)}xx` }), grpc.status.UNAUTHENTICATED);
    assert.equal(await refused({ apiKey: suite.keys.globex }), grpc.status.PERMISSION_DENIED);
    const gone = await newKey('*', 'worker');
    const id = (await suite.value(`SELECT mainstay.format_id('key', id) FROM mainstay.api_keys ORDER BY created_at DESC LIMIT 1`));
    assert.equal((await suite.cli(['keys', 'revoke', id])).code, 0);
    assert.equal(await refused({ apiKey: gone }), grpc.status.UNAUTHENTICATED);
    const kind = kindOf();
    const globex = await Raw.open(kind, { apiKey: await newKey('globex', 'worker') });
    const ours = await enqueue(kind);
    const acme = await Raw.open(kind, { apiKey: await newKey('acme', 'worker') });
    await acme.done(await acme.next('job'));
    assert.equal((await suite.job(ours)).state, 'succeeded');
    assert.equal(globex.all('job').length, 0);
  });

  it('is told which field of its hello is wrong', async () => {
    const kind = kindOf();
    const good = { name: 'raw', kinds: [{ kind }], credits: 1 };
    const job = 'job_01jc8z4v0m2k7x5c9q3b6t8w1e';
    for (const [field, hello] of [
      ['hello.name', { ...good, name: '' }],
      ['hello.kinds', { ...good, kinds: [] }],
      ['hello.kinds[1].kind', { ...good, kinds: [{ kind }, { kind: 'No Kind' }] }],
      ['hello.kinds[0].version', { ...good, kinds: [{ kind, version: -1 }] }],
      ['hello.kinds[1].kind', { ...good, kinds: [{ kind }, { kind }] }],
      ['hello.kinds[0].kind', { ...good, kinds: [{ kind: 'mainstay.noop' }] }],
      ['hello.kinds', { ...good, kinds: [{ kind, schema_json: '{"type": 7}' }] }],
      ['hello.credits', { ...good, credits: 1001 }],
      ['hello.held[0].id', { ...good, held: [{ id: 'job_7', fence: 1 }] }],
      ['hello.held[0].receipt', { ...good, held: [{ id: job, fence: 1, receipt: Buffer.alloc(16) }] }],
    ]) {
      const raw = new Raw();
      raw.say({ hello });
      const end = await raw.end();
      assert.equal(raw.all('error')[0]?.field, field, JSON.stringify(raw.messages));
      assert.equal(end.code, grpc.status.INVALID_ARGUMENT);
    }
    const mute = new Raw();
    mute.say({ heartbeat: {} });
    assert.equal((await mute.end()).code, grpc.status.INVALID_ARGUMENT);
  });

  it('changes nothing by a wrong fence, another\'s job, what is no JSON or too much, and is cut off when it goes on', async () => {
    const kind = kindOf();
    const owner = await Raw.open(kind, { credits: 1 });
    const id = await enqueue(kind);
    const job = await owner.next('job');
    const other = await Raw.open(kindOf(), { credits: 1 });
    const before = await row(id);
    other.result(job, { done: {} });
    assert.equal((await other.next('error')).field, 'result.id');
    other.say({ checkpoint: { id: job.id, fence: job.fence, json: '{}', number: 1 } });
    assert.equal((await other.next('error')).field, 'checkpoint.id');
    owner.say({ result: { id, fence: String(BigInt(job.fence) + 1n), done: {} } });
    assert.equal((await owner.next('error')).field, 'result.fence');
    owner.say({ result: { id, fence: job.fence, done: { result_json: '{no' } } });
    assert.equal((await owner.next('error')).field, 'result.done.result_json');
    owner.say({ result: { id, fence: job.fence, done: { result_json: JSON.stringify('x'.repeat(70000)) } } });
    assert.equal((await owner.next('error')).field, 'result.done.result_json');
    owner.say({ result: { id, fence: job.fence } });
    assert.equal((await owner.next('error')).field, 'result.outcome');
    owner.say({ progress: { id, fence: job.fence, percent: 101 } });
    assert.equal((await owner.next('error')).field, 'progress.percent');
    owner.say({ checkpoint: { id, fence: job.fence, json: JSON.stringify('x'.repeat(70000)), number: 1 } });
    assert.equal((await owner.next('error')).field, 'checkpoint.json');
    owner.say({ log: { id, fence: job.fence, message: 'y'.repeat(600000) } });
    assert.match((await owner.next('error')).message, /at most 524288/);
    assert.deepEqual(await row(id), { ...before, state: (await row(id)).state });
    await owner.done(job);
    assert.equal((await suite.job(id)).state, 'succeeded');

    other.say({ log: { id: job.id, fence: job.fence, message: 'z'.repeat(17 << 20) } });
    assert.equal((await other.end()).code, grpc.status.RESOURCE_EXHAUSTED);
    const nagging = await Raw.open(kindOf());
    for (let n = 0; n < 40; n += 1) nagging.result(job, { done: {} });
    assert.equal((await nagging.end()).code, grpc.status.INVALID_ARGUMENT);
    assert.ok(alive(suite.pid('worker')));
  });
});
