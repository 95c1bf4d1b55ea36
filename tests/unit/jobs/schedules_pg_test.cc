// SPDX-License-Identifier: Apache-2.0
// Schedules against PostgreSQL, with the clock given. Leaders are Scheduler objects; a kill is a connection that ends
// in the middle of a transaction. The numbers are those of the faults in the reference of the jobs engine.
#include <atomic>
#include <thread>

#include "absl/strings/str_join.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/scheduler.h"
#include "libs/jobs/schedules.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::Sql;
using testing::SqlValue;
using Lines = std::vector<std::string>;

// A Tuesday long ago, so that no job of it is one of the future.
absl::Time At(const std::string& time) {
  absl::Time out;
  std::string error;
  REQUIRE(absl::ParseTime("%Y-%m-%d %H:%M:%S", time.size() > 8 ? time : "2020-03-10 " + time, &out, &error));
  return out;
}

struct Db {
  Db() : url(testing::NewMigratedDatabase()), pool(PoolOf()) {
    context.principal = {.tenant = "acme", .subject = "user:1"};
    declared.catalog_hash = "one";
  }
  postgres::PoolOptions PoolOf() const {
    return {.url = testing::Postgres::As(url, "mainstay_worker"), .size = 4, .pin_plans = true};
  }
  Scheduler Leader(postgres::Pool& own_pool) {
    return Scheduler({.declared = [this] { return declared; }, .grace = absl::Seconds(30), .batch = 100}, own_pool);
  }
  // Declares one, from 12:00:00 on.
  void Declare(ScheduleSpec spec) {
    if (spec.name.empty()) spec.name = "s";
    if (spec.tenant.empty()) spec.tenant = "acme";
    if (spec.kind.empty()) spec.kind = "a.b";
    declared.schedules.push_back(std::move(spec));
    Step("12:00:00");
  }
  void Publish() { declared.catalog_hash += "+"; }
  void Step(const std::string& time) { CHECK_THAT(leader.Step(At(time)), IsOk()); }
  absl::Status Do(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
    return pool.Transaction(absl::Now() + absl::Seconds(20), body);
  }
  Lines Runs(const std::string& name = "s") {
    Lines out;
    for (const auto& row : Sql(url,
                               "SELECT to_char(fire_at AT TIME ZONE 'UTC', 'HH24:MI:SS') || ' ' || outcome FROM "
                               "mainstay.schedule_runs WHERE schedule = '" +
                                   name + "' ORDER BY fire_at"))
      out.push_back(row[0]);
    return out;
  }
  // The times that the jobs of runs were due, and nothing else: each has its own.
  Lines JobTimes() {
    Lines out;
    for (const auto& row : Sql(url,
                               "SELECT to_char(j.run_at AT TIME ZONE 'UTC', 'HH24:MI:SS') FROM mainstay.jobs_view j "
                               "LEFT JOIN mainstay.schedule_runs r ON r.job = j.uid AND r.fire_at = j.run_at "
                               "WHERE r.job IS NOT NULL OR j.kind = 'a.b' ORDER BY j.run_at"))
      out.push_back(row[0]);
    return out;
  }
  void FinishJobs() {
    for (const auto& row : Sql(url, "SELECT id FROM mainstay.jobs"))
      REQUIRE_THAT(
          Do([&](pqxx::transaction_base& tx) { return CancelJob(tx, context, *ParseUuid(row[0]), "done").status(); }),
          IsOk());
  }
  std::string Value(const std::string& column) {
    return SqlValue(url, "SELECT " + column + " FROM mainstay.schedules_view");
  }

  std::string url;
  postgres::Pool pool;
  CallContext context;
  DeclaredSchedules declared;
  Scheduler leader = Leader(pool);
};

