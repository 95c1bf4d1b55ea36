// SPDX-License-Identifier: Apache-2.0
// Runs of a key as PostgreSQL sees them: who may follow whom, and what ends a run (libs/jobs/migrations/0035, 0037,
// 0038).
#include <future>

#include "libs/base/text.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/letters.h"
#include "libs/jobs/running.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::IsOk;
using testing::Sql;
using testing::SqlValue;

struct Db {
  Db() : url(testing::NewMigratedDatabase()), pool({.url = url, .size = 4, .pin_plans = true}) {
    context.principal = {.tenant = "acme", .subject = "user:1"};
    Sql(url, "INSERT INTO mainstay.job_queues (name) VALUES ('other')");
  }
  // Jobs of the key "k", the first of which holds its slot.
  std::vector<Uuid> Line(std::vector<JobSpec> jobs) {
    for (JobSpec& job : jobs) job.ordering_key = "k";
    std::vector<Uuid> ids;
    Do([&](pqxx::transaction_base& tx) -> absl::Status {
      const auto added = Enqueue(tx, context, jobs);
      if (!added.ok()) return added.status();
      for (const Enqueued& job : *added) ids.push_back(job.id);
      return absl::OkStatus();
    });
    Sql(url, "SELECT * FROM mainstay.promote_job_keys(ARRAY(SELECT key_hash FROM mainstay.jobs))");
    return ids;
  }
  void Do(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
    REQUIRE_THAT(pool.Transaction(absl::Now() + absl::Seconds(10), body), IsOk());
  }
  // Who follows `holder`.
  std::vector<Uuid> Take(const Uuid& holder, int size = 100, int64_t fence = 1) {
    std::vector<Uuid> ids;
    Do([&](pqxx::transaction_base& tx) -> absl::Status {
      for (const auto& row : Run(tx, sql::kTakeRuns, "{" + holder.ToString() + "}", absl::StrCat("{", fence, "}"),
                                 "{" + Key() + "}", absl::StrCat("{", size, "}"), "{a,b}")) {
        CHECK(row[0].c_str() == holder.ToString());
        ids.push_back(ParseUuid(row[1].c_str()).value());
      }
      return absl::OkStatus();
    });
    return ids;
  }
  // Finishes jobs as a worker does; returns what is handed out then.
  size_t Done(const std::vector<Uuid>& jobs, const std::vector<std::pair<Uuid, int64_t>>& turns = {},
              int64_t fence = 1) {
    std::vector<Handout> handouts;
    Do([&](pqxx::transaction_base& tx) -> absl::Status {
      CompleteArrays batch;
      for (const Uuid& job : jobs) batch.Add(job, fence, kStateSucceeded, nullptr, "", "", 1, 0);
      std::vector<int64_t> freed;
      finished = Complete(tx, std::move(batch), nullptr, "test", &freed, &handouts, turns);
      return absl::OkStatus();
    });
    return handouts.size();
  }
  std::string Key() { return SqlValue(url, "SELECT min(key_hash) FROM mainstay.jobs"); }
  std::string Holder() { return SqlValue(url, "SELECT coalesce(min(job::text), '') FROM mainstay.job_slots"); }
  std::string Fences() {
    return SqlValue(url, "SELECT coalesce(string_agg(fence::text, ',' ORDER BY seq), '') FROM mainstay.jobs");
  }
  std::string url;
  postgres::Pool pool;
  CallContext context;
  int64_t finished = 0;
};

FencedIds Fenced(const std::vector<Uuid>& jobs) {
  FencedIds ids;
  for (const Uuid& job : jobs) ids.ids.Add(job), ids.fences.AddInt8(1);
  return ids;
}

