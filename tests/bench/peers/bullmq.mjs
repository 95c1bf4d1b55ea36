// SPDX-License-Identifier: Apache-2.0
// BullMQ on the same Redis (append-only file, synced every second). Finished jobs are removed, which is its fastest: it keeps no history.
import { Queue, Worker } from 'bullmq';
import { Latency, Progress, adding, serve, settings } from './loop.mjs';

const connection = { host: '127.0.0.1', port: settings.port, db: 1, maxRetriesPerRequest: null };
const queue = new Queue(settings.queue, { connection, defaultJobOptions: { removeOnComplete: true, removeOnFail: true } });
await queue.waitUntilReady();
const progress = new Progress();
const latency = new Latency();
let worker;

await serve({
  fill: ({ count, args, batch, in_flight: inFlight }) => adding(count, batch, inFlight, (n) => queue.addBulk(Array.from({ length: n }, () => ({ name: 'noop', data: args })))),
  single: ({ count, args, callers }) => adding(count, 1, callers, () => queue.add('noop', args)),
  work: async ({ concurrency }) => {
    progress.reset();
    worker = new Worker(
      settings.queue,
      async (job) => {
        progress.started();
        latency.started(job.data.n);
      },
      { connection, concurrency },
    );
    worker.on('completed', () => progress.ended());
    worker.on('error', (error) => console.error(error));
    await worker.waitUntilReady();
  },
  progress: () => progress.answer(),
  rest: () => worker.close(),
  left: async () => ({ left: await queue.getJobCountByTypes('waiting', 'active', 'delayed', 'prioritized') }),
  latency: ({ count, args, every_ms: everyMs }) => latency.measure(count, everyMs, (n) => queue.add('noop', { ...args, n })),
});