TEST_CASE("a schedule starts from now; each time becomes one job that knows when it was due") {
  Db db;
  db.Declare({.queue = "mail",
              .args = R"({"at":"{scheduled_at}","day":"{scheduled_date}","n":1})",
              .cron = "*/10 * * * *",
              .zone = "Asia/Tokyo",
              .role = "staff"});
  CHECK(db.Runs().empty());
  CHECK(db.Value("next_run_at") == "2020-03-10 12:10:00+00");
  db.Step("12:09:59");
  CHECK(db.Runs().empty());
  db.Step("12:10:00");
  db.Step("12:10:01");
  CHECK(db.Runs() == Lines{"12:10:00 enqueued"});
  CHECK(db.JobTimes() == Lines{"12:10:00"});
  CHECK(Sql(db.url,
            "SELECT kind, queue, tenant, args::text, principal::text, ordering_key, tags::text, catalog_hash FROM "
            "mainstay.jobs")[0] ==
        Lines{"a.b", "mail", "acme", R"({"at":"2020-03-10T12:10:00.000000Z","day":"2020-03-10","n":1})",
              R"({"subject":"schedule:s","roles":["staff"]})", "schedule:s", "{schedule:s}", "one"});
  CHECK(db.Value("last_run_at") == "2020-03-10 12:10:00+00");
  CHECK(db.Value("next_run_at") == "2020-03-10 12:20:00+00");
  db.FinishJobs();
  db.Step("15:00:01");
  CHECK(SqlValue(db.url, "SELECT args ->> 'day' FROM mainstay.jobs") == "2020-03-11");  // where it was due
}

TEST_CASE("F46: all down across three fire times: skip runs none, last one, all three, each with its own time") {
  Db db;
  auto after_outage = [&](const std::string& missed, const std::string& overlap) {
    db.Declare({.cron = "*/10 * * * *", .missed = missed, .overlap = overlap});
    db.Step("12:35:00");
    CHECK(db.Value("next_run_at") == "2020-03-10 12:40:00+00");
    db.Step("12:35:01");
  };
  SECTION("skip") {
    after_outage("skip", "allow");
    CHECK(db.Runs() == Lines{"12:10:00 missed", "12:20:00 missed", "12:30:00 missed"});
    CHECK(db.JobTimes().empty());
  }
  SECTION("last") {
    after_outage("last", "allow");
    CHECK(db.Runs() == Lines{"12:10:00 missed", "12:20:00 missed", "12:30:00 enqueued"});
    CHECK(db.JobTimes() == Lines{"12:30:00"});
  }
  SECTION("all") {
    after_outage("all", "allow");
    CHECK(db.Runs() == Lines{"12:10:00 enqueued", "12:20:00 enqueued", "12:30:00 enqueued"});
    CHECK(db.JobTimes() == Lines{"12:10:00", "12:20:00", "12:30:00"});
  }
  SECTION("all, one after another where they may not overlap") {
    after_outage("all", "skip");
    CHECK(db.JobTimes() == Lines{"12:10:00", "12:20:00", "12:30:00"});
    CHECK(SqlValue(db.url, "SELECT count(DISTINCT key_hash) FROM mainstay.jobs WHERE state = 2") == "1");
    CHECK(SqlValue(db.url,
                   "SELECT array_agg(run_at ORDER BY seq) = array_agg(run_at ORDER BY run_at) FROM mainstay.jobs") ==
          "t");
    db.Step("12:40:00");
    CHECK(db.Runs().back() == "12:40:00 overlap");
  }
  CHECK(SqlValue(db.url,
                 "SELECT count(*) FROM mainstay.schedule_runs r WHERE outcome = 'enqueued' AND NOT EXISTS "
                 "(SELECT 1 FROM mainstay.jobs j WHERE j.id = r.job AND j.run_at = r.fire_at)") == "0");
}

TEST_CASE("a change of leader takes its time: what is decided within the grace was not missed") {
  Db db;
  db.Declare({.cron = "*/10 * * * *", .missed = "skip"});
  db.Step("12:10:30");
  CHECK(db.Runs() == Lines{"12:10:00 enqueued"});
  db.FinishJobs();
  db.Step("12:20:31");
  CHECK(db.Runs() == Lines{"12:10:00 enqueued", "12:20:00 missed"});
}

TEST_CASE("times older than the window are forgotten; a long list is worked off in batches") {
  Db db;
  db.Declare({.cron = "* * * * *", .missed = "all", .missed_window = absl::Hours(5)});
  db.Step("2020-03-11 12:00:31");
  CHECK(db.Runs().size() == 300);
  CHECK(db.JobTimes().size() == 300);
  CHECK(SqlValue(db.url, "SELECT min(fire_at) FROM mainstay.schedule_runs") == "2020-03-11 07:01:00+00");
  CHECK(db.Value("next_run_at") == "2020-03-11 12:01:00+00");
}

