// SPDX-License-Identifier: Apache-2.0
// The command line: help that teaches, the database's commands on an empty database, and the gateway's.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Suite, eventually, root } from '../e2e/lib/suite.mjs';

let suite;
before(async () => {
  suite = await Suite.start();
});
const scratch = mkdtempSync(path.join(tmpdir(), 'mainstay-cli-'));
after(async () => {
  rmSync(scratch, { recursive: true });
  await suite?.stop();
});

describe('help', () => {
  it('lists every command, and every command explains itself', async () => {
    const overview = await suite.cli(['--help']);
    assert.equal(overview.code, 0);
    const commands = overview.stdout.split('\n').map((line) => line.match(/^ {2}(?!mainstay )([a-z-]+(?: [a-z-]+)?) {2,}\S/)?.[1]).filter(Boolean);
    for (const command of ['init', 'check', 'publish', 'migrate', 'keys create', 'secrets put', 'jobs list', 'events replay', 'import', 'export', 'inspect', 'doctor']) assert.ok(commands.includes(command), command);
    for (const command of commands) {
      const help = await suite.cli([...command.split(' '), '--help']);
      assert.equal(help.code, 0, command);
      assert.match(help.stdout, new RegExp(`Usage: mainstay ${command}`));
    }
  });
  it('names what was not understood', async () => {
    for (const [args, said] of [[['fly'], /no command "fly"/], [['jobs', 'list', '--colour', 'red'], /unknown option --colour/], [['jobs', 'get'], /ID is missing/], [['publish'], /FOLDER is missing/]]) {
      const answer = await suite.cli(args);
      assert.equal(answer.code, 2, args.join(' '));
      assert.match(answer.stderr, said);
    }
  });
});

