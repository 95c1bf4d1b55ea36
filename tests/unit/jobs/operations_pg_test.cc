// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <thread>

#include "libs/jobs/in_hand.h"
#include "libs/jobs/letters.h"
#include "libs/jobs/operations.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::Sql;
using testing::SqlValue;

struct NoHandoff : Handoff {
  void Publish(absl::Span<const Enqueued> jobs) override { published += static_cast<int>(jobs.size()); }
  std::atomic<int> published{0};
};

// Every job of the operation's tenant, or those of the kind that the filter names.
struct SqlTargets : OperationTargets {
  static std::string Where(const Operation& o) {
    std::string where = o.kind == "cancel" ? "kind <> 'mainstay.operation'"
                                           : absl::StrCat("finished_at < '", absl::FormatTime(o.created_at), "'");
    if (o.kind == "redrive") where += " AND state = 9";
    if (o.filter != "{}") absl::StrAppend(&where, " AND kind = '", o.filter.substr(9, o.filter.size() - 11), "'");
    return absl::StrCat(where, " AND tenant = '", o.tenant, "'");
  }
  static const char* Table(const Operation& o) {
    return o.kind == "cancel" ? "mainstay.jobs" : "mainstay.jobs_history";
  }
  absl::StatusOr<std::vector<Uuid>> Select(pqxx::transaction_base& tx, const Operation& o,
                                           const std::optional<Uuid>& end, int limit) override {
    std::vector<Uuid> ids;
    std::string sql = absl::StrCat("SELECT id FROM ", Table(o), " WHERE ", Where(o));
    if (o.position.has_value()) absl::StrAppend(&sql, " AND id > '", o.position->ToString(), "'");
    if (end.has_value()) absl::StrAppend(&sql, " AND id <= '", end->ToString(), "'");
    for (const auto& row : tx.exec(absl::StrCat(sql, " ORDER BY id LIMIT ", limit))) {
      ids.push_back(*ParseUuid(row[0].c_str()));
    }
    return ids;
  }
  absl::StatusOr<int64_t> Count(pqxx::transaction_base& tx, const Operation& o, int64_t) override {
    return tx.exec(absl::StrCat("SELECT count(*) FROM ", Table(o), " WHERE ", Where(o)))[0][0].as<int64_t>();
  }
};

// A holder of the operation's job, as the engine would make it.
class Holder : public RunningJob {
 public:
  Holder(Uuid id, std::string args, int64_t fence) : id_(id), args_(std::move(args)), fence_(fence) {}
  const Uuid& id() const override { return id_; }
  std::string_view kind() const override { return kOperationKind; }
  int version() const override { return 0; }
  std::string_view args() const override { return args_; }
  int64_t fence() const override { return fence_; }
  int attempt() const override { return 1; }
  const CallContext& context() const override { return context_; }
  bool cancelled() const override { return --left < 0; }
  std::string_view checkpoint() const override { return ""; }
  absl::Status SaveCheckpoint(std::string_view) override { return absl::OkStatus(); }
  absl::Status Progress(double, std::string_view, const std::map<std::string, int64_t>&) override {
    return absl::OkStatus();
  }
  absl::Status FinishIn(pqxx::transaction_base&, const Outcome&) override { return absl::UnimplementedError(""); }
  postgres::Pool& pool() override { return nowhere_; }
  mutable std::atomic<int> left{1 << 30};  // steps until it is told to stop

 private:
  Uuid id_;
  std::string args_;
  int64_t fence_;
  CallContext context_;
  postgres::Pool nowhere_{postgres::PoolOptions{}};  // operations bring their own
};

