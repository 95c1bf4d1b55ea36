// SPDX-License-Identifier: Apache-2.0
// graphile-worker on the same PostgreSQL, over the Unix socket. It deletes finished jobs: it keeps no history.
//
// fast: the settings of its own performance test (local queue of 500, completions batched, 24 jobs at once). Else its defaults, with 10 jobs at once instead of 1.
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';
import { Latency, Progress, adding, serve, settings } from './loop.mjs';

process.env.NO_LOG_SUCCESS = '1'; // as its performance test does
const url = new URL(settings.database);
const pool = (max) => {
  const made = new pg.Pool({ host: url.searchParams.get('host'), port: Number(url.searchParams.get('port')), user: url.searchParams.get('user'), database: url.pathname.slice(1), max });
  // What breaks is reported by whoever meets it; the library insists on listeners.
  made.on('error', () => {});
  made.on('connect', (client) => client.on('error', () => {}));
  return made;
};
const logger = new Logger(() => () => {});
const producers = pool(64);
const utils = await makeWorkerUtils({ pgPool: producers, logger });
await utils.migrate();
const progress = new Progress();
const latency = new Latency();
let runner;

await serve({
  fill: ({ count, args, batch, in_flight: inFlight }) => adding(count, batch, inFlight, (n) => utils.addJobs(Array.from({ length: n }, () => ({ identifier: 'noop', payload: args })))),
  single: ({ count, args, callers }) => adding(count, 1, callers, () => utils.addJob('noop', args)),
  work: async ({ fast }) => {
    progress.reset();
    const concurrentJobs = fast ? 24 : 10;
    const batched = fast ? { localQueue: { size: 500, refetchDelay: { durationMs: 10 } }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } : {};
    runner = await run({
      pgPool: pool(concurrentJobs + 1),
      logger,
      noHandleSignals: true,
      preset: { worker: { concurrentJobs, ...batched } },
      parsedCronItems: [],
      taskList: {
        noop: async (payload) => {
          progress.started();
          latency.started(payload.n);
          progress.ended(); // of the handler; whoever asks looks whether the rows are gone
        },
      },
    });
  },
  progress: () => progress.answer(),
  rest: () => runner.stop(),
  left: async () => {
    const { rows } = await producers.query('SELECT EXISTS (SELECT 1 FROM graphile_worker._private_jobs) AS some');
    return { left: rows[0].some ? 1 : 0 };
  },
  latency: ({ count, args, every_ms: everyMs }) => latency.measure(count, everyMs, (n) => utils.addJob('noop', { ...args, n })),
});
