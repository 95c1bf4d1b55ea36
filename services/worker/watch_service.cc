// SPDX-License-Identifier: Apache-2.0
// Waiting and streaming without a thread per caller (see monitoring.h). gRPC may run a reaction inside the call that
// caused it, so nothing here calls gRPC with a lock held.
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <optional>
#include <pqxx/pqxx>

#include "absl/time/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/ids.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "services/worker/monitoring.h"
#include "services/worker/queue_stats.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;

constexpr absl::Duration kMaxWait = absl::Seconds(60), kHeartbeat = absl::Seconds(15), kStreamLife = absl::Minutes(10),
                         kQueueTick = absl::Seconds(1), kReadTime = absl::Seconds(10);
constexpr char kGetJob[] = "mainstay.jobs.v1.JobsService/GetJob",
               kWatchJob[] = "mainstay.jobs.v1.WatchService/WatchJob",
               kWatchQueue[] = "mainstay.jobs.v1.WatchService/WatchQueue";

absl::Status Busy() {
  return MakeProblem(
      Problem{.type = "overloaded", .detail = "too many are waiting for jobs", .retry_after = absl::Seconds(2)});
}

// What a stream's reads may take: the stream's own deadline is far away.
CallContext ForOneRead(const CallContext& call) {
  CallContext out = call;
  out.deadline = std::min(call.deadline, absl::Now() + kReadTime);
  return out;
}

absl::Status ReadJob(const ServiceParts& parts, const CallContext& call, const Uuid& id, std::string* mark,
                     std::optional<jobs::JobView>* job) {
  return parts.pool.Autocommit(ForOneRead(call).deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
    // The mark first: what changes between the two is seen again, never missed.
    ASSIGN_OR_RETURN(*mark, jobs::MarkOf(tx, id));
    ASSIGN_OR_RETURN(*job, jobs::GetJob(tx, call, id));
    return absl::OkStatus();
  });
}

// ---- a call that may wait ----

class Waiting : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<Waiting> {
 public:
  static grpc::ServerUnaryReactor* Start(const MonitoringParts& parts, grpc::CallbackServerContext* context,
                                         const pb::GetJobRequest* request, pb::Job* response) {
    auto self = std::shared_ptr<Waiting>(new Waiting(parts, response));
    self->self_ = self;
    Waiting* raw = self.get();
    self->call_ = parts.service.guard.Admit(*context, kGetJob);
    absl::Status refused = self->call_.status();
    if (refused.ok()) refused = self->Prepare(*request);
    if (!refused.ok()) {
      self->End(refused, std::nullopt);
    } else if (!parts.desk.Post([self] { self->Look(); })) {
      self->End(Busy(), std::nullopt);
    }
    return raw;
  }

  void OnCancel() override { End(absl::CancelledError("the caller went away"), std::nullopt); }
  void OnDone() override { self_.reset(); }

 private:
  Waiting(const MonitoringParts& parts, pb::Job* response) : parts_(parts), response_(response) {}

  absl::Status Prepare(const pb::GetJobRequest& request) {
    const absl::StatusOr<Uuid> id = ParseId("job", request.id());
    if (!id.ok()) return MakeProblem("not-found", "no such job");
    id_ = *id;
    const absl::Duration wait = absl::Seconds(request.wait().seconds()) + absl::Nanoseconds(request.wait().nanos());
    if (wait < absl::ZeroDuration() || wait > kMaxWait) {
      return MakeProblem(
          "invalid-parameter", "wait is between 0 and 60 s",
          {{.place = FieldError::Place::kParameter, .name = "wait", .code = "out_of_range", .detail = "0s to 60s"}});
    }
    // Answers in time for the caller's own deadline.
    until_ = std::min(absl::Now() + wait, call_->deadline - absl::Milliseconds(500));
    waits_ = wait > absl::ZeroDuration();
    return absl::OkStatus();
  }

  // On the desk.
  void Look() {
    if (*gone_) return;
    std::string mark;
    std::optional<jobs::JobView> job;
    const absl::Status status = ReadJob(parts_.service, *call_, id_, &mark, &job);
    if (!status.ok()) return End(status, std::nullopt);
    if (job->final() || !waits_ || absl::Now() >= until_) return End(absl::OkStatus(), job);
    const absl::Status added = parts_.watcher.Add({.job = id_,
                                                   .mark = mark,
                                                   .only_final = true,
                                                   .until = until_,
                                                   .gone = gone_,
                                                   .wake = [self = shared_from_this()] {
                                                     if (!self->parts_.desk.Post([self] { self->Look(); }))
                                                       self->End(Busy(), std::nullopt);
                                                   }});
    // Who cannot wait is answered at once.
    if (!added.ok()) End(absl::OkStatus(), job);
  }

  void End(const absl::Status& status, const std::optional<jobs::JobView>& job) {
    const auto self = shared_from_this();
    {
      absl::MutexLock lock(&mu_);
      if (ended_) return;
      ended_ = true;
      *gone_ = true;
      // The answer is gRPC's own: it may be touched until Finish.
      if (status.ok()) FillJob(*job, response_);
    }
    Finish(parts_.service.guard.Conclude(kGetJob, call_, began_, status));
  }

