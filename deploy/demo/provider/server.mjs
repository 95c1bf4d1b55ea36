// SPDX-License-Identifier: Apache-2.0
// A small payment company for the demo and the tests: an HTTP API with what such APIs have and get wrong, and the signed webhooks they send.
//
// It owns its payments (memory, and an append-only file so that a restart keeps them). Everything under /_admin is the hand of the test: it makes payments succeed, sends events, and lets the
// next calls fail. All calls need the bearer key. No packages; Node 18 or newer.
//
//   node server.mjs --port 9000 --key-file KEY --webhook-secret-file SECRET --webhook-url http://127.0.0.1:8080/hooks/payments --state FILE [--rate 200]
import { createHmac, randomBytes, randomUUID, timingSafeEqual } from 'node:crypto';
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import http from 'node:http';
import { parseArgs } from 'node:util';

const { values: options } = parseArgs({
  options: {
    port: { type: 'string', default: '0' },
    'key-file': { type: 'string' },
    'webhook-secret-file': { type: 'string' },
    'webhook-url': { type: 'string' },
    state: { type: 'string' },
    rate: { type: 'string', default: '1000' },
  },
});
for (const name of ['key-file', 'webhook-secret-file', 'webhook-url']) {
  if (!options[name]) {
    console.error(`--${name} is missing`);
    process.exit(2);
  }
}
const key = readFileSync(options['key-file'], 'utf8').trim();
const webhookSecret = readFileSync(options['webhook-secret-file'], 'utf8').trim();

// ---- state ----

const payments = new Map(); // id → payment, in the order of creation
const idempotent = new Map(); // key → { request, status, body }
const events = new Map(); // id → { body, deliveries }
const calls = []; // the last API calls, for tests
let faults = []; // { count, status, delay_ms, reset, retry_after, body, path }

function remember(record) {
  if (options.state) appendFileSync(options.state, JSON.stringify(record) + '\n');
}
function apply(record) {
  if (record.payment) payments.set(record.payment.id, record.payment);
  if (record.idempotent) idempotent.set(record.idempotent.key, record.idempotent);
  if (record.event) events.set(record.event.id, { body: record.event, deliveries: 0 });
}
function change(record) {
  remember(record);
  apply(record);
}
if (options.state && existsSync(options.state)) {
  for (const line of readFileSync(options.state, 'utf8').split('\n')) {
    try {
      if (line) apply(JSON.parse(line));
    } catch {
      console.error('a line of the state file is cut off and left out');
    }
  }
}

// ---- the API ----

class Refusal extends Error {
  constructor(status, code, message, headers = {}) {
    super(message);
    Object.assign(this, { status, code, headers });
  }
}

const statuses = ['pending', 'succeeded', 'failed', 'refunded'];

function newPayment(input) {
  if (!/^\d{1,10}(\.\d{1,2})?$/.test(String(input.amount ?? ''))) throw new Refusal(422, 'invalid_amount', 'amount is a decimal with at most two places, as text');
  if (!/^[A-Z]{3}$/.test(input.currency ?? '')) throw new Refusal(422, 'invalid_currency', 'currency is a code such as EUR');
  if (input.status !== undefined && !statuses.includes(input.status)) throw new Refusal(422, 'invalid_status', `status is one of ${statuses.join(', ')}`);
  const now = new Date().toISOString();
  return {
    id: input.id ?? `pay_${randomUUID().replaceAll('-', '')}`,
    account: input.account ?? 'acme',
    status: input.status ?? 'pending',
    amount: String(input.amount),
    currency: input.currency,
    metadata: input.metadata ?? {},
    created_at: now,
    updated_at: now,
  };
}

function createPayment(request, input) {
  const idempotencyKey = request.headers['idempotency-key'];
  const fingerprint = JSON.stringify(input);
  if (idempotencyKey) {
    const before = idempotent.get(idempotencyKey);
    if (before && before.request !== fingerprint) throw new Refusal(409, 'idempotency_key_reused', 'this key came with another request before');
    if (before) return { status: before.status, body: before.body, headers: { 'Idempotent-Replayed': 'true' } };
  }
  const payment = newPayment(input);
  change({ payment });
  if (idempotencyKey) change({ idempotent: { key: idempotencyKey, request: fingerprint, status: 201, body: payment } });
  return { status: 201, body: payment };
}