TEST_CASE("a run that meets an unfinished one: allow, skip, queue, replace") {
  Db db;
  auto twice = [&](const std::string& overlap) {
    db.Declare({.cron = "*/10 * * * *", .overlap = overlap});
    db.Step("12:10:00");
    db.Step("12:20:00");
  };
  SECTION("allow: beside it") {
    twice("allow");
    CHECK(db.Runs() == Lines{"12:10:00 enqueued", "12:20:00 enqueued"});
    CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs WHERE key_hash IS NULL") == "2");
  }
  SECTION("skip: not this time, but once the other is finished") {
    twice("skip");
    CHECK(db.Runs() == Lines{"12:10:00 enqueued", "12:20:00 overlap"});
    CHECK(db.JobTimes() == Lines{"12:10:00"});
    db.FinishJobs();
    db.Step("12:30:00");
    CHECK(db.Runs().back() == "12:30:00 enqueued");
  }
  SECTION("queue: after it") {
    twice("queue");
    CHECK(db.Runs() == Lines{"12:10:00 enqueued", "12:20:00 enqueued"});
    CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs WHERE state = 2 AND ordering_key = 'schedule:s'") ==
          "2");
  }
  SECTION("replace: instead of it") {
    twice("replace");
    CHECK(db.Runs() == Lines{"12:10:00 enqueued", "12:20:00 enqueued"});
    CHECK(SqlValue(db.url, "SELECT to_char(run_at, 'HH24:MI') FROM mainstay.jobs") == "12:20");
    CHECK(
        Sql(db.url, "SELECT mainstay.job_state_name(state), errors -> 0 ->> 'message' FROM mainstay.jobs_history")[0] ==
        Lines{"cancelled", "cancelled by schedule:s: its next run replaces it"});
    CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.job_slots") == "0");
  }
  SECTION("another's job of the same key is none of the schedule's") {
    db.Declare({.cron = "*/10 * * * *", .overlap = "replace"});
    REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) {
      return Enqueue(tx, db.context, std::vector<JobSpec>{{.kind = "x", .ordering_key = "schedule:s"}}).status();
    }),
                 IsOk());
    db.Step("12:10:00");
    CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "2");
  }
}

TEST_CASE(
    "F44: a leader killed at any step around a fire time leaves nothing; the next one makes one row and one job") {
  Db db;
  db.Declare({.cron = "*/10 * * * *", .overlap = "allow"});
  Sql(db.url,
      "CREATE FUNCTION public.die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM "
      "pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NULL; END $$");
  int minute = 10;
  for (const std::string at : {"BEFORE INSERT ON mainstay.schedule_runs", "AFTER INSERT ON mainstay.schedule_runs",
                               "BEFORE INSERT ON mainstay.jobs", "AFTER INSERT ON mainstay.jobs",
                               "BEFORE UPDATE ON mainstay.schedule_runs", "AFTER UPDATE ON mainstay.schedule_runs",
                               "BEFORE UPDATE ON mainstay.schedules", "AFTER UPDATE ON mainstay.schedules"}) {
    INFO(at);
    const std::string table = at.substr(at.find("mainstay."));
    const std::string time =
        absl::StrCat(12 + minute / 60, ":", minute % 60 == 0 ? "00" : absl::StrCat(minute % 60), ":00");
    const size_t before = db.Runs().size();
    Sql(db.url, "CREATE TRIGGER dies " + at + " EXECUTE FUNCTION public.die()");
    CHECK_FALSE(db.leader.Step(At(time)).ok());
    Sql(db.url, "DROP TRIGGER dies ON " + table);
    CHECK(db.Runs().size() == before);
    CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == absl::StrCat(before));
    // Another takes over; the first comes back and adds nothing.
    Scheduler next = db.Leader(db.pool);
    CHECK_THAT(next.Step(At(time) + absl::Seconds(1)), IsOk());
    CHECK_THAT(db.leader.Step(At(time) + absl::Seconds(2)), IsOk());
    CHECK(db.Runs().size() == before + 1);
    CHECK(db.Runs().back() == time + " enqueued");
    CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == absl::StrCat(before + 1));
    minute += 10;
  }
}

