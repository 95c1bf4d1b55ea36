// SPDX-License-Identifier: Apache-2.0
// What became of every job that was added: counted from the database, by id, after the fact. jobs_bench writes the ids down in bench.enqueued once it has measured.

// One row of counts for a run. waiting: still in the hot table. lost: nowhere. double: in history more than once, or there and in the hot table too. again: handed out more than once (a fence above 1),
// which at-least-once allows. failed: final, but not succeeded.
export const ledgerSql = `
WITH added AS (SELECT id FROM bench.enqueued WHERE run = $1),
     ended AS (SELECT h.id, count(*) AS times, max(h.fence) AS fence, bool_and(h.state = 6) AS succeeded FROM mainstay.jobs_history h JOIN added USING (id) GROUP BY h.id)
SELECT count(*)::int AS added,
       count(DISTINCT a.id)::int AS ids,
       count(e.id)::int AS done,
       count(j.id)::int AS waiting,
       count(*) FILTER (WHERE e.id IS NULL AND j.id IS NULL)::int AS lost,
       count(*) FILTER (WHERE e.times > 1 OR (e.id IS NOT NULL AND j.id IS NOT NULL))::int AS double,
       count(*) FILTER (WHERE e.fence > 1)::int AS again,
       count(*) FILTER (WHERE NOT e.succeeded)::int AS failed
FROM added a LEFT JOIN ended e USING (id) LEFT JOIN mainstay.jobs j USING (id)`;

const none = () => ({ jobs: 0, lost: 0, double: 0, again: 0, waiting: 0 });

export class Ledger {
  constructor() {
    this.since = none();
    this.problems = [];
  }
  // counts: of ledgerSql. expected: how many jobs were to be added; waiting: how many may still wait, where a measurement was cut short on purpose. A run that is wrong is remembered, not thrown: the
  // others go on, and the whole fails at its end.
  note(name, counts, { expected, waiting = false }) {
    this.since.jobs += counts.added;
    for (const key of ['lost', 'double', 'again', 'waiting']) this.since[key] += counts[key];
    const wrong = ['lost', 'double', 'failed', ...(waiting ? [] : ['waiting'])].filter((key) => counts[key] > 0).map((key) => `${counts[key]} ${key}`);
    if (counts.ids !== counts.added) wrong.push(`${counts.added - counts.ids} ids were given twice`);
    if (counts.added !== expected) wrong.push(`${counts.added} of ${expected} were added`);
    if (wrong.length > 0) this.problems.push(`${name}: of ${expected} jobs ${wrong.join(', ')}`);
  }
  // The counts since it was asked last.
  take() {
    const counts = this.since;
    this.since = none();
    return counts;
  }
}