struct Db {
  Db() : url(testing::NewMigratedDatabase()), pool({.url = url, .size = 6}) {
    context.principal = {.tenant = "acme", .subject = "user:1", .roles = {"staff"}};
  }
  absl::Status Do(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
    return pool.Transaction(absl::Now() + absl::Seconds(20), body);
  }
  // Finished jobs straight into history: the way there is the engine's and tested with it.
  void Finished(int n, const std::string& more = "'a.b', 9", const std::string& tenant = "acme",
                const std::string& unique = "NULL", const std::string& ordering = "NULL") {
    Sql(url, absl::StrCat("INSERT INTO mainstay.jobs_history (id, fence, created_at, kind, state, priority, attempt, "
                          "crashes, snoozes, max_attempts, max_crashes, tenant, queue, args, principal, unique_key, "
                          "ordering_key, errors, fingerprint) SELECT mainstay.new_job_id(), 3, now(), ",
                          more, ", 4, 2, 0, 0, 2, 3, '", tenant, "', 'default', '{}', '{\"subject\":\"u\"}', ", unique,
                          ", ", ordering,
                          ", jsonb_build_array(jsonb_build_object('code', 'e', 'message', 'row ' || n)), "
                          "mainstay.job_fingerprint('e', 'row ' || n) FROM generate_series(1, ",
                          n,
                          ") n; UPDATE mainstay.jobs_history SET unique_hash = mainstay.job_unique_hash(tenant, "
                          "kind, unique_key) WHERE unique_key IS NOT NULL"));
  }
  Uuid Create(OperationSpec spec) {
    spec.reason = "because";
    if (spec.filter.empty()) spec.filter = "{}";
    Uuid id;
    REQUIRE_THAT(Do([&](pqxx::transaction_base& tx) -> absl::Status {
                   std::vector<Enqueued> publish;
                   auto made = CreateOperation(tx, context, spec, &publish);
                   if (!made.ok()) return made.status();
                   id = *made;
                   job = publish[0].id;
                   return absl::OkStatus();
                 }),
                 IsOk());
    return id;
  }
  std::string Args(const Uuid& id) { return absl::StrCat("{\"operation\":\"", FormatId("jop", id), "\"}"); }
  Outcome Work(const Uuid& id, int64_t fence = 1, int steps = 1 << 30, int batch = 10) {
    Holder holder(job, Args(id), fence);
    holder.left = steps;
    return RunOperation(holder, {.pool = pool, .handoff = handoff, .targets = targets, .batch = batch, .stride = 7});
  }
  std::string Row(const Uuid& id, const std::string& columns) {
    return SqlValue(url, absl::StrCat("SELECT concat_ws(' ', ", columns, ") FROM mainstay.job_operations WHERE id = '",
                                      id.ToString(), "'"));
  }
  int64_t Count(const std::string& sql) { return std::stoll(SqlValue(url, sql)); }

  std::string url;
  postgres::Pool pool;
  CallContext context;
  NoHandoff handoff;
  SqlTargets targets;
  Uuid job;
};

TEST_CASE("a redrive brings every dead job back once, says why and by whom, and leaves the others alone") {
  Db db;
  db.Finished(45);
  db.Finished(5, "'a.b', 6");
  db.Finished(5, "'a.b', 9", "globex");
  const Uuid id = db.Create({.kind = "redrive"});
  CHECK(db.Work(id).kind == Outcome::Kind::kDone);
  CHECK(db.Row(id, "state, total, done, skipped, finished_at IS NOT NULL") == "succeeded 45 45 0 t");
  CHECK(db.Count("SELECT count(*) FROM mainstay.jobs WHERE kind = 'a.b' AND fence = 4 AND attempt = 0 AND state = 3") ==
        45);
  CHECK(SqlValue(db.url,
                 "SELECT DISTINCT concat_ws(' ', options->'retried'->>'by', options->'retried'->>'reason', "
                 "options->'retried'->>'operation') FROM mainstay.jobs WHERE kind = 'a.b'") ==
        absl::StrCat("user:1 because ", FormatId("jop", id)));
  CHECK(db.Count("SELECT count(*) FROM mainstay.jobs_history") == 10);
  // Run twice: nothing more happens, whoever asks.
  CHECK(db.Work(id).kind == Outcome::Kind::kDone);
  const Uuid again = db.Create({.kind = "redrive"});
  CHECK(db.Work(again).kind == Outcome::Kind::kDone);
  CHECK(db.Row(again, "state, done") == "succeeded 0");
  CHECK(db.Count("SELECT count(*) FROM mainstay.jobs WHERE kind = 'a.b'") == 45);
}