TEST_CASE("those next in line follow the holder, as long as they may run where it does") {
  Db db;
  const JobSpec plain{.kind = "a"};
  SECTION("of any kind that the worker runs, at most so many") {
    const auto line = db.Line({plain, {.kind = "b"}, plain, plain});
    CHECK(db.Take(line[0], 2) == std::vector<Uuid>{line[1], line[2]});
  }
  SECTION("up to the first of another kind, queue, or with a limit or a deadline of its own") {
    JobSpec odd = GENERATE(JobSpec{.kind = "c"}, JobSpec{.kind = "a", .queue = "other"},
                           JobSpec{.kind = "a", .concurrency_key = "x", .concurrency_limit = 1},
                           JobSpec{.kind = "a", .deadline = absl::Now() + absl::Hours(1)});
    const auto line = db.Line({plain, plain, odd, plain});
    CHECK(db.Take(line[0]) == std::vector<Uuid>{line[1]});
  }
  SECTION("none for one that was handed out anew, or does not hold the slot") {
    const auto line = db.Line({plain, plain, plain});
    CHECK(db.Take(line[0], 100, 2).empty());
    CHECK(db.Take(line[1]).empty());
  }
  SECTION("up to the first that is written as running") {
    const auto line = db.Line({plain, plain, plain, plain});
    Sql(db.url, absl::StrCat("UPDATE mainstay.jobs SET state = 5 WHERE id = '", line[2].ToString(), "'"));
    CHECK(db.Take(line[0]) == std::vector<Uuid>{line[1]});
  }
  SECTION("once") {
    const auto line = db.Line({plain, plain, plain});
    CHECK(db.Take(line[0], 2).size() == 2);
    CHECK(db.Take(line[0], 1).empty());
    CHECK(db.Done({line[0]}, {{line[1], 1}}) == 0);
    CHECK(db.Done({line[1]}, {{line[2], 1}}) == 0);
  }
  SECTION("none while anything is paused, or where the dispatcher counts") {
    const auto line = db.Line({plain, plain});
    Sql(db.url, GENERATE("UPDATE mainstay.job_queues SET concurrency = 5 WHERE name = 'default'",
                         "INSERT INTO mainstay.job_pauses (id, scope, name, author, reason) VALUES (gen_random_uuid(), "
                         "'kind', 'z', 'me', '')"));
    CHECK(db.Take(line[0]).empty());
  }
}

TEST_CASE("a run that goes on keeps the slot; whoever else moves it raises the fences of what is left") {
  Db db;
  const auto line = db.Line(std::vector<JobSpec>(6, JobSpec{.kind = "a"}));
  REQUIRE(db.Take(line[0], 4).size() == 4);
  CHECK(db.Done({line[0], line[1]}, {{line[2], 1}}) == 0);
  CHECK(db.Holder() == line[2].ToString());
  CHECK(db.Fences() == "1,1,1,1");
  SECTION("it ends, and the next in line goes out") {
    CHECK(db.Done({line[2], line[3], line[4]}) == 1);
    CHECK(db.Holder() == line[5].ToString());
    CHECK(db.Fences() == "1");
    CHECK(db.Done({line[5]}) == 0);
    CHECK(db.Holder().empty());
  }
  SECTION("its holder gives it up") {
    CHECK(db.Done({line[2]}) == 1);
    CHECK(db.Holder() == line[3].ToString());
    CHECK(db.Fences() == "2,2,1");
    db.Done({line[4]});
    CHECK(db.finished == 0);
  }
  SECTION("the one whose turn it is cancelled, or names a turn that is gone") {
    db.Do([&](pqxx::transaction_base& tx) { return CancelJob(tx, db.context, line[2], "").status(); });
    CHECK(db.Holder() == line[3].ToString());
    CHECK(db.Fences() == "2,2,1");
    CHECK(db.Done({line[3]}, {{line[4], 1}}, 2) == 1);  // its fence is 2 by now
    CHECK(db.Holder() == line[4].ToString());
  }
  SECTION("handed out anew") {
    db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      const pqxx::result rows = Reissue(tx, Fenced({line[2], line[4]}), kStatePublished);
      CHECK(rows.size() == 2);
      for (const auto& row : rows)  // only the holder goes out
        CHECK((row[7].as<int>() == kStateBlocked) == (row[0].c_str() == line[2].ToString()));
      return absl::OkStatus();
    });
    CHECK(db.Fences() == "2,2,3,1");
  }
  SECTION("one that was not begun handed out anew") {
    db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      Reissue(tx, Fenced({line[3]}), kStateReady);
      return absl::OkStatus();
    });
    CHECK(db.Fences() == "1,3,2,1");
    CHECK(db.Done({line[2], line[4]}, {{line[5], 1}}) == 1);
    CHECK(db.finished == 1);
    CHECK(db.Holder() == line[3].ToString());
  }
  SECTION("tried again later") {
    db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      RetryArrays retry;
      retry.Add(line[2], 1, absl::Seconds(1), "error", "");
      CHECK(Retry(tx, std::move(retry), "test") == 1);
      return absl::OkStatus();
    });
    CHECK(db.Holder() == line[2].ToString());
    CHECK(db.Fences() == "2,2,2,1");
  }
  SECTION("new arguments for one that waits in it") {
    db.Do([&](pqxx::transaction_base& tx) { return EditArgs(tx, db.context, line[3], "{}", "").status(); });
    CHECK(db.Fences() == "1,3,2,1");
    CHECK(db.Done({line[2], line[3]}, {{line[4], 1}}) == 1);
    CHECK(db.finished == 1);
    CHECK(db.Holder() == line[3].ToString());
  }
  SECTION("written as running when Redis was emptied") {
    Sql(db.url, absl::StrCat(
                    "INSERT INTO mainstay.job_workers (id, name, kinds, lease_until) VALUES (gen_random_uuid(), 'w', "
                    "'{}', now() + interval '1 hour'); "
                    "UPDATE mainstay.jobs SET state = 5, worker = (SELECT id FROM mainstay.job_workers) WHERE id IN ('",
                    line[2].ToString(), "', '", line[3].ToString(), "', '", line[4].ToString(), "')"));
    SECTION("and goes on") {
      CHECK(db.Done({line[2]}, {{line[3], 1}}) == 0);
      CHECK(db.Done({line[3]}) == 1);
      CHECK(db.Holder() == line[4].ToString());
      CHECK(db.Fences() == "2,1");
      CHECK(SqlValue(db.url, "SELECT state FROM mainstay.jobs ORDER BY seq LIMIT 1") == "2");
    }
    SECTION("by a worker that then dies: the one whose turn it was pays") {
      Sql(db.url, "UPDATE mainstay.job_workers SET lease_until = now()");
      db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
        const pqxx::result expired = Run(tx, sql::kExpired);
        REQUIRE(expired.size() == 1);
        CHECK(expired[0][0].c_str() == line[2].ToString());
        return absl::OkStatus();
      });
    }
    SECTION("and the answer lost: it is theirs all the same") {
      db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
        const std::string worker = SqlValue(db.url, "SELECT id FROM mainstay.job_workers");
        FencedIds jobs = Fenced({line[2], line[3]});
        BinaryArray since(BinaryArray::kFloat8);
        since.AddFloat8(0), since.AddFloat8(0);
        CHECK(Run(tx, sql::kMarkRunning, jobs.ids.Finish(), jobs.fences.Finish(), worker, since.Finish()).size() == 2);
        return absl::OkStatus();
      });
    }
  }
}

