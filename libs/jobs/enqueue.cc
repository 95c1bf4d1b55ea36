// SPDX-License-Identifier: Apache-2.0
// Validation, and one INSERT for all jobs of a call. Nothing is read back but the state of the windows. Ids and
// arguments, which every job has, travel as binary arrays: PostgreSQL takes them apart four times faster than text.
#include "libs/jobs/enqueue.h"

#include <algorithm>
#include <map>
#include <pqxx/pqxx>

#include "libs/base/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/arrays.h"
#include "libs/jobs/keys.h"
#include "libs/jobs/sealer.h"
#include "libs/jobs/sql.h"
#include "libs/postgres/errors.h"

namespace mainstay::jobs {
namespace {

constexpr size_t kMaxName = 100, kMaxKey = 512, kMaxTags = 32;
constexpr absl::Duration kMaxUnique = absl::Hours(24 * 366);
constexpr int kMaxLimit = 32767;

bool IsQueue(std::string_view queue) {
  if (queue.empty() || queue.size() > kMaxName) return false;
  return std::all_of(queue.begin(), queue.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-'; });
}

// Text that may go into a row: UTF-8 and no NUL (libpqxx would cut there silently).
bool IsText(std::string_view text) {
  return text.find('\0') == std::string_view::npos && IsValidUtf8(text);
}

// 00-<32 hex>-<16 hex>-<2 hex>, lower-case.
bool IsTraceparent(std::string_view text) {
  if (text.size() != 55) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool dash = i == 2 || i == 35 || i == 52;
    if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

void Validate(const JobSpec& job, const CallContext& context, const std::string& at, std::vector<FieldError>& errors) {
  auto wrong = [&](std::string_view field, std::string_view code, std::string detail) {
    errors.push_back({.name = at + "/" + std::string(field), .code = std::string(code), .detail = std::move(detail)});
  };
  if (job.kind.empty()) {
    wrong("kind", "required", "a job needs a kind");
  } else if (!IsKind(job.kind)) {
    wrong("kind", "invalid_format", kKindForm);
  }
  if (!IsQueue(job.queue))
    wrong("queue", "invalid_format", "expected the name of a queue: a-z, 0-9, - and _, at most 100 characters");
  if (job.args.size() > kMaxArgs)
    wrong("args", "too_long", StrCat("has ", job.args.size(), " bytes, the limit is ", kMaxArgs));
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
  if (job.concurrency_key.size() > kMaxKey || !IsText(job.concurrency_key))
    wrong("concurrency_key", "too_long", "at most 512 bytes of UTF-8");
  if (job.concurrency_limit.has_value() && (*job.concurrency_limit < 1 || *job.concurrency_limit > kMaxLimit)) {
    wrong("concurrency_limit", "out_of_range", StrCat("expected 1 to ", kMaxLimit));
  } else if (job.concurrency_limit.has_value() == job.concurrency_key.empty()) {
    wrong(job.concurrency_key.empty() ? "concurrency_key" : "concurrency_limit", "required",
          "concurrency_key and concurrency_limit belong together");
  }
  if (job.unique_key.empty()) {
    if (job.unique_scope != UniqueScope::kKind || job.unique_for != absl::ZeroDuration() ||
        job.unique_bucket != UniqueBucket::kNone || job.unique_keep || job.on_conflict != OnConflict::kIgnore)
      wrong("unique_key", "required", "options of a unique key are given, but no key");
  } else {
    if (job.unique_for < absl::ZeroDuration() || job.unique_for > kMaxUnique)
      wrong("unique_for", "out_of_range", "expected up to 366 days");
    if (job.unique_for != absl::ZeroDuration() && job.unique_bucket != UniqueBucket::kNone)
      wrong("unique_bucket", "conflict", "give either unique_for or unique_bucket");
    if (job.unique_keep && job.unique_for == absl::ZeroDuration() && job.unique_bucket == UniqueBucket::kNone)
      wrong("unique_keep", "conflict", "needs unique_for or unique_bucket: a key is not kept for ever");
  }
  if (job.version < 0 || job.version > 32767) wrong("version", "out_of_range", "expected 0 to 32767");
  if (!job.traceparent.empty() && !IsTraceparent(job.traceparent))
    wrong("traceparent", "invalid_format", "expected a W3C traceparent: 00-<32 hex>-<16 hex>-<2 hex>");
  if (job.deadline.has_value() && job.run_at != absl::InfinitePast() && *job.deadline < job.run_at)
    wrong("deadline", "out_of_range", "before run_at: the job could never start");
  Validate(job.options, at, errors);
  if (job.tags.size() > kMaxTags) wrong("tags", "too_many", "at most 32 tags");
  for (size_t i = 0; i < job.tags.size(); ++i) {
    if (job.tags[i].empty() || job.tags[i].size() > kMaxName || !IsText(job.tags[i]))
      wrong(StrCat("tags/", i), "invalid_format", "1 to 100 bytes of UTF-8");
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

// A column that few jobs have: empty when none has it.
class RareColumn {
 public:
  void Add(std::string_view value) {
    while (skipped_ > 0) array_.AddNull(), --skipped_;
    array_.Add(value);
  }
  void AddNull() { ++skipped_; }  // trailing NULLs need not be written: unnest pads
  void AddUnlessEmpty(std::string_view value) { value.empty() ? AddNull() : Add(value); }
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

// As mainstay.job_unique_hash. What stands for the scope cannot be the name of a kind, unless it is one.
Uuid UniqueHash(std::string_view tenant, const JobSpec& job) {
  const std::string scope = job.unique_scope == UniqueScope::kKind    ? job.kind
                            : job.unique_scope == UniqueScope::kQueue ? "queue:" + job.queue
                                                                      : std::string();
  const std::string digest = Sha256(StrCat(tenant, "\x1f", scope, "\x1f", job.unique_key));
  Uuid hash;
  std::copy_n(digest.begin(), 16, hash.bytes.begin());
  return hash;
}

const char* BucketName(UniqueBucket bucket) {
  switch (bucket) {
    case UniqueBucket::kNone:
      break;
    case UniqueBucket::kMinute:
      return "minute";
    case UniqueBucket::kHour:
      return "hour";
    case UniqueBucket::kDay:
      return "day";
    case UniqueBucket::kWeek:
      return "week";
    case UniqueBucket::kMonth:
      return "month";
  }
  return "";
}

std::string Place(size_t index, size_t count) {
  return count == 1 ? std::string() : StrCat("/items/", index);
}

absl::Status Invalid(std::vector<FieldError> errors) {
  const std::string detail = errors.size() == 1 ? StrCat("1 field is wrong: ", errors[0].name, ": ", errors[0].detail)
                                                : StrCat(errors.size(), " fields are wrong");
  return MakeProblem("validation-failed", detail, std::move(errors));
}

template <typename... Args>
pqxx::result Exec(pqxx::transaction_base& tx, const sql::Named& statement, Args&&... args) {
  tx.conn().prepare(statement.name, statement.text);
  return tx.exec_prepared(statement.name, std::forward<Args>(args)...);
}

// One call of Enqueue.
class Call {
 public:
  Call(pqxx::transaction_base& tx, const CallContext& context, absl::Span<const JobSpec> jobs, const Sealer* sealer)
      : tx_(tx), context_(context), jobs_(jobs), sealer_(sealer), out_(jobs.size()), content_(jobs.size()) {
    for (size_t i = 0; i < jobs.size(); ++i) {
      out_[i].id = NewUuid();
      content_[i] = i;
    }
  }

  absl::StatusOr<std::vector<Enqueued>> Run() {
    RETURN_IF_ERROR(TakeUnique());
    std::vector<size_t> fresh;
    fresh.reserve(jobs_.size());
    for (size_t i = 0; i < jobs_.size(); ++i) {
      if (!out_[i].existed) fresh.push_back(i);
    }
    if (!fresh.empty()) RETURN_IF_ERROR(Alike(fresh) ? InsertAlike(fresh) : Insert(fresh));
    return std::move(out_);
  }

 private:
  const CallContext& ContextOf(size_t i) const { return jobs_[i].context != nullptr ? *jobs_[i].context : context_; }
  const std::string& TenantOf(size_t i) const {
    return jobs_[i].tenant.empty() ? ContextOf(i).principal.tenant : jobs_[i].tenant;
  }
  const std::string& TraceOf(size_t i) const {
    return jobs_[i].traceparent.empty() ? ContextOf(i).traceparent : jobs_[i].traceparent;
  }
  std::string Sealed(size_t content, size_t job) const {
    return "\\x" + HexEncode(sealer_->Seal(TenantOf(job), out_[job].id, jobs_[content].args));
  }

  // The keys are taken, or the jobs that hold them are in `out_`: jobs that were there, or earlier ones of this call.
  absl::Status TakeUnique() {
    std::map<Uuid, std::vector<size_t>> wanted;
    for (size_t i = 0; i < jobs_.size(); ++i) {
      if (!jobs_[i].unique_key.empty()) wanted[UniqueHash(TenantOf(i), jobs_[i])].push_back(i);
    }
    if (wanted.empty()) return absl::OkStatus();
    hashes_.resize(jobs_.size());
    for (auto& [hash, items] : wanted) {
      const size_t first = items[0];
      if (!jobs_[first].unique_keep) hashes_[first] = hash;
      for (size_t k = 1; k < items.size(); ++k) {
        const size_t i = items[k];
        if (jobs_[i].on_conflict == OnConflict::kReject) return Taken(i, out_[first].id);
        if (jobs_[i].on_conflict == OnConflict::kReplace) {
          content_[first] = i;
          out_[i].replaced = true;
        }
        out_[i].existed = true;
        out_[i].id = out_[first].id;
      }
    }
    // More than once only when a holder that was to be replaced ended meanwhile.
    for (int round = 0; round < 5 && !wanted.empty(); ++round) {
      ASSIGN_OR_RETURN(auto holders, Ask(wanted));
      std::map<Uuid, std::vector<size_t>> again;
      std::vector<std::pair<Uuid, size_t>> replace;
      for (auto& [hash, items] : wanted) {
        const Uuid holder = holders[hash];
        if (holder == out_[items[0]].id) continue;
        size_t last = jobs_.size();  // whose arguments it is to have
        for (const size_t i : items) {
          if (jobs_[i].on_conflict == OnConflict::kReject) return Taken(i, holder);
          if (jobs_[i].on_conflict == OnConflict::kReplace) last = i;
        }
        if (last < jobs_.size()) {
          replace.emplace_back(holder, last);
          again.emplace(hash, items);
        } else {
          Existing(items, holder, false);
        }
      }
      if (replace.empty()) return absl::OkStatus();
      ASSIGN_OR_RETURN(const auto replaced, Replace(replace));
      for (auto it = again.begin(); it != again.end();) {
        const Uuid holder = holders[it->first];
        const auto found = replaced.find(holder);
        if (found == replaced.end()) {
          ++it;
          continue;
        }
        Existing(it->second, holder, found->second);
        it = again.erase(it);
      }
      wanted = std::move(again);
    }
    if (!wanted.empty()) return MakeProblem("transaction-conflict", "a unique key changes hands too fast");
    return absl::OkStatus();
  }

  void Existing(const std::vector<size_t>& items, const Uuid& holder, bool replaced) {
    for (const size_t i : items) {
      out_[i].id = holder;
      out_[i].existed = true;
      out_[i].replaced = replaced && jobs_[i].on_conflict == OnConflict::kReplace;
    }
  }

  absl::Status Taken(size_t i, const Uuid& holder) const {
    return MakeProblem({.type = "unique-violation",
                        .detail = "another job holds the unique key",
                        .errors = {{.name = Place(i, jobs_.size()) + "/unique_key",
                                    .code = "taken",
                                    .detail = "held by " + FormatId("job", holder)}},
                        .members = {{"job", JsonQuote(FormatId("job", holder))}}});
  }

  absl::StatusOr<std::map<Uuid, Uuid>> Ask(const std::map<Uuid, std::vector<size_t>>& wanted) {
    PgArray hashes, ids;
    RareColumn seconds, units;
    bool timed = false;
    for (const auto& [hash, items] : wanted) {
      const JobSpec& job = jobs_[items[0]];
      hashes.Add(hash.ToString());
      ids.Add(out_[items[0]].id.ToString());
      job.unique_for > absl::ZeroDuration() ? seconds.Add(StrCat(absl::ToDoubleSeconds(job.unique_for)))
                                            : seconds.AddNull();
      units.AddUnlessEmpty(BucketName(job.unique_bucket));
      timed = timed || job.unique_for > absl::ZeroDuration() || job.unique_bucket != UniqueBucket::kNone;
    }
    const std::string h = std::move(hashes).Finish(), j = std::move(ids).Finish();
    const pqxx::result rows = timed ? Exec(tx_, sql::kTakeUniqueFor, h, j, seconds.Finish(), units.Finish())
                                    : Exec(tx_, sql::kTakeUnique, h, j);
    std::map<Uuid, Uuid> holders;
    for (const auto& row : rows) {
      ASSIGN_OR_RETURN(const Uuid hash, ParseUuid(row[0].c_str()));
      ASSIGN_OR_RETURN(holders[hash], ParseUuid(row[1].c_str()));
    }
    return holders;
  }

  // Of each job that still waits or runs: whether it has the new arguments now. One that ended is not in the answer.
  absl::StatusOr<std::map<Uuid, bool>> Replace(const std::vector<std::pair<Uuid, size_t>>& replace) {
    PgArray ids, args, versions;
    RareColumn sealed;
    for (const auto& [holder, i] : replace) {
      ids.Add(holder.ToString());
      args.Add(jobs_[i].sensitive ? "null" : jobs_[i].args);
      versions.Add(StrCat(jobs_[i].version));
      jobs_[i].sensitive ? sealed.Add("\\x" + HexEncode(sealer_->Seal(TenantOf(i), holder, jobs_[i].args)))
                         : sealed.AddNull();
    }
    const std::string all = std::move(ids).Finish();
    std::map<Uuid, bool> out;
    for (const auto& row :
         Exec(tx_, sql::kReplaceArgs, all, std::move(args).Finish(), sealed.Finish(), std::move(versions).Finish())) {
      ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
      out[id] = true;
    }
    for (const auto& row : Exec(tx_, sql::kAlive, all)) {
      ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
      out.emplace(id, false);
    }
    return out;
  }

  // Whether the jobs differ in id and arguments only.
  bool Alike(const std::vector<size_t>& fresh) const {
    const JobSpec& a = jobs_[fresh[0]];
    for (const size_t i : fresh) {
      const JobSpec& b = jobs_[i];
      if (!b.unique_key.empty() || !b.ordering_key.empty() || !b.concurrency_key.empty() || b.sensitive ||
          b.run_at != absl::InfinitePast() || b.deadline.has_value())
        return false;
      if (&a != &b &&
          (b.kind != a.kind || b.queue != a.queue || b.priority != a.priority || b.max_attempts != a.max_attempts ||
           b.tags != a.tags || b.catalog_hash != a.catalog_hash || b.tenant != a.tenant || b.context != a.context ||
           b.version != a.version || b.traceparent != a.traceparent || b.options != a.options))
        return false;
    }
    return true;
  }

  absl::Status InsertAlike(const std::vector<size_t>& fresh) {
    const size_t first = fresh[0];
    const JobSpec& job = jobs_[first];
    const CallContext& c = ContextOf(first);
    size_t bytes = 0;
    for (const size_t i : fresh) bytes += jobs_[i].args.size() + 4;
    BinaryArray ids(BinaryArray::kUuid, fresh.size() * 20), args(BinaryArray::kJson, bytes);
    for (const size_t i : fresh) {
      ids.Add(Bytes(out_[i].id));
      args.Add(jobs_[i].args);
    }
    auto text = [](const std::string& value) { return value.empty() ? nullptr : value.c_str(); };
    std::string tags;
    if (!job.tags.empty()) {
      PgArray array;
      for (const auto& tag : job.tags) array.Add(tag);
      tags = std::move(array).Finish();
    }
    const std::string priority = job.priority.has_value() ? StrCat(*job.priority) : "",
                      attempts = job.max_attempts.has_value() ? StrCat(*job.max_attempts) : "",
                      options = FormatJobOptions(job.options);
    const pqxx::result rows =
        Exec(tx_, sql::kEnqueueAlike, ids.Finish(), args.Finish(), job.queue, text(priority), !job.catalog_hash.empty(),
             TenantOf(first), job.kind, text(attempts), text(tags), PrincipalJson(c.principal), text(TraceOf(first)),
             text(c.request_id), text(job.catalog_hash), text(options), job.version);
    const auto row = rows[0];
    if (!row[2].as<bool>()) return Unknown(first);
    if (row[1].is_null() || !row[1].as<bool>()) return absl::OkStatus();
    const std::string stream = StreamKey(job.queue, row[0].as<int>());
    for (const size_t i : fresh) HandOut(i, stream);
    return absl::OkStatus();
  }

  absl::Status Insert(const std::vector<size_t>& fresh) {
    PgArray queues, priorities, lenient, routes, groups;
    std::map<std::tuple<std::string_view, int, bool, std::string_view, int>, size_t> known;
    std::vector<size_t> group_of(fresh.size()), example;
    size_t bytes = 0;
    for (size_t n = 0; n < fresh.size(); ++n) {
      const JobSpec& job = jobs_[fresh[n]];
      bytes += jobs_[content_[fresh[n]]].args.size() + 4;
      const auto [it, added] = known.try_emplace(
          std::make_tuple(std::string_view(job.queue), job.priority.value_or(-1), !job.catalog_hash.empty(),
                          std::string_view(job.kind), jobs_[content_[fresh[n]]].version),
          known.size());
      group_of[n] = it->second;
      groups.Add(StrCat(it->second + 1));
      if (!added) continue;
      example.push_back(fresh[n]);
      queues.Add(job.queue);
      job.priority.has_value() ? priorities.Add(StrCat(*job.priority)) : priorities.AddNull();
      lenient.Add(job.catalog_hash.empty() ? "f" : "t");
      routes.Add(Route(job.kind, jobs_[content_[fresh[n]]].version));
    }
    BinaryArray ids(BinaryArray::kUuid, fresh.size() * 20), args(BinaryArray::kJson, bytes);
    RareColumn tenant, kind, principal, traceparent, request_id, catalog_hash, sealed, run_at, deadline, unique_hash,
        unique_key, key_hash, ordering_key, limit_hash, concurrency_key, concurrency_limit, attempts, tags, options,
        version;
    std::map<const CallContext*, std::string> principals;
    for (const size_t i : fresh) {
      const JobSpec& job = jobs_[i];
      const JobSpec& content = jobs_[content_[i]];
      const CallContext& c = ContextOf(i);
      auto [it, added] = principals.try_emplace(&c);
      if (added) it->second = PrincipalJson(c.principal);
      ids.Add(Bytes(out_[i].id));
      args.Add(content.sensitive ? std::string_view("null") : std::string_view(content.args));
      content.sensitive ? sealed.Add(Sealed(content_[i], i)) : sealed.AddNull();
      content.version != 0 ? version.Add(StrCat(content.version)) : version.AddNull();
      tenant.Add(TenantOf(i));
      kind.Add(job.kind);
      principal.Add(it->second);
      traceparent.AddUnlessEmpty(TraceOf(i));
      request_id.AddUnlessEmpty(c.request_id);
      catalog_hash.AddUnlessEmpty(job.catalog_hash);
      job.run_at != absl::InfinitePast() ? run_at.Add(FormatTimestamp(job.run_at)) : run_at.AddNull();
      job.deadline.has_value() ? deadline.Add(FormatTimestamp(*job.deadline)) : deadline.AddNull();
      !hashes_.empty() && hashes_[i].has_value() ? unique_hash.Add(hashes_[i]->ToString()) : unique_hash.AddNull();
      unique_key.AddUnlessEmpty(job.unique_key);
      if (!job.ordering_key.empty()) out_[i].key = KeyHash(TenantOf(i), job.ordering_key);
      out_[i].key.has_value() ? key_hash.Add(StrCat(*out_[i].key)) : key_hash.AddNull();
      ordering_key.AddUnlessEmpty(job.ordering_key);
      job.concurrency_key.empty() ? limit_hash.AddNull()
                                  : limit_hash.Add(StrCat(KeyHash(TenantOf(i), job.concurrency_key)));
      concurrency_key.AddUnlessEmpty(job.concurrency_key);
      job.concurrency_limit.has_value() ? concurrency_limit.Add(StrCat(*job.concurrency_limit))
                                        : concurrency_limit.AddNull();
      job.max_attempts.has_value() ? attempts.Add(StrCat(*job.max_attempts)) : attempts.AddNull();
      if (job.tags.empty()) {
        tags.AddNull();
      } else {
        PgArray list;
        for (const auto& tag : job.tags) list.Add(tag);
        tags.Add(std::move(list).Finish());
      }
      options.AddUnlessEmpty(FormatJobOptions(job.options));
    }
    const pqxx::result rows = Exec(
        tx_, sql::kEnqueue, std::move(queues).Finish(), std::move(priorities).Finish(), std::move(lenient).Finish(),
        ids.Finish(), args.Finish(), std::move(groups).Finish(), tenant.Finish(), kind.Finish(), principal.Finish(),
        traceparent.Finish(), request_id.Finish(), catalog_hash.Finish(), sealed.Finish(), run_at.Finish(),
        deadline.Finish(), unique_hash.Finish(), unique_key.Finish(), key_hash.Finish(), ordering_key.Finish(),
        limit_hash.Finish(), concurrency_key.Finish(), concurrency_limit.Finish(), attempts.Finish(), tags.Finish(),
        options.Finish(), version.Finish(), std::move(routes).Finish());
    std::vector<std::string> streams(example.size());
    int64_t now = 0;
    for (size_t g = 0; g < example.size(); ++g) {
      const auto row = rows[static_cast<pqxx::result::size_type>(g)];
      if (!row[2].as<bool>()) return Unknown(example[g]);
      if (!row[1].is_null() && row[1].as<bool>()) streams[g] = StreamKey(jobs_[example[g]].queue, row[0].as<int>());
      now = row[3].as<int64_t>();
    }
    // The states that the statement has chosen, by the same rules and its own clock.
    for (size_t n = 0; n < fresh.size(); ++n) {
      const size_t i = fresh[n];
      const JobSpec& job = jobs_[i];
      if (job.run_at != absl::InfinitePast() && absl::ToUnixMicros(job.run_at) > now) {
        out_[i].key.reset();
      } else if (job.ordering_key.empty() && job.concurrency_key.empty() && !streams[group_of[n]].empty()) {
        HandOut(i, streams[group_of[n]]);
      }
    }
    return absl::OkStatus();
  }

  absl::Status Unknown(size_t i) const {
    return Invalid({{.name = Place(i, jobs_.size()) + "/queue",
                     .code = "unknown",
                     .detail = StrCat("there is no queue \"", jobs_[i].queue, "\"")}});
  }

  void HandOut(size_t i, const std::string& stream) {
    const JobSpec& content = jobs_[content_[i]];
    Entry entry{.id = out_[i].id, .kind = jobs_[i].kind};
    if (content.args.size() <= kMaxInlineArgs && !content.sensitive) entry.args = content.args;
    out_[i].stream = stream;
    out_[i].entry = EncodeEntry(entry);
  }

  pqxx::transaction_base& tx_;
  const CallContext& context_;
  const absl::Span<const JobSpec> jobs_;
  const Sealer* const sealer_;
  std::vector<Enqueued> out_;
  std::vector<size_t> content_;  // whose arguments a job gets: its own, or those of a later one of this call
  std::vector<std::optional<Uuid>> hashes_;  // to be freed with the job; empty when no job has a key
};

}  // namespace

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

absl::Status Validate(const CallContext& context, absl::Span<const JobSpec> jobs) {
  if (jobs.size() > kMaxBatch) {
    return MakeProblem("validation-failed", StrCat("a call may add ", kMaxBatch, " jobs, this one has ", jobs.size()),
                       {{.name = "/items", .code = "too_many", .detail = StrCat("at most ", kMaxBatch, " items")}});
  }
  std::vector<FieldError> errors;
  std::string at;
  for (size_t i = 0; i < jobs.size() && errors.size() < 20; ++i) {
    at = Place(i, jobs.size());
    Validate(jobs[i], jobs[i].context != nullptr ? *jobs[i].context : context, at, errors);
  }
  return errors.empty() ? absl::OkStatus() : Invalid(std::move(errors));
}

bool NeedsTransaction(absl::Span<const JobSpec> jobs) {
  return std::any_of(jobs.begin(), jobs.end(), [](const JobSpec& job) { return !job.unique_key.empty(); });
}

absl::StatusOr<std::vector<Enqueued>> Enqueue(pqxx::transaction_base& tx, const CallContext& context,
                                              absl::Span<const JobSpec> jobs, const Sealer* sealer) {
  if (jobs.empty()) return std::vector<Enqueued>();
  RETURN_IF_ERROR(Validate(context, jobs));
  for (size_t i = 0; i < jobs.size() && sealer == nullptr; ++i) {
    if (jobs[i].sensitive) {
      return Invalid({{.name = Place(i, jobs.size()) + "/sensitive",
                       .code = "unavailable",
                       .detail = "this process has no key to seal arguments with"}});
    }
  }
  try {
    return Call(tx, context, jobs, sealer).Run();
  } catch (...) {
    const absl::Status status = postgres::StatusFromCurrentException();
    const auto error = postgres::GetSqlError(status);
    if (!error.has_value() || error->sqlstate.substr(0, 2) != "22") return status;
    // Some arguments were no JSON; which ones is only looked for now.
    std::vector<FieldError> errors;
    for (size_t i = 0; i < jobs.size() && errors.size() < 20; ++i) {
      if (!JsonDocument::Parse(jobs[i].args).ok())
        errors.push_back({.name = Place(i, jobs.size()) + "/args", .code = "invalid_format", .detail = "not JSON"});
    }
    return errors.empty() ? status : Invalid(std::move(errors));
  }
}

}  // namespace mainstay::jobs
