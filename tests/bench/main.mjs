// SPDX-License-Identifier: Apache-2.0
// Runs the named benchmarks on one Mainstay started for them, and prints and stores what came out.
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Suite } from '../e2e/lib/suite.mjs';
import { jobs } from './jobs.mjs';
import { records } from './records.mjs';

const { values, positionals } = parseArgs({ allowPositionals: true, options: { quick: { type: 'boolean', default: false }, json: { type: 'string' } } });
const all = { records, jobs };
const results = [];
const suite = await Suite.start();
let failed = false;
try {
  for (const name of positionals) results.push(...(await all[name](suite, { quick: values.quick, log: (text) => console.error(text) })));
} catch (error) {
  console.error(error);
  failed = true;
} finally {
  await suite.stop();
}

const number = (value) => value.toLocaleString('en-US', { maximumFractionDigits: value < 100 ? 2 : 0 });
const rows = [['benchmark', 'metric', 'unit', 'mainstay', 'peer', '', 'ratio'],
  ...results.map((r) => [r.benchmark, r.metric, r.unit, number(r.mainstay), number(r.peer), r.peer_name, r.ratio.toFixed(2)])];
const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
for (const row of rows) console.log(row.map((cell, i) => (i >= 3 && i !== 5 ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join('  ').trimEnd());
if (values.json) writeFileSync(values.json, `${JSON.stringify(results, null, 2)}\n`);
process.exit(failed ? 1 : 0);