TEST_CASE("stopped between two steps it goes on where it was, and its old holder makes no step more") {
  Db db;
  db.Finished(50);
  const Uuid id = db.Create({.kind = "redrive"});
  CHECK(db.Work(id, 1, /*steps=*/2).kind == Outcome::Kind::kSnooze);
  CHECK(db.Row(id, "state, done") == "running 20");
  CHECK(db.Work(id, 2, /*steps=*/1).kind == Outcome::Kind::kSnooze);
  CHECK(db.Row(id, "done, fence") == "30 2");
  db.Work(id, 1);  // a zombie
  CHECK(db.Row(id, "state, done") == "running 30");
  CHECK(db.Work(id, 3).kind == Outcome::Kind::kDone);
  CHECK(db.Row(id, "state, done") == "succeeded 50");
  CHECK(db.Count("SELECT count(DISTINCT id) FROM mainstay.jobs WHERE kind = 'a.b'") == 50);
}

TEST_CASE("several operations over the same dead jobs at once bring each back once") {
  Db db;
  db.Finished(400);
  std::vector<std::pair<Uuid, Uuid>> operations;
  for (int i = 0; i < 4; ++i) {
    const Uuid id = db.Create({.kind = "redrive"});
    operations.emplace_back(id, db.job);
  }
  std::vector<std::thread> threads;
  for (const auto& operation : operations) {
    threads.emplace_back([&db, operation] {
      Holder holder(operation.second, db.Args(operation.first), 1);
      CHECK(RunOperation(holder, {.pool = db.pool, .handoff = db.handoff, .targets = db.targets, .batch = 10}).kind ==
            Outcome::Kind::kDone);
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(db.Count("SELECT sum(done) FROM mainstay.job_operations") == 400);
  CHECK(db.Count("SELECT count(DISTINCT id) FROM mainstay.jobs WHERE kind = 'a.b' AND fence = 4") == 400);
  CHECK(db.Count("SELECT count(*) FROM mainstay.jobs_history") == 0);
}

TEST_CASE("a redrive stops when too many fail again, says so, and goes on when it is told to") {
  Db db;
  db.Finished(300);
  const Uuid id = db.Create({.kind = "redrive", .max_failure_share = 0.5, .failure_window = 40});
  CHECK(db.Work(id, 1, /*steps=*/8).kind == Outcome::Kind::kSnooze);
  // No more than the window is undecided at a time.
  CHECK(db.Row(id, "done, message") == "40 waits for 40 redriven jobs to end");
  Sql(db.url,
      "UPDATE mainstay.jobs SET attempt = 1 WHERE id IN (SELECT id FROM mainstay.jobs WHERE kind = 'a.b' ORDER BY id "
      "LIMIT 25)");
  CHECK(db.Work(id, 2).kind == Outcome::Kind::kDone);
  CHECK(db.Row(id, "state, failed_again, message") == "stopped 25 25 of the last 25 redriven jobs failed again");
  CHECK(db.Count("SELECT count(*) FROM mainstay.jobs_history") == 260);

  std::vector<Enqueued> publish;
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return ResumeOperation(tx, db.context, id, &publish); }),
               IsOk());
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return ResumeOperation(tx, db.context, id, &publish); }),
             HasProblem("rule-violation"));
  db.job = publish[0].id;
  CHECK(db.Work(id, 1, /*steps=*/2).kind == Outcome::Kind::kSnooze);
  CHECK(db.Row(id, "state, done") == "running 60");
}

TEST_CASE("a redriven job that dies again is left to the next operation") {
  Db db;
  db.Finished(10);
  const Uuid id = db.Create({.kind = "redrive"});
  CHECK(db.Work(id, 1, 1).kind == Outcome::Kind::kSnooze);
  CompleteArrays batch;
  for (const auto& row : Sql(db.url, "SELECT id, fence FROM mainstay.jobs WHERE kind = 'a.b'"))
    batch.Add(*ParseUuid(row[0]), std::stoll(row[1]), kStateDead, nullptr, "again", "row 7 is broken", 1, 0);
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
    CompleteArrays copy = batch;
    std::vector<int64_t> freed;
    std::vector<Handout> handouts;
    CHECK(Complete(tx, std::move(copy), nullptr, "test", &freed, &handouts) == 10);
    return absl::OkStatus();
  }),
               IsOk());
  CHECK(db.Work(id, 2).kind == Outcome::Kind::kDone);
  CHECK(db.Row(id, "state, done") == "succeeded 10");
  CHECK(db.Count("SELECT count(*) FROM mainstay.jobs_history WHERE state = 9 AND fence = 4 AND "
                 "jsonb_array_length(errors) = 2 AND fingerprint = mainstay.job_fingerprint('again', 'row 1 is "
                 "broken')") == 10);
}

