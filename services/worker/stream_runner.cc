// SPDX-License-Identifier: Apache-2.0
#include "services/worker/stream_runner.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <cmath>

#include "absl/time/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/running.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"
#include "libs/telemetry/trace.h"
#include "prometheus/gauge.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;
using google::protobuf::util::TimeUtil;
using jobs::Finished;
using jobs::InHandPtr;
using jobs::Mono;
using jobs::Outcome;

constexpr size_t kMaxFrame = 512 << 10, kMaxText = 200, kMaxKinds = 200, kMaxHeld = 4000, kMaxLogLine = 4 << 10,
                 kMaxCounters = 50, kMaxResult = 64 << 10;
constexpr size_t kMaxUnread = 64;  // messages for a worker that does not read, beside its jobs
constexpr size_t kMaxSettled = 4096, kMaxListed = 200, kMaxListedJobs = 20;
constexpr int kMaxMistakes = 20;
constexpr double kLogsPerSecond = 100;
constexpr char kLateReason[] = "cancelled, or handed to another worker";

google::protobuf::Duration ToProto(absl::Duration duration) {
  return TimeUtil::MicrosecondsToDuration(absl::ToInt64Microseconds(duration));
}
absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

bool IsText(std::string_view text, size_t min, size_t max) {
  return text.size() >= min && text.size() <= max && text.find('\0') == std::string_view::npos;
}

prometheus::Gauge& Streams() {
  static prometheus::Gauge& gauge = metrics::Gauge("mainstay_work_streams", "Workers outside the suite, connected");
  return gauge;
}

}  // namespace

// ---- what a call does once the lock is gone ----

class StreamRunner::Actions {
 public:
  // `quiet`: the engine is giving jobs, and knows who has credit.
  explicit Actions(jobs::RunnerHost* host, bool quiet = false) : host_(host), quiet_(quiet) {}
  Actions(const Actions&) = delete;
  ~Actions() {
    for (auto& action : later_) action();
    if (host_ == nullptr) return;
    const bool finished = !finished_.empty();
    if (finished) host_->Finish(std::move(finished_));
    if ((finished || wake_) && !quiet_) host_->Wake();
  }
  void Later(std::function<void()> action) { later_.push_back(std::move(action)); }
  void Finish(Finished finished) { finished_.push_back(std::move(finished)); }
  void Wake() { wake_ = true; }

 private:
  jobs::RunnerHost* const host_;
  const bool quiet_;
  std::vector<std::function<void()>> later_;
  std::vector<Finished> finished_;
  bool wake_ = false;
};

struct StreamRunner::Held {
  InHandPtr job;
  // One note at a time is with the engine; of what comes meanwhile the latest counts, and a result waits for it.
  bool noting = false;
  std::optional<std::string> progress;
  std::optional<std::pair<std::string, int64_t>> checkpoint;
  std::optional<Finished> result;
};

struct StreamSession {
  // Constant.
  std::string name, language, version, tenant, subject, token;
  std::vector<std::string> routes;
  absl::Time since;

  std::shared_ptr<StreamLink> link;  // null: disconnected
  int credits = 0, counted = 0;      // `counted`: in free_ and in its routes
  std::map<Uuid, StreamRunner::Held> held;
  std::map<Uuid, int64_t> ghosts;  // taken from it, but their handlers are not known to have stopped: they use credit
  std::deque<pb::ServerMessage> out;
  bool writing = false, paused = false, leaving = false;
  std::optional<absl::Status> closing;
  int reporting = 0;  // its results on their way to the database
  int mistakes = 0, overruns = 0;
  size_t next_route = 0;
  absl::Time heard;
  double log_lines = kLogsPerSecond;
  absl::Time log_at;
  int64_t dropped_logs = 0;
};

StreamRunner::StreamRunner(StreamRunnerOptions options) : options_(std::move(options)) {}

