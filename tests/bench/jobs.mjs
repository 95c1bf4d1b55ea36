// SPDX-License-Identifier: Apache-2.0
// process: no-op jobs from the queue to their final state. All jobs are there before the workers start; the rate is taken from the first start to the last end, as each side wrote them down.
// Mainstay keeps a durable row and a history of every job, BullMQ removes finished ones.
import assert from 'node:assert/strict';
import { eventually } from '../e2e/lib/suite.mjs';
import { Peer, rounds, row, version } from './measure.mjs';

export async function jobs(suite, { quick, log }) {
  const count = quick ? 20000 : 100000;
  const args = { order: 123456, note: 'forty-five bytes of JSON' };
  const bullmq = new Peer('bullmq.mjs', { port: Number(suite.settings.port_redis), concurrency: 100 });
  await bullmq.next();
  let round = 0;
  const mainstay = async () => {
    round += 1;
    const tag = `bench-${round}`;
    await suite.ok(200, 'POST', '/mainstay/v1/queues/default:pause', { body: { reason: 'benchmark' } });
    for (let i = 0; i < count; i += 5000) {
      await suite.ok(200, 'POST', '/mainstay/v1/jobs:batchCreate', { body: { items: Array.from({ length: Math.min(5000, count - i) }, () => ({ kind: 'mainstay.noop', args, tags: [tag] })) } });
    }
    await suite.ok(200, 'POST', '/mainstay/v1/queues/default:resume', { body: {} });
    const done = `FROM mainstay.jobs_history WHERE '${tag}' = ANY (tags) AND state = 6`;
    await eventually(async () => Number(await suite.value(`SELECT count(*) ${done}`)) === count, { within: 600000, every: 500, what: `${count} jobs done` });
    const seconds = Number(await suite.value(`SELECT extract(epoch FROM max(finished_at) - min(started_at)) ${done}`));
    assert.ok(seconds > 0);
    return { per_s: count / seconds };
  };
  try {
    const figures = await rounds({ mainstay, bullmq: () => bullmq.ask({ count, args }) }, quick ? 1 : 3, log);
    return [row('process', 'per_s', '1/s', figures.mainstay.per_s, figures.bullmq.per_s, version('bullmq'))];
  } finally {
    await bullmq.stop();
  }
}