TEST_CASE("who lost their unique key stays dead and is counted; of two dead ones the first gets it") {
  Db db;
  db.Finished(2, "'a.b', 9", "acme", "'u'");
  db.Finished(1, "'a.b', 9", "acme", "'held'");
  JobSpec holder{.kind = "a.b", .unique_key = "held"};
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) {
    return Enqueue(tx, db.context, {&holder, 1}).status();
  }),
               IsOk());
  const Uuid id = db.Create({.kind = "redrive"});
  CHECK(db.Work(id).kind == Outcome::Kind::kDone);
  CHECK(db.Row(id, "done, skipped") == "1 2");
  CHECK(db.Count("SELECT count(*) FROM mainstay.job_unique u JOIN mainstay.jobs j ON j.id = u.job AND j.unique_hash = "
                 "u.hash") == 2);
}

TEST_CASE("redriven jobs of a key come back in their old order") {
  Db db;
  db.Finished(30, "'a.b', 9", "acme", "NULL", "'k'");
  const Uuid id = db.Create({.kind = "redrive"});
  CHECK(db.Work(id).kind == Outcome::Kind::kDone);
  CHECK(SqlValue(db.url,
                 "SELECT bool_and(state = 2 AND a = b) FROM (SELECT state, row_number() OVER (ORDER BY id) a, "
                 "row_number() OVER (ORDER BY seq) b FROM mainstay.jobs WHERE key_hash = mainstay.job_key_hash('acme', "
                 "'k')) t") == "t");
  CHECK(db.handoff.published == 30);
}

TEST_CASE("while the window is open redriven jobs are handed out at once") {
  Db db;
  Sql(db.url, "INSERT INTO mainstay.job_windows VALUES ('default', 4, now() + interval '1 minute')");
  db.Finished(12);
  const Uuid id = db.Create({.kind = "redrive"});
  CHECK(db.Work(id).kind == Outcome::Kind::kDone);
  CHECK(db.Count("SELECT count(*) FROM mainstay.jobs WHERE state = 4 AND published_at IS NOT NULL") == 12);
  CHECK(db.handoff.published == 12);
}

TEST_CASE("a purge forgets what had ended when it was asked for, by the filter and the tenant") {
  Db db;
  db.Finished(40, "'a.b', 6");
  db.Finished(11, "'c.d', 9");
  db.Finished(3, "'a.b', 6", "globex");
  const Uuid id = db.Create({.kind = "purge", .filter = R"({"kind":"a.b"})"});
  db.Finished(5, "'a.b', 6");  // ended later
  CHECK(db.Work(id).kind == Outcome::Kind::kDone);
  CHECK(db.Row(id, "state, done, skipped") == "succeeded 40 0");
  CHECK(SqlValue(db.url,
                 "SELECT string_agg(kind || n, ' ' ORDER BY kind, n) FROM (SELECT kind, tenant, count(*) AS n "
                 "FROM mainstay.jobs_history GROUP BY 1, 2) t") == "a.b3 a.b5 c.d11");
}

TEST_CASE("a mass cancel ends waiting and running jobs, frees their keys, and spares the job that does it") {
  Db db;
  std::vector<JobSpec> jobs;
  for (int i = 0; i < 30; ++i) jobs.push_back({.kind = "a.b", .unique_key = absl::StrCat("u", i)});
  for (int i = 0; i < 10; ++i) jobs.push_back({.kind = "a.b", .ordering_key = "k"});
  jobs.push_back({.kind = "a.b", .run_at = absl::Now() + absl::Hours(1)});
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return Enqueue(tx, db.context, jobs).status(); }), IsOk());
  Sql(db.url, "UPDATE mainstay.jobs SET state = 5 WHERE unique_key = 'u3'");
  const Uuid id = db.Create({.kind = "cancel"});
  CHECK(db.Work(id).kind == Outcome::Kind::kDone);
  CHECK(db.Row(id, "state, done") == "succeeded 41");
  CHECK(SqlValue(db.url, "SELECT string_agg(kind, ' ') FROM mainstay.jobs") == kOperationKind);
  CHECK(db.Count("SELECT count(*) FROM mainstay.jobs_history WHERE state = 8 AND errors->-1->>'message' = 'cancelled "
                 "by user:1: because'") == 41);
  CHECK(db.Count("SELECT count(*) FROM mainstay.job_unique") == 0);
}