// A handler that finishes its job in a transaction of its own.
class Handle : public HandlerJob {
 public:
  using HandlerJob::HandlerJob;
  bool cancelled() const override { return false; }

 private:
  absl::Status StoreNote(bool, std::string) override { return absl::UnimplementedError(""); }
  void Fenced() override {}
  void FinishedIn(std::vector<Handout>) override {}
};

TEST_CASE("one of a run that finishes in its own transaction waits until what ran before it is stored") {
  Db db;
  const auto line = db.Line(std::vector<JobSpec>(3, JobSpec{.kind = "a"}));
  REQUIRE(db.Take(line[0]).size() == 2);
  const Registry registry;
  const HandlerHome home{registry, NewUuid(), "test", db.pool};
  JobData data;
  data.id = line[1], data.fence = 1, data.kind = "a", data.follows = true;
  Handle handle(home, data);
  std::future<absl::Status> finishing = std::async(std::launch::async, [&] {
    return db.pool.Transaction(absl::Now() + absl::Seconds(20),
                               [&](pqxx::transaction_base& tx) { return handle.FinishIn(tx, Outcome::Done()); });
  });
  CHECK(finishing.wait_for(std::chrono::milliseconds(200)) == std::future_status::timeout);
  SECTION("it is") {
    CHECK(db.Done({line[0]}, {{line[1], 1}}) == 0);
    CHECK_THAT(finishing.get(), IsOk());
    CHECK(db.Holder() == line[2].ToString());
  }
  SECTION("it is handed out anew, and so is the one that waits") {
    db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      Reissue(tx, Fenced({line[0]}), kStatePublished);
      return absl::OkStatus();
    });
    CHECK(finishing.get() == FencedError());
    CHECK(db.Fences() == "2,2,2");
  }
}

TEST_CASE("a run whose worker is gone is found when nothing of it was finished for a lease") {
  Db db;
  const auto line = db.Line(std::vector<JobSpec>(3, JobSpec{.kind = "a"}));
  auto stuck = [&] {
    size_t found = 0;
    db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      found = Run(tx, sql::kStuckRuns, 30.0).size();
      return absl::OkStatus();
    });
    return found;
  };
  Sql(db.url, "UPDATE mainstay.job_slots SET taken_at = now() - interval '1 hour'");
  CHECK(stuck() == 0);  // no run yet
  REQUIRE(db.Take(line[0]).size() == 2);
  CHECK(stuck() == 0);
  Sql(db.url, "UPDATE mainstay.job_slots SET taken_at = now() - interval '1 minute'");
  CHECK(stuck() == 1);
  // Its slot's job vanished under it.
  Sql(db.url, absl::StrCat("DELETE FROM mainstay.jobs WHERE id = '", line[0].ToString(), "'"));
  db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
    Run(tx, sql::kLooseRuns);
    return absl::OkStatus();
  });
  CHECK(db.Fences() == "2,2");
}

}  // namespace
}  // namespace mainstay::jobs
