// SPDX-License-Identifier: Apache-2.0
// deploy/run as an operator meets it: two folders side by side, a second start, mistakes, the end, servers that are given.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { Suite, alive, deployRun, eventually, freePort, root, services } from '../e2e/lib/suite.mjs';

const folders = [];
const folder = (name = 'run') => {
  const made = mkdtempSync(path.join(tmpdir(), `mainstay-${name}-`));
  folders.push(made);
  return made;
};
const suites = [];
after(async () => {
  for (const suite of suites) await suite.stop().catch(() => {});
  for (const made of folders) rmSync(made, { recursive: true, force: true });
});

// Processes whose command line or working files name the folder.
function processesOf(data) {
  return readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && Number(pid) !== process.pid).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(data) && alive(Number(pid));
    } catch {
      return false;
    }
  });
}

// What only a first start makes: the database cluster, keys, the published catalog. Path → when it was written.
function madeOnce(data) {
  const files = ['postgres/PG_VERSION', 'logs/publish.log', 'admin.key', 'globex.key', ...readdirSync(path.join(data, 'keys')).map((name) => `keys/${name}`)];
  return Object.fromEntries(files.map((name) => [name, statSync(path.join(data, name)).mtimeMs]));
}

// Of the whole life of a process, in milliseconds. Unlike the clock's, it says the same on a busy machine.
function processorTime(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

describe('deploy/run', () => {
  it('runs two data folders side by side, and keeps what was stored over a stop', async (t) => {
    const [one, two] = [await Suite.start({ data: folder('one') }), await Suite.start({ data: folder('two') })];
    suites.push(one, two);
    const customer = (await one.ok(200, 'GET', '/v1/customers?limit=1&fields=id')).data[0].id;
    const order = await one.ok(201, 'POST', '/v1/orders', { body: { customer_id: customer, number: 'KEEP-1' } });
    assert.equal(await one.value("SELECT count(*) FROM shop.orders WHERE number = 'KEEP-1'"), '1');
    assert.equal(await two.value("SELECT count(*) FROM shop.orders WHERE number = 'KEEP-1'"), '0');
    assert.equal((await one.api('GET', '/v1/orders?limit=1', { url: two.url })).status, 401, "a key of one is none of the other's");
    assert.equal((await one.status()).code, 0);

    await one.stop({ keep: true });
    assert.deepEqual(processesOf(one.data), []);
    assert.equal((await one.status()).code, 3);
    assert.equal((await two.status()).code, 0, 'the other one goes on');
    const before = madeOnce(one.data);
    const began = Date.now();
    const again = await deployRun(['--detach', '--no-build', '--data', one.data]);
    t.diagnostic(`up again in ${(Date.now() - began) / 1000} s`);
    assert.equal(again.code, 0, again.stderr);
    assert.deepEqual(madeOnce(one.data), before, 'a second start makes nothing anew, and so takes seconds');
    one.read();
    assert.equal((await one.ok(200, 'GET', `/v1/orders/${order.id}`)).number, 'KEEP-1');
  });

  it('refuses a second start in the same folder', async () => {
    const answer = await deployRun(['--detach', '--no-build', '--data', suites[0].data]);
    assert.equal(answer.code, 1);
    assert.match(answer.stderr, /runs already/);
  });

  it('uses little memory when idle, and starts fast', async (t) => {
    const suite = suites[1];
    const resident = services.flatMap((service) => suite.processes(service))
      .reduce((sum, pid) => sum + Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)[1]), 0) / 1024;
    t.diagnostic(`${resident.toFixed(0)} MB resident for the five`);
    assert.ok(resident < 250, `${resident.toFixed(0)} MB`);
    for (const service of services) {
      await suite.restart(service);
      const spent = processorTime(suite.pid(service));
      t.diagnostic(`${service} was ready after ${spent} ms of processor time`);
      assert.ok(spent < 300, `${service} took ${spent} ms of processor time`);
    }
  });

  it('says that a port is in use', async () => {
    const server = net.createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const data = folder();
    const answer = await deployRun(['--detach', '--no-build', '--data', data, '--port', String(server.address().port)]);
    server.close();
    assert.equal(answer.code, 1);
    assert.match(answer.stderr, new RegExp(`^run: port ${server.address()?.port ?? '\\d+'} is in use`));
    assert.equal(answer.stderr.trim().split('\n').length, 1);
    assert.deepEqual(processesOf(data), []);
  });

  it('says where a catalog is broken, and leaves nothing running', async () => {
    const catalog = folder('catalog');
    cpSync(path.join(root, 'deploy/demo/catalog'), catalog, { recursive: true });
    writeFileSync(path.join(catalog, 'extra.yaml'), 'resources:\n  customers2:\n    tabel: shop.customers\n');
    const data = folder();
    const answer = await deployRun(['--detach', '--no-build', '--data', data, '--port', String(await freePort()), '--catalog', catalog]);
    assert.equal(answer.code, 1);
    assert.match(answer.stderr, /extra\.yaml:3:\d+/);
    assert.match(answer.stderr, /was not published/);
    assert.deepEqual(processesOf(data), []);
  });

  it('refuses unknown options and bad values in one sentence', async () => {
    for (const [args, said] of [[['--colour'], /unknown option --colour/], [['--port'], /--port needs a value/], [['--port', '99999'], /not a port/], [['--catalog', '/nowhere'], /not a folder/]]) {
      const answer = await deployRun([...args, '--data', folder()]);
      assert.equal(answer.code, 1);
      assert.match(answer.stderr, said);
      assert.equal(answer.stderr.trim().split('\n').length, 1, answer.stderr);
    }
  });

  it('drains and leaves no process on Ctrl-C', async () => {
    const data = folder();
    const process_ = spawn(path.join(root, 'deploy/run'), ['--no-build', '--data', data, '--port', String(await freePort())]);
    let out = '';
    process_.stdout.on('data', (chunk) => { out += chunk; });
    process_.stderr.on('data', (chunk) => { out += chunk; });
    await eventually(() => out.includes('Mainstay is ready'), { within: 300000, what: 'the start' });
    process_.kill('SIGINT');
    const [code] = await once(process_, 'exit');
    assert.equal(code, 0, out);
    assert.deepEqual(processesOf(data), []);
    assert.equal(existsSync(path.join(data, 'postgres/postmaster.pid')), false);
    for (const service of services) assert.match(readFileSync(path.join(data, `logs/${service}.log`), 'utf8'), /"stopped"/, `${service} came to an orderly end`);
  });

  it('takes servers that are given, and leaves them as they are', async () => {
    const host = suites[1];
    await host.sql('CREATE DATABASE given');
    const database = host.database.replace('/mainstay?', '/given?');
    const suite = await Suite.start({ data: folder('given'), args: ['--database', database, '--redis', `redis://127.0.0.1:${host.settings.port_redis}/1`] });
    assert.equal((await suite.ok(200, 'GET', '/v1/orders?limit=1')).data.length, 1);
    assert.equal(existsSync(path.join(suite.data, 'postgres')), false);
    await suite.stop();
    assert.equal((await host.status()).code, 0);
    await host.ok(200, 'GET', '/v1/orders?limit=1');
  });

  it('resets only a folder of its own', async () => {
    const data = folder();
    writeFileSync(path.join(data, 'precious'), 'x');
    const refused = await deployRun(['--reset', '--data', data]);
    assert.equal(refused.code, 1);
    assert.ok(existsSync(path.join(data, 'precious')));
    const gone = await deployRun(['--reset', '--data', suites[0].data]);
    assert.equal(gone.code, 0, gone.stderr);
    assert.equal(existsSync(suites[0].data), false);
    assert.deepEqual(processesOf(suites[0].data), []);
    suites.shift();
  });

  it('works where only this user may enter the folder', async () => {
    const outer = folder('closed');
    chmodSync(outer, 0o700);
    const suite = await Suite.start({ data: path.join(outer, 'data with spaces') });
    await suite.ok(200, 'GET', '/v1/orders?limit=1');
    await suite.stop();
  });
});

describe('the tour', () => {
  it('is green twice in a row', async () => {
    for (let i = 0; i < 2; i += 1) {
      const process_ = spawn(path.join(root, 'deploy/demo/tour'), ['--data', suites[0].data]);
      let out = '';
      process_.stdout.on('data', (chunk) => { out += chunk; });
      process_.stderr.on('data', (chunk) => { out += chunk; });
      const [code] = await once(process_, 'exit');
      assert.equal(code, 0, out);
      assert.match(out, /The tour is complete/);
    }
  });
});