TEST_CASE("F44: a leader stopped in the middle of a fire time: whoever ends first decides it, once") {
  Db db;
  db.Declare({.cron = "*/10 * * * *", .overlap = "allow"});
  for (const bool commits : {true, false}) {
    const std::string time = commits ? "12:10:00" : "12:20:00";
    postgres::Pool other_pool(db.PoolOf());
    Scheduler other = db.Leader(other_pool);
    REQUIRE_THAT(other.Step(At(time) - absl::Seconds(1)), IsOk());
    std::thread second;
    absl::Status second_status;
    db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
        CHECK(FireSchedule(tx, "s", absl::Seconds(30), 10, At(time))->outcomes.size() == 1);
        second = std::thread([&] { second_status = other.Step(At(time) + absl::Seconds(5)); });
        // It waits for the row, which only PostgreSQL can tell.
        CHECK(Eventually([&] {
          return SqlValue(db.url,
                          "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
                          "wait_event_type = 'Lock'") == "1";
        }));
        return commits ? absl::OkStatus() : absl::CancelledError("killed");
      }).IgnoreError();
    second.join();
    CHECK_THAT(second_status, IsOk());
    CHECK(db.Runs().back() == time + " enqueued");
    CHECK(db.Runs().size() == db.JobTimes().size());
  }
  CHECK(db.Runs() == Lines{"12:10:00 enqueued", "12:20:00 enqueued"});
}

TEST_CASE("F45: three leaders at once, for ten minutes of seconds: one row and one job per fire time") {
  Db db;
  db.Declare({.name = "a", .cron = "*/5 * * * * *", .missed = "all", .overlap = "allow"});
  db.Publish();
  db.Declare({.name = "b", .cron = "*/7 * * * * *", .missed = "last", .overlap = "queue"});
  std::atomic<int> failed{0};
  std::vector<std::thread> leaders;
  for (int n = 0; n < 3; ++n) {
    leaders.emplace_back([&, n] {
      postgres::Pool pool(db.PoolOf());
      Scheduler leader = db.Leader(pool);
      // Clocks that differ, and all see the same times.
      for (int second = n; second <= 600 + n; second += 3)
        if (!leader.Step(At("12:00:00") + absl::Seconds(std::min(second, 600))).ok()) ++failed;
    });
  }
  for (auto& leader : leaders) leader.join();
  CHECK(failed == 0);
  const auto parsed = Cron::Parse("*/7 * * * * *");
  size_t expected_b = 0;
  for (absl::Time t = parsed->Next(At("12:00:00"), absl::UTCTimeZone()); t <= At("12:10:00");
       t = parsed->Next(t, absl::UTCTimeZone()))
    ++expected_b;
  CHECK(db.Runs("a").size() == 120);
  CHECK(db.Runs("b").size() == expected_b);
  CHECK(SqlValue(db.url,
                 "SELECT count(*) FROM mainstay.schedule_runs WHERE (outcome = 'enqueued') <> (job IS NOT NULL)") ==
        "0");
  CHECK(SqlValue(db.url,
                 "SELECT count(DISTINCT job) = count(*) AND count(*) = (SELECT count(*) FROM mainstay.jobs) FROM "
                 "mainstay.schedule_runs WHERE job IS NOT NULL") == "t");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.schedule_runs WHERE schedule = 'a' AND outcome = 'enqueued'") ==
        "120");
}

