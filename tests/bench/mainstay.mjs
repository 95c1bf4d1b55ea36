// SPDX-License-Identifier: Apache-2.0
// Mainstay's side of the benchmark of jobs: the real worker (its children, the fence, the start check, history), on the servers of the suite; jobs are added by jobs_bench.
//
// Times are the database's own: from the first start of a handler to the last final row, as the peers are timed from their first start to their last completion. Every measurement begins with empty
// tables and a worker that stands ready. Two ways lead to that:
//   window   the worker's process is stopped (SIGSTOP) with its queue's window held open, so that enqueue adds to the stream itself, as it does while workers keep up; then it goes on (SIGCONT)
//   backlog  the queue is paused, so that the jobs wait in PostgreSQL and the dispatcher hands them out; then it is resumed
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFileSync } from 'node:fs';
import path from 'node:path';
import pg from 'pg';
import { bin, eventually, sleep } from '../e2e/lib/suite.mjs';
import { residentMegabytes, withCpu } from './cpu.mjs';
import { Ledger, ledgerSql } from './ledger.mjs';
import { Peer, percentile } from './measure.mjs';

export const args = { order: 123456, note: 'forty-five bytes of JSON' };
const stream = 'mainstay:jobs:{default}:*';
const ratesSql = `
WITH h AS (SELECT started_at, finished_at, ordering_key = 'hot' AS hot, percent_rank() OVER (ORDER BY finished_at) >= 0.2 AS late FROM mainstay.jobs_history),
     r AS (
       SELECT count(*)::int AS done, extract(epoch FROM max(finished_at) - min(started_at))::float8 AS seconds,
              count(*) FILTER (WHERE late) AS late, extract(epoch FROM max(finished_at) - min(finished_at) FILTER (WHERE late)) AS late_seconds,
              count(*) FILTER (WHERE hot) AS hot, extract(epoch FROM max(finished_at) FILTER (WHERE hot) - min(started_at) FILTER (WHERE hot)) AS hot_seconds,
              count(*) FILTER (WHERE NOT hot) AS others, extract(epoch FROM max(finished_at) FILTER (WHERE NOT hot) - min(started_at) FILTER (WHERE NOT hot)) AS others_seconds
       FROM h)
SELECT done, seconds, done / nullif(seconds, 0) AS per_s, (late / nullif(late_seconds, 0))::float8 AS late_per_s, (hot / nullif(hot_seconds, 0))::float8 AS hot_per_s,
       (others / nullif(others_seconds, 0))::float8 AS others_per_s FROM r`;

export function connection(database) {
  const url = new URL(database);
  return { host: url.searchParams.get('host'), port: Number(url.searchParams.get('port')), user: url.searchParams.get('user'), database: url.pathname.slice(1) };
}

export class Mainstay {
  // settings: of the worker, beside those that deploy/run gives it. Those it does not know are left out, and said.
  static async open(suite, { settings = {}, log }) {
    const mainstay = new Mainstay();
    Object.assign(mainstay, { suite, log, run: 0, ledger: new Ledger() });
    const known = execFileSync(path.join(bin, 'mainstay-worker'), ['--help-config'], { encoding: 'utf8' });
    for (const [name, value] of Object.entries(settings)) {
      if (!new RegExp(`\\b${name}\\b`).test(known)) log(`the worker has no setting ${name}`);
      else appendFileSync(path.join(suite.data, 'config/worker.yaml'), `${name}: ${value}\n`);
    }
    mainstay.sql = new pg.Client(connection(suite.database));
    await mainstay.sql.connect();
    await mainstay.sql.query('CREATE SCHEMA IF NOT EXISTS bench; CREATE TABLE IF NOT EXISTS bench.enqueued (id uuid NOT NULL, run text NOT NULL, committed_us bigint NOT NULL)');
    await mainstay.stopWorker();
    return mainstay;
  }
  async close() {
    await this.sql.end();
  }

  async value(query, parameters) {
    const { rows } = await this.sql.query({ text: query, values: parameters, rowMode: 'array' });
    return rows[0]?.[0];
  }

  // ---- the worker ----

  async startWorker() {
    await this.suite.restart('worker');
    this.worker = this.suite.pid('worker');
    // A run that was cut short, or one that failed, left the queue paused. The gateway may take a moment to find the worker again.
    await eventually(() => this.resume().then(() => true), { every: 200, what: 'the worker behind the gateway' });
    // It leads, and its windows are open: only then is it what an application meets.
    await eventually(async () => this.value("SELECT bool_or(open_until > clock_timestamp()) FROM mainstay.job_windows WHERE queue = 'default'"), { within: 60000, what: 'an open window' });
  }
  async stopWorker() {
    this.worker = undefined;
    await this.suite.kill('worker', 'SIGTERM');
  }
  // One contender's turn. The worker stays until a peer's turn comes (away), so that turns of ours that follow each other share it.
  turn(work) {
    return async () => {
      if (!this.worker) {
        await this.startWorker();
        await this.warmUp();
      }
      try {
        return await work();
      } finally {
        if (this.worker) process.kill(this.worker, 'SIGCONT');
      }
    };
  }
  // While a peer is measured no worker of ours is there.
  async away() {
    if (this.worker) await this.stopWorker();
  }
  roots(more = {}) {
    return { postgres: [this.suite.postgresPid()], redis: [this.suite.redisPid()], worker: [this.worker], ...more };
  }

