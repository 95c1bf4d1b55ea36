// SPDX-License-Identifier: Apache-2.0
// The thread through all five services, with every state on the way; and from outside, that the hops are what they should be.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { Suite, assertProblem, customersCsv, eventually, services } from './lib/suite.mjs';

let suite;
before(async () => {
  suite = await Suite.start();
});
after(() => suite?.stop());

const unique = () => `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;
async function aCustomer() {
  return (await suite.ok(200, 'GET', '/v1/customers?limit=1&fields=id')).data[0].id;
}
async function anOrder(more = {}) {
  return suite.ok(201, 'POST', '/v1/orders', { body: { customer_id: await aCustomer(), number: `E-${unique()}`, status: 'open', total: '12.50', ...more } });
}
const aPayment = (order, more = {}) =>
  suite.provider('POST', '/_admin/payments', { amount: '12.50', currency: 'EUR', status: 'succeeded', account: 'acme', metadata: { order_id: order.id }, ...more });

describe('records', () => {
  it('creates, reads, changes and deletes an order in PostgreSQL', async () => {
    const number = `E-${unique()}`;
    const created = await suite.api('POST', '/v1/orders', { body: { customer_id: await aCustomer(), number, status: 'open', total: '99.50', note: 'Grüße' } });
    assert.equal(created.status, 201, created.text);
    const { id } = created.json;
    assert.equal(created.headers.get('location'), `/v1/orders/${id}`);
    assert.equal(created.json.total, '99.50');
    assert.deepEqual(await suite.sql(`SELECT tenant_id, status, total, note FROM shop.orders WHERE number = '${number}'`), [['acme', 'open', '99.50', 'Grüße']]);

    const read = await suite.ok(200, 'GET', `/v1/orders/${id}`);
    assert.equal(read.number, number);
    assert.match(read.created_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);

    const patched = await suite.ok(200, 'PATCH', `/v1/orders/${id}`, { body: { note: null, total: '100.00' } });
    assert.equal(patched.note, null);
    assert.equal(patched.total, '100.00');
    assert.equal(await suite.value(`SELECT version FROM shop.orders WHERE number = '${number}'`), '2');

    assert.equal((await suite.api('DELETE', `/v1/orders/${id}`)).status, 204);
    assertProblem(await suite.api('GET', `/v1/orders/${id}`), 404, 'not-found');
    assertProblem(await suite.api('DELETE', `/v1/orders/${id}`), 404, 'not-found');
    assert.equal(await suite.value(`SELECT count(*) FROM shop.orders WHERE number = '${number}'`), '0');
  });

  it('walks a filtered list by cursor and sees what SQL sees', async () => {
    const wanted = (await suite.sql("SELECT id FROM shop.orders WHERE tenant_id = 'acme' AND status = 'cancelled' AND created_at >= '2025-06-01' ORDER BY created_at DESC, id DESC")).map(([id]) => id);
    const seen = [];
    let cursor = '';
    let pages = 0;
    do {
      const page = await suite.ok(200, 'GET', `/v1/orders?filter[status]=cancelled&filter[created_at][gte]=2025-06-01T00:00:00Z&sort=-created_at,-id&limit=100&fields=id,status${cursor}`);
      seen.push(...page.data.map((order) => order.id));
      assert.ok(page.data.every((order) => order.status === 'cancelled' && Object.keys(order).length === 2));
      assert.equal(page.page.limit, 100);
      cursor = page.page.has_more ? `&cursor=${encodeURIComponent(page.page.next_cursor)}` : '';
      pages += 1;
    } while (cursor);
    assert.ok(pages > 1, 'more than one page');
    assert.deepEqual(seen, wanted);
  });

  it("shows another tenant's key nothing of it", async () => {
    const order = await anOrder();
    for (const [method, body] of [['GET'], ['PATCH', { note: 'mine' }], ['DELETE']]) {
      assertProblem(await suite.api(method, `/v1/orders/${order.id}`, { key: 'globex', body }), 404, 'not-found');
    }
    const total = await suite.ok(200, 'GET', '/v1/orders?count=exact&limit=1', { key: 'globex' });
    assert.equal(Number(total.page.total), Number(await suite.value("SELECT count(*) FROM shop.orders WHERE tenant_id = 'globex'")));
    // A row of the other tenant is no valid reference either.
    const foreign = await suite.value("SELECT id FROM shop.customers WHERE tenant_id = 'acme' LIMIT 1");
    const answer = await suite.api('POST', '/v1/orders', { key: 'globex', body: { customer_id: foreign, number: `X-${unique()}` } });
    assertProblem(answer, 422, 'validation-failed');
    assert.equal(await suite.value(`SELECT version FROM shop.orders WHERE id = ${order.id}`), '1');
  });

  it('serves a query of the catalog like a table, by tenant', async () => {
    const days = await suite.ok(200, 'GET', '/v1/revenue-by-day?limit=5&filter[revenue][gt]=0');
    const rows = await suite.sql("SELECT (created_at AT TIME ZONE 'UTC')::date AS day, sum(total) FROM shop.orders WHERE tenant_id = 'acme' AND status = 'paid' AND created_at < now() - interval '2 days' GROUP BY 1");
    assert.ok(days.data.length === 5 && days.page.has_more);
    const [day, revenue] = rows[0];
    assert.equal((await suite.ok(200, 'GET', `/v1/revenue-by-day/${day}`)).revenue, revenue);
    assertProblem(await suite.api('GET', `/v1/revenue-by-day/${day}`, { key: 'nobody' }), 401, 'unauthenticated');
    assertProblem(await suite.api('DELETE', `/v1/revenue-by-day/${day}`), 405, 'method-not-allowed');
  });

  it('never shows a hidden field', async () => {
    const customer = await suite.ok(200, 'GET', `/v1/customers/${await aCustomer()}`);
    assert.equal('password_hash' in customer, false);
    assertProblem(await suite.api('GET', '/v1/customers?fields=id,password_hash'), 400, 'unknown-field');
    assertProblem(await suite.api('GET', '/v1/customers?filter[password_hash]=x'), 400, 'unknown-field');
  });
});

describe('webhooks', () => {
  it('turns a signed event into a fetched payment and a paid order', async () => {
    const order = await anOrder();
    const payment = await aPayment(order);
    const event = await suite.provider('POST', '/_admin/events', { type: 'payment.succeeded', payment: payment.id });
    assert.ok(event.deliveries[0].status >= 200 && event.deliveries[0].status < 300, JSON.stringify(event));

    const stored = await suite.eventOf(event.id);
    assert.match(stored.id, /^evt_/);
    assert.equal(stored.tenant, 'acme');
    assert.equal(stored.type, 'payment.succeeded');
    assert.equal(stored.entity, payment.id);
    const job = await suite.job(stored.job_id);
    assert.equal(job.state, 'succeeded', JSON.stringify(job));
    assert.equal(job.attempt, 1);
    assert.deepEqual(job.errors, []);
    assert.ok(job.started_at >= job.created_at && job.finished_at >= job.started_at);

    const row = await suite.ok(200, 'GET', `/v1/payments/${payment.id}`);
    assert.equal(row.status, 'succeeded');
    assert.equal(row.amount, '12.50');
    assert.equal(row.order_id, order.id);
    assert.equal((await suite.ok(200, 'GET', `/v1/orders/${order.id}`)).status, 'paid');
    const processed = await suite.ok(200, 'GET', `/mainstay/v1/webhook-events/${stored.id}`);
    assert.equal(processed.state, 'processed');
    // The raw body is kept, byte for byte.
    assert.deepEqual(processed.payload, { id: event.id, type: 'payment.succeeded', created: processed.payload.created, account: 'acme', data: { object: { id: payment.id } } });
    // The trace goes on to the provider: same trace id in the outbound call as in the job.
    const calls = (await suite.provider('GET', '/_admin/calls')).data.filter((call) => call.path === `/payments/${payment.id}`);
    assert.equal(calls.length, 1);
    assert.equal(calls[0].headers.traceparent.split('-')[1], job.traceparent.split('-')[1]);
  });

  it('applies an event that comes twice once', async () => {
    const order = await anOrder();
    const payment = await aPayment(order);
    const event = await suite.provider('POST', '/_admin/events', { type: 'payment.succeeded', payment: payment.id });
    const stored = await suite.eventOf(event.id);
    await suite.job(stored.job_id);
    const before_ = await suite.sql(`SELECT version, updated_at FROM shop.payments WHERE id = '${payment.id}'`);
    for (let i = 0; i < 3; i += 1) {
      const again = await suite.provider('POST', `/_admin/events/${event.id}:redeliver`, {});
      assert.ok(again.status >= 200 && again.status < 300, JSON.stringify(again));
    }
    const now = await suite.ok(200, 'GET', `/mainstay/v1/webhook-events/${stored.id}`);
    assert.equal(Number(now.duplicates), 3);
    assert.equal(now.job_id, stored.job_id);
    assert.deepEqual(await suite.sql(`SELECT version, updated_at FROM shop.payments WHERE id = '${payment.id}'`), before_);
    assert.equal((await suite.provider('GET', '/_admin/calls')).data.filter((call) => call.path === `/payments/${payment.id}`).length, 1);
  });

  it('refuses a forged one and applies nothing', async () => {
    const order = await anOrder();
    const payment = await aPayment(order);
    for (const forge of ['signature', 'body', 'timestamp']) {
      const event = await suite.provider('POST', '/_admin/events', { type: 'payment.succeeded', payment: payment.id, forge });
      assert.equal(event.deliveries[0].status, 401, `${forge}: ${JSON.stringify(event)}`);
      assert.equal(await suite.eventOf(event.id), undefined);
    }
    assertProblem(await suite.api('POST', '/hooks/payments', { key: null, body: {} }), 401);
    assertProblem(await suite.api('POST', '/hooks/nobody', { key: null, body: {} }), 404, 'not-found');
    assertProblem(await suite.api('GET', `/v1/payments/${payment.id}`), 404);
    assert.equal((await suite.ok(200, 'GET', `/v1/orders/${order.id}`)).status, 'open');
    assert.equal((await suite.provider('GET', '/_admin/calls')).data.filter((call) => call.path === `/payments/${payment.id}`).length, 0);
  });

  it('never lets old news overwrite new', async () => {
    const order = await anOrder();
    const payment = await aPayment(order, { status: 'pending' });
    const first = await suite.provider('POST', '/_admin/events', { payment: payment.id });
    await suite.job((await suite.eventOf(first.id)).job_id);
    assert.equal((await suite.ok(200, 'GET', `/v1/payments/${payment.id}`)).status, 'pending');
    const moved = await suite.provider('POST', `/_admin/payments/${payment.id}`, { status: 'succeeded' });
    const second = await suite.provider('POST', '/_admin/events', { payment: payment.id });
    await suite.job((await suite.eventOf(second.id)).job_id);
    assert.equal((await suite.ok(200, 'GET', `/v1/orders/${order.id}`)).status, 'paid');
    // The provider answers with a state from before (a stale replica).
    await suite.provider('POST', `/_admin/payments/${payment.id}`, { status: 'failed', updated_at: new Date(Date.parse(moved.updated_at) - 1000).toISOString() });
    const third = await suite.provider('POST', '/_admin/events', { payment: payment.id });
    const stored = await suite.eventOf(third.id);
    await suite.job(stored.job_id);
    assert.equal((await suite.ok(200, 'GET', `/v1/payments/${payment.id}`)).status, 'succeeded');
    assert.equal((await suite.ok(200, 'GET', `/mainstay/v1/webhook-events/${stored.id}`)).state, 'stale');
  });

  it('shows an event whose job is dead as failed, with the reason, and replays it', async () => {
    const order = await anOrder();
    const payment = await aPayment(order);
    // One try only, and the provider fails it.
    await suite.ok(200, 'POST', '/mainstay/v1/queues/default:pause', { body: { reason: 'test' } });
    await suite.provider('POST', '/_admin/faults', { path: `/payments/${payment.id}`, status: 503, count: 100 });
    const event = await suite.provider('POST', '/_admin/events', { payment: payment.id });
    const stored = await suite.eventOf(event.id);
    assert.equal(await suite.value(`WITH once AS (UPDATE mainstay.jobs SET max_attempts = 1 WHERE id = mainstay.parse_id('job', '${stored.job_id}') RETURNING id) SELECT count(*) FROM once`), '1');
    await suite.ok(200, 'POST', '/mainstay/v1/queues/default:resume', { body: {} });
    const job = await suite.job(stored.job_id);
    assert.equal(job.state, 'dead', JSON.stringify(job));
    const failed = await suite.ok(200, 'GET', `/mainstay/v1/webhook-events/${stored.id}`);
    assert.equal(failed.state, 'failed');
    assert.equal(failed.detail, job.errors.at(-1).message);
    assert.match(failed.detail, /payments\.get_payment/);
    assert.ok((await suite.ok(200, 'GET', '/mainstay/v1/webhook-events?filter[state]=failed')).data.some(({ id }) => id === stored.id));

    await suite.provider('DELETE', '/_admin/faults');
    const replayed = await suite.ok(200, 'POST', `/mainstay/v1/webhook-events/${stored.id}:replay`, { body: { reason: 'the provider is back' } });
    assert.equal(replayed.state, 'received');
    assert.notEqual(replayed.job_id, stored.job_id);
    assert.equal((await suite.job(replayed.job_id)).state, 'succeeded');
    assert.equal((await suite.ok(200, 'GET', `/mainstay/v1/webhook-events/${stored.id}`)).state, 'processed');
    assert.equal((await suite.ok(200, 'GET', `/v1/orders/${order.id}`)).status, 'paid');
  });

  it('tries again when the provider fails, and counts the attempts of the call', async () => {
    const order = await anOrder();
    const payment = await aPayment(order);
    await suite.provider('POST', '/_admin/faults', { path: `/payments/${payment.id}`, status: 503, count: 1 });
    await suite.provider('POST', '/_admin/faults', { path: `/payments/${payment.id}`, reset: true, count: 1 });
    const event = await suite.provider('POST', '/_admin/events', { payment: payment.id });
    const job = await suite.job((await suite.eventOf(event.id)).job_id);
    assert.equal(job.state, 'succeeded', JSON.stringify(job));
    assert.equal((await suite.ok(200, 'GET', `/v1/orders/${order.id}`)).status, 'paid');
    assert.equal((await suite.provider('GET', '/_admin/calls')).data.filter((call) => call.path === `/payments/${payment.id}`).length, 3);
  });
});

describe('import and export', () => {
  it('imports 10,000 customers and names the 20 bad rows', async () => {
    const prefix = `imp${unique()}`;
    const { csv, bad } = customersCsv(prefix, 10000, 500);
    assert.equal(bad.length, 20);
    const created = await suite.ok(201, 'POST', '/mainstay/v1/imports?import=customers', { body: csv, headers: { 'Content-Type': 'text/csv' } });
    assert.match(created.id, /^imp_/);
    assert.match(created.job_id, /^job_/);
    const ended = await suite.ended('imports', created.id);
    assert.equal(ended.state, 'succeeded_with_errors', JSON.stringify(ended));
    assert.equal(Number(ended.rows.total), 10000);
    assert.equal(Number(ended.rows.created), 9980);
    assert.equal(Number(ended.rows.error), 20);
    assert.equal(await suite.value(`SELECT count(*) FROM shop.customers WHERE tenant_id = 'acme' AND email LIKE '${prefix}-%'`), '9980');

    const errors = (await suite.ok(200, 'GET', `/mainstay/v1/imports/${created.id}/errors?limit=50`)).data;
    assert.deepEqual(errors.map(({ line, column, code }) => ({ line: Number(line), column, code })), bad);
    assert.ok(errors.every((error) => error.message.length > 5));

    const job = await suite.job(created.job_id);
    assert.equal(job.state, 'succeeded');
    assert.equal(job.attempt, 1);
    assert.notEqual(job.result ?? null, null);

    // The same file again changes nothing.
    const again = await suite.ok(201, 'POST', '/mainstay/v1/imports?import=customers', { body: csv, headers: { 'Content-Type': 'text/csv' } });
    await suite.ended('imports', again.id);
    assert.equal(await suite.value(`SELECT count(*) FROM shop.customers WHERE email LIKE '${prefix}-%' AND version > 1`), '0');
    assertProblem(await suite.api('GET', `/mainstay/v1/imports/${created.id}`, { key: 'globex' }), 404, 'not-found');
  });

  it('exports what a query gives', async () => {
    const created = await suite.ok(201, 'POST', '/mainstay/v1/exports', { body: { resource: 'revenue-by-day', format: 'csv', query: 'sort=day&fields=day,orders&limit=3' } });
    const ended = await suite.ended('exports', created.id);
    assert.equal(ended.state, 'succeeded', JSON.stringify(ended));
    const { text } = await suite.api('GET', `/mainstay/v1/exports/${created.id}/file`);
    const rows = await suite.sql("SELECT (created_at AT TIME ZONE 'UTC')::date::text, count(*) FROM shop.orders WHERE tenant_id = 'acme' AND status = 'paid' GROUP BY 1 ORDER BY 1 LIMIT 3");
    assert.deepEqual(text.replace(/^\uFEFF/, '').trimEnd().split(/\r?\n/), ['day,orders', ...rows.map((row) => row.join(','))]);
  });

  it('exports orders as CSV, in the background', async () => {
    const created = await suite.ok(201, 'POST', '/mainstay/v1/exports', { body: { resource: 'orders', format: 'csv', query: 'filter[status]=shipped&sort=id&fields=id,number,total' } });
    const ended = await suite.ended('exports', created.id);
    assert.equal(ended.state, 'succeeded', JSON.stringify(ended));
    const file = await suite.api('GET', `/mainstay/v1/exports/${created.id}/file`);
    assert.equal(file.status, 200);
    assert.match(file.headers.get('content-type'), /^text\/csv/);
    const lines = file.text.replace(/^\uFEFF/, '').trimEnd().split(/\r?\n/);
    const rows = (await suite.sql("SELECT id, number, total FROM shop.orders WHERE tenant_id = 'acme' AND status = 'shipped' ORDER BY id")).map((row) => row.join(','));
    assert.deepEqual(lines, ['id,number,total', ...rows]);
    assert.equal(Number(ended.rows), rows.length);
    const job = await suite.job(ended.job_id);
    assert.equal(job.state, 'succeeded');
    assertProblem(await suite.api('GET', `/mainstay/v1/exports/${created.id}/file`, { key: 'globex' }), 404, 'not-found');
  });

  it('lists the jobs with attempts and results, by tenant', async () => {
    const mine = await suite.ok(200, 'GET', '/mainstay/v1/jobs?limit=200&filter[state]=succeeded');
    assert.ok(mine.data.length >= 3);
    assert.ok(mine.data.every((job) => job.tenant === 'acme' && job.attempt >= 1 && job.principal));
    const theirs = await suite.ok(200, 'GET', '/mainstay/v1/jobs', { key: 'globex' });
    assert.deepEqual(theirs.data, []);
    assertProblem(await suite.api('GET', `/mainstay/v1/jobs/${mine.data[0].id}`, { key: 'globex' }), 404, 'not-found');
  });
});

describe('bad input', () => {
  const cases = [
    ['no key', 'GET', '/v1/orders', { key: null }, 401, 'unauthenticated'],
    ['a wrong key', 'GET', '/v1/orders', { key: 'mst_01jc8z4v0m2k7x5c9q3b6t8w1e_wrong' }, 401, 'unauthenticated'],
    ['malformed JSON', 'POST', '/v1/orders', { body: '{"number": ' }, 400, 'json-invalid'],
    ['a key twice', 'POST', '/v1/orders', { body: '{"number":"a","number":"b"}' }, 400, 'json-duplicate-key'],
    ['too deep JSON', 'POST', '/v1/orders', { body: '['.repeat(100) + ']'.repeat(100) }, 400, 'json-too-deep'],
    ['an unknown field', 'POST', '/v1/orders', { body: { customer_id: 1, number: 'x', colour: 'red' } }, 422, 'validation-failed'],
    ['a wrong type', 'POST', '/v1/orders', { body: { customer_id: 'one', number: 'x' } }, 422, 'validation-failed'],
    ['an array for an object', 'POST', '/v1/orders', { body: [] }, 422, 'validation-failed'],
    ['no value for a required field', 'POST', '/v1/orders', { body: { number: 'x' } }, 422, 'validation-failed'],
    ['a value outside an enum', 'POST', '/v1/orders', { body: { customer_id: 1, number: 'x', status: 'lost' } }, 422, 'validation-failed'],
    ['an unknown resource', 'GET', '/v1/unicorns', {}, 404, 'not-found'],
    ['an unknown route', 'GET', '/nowhere', {}, 404, 'not-found'],
    ['an unknown route of the suite', 'GET', '/mainstay/v1/unicorns', {}, 404, 'not-found'],
    ['an id of the wrong form', 'GET', '/v1/orders/abc', {}, 404, 'not-found'],
    ['a wrong method', 'PATCH', '/v1/orders', { body: {} }, 405, 'method-not-allowed'],
    ['another wrong method', 'DELETE', '/mainstay/v1/jobs', {}, 405, 'method-not-allowed'],
    ['a bad cursor', 'GET', '/v1/orders?cursor=AAAA', {}, 400, 'cursor-invalid'],
    ['a limit too high', 'GET', '/v1/orders?limit=201', {}, 400, 'invalid-parameter'],
    ['an unknown parameter', 'GET', '/v1/orders?colour=red', {}, 400, 'invalid-parameter'],
    ['a filter on an unknown field', 'GET', '/v1/orders?filter[colour]=red', {}, 400, 'unknown-field'],
    ['an unknown operator', 'GET', '/v1/orders?filter[status][resembles]=open', {}, 400, 'filter-invalid'],
    ['an encoded slash', 'GET', '/v1/orders%2F1', {}, 400, 'invalid-path'],
    ['a wrong media type', 'POST', '/v1/orders', { body: '<a/>', headers: { 'Content-Type': 'application/xml' } }, 415, 'unsupported-media-type'],
    ['an unknown job id', 'GET', '/mainstay/v1/jobs/job_01jc8z4v0m2k7x5c9q3b6t8w1e', {}, 404, 'not-found'],
    ['an unknown field of an RPC', 'POST', '/mainstay/v1/exports', { body: { resource: 'orders', colour: 'red' } }, 422, 'validation-failed'],
    ['an import into nothing', 'POST', '/mainstay/v1/imports?resource=unicorns', { body: 'a\n1\n', headers: { 'Content-Type': 'text/csv' } }, 400, 'invalid-parameter'],
  ];
  for (const [name, method, target, options, status, type] of cases) {
    it(`answers ${name} with ${status}`, async () => {
      assertProblem(await suite.api(method, target, options), status, type);
    });
  }
  it('says with a 415 what would work', async () => {
    for (const target of ['/v1/orders', '/mainstay/v1/exports']) {
      const coded = await suite.api('POST', target, { body: '{}', headers: { 'Content-Encoding': 'br' } });
      assertProblem(coded, 415, 'unsupported-media-type');
      assert.equal(coded.headers.get('accept-encoding'), 'identity', target);
      const typed = await suite.api('POST', target, { body: '<a/>', headers: { 'Content-Type': 'application/xml' } });
      assert.equal(typed.headers.get('accept'), 'application/json', target);
    }
    const patch = await suite.api('PATCH', '/v1/orders/1', { body: '[]', headers: { 'Content-Type': 'application/json-patch+json' } });
    assertProblem(patch, 415, 'unsupported-media-type');
    assert.match(patch.headers.get('accept-patch'), /application\/merge-patch\+json/);
  });
  it('stops reading a body over the limit', async () => {
    const body = `{"note":"${'x'.repeat(3 << 20)}"}`;
    try {
      assertProblem(await suite.api('POST', '/v1/orders', { body }), 413, 'content-too-large');
    } catch (error) {
      // The connection may be closed while we still send.
      if (error.name === 'AssertionError') throw error;
    }
    assert.equal((await suite.api('GET', '/healthz', { key: null })).status, 200);
  });
  it('names every wrong field at once', async () => {
    const answer = await suite.api('POST', '/v1/orders', { body: { customer_id: 'one', number: 'x'.repeat(41), status: 'lost', total: '-1' } });
    assertProblem(answer, 422, 'validation-failed');
    const pointers = answer.json.errors.map((error) => error.pointer);
    for (const pointer of ['/customer_id', '/number', '/status']) assert.ok(pointers.includes(pointer), `${pointer} in ${pointers}`);
  });
});

describe('the hops, from outside', () => {
  // Established TCP connections between two processes: [client, server].
  function connections() {
    const owner = new Map();
    for (const service of services) {
      for (const pid of suite.processes(service)) {
        for (const fd of readdirSync(`/proc/${pid}/fd`)) {
          try {
            const match = readlinkSync(`/proc/${pid}/fd/${fd}`).match(/^socket:\[(\d+)\]$/);
            if (match) owner.set(match[1], service);
          } catch {
            // closed meanwhile
          }
        }
      }
    }
    // gRPC uses sockets of both families; an IPv4 address stands at the end of a mapped one.
    const lines = ['tcp', 'tcp6'].flatMap((file) => readFileSync(`/proc/net/${file}`, 'utf8').trim().split('\n').slice(1));
    const sockets = lines.map((line) => {
      const cells = line.trim().split(/\s+/);
      return { local: cells[1].slice(-13), remote: cells[2].slice(-13), state: cells[3], service: owner.get(cells[9]) };
    }).filter((socket) => socket.service);
    const listening = new Map(sockets.filter((socket) => socket.state === '0A').map((socket) => [socket.local, socket.service]));
    return sockets.filter((socket) => socket.state === '01' && listening.has(socket.remote) && listening.get(socket.remote) !== socket.service)
      .map((socket) => ({ client: socket.service, server: listening.get(socket.remote), port: parseInt(socket.remote.split(':')[1], 16) }));
  }

  it('five separate processes speak gRPC to one another', async () => {
    const pids = services.map((service) => suite.pid(service));
    assert.equal(new Set(pids).size, 5);
    for (const service of services) assert.match(readFileSync(`/proc/${suite.pid(service)}/cmdline`, 'utf8'), new RegExp(`mainstay-${service}\\0`));
    // Something to do for each of them: connections are made at first use.
    const event = await suite.provider('POST', '/_admin/events', { payment: (await aPayment(await anOrder())).id });
    await suite.job((await suite.eventOf(event.id)).job_id);
    const { csv } = customersCsv(`hop${unique()}`, 10, 0);
    await suite.ended('imports', (await suite.ok(201, 'POST', '/mainstay/v1/imports?import=customers', { body: csv, headers: { 'Content-Type': 'text/csv' } })).id);
    await eventually(() => {
      const pairs = connections().map(({ client, server }) => `${client}→${server}`);
      return ['gateway→webhooks', 'gateway→transfer', 'gateway→worker', 'worker→integrations', 'worker→transfer'].every((pair) => pairs.includes(pair));
    }, { what: 'the connections gateway→webhooks, transfer, worker and worker→integrations, transfer' });
    for (const { server, port } of connections()) {
      assert.equal(port, Number(suite.settings[`port_${server}`]), `${server} is reached on its gRPC port`);
      // HTTP/2 with prior knowledge and content-type application/grpc, or it is no gRPC server.
      const answer = execFileSync('curl', ['-s', '-m', '5', '--http2-prior-knowledge', '-o', '/dev/null', '-w', '%{http_version} %{content_type}', '-X', 'POST',
        '-H', 'content-type: application/grpc', '-H', 'te: trailers', `http://127.0.0.1:${port}/grpc.health.v1.Health/Check`]).toString();
      assert.match(answer, /^2 application\/grpc/);
    }
  });

  it('the hand-off to the worker is an entry of a Redis stream', async () => {
    const monitor = spawn('redis-cli', ['-p', suite.settings.port_redis, 'monitor']);
    let seen = '';
    monitor.stdout.on('data', (chunk) => { seen += chunk; });
    await eventually(() => seen.includes('OK'), { what: 'the monitor' });
    const order = await anOrder();
    const payment = await aPayment(order);
    const event = await suite.provider('POST', '/_admin/events', { payment: payment.id });
    const stored = await suite.eventOf(event.id);
    await suite.job(stored.job_id);
    const added = await eventually(() => seen.split('\n').find((line) => /"xadd" "mainstay:jobs:\{[^"]+\}:\d"/i.test(line)), { what: 'the XADD' });
    const stream = added.match(/"(mainstay:jobs:\{[^"]+\}:\d)"/)[1];
    await eventually(() => new RegExp(`"xack" "${stream.replace(/[{}]/g, '\\$&')}" "workers"`, 'i').test(seen), { what: 'the XACK' });
    monitor.kill();
    await once(monitor, 'exit');
    assert.match(await suite.redis('xinfo', 'groups', stream), /workers/);
    assert.equal(await suite.redis('xpending', stream, 'workers').then((text) => text.split('\n')[0]), '0');
  });
});
