// SPDX-License-Identifier: Apache-2.0
// The suite knows no shop: other tables and another catalog, made at run time; and a change of the catalog while everything runs.
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Suite, assertProblem, eventually, root, services, sleep } from './lib/suite.mjs';

let suite;
before(async () => {
  suite = await Suite.start();
});
const folders = [];
after(async () => {
  for (const made of folders) rmSync(made, { recursive: true });
  await suite?.stop();
});

function folder() {
  const made = mkdtempSync(path.join(tmpdir(), 'mainstay-catalog-'));
  folders.push(made);
  return made;
}
const payments = () => ['--set', `payments_url=${suite.provider_url}`];

// A catalog with the given extra file beside the demo's own.
function demoWith(name, yaml) {
  const copy = folder();
  cpSync(path.join(root, 'deploy/demo/catalog'), copy, { recursive: true });
  if (name) writeFileSync(path.join(copy, name), yaml);
  return copy;
}

const library = `
resources:
  books:
    table: library.books
    tenant: house
    fields:
      isbn: {pattern: '[0-9]{13}'}
    relations:
      loans: {many: loans, by: book_id}
    permissions:
      librarian: {actions: [read, create, update, delete]}
      reader: {actions: [read]}
  loans:
    table: library.loans
    tenant: house
    relations:
      book: {to: books, by: book_id}
    permissions:
      librarian: {actions: [read, create, update, delete]}
roles:
  librarian: {description: Runs the desk., scopes: ['imports:write', 'imports:read']}
  reader: {description: Reads.}
`;

describe('another domain', () => {
  it('is served from other tables, by a catalog made at run time, with nothing rebuilt', async () => {
    await suite.sql(`CREATE SCHEMA library;
      CREATE TABLE library.books (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), house text NOT NULL, isbn varchar(13) NOT NULL, title varchar(200) NOT NULL, pages integer CHECK (pages > 0), tags text[] NOT NULL DEFAULT '{}', UNIQUE (house, isbn));
      CREATE TABLE library.loans (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, house text NOT NULL, book_id uuid NOT NULL REFERENCES library.books, reader text NOT NULL, due date NOT NULL);`);
    const catalog = demoWith('library.yaml', library);
    const check = await suite.cli(['check', catalog, ...payments()]);
    assert.equal(check.code, 0, check.stderr);
    assertProblem(await suite.api('GET', '/v1/books'), 404, 'not-found');
    const published = await suite.cli(['publish', catalog, '--author', 'e2e', ...payments()]);
    assert.equal(published.code, 0, published.stderr);

    const key = (await suite.cli(['keys', 'create', '--tenant', 'north', '--role', 'librarian'])).stdout.trim();
    const reader = (await suite.cli(['keys', 'create', '--tenant', 'north', '--role', 'reader'])).stdout.trim();
    const elsewhere = (await suite.cli(['keys', 'create', '--tenant', 'south', '--role', 'librarian'])).stdout.trim();
    const book = await suite.ok(201, 'POST', '/v1/books', { key, body: { isbn: '9780000000017', title: 'The Sea', pages: 200, tags: ['sea', 'ships'] } });
    assert.deepEqual(book.tags, ['sea', 'ships']);
    const loan = await suite.ok(201, 'POST', '/v1/loans', { key, body: { book_id: book.id, reader: 'Ada', due: '2026-12-24' } });
    assert.equal(loan.due, '2026-12-24');
    assert.equal((await suite.ok(200, 'GET', `/v1/books/${book.id}`, { key: reader })).title, 'The Sea');
    assertProblem(await suite.api('PATCH', `/v1/books/${book.id}`, { key: reader, body: { title: 'Mine' } }), 403, 'forbidden');
    assertProblem(await suite.api('GET', `/v1/books/${book.id}`, { key: elsewhere }), 404, 'not-found');
    assertProblem(await suite.api('POST', '/v1/books', { key, body: { isbn: 'x', title: 'y' } }), 422, 'validation-failed');
    assertProblem(await suite.api('POST', '/v1/books', { key, body: { isbn: '9780000000017', title: 'Twice' } }), 409, 'unique-violation');
    // Who wrote, and who was refused.
    const auditor = (await suite.cli(['keys', 'create', '--tenant', 'north', '--role', 'admin'])).stdout.trim();
    assertProblem(await suite.api('GET', '/mainstay/v1/audit-events', { key }), 403, 'forbidden');
    const events = (await suite.ok(200, 'GET', '/mainstay/v1/audit-events?filter[resource]=books&sort=at', { key: auditor })).data;
    assert.deepEqual(events.map((event) => [event.tenant, event.action, event.outcome, event.roles]), [['north', 'create', 'done', ['librarian']], ['north', 'update', 'denied', ['reader']]]);
    assert.equal(events[0].created, 1);
    assert.deepEqual(await suite.ok(200, 'GET', `/mainstay/v1/audit-events/${events[1].id}`, { key: auditor }), events[1]);
    assertProblem(await suite.api('GET', `/mainstay/v1/audit-events/${events[1].id}`), 404, 'not-found');

    const created = await suite.ok(201, 'POST', '/mainstay/v1/imports?resource=books&mode=create', { key, body: 'isbn,title,pages\n9780000000024,Hills,120\n9780000000031,Rivers,90\n', headers: { 'Content-Type': 'text/csv' } });
    const ended = await eventually(async () => {
      const answer = await suite.ok(200, 'GET', `/mainstay/v1/imports/${created.id}`, { key });
      return ['queued', 'running'].includes(answer.state) ? undefined : answer;
    }, { what: 'the import' });
    assert.equal(ended.state, 'succeeded', JSON.stringify(ended));
    assert.equal((await suite.ok(200, 'GET', '/v1/books?sort=isbn', { key })).data.length, 3);
    // The shop is still there.
    await suite.ok(200, 'GET', '/v1/orders?limit=1');
  });
});