  // ---- jobs ----

  async empty() {
    await this.sql.query('TRUNCATE mainstay.jobs, mainstay.jobs_history, mainstay.job_slots, mainstay.job_unique, bench.enqueued');
  }

  // jobs_bench, ready to go: {go, finish, pid}. finish writes the ledger.
  async load(subcommand, options) {
    this.run += 1;
    const name = `run-${this.run}`;
    const all = { database: this.suite.database, redis: `redis://127.0.0.1:${this.suite.settings.port_redis}`, ledger: name, args: JSON.stringify(args), ...options };
    const bench = new Peer([path.join(bin, 'jobs_bench'), subcommand, '--ready', ...Object.entries(all).flatMap(([key, value]) => [`--${key}`, String(value)])]);
    await bench.next();
    return { name, pid: bench.pid, jobs: options.jobs, go: () => bench.ask({ do: 'go' }), finish: () => bench.finish() };
  }

  async note(load, { waiting = false } = {}) {
    const { rows } = await this.sql.query(ledgerSql, [load.name]);
    this.ledger.note(load.name, rows[0], { expected: load.jobs, waiting });
    if (rows[0].again > 0) this.log(`${load.name}: ${rows[0].again} jobs were handed out more than once`);
  }

  // True once nothing of the run is in the hot table, false when `atMost` seconds have passed. Asks for a few of its ids, by primary key, and counts only when those are gone: a count costs as much as many jobs.
  async drained(load, { within = 900000, atMost = Infinity } = {}) {
    const end = Date.now() + atMost * 1000;
    const some = await this.value('SELECT array_agg(id::text) FROM (SELECT id FROM bench.enqueued WHERE run = $1 ORDER BY id DESC LIMIT 20) i', [load.name]);
    const gone = async () => (await this.value('SELECT count(*) FROM mainstay.jobs WHERE id = ANY ($1::uuid[])', [some])) === '0' && (await this.value('SELECT count(*) FROM mainstay.jobs')) === '0';
    return (await eventually(async () => ((await gone()) ? 'gone' : Date.now() > end && 'cut'), { within, every: 20, what: `the end of ${load.jobs} jobs` })) === 'gone';
  }

  // The queue's window stays open though nobody consumes: what enqueue meets while workers keep up.
  async hold() {
    process.kill(this.worker, 'SIGSTOP');
    await this.sql.query("UPDATE mainstay.job_windows SET open_until = clock_timestamp() + interval '10 minutes' WHERE queue = 'default'");
  }
  async pause() {
    await this.suite.ok(200, 'POST', '/mainstay/v1/queues/default:pause', { body: { reason: 'benchmark' } });
  }
  async resume() {
    await this.suite.ok(200, 'POST', '/mainstay/v1/queues/default:resume', { body: {} });
  }

  async warmUp() {
    await this.empty();
    const load = await this.load('enqueue-bulk', { jobs: 2000, batch: 500, callers: 1 });
    await load.go();
    await load.finish();
    await this.drained(load);
  }

  // From history: {done, seconds, per_s, late_per_s, others_per_s, hot_per_s}. From the first start to the last end; late: once a fifth of it is done, for a short run is else all beginning; hot and
  // others: by whether the jobs are of the hot key.
  async rates() {
    const { rows } = await this.sql.query(ratesSql);
    assert.ok(rows[0].done > 1 && rows[0].seconds > 0, `no rate from ${JSON.stringify(rows[0])}`);
    return Object.fromEntries(Object.entries(rows[0]).filter(([, value]) => value !== null));
  }

  // Adds jobs while nobody consumes, then has them all done: {enqueue_per_s, enqueue_cpu_us, call_p50_ms, call_p99_ms, per_s, cpu_us}. sample: an object for the most memory that was seen.
  // atMost: seconds after which processing is cut short; the rates are those of what was done until then, and the rest is thrown away.
  async cycle({ through = 'window', subcommand = 'enqueue-bulk', sample, atMost = Infinity, ...options }) {
    await this.empty();
    if (through === 'window') await this.hold();
    else await this.pause();
    const load = await this.load(subcommand, { batch: 500, callers: 4, ...options });
    const enqueue = await withCpu(() => this.roots({ load: [load.pid] }), () => load.go());
    await load.finish();
    await this.assertAdded(load, through, options);
    const processing = await withCpu(() => this.roots(), async () => {
      const sampling = sample && this.sampling(sample);
      if (through === 'window') process.kill(this.worker, 'SIGCONT');
      else await this.resume();
      const all = await this.drained(load, { atMost });
      await sampling?.stop();
      return { all, done: Number(await this.value('SELECT count(*) FROM mainstay.jobs_history')) };
    });
    if (!processing.all) await this.quiet();
    await this.note(load, { waiting: !processing.all });
    const figures = {
      enqueue_per_s: enqueue.per_s,
      call_p50_ms: enqueue.call_p50_ms,
      call_p99_ms: enqueue.call_p99_ms,
      enqueue_cpu_us: (enqueue.cpu_s / load.jobs) * 1e6,
      ...(await this.rates()),
      cpu_us: (processing.cpu_s / processing.done) * 1e6,
      cpu: { enqueue: enqueue.cpu, process: processing.cpu },
    };
    if (!processing.all) await this.abandon();
    return figures;
  }

