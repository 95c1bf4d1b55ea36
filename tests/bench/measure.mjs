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

// Runs every contender once per round, in turn, so that a slow minute of the machine hits all; returns the median of each figure. Only numbers have one: anything else a contender tells is for the log.
export async function rounds(contenders, count, log) {
  const samples = Object.fromEntries(Object.keys(contenders).map((name) => [name, []]));
  for (let round = 1; round <= count; round += 1) {
    for (const [name, run] of Object.entries(contenders)) {
      const figures = await run();
      log(`round ${round}: ${name} ${JSON.stringify(figures)}`);
      samples[name].push(figures);
    }
  }
  const numbers = (figures) => Object.keys(figures).filter((metric) => typeof figures[metric] === 'number');
  return Object.fromEntries(Object.entries(samples).map(([name, all]) => [name, Object.fromEntries(numbers(all[0]).map((metric) => [metric, median(all.map((figures) => figures[metric]))]))]));
}

// The value below which the given share of a sorted list lies (nearest rank).
export function percentile(sorted, share) {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

// From several workers' progress: {first, last, done}.
export function together(all) {
  const known = (name) => all.map((each) => each[name]).filter((value) => value !== null);
  return { done: all.reduce((sum, each) => sum + each.done, 0), first: Math.min(...known('first')), last: Math.max(...known('last')) };
}

// One row. For rates more is better, for anything else less. `more` are keys of its own: what the ledger counted.
export function row(benchmark, metric, unit, mainstay, peer, peerName, more = {}) {
  return { benchmark, metric, unit, mainstay, peer, peer_name: peerName, ratio: metric.startsWith('per_s') ? mainstay / peer : peer / mainstay, ...more };
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

// A process of its own that says one line of JSON when it is ready, and answers each line of JSON with one.
export class Peer {
  // script: a file of peers/, run by Node or, *.py, by Python. Or a program with its arguments.
  constructor(script, settings) {
    const [command, ...args] = Array.isArray(script)
      ? script
      : [script.endsWith('.py') ? '/usr/bin/python3' : process.execPath, path.join(here, 'peers', script), JSON.stringify(settings)];
    this.name = path.basename(Array.isArray(script) ? command : script);
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, NODE_ENV: 'production' } });
    this.child.stdin.on('error', () => {}); // it ended; whoever asks next is told
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
  }
  async next() {
    const { value, done } = await this.lines.next();
    if (done) throw new Error(`${this.name} ended (${this.child.exitCode ?? this.child.signalCode})`);
    const answer = JSON.parse(value);
    if (answer.error) throw new Error(`${this.name}: ${answer.error}`);
    return answer;
  }
  ask(question) {
    this.child.stdin.write(`${JSON.stringify(question)}\n`);
    return this.next();
  }
  get pid() {
    return this.child.pid;
  }
  // For programs that end by themselves once their input does.
  async finish() {
    const ended = once(this.child, 'exit');
    this.child.stdin.end();
    if (this.child.exitCode === null) await ended;
    if (this.child.exitCode !== 0) throw new Error(`${this.name} ended with ${this.child.exitCode ?? this.child.signalCode}`);
  }
  async stop() {
    const ended = this.child.exitCode === null && this.child.signalCode === null ? once(this.child, 'exit') : undefined;
    this.child.kill('SIGTERM');
    await ended;
  }
}
