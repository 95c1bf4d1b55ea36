// SPDX-License-Identifier: Apache-2.0
// The services' gRPC side, called from a process of another language: health, reflection, principals, records.v1.
import assert from 'node:assert/strict';
import { createPrivateKey, sign } from 'node:crypto';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { Suite, root, services } from '../e2e/lib/suite.mjs';

let suite;
before(async () => {
  suite = await Suite.start();
});
after(() => suite?.stop());

const load = (file, includeDirs = [path.join(root, 'proto'), '/usr/share/gocode/src/github.com/gogo/googleapis']) =>
  grpc.loadPackageDefinition(loader.loadSync(file, { includeDirs, longs: String, enums: String, keepCase: true, defaults: true }));

function call(client, method, request, metadata = new grpc.Metadata(), deadline = 5000) {
  return new Promise((done) => {
    client[method](request, metadata, { deadline: Date.now() + deadline }, (error, response) => done({ code: error?.code ?? 0, error, response }));
  });
}
const address = (service) => `127.0.0.1:${suite.settings[`port_${service}`]}`;

// A principal as a service of the suite signs it (libs/rpc/principal_token.h).
function principal(issuer, audience, { tenant = 'acme', roles = ['admin'], life = 60, spoil = '' } = {}) {
  const raw = Buffer.from(suite.file(`keys/${issuer}.key`), 'base64');
  const key = createPrivateKey({ key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), raw]), format: 'der', type: 'pkcs8' });
  const payload = Buffer.from(JSON.stringify({ iss: issuer, aud: audience, exp: Math.floor(Date.now() / 1000) + life, tenant, sub: 'service:test', roles })).toString('base64url');
  const signature = sign(null, Buffer.from(`v1.${payload}`), key).toString('base64url');
  const metadata = new grpc.Metadata();
  metadata.set('mainstay-principal', `v1.${payload}.${spoil}${signature.slice(spoil.length)}`);
  return metadata;
}

describe('every service', () => {
  it('answers gRPC health for liveness and readiness, and lists its services by reflection', async () => {
    const health = loader.fromJSON({ nested: { grpc: { nested: { health: { nested: { v1: { nested: {
      HealthCheckRequest: { fields: { service: { type: 'string', id: 1 } } },
      HealthCheckResponse: { fields: { status: { type: 'int32', id: 1 } } },
      Health: { methods: { Check: { requestType: 'HealthCheckRequest', responseType: 'HealthCheckResponse' } } },
    } } } } } } } });
    const { Health } = grpc.loadPackageDefinition(health).grpc.health.v1;
    for (const service of services) {
      const client = new Health(address(service), grpc.credentials.createInsecure());
      for (const name of ['liveness', 'readiness']) {
        const { code, response } = await call(client, 'Check', { service: name });
        assert.equal(code, 0, `${service} ${name}`);
        assert.equal(response.status, 1);
      }
      client.close();
    }
  });
});

describe('principals', () => {
  it('are needed, verified and bound to their audience', async () => {
    const { JobsService } = load('mainstay/jobs/v1/jobs.proto').mainstay.jobs.v1;
    const client = new JobsService(address('worker'), grpc.credentials.createInsecure());
    assert.equal((await call(client, 'ListJobs', {})).code, grpc.status.UNAUTHENTICATED, 'none');
    assert.equal((await call(client, 'ListJobs', {}, principal('gateway', 'worker'))).code, 0, 'a good one');
    assert.equal((await call(client, 'ListJobs', {}, principal('gateway', 'transfer'))).code, grpc.status.UNAUTHENTICATED, 'for another service');
    assert.equal((await call(client, 'ListJobs', {}, principal('gateway', 'worker', { life: -120 }))).code, grpc.status.UNAUTHENTICATED, 'expired');
    assert.equal((await call(client, 'ListJobs', {}, principal('gateway', 'worker', { spoil: 'AAAA' }))).code, grpc.status.UNAUTHENTICATED, 'a wrong signature');
    assert.equal((await call(client, 'ListJobs', {}, principal('gateway', 'worker', { roles: ['nobody'] }))).code, grpc.status.PERMISSION_DENIED, 'without the scope');
    // The same connection, one call after the other: nothing of the first caller stays on it.
    assert.equal((await call(client, 'ListJobs', {})).code, grpc.status.UNAUTHENTICATED, 'none, after a good one');
    client.close();
  });
});