TEST_CASE("F47: the next runs shown are the runs made, through both clock changes in five zones") {
  Db db;
  // The day before each change, in UTC.
  struct {
    const char* zone;
    const char* spring;
    const char* autumn;
  } const zones[] = {{"Europe/Berlin", "2020-03-28 12:00:00", "2020-10-24 12:00:00"},
                     {"America/New_York", "2020-03-07 17:00:00", "2020-10-31 16:00:00"},
                     {"Australia/Lord_Howe", "2020-10-03 01:30:00", "2020-04-04 01:30:00"},
                     {"Pacific/Chatham", "2020-09-25 23:15:00", "2020-04-03 22:15:00"},
                     {"America/Santiago", "2020-09-05 16:00:00", "2020-04-04 15:00:00"}};
  const std::vector<std::string> crons = {"30 2 * * *", "*/20 1-3 * * *", "15 * * * *", "@daily", "45 */2 * * *"};
  int n = 0;
  for (const auto& zone : zones) {
    for (const std::string& cron : crons)
      db.declared.schedules.push_back({.name = absl::StrCat("s", n++),
                                       .tenant = "acme",
                                       .kind = "a.b",
                                       .cron = cron,
                                       .zone = zone.zone,
                                       .missed = "all",
                                       .overlap = "allow"});
  }
  for (const bool spring : {true, false}) {
    for (int z = 0; z < 5; ++z) {
      const absl::Time start = At(spring ? zones[z].spring : zones[z].autumn);
      for (int c = 0; c < 5; ++c) {
        const std::string name = absl::StrCat("s", z * 5 + c);
        INFO(zones[z].zone << " " << crons[c] << " from " << absl::FormatTime(start, absl::UTCTimeZone()));
        // As if it had just been declared then.
        Sql(db.url, "DELETE FROM mainstay.schedules; DELETE FROM mainstay.schedule_runs; DELETE FROM mainstay.jobs");
        db.Publish();
        REQUIRE_THAT(db.leader.Step(start), IsOk());
        std::vector<absl::Time> shown;
        REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
          auto next = NextRuns(tx, db.context, name, 15, start);
          if (next.ok()) shown = *std::move(next);
          return next.status();
        }),
                     IsOk());
        REQUIRE(shown.size() == 15);
        for (const absl::Time at : shown)
          REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) {
            return FireSchedule(tx, name, absl::Seconds(30), 10, at).status();
          }),
                       IsOk());
        std::vector<absl::Time> made;
        for (const auto& row :
             Sql(db.url, "SELECT extract(epoch FROM fire_at)::bigint FROM mainstay.schedule_runs WHERE schedule = '" +
                             name + "' AND outcome = 'enqueued' ORDER BY 1"))
          made.push_back(absl::FromUnixSeconds(std::stoll(row[0])));
        CHECK(made == shown);
      }
    }
  }
}

TEST_CASE("F47: new zone data: the next time is made anew by the next leader, and nothing runs by the old one") {
  Db db;
  db.Declare({.cron = "0 12 * * *", .zone = "Europe/Berlin"});
  CHECK(db.Value("next_run_at") == "2020-03-11 11:00:00+00");
  // As an older zone database had it.
  Sql(db.url, "UPDATE mainstay.schedules SET next_at = '2020-03-11 10:00:00+00'");
  db.Step("2020-03-11 10:00:00");
  CHECK(db.Runs().empty());
  CHECK(db.Value("next_run_at") == "2020-03-11 11:00:00+00");
  Sql(db.url, "UPDATE mainstay.schedules SET next_at = '2020-03-11 12:00:00+00'");
  Scheduler next = db.Leader(db.pool);
  CHECK_THAT(next.Step(At("2020-03-11 10:30:00")), IsOk());
  CHECK(db.Value("next_run_at") == "2020-03-11 11:00:00+00");
}

TEST_CASE("F27: a leader's own clock is not asked: no time comes before PostgreSQL's has reached it") {
  Db db;
  // Yearly, at a time that this machine's clock has passed and a moment of PostgreSQL that has not: the given one.
  db.Declare({.cron = "0 13 10 3 *"});
  for (int i = 0; i < 5; ++i) db.Step("12:59:59");
  CHECK(db.Runs().empty());
  db.Step("13:00:00");
  CHECK(db.Runs() == Lines{"13:00:00 enqueued"});
}