describe('on a database that Mainstay has never seen', () => {
  let database;
  before(async () => {
    await suite.sql('CREATE DATABASE empty');
    database = suite.database.replace('/mainstay?', '/empty?');
    execFileSync('psql', ['-Xq', '-v', 'ON_ERROR_STOP=1', database, '-f', path.join(root, 'deploy/demo/schema.sql')]);
  });
  it('migrates once, also when called twice at once', async () => {
    const [one, two] = await Promise.all([suite.cli(['migrate', '--database', database]), suite.cli(['migrate', '--database', database])]);
    assert.equal(one.code, 0, one.stderr);
    assert.equal(two.code, 0, two.stderr);
    const applied = (one.stdout + two.stdout).split('\n').filter((line) => line.startsWith('applied '));
    assert.equal(new Set(applied).size, applied.length, 'each once');
    assert.ok(applied.length >= 8);
    assert.match((await suite.cli(['migrate', '--database', database])).stdout, /up to date/);
  });
  it('drafts a catalog from tables, which checks and publishes as it stands', async () => {
    assert.equal((await suite.cli(['migrate', '--database', database])).code, 0);
    const draft = await suite.cli(['init', '--database', database, '--schema', 'shop']);
    assert.equal(draft.code, 0, draft.stderr);
    assert.match(draft.stdout, /password_hash:\s*\{?\s*hidden: true|password_hash/);
    const folder = mkdtempSync(path.join(scratch, 'draft-'));
    writeFileSync(path.join(folder, 'shop.yaml'), draft.stdout);
    const check = await suite.cli(['check', folder, '--database', database]);
    assert.equal(check.code, 0, check.stderr);
    const published = await suite.cli(['publish', folder, '--database', database]);
    assert.equal(published.code, 0, published.stderr);
    assert.match((await suite.cli(['publish', folder, '--database', database])).stdout, /already active/);
  });
  it('names every mistake of a catalog with its place', async () => {
    const folder = mkdtempSync(path.join(scratch, 'bad-'));
    writeFileSync(path.join(folder, 'a.yaml'), 'resources:\n  orders:\n    table: shop.orders\n    fields:\n      totl: {sortable: true}\n  ghosts:\n    table: shop.ghosts\n');
    const check = await suite.cli(['check', folder, '--database', database]);
    assert.equal(check.code, 1);
    assert.match(check.stderr, /a\.yaml:5:\d+.*totl/);
    assert.match(check.stderr, /a\.yaml:[67]:\d+.*ghosts/);
  });
});

describe('keys and secrets', () => {
  it('makes a key that works until it is revoked', async () => {
    const made = await suite.cli(['keys', 'create', '--tenant', 'acme', '--role', 'viewer', '--name', 'a look']);
    assert.equal(made.code, 0, made.stderr);
    const key = made.stdout.trim();
    assert.match(key, /^mst_/);
    assert.equal((await suite.api('GET', '/v1/orders?limit=1', { key })).status, 200);
    assert.equal((await suite.api('POST', '/v1/orders', { key, body: {} })).status, 403);
    const id = made.stderr.match(/key_[0-9a-z]+/)[0];
    const list = await suite.cli(['keys', 'list']);
    assert.match(list.stdout, new RegExp(`${id} +live +acme`));
    assert.ok(!list.stdout.includes(key) && !(await suite.value('SELECT string_agg(k::text, \' \') FROM mainstay.api_keys k')).includes(key.split('_').pop()), 'the secret is stored nowhere');
    assert.equal((await suite.cli(['keys', 'revoke', id])).code, 0);
    await eventually(async () => (await suite.api('GET', '/v1/orders?limit=1', { key })).status === 401, { what: 'the end of the revoked key' });
  });
  it('stores secrets encrypted and never shows them', async () => {
    const put = await suite.cli(['secrets', 'put', 'probe', '-'], { input: 'open-sesame-1234\n' });
    assert.equal(put.code, 0, put.stderr);
    const list = await suite.cli(['secrets', 'list']);
    assert.match(list.stdout, /probe/);
    assert.doesNotMatch(list.stdout, /sesame/);
    assert.doesNotMatch(await suite.value("SELECT string_agg(s::text, ' ') FROM mainstay.secrets s"), /sesame/);
    assert.equal((await suite.cli(['secrets', 'remove', 'probe'])).code, 0);
    assert.equal((await suite.cli(['secrets', 'put', 'probe', '-'], { input: '' })).code, 1);
  });
  it('writes key files that only their owner reads, and never over others', async () => {
    const out = path.join(scratch, 'service');
    assert.equal((await suite.cli(['keys', 'generate-signing', '--out', out])).code, 0);
    assert.equal(statSync(`${out}.key`).mode & 0o777, 0o600);
    assert.equal(Buffer.from(readFileSync(`${out}.key`, 'utf8'), 'base64').length, 32);
    assert.equal(Buffer.from(readFileSync(`${out}.pub`, 'utf8'), 'base64').length, 32);
    assert.equal((await suite.cli(['keys', 'generate-signing', '--out', out])).code, 1);
  });
});

describe('through the gateway', () => {
  it('shows jobs, events and objects by their id', async () => {
    const order = await suite.ok(201, 'POST', '/v1/orders', { body: { customer_id: (await suite.ok(200, 'GET', '/v1/customers?limit=1&fields=id')).data[0].id, number: 'CLI-1', status: 'open' } });
    const payment = await suite.provider('POST', '/_admin/payments', { amount: '5.00', currency: 'EUR', status: 'succeeded', account: 'acme', metadata: { order_id: order.id } });
    const event = await suite.provider('POST', '/_admin/events', { payment: payment.id });
    const stored = await suite.eventOf(event.id);
    const waited = await suite.cli(['jobs', 'get', stored.job_id, '--wait', '30s', '--json']);
    assert.equal(JSON.parse(waited.stdout).state, 'succeeded', waited.stderr);
    assert.match((await suite.cli(['jobs', 'list', '--state', 'succeeded'])).stdout, new RegExp(stored.job_id));
    assert.match((await suite.cli(['events', 'list', '--source', 'payments'])).stdout, new RegExp(stored.id));
    assert.match((await suite.cli(['inspect', stored.id])).stdout, /payment\.succeeded/);
    const replayed = await suite.cli(['events', 'replay', stored.id, '--reason', 'test', '--json']);
    assert.equal(replayed.code, 0, replayed.stderr);
    assert.notEqual(JSON.parse(replayed.stdout).job_id, stored.job_id);
    const wrong = await suite.cli(['jobs', 'get', 'job_01jc8z4v0m2k7x5c9q3b6t8w1e']);
    assert.equal(wrong.code, 1);
    assert.match(wrong.stderr, /HTTP 404/);
  });
  it('imports a file, follows it, and shows the bad rows', async () => {
    const file = path.join(scratch, 'customers.csv');
    writeFileSync(file, 'email,name,credit_limit,shoe\ncli1@example.com,One,10,43\ncli2@example.com,Two,plenty,44\n');
    const answer = await suite.cli(['import', file, '--resource', 'customers', '--mode', 'create', '--on-error', 'skip']);
    assert.equal(answer.code, 0, answer.stderr);
    assert.match(answer.stdout, /succeeded_with_errors/);
    assert.match(answer.stdout, /3 +credit_limit +cell\.invalid_number/);
    assert.match(answer.stderr, /warning: header\.unknown: shoe/);
    const out = path.join(scratch, 'customers-out.csv');
    const exported = await suite.cli(['export', 'customers', '--query', 'filter[email]=cli1@example.com&fields=email,name', '--out', out]);
    assert.equal(exported.code, 0, exported.stderr);
    assert.deepEqual(readFileSync(out, 'utf8').replace(/^\uFEFF/, '').trimEnd().split(/\r?\n/), ['email,name', 'cli1@example.com,One']);
  });
  it('is told by the doctor that all is well, or what is not', async () => {
    const services = suite.file('env').match(/MAINSTAY_SERVICES=(.*)/)[1];
    const redis = `redis://127.0.0.1:${suite.settings.port_redis}`;
    const well = await suite.cli(['doctor', '--redis', redis, '--services', services]);
    assert.equal(well.code, 0, well.stdout + well.stderr);
    await suite.kill('transfer');
    const ill = await suite.cli(['doctor', '--redis', redis, '--services', services]);
    assert.equal(ill.code, 1);
    assert.match(ill.stdout, /BAD +transfer/);
    await suite.restart('transfer');
  });
});
