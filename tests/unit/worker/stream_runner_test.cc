// SPDX-License-Identifier: Apache-2.0
// Who may have which job at the ends of streams, without gRPC and a database: the engine and the streams are fakes that
// write down what they are told.
#include "services/worker/stream_runner.h"

#include <catch2/catch.hpp>

#include "absl/time/clock.h"
#include "libs/base/strings.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;
using jobs::Finished;
using jobs::InHandPtr;
using jobs::Outcome;

class FakeHost : public jobs::RunnerHost {
 public:
  void Finish(std::vector<Finished> runs) override {
    absl::MutexLock lock(&mu);
    for (Finished& run : runs) finished.push_back(std::move(run));
  }
  void Wake() override { ++wakes; }
  void Store(InHandPtr job, Note note, std::string json, std::function<void(absl::Status)> done) override {
    absl::MutexLock lock(&mu);
    notes.push_back({std::move(job), note, std::move(json), std::move(done)});
  }
  absl::StatusOr<Adopted> Adopt(const jobs::Runner&, const std::vector<std::pair<Uuid, int64_t>>& jobs) override {
    asked = jobs;
    return adopted;
  }
  size_t count() {
    absl::MutexLock lock(&mu);
    return finished.size();
  }

  struct StoredNote {
    InHandPtr job;
    Note note;
    std::string json;
    std::function<void(absl::Status)> done;
  };
  absl::Mutex mu;
  std::vector<Finished> finished;
  std::vector<StoredNote> notes;
  std::vector<std::pair<Uuid, int64_t>> asked;
  Adopted adopted;
  std::atomic<int> wakes{0};
};

// A worker that reads at once, unless it is deaf.
class FakeLink : public StreamLink {
 public:
  void Opened(const StreamRunner::SessionPtr& s) override { session = s; }
  void Write(pb::ServerMessage message) override {
    written.push_back(std::move(message));
    ++unread;
    Read();
  }
  void End(absl::Status s) override { ended = std::move(s); }
  void ReadOn() override { ++read_on; }
  void Read() {
    while (!deaf && session != nullptr && unread > 0) {
      --unread;
      runner->Written(session);
    }
  }
  std::vector<pb::WorkJob> Jobs() const {
    std::vector<pb::WorkJob> jobs;
    for (const auto& message : written) {
      if (message.has_job()) jobs.push_back(message.job());
    }
    return jobs;
  }
  const pb::ServerMessage& last() const { return written.back(); }

  StreamRunner* runner = nullptr;
  bool deaf = false;
  int unread = 0, read_on = 0;
  std::vector<pb::ServerMessage> written;
  StreamRunner::SessionPtr session;
  std::optional<absl::Status> ended;
};

InHandPtr NewJob(const std::string& kind, const std::string& tenant = "acme", int version = 0) {
  auto job = std::make_shared<jobs::InHand>();
  job->id = NewUuid();
  job->fence = 3;
  job->kind = kind;
  job->version = version;
  job->tenant = tenant;
  job->args = "{}";
  job->soft_limit = job->hard_limit = absl::Minutes(30);
  job->taken = jobs::Mono();
  return job;
}

class World {
 public:
  explicit World(absl::Duration lease = absl::Minutes(5))
      : runner({.server = "test",
                .receipt_key = "key",
                .heartbeat = lease / 3,
                .lease = lease,
                .reserved = {"mainstay.noop"}}) {
    CHECK(runner.Start(host).ok());
  }
  std::shared_ptr<FakeLink> Connect(pb::WorkerHello hello, const std::string& tenant = "*", bool deaf = false) {
    auto link = std::make_shared<FakeLink>();
    link->runner = &runner;
    link->deaf = deaf;
    runner.Open(link, {.tenant = tenant, .subject = "key_1", .roles = {}}, hello);
    return link;
  }
  static pb::WorkerHello Hello(int credits, const std::vector<std::string>& kinds = {"mail.send"}) {
    pb::WorkerHello hello;
    hello.set_name("w");
    hello.set_credits(credits);
    for (const auto& kind : kinds) hello.add_kinds()->set_kind(kind);
    return hello;
  }
  InHandPtr Give(const std::string& kind = "mail.send", const std::string& tenant = "acme") {
    InHandPtr job = NewJob(kind, tenant);
    runner.Give({job});
    return job;
  }
  void Result(FakeLink& link, const jobs::InHand& job, const std::function<void(pb::WorkerResult*)>& how) {
    pb::WorkerMessage message;
    message.mutable_result()->set_id(FormatId("job", job.id));
    message.mutable_result()->set_fence(job.fence);
    how(message.mutable_result());
    runner.Received(link.session, message);
  }
  void Done(FakeLink& link, const jobs::InHand& job) {
    Result(link, job, [](pb::WorkerResult* r) { r->mutable_done(); });
  }

