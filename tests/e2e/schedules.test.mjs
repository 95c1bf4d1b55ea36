// SPDX-License-Identifier: Apache-2.0
// Schedules through the edge and the command line, by the real clock: declared, run once per fire time, paused, resumed, run by hand, through the death of the worker that leads.
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { Suite, assertProblem, eventually, root } from './lib/suite.mjs';

let suite;
let folder;

async function publish(schedules) {
  writeFileSync(path.join(folder, 'schedules.yaml'), `schedules:\n${schedules}`);
  return suite.cli(['publish', folder, '--set', `payments_url=${suite.provider_url}`]);
}
// The runs of a schedule, oldest first.
async function runs(name) {
  const list = await suite.ok(200, 'GET', `/mainstay/v1/schedule-runs?filter[schedule]=${name}&sort=scheduled_at&limit=200`);
  return list.data;
}
// Every whole second between the first and the last has exactly one row, and those that were enqueued one job each.
function assertOncePerSecond(list) {
  const times = list.map((run) => Date.parse(run.scheduled_at));
  for (let n = 1; n < times.length; n += 1) assert.equal(times[n] - times[n - 1], 1000, `${list[n - 1].scheduled_at} is followed by ${list[n].scheduled_at}`);
  const jobs = list.filter((run) => run.outcome === 'enqueued').map((run) => run.job);
  assert.ok(jobs.every(Boolean));
  assert.equal(new Set(jobs).size, jobs.length);
}

