// SPDX-License-Identifier: Apache-2.0
// Background jobs against their peers. What each row means: README.md.
import { execFileSync, spawnSync } from 'node:child_process';
import path from 'node:path';
import pg from 'pg';
import { bin } from '../e2e/lib/suite.mjs';
import { Mainstay, connection } from './mainstay.mjs';
import { median, rounds, row, version } from './measure.mjs';
import { Side } from './sides.mjs';

export const names = ['enqueue-bulk', 'enqueue-single', 'process', 'two-process', 'both', 'keyed', 'latency', 'backlog', 'pinned-xmin', 'cpu'];
const concurrency = 100;

// How many jobs: enough that a run takes seconds (full) or a second (quick) at the rate each is capable of.
const sizes = {
  quick: { mainstay: 50000, bullmq: 10000, graphile: 2000, graphileFast: 30000, pgboss: 5000, rq: 300, single: 8000, keyed: 20000, hot: 20000, latency: 100, backlog: 200000, drain: 5, atMost: 15, small: 3, pinned: 50000 },
  full: { mainstay: 200000, bullmq: 60000, graphile: 15000, graphileFast: 200000, pgboss: 30000, rq: 4000, single: 40000, keyed: 100000, hot: 100000, latency: 500, backlog: 1000000, drain: Infinity, atMost: 60, small: 9, pinned: 500000 },
};

