// SPDX-License-Identifier: Apache-2.0
// A whole Mainstay for a test: deploy/run in a folder and on ports of its own, and what tests do to it from outside.
//
// Nothing in here knows how the services work: HTTP at the gateway, SQL as the owner, redis-cli, signals to processes. stop() is always called, also after a failure, and fails the test
// when a process is left.
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, existsSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
export const bin = process.env.MAINSTAY_BIN_DIR ?? path.join(root, 'build/release/bin');
export const services = ['gateway', 'webhooks', 'integrations', 'transfer', 'worker'];

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// Tries `check` until it returns something true; what it threw last, if anything, is in the failure.
export async function eventually(check, { within = 60000, every = 50, what = 'the condition' } = {}) {
  const end = Date.now() + within;
  let last;
  for (;;) {
    try {
      const value = await check();
      if (value) return value;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`${what} did not come within ${within} ms`, { cause: last });
    await sleep(every);
  }
}

export async function freePort() {
  const server = net.createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

// deploy/run with these arguments: {code, stdout, stderr}. Never throws.
export async function deployRun(args, { timeout = 600000 } = {}) {
  try {
    const { stdout, stderr } = await run(path.join(root, 'deploy/run'), args, { timeout, maxBuffer: 1 << 24 });
    return { code: 0, stdout, stderr };
  } catch (error) {
    return { code: error.code ?? 1, stdout: error.stdout ?? '', stderr: error.stderr ?? String(error) };
  }
}

export class Suite {
  // Options: args (more for deploy/run), data (an existing folder).
  static async start({ args = [], data } = {}) {
    const suite = new Suite();
    suite.data = data ?? mkdtempSync(path.join(tmpdir(), 'mainstay-e2e-'));
    suite.port = await freePort();
    suite.url = `http://127.0.0.1:${suite.port}`;
    const result = await deployRun(['--detach', '--no-build', '--data', suite.data, '--port', String(suite.port), ...args]);
    if (result.code !== 0) {
      await suite.stop().catch(() => {});
      throw new Error(`deploy/run failed: ${result.stderr}${result.stdout}`);
    }
    suite.read();
    return suite;
  }

  read() {
    this.settings = Object.fromEntries(
      readFileSync(path.join(this.data, 'settings'), 'utf8').trim().split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    );
    const env = readFileSync(path.join(this.data, 'env'), 'utf8');
    this.database = env.match(/MAINSTAY_DATABASE_URL=(.*)/)[1].replace(/\\(.)/g, '$1');
    this.keys = { admin: this.file('admin.key'), globex: this.file('globex.key') };
    this.provider_url = `http://127.0.0.1:${this.settings.port_provider}`;
  }

  file(name) {
    return readFileSync(path.join(this.data, name), 'utf8').trim();
  }

  // ---- HTTP ----

  // key: 'admin', 'globex', null for none, or the key itself. body: an object is sent as JSON, a string or Buffer as it is.
  async api(method, target, { key = 'admin', body, headers = {}, url = this.url } = {}) {
    const all = { ...headers };
    const token = this.keys[key] ?? key;
    if (token) all.Authorization ??= `Bearer ${token}`;
    let sent = body;
    if (body !== undefined && typeof body !== 'string' && !Buffer.isBuffer(body)) sent = JSON.stringify(body);
    if (sent !== undefined) all['Content-Type'] ??= 'application/json';
    const answer = await fetch(url + target, { method, headers: all, body: sent, signal: AbortSignal.timeout(90000) });
    const text = await answer.text();
    let json;
    try {
      json = JSON.parse(text);
    } catch {
      json = undefined;
    }
    return { status: answer.status, headers: answer.headers, text, json };
  }

  // The same, and the status must be as expected; returns the JSON.
  async ok(status, method, target, options) {
    const answer = await this.api(method, target, options);
    assert.equal(answer.status, status, `${method} ${target}: ${answer.text.slice(0, 800)}`);
    return answer.json;
  }

  // The demo's payment company.
  async provider(method, target, body) {
    const answer = await fetch(this.provider_url + target, {
      method,
      headers: { Authorization: `Bearer ${this.file('keys/payments-api.key')}`, 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(120000),
    });
    const json = await answer.json();
    assert.ok(answer.ok, `provider ${target}: ${JSON.stringify(json)}`);
    return json;
  }

  async readyz(service) {
    const url = service === 'gateway' ? this.url : `http://127.0.0.1:${this.settings[`port_${service}_admin`]}`;
    const answer = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(5000) });
    return { status: answer.status, text: await answer.text() };
  }

  // ---- the stores, as their owner ----

  // Rows as arrays of text.
  async sql(query) {
    const { stdout } = await run('psql', ['-XqAt', '-F', '\t', '-v', 'ON_ERROR_STOP=1', this.database, '-c', query], { maxBuffer: 1 << 26 });
    return stdout.trimEnd() === '' ? [] : stdout.trimEnd().split('\n').map((line) => line.split('\t'));
  }
  async value(query) {
    return (await this.sql(query))[0]?.[0];
  }
  async redis(...args) {
    const { stdout } = await run('redis-cli', ['-p', this.settings.port_redis, ...args]);
    return stdout.trim();
  }
  async cli(args, options = {}) {
    const env = { ...process.env, MAINSTAY_DATABASE_URL: this.database, MAINSTAY_URL: this.url, MAINSTAY_KEY_FILE: path.join(this.data, 'admin.key'), MAINSTAY_KEK_FILE: path.join(this.data, 'keys/secrets.kek') };
    try {
      const promise = run(path.join(bin, 'mainstay'), args, { env, maxBuffer: 1 << 26 });
      if (options.input !== undefined) promise.child.stdin.end(options.input);
      return { code: 0, ...(await promise) };
    } catch (error) {
      return { code: error.code ?? 1, stdout: error.stdout ?? '', stderr: error.stderr ?? String(error) };
    }
  }

  // ---- processes ----

  pid(service) {
    return Number(this.file(`pids/${service}.pid`));
  }
  // With the worker's children, in which its jobs run.
  processes(service) {
    const pid = this.pid(service);
    const children = readdirSync(`/proc/${pid}/task`).flatMap((task) => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number));
    return [pid, ...children];
  }
  // Without a chance to clean up, as power loss or the OOM killer do it. Returns once the process is gone.
  async kill(service, signal = 'SIGKILL') {
    const pid = this.pid(service);
    process.kill(pid, signal);
    await eventually(() => !alive(pid), { what: `the end of ${service}` });
  }
  async restart(service) {
    const result = await deployRun(['--data', this.data, '--restart', service]);
    assert.equal(result.code, 0, result.stderr);
    // It is ready before the gateway has connected to it again.
    if (service === 'worker') await eventually(async () => (await this.api('GET', '/mainstay/v1/jobs?limit=1')).status === 200, { what: 'the worker behind the gateway' });
  }
  postgresPid() {
    return Number(readFileSync(path.join(this.data, 'postgres/postmaster.pid'), 'utf8').split('\n')[0]);
  }
  redisPid() {
    return Number(this.file('redis/redis.pid'));
  }
  // Stops a server (SIGSTOP keeps its sockets open and silent; a real end closes them) and brings it back on the same port.
  async endRedis() {
    const pid = this.redisPid();
    process.kill(pid, 'SIGKILL');
    await eventually(() => !alive(pid), { what: 'the end of Redis' });
  }
  async startRedis() {
    const folder = path.join(this.data, 'redis');
    spawnSync('setsid', ['redis-server', '--port', this.settings.port_redis, '--bind', '127.0.0.1', '--dir', folder, '--appendonly', 'yes', '--appendfsync', 'everysec', '--save', '',
      '--pidfile', path.join(folder, 'redis.pid'), '--daemonize', 'yes', '--logfile', path.join(this.data, 'logs/redis.log')]);
    await eventually(async () => (await this.redis('ping')) === 'PONG', { what: 'Redis' });
  }
  async postgres(action) {
    const script = `. "${root}/deploy/packages"; . "${root}/deploy/servers"; data="${this.data}"
      if [ ${action} = stop ]; then as_postgres "$postgres_bin/pg_ctl" -D "$data/postgres" -m immediate -w -s stop
      else start_postgres "$data/postgres" ${this.settings.port_postgres} "$(cat "$data/sockets")" "$data/logs/postgres.log" shared_buffers=256MB; fi`;
    await run('bash', ['-c', script]);
  }
  status() {
    return deployRun(['--data', this.data, '--status']);
  }

  async stop({ keep = false } = {}) {
    const pids = existsSync(path.join(this.data, 'pids')) ? readdirSync(path.join(this.data, 'pids')).map((name) => Number(this.file(`pids/${name}`))) : [];
    const result = await deployRun(['--data', this.data, '--stop']);
    for (const pid of pids) if (alive(pid)) assert.fail(`process ${pid} is left`);
    assert.equal(result.code, 0, result.stderr);
    if (!keep) rmSync(this.data, { recursive: true, force: true });
  }

  // ---- the suite's own objects ----

  // The job once it is final (or in `state`).
  async job(id, { within = 30000 } = {}) {
    return eventually(
      async () => {
        const answer = await this.api('GET', `/mainstay/v1/jobs/${id}`);
        return answer.status === 200 && ['succeeded', 'dead', 'cancelled', 'discarded'].includes(answer.json.state) ? answer.json : undefined;
      },
      { within, what: `the end of ${id}` },
    );
  }
  async ended(collection, id, { within = 60000 } = {}) {
    return eventually(
      async () => {
        const answer = await this.api('GET', `/mainstay/v1/${collection}/${id}`);
        return answer.status === 200 && !['queued', 'running'].includes(answer.json.state) ? answer.json : undefined;
      },
      { within, what: `the end of ${id}` },
    );
  }
  async eventOf(externalId) {
    const list = await this.ok(200, 'GET', `/mainstay/v1/webhook-events?filter[external_id]=${externalId}`);
    return list.data[0];
  }
}