describe('a live change', () => {
  it('reaches every service within seconds, without a failed request', async () => {
    let running = true;
    const failures = [];
    let served = 0;
    const load = Promise.all([1, 2].map(async () => {
      while (running) {
        const answer = await suite.api('GET', '/v1/orders?limit=1');
        if (answer.status !== 200) failures.push(answer.text);
        served += 1;
      }
    }));
    const catalog = demoWith();
    const file = path.join(catalog, 'resources.yaml');
    const text = readFileSync(file, 'utf8');
    assert.match(text, /description: People who buy\./);
    writeFileSync(file, text.replace("country: {pattern: '[A-Z]{2}', filterable: true}", "country: {hidden: true}"));
    assert.ok('country' in (await suite.ok(200, 'GET', '/v1/customers?limit=1')).data[0]);
    const published = await suite.cli(['publish', catalog, ...payments()]);
    assert.equal(published.code, 0, published.stderr);
    assert.match(published.stdout, /taken over by \d+ running services/);
    const hash = published.stdout.match(/published ([0-9a-f]{64})/)[1];
    // Publishing has waited for all of them: nothing to wait for here.
    assert.ok(!('country' in (await suite.ok(200, 'GET', '/v1/customers?limit=1')).data[0]));
    for (const service of services) assert.ok((await suite.readyz(service)).text.includes(hash), service);
    running = false;
    await load;
    assert.deepEqual(failures, []);
    assert.ok(served > 10);
  });

  it('with a mistake is refused with its place, and the old one keeps serving', async () => {
    const active = await suite.value('SELECT hash FROM mainstay.catalog_active');
    const catalog = demoWith('broken.yaml', 'resources:\n  ghosts:\n    table: shop.ghosts\n    colour: white\n');
    const published = await suite.cli(['publish', catalog, ...payments()]);
    assert.equal(published.code, 1);
    assert.match(published.stderr, /broken\.yaml:\d+:\d+/);
    assert.match(published.stderr, /colour/);
    assert.equal(await suite.value('SELECT hash FROM mainstay.catalog_active'), active);
    await sleep(2500);
    await suite.ok(200, 'GET', '/v1/orders?limit=1');
  });
});