  FakeHost host;
  StreamRunner runner;
};

TEST_CASE("jobs go to those who announced their kind and have credit, and to no one else") {
  World world;
  const auto a = world.Connect(World::Hello(1)), b = world.Connect(World::Hello(2, {"mail.send", "sms.send"}));
  CHECK(world.runner.Credit() == 3);
  CHECK(world.runner.CreditFor("mail.send") == 3);
  CHECK(world.runner.CreditFor("sms.send") == 2);
  CHECK(world.runner.CreditFor("fax.send") == 0);
  CHECK(world.runner.routes() == std::vector<std::string>{"mail.send", "sms.send"});
  world.Give("sms.send");
  CHECK(a->Jobs().empty());
  CHECK(b->Jobs().size() == 1);
  world.Give();
  const InHandPtr last = world.Give();
  CHECK(a->Jobs().size() + b->Jobs().size() == 3);
  CHECK(world.runner.Credit() == 0);
  const InHandPtr waits = world.Give();
  CHECK(a->Jobs().size() + b->Jobs().size() == 3);
  FakeLink& holder = a->Jobs().size() == 1 && a->Jobs()[0].id() == FormatId("job", last->id) ? *a : *b;
  world.Done(holder, *last);
  CHECK(holder.Jobs().back().id() == FormatId("job", waits->id));
  world.Give("fax.send");
  CHECK(world.host.finished.back().how == Finished::How::kElsewhere);
}

TEST_CASE("a key of one tenant gets that tenant's jobs") {
  World world;
  const auto globex = world.Connect(World::Hello(5), "globex");
  world.Give("mail.send", "acme");
  CHECK(globex->Jobs().empty());
  REQUIRE(world.host.finished.size() == 1);
  CHECK(world.host.finished[0].how == Finished::How::kElsewhere);
  const auto acme = world.Connect(World::Hello(1), "acme");
  world.Give("mail.send", "acme");
  const InHandPtr waits = world.Give("mail.send", "acme");  // has no credit left, though globex has
  CHECK(acme->Jobs().size() == 1);
  CHECK(globex->Jobs().empty());
  world.Give("mail.send", "globex");
  CHECK(globex->Jobs().size() == 1);
}

TEST_CASE("a worker that does not read is given one job, whatever its credit") {
  World world;
  const auto deaf = world.Connect(World::Hello(10));
  deaf->deaf = true;
  for (int i = 0; i < 5; ++i) world.Give();
  CHECK(deaf->Jobs().size() == 1);
  const auto other = world.Connect(World::Hello(10));
  CHECK(other->Jobs().size() == 4);
  deaf->deaf = false;
  deaf->Read();
  world.Give();
  CHECK(deaf->Jobs().size() + other->Jobs().size() == 6);
}

TEST_CASE("of a worker that talks and does not read nothing more is read, until it does") {
  World world;
  const auto link = world.Connect(World::Hello(1));
  const InHandPtr job = world.Give();
  world.Done(*link, *job);
  world.runner.Stored({{job, true}});
  link->deaf = true;
  pb::WorkerMessage again;  // each is acknowledged
  again.mutable_result()->set_id(FormatId("job", job->id));
  again.mutable_result()->set_fence(job->fence);
  again.mutable_result()->mutable_done();
  int said = 1;
  while (world.runner.Received(link->session, again)) REQUIRE(++said < 1000);
  CHECK(said < 100);
  CHECK(link->read_on == 0);
  link->deaf = false;
  link->Read();
  CHECK(link->read_on == 1);
}

TEST_CASE("a result is acknowledged when it is stored, and said again accepted once") {
  World world;
  const auto link = world.Connect(World::Hello(1));
  const InHandPtr job = world.Give();
  world.Done(*link, *job);
  world.Done(*link, *job);  // on its way
  REQUIRE(world.host.finished.size() == 1);
  CHECK(link->last().has_job());
  world.runner.Stored({{job, true}});
  REQUIRE(link->last().has_ack());
  CHECK(link->last().ack().id() == FormatId("job", job->id));
  const size_t messages = link->written.size();
  world.Done(*link, *job);
  CHECK(link->written.size() == messages + 1);
  CHECK(link->last().has_ack());
  CHECK(world.host.finished.size() == 1);
}

TEST_CASE("a result whose fence had been raised is answered fenced") {
  World world;
  const auto link = world.Connect(World::Hello(1));
  const InHandPtr job = world.Give();
  world.Done(*link, *job);
  world.runner.Stored({{job, false}});
  CHECK(link->last().has_fenced());
}

