// SPDX-License-Identifier: Apache-2.0
// The peer of jobs: BullMQ with one worker process, finished jobs removed, on the same Redis (append-only file, synced every second).
import { Queue, Worker } from 'bullmq';
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';

const settings = JSON.parse(process.argv[2]);
const connection = { host: '127.0.0.1', port: settings.port, db: 1, maxRetriesPerRequest: null };
console.log(JSON.stringify({ ready: true }));
for await (const line of createInterface({ input: process.stdin })) {
  const { count, args } = JSON.parse(line);
  const name = `bench-${randomUUID()}`;
  const queue = new Queue(name, { connection, defaultJobOptions: { removeOnComplete: true, removeOnFail: true } });
  for (let i = 0; i < count; i += 500) await queue.addBulk(Array.from({ length: Math.min(500, count - i) }, () => ({ name: 'noop', data: args })));
  let done = 0;
  let first;
  let last;
  const worker = new Worker(name, async () => {
    first ??= performance.now();
  }, { connection, concurrency: settings.concurrency });
  await new Promise((finished) => {
    worker.on('completed', () => {
      done += 1;
      if (done === count) {
        last = performance.now();
        finished();
      }
    });
  });
  await worker.close();
  await queue.obliterate({ force: true });
  await queue.close();
  console.log(JSON.stringify({ per_s: count / ((last - first) / 1000) }));
}
process.exit(0);