TEST_CASE("a cancelled operation makes no further step; its tenant alone can cancel it") {
  Db db;
  db.Finished(50);
  const Uuid id = db.Create({.kind = "redrive"});
  db.Work(id, 1, 1);
  CallContext other = db.context;
  other.principal.tenant = "globex";
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return CancelOperation(tx, other, id); }),
             HasProblem("not-found"));
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return CancelOperation(tx, db.context, id); }), IsOk());
  CHECK(db.Work(id, 2).kind == Outcome::Kind::kDone);
  CHECK(db.Row(id, "state, done, message") == "cancelled 10 cancelled by user:1");
}

TEST_CASE("an operation whose job is gone is shown as interrupted and can be resumed") {
  Db db;
  db.Finished(20);
  const Uuid id = db.Create({.kind = "redrive"});
  db.Work(id, 1, 1);
  Sql(db.url, "DELETE FROM mainstay.jobs WHERE kind = 'mainstay.operation'");
  CHECK(SqlValue(db.url, "SELECT state FROM mainstay.job_operations_view") == "interrupted");
  std::vector<Enqueued> publish;
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return ResumeOperation(tx, db.context, id, &publish); }),
               IsOk());
  db.job = publish[0].id;
  CHECK(db.Work(id).kind == Outcome::Kind::kDone);
  CHECK(db.Row(id, "state, done") == "succeeded 20");
}

TEST_CASE("a tenant has ten operations at work, not more") {
  Db db;
  for (int i = 0; i < kOpenOperations; ++i) db.Create({.kind = "redrive"});
  std::vector<Enqueued> publish;
  const OperationSpec spec{.kind = "redrive", .filter = "{}", .reason = "x"};
  CHECK_THAT(
      db.Do([&](pqxx::transaction_base& tx) { return CreateOperation(tx, db.context, spec, &publish).status(); }),
      HasProblem("rule-violation"));
}

TEST_CASE("PostgreSQL going away in the middle costs a retry and nothing else") {
  Db db;
  db.Finished(30);
  const Uuid id = db.Create({.kind = "redrive"});
  postgres::Pool away({.url = "postgresql://nobody@127.0.0.1:1/none", .size = 1});
  Holder holder(db.job, db.Args(id), 1);
  CHECK(RunOperation(holder, {.pool = away, .handoff = db.handoff, .targets = db.targets}).kind ==
        Outcome::Kind::kRetry);
  CHECK(db.Work(id, 2).kind == Outcome::Kind::kDone);
  CHECK(db.Row(id, "state, done") == "succeeded 30");
}

// ---- letters ----

TEST_CASE("dead jobs are grouped by what went wrong, the most frequent first") {
  Db db;
  db.Finished(7);
  db.Finished(3, "'c.d', 9");
  db.Finished(2, "'a.b', 9", "globex");
  Sql(db.url,
      "UPDATE mainstay.jobs_history SET errors = '[{\"code\":\"x\",\"message\":\"odd\"}]', fingerprint = "
      "mainstay.job_fingerprint('x', 'odd') WHERE id = (SELECT min(id::text)::uuid FROM mainstay.jobs_history "
      "WHERE kind = 'a.b' AND tenant = 'acme')");
  auto list = [&](const FingerprintQuery& query) {
    std::vector<FingerprintView> out;
    REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      auto groups = ListFingerprints(tx, db.context, query);
      if (groups.ok()) out = *groups;
      return groups.status();
    }),
                 IsOk());
    return out;
  };
  const auto all = list({});
  REQUIRE(all.size() == 3);
  CHECK(all[0].count == 6);
  CHECK(all[0].kind == "a.b");
  CHECK(all[0].code == "e");
  CHECK(all[0].message.rfind("row ", 0) == 0);
  CHECK(all[0].fingerprint == all[1].fingerprint);  // the same error of another kind
  CHECK(all[1].kind == "c.d");
  CHECK(all[2].message == "odd");
  CHECK(all[0].first_seen <= all[0].last_seen);
  CHECK(list({.kind = "c.d"}).size() == 1);
  CHECK(list({.queue = "other"}).empty());
  CHECK(list({.since = absl::Now() + absl::Hours(1)}).empty());
  CHECK(list({.limit = 1}).size() == 1);
  db.context.principal.tenant = "*";
  CHECK(list({})[0].count == 8);
}