StreamRunner::~StreamRunner() {
  {
    absl::MutexLock lock(&mu_);
    ending_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

absl::Status StreamRunner::Start(jobs::RunnerHost& host) {
  host_ = &host;
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

std::vector<std::string> StreamRunner::routes() const {
  absl::MutexLock lock(&mu_);
  std::vector<std::string> out;
  for (const auto& [name, route] : routes_) {
    if (!route.sessions.empty()) out.push_back(name);
  }
  return out;
}

int StreamRunner::CreditFor(std::string_view route) const {
  absl::MutexLock lock(&mu_);
  const auto it = routes_.find(route);
  return it == routes_.end() ? 0 : std::max(0, it->second.free - static_cast<int>(it->second.waiting.size()));
}

std::string StreamRunner::Receipt(const Uuid& id, int64_t fence) const {
  return HmacSha256(options_.receipt_key, StrCat("work ", id.ToString(), " ", fence)).substr(0, 16);
}

// ---- writing ----

void StreamRunner::Post(Session& session, pb::ServerMessage message, Actions& actions) {
  if (session.link == nullptr || session.closing.has_value()) return;
  session.out.push_back(std::move(message));
  Flush(session, actions);
}

void StreamRunner::Flush(Session& session, Actions& actions) {
  if (session.link == nullptr || session.writing || session.out.empty()) return;
  session.writing = true;
  actions.Later(
      [link = session.link, message = std::move(session.out.front())]() mutable { link->Write(std::move(message)); });
  session.out.pop_front();
}

void StreamRunner::Written(const SessionPtr& session) {
  Actions actions(host_);
  absl::MutexLock lock(&mu_);
  session->writing = false;
  Flush(*session, actions);
  DeliverTo(*session, actions);
  if (session->paused && session->out.size() < kMaxUnread / 4 && session->link != nullptr) {
    session->paused = false;
    actions.Later([link = session->link] { link->ReadOn(); });
  }
  EndIfDone(*session, actions);
}

// The end comes after what was said; a worker that does not read it is cut off by the clock.
void StreamRunner::End(Session& session, absl::Status status, Actions& actions) {
  if (session.link == nullptr || session.closing.has_value()) return;
  session.closing = std::move(status);
  session.heard = Mono();
  Recount(session);
  EndIfDone(session, actions);
}

void StreamRunner::EndIfDone(Session& session, Actions& actions) {
  if (session.link == nullptr) return;
  if (session.leaving && !session.closing.has_value() && session.reporting == 0) session.closing = absl::OkStatus();
  if (!session.closing.has_value() || session.writing || !session.out.empty()) return;
  actions.Later([link = session.link, status = *session.closing] { link->End(status); });
  Disconnect(session, actions);
}

void StreamRunner::Refuse(Session& session, std::string field, std::string message, const std::string& id,
                          Actions& actions) {
  pb::ServerMessage out;
  out.mutable_error()->set_field(field);
  out.mutable_error()->set_message(message);
  if (ParseId("job", id).ok()) out.mutable_error()->set_id(id);
  Post(session, std::move(out), actions);
  if (++session.mistakes > kMaxMistakes)
    End(session, absl::InvalidArgumentError(StrCat("too many mistakes, the last one: ", field, ": ", message)),
        actions);
}

void StreamRunner::Fence(Session& session, const Uuid& id, int64_t fence, const std::string& reason, Actions& actions) {
  pb::ServerMessage out;
  out.mutable_fenced()->set_id(FormatId("job", id));
  out.mutable_fenced()->set_fence(fence);
  out.mutable_fenced()->set_reason(reason);
  Post(session, std::move(out), actions);
}

void StreamRunner::Acknowledge(Session& session, const Uuid& id, int64_t fence, int64_t checkpoint, Actions& actions) {
  pb::ServerMessage out;
  out.mutable_ack()->set_id(FormatId("job", id));
  out.mutable_ack()->set_fence(fence);
  out.mutable_ack()->set_checkpoint(checkpoint);
  Post(session, std::move(out), actions);
}

// ---- who may have which job ----

void StreamRunner::Recount(Session& session) {
  const bool open = session.link != nullptr && !session.leaving && !session.closing.has_value() && !recalled_;
  const int used = static_cast<int>(session.held.size() + session.ghosts.size());
  const int free = open ? std::max(0, session.credits - used) : 0;
  if (free != session.counted) {
    for (const std::string& route : session.routes) routes_[route].free += free - session.counted;
    free_ += free - session.counted;
    session.counted = free;
  }
  const int room = options_.max_jobs - static_cast<int>(holder_.size());
  credit_.store(std::max(0, std::min(free_, room) - waiting_), std::memory_order_relaxed);
}

bool StreamRunner::Deliverable(const Session& session, const jobs::InHand& job) const {
  return session.counted > 0 && !session.writing && session.out.empty() &&
         (session.tenant == kAllTenants || session.tenant == job.tenant);
}

pb::ServerMessage StreamRunner::JobMessage(jobs::InHand& job) const {
  pb::ServerMessage message;
  pb::WorkJob& out = *message.mutable_job();
  out.set_id(FormatId("job", job.id));
  out.set_fence(job.fence);
  out.set_kind(job.kind);
  out.set_version(job.version);
  out.set_queue(job.queue);
  out.set_args_json(std::move(job.args));
  job.args.clear();  // the row has them, if it must be handed out anew
  out.set_attempt(job.attempt + 1);
  out.set_max_attempts(job.max_attempts);
  *out.mutable_soft_limit() = ToProto(job.soft_limit);
  *out.mutable_hard_limit() = ToProto(job.hard_limit);
  *out.mutable_deadline() = TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(absl::Now() + job.soft_limit));
  out.set_checkpoint_json(std::move(job.checkpoint));
  job.checkpoint.clear();
  out.set_traceparent(trace::Child(job.traceparent).Traceparent());
  out.set_request_id(job.request_id);
  out.set_tenant(job.tenant);
  out.set_receipt(Receipt(job.id, job.fence));
  return message;
}

void StreamRunner::Hold(Session& session, InHandPtr job) {
  const Uuid id = job->id;
  holder_[id] = &session;
  session.held[id].job = std::move(job);
}

std::optional<StreamRunner::Held> StreamRunner::Take(Session& session, const Uuid& id) {
  const auto it = session.held.find(id);
  if (it == session.held.end()) return std::nullopt;
  Held held = std::move(it->second);
  session.held.erase(it);
  holder_.erase(id);
  Recount(session);
  return held;
}

void StreamRunner::Deliver(Session& session, InHandPtr job, Actions& actions) {
  job->started_us = std::max<int64_t>(1, jobs::MonoMicros());
  pb::ServerMessage message = JobMessage(*job);
  Hold(session, std::move(job));
  Recount(session);
  Post(session, std::move(message), actions);
}

// The longest-waiting job of its kinds in turn, if it may have one now.
void StreamRunner::DeliverTo(Session& session, Actions& actions) {
  for (size_t i = 0; i < session.routes.size() && session.counted > 0 && waiting_ > 0; ++i) {
    Route& route = routes_[session.routes[session.next_route++ % session.routes.size()]];
    const auto job = std::ranges::find_if(route.waiting, [&](const InHandPtr& j) { return Deliverable(session, *j); });
    if (job == route.waiting.end()) continue;
    InHandPtr taken = std::move(*job);
    route.waiting.erase(job);
    --waiting_;
    Deliver(session, std::move(taken), actions);
    return;  // the next one when this one is written
  }
}

void StreamRunner::Give(std::vector<InHandPtr> jobs) {
  Actions actions(host_, /*quiet=*/true);
  absl::MutexLock lock(&mu_);
  for (InHandPtr& job : jobs) {
    const auto found = routes_.find(jobs::Route(job->kind, job->version));
    Route* route = found == routes_.end() ? nullptr : &found->second;
    if (recalled_ || route == nullptr) {
      actions.Finish({std::move(job), Outcome(), recalled_ ? Finished::How::kUnstarted : Finished::How::kElsewhere});
      continue;
    }
    bool may = false;
    Session* to = nullptr;
    const size_t count = route->sessions.size();
    for (size_t i = 0; i < count && to == nullptr; ++i) {
      Session* session = route->sessions[(route->next + i) % count];
      may = may || session->tenant == kAllTenants || session->tenant == job->tenant;
      if (Deliverable(*session, *job)) {
        to = session;
        route->next += i + 1;
      }
    }
    if (to != nullptr) {
      Deliver(*to, std::move(job), actions);
    } else if (!may) {  // only workers of other tenants are here
      actions.Finish({std::move(job), Outcome(), Finished::How::kElsewhere});
    } else {
      route->waiting.push_back(std::move(job));
      ++waiting_;
    }
  }
  // Those that were written to meanwhile have nothing more to wait for.
  const int room = options_.max_jobs - static_cast<int>(holder_.size());
  credit_.store(std::max(0, std::min(free_, room) - waiting_), std::memory_order_relaxed);
}

// ---- a stream begins ----

std::optional<StreamRunner::Mistake> StreamRunner::Check(const pb::WorkerHello& hello,
                                                         const Principal& principal) const {
  if (!IsText(hello.name(), 1, kMaxText)) return Mistake{"hello.name", "expected 1 to 200 bytes of text"};
  if (!IsText(hello.language(), 0, kMaxText)) return Mistake{"hello.language", "expected at most 200 bytes of text"};
  if (!IsText(hello.version(), 0, kMaxText)) return Mistake{"hello.version", "expected at most 200 bytes of text"};
  if (hello.kinds_size() == 0 || hello.kinds_size() > static_cast<int>(kMaxKinds))
    return Mistake{"hello.kinds", StrCat("expected 1 to ", kMaxKinds, " kinds")};
  std::set<std::string> seen;
  for (int i = 0; i < hello.kinds_size(); ++i) {
    const pb::WorkerKind& kind = hello.kinds(i);
    const std::string at = StrCat("hello.kinds[", i, "]");
    if (!jobs::IsKind(kind.kind())) return Mistake{at + ".kind", jobs::kKindForm};
    if (kind.version() < 0 || kind.version() > 32767) return Mistake{at + ".version", "expected 0 to 32767"};
    const std::string route = jobs::Route(kind.kind(), kind.version());
    if (options_.reserved.contains(route))
      return Mistake{at + ".kind", StrCat("\"", route, "\" is run by the suite itself")};
    if (!seen.insert(route).second) return Mistake{at + ".kind", StrCat("\"", route, "\" is there twice")};
    if (!kind.schema_json().empty() && principal.tenant != kAllTenants)
      return Mistake{at + ".schema_json", "a schema counts for every tenant: it takes an API key for all (*)"};
  }
  if (hello.credits() < 0 || hello.credits() > options_.max_credits)
    return Mistake{"hello.credits", StrCat("expected 0 to ", options_.max_credits)};
  if (hello.held_size() > static_cast<int>(kMaxHeld))
    return Mistake{"hello.held", StrCat("expected at most ", kMaxHeld)};
  for (int i = 0; i < hello.held_size(); ++i) {
    const pb::HeldJob& held = hello.held(i);
    const std::string at = StrCat("hello.held[", i, "]");
    const auto id = ParseId("job", held.id());
    if (!id.ok()) return Mistake{at + ".id", std::string(id.status().message())};
    if (!ConstantTimeEquals(held.receipt(), Receipt(*id, held.fence())))
      return Mistake{at + ".receipt", "this job was not given out under that fence with that receipt"};
  }
  return std::nullopt;
}

bool StreamRunner::Open(const std::shared_ptr<StreamLink>& link, const Principal& principal,
                        const pb::WorkerHello& hello) {
  auto refuse = [&](const Mistake& mistake, absl::Status status) {
    pb::ServerMessage out;
    out.mutable_error()->set_field(mistake.field);
    out.mutable_error()->set_message(mistake.message);
    link->Write(std::move(out));
    link->End(std::move(status));
    return false;
  };
  auto invalid = [&](const Mistake& mistake) {
    return refuse(mistake, absl::InvalidArgumentError(StrCat(mistake.field, ": ", mistake.message)));
  };
  if (const auto mistake = Check(hello, principal)) return invalid(*mistake);
  absl::Status closed;
  {
    absl::MutexLock lock(&mu_);
    if (recalled_ || host_ == nullptr)
      closed = absl::UnavailableError("this server takes no workers now; try another, or again");
    if (connected_ >= options_.max_streams)
      closed = absl::ResourceExhaustedError(StrCat("there are ", connected_, " workers here already"));
  }
  if (!closed.ok()) {
    link->End(std::move(closed));
    return false;
  }
  if (options_.announce && principal.tenant == kAllTenants) {
    std::vector<jobs::KindSpec> kinds;
    for (const pb::WorkerKind& kind : hello.kinds())
      kinds.push_back({.kind = kind.kind(), .version = kind.version(), .schema = kind.schema_json()});
    if (const absl::Status status = options_.announce(hello.name(), kinds); !status.ok()) {
      if (absl::IsInvalidArgument(status)) return invalid({"hello.kinds", std::string(status.message())});
      return refuse({"", "the kinds could not be announced; try again"},
                    absl::UnavailableError("the kinds could not be announced"));
    }
  }

  auto session = std::make_shared<Session>();
  session->name = hello.name();
  session->language = hello.language();
  session->version = hello.version();
  session->tenant = principal.tenant;
  session->subject = principal.subject;
  session->token = RandomBytes(16);
  session->since = absl::Now();
  session->heard = session->log_at = Mono();
  session->credits = hello.credits();
  for (const pb::WorkerKind& kind : hello.kinds()) session->routes.push_back(jobs::Route(kind.kind(), kind.version()));

  // What this process knows of its jobs; of the others PostgreSQL does.
  std::vector<std::pair<Uuid, int64_t>> unknown;
  pb::ServerMessage message;
  pb::WorkWelcome& welcome = *message.mutable_welcome();
  auto resumed = [&](const Uuid& id, int64_t fence) {
    pb::ResumedJob& out = *welcome.add_held();
    out.set_id(FormatId("job", id));
    out.set_fence(fence);
    out.set_receipt(Receipt(id, fence));
  };
  {
    Actions actions(host_);
    absl::MutexLock lock(&mu_);
    // The stream before this one, if it was here.
    SessionPtr old;
    if (const auto it = by_token_.find(hello.session()); it != by_token_.end()) old = sessions_.at(it->second);
    if (old != nullptr) session->overruns = old->overruns;
    for (const pb::HeldJob& held : hello.held()) {
      const Uuid id = *ParseId("job", held.id());
      if (const auto holder = holder_.find(id); holder != holder_.end()) {
        Session& before = *holder->second;
        const auto it = before.held.find(id);
        if (it->second.job->fence != held.fence()) continue;  // handed to another worker here
        Held moved = std::move(it->second);
        before.held.erase(it);
        Recount(before);
        holder_[id] = session.get();
        session->held[id] = std::move(moved);
        resumed(id, held.fence());
        if (before.link == nullptr) Disconnect(before, actions);
      } else if (const auto reported = reported_.find(id);
                 reported != reported_.end() && reported->second.fence == held.fence()) {
        --reported->second.session->reporting;
        reported->second.session = session;
        ++session->reporting;
        resumed(id, held.fence());
      } else if (const auto settled = settled_.find({id, held.fence()}); settled != settled_.end()) {
        if (settled->second.stored) welcome.add_stored(held.id());
      } else {
        unknown.emplace_back(id, held.fence());
      }
    }
    if (old != nullptr) {  // what it was given and this one does not have never arrived
      ReleaseAll(*old, Finished::How::kReturned, "", actions);
      End(*old, absl::CancelledError("this worker has opened another stream"), actions);
    }
    // Its jobs are its own from here on, connected or not.
    sessions_[session.get()] = session;
    by_token_[session->token] = session.get();
  }
  const absl::StatusOr<jobs::RunnerHost::Adopted> adopted = host_->Adopt(*this, unknown);
  if (!adopted.ok()) {
    {
      Actions actions(host_);
      absl::MutexLock lock(&mu_);
      Disconnect(*session, actions);
    }
    return refuse({"", "the jobs it holds could not be looked up; try again"},
                  absl::UnavailableError("the jobs it holds could not be looked up"));
  }

  Actions actions(host_);
  absl::MutexLock lock(&mu_);
  for (const InHandPtr& job : adopted->jobs) {
    resumed(job->id, job->fence);
    Hold(*session, job);
  }
  for (const Uuid& id : adopted->stored) welcome.add_stored(FormatId("job", id));
  welcome.set_server(options_.server);
  *welcome.mutable_lease() = ToProto(options_.lease);
  *welcome.mutable_heartbeat() = ToProto(options_.heartbeat);
  welcome.set_session(session->token);
  sessions_[session.get()] = session;  // again: it may have lost all that it held meanwhile
  by_token_[session->token] = session.get();
  session->heard = Mono();
  session->link = link;
  actions.Later([link, session] { link->Opened(session); });
  ++connected_;
  Streams().Set(connected_);
  Post(*session, std::move(message), actions);
  for (const std::string& route : session->routes) routes_[route].sessions.push_back(session.get());
  Recount(*session);
  // What it had been told before the cut, it may have missed.
  for (const auto& [id, held] : session->held) {
    if (held.job->stop == jobs::Stop::kSoftLimit) {
      pb::ServerMessage cancel;
      cancel.mutable_cancel()->set_id(FormatId("job", id));
      cancel.mutable_cancel()->set_fence(held.job->fence);
      cancel.mutable_cancel()->set_reason("its soft limit has passed");
      Post(*session, std::move(cancel), actions);
    }
  }
  actions.Wake();
  log::Info("a worker has come", {{"worker", session->name},
                                  {"subject", session->subject},
                                  {"kinds", static_cast<int64_t>(session->routes.size())},
                                  {"credits", session->credits},
                                  {"held", static_cast<int64_t>(session->held.size())}});
  return true;
}

// ---- a stream ends ----

void StreamRunner::Disconnect(Session& session, Actions& actions) {
  if (session.link != nullptr) {
    session.link = nullptr;
    --connected_;
    Streams().Set(connected_);
    for (const std::string& name : session.routes) {
      Route& route = routes_[name];
      std::erase(route.sessions, &session);
      if (!route.sessions.empty()) continue;
      for (InHandPtr& job : route.waiting) actions.Finish({std::move(job), Outcome(), Finished::How::kElsewhere});
      waiting_ -= static_cast<int>(route.waiting.size());
      route.waiting.clear();
    }
  }
  session.out.clear();
  session.ghosts.clear();
  Recount(session);
  for (const std::string& name : session.routes) {
    if (const auto it = routes_.find(name); it != routes_.end() && it->second.sessions.empty()) routes_.erase(it);
  }
  if (session.held.empty()) {
    by_token_.erase(session.token);
    // Last: it may be the last who knows it.
    const auto it = sessions_.find(&session);
    if (it != sessions_.end()) {
      actions.Later([keep = it->second] {});
      sessions_.erase(it);
    }
  }
}

bool StreamRunner::SaysNoMore(const SessionPtr& session) {
  {
    absl::MutexLock lock(&mu_);
    if (session->link != nullptr && (session->leaving || session->closing.has_value())) return false;
  }
  Gone(session);
  return true;
}

void StreamRunner::Gone(const SessionPtr& session) {
  Actions actions(host_);
  absl::MutexLock lock(&mu_);
  if (session->link == nullptr) return;
  log::Info("a worker's stream has ended",
            {{"worker", session->name}, {"held", static_cast<int64_t>(session->held.size())}});
  Disconnect(*session, actions);
}

void StreamRunner::Expel(const SessionPtr& session, absl::Status reason) {
  Actions actions(host_);
  absl::MutexLock lock(&mu_);
  ReleaseAll(*session, Finished::How::kReturned, "", actions);
  End(*session, std::move(reason), actions);
}

void StreamRunner::ReleaseAll(Session& session, Finished::How how, const std::string& why, Actions& actions) {
  const bool alone = session.held.size() == 1;
  for (auto& [id, held] : session.held) {
    holder_.erase(id);
    if (held.result.has_value()) {  // it had ended, only its checkpoint was on the way
      if (held.result->how == Finished::How::kRan) {
        reported_[id] = {held.job->fence, sessions_.at(&session)};
        ++session.reporting;
      }
      actions.Finish(*std::move(held.result));
      continue;
    }
    Outcome outcome;
    outcome.message = why;
    actions.Finish({.job = std::move(held.job), .outcome = std::move(outcome), .how = how, .alone = alone});
  }
  session.held.clear();
  Recount(session);
  if (session.link == nullptr) Disconnect(session, actions);
}

// ---- what workers say ----

bool StreamRunner::Received(const SessionPtr& session, const pb::WorkerMessage& message) {
  Actions actions(host_);
  absl::MutexLock lock(&mu_);
  Session& s = *session;
  if (s.link == nullptr) return false;
  if (stopped_ || s.closing.has_value()) return true;  // unheard: it says it again to the next server
  s.heard = Mono();
  if (message.ByteSizeLong() > kMaxFrame) {
    Refuse(s, "", StrCat("a message has ", message.ByteSizeLong(), " bytes, at most ", kMaxFrame, " are allowed"), "",
           actions);
  } else {
    switch (message.message_case()) {
      case pb::WorkerMessage::kHello:
        Refuse(s, "hello", "is said once, at the beginning", "", actions);
        break;
      case pb::WorkerMessage::kCredit:
        if (message.credit().credits() < 0 || message.credit().credits() > options_.max_credits) {
          Refuse(s, "credit.credits", StrCat("expected 0 to ", options_.max_credits), "", actions);
        } else {
          s.credits = message.credit().credits();
          Recount(s);
          DeliverTo(s, actions);
          actions.Wake();
        }
        break;
      case pb::WorkerMessage::kHeartbeat:
        break;
      case pb::WorkerMessage::kProgress:
        OnProgress(s, message.progress(), actions);
        break;
      case pb::WorkerMessage::kLog:
        OnLog(s, message.log(), actions);
        break;
      case pb::WorkerMessage::kCheckpoint:
        OnCheckpoint(s, message.checkpoint(), actions);
        break;
      case pb::WorkerMessage::kResult:
        OnResult(session, message.result(), actions);
        break;
      case pb::WorkerMessage::kGoodbye:
        OnGoodbye(s, actions);
        break;
      case pb::WorkerMessage::MESSAGE_NOT_SET:
        Refuse(s, "message", "is empty, or of a kind that this server does not know", "", actions);
        break;
    }
  }
  s.paused = s.out.size() >= kMaxUnread;
  return !s.paused;
}

StreamRunner::Held* StreamRunner::Find(Session& session, const std::string& what, const std::string& id, int64_t fence,
                                       Actions& actions) {
  const auto uuid = ParseId("job", id);
  if (!uuid.ok()) {
    Refuse(session, what + ".id", std::string(uuid.status().message()), "", actions);
    return nullptr;
  }
  const auto it = session.held.find(*uuid);
  if (it == session.held.end()) {
    if (!session.ghosts.contains(*uuid))
      Refuse(session, what + ".id", "this worker does not hold such a job", id, actions);
    return nullptr;
  }
  if (it->second.job->fence != fence) {
    Refuse(session, what + ".fence", "the job is not held under this fence", id, actions);
    return nullptr;
  }
  return &it->second;
}

void StreamRunner::OnProgress(Session& session, const pb::WorkerProgress& progress, Actions& actions) {
  Held* held = Find(session, "progress", progress.id(), progress.fence(), actions);
  if (held == nullptr || held->result.has_value()) return;
  if (!(progress.percent() >= 0 && progress.percent() <= 100))
    return Refuse(session, "progress.percent", "expected 0 to 100", progress.id(), actions);
  if (progress.counters_size() > static_cast<int>(kMaxCounters))
    return Refuse(session, "progress.counters", StrCat("expected at most ", kMaxCounters), progress.id(), actions);
  held->progress = jobs::ProgressJson(progress.percent(), progress.message(),
                                      {progress.counters().begin(), progress.counters().end()});
  Note(*held);
}

void StreamRunner::OnLog(Session& session, const pb::WorkerLog& line, Actions& actions) {
  const Held* held = Find(session, "log", line.id(), line.fence(), actions);
  if (held == nullptr) return;
  const absl::Time now = Mono();
  session.log_lines =
      std::min(kLogsPerSecond, session.log_lines + absl::ToDoubleSeconds(now - session.log_at) * kLogsPerSecond);
  session.log_at = now;
  if (session.log_lines < 1) {
    ++session.dropped_logs;
    return;
  }
  session.log_lines -= 1;
  const log::Level level = line.level() == "debug"   ? log::Level::kDebug
                           : line.level() == "warn"  ? log::Level::kWarn
                           : line.level() == "error" ? log::Level::kError
                                                     : log::Level::kInfo;
  log::Write(level, "a handler says",
             {{"job", line.id()},
              {"kind", held->job->kind},
              {"tenant", held->job->tenant},
              {"worker", session.name},
              {"text", jobs::CleanText(line.message(), kMaxLogLine)},
              {"dropped_before", session.dropped_logs},
              {"request_id", held->job->request_id}});
  session.dropped_logs = 0;
}

void StreamRunner::OnCheckpoint(Session& session, const pb::WorkerCheckpoint& checkpoint, Actions& actions) {
  Held* held = Find(session, "checkpoint", checkpoint.id(), checkpoint.fence(), actions);
  if (held == nullptr || held->result.has_value()) return;
  if (checkpoint.number() < 1)
    return Refuse(session, "checkpoint.number", "expected 1 or more", checkpoint.id(), actions);
  if (checkpoint.json().size() > jobs::kMaxCheckpoint)
    return Refuse(session, "checkpoint.json",
                  StrCat("has ", checkpoint.json().size(), " bytes, the limit is ", jobs::kMaxCheckpoint),
                  checkpoint.id(), actions);
  if (const auto json = JsonDocument::Parse(checkpoint.json()); !json.ok())
    return Refuse(session, "checkpoint.json", std::string(json.status().message()), checkpoint.id(), actions);
  held->checkpoint.emplace(checkpoint.json(), checkpoint.number());
  Note(*held);
}

// Sends the next note of a job to the engine, if none is with it.
void StreamRunner::Note(Held& held) {
  if (held.noting) return;
  if (held.checkpoint.has_value()) {
    held.noting = true;
    const int64_t number = held.checkpoint->second;
    host_->Store(held.job, jobs::RunnerHost::Note::kCheckpoint, std::move(held.checkpoint->first),
                 [this, job = held.job, number](const absl::Status& status) { Noted(job, number, status); });
    held.checkpoint.reset();
  } else if (held.progress.has_value() && !held.result.has_value()) {
    held.noting = true;
    host_->Store(held.job, jobs::RunnerHost::Note::kProgress, *std::move(held.progress),
                 [this, job = held.job](const absl::Status& status) { Noted(job, 0, status); });
    held.progress.reset();
  }
}

void StreamRunner::Noted(const InHandPtr& job, int64_t checkpoint, const absl::Status& status) {
  Actions actions(host_);
  absl::MutexLock lock(&mu_);
  const auto holder = holder_.find(job->id);
  if (holder == holder_.end()) return;
  Session& session = *holder->second;
  Held& held = session.held[job->id];
  if (held.job != job) return;
  held.noting = false;
  if (checkpoint > 0) {
    if (status.ok()) {
      Acknowledge(session, job->id, job->fence, checkpoint, actions);
    } else if (job->stop != jobs::Stop::kFenced) {
      pb::ServerMessage out;
      out.mutable_error()->set_field("checkpoint");
      out.mutable_error()->set_message("could not be stored now");
      out.mutable_error()->set_id(FormatId("job", job->id));
      Post(session, std::move(out), actions);
    }
  }
  Note(held);
  if (held.result.has_value() && !held.noting) return Complete(session, job->id, actions);
  if (job->stop == jobs::Stop::kFenced) {
    const auto taken = Take(session, job->id);
    if (session.link != nullptr) session.ghosts[job->id] = job->fence;
    Recount(session);
    Fence(session, job->id, job->fence, kLateReason, actions);
    actions.Finish({taken->job, Outcome::Snooze(absl::ZeroDuration())});
    if (session.link == nullptr) Disconnect(session, actions);
  }
}

void StreamRunner::OnResult(const SessionPtr& session, const pb::WorkerResult& result, Actions& actions) {
  Session& s = *session;
  const auto id = ParseId("job", result.id());
  if (!id.ok()) return Refuse(s, "result.id", std::string(id.status().message()), "", actions);
  const auto it = s.held.find(*id);
  if (it == s.held.end()) {
    // Said again, or too late.
    if (const auto ghost = s.ghosts.find(*id); ghost != s.ghosts.end()) {
      s.ghosts.erase(ghost);
      Recount(s);
      Fence(s, *id, result.fence(), kLateReason, actions);
      DeliverTo(s, actions);
      actions.Wake();
      return;
    }
    if (const auto reported = reported_.find(*id);
        reported != reported_.end() && reported->second.fence == result.fence() && reported->second.session == session)
      return;  // the answer is on its way
    if (const auto settled = settled_.find({*id, result.fence()});
        settled != settled_.end() && settled->second.token == s.token) {
      return settled->second.stored ? Acknowledge(s, *id, result.fence(), 0, actions)
                                    : Fence(s, *id, result.fence(), kLateReason, actions);
    }
    return Refuse(s, "result.id", "this worker does not hold such a job", result.id(), actions);
  }
  Held& held = it->second;
  if (held.job->fence != result.fence())
    return Refuse(s, "result.fence", "the job is not held under this fence", result.id(), actions);
  if (held.result.has_value()) return;
  Finished finished{.job = held.job};
  Outcome& outcome = finished.outcome;
  auto wrong = [&](const char* field, std::string message) {
    Refuse(s, StrCat("result.", field), std::move(message), result.id(), actions);
  };
  switch (result.outcome_case()) {
    case pb::WorkerResult::kDone:
      outcome = Outcome::Done(result.done().result_json().empty() ? "null" : result.done().result_json());
      if (outcome.result.size() > kMaxResult)
        return wrong("done.result_json", StrCat("has ", outcome.result.size(), " bytes, the limit is ", kMaxResult));
      if (const auto json = JsonDocument::Parse(outcome.result); !json.ok())
        return wrong("done.result_json", std::string(json.status().message()));
      break;
    case pb::WorkerResult::kRetry:
      outcome = Outcome::Retry(result.retry().code(), result.retry().message());
      if (result.retry().has_after()) {
        outcome.after = FromProto(result.retry().after());
        if (*outcome.after < absl::ZeroDuration()) return wrong("retry.after", "expected 0s or more");
      }
      break;
    case pb::WorkerResult::kSnooze:
      if (result.snooze().has_after()) {
        outcome = Outcome::Snooze(FromProto(result.snooze().after()));
      } else if (result.snooze().has_until()) {
        outcome = Outcome::Snooze(absl::FromUnixMicros(TimeUtil::TimestampToMicroseconds(result.snooze().until())) -
                                  absl::Now());
        outcome.after = std::max(*outcome.after, absl::ZeroDuration());
      } else {
        return wrong("snooze", "expected after or until");
      }
      if (*outcome.after < absl::ZeroDuration()) return wrong("snooze.after", "expected 0s or more");
      break;
    case pb::WorkerResult::kDiscard:
      outcome = Outcome::Discard(result.discard().reason());
      break;
    case pb::WorkerResult::kDead:
      outcome = Outcome::Dead(result.dead().code(), result.dead().message());
      break;
    case pb::WorkerResult::kCancelled:
      if (held.job->stop == jobs::Stop::kSoftLimit) {
        outcome = Outcome::Retry(
            "soft_limit", StrCat("stopped after its soft limit of ", absl::FormatDuration(held.job->soft_limit)));
      } else {
        // Given back by a worker that ends; by one that goes on it would come back at once.
        finished.how = s.credits == 0 || s.leaving ? Finished::How::kReturned : Finished::How::kElsewhere;
      }
      break;
    case pb::WorkerResult::OUTCOME_NOT_SET:
      return wrong("outcome", "is empty, or of a kind that this server does not know");
  }
  held.job->ran_us = std::max<int64_t>(1, jobs::MonoMicros() - held.job->started_us);
  held.result = std::move(finished);
  held.progress.reset();
  if (!held.noting) Complete(s, *id, actions);
}

// The result goes to the database; the job has left its session, and its credit is free.
void StreamRunner::Complete(Session& session, const Uuid& id, Actions& actions) {
  std::optional<Held> held = Take(session, id);
  Finished& finished = *held->result;
  const int64_t fence = held->job->fence;
  if (finished.how == Finished::How::kRan) {
    const auto owner = sessions_.find(&session);
    reported_[id] = {fence, owner->second};
    ++session.reporting;
  } else {
    Settle(session, id, fence, true);
    Acknowledge(session, id, fence, 0, actions);
  }
  actions.Finish(std::move(finished));
  if (session.link == nullptr) return Disconnect(session, actions);
  DeliverTo(session, actions);
}

void StreamRunner::Settle(const Session& session, const Uuid& id, int64_t fence, bool stored) {
  if (settled_.insert_or_assign({id, fence}, Settled{stored, session.token}).second)
    settled_order_.emplace_back(id, fence);
  while (settled_order_.size() > kMaxSettled) {
    settled_.erase(settled_order_.front());
    settled_order_.pop_front();
  }
}

void StreamRunner::Stored(const std::vector<std::pair<InHandPtr, bool>>& jobs) {
  Actions actions(nullptr);
  absl::MutexLock lock(&mu_);
  for (const auto& [job, stored] : jobs) {
    const auto it = reported_.find(job->id);
    if (it == reported_.end() || it->second.fence != job->fence) continue;
    const SessionPtr session = it->second.session;
    reported_.erase(it);
    --session->reporting;
    Settle(*session, job->id, job->fence, stored);
    if (stored) {
      Acknowledge(*session, job->id, job->fence, 0, actions);
    } else {
      Fence(*session, job->id, job->fence, kLateReason, actions);
    }
    EndIfDone(*session, actions);
  }
}

void StreamRunner::OnGoodbye(Session& session, Actions& actions) {
  session.leaving = true;
  session.credits = 0;
  ReleaseAll(session, Finished::How::kReturned, "", actions);
  EndIfDone(session, actions);
}

// ---- what the engine says ----

void StreamRunner::Tell(const InHandPtr& job) {
  Actions actions(host_);
  absl::MutexLock lock(&mu_);
  const bool fenced = job->stop == jobs::Stop::kFenced;
  const auto holder = holder_.find(job->id);
  if (holder == holder_.end()) {
    if (!fenced) return;
    const auto route = routes_.find(jobs::Route(job->kind, job->version));
    if (route == routes_.end() || std::erase(route->second.waiting, job) == 0) return;
    --waiting_;
    actions.Finish({job, Outcome::Snooze(absl::ZeroDuration())});  // stores nothing under a stale fence
    return;
  }
  Session& session = *holder->second;
  if (session.held[job->id].job != job) return;
  if (!fenced) {
    pb::ServerMessage out;
    out.mutable_cancel()->set_id(FormatId("job", job->id));
    out.mutable_cancel()->set_fence(job->fence);
    out.mutable_cancel()->set_reason("its soft limit has passed");
    Post(session, std::move(out), actions);
    return;
  }
  const auto taken = Take(session, job->id);
  if (session.link != nullptr) session.ghosts[job->id] = job->fence;
  Recount(session);
  Fence(session, job->id, job->fence, kLateReason, actions);
  actions.Finish({taken->job, Outcome::Snooze(absl::ZeroDuration())});
  if (session.link == nullptr) Disconnect(session, actions);
}

void StreamRunner::Kill(const InHandPtr& job, Outcome outcome) {
  Actions actions(host_);
  absl::MutexLock lock(&mu_);
  const auto holder = holder_.find(job->id);
  if (holder == holder_.end()) return;
  Session& session = *holder->second;
  if (session.held[job->id].job != job) return;
  const auto taken = Take(session, job->id);
  actions.Finish({taken->job, std::move(outcome)});
  if (session.link == nullptr) return Disconnect(session, actions);
  // Its handler does not stop, so its place there is taken: the credit comes back when the worker says how it ended.
  session.ghosts[job->id] = job->fence;
  Recount(session);
  Fence(session, job->id, job->fence, "its hard limit has passed", actions);
  log::Warn("a job ran past its hard limit", {{"job", FormatId("job", job->id)},
                                              {"kind", job->kind},
                                              {"worker", session.name},
                                              {"overruns", session.overruns + 1}});
  if (++session.overruns < options_.max_overruns) return;
  ReleaseAll(session, Finished::How::kReturned, "", actions);
  End(session,
      absl::FailedPreconditionError(StrCat(session.overruns, " jobs ran past their hard limit; restart this worker")),
      actions);
}

void StreamRunner::Recall() {
  Actions actions(host_);
  absl::MutexLock lock(&mu_);
  recalled_ = true;
  for (auto& [name, route] : routes_) {
    for (InHandPtr& job : route.waiting) actions.Finish({std::move(job), Outcome(), Finished::How::kUnstarted});
    route.waiting.clear();
  }
  waiting_ = 0;
  credit_.store(0, std::memory_order_relaxed);
  pb::ServerMessage out;
  out.mutable_goaway()->set_reason("this server ends; others take over, or it comes back");
  for (const auto& [raw, session] : sessions_) {
    Recount(*session);
    Post(*session, out, actions);
  }
}

bool StreamRunner::Stop() {
  Recall();
  Actions actions(host_);
  absl::MutexLock lock(&mu_);
  stopped_ = true;
  const std::map<Session*, SessionPtr> all = sessions_;
  for (const auto& [raw, session] : all) ReleaseAll(*session, Finished::How::kLeft, "", actions);
  return true;
}

void StreamRunner::Close() {
  Actions actions(nullptr);
  absl::MutexLock lock(&mu_);
  const std::map<Session*, SessionPtr> all = sessions_;
  for (const auto& [raw, session] : all) {
    if (session->link == nullptr) continue;
    actions.Later([link = session->link] { link->End(absl::UnavailableError("this server has ended")); });
    Disconnect(*session, actions);
  }
}

// ---- the clock ----

void StreamRunner::Loop() {
  const absl::Duration tick = std::min(absl::Milliseconds(200), options_.heartbeat / 2);
  absl::Time last = Mono();
  while (true) {
    Actions actions(host_);
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&ending_), tick)) return;
    const absl::Time now = Mono();
    // This process stood still: what was said meanwhile is still to be read.
    const absl::Duration gap = now - last - tick;
    last = now;
    if (gap > options_.lease / 3) {
      for (const auto& [raw, session] : sessions_) session->heard += gap;
    }
    if (stopped_) continue;
    const std::map<Session*, SessionPtr> all = sessions_;
    for (const auto& [raw, session] : all) {
      if (now - session->heard <= options_.lease) continue;
      if (session->link != nullptr) {
        log::Warn("a worker is silent", {{"worker", session->name}, {"subject", session->subject}});
        const absl::Status status =
            session->closing.value_or(absl::DeadlineExceededError("nothing was heard from this worker for a lease"));
        actions.Later([link = session->link, status] { link->End(status); });
        Disconnect(*session, actions);
      }
      ReleaseAll(*session, Finished::How::kLost,
                 StrCat("nothing was heard from worker ", session->name, " for ", absl::FormatDuration(options_.lease)),
                 actions);
    }
    // What found no free worker here may find one elsewhere.
    for (auto& [name, route] : routes_) {
      while (!route.waiting.empty() && now - route.waiting.front()->taken > options_.heartbeat) {
        actions.Finish({std::move(route.waiting.front()), Outcome(), Finished::How::kReturned});
        route.waiting.pop_front();
        --waiting_;
      }
    }
  }
}

