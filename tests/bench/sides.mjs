// SPDX-License-Identifier: Apache-2.0
// The peers of the benchmark of jobs, each as its own processes: one that adds, one or two that process. They are measured as Mainstay is: warmed up, the workers standing ready but stopped (SIGSTOP)
// while the jobs are added, then going on (SIGCONT); timed from the first start of a handler to the last completion.
import { randomUUID } from 'node:crypto';
import { sleep } from '../e2e/lib/suite.mjs';
import { args } from './mainstay.mjs';
import { withCpu } from './cpu.mjs';
import { Peer, together } from './measure.mjs';

export class Side {
  // script of peers/; before(): what must be out of the way; work: what its workers are asked; workers: how many processes; servers: their pids, () => {name: [pid]}; clear(): empties its queue; standing: false for workers that cannot wait
  // for jobs.
  constructor({ script, before, settings, work = {}, workers = 1, servers, clear, standing = true, warm = 2000 }) {
    Object.assign(this, { script, before, settings, work, count: workers, servers, clear, standing, warm });
  }

  turn(body) {
    return async () => {
      await this.before();
      const settings = { ...this.settings, queue: `bench-${randomUUID()}` };
      const open = async () => {
        const peer = new Peer(this.script, settings);
        await peer.next();
        return peer;
      };
      this.producer = await open();
      this.workers = [];
      try {
        for (let n = 0; n < this.count; n += 1) this.workers.push(await open());
        if (this.warm > 0) await this.cycle({ jobs: this.warm, batch: 500, callers: 4 });
        return await body(this);
      } finally {
        for (const peer of [this.producer, ...this.workers]) await peer.stop();
        await this.clear();
      }
    };
  }

  roots(...peers) {
    return () => ({ ...this.servers(), node: peers.map((peer) => peer.pid) });
  }

  async signal(name) {
    for (const worker of this.workers) process.kill(worker.pid, name);
  }
  async startWork() {
    for (const worker of this.workers) await worker.ask({ do: 'work', ...this.work });
  }

  // Until `jobs` handlers ran and nothing is left: {first, last}.
  async finished(jobs) {
    let progress;
    for (;;) {
      progress = together(await Promise.all(this.workers.map((worker) => worker.ask({ do: 'progress' }))));
      if (progress.done >= jobs) break;
      await sleep(10);
    }
    // Completions may travel in batches after the handlers: it is over when the jobs are gone.
    while ((await this.producer.ask({ do: 'left' })).left > 0) {
      progress.last = Date.now();
      await sleep(2);
    }
    return progress;
  }

  async cycle({ jobs, batch, callers, single = false }) {
    if (this.standing) {
      await this.startWork();
      await sleep(100); // its first look for jobs
      await this.signal('SIGSTOP');
    }
    const enqueue = await withCpu(this.roots(this.producer), () => this.producer.ask(single ? { do: 'single', count: jobs, args, callers } : { do: 'fill', count: jobs, args, batch, in_flight: callers }));
    const processing = await withCpu(this.roots(...this.workers), async () => {
      if (this.standing) await this.signal('SIGCONT');
      else await this.startWork();
      return this.finished(jobs);
    });
    for (const worker of this.workers) await worker.ask({ do: 'rest' });
    return {
      enqueue_per_s: enqueue.per_s,
      enqueue_cpu_us: (enqueue.cpu_s / jobs) * 1e6,
      per_s: jobs / ((processing.last - processing.first) / 1000),
      cpu_us: (processing.cpu_s / jobs) * 1e6,
    };
  }

  // Adds and processes at once.
  async both({ jobs, batch, callers }) {
    await this.startWork();
    const begun = Date.now();
    const [, progress] = await Promise.all([this.producer.ask({ do: 'fill', count: jobs, args, batch, in_flight: callers }), this.untilDone(jobs)]);
    for (const worker of this.workers) await worker.ask({ do: 'rest' });
    return { per_s: jobs / ((progress.last - begun) / 1000) };
  }
  async untilDone(jobs) {
    for (;;) {
      const progress = together(await Promise.all(this.workers.map((worker) => worker.ask({ do: 'progress' }))));
      if (progress.done >= jobs) return progress;
      await sleep(10);
    }
  }

  async latency({ jobs, every_ms: everyMs }) {
    const [worker] = this.workers;
    await worker.ask({ do: 'work', ...this.work });
    const figures = await worker.ask({ do: 'latency', count: jobs, args, every_ms: everyMs });
    await worker.ask({ do: 'rest' });
    return figures;
  }
}
