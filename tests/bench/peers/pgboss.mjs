// SPDX-License-Identifier: Apache-2.0
// pg-boss on the same PostgreSQL. Its workers ask at most ten times a second, so the jobs are fetched and completed by hand, 500 at a time by two fetchers: documented, and its fastest. It keeps
// finished jobs.
import PgBoss from 'pg-boss';
import { Progress, adding, serve, settings, sleep } from './loop.mjs';

const url = new URL(settings.database);
const boss = new PgBoss({ host: url.searchParams.get('host'), port: Number(url.searchParams.get('port')), user: url.searchParams.get('user'), database: url.pathname.slice(1), max: 16, noSupervisor: true, noScheduling: true });
boss.on('error', (error) => console.error(error));
await boss.start();
const progress = new Progress();
let working = false;
let fetchers = [];

async function fetcher() {
  while (working) {
    const jobs = await boss.fetch(settings.queue, 500);
    if (!jobs || jobs.length === 0) {
      await sleep(5);
      continue;
    }
    progress.started();
    await boss.complete(jobs.map((job) => job.id));
    progress.ended(jobs.length);
  }
}

await serve({
  fill: ({ count, args, batch, in_flight: inFlight }) => adding(count, batch, inFlight, (n) => boss.insert(Array.from({ length: n }, () => ({ name: settings.queue, data: args })))),
  single: ({ count, args, callers }) => adding(count, 1, callers, () => boss.send(settings.queue, args)),
  work: () => {
    progress.reset();
    working = true;
    fetchers = [fetcher(), fetcher()];
  },
  progress: () => progress.answer(),
  rest: async () => {
    working = false;
    await Promise.all(fetchers);
  },
  left: async () => ({ left: await boss.getQueueSize(settings.queue) }),
});