export function alive(pid) {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

// Every problem has the shape of RFC 9457 and gives nothing of the inside away.
export function assertProblem(answer, status, type) {
  assert.equal(answer.status, status, answer.text.slice(0, 800));
  assert.match(answer.headers.get('content-type') ?? '', /^application\/problem\+json/);
  assert.equal(answer.json.status, status);
  assert.equal(typeof answer.json.title, 'string');
  assert.ok(answer.json.request_id, 'request_id');
  if (type) assert.equal(answer.json.type, `/problems/${type}`, answer.text.slice(0, 800));
  assert.doesNotMatch(answer.text, /SELECT |INSERT |pqxx|libpq|terminate|std::|\.cc:\d/);
}

// A CSV of customers; every `badEvery`-th row has one thing wrong, in turn. Returns {csv, bad: [{line, column, code}]}.
export function customersCsv(prefix, rows, badEvery) {
  const lines = ['E-Mail,name,country,credit_limit,marketing_consent,born_on'];
  const bad = [];
  for (let n = 1; n <= rows; n += 1) {
    let name = `Customer ${n}`;
    let credit = `${(n * 7) % 5000}.50`;
    let consent = n % 2 ? 'true' : 'false';
    let born = `1980-05-${String((n % 28) + 1).padStart(2, '0')}`;
    if (badEvery && n % badEvery === 0) {
      const line = n + 1;
      switch ((n / badEvery) % 4) {
        case 0:
          credit = 'plenty';
          bad.push({ line, column: 'credit_limit', code: 'cell.invalid_number' });
          break;
        case 1:
          born = '1980-02-30';
          bad.push({ line, column: 'born_on', code: 'cell.invalid_date' });
          break;
        case 2:
          consent = 'perhaps';
          bad.push({ line, column: 'marketing_consent', code: 'cell.invalid_boolean' });
          break;
        default:
          name = 'x'.repeat(201);
          bad.push({ line, column: 'name', code: 'cell.too_long' });
      }
    }
    lines.push(`${prefix}-${n}@example.com,${name},DE,${credit},${consent},${born}`);
  }
  return { csv: `${lines.join('\n')}\n`, bad };
}
