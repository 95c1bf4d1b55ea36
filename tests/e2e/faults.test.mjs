// SPDX-License-Identifier: Apache-2.0
// Killed services and missing servers: nothing that was acknowledged is lost, the rest goes on, and everything recovers by itself.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Suite, alive, assertProblem, customersCsv, eventually, services, sleep } from './lib/suite.mjs';

let suite;
before(async () => {
  suite = await Suite.start();
});
after(() => suite?.stop());

const unique = () => `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;

// A stream of all kinds of work while something is killed. What was acknowledged is written down; what was refused or broke is not.
class Thread {
  constructor() {
    this.prefix = `k${unique()}`;
    this.orders = []; // created with 201
    this.payments = []; // events taken with 2xx: {payment, order}
    this.imports = []; // created with 201
    this.exports = [];
    this.jobs = [];
    this.stopped = false;
    this.refused = 0;
  }
  start(customer) {
    this.customer = customer;
    this.loops = [this.#loop(() => this.#order()), this.#loop(() => this.#payment()), this.#loop(() => this.#import(), 150), this.#loop(() => this.#export(), 100)];
  }
  async stop() {
    this.stopped = true;
    await Promise.all(this.loops);
  }
  async #loop(step, pause = 20) {
    while (!this.stopped) {
      try {
        await step();
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        this.refused += 1; // the connection broke
      }
      await sleep(pause);
    }
  }
  // Only what a client may expect of a service that is away: a broken connection, or 5xx problems that say so.
  #taken(answer, status) {
    if (answer.status === status) return true;
    assert.ok([500, 502, 503, 504].includes(answer.status), `${answer.status} ${answer.text}`);
    assert.notEqual(answer.status, 500, answer.text);
    this.refused += 1;
    return false;
  }
  async #order() {
    const number = `${this.prefix}-${this.orders.length}-${unique()}`.slice(0, 40);
    const answer = await suite.api('POST', '/v1/orders', { body: { customer_id: this.customer, number, status: 'open', total: '5.00' } });
    if (this.#taken(answer, 201)) this.orders.push({ id: answer.json.id, number });
  }
  async #payment() {
    const order = this.orders[this.payments.length];
    if (!order) return;
    const payment = await suite.provider('POST', '/_admin/payments', { amount: '5.00', currency: 'EUR', status: 'succeeded', account: 'acme', metadata: { order_id: order.id } });
    const event = await suite.provider('POST', '/_admin/events', { payment: payment.id, retries: 60 });
    assert.ok(event.deliveries[0].status >= 200 && event.deliveries[0].status < 300, JSON.stringify(event));
    this.payments.push({ payment: payment.id, order: order.id, event: event.id });
  }
  async #import() {
    const prefix = `${this.prefix}i${this.imports.length}${unique()}`;
    const { csv } = customersCsv(prefix, 300, 0);
    const answer = await suite.api('POST', '/mainstay/v1/imports?import=customers', { body: csv, headers: { 'Content-Type': 'text/csv' } });
    if (this.#taken(answer, 201)) this.imports.push({ id: answer.json.id, prefix });
  }
  async #export() {
    const answer = await suite.api('POST', '/mainstay/v1/exports', { body: { resource: 'orders', format: 'csv', query: 'filter[status]=refunded&sort=id&fields=id' } });
    if (this.#taken(answer, 201)) this.exports.push(answer.json.id);
  }

  // Everything that was acknowledged is there, exactly once.
  async verify() {
    const numbers = this.orders.map(({ number }) => `'${number}'`).join(',');
    assert.equal(await suite.value(`SELECT count(*) || ' ' || count(DISTINCT number) FROM shop.orders WHERE number IN (${numbers})`), `${this.orders.length} ${this.orders.length}`);
    const pairs = this.payments.map(({ payment, order }) => `('${payment}', ${order})`).join(',');
    const unpaid = `SELECT count(*) FROM (VALUES ${pairs}) v (payment, "order") WHERE NOT EXISTS (SELECT FROM shop.orders o JOIN shop.payments p ON p.order_id = o.id WHERE o.id = v."order" AND p.id = v.payment AND o.status = 'paid')`;
    await eventually(async () => (await suite.value(unpaid)) === '0', { within: 90000, every: 200, what: 'all payments' });
    for (const { event } of this.payments) assert.equal((await suite.eventOf(event)).state, 'processed');
    const refunded = await suite.value("SELECT count(*) FROM shop.orders WHERE tenant_id = 'acme' AND status = 'refunded'");
    for (const { id, prefix } of this.imports) {
      const ended = await suite.ended('imports', id, { within: 90000 });
      assert.equal(ended.state, 'succeeded', JSON.stringify(ended));
      assert.equal(await suite.value(`SELECT count(*) FROM shop.customers WHERE email LIKE '${prefix}-%'`), '300');
    }
    for (const id of this.exports) {
      const ended = await suite.ended('exports', id, { within: 90000 });
      assert.equal(ended.state, 'succeeded', JSON.stringify(ended));
      const file = await suite.api('GET', `/mainstay/v1/exports/${id}/file`);
      assert.equal(file.text.trimEnd().split('\n').length - 1, Number(refunded));
    }
  }
}

describe('kill -9', () => {
  for (const service of services) {
    it(`of ${service} loses nothing that was acknowledged`, async () => {
      const thread = new Thread();
      thread.start((await suite.ok(200, 'GET', '/v1/customers?limit=1&fields=id')).data[0].id);
      await eventually(() => thread.payments.length >= 3 && thread.imports.length >= 1, { what: 'the thread under way' });
      await suite.kill(service);
      const status = await suite.status();
      assert.equal(status.code, 1);
      assert.match(status.stdout, new RegExp(`${service} +died`));
      await sleep(500);
      await suite.restart(service);
      const before_ = { orders: thread.orders.length, payments: thread.payments.length };
      await eventually(() => thread.orders.length > before_.orders + 2 && thread.payments.length > before_.payments + 2, { within: 60000, what: 'work after the restart' });
      await thread.stop();
      await thread.verify();
      assert.equal((await suite.status()).code, 0);
    });
  }
});

describe('an Idempotency-Key through crashes', () => {
  it('has one effect, and every try that is answered gives the same answer', async () => {
    const customer = (await suite.ok(200, 'GET', '/v1/customers?limit=1&fields=id')).data[0].id;
    const keys = Array.from({ length: 60 }, () => `idem-${unique()}`);
    const answers = new Map(keys.map((key) => [key, []])); // [status, body, replayed]
    const create = (key) => suite.api('POST', '/v1/orders', { body: { customer_id: customer, number: key, status: 'open', total: '1.00' }, headers: { 'Idempotency-Key': key } });
    let crashes = 0;
    // Each key is tried until it was answered three times; the gateway is killed again and again meanwhile, also between its commit and its answer.
    const clients = Array.from({ length: 6 }, async (_, client) => {
      for (const key of keys.filter((_key, n) => n % 6 === client)) {
        while (answers.get(key).length < 3) {
          try {
            const answer = await create(key);
            if (answer.status === 201) answers.get(key).push([answer.text, answer.headers.get('location'), answer.headers.get('idempotent-replayed')]);
            else assert.ok([409, 503].includes(answer.status), answer.text);
          } catch (error) {
            if (error instanceof assert.AssertionError) throw error;
          }
          await sleep(crashes < 4 ? 25 : 1);
        }
      }
    });
    const done = Promise.all(clients);
    while (crashes < 4) {
      await sleep(150 + Math.random() * 250);
      await suite.kill('gateway');
      crashes += 1;
      await suite.restart('gateway');
    }
    await done;
    const numbers = keys.map((key) => `'${key}'`).join(',');
    assert.equal(await suite.value(`SELECT count(*) || ' ' || count(DISTINCT number) FROM shop.orders WHERE number IN (${numbers})`), '60 60');
    for (const [key, tries] of answers) {
      assert.equal(new Set(tries.map(([body, location]) => `${body} ${location}`)).size, 1, `${key}: ${JSON.stringify(tries)}`);
      assert.ok(tries.slice(1).every(([, , replayed]) => replayed === 'true'), `${key}: ${JSON.stringify(tries)}`);
    }
    // Another body under a used key is refused.
    assertProblem(await suite.api('POST', '/v1/orders', { body: { customer_id: customer, number: 'other' }, headers: { 'Idempotency-Key': keys[0] } }), 422, 'idempotency-key-reused');
  });
});

describe('Redis away', () => {
  it('is named by readiness, stops nothing, and comes back by itself', async () => {
    const thread = new Thread();
    thread.start((await suite.ok(200, 'GET', '/v1/customers?limit=1&fields=id')).data[0].id);
    await eventually(() => thread.payments.length >= 1, { what: 'the thread under way' });
    await suite.endRedis();
    await eventually(async () => {
      const ready = await suite.readyz('worker');
      return ready.status === 200 && /"redis"\s*:\s*"degraded/.test(ready.text);
    }, { what: 'degraded readiness of the worker' });
    for (const service of services) assert.equal((await suite.readyz(service)).status, 200, `${service} stays ready`);
    // Jobs go on from PostgreSQL.
    const before_ = thread.payments.length;
    await eventually(() => thread.payments.length >= before_ + 2, { within: 60000, what: 'webhooks taken without Redis' });
    const { payment, order } = thread.payments[before_];
    await eventually(async () => (await suite.value(`SELECT status FROM shop.payments WHERE id = '${payment}' AND order_id = ${order}`)) === 'succeeded', { within: 60000, what: 'a job done without Redis' });
    await suite.startRedis();
    await eventually(async () => /"redis"\s*:\s*"ok/.test((await suite.readyz('worker')).text), { what: 'readiness as before' });
    await sleep(500);
    await thread.stop();
    await thread.verify();
  });
});

describe('PostgreSQL away', () => {
  it('gives 503 with Retry-After where it is needed, stays ready, and recovers by itself', async () => {
    const order = await suite.ok(201, 'POST', '/v1/orders', { body: { customer_id: (await suite.ok(200, 'GET', '/v1/customers?limit=1&fields=id')).data[0].id, number: `P-${unique()}`, status: 'open' } });
    const payment = await suite.provider('POST', '/_admin/payments', { amount: '5.00', currency: 'EUR', status: 'succeeded', account: 'acme', metadata: { order_id: order.id } });
    const pids = services.map((service) => suite.pid(service));
    await suite.postgres('stop');
    const answer = await eventually(async () => {
      const read = await suite.api('GET', `/v1/orders/${order.id}`);
      return read.status === 503 ? read : undefined;
    }, { what: '503' });
    assertProblem(answer, 503, 'database-unavailable');
    assert.match(answer.headers.get('retry-after'), /^\d+$/);
    const hook = await suite.provider('POST', '/_admin/events', { payment: payment.id });
    assert.equal(hook.deliveries[0].status, 503, 'an event that cannot be stored is not acknowledged');
    const jobs = await suite.api('GET', '/mainstay/v1/jobs');
    assertProblem(jobs, 503);
    assert.ok(jobs.headers.get('retry-after'));
    // What needs no database still works.
    assert.equal((await suite.api('GET', '/healthz', { key: null })).status, 200);
    await eventually(async () => {
      const ready = await suite.readyz('gateway');
      return ready.status === 200 && /"postgresql"\s*:\s*"degraded/.test(ready.text);
    }, { what: 'degraded readiness of the gateway' });
    for (const service of services) assert.equal((await suite.readyz(service)).status, 200, `${service} stays ready`);
    await suite.postgres('start');
    await eventually(async () => (await suite.api('GET', `/v1/orders/${order.id}`)).status === 200, { what: 'records again' });
    const again = await suite.provider('POST', `/_admin/events/${hook.id}:redeliver`, { retries: 60 });
    assert.ok(again.status >= 200 && again.status < 300, JSON.stringify(again));
    await eventually(async () => (await suite.ok(200, 'GET', `/v1/orders/${order.id}`)).status === 'paid', { within: 60000, what: 'the webhook processed' });
    assert.deepEqual(services.map((service) => suite.pid(service)), pids, 'no process was replaced');
    assert.ok(pids.every(alive));
  });
});
