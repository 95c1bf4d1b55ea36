// SPDX-License-Identifier: Apache-2.0
// The statements of this library, each with a line on what it locks. Arrays are one parameter per column, in one order.
#pragma once

namespace mainstay::webhooks::sql {

// Takes a dedup key per delivery; those that somebody had are not returned. Waits for an uncommitted taker of the same
// key; the keys come sorted, so two committers never wait for each other in a circle. $1 tenant $2 source $3 key $4
// event $5 expires_at
inline constexpr char kTakeDedup[] =
    "INSERT INTO mainstay.webhook_dedup (tenant, source, key, event, expires_at) "
    "SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::timestamptz[]) "
    "ON CONFLICT (tenant, source, key) DO NOTHING RETURNING event";

// Counts deliveries of keys that were taken before, and tells the events behind them. Locks those dedup rows. $1 tenant
// $2 source $3 key
inline constexpr char kCountDuplicates[] =
    "UPDATE mainstay.webhook_dedup d SET duplicates = d.duplicates + c.n "
    "FROM (SELECT tenant, source, key, count(*) AS n FROM unnest($1::text[], $2::text[], $3::text[]) AS u(tenant, "
    "source, key) GROUP BY 1, 2, 3) c "
    "WHERE d.tenant = c.tenant AND d.source = c.source AND d.key = c.key RETURNING d.tenant, d.source, d.key, d.event";

// Stores events; nobody else knows their ids yet.
inline constexpr char kInsertEvents[] =
    "INSERT INTO mainstay.webhook_events (id, tenant, source, external_id, type, entity, state, event_time, "
    "received_at, job_id, detail, catalog_hash, dedup_key, "
    "target, headers, content_type, body, remote_address, request_id, traceparent) "
    "SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], "
    "$8::timestamptz[], $9::timestamptz[], $10::uuid[], "
    "$11::text[], $12::text[], $13::text[], $14::text[], $15::json[], $16::text[], $17::bytea[], $18::text[], "
    "$19::text[], $20::text[])";

// Skips rows that another process is deleting. $1 limit
inline constexpr char kPurgeDedup[] =
    "DELETE FROM mainstay.webhook_dedup WHERE ctid = ANY (ARRAY(SELECT ctid FROM mainstay.webhook_dedup WHERE "
    "expires_at < now() "
    "ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))";

// $1 id. Times as text in UTC with six decimals.
inline constexpr char kLoadEvent[] =
    "SELECT tenant, source, external_id, type, entity, state, to_char(event_time AT TIME ZONE 'UTC', "
    "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), "
    "encode(body, 'hex'), headers::text, target, content_type, request_id, traceparent, job_id FROM "
    "mainstay.webhook_events "
    "WHERE id = $1::uuid";

// Locks the event until the end of the transaction that applies it.
inline constexpr char kLockEvent[] = "SELECT state, job_id FROM mainstay.webhook_events WHERE id = $1::uuid FOR UPDATE";

// $1 id $2 state $3 detail
inline constexpr char kConcludeEvent[] =
    "UPDATE mainstay.webhook_events SET state = $2, detail = $3, processed_at = clock_timestamp() WHERE id = $1::uuid";

// $1 id $2 detail. A run that was overtaken must not change what became of the event.
inline constexpr char kNoteEvent[] =
    "UPDATE mainstay.webhook_events SET detail = $2 WHERE id = $1::uuid AND state = 'received'";

// $1 id $2 job. The event is waiting again.
inline constexpr char kReplayEvent[] =
    "UPDATE mainstay.webhook_events SET state = 'received', detail = '', processed_at = NULL, job_id = $2::uuid WHERE "
    "id = $1::uuid";

}  // namespace mainstay::webhooks::sql
