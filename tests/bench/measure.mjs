// SPDX-License-Identifier: Apache-2.0
// What the benchmarks share: rounds, medians, peers as processes, rows of results.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const here = path.dirname(fileURLToPath(import.meta.url));
export const version = (name) => `${name} ${JSON.parse(readFileSync(path.join(here, 'node_modules', name, 'package.json'), 'utf8')).version}`;

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// Runs every contender once per round, in turn, so that a slow minute of the machine hits all; returns the median of each figure.
export async function rounds(contenders, count, log) {
  const samples = Object.fromEntries(Object.keys(contenders).map((name) => [name, []]));
  for (let round = 1; round <= count; round += 1) {
    for (const [name, run] of Object.entries(contenders)) {
      const figures = await run();
      log(`round ${round}: ${name} ${JSON.stringify(figures)}`);
      samples[name].push(figures);
    }
  }
  return Object.fromEntries(Object.entries(samples).map(([name, all]) => [name, Object.fromEntries(Object.keys(all[0]).map((metric) => [metric, median(all.map((figures) => figures[metric]))]))]));
}

// One row. For rates more is better, for anything else less.
export function row(benchmark, metric, unit, mainstay, peer, peerName) {
  return { benchmark, metric, unit, mainstay, peer, peer_name: peerName, ratio: metric === 'per_s' ? mainstay / peer : peer / mainstay };
}

// A program's standard output; fails with its errors when it fails.
export async function output(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  let out = '';
  let errors = '';
  child.stdout.on('data', (chunk) => { out += chunk; });
  child.stderr.on('data', (chunk) => { errors += chunk; });
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${errors}${out}`);
  return out;
}

// A peer in a process of its own. It says one line of JSON when it is ready, and answers each line of JSON with one.
export class Peer {
  constructor(script, settings) {
    this.child = spawn(process.execPath, [path.join(here, 'peers', script), JSON.stringify(settings)], { stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, NODE_ENV: 'production' } });
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
  }
  async next() {
    const { value, done } = await this.lines.next();
    if (done) throw new Error('the peer ended');
    return JSON.parse(value);
  }
  ask(question) {
    this.child.stdin.write(`${JSON.stringify(question)}\n`);
    return this.next();
  }
  async stop() {
    const ended = this.child.exitCode === null ? once(this.child, 'exit') : undefined;
    this.child.kill('SIGTERM');
    await ended;
  }
}