  const MonitoringParts parts_;
  pb::Job* const response_;
  const absl::Time began_ = absl::Now();
  absl::StatusOr<CallContext> call_;
  Uuid id_;
  absl::Time until_;
  bool waits_ = false;
  const jobs::Watcher::Gone gone_ = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<Waiting> self_;
  absl::Mutex mu_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

// ---- streams ----

// Sends states one at a time; of those that come meanwhile only the latest is kept.
template <typename Event>
class EventStream : public grpc::ServerWriteReactor<Event>, public std::enable_shared_from_this<EventStream<Event>> {
 public:
  EventStream(const rpc::Guard& guard, const char* method, absl::StatusOr<CallContext> call)
      : guard_(guard), method_(method), call_(std::move(call)) {}
  void Hold() { self_ = this->shared_from_this(); }
  const absl::StatusOr<CallContext>& call() const { return call_; }
  const jobs::Watcher::Gone& gone() const { return gone_; }

  void Send(Event event) {
    const auto self = this->shared_from_this();
    {
      absl::MutexLock lock(&mu_);
      if (ending_.has_value()) return;
      if (writing_) {
        // A heartbeat says nothing that another event does not say.
        if (event.event() != "heartbeat") next_ = std::move(event);
        return;
      }
      writing_ = true;
      current_ = std::move(event);
    }
    this->StartWrite(&current_);
  }

  // After what is still to be sent.
  void End(const absl::Status& status) {
    const auto self = this->shared_from_this();
    {
      absl::MutexLock lock(&mu_);
      if (!ending_.has_value()) ending_ = status;
      *gone_ = true;
      if (writing_ || finished_) return;
      finished_ = true;
    }
    this->Finish(guard_.Conclude(method_, call_, began_, *ending_));
  }

  void OnWriteDone(bool ok) override {
    const auto self = this->shared_from_this();
    bool again = false;
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      if (!ok) {
        ending_ = absl::CancelledError("the caller went away");
        next_.reset();
      }
      if (next_.has_value()) {
        current_ = *std::move(next_);
        next_.reset();
        writing_ = again = true;
      } else if (!ending_.has_value() || finished_) {
        return;
      } else {
        finished_ = true;
        *gone_ = true;
      }
    }
    if (again) {
      this->StartWrite(&current_);
    } else {
      this->Finish(guard_.Conclude(method_, call_, began_, *ending_));
    }
  }

  void OnCancel() override {
    {
      absl::MutexLock lock(&mu_);
      next_.reset();
    }
    End(absl::CancelledError("the caller went away"));
  }
  void OnDone() override { self_.reset(); }

 private:
  const rpc::Guard& guard_;
  const char* const method_;
  const absl::StatusOr<CallContext> call_;
  const absl::Time began_ = absl::Now();
  const jobs::Watcher::Gone gone_ = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<EventStream> self_;
  Event current_;  // gRPC's while writing_
  absl::Mutex mu_;
  std::optional<Event> next_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false, finished_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> ending_;  // written once, under mu_
};

// What the streams of jobs and of queues share: look, send what is new, wait.
template <typename Event>
class Feed : public std::enable_shared_from_this<Feed<Event>> {
 public:
  using Stream = EventStream<Event>;
  Feed(const MonitoringParts& parts, std::shared_ptr<Stream> stream, std::string last_event)
      : parts_(parts), stream_(std::move(stream)), last_event_(std::move(last_event)) {}
  virtual ~Feed() = default;

  void Schedule() {
    const auto self = this->shared_from_this();
    if (!parts_.desk.Post([self] { self->Look(); })) stream_->End(Busy());
  }

 protected:
  struct Seen {
    std::string event_id;
    bool last = false;
    typename jobs::Watcher::Watch watch;  // what to wait for; `until` at most
  };
  // The state now, into `event`.
  virtual absl::StatusOr<Seen> Read(const CallContext& call, Event* event) = 0;
  const MonitoringParts& parts() const { return parts_; }

 private:
  void Look() {
    if (*stream_->gone()) return;
    const absl::Time now = absl::Now();
    if (now >= end_) {
      Event event;
      event.set_event("reconnect");
      stream_->Send(std::move(event));
      return stream_->End(absl::OkStatus());
    }
    Event event;
    absl::StatusOr<Seen> seen = Read(ForOneRead(*stream_->call()), &event);
    if (!seen.ok()) return stream_->End(seen.status());
    if (seen->event_id != last_event_) {
      last_event_ = seen->event_id;
      event.set_event_id(seen->event_id);
      stream_->Send(std::move(event));
      heartbeat_ = now + kHeartbeat;
    } else if (now >= heartbeat_) {
      Event alive;
      alive.set_event("heartbeat");
      stream_->Send(std::move(alive));
      heartbeat_ = now + kHeartbeat;
    }
    if (seen->last) return stream_->End(absl::OkStatus());
    jobs::Watcher::Watch& watch = seen->watch;
    watch.until = std::min({watch.until, heartbeat_, end_});
    watch.gone = stream_->gone();
    watch.wake = [self = this->shared_from_this()] { self->Schedule(); };
    if (const absl::Status added = parts_.watcher.Add(std::move(watch)); !added.ok()) stream_->End(added);
  }