TEST_CASE("a result waits for the checkpoint before it, and progress keeps only the latest") {
  World world;
  const auto link = world.Connect(World::Hello(1));
  const InHandPtr job = world.Give();
  pb::WorkerMessage message;
  auto* checkpoint = message.mutable_checkpoint();
  checkpoint->set_id(FormatId("job", job->id));
  checkpoint->set_fence(job->fence);
  for (int n = 1; n <= 3; ++n) {
    checkpoint->set_json(StrCat("{\"n\":", n, "}"));
    checkpoint->set_number(n);
    world.runner.Received(link->session, message);
  }
  REQUIRE(world.host.notes.size() == 1);
  world.Result(*link, *job, [](pb::WorkerResult* r) { r->mutable_retry()->set_code("later"); });
  CHECK(world.host.finished.empty());
  auto first = world.host.notes[0];
  CHECK(first.json == "{\"n\":1}");
  first.done(absl::OkStatus());
  CHECK(link->last().ack().checkpoint() == 1);
  REQUIRE(world.host.notes.size() == 2);
  CHECK(world.host.notes[1].json == "{\"n\":3}");
  CHECK(world.host.finished.empty());
  auto second = world.host.notes[1];
  second.done(absl::OkStatus());
  CHECK(link->last().ack().checkpoint() == 3);
  REQUIRE(world.host.finished.size() == 1);
  CHECK(world.host.finished[0].outcome.code == "later");
}

TEST_CASE("a job that was taken away keeps its credit until its handler has ended; the third closes the stream") {
  World world;
  const auto link = world.Connect(World::Hello(4));
  std::vector<InHandPtr> jobs;
  for (int i = 0; i < 4; ++i) jobs.push_back(world.Give());
  world.runner.Kill(jobs[0], Outcome::Retry("hard_limit", ""));
  CHECK(link->last().has_fenced());
  CHECK(world.host.finished.back().outcome.code == "hard_limit");
  CHECK(world.runner.Credit() == 0);
  world.Done(*link, *jobs[0]);
  CHECK(world.runner.Credit() == 1);
  CHECK(world.host.finished.size() == 1);
  world.runner.Kill(jobs[1], Outcome::Retry("hard_limit", ""));
  CHECK_FALSE(link->ended.has_value());
  world.runner.Kill(jobs[2], Outcome::Retry("hard_limit", ""));
  REQUIRE(link->ended.has_value());
  CHECK(absl::IsFailedPrecondition(*link->ended));
  CHECK(world.host.finished.back().how == Finished::How::kReturned);
  CHECK(world.host.finished.back().job == jobs[3]);
}

TEST_CASE("a worker that comes back has its jobs; what it does not know of is handed out anew at no cost") {
  World world;
  const auto link = world.Connect(World::Hello(2));
  const InHandPtr kept = world.Give(), unknown = world.Give();
  const std::string session = link->written[0].welcome().session();
  world.runner.Gone(link->session);
  CHECK(world.host.finished.empty());
  pb::WorkerHello hello = World::Hello(2);
  hello.set_session(session);
  auto* held = hello.add_held();
  held->set_id(FormatId("job", kept->id));
  held->set_fence(kept->fence);
  held->set_receipt(link->Jobs()[0].receipt());
  const auto back = world.Connect(hello);
  REQUIRE(back->written[0].welcome().held_size() == 1);
  CHECK(back->written[0].welcome().held(0).fence() == kept->fence);
  REQUIRE(world.host.finished.size() == 1);
  CHECK(world.host.finished[0].job == unknown);
  CHECK(world.host.finished[0].how == Finished::How::kReturned);
  CHECK(world.runner.Credit() == 1);
  world.Done(*back, *kept);
  CHECK(world.host.finished.size() == 2);
}

TEST_CASE("jobs that another server gave out are looked up, and go on under the fence that this gives") {
  World world;
  World other;
  const auto there = other.Connect(World::Hello(1));
  const InHandPtr job = other.Give();
  pb::WorkerHello hello = World::Hello(1);
  auto* held = hello.add_held();
  held->set_id(FormatId("job", job->id));
  held->set_fence(job->fence);
  held->set_receipt(there->Jobs()[0].receipt());
  const InHandPtr moved = NewJob("mail.send");
  moved->id = job->id;
  moved->fence = job->fence + 1;
  world.host.adopted.jobs = {moved};
  const auto here = world.Connect(hello);
  CHECK(world.host.asked == std::vector<std::pair<Uuid, int64_t>>{{job->id, job->fence}});
  CHECK(here->written[0].welcome().held(0).fence() == moved->fence);
  CHECK(world.runner.Credit() == 0);
  world.Done(*here, *moved);
  CHECK(world.host.finished.size() == 1);

  SECTION("a receipt does not fit another fence or job") {
    held->set_fence(job->fence + 1);
    CHECK(world.Connect(hello)->written[0].error().field() == "hello.held[0].receipt");
    held->set_fence(job->fence);
    held->set_id(NewId("job"));
    CHECK(world.Connect(hello)->written[0].error().field() == "hello.held[0].receipt");
  }
}

