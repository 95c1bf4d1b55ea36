// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { cpuSeconds, parseStat, residentMegabytes, treeOf, withCpu } from './cpu.mjs';
import { Ledger } from './ledger.mjs';
import { median, percentile, rounds, row, together } from './measure.mjs';

// A /proc with these processes: {pid, parent, command, user, system, childUser, childSystem, pages}, times in ticks.
function proc(t, processes) {
  const folder = mkdtempSync(path.join(tmpdir(), 'bench-proc-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const write = (list) => {
    for (const p of list) {
      mkdirSync(path.join(folder, String(p.pid)), { recursive: true });
      const tail = [p.state ?? 'S', p.parent, 1, 1, 0, -1, 0, 0, 0, 0, 0, p.user ?? 0, p.system ?? 0, p.childUser ?? 0, p.childSystem ?? 0, 20, 0, 1, 0, 12345, 999999, p.pages ?? 0, 0];
      writeFileSync(path.join(folder, String(p.pid), 'stat'), `${p.pid} (${p.command ?? 'x'}) ${tail.join(' ')}\n`);
    }
  };
  write(processes);
  return { folder, write, end: (pid) => rmSync(path.join(folder, String(pid)), { recursive: true }), options: { proc: folder, hertz: 100, page: 4096 } };
}

test('a command with spaces and parentheses does not shift the fields', () => {
  const line = `77 (a) b (c) S 12 1 1 0 -1 0 0 0 0 0 5 6 7 8 20 0 1 0 12345 999999 300 0`;
  assert.deepEqual(parseStat(line), { pid: 77, parent: 12, ticks: 26, pages: 300 });
});

test("the fields are those of this kernel's own /proc", () => {
  const before = cpuSeconds([process.pid]);
  const end = Date.now() + 200;
  while (Date.now() < end);
  const spent = cpuSeconds([process.pid]) - before;
  assert.ok(spent > 0 && spent < 60, `${spent} s`);
  assert.ok(residentMegabytes([process.pid]) > 10);
});

test('a tree holds descendants of every depth once, and no stranger', () => {
  const all = new Map([[1, 0], [10, 1], [11, 10], [12, 11], [20, 1]].map(([pid, parent]) => [pid, { pid, parent }]));
  assert.deepEqual(treeOf([10], all).sort(), [10, 11, 12]);
  assert.deepEqual(treeOf([10, 11], all).sort(), [10, 11, 12]);
});

test('CPU of a tree counts user and system time of all its processes', (t) => {
  const p = proc(t, [{ pid: 10, parent: 1, user: 100, system: 50 }, { pid: 11, parent: 10, user: 25, system: 25 }, { pid: 20, parent: 1, user: 9999 }]);
  assert.equal(cpuSeconds([10], p.options), 2);
});

test('a child that ended and was waited for stays counted', async (t) => {
  const p = proc(t, [{ pid: 10, parent: 1, user: 100 }, { pid: 11, parent: 10, user: 200 }]);
  const { cpu_s: spent, cpu, jobs } = await withCpu(() => ({ server: [10] }), async () => {
    p.end(11);
    p.write([{ pid: 10, parent: 1, user: 150, childUser: 275 }]);
    return { jobs: 7 };
  }, p.options);
  assert.equal(spent, 1.25); // 0.5 of its own and 0.75 of the child's
  assert.deepEqual(cpu, { server: 1.25 });
  assert.equal(jobs, 7);
});

test('a root that is gone is an error, not zero', (t) => {
  assert.throws(() => cpuSeconds([99], proc(t, []).options), /process 99 is gone/);
});

test('memory of a tree is in megabytes', (t) => {
  const p = proc(t, [{ pid: 10, parent: 1, pages: 256 }, { pid: 11, parent: 10, pages: 256 }]);
  assert.equal(residentMegabytes([10], p.options), 2);
});

test('contenders run in turn, and each figure is the median of its rounds', async () => {
  const order = [];
  const series = { a: [10, 30, 20], b: [3, 1, 2] };
  const contender = (name) => async () => {
    order.push(name);
    return { per_s: series[name].shift(), note: { any: 'thing' } };
  };
  assert.deepEqual(await rounds({ a: contender('a'), b: contender('b') }, 3, () => {}), { a: { per_s: 20 }, b: { per_s: 2 } });
  assert.deepEqual(order, ['a', 'b', 'a', 'b', 'a', 'b']);
});

test('a median leaves its input alone, and halves the middle of an even number', () => {
  const values = [4, 1, 3, 2];
  assert.equal(median(values), 2.5);
  assert.deepEqual(values, [4, 1, 3, 2]);
});

test('a percentile is a value that occurred', () => {
  const values = Array.from({ length: 200 }, (_, i) => i + 1);
  assert.equal(percentile(values, 0.5), 100);
  assert.equal(percentile(values, 0.99), 198);
  assert.equal(percentile([5], 0.99), 5);
});

test('a ratio above 1 means Mainstay is better, whatever is measured', () => {
  assert.equal(row('x', 'per_s', '1/s', 400, 100, 'p').ratio, 4);
  assert.equal(row('x', 'per_s_merged', '1/s', 400, 100, 'p').ratio, 4);
  assert.equal(row('x', 'p99_ms', 'ms', 2, 8, 'p').ratio, 4);
  assert.deepEqual(row('x', 'per_s', '1/s', 1, 1, 'p', { lost: 0 }).lost, 0);
});

const counts = { added: 10, ids: 10, done: 10, waiting: 0, lost: 0, double: 0, again: 0, failed: 0 };

test('a ledger that balances has no problem, and its counts are since it was asked last', () => {
  const ledger = new Ledger();
  ledger.note('a', counts, { expected: 10 });
  ledger.note('b', { ...counts, again: 2 }, { expected: 10 });
  assert.deepEqual(ledger.problems, []);
  assert.deepEqual(ledger.take(), { jobs: 20, lost: 0, double: 0, again: 2, waiting: 0 });
  assert.equal(ledger.take().jobs, 0);
});

test('whatever does not balance is a problem, and the counts say so', () => {
  for (const wrong of [{ lost: 1 }, { double: 1 }, { failed: 1 }, { waiting: 1 }, { ids: 9 }, { added: 9, ids: 9 }]) {
    const ledger = new Ledger();
    ledger.note('run', { ...counts, ...wrong }, { expected: 10 });
    assert.equal(ledger.problems.length, 1, JSON.stringify(wrong));
  }
  const ledger = new Ledger();
  ledger.note('run', { ...counts, lost: 3 }, { expected: 10 });
  assert.equal(ledger.take().lost, 3);
});

test('jobs may wait only where a run was cut short on purpose', () => {
  const ledger = new Ledger();
  ledger.note('run', { ...counts, done: 4, waiting: 6 }, { expected: 10, waiting: true });
  assert.deepEqual(ledger.problems, []);
});

test('several workers together: from the first start of any to the last end of any', () => {
  assert.deepEqual(together([{ done: 3, first: 20, last: 90 }, { done: 4, first: 10, last: 80 }, { done: 0, first: null, last: null }]), { done: 7, first: 10, last: 90 });
});
