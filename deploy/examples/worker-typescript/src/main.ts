// SPDX-License-Identifier: Apache-2.0
// An example of a worker: three kinds of jobs. Run it, then: mainstay jobs enqueue thumbnails.make --args '{"pages": 5}'
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import * as grpc from '@grpc/grpc-js';
import { Discard, Retry, Snooze, Worker } from './worker.js';

const env = (name: string, fallback?: string) => process.env[name] ?? fallback ?? (() => { throw new Error(`${name} is not set`); })();

const worker = new Worker({
  address: env('WORK_ADDRESS', '127.0.0.1:8090'),
  key: readFileSync(env('WORK_KEY_FILE'), 'utf8').trim(),
  protos: env('WORK_PROTOS', new URL('../../../../proto', import.meta.url).pathname),
  credits: Number(env('WORK_CREDITS', '10')),
  graceSeconds: Number(env('WORK_GRACE_SECONDS', '20')),
  // In production there is a proxy with a certificate in front of the service; then leave this out.
  credentials: env('WORK_TLS', 'no') === 'no' ? grpc.credentials.createInsecure() : undefined,
});

// A long job: goes on where it was after a crash or a deploy, and stops when it is told to.
worker.handle<{ pages: number; ms?: number }>('thumbnails.make', async (job) => {
  let page: number = job.checkpoint?.page ?? 0;
  if (page > 0) job.log(`going on at page ${page}`);
  while (page < job.args.pages) {
    await sleep(job.args.ms ?? 50, undefined, { signal: job.signal });
    page += 1;
    job.progress((100 * page) / job.args.pages, `page ${page}`, { pages: page });
    await job.saveCheckpoint({ page });
  }
  return { pages: page, attempt: job.attempt };
});

// Every way in which a job can end.
worker.handle<{ how: string; seconds?: number }>('examples.end', async (job) => {
  switch (job.args.how) {
    case 'done': return { fence: job.fence.toString(), tenant: job.tenant };
    case 'retry': throw new Retry('the other side is busy', { code: 'busy', afterSeconds: job.args.seconds ?? 0.1 });
    case 'snooze': if (job.checkpoint) return 'awake'; await job.saveCheckpoint({ slept: true }); throw new Snooze({ afterSeconds: job.args.seconds ?? 0.1 });
    case 'discard': throw new Discard('nobody wants it any more');
    default: throw new TypeError(`how: ${job.args.how}`);
  }
});

// Another version of the arguments is another handler.
worker.handle<{ to: string }>('examples.greet', (job) => `hello ${job.args.to}`, { version: 2 });

const stop = new AbortController();
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.abort());
await worker.run(stop.signal);