function listPayments(query) {
  const limit = Number(query.get('limit') ?? 10);
  if (!Number.isInteger(limit) || limit < 1 || limit > 100) throw new Refusal(400, 'invalid_limit', 'limit is between 1 and 100');
  let all = [...payments.values()];
  const account = query.get('account');
  const status = query.get('status');
  if (account) all = all.filter((payment) => payment.account === account);
  if (status) all = all.filter((payment) => payment.status === status);
  let from = 0;
  const after = query.get('starting_after');
  if (after) {
    from = all.findIndex((payment) => payment.id === after) + 1;
    if (from === 0) throw new Refusal(400, 'invalid_cursor', 'no payment with the id in starting_after');
  }
  return { status: 200, body: { object: 'list', data: all.slice(from, from + limit), has_more: from + limit < all.length } };
}

// A token bucket over all callers.
const rate = { perSecond: Number(options.rate), tokens: Number(options.rate), at: Date.now() };
function takeToken() {
  const now = Date.now();
  rate.tokens = Math.min(rate.perSecond, rate.tokens + ((now - rate.at) / 1000) * rate.perSecond);
  rate.at = now;
  if (rate.tokens < 1) throw new Refusal(429, 'rate_limited', 'too many calls', { 'Retry-After': '1' });
  rate.tokens -= 1;
}

// Takes the next fault that fits, if one is set: undefined, or what to do instead of answering.
function nextFault(path) {
  const fault = faults.find((f) => !f.path || path.startsWith(f.path));
  if (!fault) return undefined;
  fault.count -= 1;
  faults = faults.filter((f) => f.count > 0);
  return fault;
}

// ---- webhooks ----

// `forge`: signature (made with another secret), body (changed after signing), timestamp (an hour old).
async function deliver(id, { forge, url } = {}) {
  const event = events.get(id);
  if (!event) throw new Refusal(404, 'not_found', 'no such event');
  event.deliveries += 1;
  let body = JSON.stringify(event.body);
  const timestamp = Math.floor(Date.now() / 1000) - (forge === 'timestamp' ? 3600 : 0);
  const secret = forge === 'signature' ? `whsec_${randomBytes(16).toString('hex')}` : webhookSecret;
  const signature = createHmac('sha256', secret).update(`${timestamp}.${body}`).digest('hex');
  if (forge === 'body') body = body.replace('{', '{"forged":true,');
  try {
    const answer = await fetch(url ?? options['webhook-url'], {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Stripe-Signature': `t=${timestamp},v1=${signature}`, 'User-Agent': 'demo-provider/1' },
      body,
      signal: AbortSignal.timeout(10000),
    });
    return { id, delivery: event.deliveries, status: answer.status, body: await answer.text() };
  } catch (error) {
    return { id, delivery: event.deliveries, status: 0, body: String(error.cause?.code ?? error.message) };
  }
}

// Tries again while the receiver does not take it, as providers do.
async function deliverUntilTaken(id, input) {
  let answer;
  for (let attempt = 0; attempt <= (input.retries ?? 0); attempt += 1) {
    if (attempt > 0) await new Promise((done) => setTimeout(done, Math.min(200 * attempt, 1000)));
    answer = await deliver(id, input);
    if (answer.status >= 200 && answer.status < 300) break;
  }
  return answer;
}