TEST_CASE("a pause has an author and a reason, survives a new catalog, and what was due meanwhile is not made up for") {
  Db db;
  db.Declare({.cron = "*/10 * * * *", .missed = "all"});
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return PauseSchedule(tx, db.context, "s", "moving"); }), IsOk());
  db.declared.schedules[0].args = R"({"new":true})";
  db.Publish();
  db.Step("12:30:00");
  CHECK(db.Runs().empty());
  CHECK(
      Sql(db.url,
          "SELECT paused, paused_by, paused_reason, next_run_at, args::text, catalog_hash FROM mainstay.schedules_view")
          [0] == Lines{"t", "user:1", "moving", "", R"({"new":true})", "one+"});
  std::vector<absl::Time> next = {absl::Now()};
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
    auto times = NextRuns(tx, db.context, "s", 5);
    if (times.ok()) next = *std::move(times);
    return times.status();
  }),
               IsOk());
  CHECK(next.empty());
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return ResumeSchedule(tx, db.context, "s", At("12:45:00")); }),
               IsOk());
  db.Step("12:50:00");
  CHECK(db.Runs() == Lines{"12:50:00 enqueued"});
  // Resuming what runs changes nothing.
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return ResumeSchedule(tx, db.context, "s", At("12:59:00")); }),
               IsOk());
  CHECK(db.Value("next_run_at") == "2020-03-10 13:00:00+00");

  db.declared.schedules[0].paused = true;
  db.Publish();
  db.Step("13:00:00");
  CHECK(Sql(db.url, "SELECT paused, paused_by, paused_reason FROM mainstay.schedules_view")[0] ==
        Lines{"t", "catalog", "the catalog says so"});
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return ResumeSchedule(tx, db.context, "s"); }),
             HasProblem("rule-violation"));
  db.declared.schedules[0].paused = false;
  db.Publish();
  db.Step("13:15:00");
  CHECK(db.Runs().size() == 1);
  CHECK(db.Value("next_run_at") == "2020-03-10 13:20:00+00");
}

TEST_CASE("another cron or zone starts from now; what has gone comes back from now") {
  Db db;
  db.Declare({.cron = "*/10 * * * *", .missed = "all", .overlap = "allow"});
  db.declared.schedules[0].cron = "*/15 * * * *";
  db.Publish();
  db.Step("12:32:00");
  CHECK(db.Runs().empty());
  CHECK(db.Value("next_run_at") == "2020-03-10 12:45:00+00");
  db.declared.schedules[0].zone = "Asia/Kathmandu";  // 5:45 ahead
  db.Publish();
  db.Step("12:46:00");
  CHECK(db.Runs().empty());
  // Other changes leave its position alone.
  db.declared.schedules[0].args = R"({"x":1})";
  db.Publish();
  db.Step("13:00:00");
  CHECK(db.Runs() == Lines{"13:00:00 enqueued"});
  auto kept = db.declared.schedules;
  db.declared.schedules.clear();
  db.Publish();
  db.Step("13:20:00");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.schedules_view") == "0");
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return RunSchedule(tx, db.context, "s").status(); }),
             HasProblem("not-found"));
  db.declared.schedules = kept;
  db.Publish();
  db.Step("14:10:00");
  CHECK(db.Runs() == Lines{"13:00:00 enqueued"});
  CHECK(db.Value("next_run_at") == "2020-03-10 14:15:00+00");
}

TEST_CASE("only the active catalog is copied: a worker that is late leaves the schedules as they are") {
  Db db;
  db.Declare({.cron = "*/10 * * * *"});
  const std::string active(64, 'a');
  Sql(db.url, "INSERT INTO mainstay.catalogs (hash, files, variables, tables, published_by) VALUES ('" + active +
                  "', '[]', '{}', '{}', 'test'); INSERT INTO mainstay.catalog_active (hash, activated_by) VALUES ('" +
                  active + "', 'test')");
  db.declared.schedules[0].cron = "*/20 * * * *";
  db.Publish();
  db.Step("12:10:00");
  CHECK(db.Value("cron") == "*/10 * * * *");
  CHECK(db.Runs() == Lines{"12:10:00 enqueued"});
  db.declared.catalog_hash = active;
  db.Step("12:11:00");
  CHECK(db.Value("cron") == "*/20 * * * *");
  // Not loaded yet is not the same as none declared.
  db.declared = {};
  db.Step("12:12:00");
  CHECK(db.Value("cron") == "*/20 * * * *");
}