TEST_CASE("silence for a lease loses the jobs, connected or not; a lone job is told apart") {
  World world(absl::Milliseconds(300));
  const auto cut = world.Connect(World::Hello(1));
  world.Give();
  world.runner.Gone(cut->session);
  const auto silent = world.Connect(World::Hello(2, {"sms.send"}));
  world.Give("sms.send");
  world.Give("sms.send");
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (world.host.count() < 3 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(20));
  REQUIRE(world.host.count() == 3);
  absl::MutexLock lock(&world.host.mu);
  for (const Finished& f : world.host.finished) {
    CHECK(f.how == Finished::How::kLost);
    CHECK(f.alone == (f.job->kind == "mail.send"));
  }
  CHECK(absl::IsDeadlineExceeded(*silent->ended));
}

TEST_CASE("a goodbye gives everything back and ends once what was reported is stored") {
  World world;
  const auto link = world.Connect(World::Hello(2));
  const InHandPtr reported = world.Give(), held = world.Give();
  world.Done(*link, *reported);
  pb::WorkerMessage goodbye;
  goodbye.mutable_goodbye();
  world.runner.Received(link->session, goodbye);
  CHECK(world.host.finished.back().job == held);
  CHECK(world.host.finished.back().how == Finished::How::kReturned);
  CHECK_FALSE(link->ended.has_value());
  world.runner.Stored({{reported, true}});
  CHECK(link->last().has_ack());
  REQUIRE(link->ended.has_value());
  CHECK(link->ended->ok());
}

TEST_CASE("a drain tells the workers to go, takes no more, and leaves their jobs to them") {
  World world;
  const auto link = world.Connect(World::Hello(2));
  const InHandPtr job = world.Give();
  world.runner.Recall();
  CHECK(link->last().has_goaway());
  CHECK(world.runner.Credit() == 0);
  world.Give();
  CHECK(world.host.finished.back().how == Finished::How::kUnstarted);
  CHECK(absl::IsUnavailable(*world.Connect(World::Hello(1))->ended));
  CHECK(world.runner.Stop());
  CHECK(world.host.finished.back().job == job);
  CHECK(world.host.finished.back().how == Finished::How::kLeft);
  world.runner.Close();
  CHECK(absl::IsUnavailable(*link->ended));
}

TEST_CASE("what the suite runs itself cannot be announced, and a schema only by a key for all tenants") {
  World world;
  const auto taken = world.Connect(World::Hello(1, {"mail.send", "mainstay.noop"}));
  CHECK(taken->written[0].error().field() == "hello.kinds[1].kind");
  CHECK(absl::IsInvalidArgument(*taken->ended));
  pb::WorkerHello hello = World::Hello(1);
  hello.mutable_kinds(0)->set_schema_json("{}");
  CHECK(world.Connect(hello, "acme")->written[0].error().field() == "hello.kinds[0].schema_json");
  CHECK(world.Connect(hello, "*")->written[0].has_welcome());
}

TEST_CASE("how a handler was cancelled decides what it costs") {
  World world;
  const auto link = world.Connect(World::Hello(3));
  const auto cancelled = [](pb::WorkerResult* r) { r->mutable_cancelled(); };
  const InHandPtr late = world.Give(), given_back = world.Give(), ending = world.Give();
  late->stop = jobs::Stop::kSoftLimit;
  world.runner.Tell(late);
  CHECK(link->last().has_cancel());
  world.Result(*link, *late, cancelled);
  CHECK(world.host.finished.back().outcome.code == "soft_limit");
  world.Result(*link, *given_back, cancelled);
  CHECK(world.host.finished.back().how == Finished::How::kElsewhere);
  CHECK(link->last().has_ack());
  pb::WorkerMessage none;
  none.mutable_credit()->set_credits(0);
  world.runner.Received(link->session, none);
  world.Result(*link, *ending, cancelled);
  CHECK(world.host.finished.back().how == Finished::How::kReturned);
}

}  // namespace
}  // namespace mainstay::worker