describe('trust between services', () => {
  it('follows who calls whom: the key of a service that has no business there is refused', async () => {
    const { RecordsService } = load('mainstay/records/v1/records.proto').mainstay.records.v1;
    const { JobsService } = load('mainstay/jobs/v1/jobs.proto').mainstay.jobs.v1;
    const { WebhookEventsService } = load('mainstay/webhooks/v1/webhooks.proto').mainstay.webhooks.v1;
    const { ConnectionsService } = load('mainstay/integrations/v1/integrations.proto').mainstay.integrations.v1;
    const { ImportsService } = load('mainstay/transfer/v1/transfer.proto').mainstay.transfer.v1;
    const doors = [
      ['gateway', RecordsService, 'ListRecords', { resource: 'orders', query: { limit: 1 } }, ['app']],
      ['webhooks', WebhookEventsService, 'ListWebhookEvents', {}, ['gateway']],
      ['integrations', ConnectionsService, 'ListConnections', {}, ['gateway', 'worker']],
      ['transfer', ImportsService, 'ListImports', {}, ['gateway', 'worker']],
      ['worker', JobsService, 'ListJobs', {}, ['gateway']],
    ];
    for (const [service, Service, method, request, callers] of doors) {
      const client = new Service(address(service), grpc.credentials.createInsecure());
      for (const issuer of [...services, 'app']) {
        const { code, error } = await call(client, method, request, principal(issuer, service));
        assert.equal(code, callers.includes(issuer) ? 0 : grpc.status.UNAUTHENTICATED, `${issuer} at ${service}: ${error?.message}`);
      }
      client.close();
    }
  });
});

describe('records.v1', () => {
  it('gives the same rows and permissions as HTTP', async () => {
    const { RecordsService } = load('mainstay/records/v1/records.proto').mainstay.records.v1;
    const client = new RecordsService(address('gateway'), grpc.credentials.createInsecure());
    const over = (await suite.ok(200, 'GET', '/v1/orders?limit=3&sort=id')).data;
    const list = await call(client, 'ListRecords', { resource: 'orders', query: { limit: 3, sort: [{ field: 'id' }] } }, principal('app', 'gateway'));
    assert.equal(list.code, 0, list.error?.message);
    assert.deepEqual(list.response.data.map((record) => JSON.parse(record.json)), over);
    const one = await call(client, 'GetRecord', { resource: 'orders', id: over[0].id }, principal('app', 'gateway'));
    assert.deepEqual(JSON.parse(one.response.json), over[0]);
    assert.equal((await call(client, 'GetRecord', { resource: 'orders', id: over[0].id }, principal('app', 'gateway', { tenant: 'globex' }))).code, grpc.status.NOT_FOUND);
    const number = `RPC-${Date.now()}`;
    const made = await call(client, 'CreateRecord', { resource: 'orders', json: JSON.stringify({ customer_id: over[0].customer_id, number }) }, principal('app', 'gateway'));
    assert.equal(made.code, 0, made.error?.message);
    const { id } = JSON.parse(made.response.json);
    assert.equal((await call(client, 'UpdateRecord', { resource: 'orders', id, json: '{"note":"by rpc"}' }, principal('app', 'gateway'))).code, 0);
    assert.equal((await suite.ok(200, 'GET', `/v1/orders/${id}`)).note, 'by rpc');
    const bad = await call(client, 'CreateRecord', { resource: 'orders', json: '{"number":1,"colour":2}' }, principal('app', 'gateway'));
    assert.equal(bad.code, grpc.status.INVALID_ARGUMENT);
    assert.ok(bad.error.metadata.get('grpc-status-details-bin').length > 0, 'rich error details');
    const both = { operations: [{ method: 'update', resource: 'orders', id, body: { note: 'batch' } }, { method: 'create', resource: 'orders', body: { customer_id: { $ref: '0.customer_id' }, number: `${number}-2` } }] };
    const batch = await call(client, 'BatchRecords', { json: JSON.stringify(both) }, principal('app', 'gateway'));
    assert.equal(batch.code, 0, batch.error?.message);
    assert.deepEqual(JSON.parse(batch.response.json).results.map((result) => result.status), [200, 201]);
    assert.equal((await call(client, 'BatchRecords', { json: JSON.stringify(both) }, principal('app', 'gateway'))).code, grpc.status.ALREADY_EXISTS, 'the number is taken: nothing is done');
    const filtered = { resource: 'orders', query: { filter: { condition: { field: 'number', op: 'eq', values: [`${number}-2`] } } } };
    assert.equal((await call(client, 'ListRecords', filtered, principal('app', 'gateway'))).response.data.length, 1);
    assert.equal((await call(client, 'DeleteRecord', { resource: 'orders', id }, principal('app', 'gateway'))).code, 0);
    client.close();
  });
});