export async function jobs(suite, { quick, only, log }) {
  const size = quick ? sizes.quick : sizes.full;
  const count = quick ? 1 : 3;
  const wanted = (...some) => some.some((name) => !only || only.includes(name));
  const results = [];
  const skipped = [];
  const failures = [];
  const mainstay = await Mainstay.open(suite, { settings: { executors: concurrency }, log });
  const database = new pg.Client(connection(suite.database));
  await database.connect();
  const can = new Set(execFileSync(path.join(bin, 'jobs_bench'), ['--list'], { encoding: 'utf8' }).trim().split(' '));

  // ---- the contenders ----

  const before = () => mainstay.away();
  const redis = { before, settings: { port: Number(suite.settings.port_redis) }, servers: () => ({ redis: [suite.redisPid()] }) };
  const postgres = { before, settings: { database: suite.database }, servers: () => ({ postgres: [suite.postgresPid()] }) };
  const bullmq = (workers = 1) => new Side({ ...redis, script: 'bullmq.mjs', workers, work: { concurrency: concurrency / workers }, clear: () => suite.redis('-n', '1', 'flushdb') });
  const graphile = (fast, workers = 1) => new Side({ ...postgres, script: 'graphile.mjs', workers, work: { fast }, clear: () => database.query('TRUNCATE graphile_worker._private_jobs') });
  const pgboss = new Side({ ...postgres, script: 'pgboss.mjs', clear: () => database.query('TRUNCATE pgboss.job') });
  const rq = new Side({ ...redis, script: 'python_rq.py', standing: false, warm: 0, clear: () => suite.redis('-n', '2', 'flushdb') });
  const haveRq = spawnSync('/usr/bin/python3', ['-c', 'import rq, redis']).status === 0;
  if (!haveRq) skipped.push('rq: python3-rq is not installed');
  const name = {
    bullmq: version('bullmq'),
    graphile: version('graphile-worker'),
    pgboss: version('pg-boss'),
    rq: haveRq && `rq ${execFileSync('/usr/bin/python3', ['-c', 'import rq; print(rq.VERSION)'], { encoding: 'utf8' }).trim()}`,
  };

  const bulk = { batch: 500, callers: 4 };
  const ours = (options) => mainstay.turn(() => mainstay.cycle(options));
  const theirs = (side, options) => side.turn(() => side.cycle({ ...bulk, ...options }));
  // Runs contenders in turn and makes rows of their figures; the ledger's counts of these runs stand beside each.
  const measure = async (title, contenders, rows) => {
    const begun = Date.now();
    log(`== ${title}`);
    let figures;
    try {
      figures = await rounds(contenders, count, log);
    } catch (error) {
      console.error(error);
      failures.push(`${title} was not measured: ${error.message}`);
      return;
    }
    log(`   took ${((Date.now() - begun) / 1000).toFixed(1)} s`);
    const { jobs: added, lost, double } = mainstay.ledger.take();
    for (const [benchmark, ...rest] of rows(figures)) if (wanted(benchmark)) results.push(row(benchmark, ...rest, { jobs: added, lost, double }));
  };

  try {
    if (wanted('enqueue-bulk', 'process', 'two-process', 'cpu')) {
      const contenders = { mainstay: ours({ jobs: size.mainstay }) };
      if (wanted('enqueue-bulk', 'process', 'cpu')) {
        const one = bullmq();
        contenders.bullmq = theirs(one, { jobs: size.bullmq });
        contenders.fast = theirs(graphile(true), { jobs: size.graphileFast });
      }
      if (wanted('process')) {
        contenders.bullmqTwo = theirs(bullmq(2), { jobs: size.bullmq });
        contenders.graphile = theirs(graphile(false), { jobs: size.graphile });
      }
      if (wanted('two-process')) contenders.fastTwo = theirs(graphile(true, 2), { jobs: size.graphileFast });
      if (wanted('enqueue-bulk', 'process')) {
        contenders.pgboss = theirs(pgboss, { jobs: size.pgboss });
        if (haveRq) contenders.rq = theirs(rq, { jobs: size.rq });
      }
      await measure('bulk enqueue and processing', contenders, (f) => {
        const rows = [];
        const add = (benchmark, metric, unit, key, peer, peerName) => f[peer] && rows.push([benchmark, metric, unit, f.mainstay[key], f[peer][key], peerName]);
        add('enqueue-bulk', 'per_s', '1/s', 'enqueue_per_s', 'bullmq', `${name.bullmq} addBulk`);
        add('enqueue-bulk', 'per_s', '1/s', 'enqueue_per_s', 'fast', `${name.graphile} addJobs`);
        add('enqueue-bulk', 'per_s', '1/s', 'enqueue_per_s', 'pgboss', `${name.pgboss} insert`);
        add('enqueue-bulk', 'per_s', '1/s', 'enqueue_per_s', 'rq', `${name.rq} enqueue_many, one at a time`);
        add('process', 'per_s', '1/s', 'per_s', 'bullmq', `${name.bullmq} concurrency ${concurrency}`);
        add('process', 'per_s', '1/s', 'per_s', 'bullmqTwo', `${name.bullmq} 2 processes, concurrency ${concurrency / 2} each`);
        add('process', 'per_s', '1/s', 'per_s', 'graphile', `${name.graphile} defaults, 10 jobs`);
        add('process', 'per_s', '1/s', 'per_s', 'fast', `${name.graphile} local queue, batches, 24 jobs`);
        add('process', 'per_s', '1/s', 'per_s', 'pgboss', `${name.pgboss} fetch 500 by two`);
        add('process', 'per_s', '1/s', 'per_s', 'rq', `${name.rq} SimpleWorker`);
        add('two-process', 'per_s', '1/s', 'per_s', 'fastTwo', `${name.graphile} 2 processes, local queue, batches, 24 jobs each`);
        add('cpu', 'enqueue_us', 'µs/job', 'enqueue_cpu_us', 'bullmq', `${name.bullmq} addBulk`);
        add('cpu', 'enqueue_us', 'µs/job', 'enqueue_cpu_us', 'fast', `${name.graphile} addJobs`);
        add('cpu', 'process_us', 'µs/job', 'cpu_us', 'bullmq', `${name.bullmq} concurrency ${concurrency}`);
        add('cpu', 'process_us', 'µs/job', 'cpu_us', 'fast', `${name.graphile} local queue, batches, 24 jobs`);
        return rows;
      });
    }

    if (wanted('enqueue-single')) {
      const callers = 64;
      const single = { jobs: size.single, single: true, callers };
      const contenders = { mainstay: ours({ subcommand: 'enqueue-single', jobs: size.single, callers }) };
      if (can.has('enqueue-merged')) contenders.merged = ours({ subcommand: 'enqueue-merged', jobs: size.single * 4, callers });
      else skipped.push('enqueue-single, merged callers: jobs_bench has no enqueue-merged');
      contenders.bullmq = theirs(bullmq(), single);
      contenders.graphile = theirs(graphile(true), { ...single, jobs: Math.ceil(size.single / 4) });
      await measure('single enqueue', contenders, (f) => [
        ['enqueue-single', 'per_s', '1/s', f.mainstay.enqueue_per_s, f.bullmq.enqueue_per_s, `${name.bullmq} add, ${callers} callers`],
        ['enqueue-single', 'per_s', '1/s', f.mainstay.enqueue_per_s, f.graphile.enqueue_per_s, `${name.graphile} addJob, ${callers} callers`],
        ...(f.merged
          ? [
              ['enqueue-single', 'per_s_merged', '1/s', f.merged.enqueue_per_s, f.bullmq.enqueue_per_s, `${name.bullmq} add, ${callers} callers`],
              ['enqueue-single', 'per_s_merged', '1/s', f.merged.enqueue_per_s, f.graphile.enqueue_per_s, `${name.graphile} addJob, ${callers} callers`],
            ]
          : []),
      ]);
    }

    if (wanted('both')) {
      const side = bullmq();
      await measure('both at once', { mainstay: mainstay.turn(() => mainstay.both({ jobs: size.mainstay })), bullmq: side.turn(() => side.both({ ...bulk, jobs: size.bullmq })) }, (f) => [
        ['both', 'per_s', '1/s', f.mainstay.per_s, f.bullmq.per_s, `${name.bullmq} addBulk and a worker, concurrency ${concurrency}`],
      ]);
    }

    if (wanted('keyed')) {
      const contenders = { unkeyed: ours({ jobs: size.keyed }) };
      for (const keys of [100, 10000]) contenders[keys] = ours({ jobs: size.keyed, keys, atMost: size.atMost });
      contenders[100000] = ours({ jobs: 100000, keys: 100000, atMost: size.atMost });
      contenders.hot = ours({ jobs: 100000 + size.hot, keys: 100000, hot: size.hot, atMost: size.atMost });
      await measure('keyed', contenders, (f) => [
        ...[100, 10000, 100000].map((keys) => ['keyed', `per_s_${keys}_keys`, '1/s', f[keys].per_s, f.unkeyed.per_s, 'mainstay, unkeyed']),
        ['keyed', 'per_s_beside_hot_key', '1/s', f.hot.others_per_s, f[100000].per_s, 'mainstay, 100,000 keys, none of them hot'],
        ['keyed', 'per_s_hot_key', '1/s', f.hot.hot_per_s, f.unkeyed.per_s, 'mainstay, unkeyed'],
      ]);
    }

    if (wanted('latency')) {
      const options = { jobs: size.latency, every_ms: 10 };
      const [a, b] = [bullmq(), graphile(true)];
      await measure('latency', {
        mainstay: mainstay.turn(() => mainstay.latency({ jobs: options.jobs, 'every-ms': options.every_ms })),
        bullmq: a.turn(() => a.latency(options)),
        graphile: b.turn(() => b.latency(options)),
      }, (f) => ['p50_ms', 'p99_ms'].flatMap((metric) => [['bullmq', name.bullmq], ['graphile', name.graphile]].map(([peer, peerName]) => ['latency', metric, 'ms', f.mainstay[metric], f[peer][metric], peerName])));
    }

    if (wanted('backlog')) {
      const few = `mainstay, 10,000 jobs waiting instead of ${size.backlog.toLocaleString('en-US')}`;
      await measure('backlog', {
        small: mainstay.turn(async () => {
          const runs = [];
          const most = {};
          for (let n = 0; n < size.small; n += 1) runs.push(await mainstay.cycle({ through: 'backlog', jobs: 10000, sample: most }));
          return { per_s: median(runs.map((run) => run.late_per_s)), ...most };
        }),
        large: mainstay.turn(async () => {
          const most = {};
          return { ...(await mainstay.cycle({ through: 'backlog', jobs: size.backlog, sample: most, atMost: size.drain })), ...most };
        }),
      }, (f) => [
        ['backlog', 'per_s', '1/s', f.large.late_per_s, f.small.per_s, few],
        ['backlog', 'worker_mb', 'MB', f.large.worker_mb, f.small.worker_mb, few],
        ['backlog', 'redis_mb', 'MB', f.large.redis_mb, f.small.redis_mb, few],
      ]);
    }

    if (wanted('pinned-xmin')) {
      await measure('pinned xmin', {
        free: ours({ jobs: size.pinned }),
        pinned: mainstay.turn(() => mainstay.pinned(() => mainstay.cycle({ jobs: size.pinned }))),
      }, (f) => [['pinned-xmin', 'per_s', '1/s', f.pinned.per_s, f.free.per_s, 'mainstay, no transaction left open']]);
    }
  } finally {
    await database.end();
    await mainstay.close();
  }
  return { results, skipped, problems: [...failures, ...mainstay.ledger.problems] };
}
