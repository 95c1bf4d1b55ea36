// SPDX-License-Identifier: Apache-2.0
// Validation, and one INSERT for all jobs of a call. Nothing is read back but what the hand-off needs.
#include "libs/jobs/enqueue.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <pqxx/pqxx>

#include "absl/strings/str_cat.h"
#include "libs/base/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/text.h"
#include "libs/jobs/keys.h"
#include "libs/jobs/sql.h"
#include "libs/postgres/errors.h"

namespace mainstay::jobs {
namespace {

constexpr size_t kMaxName = 100, kMaxKey = 512, kMaxTags = 32;

bool IsKind(std::string_view kind) {
  if (kind.empty() || kind.size() > kMaxName) return false;
  bool start = true;
  for (const char c : kind) {
    if (start ? !(c >= 'a' && c <= 'z') : !((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.'))
      return false;
    start = c == '.';
  }
  return !start;
}

bool IsQueue(std::string_view queue) {
  if (queue.empty() || queue.size() > kMaxName) return false;
  return std::all_of(queue.begin(), queue.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-'; });
}

// Text that may go into a row: UTF-8 and no NUL (libpqxx would cut there silently).
bool IsText(std::string_view text) {
  return text.find('\0') == std::string_view::npos && IsValidUtf8(text);
}

void Validate(const JobSpec& job, const CallContext& context, const std::string& at, std::vector<FieldError>& errors) {
  auto wrong = [&](std::string_view field, std::string_view code, std::string detail) {
    errors.push_back({.name = at + "/" + std::string(field), .code = std::string(code), .detail = std::move(detail)});
  };
  if (job.kind.empty()) {
    wrong("kind", "required", "a job needs a kind");
  } else if (!IsKind(job.kind)) {
    wrong("kind", "invalid_format",
          "expected lower-case words joined by dots, like \"mail.send\", at most 100 characters");
  }
  if (!IsQueue(job.queue))
    wrong("queue", "invalid_format", "expected the name of a queue: a-z, 0-9, - and _, at most 100 characters");
  if (job.args.size() > kMaxArgs)
    wrong("args", "too_long", absl::StrCat("has ", job.args.size(), " bytes, the limit is ", kMaxArgs));
  if (!IsText(job.args)) wrong("args", "invalid_characters", "not UTF-8, or holds a NUL");
  if (job.priority.has_value() && (*job.priority < 0 || *job.priority > 9))
    wrong("priority", "out_of_range", "expected 0 (first) to 9 (last)");
  if (job.max_attempts.has_value() && (*job.max_attempts < 1 || *job.max_attempts > 1000))
    wrong("max_attempts", "out_of_range", "expected 1 to 1000");
  if (job.run_at != absl::InfinitePast() &&
      (job.run_at == absl::InfiniteFuture() || job.run_at > absl::Now() + absl::Hours(24 * 366 * 5))) {
    wrong("run_at", "out_of_range", "more than five years ahead");
  }
  if (job.unique_key.size() > kMaxKey || !IsText(job.unique_key))
    wrong("unique_key", "too_long", "at most 512 bytes of UTF-8");
  if (job.ordering_key.size() > kMaxKey || !IsText(job.ordering_key))
    wrong("ordering_key", "too_long", "at most 512 bytes of UTF-8");
  if (job.tags.size() > kMaxTags) wrong("tags", "too_many", "at most 32 tags");
  for (size_t i = 0; i < job.tags.size(); ++i) {
    if (job.tags[i].empty() || job.tags[i].size() > kMaxName || !IsText(job.tags[i]))
      wrong(absl::StrCat("tags/", i), "invalid_format", "1 to 100 bytes of UTF-8");
  }
  const std::string& tenant = job.tenant.empty() ? context.principal.tenant : job.tenant;
  if (tenant.empty() || tenant == kAllTenants) {
    wrong("tenant", "required", "a job belongs to one tenant; a caller that sees all of them names it");
  } else if (!job.tenant.empty() && context.principal.tenant != kAllTenants && job.tenant != context.principal.tenant) {
    wrong("tenant", "out_of_range", "not the caller's tenant");
  } else if (tenant.size() > kMaxName || !IsText(tenant)) {
    wrong("tenant", "invalid_format", "1 to 100 bytes of UTF-8");
  }
}

std::string PrincipalJson(const Principal& principal) {
  std::string json;
  JsonWriter w(json);
  w.BeginObject().Key("subject").String(principal.subject).Key("roles").BeginArray();
  for (const auto& role : principal.roles) w.String(role);
  // Not the tenant: the row's own column says whose job it is, but an operator's view of all tenants must not travel
  // into a job.
  w.EndArray().EndObject();
  return json;
}

// A column of the statement: an array, or one value for all jobs.
class Column {
 public:
  void Add(const std::string* value) { values_.push_back(value); }
  // With a shared value the array stays empty and the scalar is bound.
  void Finish() {
    shared_ = std::all_of(values_.begin(), values_.end(), [&](const std::string* v) {
      return v == values_[0] || (v != nullptr && values_[0] != nullptr && *v == *values_[0]);
    });
    PgArray array;
    if (!shared_) {
      for (const std::string* v : values_) v != nullptr ? array.Add(*v) : array.AddNull();
    }
    array_ = std::move(array).Finish();
  }
  const std::string& array() const { return array_; }
  const char* scalar() const {
    return shared_ && !values_.empty() && values_[0] != nullptr ? values_[0]->c_str() : nullptr;
  }

 private:
  std::vector<const std::string*> values_;
  bool shared_ = false;
  std::string array_;
};

// A column that few jobs have: empty when none has it.
class RareColumn {
 public:
  void Add(std::string_view value) {
    while (skipped_ > 0) array_.AddNull(), --skipped_;
    array_.Add(value);
  }
  void AddNull() { ++skipped_; }  // trailing NULLs need not be written: unnest pads
  std::string Finish() { return std::move(array_).Finish(); }

 private:
  PgArray array_;
  int skipped_ = 0;
};

int64_t KeyHash(std::string_view tenant, std::string_view key) {
  const std::string digest = Sha256(std::string(tenant) + "\x1f" + std::string(key));
  uint64_t hash = 0;
  for (int i = 0; i < 8; ++i) hash = hash << 8 | static_cast<uint8_t>(digest[i]);
  return static_cast<int64_t>(hash);
}

Uuid UniqueHash(std::string_view tenant, std::string_view kind, std::string_view key) {
  const std::string digest = Sha256(std::string(tenant) + "\x1f" + std::string(kind) + "\x1f" + std::string(key));
  Uuid hash;
  std::copy_n(digest.begin(), 16, hash.bytes.begin());
  return hash;
}

// Fills `existing` (by job index) with the holders of unique keys that are taken, by another job or by an earlier one
// of this call.
absl::Status TakeUnique(pqxx::transaction_base& tx, absl::Span<const JobSpec> jobs,
                        const std::vector<const std::string*>& tenants, const std::vector<Uuid>& ids,
                        std::vector<std::optional<Uuid>>& hashes, std::vector<std::optional<Uuid>>& existing) {
  std::map<Uuid, size_t> first;
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (jobs[i].unique_key.empty()) continue;
    hashes[i] = UniqueHash(*tenants[i], jobs[i].kind, jobs[i].unique_key);
    first.emplace(*hashes[i], i);
  }
  if (first.empty()) return absl::OkStatus();
  PgArray hash_array, job_array;
  for (const auto& [hash, index] : first) {
    hash_array.Add(hash.ToString());
    job_array.Add(ids[index].ToString());
  }
  tx.conn().prepare(sql::kTakeUnique.name, sql::kTakeUnique.text);
  const pqxx::result rows =
      tx.exec_prepared(sql::kTakeUnique.name, std::move(hash_array).Finish(), std::move(job_array).Finish());
  std::map<Uuid, Uuid> holders;
  for (const auto& row : rows) {
    ASSIGN_OR_RETURN(const Uuid hash, ParseUuid(row[0].c_str()));
    ASSIGN_OR_RETURN(const Uuid job, ParseUuid(row[1].c_str()));
    holders[hash] = job;
  }
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (hashes[i].has_value() && holders[*hashes[i]] != ids[i]) existing[i] = holders[*hashes[i]];
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Enqueued>> Enqueue(pqxx::transaction_base& tx, const CallContext& context,
                                              absl::Span<const JobSpec> jobs) {
  std::vector<Enqueued> out(jobs.size());
  if (jobs.empty()) return out;
  if (jobs.size() > kMaxBatch) {
    return MakeProblem(
        "validation-failed", absl::StrCat("a call may add ", kMaxBatch, " jobs, this one has ", jobs.size()),
        {{.name = "/items", .code = "too_many", .detail = absl::StrCat("at most ", kMaxBatch, " items")}});
  }
  std::vector<FieldError> errors;
  for (size_t i = 0; i < jobs.size() && errors.size() < 20; ++i) {
    Validate(jobs[i], jobs[i].context != nullptr ? *jobs[i].context : context,
             jobs.size() == 1 ? "" : absl::StrCat("/items/", i), errors);
  }
  if (!errors.empty()) {
    const std::string detail = errors.size() == 1
                                   ? absl::StrCat("1 field is wrong: ", errors[0].name, ": ", errors[0].detail)
                                   : absl::StrCat(errors.size(), " fields are wrong");
    return MakeProblem("validation-failed", detail, std::move(errors));
  }

  try {
    std::vector<const std::string*> tenants(jobs.size());
    std::vector<Uuid> ids(jobs.size());
    for (size_t i = 0; i < jobs.size(); ++i) {
      const CallContext& c = jobs[i].context != nullptr ? *jobs[i].context : context;
      tenants[i] = jobs[i].tenant.empty() ? &c.principal.tenant : &jobs[i].tenant;
      ids[i] = NewUuid();
    }
    std::vector<std::optional<Uuid>> hashes(jobs.size()), existing(jobs.size());
    RETURN_IF_ERROR(TakeUnique(tx, jobs, tenants, ids, hashes, existing));

    PgArray id_array;
    Column tenant, kind, queue, args, principal, traceparent, request_id, catalog_hash;
    RareColumn priority, run_at, deadline, unique_hash, unique_key, key_hash, ordering_key, max_attempts, tags;
    std::vector<size_t> inserted;
    std::map<const CallContext*, std::string> principals;
    for (size_t i = 0; i < jobs.size(); ++i) {
      const JobSpec& job = jobs[i];
      if (existing[i].has_value()) {
        out[i].id = *existing[i];
        out[i].existed = true;
        continue;
      }
      inserted.push_back(i);
      out[i].id = ids[i];
      const CallContext& c = job.context != nullptr ? *job.context : context;
      auto [it, fresh] = principals.try_emplace(&c);
      if (fresh) it->second = PrincipalJson(c.principal);
      id_array.Add(ids[i].ToString());
      tenant.Add(tenants[i]);
      kind.Add(&job.kind);
      queue.Add(&job.queue);
      args.Add(&job.args);
      principal.Add(&it->second);
      traceparent.Add(c.traceparent.empty() ? nullptr : &c.traceparent);
      request_id.Add(c.request_id.empty() ? nullptr : &c.request_id);
      catalog_hash.Add(job.catalog_hash.empty() ? nullptr : &job.catalog_hash);
      job.priority.has_value() ? priority.Add(absl::StrCat(*job.priority)) : priority.AddNull();
      job.run_at != absl::InfinitePast() ? run_at.Add(FormatTimestamp(job.run_at)) : run_at.AddNull();
      job.deadline.has_value() ? deadline.Add(FormatTimestamp(*job.deadline)) : deadline.AddNull();
      hashes[i].has_value() ? unique_hash.Add(hashes[i]->ToString()) : unique_hash.AddNull();
      hashes[i].has_value() ? unique_key.Add(job.unique_key) : unique_key.AddNull();
      if (!job.ordering_key.empty()) {
        const int64_t hash = KeyHash(*tenants[i], job.ordering_key);
        if (job.run_at == absl::InfinitePast() || job.run_at <= absl::Now()) out[i].key = hash;
        key_hash.Add(absl::StrCat(hash));
        ordering_key.Add(job.ordering_key);
      } else {
        key_hash.AddNull();
        ordering_key.AddNull();
      }
      job.max_attempts.has_value() ? max_attempts.Add(absl::StrCat(*job.max_attempts)) : max_attempts.AddNull();
      if (!job.tags.empty()) {
        PgArray list;
        for (const auto& tag : job.tags) list.Add(tag);
        tags.Add(std::move(list).Finish());
      } else {
        tags.AddNull();
      }
    }
    if (inserted.empty()) return out;
    for (Column* column : {&tenant, &kind, &queue, &args, &principal, &traceparent, &request_id, &catalog_hash})
      column->Finish();

    tx.conn().prepare(sql::kEnqueue.name, sql::kEnqueue.text);
    const pqxx::result rows = tx.exec_prepared(
        sql::kEnqueue.name, std::move(id_array).Finish(), tenant.array(), kind.array(), queue.array(), args.array(),
        priority.Finish(), run_at.Finish(), deadline.Finish(), unique_hash.Finish(), unique_key.Finish(),
        key_hash.Finish(), ordering_key.Finish(), max_attempts.Finish(), principal.array(), traceparent.array(),
        request_id.array(), catalog_hash.array(), tags.Finish(), tenant.scalar(), kind.scalar(), queue.scalar(),
        args.scalar(), principal.scalar(), traceparent.scalar(), request_id.scalar(), catalog_hash.scalar());
    if (rows.size() != inserted.size())
      return absl::InternalError(absl::StrCat("enqueue inserted ", rows.size(), " of ", inserted.size(), " jobs"));
    for (size_t n = 0; n < inserted.size(); ++n) {
      const size_t i = inserted[n];
      const auto row = rows[n];
      const std::string id = ids[i].ToString();
      if (id != row[0].c_str()) return absl::InternalError("enqueue returned its rows in another order");
      if (std::string_view(row[1].c_str()) != "4") continue;
      out[i].stream = StreamKey(jobs[i].queue, row[2].as<int>());
      Entry entry{.id = ids[i], .kind = jobs[i].kind};
      if (jobs[i].args.size() <= kMaxInlineArgs) entry.args = jobs[i].args;
      out[i].entry = EncodeEntry(entry);
    }
    return out;
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

}  // namespace mainstay::jobs