before(async () => {
  suite = await Suite.start();
  folder = mkdtempSync(path.join(tmpdir(), 'mainstay-schedules-'));
  cpSync(path.join(root, 'deploy/demo/catalog'), folder, { recursive: true });
});
after(async () => {
  await suite?.stop();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

test('a wrong cron or zone is refused by check with its place, its field and its character', async () => {
  writeFileSync(path.join(folder, 'schedules.yaml'), "schedules:\n  a: {cron: '0 25 * * *', kind: mainstay.noop, tenant: acme}\n  b: {cron: '@daily', zone: Europe/Brlin, kind: mainstay.noop, tenant: acme}\n  c: {cron: '0 0 30 2 *', kind: mainstay.noop, tenant: acme}\n");
  const { code, stderr } = await suite.cli(['check', folder, '--set', `payments_url=${suite.provider_url}`]);
  assert.equal(code, 1);
  assert.match(stderr, /schedules\.yaml:2:\d+: schedules\.a\.cron: hour "25" \(character 3\): expected 0 to 23/);
  assert.match(stderr, /schedules\.yaml:3:\d+: schedules\.b\.zone: the time zone "Europe\/Brlin" is not known/);
  assert.match(stderr, /schedules\.yaml:4:\d+: schedules\.c\.cron: day of month "30" \(character 5\): never comes in month "2"/);
});

test('a published schedule runs once per second, each job knows when it was due', async () => {
  const { code, stderr } = await publish("  tick: {cron: '* * * * * *', kind: mainstay.noop, tenant: acme, overlap: allow, missed: all, args: {at: '{scheduled_at}'}}\n  nightly: {cron: '30 2 * * mon-fri', zone: Europe/Berlin, kind: mainstay.noop, tenant: acme}\n");
  assert.equal(code, 0, stderr);
  const list = await eventually(async () => {
    const all = await runs('tick');
    return all.filter((run) => run.job_state === 'succeeded').length >= 4 && all;
  }, { what: 'four runs' });
  assertOncePerSecond(list);
  const done = list.find((run) => run.job_state === 'succeeded');
  const job = await suite.ok(200, 'GET', `/mainstay/v1/jobs/${done.job}`);
  assert.equal(job.args.at, done.scheduled_at);
  assert.equal(job.run_at, done.scheduled_at);
  assert.equal(job.principal, 'schedule:tick');
  assert.equal(job.catalog_hash, done.catalog_hash);
});

test('lists, next runs and filters', async () => {
  const all = await suite.ok(200, 'GET', '/mainstay/v1/schedules');
  assert.ok(all.data.some((one) => one.name === 'nightly') && all.data.some((one) => one.name === 'tick'));
  const nightly = await suite.ok(200, 'GET', '/mainstay/v1/schedules/nightly?next=3');
  assert.equal(nightly.zone, 'Europe/Berlin');
  assert.equal(nightly.missed, 'last');
  assert.equal(nightly.overlap, 'skip');
  assert.equal(nightly.missed_window_seconds, 86400);
  assert.equal(nightly.next_runs.length, 3);
  assert.equal(nightly.next_runs[0], nightly.next_run_at);
  for (const time of nightly.next_runs) {
    const local = new Intl.DateTimeFormat('en-GB', { timeZone: 'Europe/Berlin', weekday: 'short', hour: '2-digit', minute: '2-digit' }).format(new Date(time));
    assert.match(local, /^(Mon|Tue|Wed|Thu|Fri),? 02:30$/);
  }
  assert.deepEqual((await suite.ok(200, 'GET', '/mainstay/v1/schedules?filter[zone]=Europe/Berlin&sort=name')).data.map((one) => one.name), ['nightly', 'nightly-orders']);
  const next = await suite.cli(['schedules', 'next', 'nightly', '--count', '2']);
  assert.equal(next.code, 0, next.stderr);
  assert.deepEqual(next.stdout.trim().split('\n'), nightly.next_runs.slice(0, 2));
  const listed = await suite.cli(['schedules', 'list']);
  assert.match(listed.stdout, /nightly +30 2 \* \* mon-fri +Europe\/Berlin/);
});

test('what is asked wrongly is refused; another tenant sees nothing', async () => {
  assertProblem(await suite.api('GET', '/mainstay/v1/schedules/none'), 404, 'not-found');
  assertProblem(await suite.api('POST', '/mainstay/v1/schedules/none:run', { body: {} }), 404, 'not-found');
  const wrong = await suite.api('GET', '/mainstay/v1/schedules/nightly?next=101');
  assertProblem(wrong, 400, 'invalid-parameter');
  assert.equal(wrong.json.errors[0].parameter, 'next');
  const silent = await suite.api('POST', '/mainstay/v1/schedules/nightly:pause', { body: {} });
  assertProblem(silent, 422, 'validation-failed');
  assert.equal(silent.json.errors[0].pointer, '/reason');
  assertProblem(await suite.api('GET', '/mainstay/v1/schedules/nightly', { key: 'globex' }), 404, 'not-found');
  assertProblem(await suite.api('POST', '/mainstay/v1/schedules/nightly:run', { key: 'globex', body: {} }), 404, 'not-found');
  assert.deepEqual((await suite.ok(200, 'GET', '/mainstay/v1/schedules', { key: 'globex' })).data.filter((one) => one.tenant !== 'globex'), []);
});

test('pause, run by hand, a new catalog in between, resume', async () => {
  const paused = await suite.cli(['schedules', 'pause', 'tick', '--reason', 'quiet please', '--json']);
  assert.equal(paused.code, 0, paused.stderr);
  const schedule = JSON.parse(paused.stdout);
  assert.equal(schedule.paused, true);
  assert.equal(schedule.paused_reason, 'quiet please');
  assert.ok(schedule.paused_by);
  assert.deepEqual(schedule.next_runs, []);
  const ran = await suite.cli(['schedules', 'run', 'tick', '--json']);
  assert.equal(ran.code, 0, ran.stderr);
  const run = JSON.parse(ran.stdout);
  assert.equal(run.outcome, 'enqueued');
  assert.equal(run.run_by, schedule.paused_by);
  assert.equal((await suite.job(run.job)).state, 'succeeded');
  // The pause is not the catalog's: another one changes what runs, not that it rests.
  const { code, stderr } = await publish("  tick: {cron: '* * * * * *', kind: mainstay.noop, tenant: acme, overlap: allow, missed: all, args: {new: true}}\n");
  assert.equal(code, 0, stderr);
  const after = await eventually(async () => {
    const now = await suite.ok(200, 'GET', '/mainstay/v1/schedules/tick');
    return now.args.new && now;
  }, { what: 'the new catalog' });
  assert.equal(after.paused_reason, 'quiet please');
  assertProblem(await suite.api('GET', '/mainstay/v1/schedules/nightly'), 404, 'not-found');
  const before = (await runs('tick')).filter((one) => !one.run_by);
  const resumed = await suite.ok(200, 'POST', '/mainstay/v1/schedules/tick:resume', { body: {} });
  assert.equal(resumed.paused, false);
  const later = await eventually(async () => {
    const now = (await runs('tick')).filter((one) => !one.run_by);
    return now.length >= before.length + 3 && now.slice(before.length);
  }, { what: 'runs after the pause' });
  assertOncePerSecond(later);
  const show = await suite.cli(['schedules', 'show', 'tick']);
  assert.match(show.stdout, /^next_runs +\[/m);
  assert.match((await suite.cli(['schedules', 'runs', '--schedule', 'tick', '--limit', '3'])).stdout, /run_\w+ +tick +20/);
});

test('F44, F46: the leading worker is killed for a few fire times: all of them are made up for, each once', async () => {
  const known = (await runs('tick')).filter((one) => !one.run_by).length;
  await suite.kill('worker');
  await new Promise((done) => setTimeout(done, 4000));  // four fire times without anyone
  await suite.restart('worker');
  const back = new Date().toISOString();
  const list = await eventually(async () => {
    const all = (await runs('tick')).filter((one) => !one.run_by).slice(Math.max(0, known - 3));
    return all.length > 0 && all.at(-1).scheduled_at > back && all.every((one) => one.job_state === 'succeeded') && all;
  }, { within: 60000, every: 200, what: 'the worker to have caught up' });
  assertOncePerSecond(list);
});
