// SPDX-License-Identifier: Apache-2.0
// CPU time and memory of process trees, from /proc: what a benchmark cost, whoever paid for it.
//
// A tree is a process with all its descendants. What ended meanwhile stays counted: the kernel adds it to the parent that waited for it. So the time of a tree never goes back, as long as its root
// lives and waits for its children (the postmaster, a worker). Ticks are 10 ms per process: measure over seconds.
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';

const once = (make) => {
  let value;
  return () => (value ??= make());
};
const ticksPerSecond = once(() => Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' })));
const pageBytes = once(() => Number(execFileSync('getconf', ['PAGESIZE'], { encoding: 'utf8' })));

// One line of /proc/PID/stat. The command stands in parentheses and may itself hold spaces and parentheses.
export function parseStat(line) {
  const pid = Number(line.slice(0, line.indexOf(' ')));
  const fields = line.slice(line.lastIndexOf(')') + 2).trim().split(' '); // from the third on: state, parent, …
  const at = (number) => Number(fields[number - 3]);
  return { pid, parent: at(4), ticks: at(14) + at(15) + at(16) + at(17), pages: at(24) };
}

function processes(proc) {
  const all = new Map();
  for (const name of readdirSync(proc)) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = parseStat(readFileSync(path.join(proc, name, 'stat'), 'utf8'));
      all.set(stat.pid, stat);
    } catch (error) {
      if (error.code !== 'ENOENT' && error.code !== 'ESRCH') throw error; // it ended while we read
    }
  }
  return all;
}

// The roots and everything below them, each process once.
export function treeOf(roots, all) {
  const children = new Map();
  for (const stat of all.values()) {
    if (!children.has(stat.parent)) children.set(stat.parent, []);
    children.get(stat.parent).push(stat.pid);
  }
  const found = new Set();
  const waiting = roots.filter((pid) => all.has(pid));
  while (waiting.length > 0) {
    const pid = waiting.pop();
    if (found.has(pid)) continue;
    found.add(pid);
    waiting.push(...(children.get(pid) ?? []));
  }
  return [...found];
}

export function cpuSeconds(roots, { proc = '/proc', hertz = ticksPerSecond() } = {}) {
  const all = processes(proc);
  for (const pid of roots) if (!all.has(pid)) throw new Error(`process ${pid} is gone: its CPU time is unknown`);
  return treeOf(roots, all).reduce((sum, pid) => sum + all.get(pid).ticks, 0) / hertz;
}

// Resident memory; pages that processes of the tree share are counted for each.
export function residentMegabytes(roots, { proc = '/proc', page = pageBytes() } = {}) {
  const all = processes(proc);
  return (treeOf(roots, all).reduce((sum, pid) => sum + all.get(pid).pages, 0) * page) / 1048576;
}

// Runs `work`; its figures and the CPU seconds that the trees of `roots()` used meanwhile, by name. roots: () => {name: [pid…]}, the same before and after.
export async function withCpu(roots, work, options) {
  const before = Object.entries(roots()).map(([name, pids]) => [name, pids, cpuSeconds(pids, options)]);
  const figures = await work();
  const cpu = Object.fromEntries(before.map(([name, pids, seconds]) => [name, cpuSeconds(pids, options) - seconds]));
  return { ...figures, cpu, cpu_s: Object.values(cpu).reduce((sum, seconds) => sum + seconds, 0) };
}
