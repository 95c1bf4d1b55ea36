// SPDX-License-Identifier: Apache-2.0
// The catalog as C++ values: what the user declared, joined with what PostgreSQL itself knows of their tables.
//
// Immutable once built; shared by pointer (std::shared_ptr<const Model>) and swapped whole, so a request works on one
// model from start to end. Types, keys, uniqueness and foreign keys come from PostgreSQL (introspect.h), never from the
// YAML. The YAML form of each struct is described in README.md.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace mainstay::catalog {

// The families of column types that filters, validation and formatting distinguish.
enum class TypeFamily : uint8_t {
  kBool,
  kInt16,
  kInt32,
  kInt64,
  kDecimal,
  kFloat32,
  kFloat64,
  kText,
  kUuid,
  kDate,
  kTime,
  kTimestamp,
  kTimestampTz,
  kInterval,
  kBytes,
  kJson,
  kEnum,
  kRange,
  kInet,
  kOther,
};

struct ColumnType {
  TypeFamily family = TypeFamily::kOther;
  std::string name;              // SQL name to cast to, qualified and quoted: "bigint", "shop"."order_status"
  bool array = false;            // an array of `family`
  int max_length = 0;            // varchar(n); 0: none
  int precision = 0, scale = 0;  // numeric(p,s); 0,0: any
  std::vector<std::string> enum_values;
  std::string collation;  // of text, when not the database's default
};

// A field of a resource: one column under its public name.
struct Field {
  std::string name;    // public, snake_case
  std::string column;  // as in PostgreSQL
  ColumnType type;
  int position = 0;  // index in Resource::fields
  bool nullable = true;
  bool has_default = false;
  bool generated = false;   // GENERATED ALWAYS (also identity always): never written
  bool hidden = false;      // does not exist for anyone
  bool sensitive = false;   // masked in logs, audit, console
  bool read_only = false;   // clients may not write it
  bool write_once = false;  // only on create
  bool required = false;    // on create, beyond NOT NULL without default
  bool filterable = false;
  bool sortable = false;
  bool indexed = false;     // leads an index: a filter on it is cheap
  std::string search;       // configuration of full-text search ("pg_catalog"."english"); empty: not searched
  bool unique = false;      // alone in a unique index
  bool identifier = false;  // text used as a key: no bidi or zero-width marks, leading zeros kept
  bool normalize = false;   // NFC on write
  std::string description;
  // Validation beyond the type.
  std::optional<int> min_length, max_length;
  std::optional<std::string> minimum, maximum;  // as text, compared in the field's own type
  std::string pattern;                          // RE2, whole value
  std::vector<std::string> one_of;
  std::vector<std::string> aliases;  // other header names in imports
};

struct Relation {
  enum class Kind : uint8_t { kToOne, kToMany, kManyToMany };
  std::string name;
  Kind kind = Kind::kToOne;
  std::string target;                       // resource name
  std::vector<std::string> columns;         // ours, as in PostgreSQL (not public names)
  std::vector<std::string> target_columns;  // theirs, same order
  // Many-to-many: the joining table (quoted: "schema"."table") and its columns towards us (same order as `columns`) and
  // them (as `target_columns`).
  std::string through;
  std::vector<std::string> through_columns, through_target_columns;
  bool nested = false;  // a row may be created together with its list of these
};

// A foreign key of the table whose columns are all fields: what a written value must point at.
struct Reference {
  std::vector<int> fields;                  // positions of ours
  std::string target;                       // resource over that table; "" when the catalog has none (or several)
  std::string target_schema, target_table;  // as in PostgreSQL
  std::vector<std::string> target_columns;  // same order
};

// What a role may do with a resource.
struct Permission {
  bool read = false, create = false, update = false, remove = false, aggregate = false;
  bool all_fields_readable = true, all_fields_writable = true;
  std::vector<std::string> readable, writable;  // when not all
  // Row predicate: a filter in the query's own text form ("filter[owner]={subject}&filter[status][in]=open,paid");
  // {tenant} and {subject} are bound from the principal.
  std::string where;
};

// What must hold for a row as it would be after a write; where it can't be answered (NULL), it holds.
struct RowCheck {
  std::string name;
  std::string condition;  // filter text: only rows it covers are looked at; "": all
  std::string that;       // filter text; {field} stands for another field of the row
  std::vector<int> fields;
  std::string message;
};

// A job that a write enqueues in its own transaction.
struct WriteJob {
  std::string name;
  bool created = false, updated = false, deleted = false;
  std::vector<int> changed;  // an update counts only when one of these has another value; empty: any
  std::string when;          // filter text over the row (as it is after the write; before a delete); "": all
  std::string kind, queue = "default";
  std::vector<int> args;  // fields that travel as args.record
  bool ordered = true;    // jobs of one row run one after another
};