TEST_CASE("arguments can be put right while a job waits or is dead, under a new fence") {
  Db db;
  auto edit = [&](const Uuid& id, std::vector<Enqueued>* publish = nullptr) {
    return db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      auto result = EditArgs(tx, db.context, id, R"({"to": 8})", "typo");
      if (result.ok() && publish != nullptr) *publish = *result;
      return result.status();
    });
  };
  std::vector<JobSpec> jobs = {{.kind = "a.b", .args = R"({"to": 7})"}, {.kind = "a.b", .ordering_key = "k"}};
  std::vector<Enqueued> added;
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
    auto result = Enqueue(tx, db.context, jobs);
    if (result.ok()) added = *result;
    return result.status();
  }),
               IsOk());
  const std::string id = added[0].id.ToString();
  std::vector<Enqueued> publish;
  REQUIRE_THAT(edit(added[0].id, &publish), IsOk());
  CHECK(publish.empty());
  CHECK(SqlValue(db.url, absl::StrCat("SELECT concat_ws(' ', args, fence, state, options->'edited'->>'by', "
                                      "options->'edited'->>'reason') FROM mainstay.jobs WHERE id = '",
                                      id, "'")) == R"({"to": 8} 2 3 user:1 typo)");
  // Handed out already: the entry on its way is stale, so there is a new one.
  Sql(db.url, absl::StrCat("UPDATE mainstay.jobs SET state = 4, published_at = now() WHERE id = '", id, "'"));
  REQUIRE_THAT(edit(added[0].id, &publish), IsOk());
  REQUIRE(publish.size() == 1);
  CHECK(publish[0].entry == absl::StrCat(id, " 3 0 a.b {\"to\": 8}"));
  // A keyed job that holds its slot keeps it.
  Sql(db.url, "SELECT mainstay.promote_job_keys(ARRAY[mainstay.job_key_hash('acme', 'k')])");
  REQUIRE_THAT(edit(added[1].id, &publish), IsOk());
  CHECK(publish.size() == 1);
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.job_slots") == "1");

  Sql(db.url, absl::StrCat("UPDATE mainstay.jobs SET state = 5 WHERE id = '", id, "'"));
  CHECK_THAT(edit(added[0].id), HasProblem("rule-violation"));
  Sql(db.url, absl::StrCat("UPDATE mainstay.jobs SET state = 3, sensitive_args = 'x' WHERE id = '", id, "'"));
  CHECK_THAT(edit(added[0].id), HasProblem("rule-violation"));
  CHECK_THAT(edit(NewUuid()), HasProblem("not-found"));
  db.Finished(1);
  const Uuid dead = *ParseUuid(SqlValue(db.url, "SELECT id FROM mainstay.jobs_history"));
  CallContext other = db.context;
  std::swap(other, db.context);
  db.context.principal.tenant = "globex";
  CHECK_THAT(edit(dead), HasProblem("not-found"));
  std::swap(other, db.context);
  REQUIRE_THAT(edit(dead), IsOk());
  CHECK(SqlValue(db.url, "SELECT concat_ws(' ', args, fence) FROM mainstay.jobs_history") == R"({"to": 8} 4)");
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) {
    return EditArgs(tx, db.context, dead, std::string(kMaxArgs + 1, ' '), "x").status();
  }),
             HasProblem("validation-failed"));
}

TEST_CASE("a finished job can be deleted, an unfinished one not") {
  Db db;
  db.Finished(1, "'a.b', 6");
  const Uuid id = *ParseUuid(SqlValue(db.url, "SELECT id FROM mainstay.jobs_history"));
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return DeleteJob(tx, db.context, id); }), IsOk());
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return DeleteJob(tx, db.context, id); }), HasProblem("not-found"));
  JobSpec spec{.kind = "a.b"};
  Uuid hot;
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
    hot = (*Enqueue(tx, db.context, {&spec, 1}))[0].id;
    return absl::OkStatus();
  }),
               IsOk());
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return DeleteJob(tx, db.context, hot); }),
             HasProblem("rule-violation"));
}

}  // namespace
}  // namespace mainstay::jobs