  // What was measured is what was meant: all rows are there, and by the window all were handed to Redis.
  async assertAdded(load, through, { keys = 0, hot = 0 }) {
    assert.equal(Number(await this.value('SELECT count(*) FROM mainstay.jobs')), load.jobs);
    if (through !== 'window' || keys + hot > 0) return;
    assert.equal(Number(await this.value('SELECT count(*) FROM mainstay.jobs WHERE state = 4')), load.jobs, 'the window was not open for all');
    const [key] = (await this.suite.redis('--scan', '--pattern', stream)).split('\n');
    const handed = Number(await this.suite.redis('XLEN', key));
    assert.ok(handed >= load.jobs, `${handed} of ${load.jobs} jobs were handed to Redis`);
  }

  // Adds and processes at once.
  async both(options) {
    await this.empty();
    const load = await this.load('enqueue-bulk', { batch: 500, callers: 4, ...options });
    const figures = await withCpu(() => this.roots({ load: [load.pid] }), async () => {
      const begun = Number(await this.value('SELECT extract(epoch FROM clock_timestamp())'));
      await load.go();
      await eventually(async () => (await this.value('SELECT NOT EXISTS (SELECT 1 FROM mainstay.jobs)')) === true, { within: 600000, every: 50, what: `the end of ${load.jobs} jobs` });
      return { begun };
    });
    await load.finish();
    await this.note(load);
    const end = Number(await this.value('SELECT extract(epoch FROM max(finished_at)) FROM mainstay.jobs_history'));
    return { per_s: load.jobs / (end - figures.begun), cpu_us: (figures.cpu_s / load.jobs) * 1e6, cpu: figures.cpu };
  }

  // Idle: from the moment the commit had returned to the caller to the start of the handler.
  async latency(options) {
    await this.empty();
    const load = await this.load('latency', options);
    const { call_p50_ms: callP50, call_p99_ms: callP99 } = await load.go();
    await load.finish();
    await this.drained(load);
    await this.note(load);
    const { rows } = await this.sql.query(
      'SELECT greatest(0, extract(epoch FROM h.started_at) * 1000 - e.committed_us / 1000.0)::float8 AS wait FROM bench.enqueued e JOIN mainstay.jobs_history h USING (id) WHERE e.run = $1 ORDER BY 1',
      [load.name],
    );
    const waits = rows.map((each) => each.wait);
    return { p50_ms: percentile(waits, 0.5), p99_ms: percentile(waits, 0.99), call_p50_ms: callP50, call_p99_ms: callP99 };
  }

  // For a run that was cut short: nothing more is begun, and what was begun has ended.
  async quiet() {
    await this.pause();
    const done = () => this.value('SELECT count(*) FROM mainstay.jobs_history');
    for (let before; before !== (before = await done()); ) await sleep(500);
  }
  // Throws away what waits: with the worker away, so that nothing of it is in anyone's hands.
  async abandon() {
    await this.stopWorker();
    await this.empty();
    for (const key of (await this.suite.redis('--scan', '--pattern', stream)).split('\n').filter(Boolean)) await this.suite.redis('DEL', key);
    await this.startWorker();
  }

  // Beside a transaction that is left open all the time: nothing that was deleted since may be cleaned up.
  async pinned(work) {
    const other = new pg.Client(connection(this.suite.database));
    await other.connect();
    try {
      await this.empty(); // TRUNCATE would not wait for it, but its old rows are nobody's business
      await other.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
      await other.query('SELECT pg_current_xact_id(), count(*) FROM pg_class');
      return await work();
    } finally {
      await other.end();
    }
  }

  // Memory of the worker with its children, and of Redis: the most that was seen, four times a second.
  sampling(most) {
    let stopped = false;
    const done = (async () => {
      while (!stopped) {
        most.worker_mb = Math.max(most.worker_mb ?? 0, residentMegabytes([this.worker]));
        const used = (await this.suite.redis('INFO', 'memory')).match(/^used_memory:(\d+)/m)[1];
        most.redis_mb = Math.max(most.redis_mb ?? 0, Number(used) / 1048576);
        await sleep(250);
      }
    })();
    return {
      stop: () => {
        stopped = true;
        return done;
      },
    };
  }
}