// A field as an ordered index stores it.
struct IndexPart {
  int field = -1;
  bool descending = false;
  bool nulls_first = false;
};

struct Resource {
  std::string name;    // "order-items": plural, kebab-case; the path /v1/<name>
  std::string schema;  // of the table
  std::string table;
  bool view = false;  // an SQL view: read-only unless it says otherwise
  std::string query;  // SELECT in place of a table, which `schema` and `table` then do not name; a view otherwise
  std::vector<Field> fields;
  std::vector<int> key;                       // positions of the primary key's fields, in key order
  bool read_only = false;                     // no one writes, admin neither: views, `shared: read`, `read_only: true`
  bool client_chooses_key = false;            // PUT creates
  std::vector<std::vector<int>> unique_keys;  // other unique indexes whose columns are all fields
  // Indexes over the whole table that can give rows in order, up to the first part that is no field.
  std::vector<std::vector<IndexPart>> ordered_indexes;
  // PostgreSQL's constraint or unique index name → positions of the fields it is about: to name the field when it
  // refuses a row.
  std::map<std::string, std::vector<int>> constraints;
  std::vector<Reference> references;
  std::map<std::string, Relation> relations;
  int tenant = -1;  // position of the tenant field; -1: not by tenant (shared reference data, read-only unless allowed)
  int version = -1;                                // position of the version field (integer, raised by every write)
  int deleted_at = -1;                             // position of the soft-delete timestamp
  int created_at = -1, updated_at = -1;            // set by the suite on write
  std::vector<std::pair<int, bool>> default_sort;  // position, descending; the key is appended
  int default_limit = 50, max_limit = 200;
  bool offset_allowed = false;
  bool if_match_required = false;
  bool by_filter = false;                 // :batchUpdate and :batchDelete take a filter
  bool changes = false;                   // /v1/<name>:changes; each write leaves its row's images
  std::optional<absl::Duration> history;  // /{id}/history, kept for so long
  std::vector<RowCheck> checks;
  std::vector<WriteJob> jobs;
  bool row_security = false;  // its policies decide too; transactions tell them who asks (libs/records/claims.h)
  std::optional<absl::Duration> cache;                    // time to live
  std::map<std::string, std::vector<std::string>> views;  // named field sets
  std::map<std::string, Permission> permissions;          // by role; "admin" has all without standing here
  std::string description;
  std::string
      problem;  // not empty: broken against the live database (503 resource-unavailable), with the reason for operators

  const Field* FindField(std::string_view field_name) const;  // hidden ones too; callers check
  // Writes keep the row as it was and as it is (mainstay.record_changes).
  bool keeps_images() const { return changes || history.has_value(); }
};

struct Role {
  std::string name;
  std::string description;
  std::vector<std::string> scopes;  // "jobs:read", "imports:write"; "*": all
};

// ---- webhooks in ----

// Where a value stands in a delivery: "json:data.object.id", "header:X-Event-Id", "sig:t", "query:k", "form:k", or
// "const:text". The first that is present wins.
using ValueSource = std::vector<std::string>;

// How a sender proves itself (libs/webhooks knows the presets by name and the meaning of each word).
struct SignatureScheme {
  std::string preset;          // "stripe", "standard-webhooks", "github" …; fields below override it
  std::string algorithm;       // "hmac-sha256" …
  std::string signed_content;  // "{sig:t}.{body}"
  std::string signature_header;
  std::string header_format;   // "plain", "prefix:sha256=", "pairs:,", "versions: "
  std::string signature_key;   // "v1" in pairs
  std::string encoding;        // hex, base64, base64url
  std::string key_encoding;    // text, base64, hex, whsec-base64
  std::string timestamp;       // value source
  std::string timestamp_unit;  // s, ms, iso8601
  std::optional<absl::Duration> tolerance_past, tolerance_future;
};

// Writes to a resource from an event (or from what was fetched for it).
struct ApplyRoute {
  std::string resource;
  std::string mode = "upsert";   // create update upsert
  std::vector<std::string> key;  // fields that identify the row
  std::map<std::string, std::string>
      map;  // field → expression: "json:path", "fetched:path", "const:text", "event:id|type|time|entity"
  std::string stale_field;   // row's field compared with the incoming value; older or equal news is refused as stale
  std::string status_field;  // with transitions: from → allowed to
  std::map<std::string, std::vector<std::string>> transitions;
  std::map<std::string, std::string> when;  // only when these expressions have these values
};
struct FetchRoute {
  std::string provider, connection, operation;
  std::map<std::string, std::string> params;  // name → expression
};
struct JobRoute {
  std::string kind, queue;
};
struct Route {
  std::vector<std::string> types;  // exact, or "payment.*"
  std::optional<FetchRoute> fetch;
  std::vector<ApplyRoute> apply;  // in order, one transaction
  std::optional<JobRoute> job;
};
struct Source {
  std::string name;  // /hooks/<name>
  bool enabled = true;
  std::string tenant;       // fixed tenant, or empty with tenant_from
  ValueSource tenant_from;  // from the verified body
  SignatureScheme scheme;
  std::vector<std::string> secrets;  // names in libs/secrets, any may match
  ValueSource event_id, event_type, event_time, entity;
  std::string event_time_unit = "s";  // s, ms, iso8601
  std::vector<std::string> content_types = {"application/json"};
  int64_t max_body = 1 << 20;
  std::vector<Route> routes;
  absl::Duration dedup_window = absl::Hours(24 * 7);
};