  const MonitoringParts parts_;
  const std::shared_ptr<Stream> stream_;
  // One look at a time: the next is asked for by the one before.
  std::string last_event_;
  absl::Time heartbeat_ = absl::Now() + kHeartbeat;
  const absl::Time end_ = absl::Now() + kStreamLife;
};

class JobFeed final : public Feed<pb::WatchJobResponse> {
 public:
  JobFeed(const MonitoringParts& parts, std::shared_ptr<Stream> stream, std::string last_event, Uuid id)
      : Feed(parts, std::move(stream), std::move(last_event)), id_(id) {}

 protected:
  absl::StatusOr<Seen> Read(const CallContext& call, pb::WatchJobResponse* event) override {
    std::string mark;
    std::optional<jobs::JobView> job;
    RETURN_IF_ERROR(ReadJob(parts().service, call, id_, &mark, &job));
    event->set_event("job");
    FillJob(*job, event->mutable_job());
    Seen seen;
    seen.last = job->final();
    seen.event_id = seen.last ? StrCat("final.", job->fence) : mark;
    seen.watch = {.job = id_, .mark = mark, .until = absl::InfiniteFuture()};
    return seen;
  }

 private:
  const Uuid id_;
};

class QueueFeed final : public Feed<pb::WatchQueueResponse> {
 public:
  QueueFeed(const MonitoringParts& parts, std::shared_ptr<Stream> stream, std::string last_event, std::string name)
      : Feed(parts, std::move(stream), std::move(last_event)), name_(std::move(name)) {}

 protected:
  absl::StatusOr<Seen> Read(const CallContext& call, pb::WatchQueueResponse* event) override {
    ASSIGN_OR_RETURN(auto list, ReadQueueStats(parts(), call, name_));
    event->set_event("queue");
    pb::QueueStats& now = *event->mutable_queue();
    now = std::move(list[0]);
    // What grows by itself with time is no change.
    const pb::RunStats& ran = now.last_15_minutes();
    const std::string state =
        StrCat(now.scheduled(), " ", now.blocked(), " ", now.ready(), " ", now.published(), " ", now.running(), " ",
               ran.succeeded(), " ", ran.failed(), " ", ran.dead(), " ", ran.discarded(), " ", ran.snoozed());
    Seen seen;
    seen.event_id = HexEncode(Sha256(state)).substr(0, 16);
    seen.watch = {.until = absl::Now() + kQueueTick};
    return seen;
  }

 private:
  const std::string name_;
};

}  // namespace

Desk::Desk(int threads, size_t max_waiting) : max_waiting_(max_waiting) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

Desk::~Desk() {
  Stop();
}

bool Desk::Post(std::function<void()> work) {
  absl::MutexLock lock(&mu_);
  if (stopping_ || work_.size() >= max_waiting_) return false;
  work_.push_back(std::move(work));
  return true;
}

void Desk::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void Desk::Run() {
  while (true) {
    std::function<void()> work;
    {
      absl::MutexLock lock(&mu_);
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || !work_.empty(); };
      mu_.Await(absl::Condition(&ready));
      if (work_.empty()) return;
      work = std::move(work_.front());
      work_.pop_front();
    }
    work();
  }
}

grpc::ServerUnaryReactor* StartGetJob(const MonitoringParts& parts, grpc::CallbackServerContext* context,
                                      const pb::GetJobRequest* request, pb::Job* response) {
  return Waiting::Start(parts, context, request, response);
}

grpc::ServerWriteReactor<pb::WatchJobResponse>* WatchService::WatchJob(grpc::CallbackServerContext* context,
                                                                       const pb::WatchJobRequest* request) {
  auto stream = std::make_shared<EventStream<pb::WatchJobResponse>>(parts_.service.guard, kWatchJob,
                                                                    parts_.service.guard.Admit(*context, kWatchJob));
  stream->Hold();
  auto* raw = stream.get();
  const absl::StatusOr<Uuid> id = ParseId("job", request->id());
  if (!stream->call().ok()) {
    stream->End(stream->call().status());
  } else if (!id.ok()) {
    stream->End(MakeProblem("not-found", "no such job"));
  } else {
    std::make_shared<JobFeed>(parts_, stream, request->last_event_id(), *id)->Schedule();
  }
  return raw;
}

grpc::ServerWriteReactor<pb::WatchQueueResponse>* WatchService::WatchQueue(grpc::CallbackServerContext* context,
                                                                           const pb::WatchQueueRequest* request) {
  auto stream = std::make_shared<EventStream<pb::WatchQueueResponse>>(
      parts_.service.guard, kWatchQueue, parts_.service.guard.Admit(*context, kWatchQueue));
  stream->Hold();
  auto* raw = stream.get();
  if (!stream->call().ok()) {
    stream->End(stream->call().status());
  } else {
    std::make_shared<QueueFeed>(parts_, stream, request->last_event_id(), request->name())->Schedule();
  }
  return raw;
}

}  // namespace mainstay::worker