async function admin(request, path, input) {
  if (request.method === 'POST' && path === '/_admin/payments') {
    const payment = newPayment(input);
    change({ payment });
    return { status: 201, body: payment };
  }
  let match = path.match(/^\/_admin\/payments\/([^/]+)$/);
  if (match && request.method === 'POST') {
    const payment = payments.get(decodeURIComponent(match[1]));
    if (!payment) throw new Refusal(404, 'not_found', 'no such payment');
    // A payment's time always moves on, also within a millisecond: receivers order news by it.
    const updated = Math.max(Date.now(), Date.parse(payment.updated_at) + 1);
    const changed = newPayment({ ...payment, ...input });
    change({ payment: { ...changed, created_at: payment.created_at, updated_at: input.updated_at ?? new Date(updated).toISOString() } });
    return { status: 200, body: payments.get(payment.id) };
  }
  // {type, payment, account?, id?, created?, send: false?, forge?, retries?, times?}: makes an event and delivers it (`times` times).
  if (request.method === 'POST' && path === '/_admin/events') {
    const payment = payments.get(input.payment);
    const event = {
      id: input.id ?? `evt_${randomUUID().replaceAll('-', '')}`,
      type: input.type ?? `payment.${payment?.status ?? 'updated'}`,
      created: input.created ?? Math.floor(Date.now() / 1000),
      account: input.account ?? payment?.account ?? 'acme',
      data: { object: { id: input.payment } },
    };
    change({ event });
    if (input.send === false) return { status: 201, body: { id: event.id, deliveries: [] } };
    const deliveries = [];
    for (let i = 0; i < (input.times ?? 1); i += 1) deliveries.push(await deliverUntilTaken(event.id, input));
    return { status: 201, body: { id: event.id, deliveries } };
  }
  match = path.match(/^\/_admin\/events\/([^/]+):redeliver$/);
  if (match && request.method === 'POST') return { status: 200, body: await deliverUntilTaken(match[1], input) };
  if (request.method === 'POST' && path === '/_admin/faults') {
    faults.push({ ...input, count: input.count ?? 1 });
    return { status: 200, body: { faults } };
  }
  if (request.method === 'DELETE' && path === '/_admin/faults') {
    faults = [];
    return { status: 200, body: { faults } };
  }
  if (request.method === 'POST' && path === '/_admin/rate') {
    rate.perSecond = input.per_second;
    rate.tokens = Math.min(rate.tokens, rate.perSecond);
    return { status: 200, body: { per_second: rate.perSecond } };
  }
  if (request.method === 'GET' && path === '/_admin/calls') return { status: 200, body: { data: calls } };
  throw new Refusal(404, 'not_found', 'no such path');
}

// ---- the server ----

const maxBody = 1 << 20;
async function readJson(request) {
  const pieces = [];
  let size = 0;
  for await (const piece of request) {
    size += piece.length;
    if (size > maxBody) throw new Refusal(413, 'too_large', 'the body is too large');
    pieces.push(piece);
  }
  if (size === 0) return {};
  try {
    return JSON.parse(Buffer.concat(pieces).toString('utf8'));
  } catch {
    throw new Refusal(400, 'invalid_json', 'the body is not JSON');
  }
}

function authorised(request) {
  const given = Buffer.from(request.headers.authorization ?? '');
  const wanted = Buffer.from(`Bearer ${key}`);
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

async function answer(request, path, query) {
  if (path === '/_health') return { status: 200, body: { status: 'ok' } };
  if (!authorised(request)) throw new Refusal(401, 'unauthorized', 'a valid bearer key is needed', { 'WWW-Authenticate': 'Bearer' });
  const input = await readJson(request);
  if (path.startsWith('/_admin/')) return admin(request, path, input);
  calls.push({ method: request.method, path, headers: request.headers, at: new Date().toISOString() });
  if (calls.length > 1000) calls.shift();
  const fault = nextFault(path);
  if (fault) {
    if (fault.delay_ms) await new Promise((done) => setTimeout(done, fault.delay_ms));
    if (fault.reset) {
      request.socket.destroy();
      return undefined;
    }
    if (fault.status) {
      throw new Refusal(fault.status, fault.code ?? 'injected_fault', 'this failure was asked for', fault.retry_after === undefined ? {} : { 'Retry-After': String(fault.retry_after) });
    }
  }
  takeToken();
  if (path === '/payments' && request.method === 'POST') return createPayment(request, input);
  if (path === '/payments' && request.method === 'GET') return listPayments(query);
  const match = path.match(/^\/payments\/([^/]+)$/);
  if (match && request.method === 'GET') {
    const payment = payments.get(decodeURIComponent(match[1]));
    if (!payment) throw new Refusal(404, 'not_found', 'no such payment');
    return { status: 200, body: payment };
  }
  throw new Refusal(404, 'not_found', 'no such path');
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://provider');
  let result;
  try {
    result = await answer(request, url.pathname, url.searchParams);
  } catch (error) {
    if (!(error instanceof Refusal)) console.error(error);
    const status = error.status ?? 500;
    result = { status, headers: error.headers, body: { error: { code: error.code ?? 'internal', message: error instanceof Refusal ? error.message : 'internal error' } } };
  }
  if (!result || response.destroyed) return;
  response.writeHead(result.status, { 'Content-Type': 'application/json', ...result.headers });
  response.end(JSON.stringify(result.body));
});
server.on('error', (error) => {
  console.error(`cannot listen on port ${options.port}: ${error.code}`);
  process.exit(1);
});
server.listen(Number(options.port), '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    server.close(() => process.exit(0));
    server.closeIdleConnections?.();
    setTimeout(() => process.exit(0), 2000).unref();
  });
}
