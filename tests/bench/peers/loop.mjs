// SPDX-License-Identifier: Apache-2.0
// What every peer does alike: a process that answers one line of JSON for each it is sent, {do, …}.
//
//   fill {count, args, batch, in_flight}   adds jobs in bulk          → {seconds, per_s}
//   single {count, args, callers}          adds them one by one       → {seconds, per_s}
//   work {…}                               begins to process          → {}
//   progress                               what was done since then   → {done, first, last}  (milliseconds since 1970: of the first start, of the last end)
//   rest                                   stops processing           → {}
//   left                                   jobs that are still there  → {left}
//   latency {count, args, every_ms}        one job at a time, from the end of the call that adds it to the start of its handler → {p50_ms, p99_ms}
import { createInterface } from 'node:readline';
import { percentile } from '../measure.mjs';

export const settings = JSON.parse(process.argv[2]);
export const now = () => performance.timeOrigin + performance.now();
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export class Progress {
  constructor() {
    this.reset();
  }
  reset() {
    this.done = 0;
    this.first = null;
    this.last = null;
  }
  started() {
    this.first ??= now();
  }
  ended(count = 1) {
    this.done += count;
    this.last = now();
  }
  answer() {
    return { done: this.done, first: this.first, last: this.last };
  }
}

// `count` jobs by `callers` at once; add(how many) resolves when the call is answered.
export async function adding(count, batch, callers, add) {
  const begun = now();
  let left = count;
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (left > 0) {
        const n = Math.min(batch, left);
        left -= n;
        await add(n);
      }
    }),
  );
  const seconds = (now() - begun) / 1000;
  return { seconds, per_s: count / seconds };
}

// Starts of handlers against the ends of the calls that added their jobs. add(n) adds the job with the number n; its handler calls started(n). A job that starts before its call has returned waited
// no time at all, which is 0 and no less.
export class Latency {
  async measure(count, everyMs, add) {
    this.starts = new Map();
    const added = [];
    for (let n = 0; n < count; n += 1) {
      await add(n);
      added.push(now());
      await sleep(everyMs);
    }
    while (this.starts.size < count) await sleep(5);
    const waits = added.map((at, n) => Math.max(0, this.starts.get(n) - at)).sort((a, b) => a - b);
    this.starts = undefined;
    return { p50_ms: percentile(waits, 0.5), p99_ms: percentile(waits, 0.99) };
  }
  started(n) {
    this.starts?.set(n, now());
  }
}

export async function serve(handlers) {
  console.log(JSON.stringify({ ready: true }));
  for await (const line of createInterface({ input: process.stdin })) {
    const question = JSON.parse(line);
    let answer;
    try {
      answer = (await handlers[question.do](question)) ?? {};
    } catch (error) {
      console.error(error);
      answer = { error: String(error) };
    }
    console.log(JSON.stringify(answer));
  }
  process.exit(0);
}