TEST_CASE("run now: beside the clock, by name of who asked, also while paused; not while one is unfinished") {
  Db db;
  db.Declare({.args = R"({"at":"{scheduled_at}"})", .cron = "0 0 1 1 *"});
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return PauseSchedule(tx, db.context, "s", "why"); }), IsOk());
  auto run = [&] {
    return db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      auto started = RunSchedule(tx, db.context, "s");
      if (started.ok()) CHECK(started->enqueued.size() == 1);
      return started.status();
    });
  };
  CHECK_THAT(run(), IsOk());
  CHECK(Sql(db.url,
            "SELECT r.outcome, r.by, r.job = j.id, (j.args ->> 'at')::timestamptz = r.fire_at, j.principal ->> "
            "'subject', "
            "r.fire_at > now() - interval '1 minute' FROM mainstay.schedule_runs r, mainstay.jobs j")[0] ==
        Lines{"enqueued", "user:1", "t", "t", "schedule:s", "t"});
  CHECK_THAT(run(), HasProblem("rule-violation"));
  db.FinishJobs();
  CHECK_THAT(run(), IsOk());
  CHECK(Sql(db.url, "SELECT job_state, count(*) FROM mainstay.schedule_runs_view GROUP BY 1 ORDER BY 1")[0] ==
        Lines{"cancelled", "1"});

  db.context.principal.tenant = "globex";
  CHECK_THAT(run(), HasProblem("not-found"));
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return PauseSchedule(tx, db.context, "s", "why"); }),
             HasProblem("not-found"));
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return ResumeSchedule(tx, db.context, "s"); }),
             HasProblem("not-found"));
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return NextRuns(tx, db.context, "s", 1).status(); }),
             HasProblem("not-found"));
  db.context.principal.tenant = "*";
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return NextRuns(tx, db.context, "s", 1).status(); }), IsOk());
}

TEST_CASE("a job that is refused is kept with its reason, and holds up neither its schedule nor the others") {
  Db db;
  db.Declare({.name = "bad", .tenant = std::string(200, 'x'), .cron = "*/10 * * * *"});
  db.Publish();
  db.Declare({.name = "good", .cron = "*/10 * * * *"});
  db.Step("12:10:00");
  CHECK(db.Runs("bad") == Lines{"12:10:00 refused"});
  CHECK(db.Runs("good") == Lines{"12:10:00 enqueued"});
  CHECK(SqlValue(db.url, "SELECT error FROM mainstay.schedule_runs WHERE schedule = 'bad'").find("/tenant") !=
        std::string::npos);
  db.Step("12:20:00");
  CHECK(db.Runs("bad").size() == 2);
}

TEST_CASE("old rows go, the last ten of a schedule stay, and with a dropped schedule all of them") {
  Db db;
  db.Declare({.cron = "* * * * *", .overlap = "skip"});
  db.Publish();
  db.Declare({.name = "gone", .cron = "* * * * *"});
  for (int minute = 1; minute <= 15; ++minute) db.Step(absl::StrCat("12:", minute < 10 ? "0" : "", minute, ":00"));
  CHECK(db.Runs().size() == 15);
  db.declared.schedules.pop_back();
  db.Publish();
  db.Step("12:15:01");
  Sql(db.url, "UPDATE mainstay.schedule_runs SET decided_at = now() - interval '30 days'");
  Scheduler hourly = db.Leader(db.pool);
  CHECK_THAT(hourly.Step(At("12:15:02")), IsOk());
  CHECK(db.Runs().size() == 10);
  CHECK(db.Runs().front() == "12:06:00 overlap");
  CHECK(db.Runs("gone").empty());
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.schedules") == "1");
  // Nothing runs again for it.
  CHECK_THAT(hourly.Step(At("12:15:03")), IsOk());
  CHECK(db.Runs().size() == 10);
}

TEST_CASE("between fire times a leader asks nothing of PostgreSQL") {
  Db db;
  Scheduler leader({.declared = [&] { return db.declared; }}, db.pool);
  db.declared.schedules.push_back({.name = "s", .tenant = "acme", .kind = "a.b", .cron = "0 0 1 1 *"});
  REQUIRE_THAT(leader.Step(), IsOk());
  const absl::Time wake = leader.wake();
  CHECK(wake > Mono() + absl::Seconds(3));
  Sql(db.url, "DROP TABLE mainstay.schedules CASCADE");  // whoever asks now, fails
  CHECK_THAT(leader.Step(), IsOk());
  CHECK(leader.wake() == wake);
}

}  // namespace
}  // namespace mainstay::jobs
