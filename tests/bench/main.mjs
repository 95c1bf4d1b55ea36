// SPDX-License-Identifier: Apache-2.0
// Runs the named benchmarks on one Mainstay started for them, and prints and stores what came out.
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Suite } from '../e2e/lib/suite.mjs';
import { jobs, names as jobNames } from './jobs.mjs';
import { names as recordNames, records } from './records.mjs';

const { values, positionals } = parseArgs({ allowPositionals: true, options: { quick: { type: 'boolean', default: false }, only: { type: 'string' }, json: { type: 'string' } } });
const all = { records, jobs };
const names = [...recordNames, ...jobNames];
const unknown = (values.only?.split(',') ?? []).filter((name) => !names.includes(name));
if (unknown.length > 0) {
  console.error(`--only: there is no ${unknown.join(', ')}; there are ${names.join(' ')}`);
  process.exit(2);
}
const results = [];
const skipped = [];
const problems = [];
const suite = await Suite.start();
let failed = false;
try {
  for (const name of positionals) {
    const figures = await all[name](suite, { quick: values.quick, only: values.only?.split(','), log: (text) => console.error(text) });
    results.push(...(figures.results ?? figures));
    skipped.push(...(figures.skipped ?? []));
    problems.push(...(figures.problems ?? []));
  }
} catch (error) {
  console.error(error);
  failed = true;
} finally {
  await suite.stop();
}

const number = (value) => value.toLocaleString('en-US', { maximumFractionDigits: value < 100 ? 2 : 0 });
const count = (value) => (value === undefined ? '' : number(value));
const right = new Set(['mainstay', 'peer', 'ratio', 'jobs', 'lost', 'double']);
const head = ['benchmark', 'metric', 'unit', 'mainstay', 'peer', 'ratio', 'jobs', 'lost', 'double', 'peer is'];
const rows = [head, ...results.map((r) => [r.benchmark, r.metric, r.unit, number(r.mainstay), number(r.peer), r.ratio.toFixed(2), count(r.jobs), count(r.lost), count(r.double), r.peer_name])];
const widths = head.map((_, i) => Math.max(...rows.map((row) => row[i].length)));
for (const row of rows) console.log(row.map((cell, i) => (right.has(head[i]) ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join('  ').trimEnd());
for (const what of skipped) console.log(`skipped: ${what}`);
for (const what of problems) console.log(`WRONG: ${what}`);
if (values.json) writeFileSync(values.json, `${JSON.stringify(results, null, 2)}\n`);
process.exit(failed || problems.length > 0 ? 1 : 0);