std::string StreamRunner::Remote() const {
  absl::MutexLock lock(&mu_);
  std::string out;
  JsonWriter json(out);
  json.BeginArray();
  size_t listed = 0;
  for (const auto& [raw, s] : sessions_) {
    if (listed++ >= kMaxListed) break;
    json.BeginObject()
        .Key("name")
        .String(s->name)
        .Key("language")
        .String(s->language)
        .Key("version")
        .String(s->version);
    json.Key("subject").String(s->subject).Key("tenant").String(s->tenant).Key("connected").Bool(s->link != nullptr);
    json.Key("since").Int(absl::ToUnixMicros(s->since)).Key("credits").Int(s->credits);
    json.Key("in_flight").Int(static_cast<int64_t>(s->held.size())).Key("kinds").BeginArray();
    for (const std::string& route : s->routes) json.String(route);
    json.EndArray().Key("jobs").BeginArray();
    size_t jobs = 0;
    for (const auto& [id, held] : s->held) {
      if (jobs++ >= kMaxListedJobs) break;
      json.BeginObject().Key("id").String(FormatId("job", id)).Key("tenant").String(held.job->tenant).EndObject();
    }
    json.EndArray().EndObject();
  }
  json.EndArray();
  return out;
}

}  // namespace mainstay::worker