// ---- providers ----

struct Pagination {
  std::string style;  // "", link_header next_url cursor offset page last_id
  std::string items, cursor_path, cursor_param, size_param, has_more_path, id_path;
  int page_size = 100, max_pages = 1000;
};
struct Operation {
  std::string name;
  std::string method;
  std::string path;                          // "/payments/{id}"
  std::map<std::string, std::string> query;  // parameter → "{name}" or a constant
  std::vector<std::string> params;           // declared names, all required unless ending in "?"
  bool idempotent = false;                   // beyond the method's own nature
  Pagination pagination;
  std::optional<absl::Duration> timeout;
};
struct RateLimit {
  int64_t limit = 0;  // calls …
  absl::Duration period = absl::Seconds(1);
  int64_t burst = 0;  // 0: as limit
};
struct Provider {
  std::string name;
  std::string base_url;
  std::string auth;         // none, bearer, basic, header, query
  std::string auth_name;    // header or query name
  std::string auth_secret;  // name in libs/secrets
  std::string idempotency_header = "Idempotency-Key";
  std::map<std::string, Operation> operations;
  RateLimit rate;
  int concurrency = 64;
  absl::Duration timeout = absl::Seconds(30), connect_timeout = absl::Seconds(5);
  int max_attempts = 3;
  std::map<std::string, std::string> error_map;  // "402" or "409:code=key_in_use" → class
};

// ---- jobs ----

struct Backoff {
  absl::Duration base = absl::Seconds(1), cap = absl::Hours(1);
};
struct Queue {
  std::string name;
  int priority = 4;     // 0 first … 9 last, default for its jobs
  int concurrency = 0;  // over all workers; 0: unlimited
  int max_attempts = 20, max_crashes = 3;
  absl::Duration soft_limit = absl::Minutes(30), hard_limit = absl::Minutes(35);
  Backoff backoff;
  absl::Duration retention = absl::Hours(24 * 7);
  std::string priorities = "strict";  // of its jobs among one another; or "weighted"
  int weight = 1;                     // among queues of the same priority
  double rate = 0, tenant_rate = 0;   // jobs started per second, of the queue and of each tenant; 0: any
};
struct Schedule {
  std::string name, cron, zone = "UTC", kind, queue, args = "{}", missed = "last", overlap = "skip", tenant;
  std::string role;  // whose rights its jobs have; empty: none
  absl::Duration missed_window = absl::Hours(24);
  bool paused = false;
};

// ---- imports, exports ----

struct ImportMapping {
  std::string name, resource, mode = "upsert", commit = "all", on_error = "abort";
  std::vector<std::string> key;                // default: primary key, or the tenant's unique key
  std::map<std::string, std::string> columns;  // header → field
  double max_error_share = 0.10;
  std::string locale = "en", zone;
};
struct ExportMapping {
  std::string name, resource, format = "csv", query;
  std::vector<std::string> fields;
};

struct TrafficLimit {
  std::string name, by;  // key tenant ip route
  RateLimit rate;
};

struct Model {
  std::string hash;  // SHA-256 hex of the canonical text of all files
  // SHA-256 hex of everything that was read from PostgreSQL (columns, types, keys, collations with their versions):
  // what cursors and cached plans are bound to beside `hash`.
  std::string schema_hash;
  std::map<std::string, Resource, std::less<>> resources;
  std::map<std::string, Role> roles;
  std::map<std::string, Source> sources;
  std::map<std::string, Provider> providers;
  std::map<std::string, Queue> queues;  // always holds "default" and "mainstay" (the suite's own jobs)
  std::map<std::string, Schedule> schedules;
  std::map<std::string, ImportMapping> imports;
  std::map<std::string, ExportMapping> exports;
  std::map<std::string, TrafficLimit> limits;
  bool row_security = false;  // of a resource

  const Resource* FindResource(std::string_view name) const;
  // Scopes of a set of roles: "admin" and "*" give all.
  bool HasScope(const std::vector<std::string>& role_names, std::string_view scope) const;
};
using ModelPtr = std::shared_ptr<const Model>;

}  // namespace mainstay::catalog
