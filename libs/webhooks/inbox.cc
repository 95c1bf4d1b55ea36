// SPDX-License-Identifier: Apache-2.0
#include "libs/webhooks/inbox.h"

#include <prometheus/counter.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <pqxx/pqxx>
#include <thread>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/crypto.h"
#include "libs/base/ids.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/enqueue.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"
#include "libs/webhooks/extract.h"
#include "libs/webhooks/processing.h"
#include "libs/webhooks/routes.h"
#include "libs/webhooks/scheme.h"
#include "libs/webhooks/sql.h"

namespace mainstay::webhooks {
namespace {

constexpr size_t kMaxText = 255;  // of the sender's id, type and entity
constexpr size_t kMaxBatchBytes = 16 << 20;
constexpr int kJsonDepth = 64;

Answer Refuse(int status, std::string_view problem, int retry_after_seconds = 0) {
  Answer answer;
  answer.status = status;
  answer.problem = std::string(problem);
  answer.retry_after_seconds = retry_after_seconds;
  return answer;
}

Answer Accept(const std::string& event_id, bool duplicate) {
  Answer answer;
  answer.content_type = "application/json";
  answer.body = StrCat("{\"event\":", JsonQuote(event_id), duplicate ? ",\"duplicate\":true}" : "}");
  answer.event_id = event_id;
  return answer;
}

// What may stand in a text column and on a screen.
bool Printable(std::string_view text) {
  if (text.size() > kMaxText || !IsValidUtf8(text)) return false;
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

bool IsTenant(std::string_view text) {
  if (text.empty() || text.size() > 63) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!alnum && (i == 0 || (c != '-' && c != '_' && c != '.'))) return false;
  }
  return true;
}

std::string MediaType(std::string_view content_type) {
  std::string out(content_type.substr(0, content_type.find(';')));
  while (!out.empty() && (out.back() == ' ' || out.back() == '\t')) out.pop_back();
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return out;
}

std::string Cut(std::string_view text, size_t bytes) {
  std::string out;
  for (char c : TruncateUtf8(text, bytes))
    if (static_cast<unsigned char>(c) >= 0x20) out += c;
  return IsValidUtf8(out) ? out : std::string();
}

std::string HeadersJson(const Delivery& delivery) {
  std::string out;
  JsonWriter json(out);
  json.BeginArray();
  for (const auto& [name, value] : delivery.headers) {
    if (name == "authorization" || name == "cookie" || name == "proxy-authorization") continue;
    std::string clean = value;
    std::replace(clean.begin(), clean.end(), '\0', ' ');
    json.BeginArray().String(name).String(clean).EndArray();
  }
  json.EndArray();
  return out;
}

// A verified delivery on its way into the database.
struct Incoming {
  Uuid id;
  std::string tenant, source, external_id, type, entity, state, detail, key, catalog_hash;
  std::optional<absl::Time> event_time;
  absl::Duration window;
  Delivery delivery;
  CallContext context;  // of its job
};

prometheus::Counter& Received(const std::string& source, std::string_view outcome) {
  return metrics::Counter("mainstay_webhook_deliveries_total", "Deliveries by source and what became of them",
                          {{"source", source}, {"outcome", std::string(outcome)}});
}

}  // namespace

absl::Status Validate(const InboxOptions& options) {
  if (options.max_batch < 1 || options.max_waiting < options.max_batch || options.max_waiting_bytes < (1 << 20))
    return absl::InvalidArgumentError(
        "inbox: max_batch must be 1 or more, max_waiting at least max_batch, max_waiting_bytes at least 1 MiB");
  return absl::OkStatus();
}

struct Inbox::Impl {
  // One call of Ingest, waiting for the committer.
  struct Waiter {
    Incoming* incoming;
    Answer* answer;
    int* left;
  };

  Impl(InboxOptions o, InboxDependencies d) : options(std::move(o)), deps(std::move(d)) {}

  // The answer of a delivery that is not stored, or what to store.
  std::optional<Answer> Examine(Delivery& delivery, const catalog::ModelPtr& model, Incoming* out) {
    auto found = model->sources.find(delivery.source);
    if (found == model->sources.end() || !found->second.enabled) {
      Received("unknown", "unknown_source").Increment();
      return Refuse(404, "not-found");
    }
    const catalog::Source& source = found->second;
    if (delivery.method != "POST") return Refuse(405, "method-not-allowed");
    if (int64_t(delivery.body.size()) > source.max_body) {
      Received(source.name, "too_large").Increment();
      return Refuse(413, "content-too-large");
    }
    std::string content_type = MediaType(delivery.Header("content-type").value_or(""));
    if (!source.content_types.empty() && std::find(source.content_types.begin(), source.content_types.end(),
                                                   content_type) == source.content_types.end()) {
      Received(source.name, "wrong_type").Increment();
      return Refuse(415, "unsupported-media-type");
    }
    absl::StatusOr<Scheme> scheme = schemes.Get(model, source);
    if (!scheme.ok()) {
      log::Error("webhook source is unusable", {{"source", source.name}, {"reason", ToStd(scheme.status().message())}});
      return Refuse(503, "service-unavailable", 60);
    }
    std::vector<std::string> secrets;
    for (const std::string& name : source.secrets) {
      absl::StatusOr<std::vector<std::string>> values = deps.secrets(source.tenant, name);
      if (values.ok()) {
        secrets.insert(secrets.end(), values->begin(), values->end());
      } else if (!absl::IsNotFound(values.status())) {
        // Not the sender's fault: a 401 would make it give up.
        log::Warn("webhook secret is not readable",
                  {{"source", source.name}, {"secret", name}, {"reason", ToStd(values.status().message())}});
        return Refuse(503, "service-unavailable", 5);
      }
    }
    const absl::Time now = deps.clock.Now();
    Verdict verdict = scheme->Verify(delivery, StrCat(options.public_url, delivery.target), secrets, now);
    if (!verdict.authentic) {
      Received(source.name, "refused").Increment();
      log::Warn("webhook refused", {{"source", source.name},
                                    {"reason", verdict.reason},
                                    {"remote_address", delivery.remote_address},
                                    {"request_id", delivery.request_id}});
      return Refuse(401, "unauthenticated");
    }

    // Authentic from here on: whatever is wrong now is kept, for the sender will not send it better.
    Incoming& in = *out;
    in.id = NewUuid();
    in.source = source.name;
    in.state = "received";
    in.catalog_hash = model->hash;
    in.window = source.dedup_window;
    const catalog::ValueSource& id_source = source.event_id.empty() ? scheme->default_event_id() : source.event_id;
    const catalog::ValueSource& type_source =
        source.event_type.empty() ? scheme->default_event_type() : source.event_type;
    const catalog::ValueSource& time_source =
        source.event_time.empty() ? scheme->default_event_time() : source.event_time;
    const std::string_view time_unit =
        source.event_time.empty() ? scheme->default_event_time_unit() : std::string_view(source.event_time_unit);
    JsonLimits limits;
    limits.depth = kJsonDepth;
    absl::StatusOr<JsonDocument> document = JsonDocument::Parse(delivery.body, limits);
    const JsonValue* body = document.ok() ? &document->root() : nullptr;
    const bool json_expected = content_type == "application/json" ||
                               (content_type.size() > 5 && content_type.substr(content_type.size() - 5) == "+json");
    auto invalid = [&](std::string_view why) {
      if (in.detail.empty()) in.detail = std::string(why);
      in.state = "invalid";
    };
    if (json_expected && body == nullptr) invalid("the body is not valid JSON");

    auto take = [&](const catalog::ValueSource& sources, std::string* text, std::string_view name, bool required) {
      std::optional<std::string> value = Extract(sources, delivery, body);
      if (!value) {
        if (required && !sources.empty()) invalid(StrCat(name, " is missing"));
      } else if (!Printable(*value)) {
        invalid(StrCat(name, " is longer than ", kMaxText, " bytes or has control characters"));
      } else {
        *text = *std::move(value);
      }
    };
    if (source.tenant.empty()) {
      take(source.tenant_from, &in.tenant, "tenant", true);
      if (!in.tenant.empty() && !IsTenant(in.tenant)) {
        in.tenant.clear();
        invalid("tenant is not a valid name");
      }
      if (in.tenant.empty()) invalid("tenant is missing");
    } else {
      in.tenant = source.tenant;
    }
    take(id_source, &in.external_id, "event id", true);
    take(type_source, &in.type, "event type", true);
    take(source.entity, &in.entity, "entity", false);
    if (std::optional<std::string> text = Extract(time_source, delivery, body)) {
      absl::StatusOr<absl::Time> time = ParseSenderTime(*text, time_unit);
      if (time.ok()) in.event_time = *time;
    }
    // An invalid event must not hold the place of a good one with the same id.
    in.key = in.external_id.empty() || in.state == "invalid" ? StrCat("sha256:", HexEncode(Sha256(delivery.body)))
                                                             : StrCat("id:", in.external_id);
    if (in.state == "received" && FindRoute(source, in.type) == nullptr) in.state = "unrouted";

    in.context.principal = {in.tenant, StrCat("source:", source.name), {StrCat("source:", source.name)}};
    in.context.request_id = Cut(delivery.request_id, 128);
    in.context.traceparent = Cut(delivery.traceparent, 64);
    if (in.state == "invalid")
      log::Warn("webhook kept as invalid", {{"source", in.source},
                                            {"event", FormatId("evt", in.id)},
                                            {"reason", in.detail},
                                            {"request_id", in.context.request_id}});
    in.delivery = std::move(delivery);
    return std::nullopt;
  }

  std::vector<Answer> Ingest(std::vector<Delivery> deliveries) {
    std::vector<Answer> answers(deliveries.size());
    catalog::ModelPtr model = deps.model();
    std::vector<std::unique_ptr<Incoming>> stored(deliveries.size());
    int left = 0;
    int64_t bytes = 0;
    for (size_t i = 0; i < deliveries.size(); ++i) {
      if (model == nullptr) {
        answers[i] = Refuse(503, "service-unavailable", 5);
        continue;
      }
      auto incoming = std::make_unique<Incoming>();
      if (std::optional<Answer> answer = Examine(deliveries[i], model, incoming.get())) {
        answers[i] = *std::move(answer);
        continue;
      }
      bytes += int64_t(incoming->delivery.body.size());
      stored[i] = std::move(incoming);
      ++left;
    }
    if (left == 0) return answers;

    absl::MutexLock lock(&mu);
    if (stopping || int64_t(waiting.size()) + left > options.max_waiting ||
        waiting_bytes + bytes > options.max_waiting_bytes) {
      for (size_t i = 0; i < stored.size(); ++i)
        if (stored[i] != nullptr) answers[i] = Refuse(503, "overloaded", 2);
      return answers;
    }
    if (!running) {
      running = true;
      committer = std::thread([this] { Run(); });
    }
    for (size_t i = 0; i < stored.size(); ++i)
      if (stored[i] != nullptr) waiting.push_back({stored[i].get(), &answers[i], &left});
    waiting_bytes += bytes;
    auto decided = [&left]() { return left == 0; };
    mu.Await(absl::Condition(&decided));
    return answers;
  }

  void Run() {
    while (true) {
      std::vector<Waiter> batch;
      {
        absl::MutexLock lock(&mu);
        auto something = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu) { return stopping || !waiting.empty(); };
        mu.Await(absl::Condition(&something));
        if (waiting.empty()) return;
        size_t bytes = 0;
        while (!waiting.empty() && int(batch.size()) < options.max_batch && (batch.empty() || bytes < kMaxBatchBytes)) {
          bytes += waiting.front().incoming->delivery.body.size();
          batch.push_back(waiting.front());
          waiting.pop_front();
        }
        waiting_bytes -= int64_t(bytes);
      }
      // One order for all committers, also in other processes.
      std::stable_sort(batch.begin(), batch.end(), [](const Waiter& a, const Waiter& b) {
        return std::tie(a.incoming->tenant, a.incoming->source, a.incoming->key) <
               std::tie(b.incoming->tenant, b.incoming->source, b.incoming->key);
      });
      std::vector<Answer> answers(batch.size());
      Commit(absl::MakeSpan(batch), absl::MakeSpan(answers));
      absl::MutexLock lock(&mu);
      for (size_t i = 0; i < batch.size(); ++i) {
        *batch[i].answer = std::move(answers[i]);
        --*batch[i].left;
      }
    }
  }

  // Stores a batch or, when one of its rows makes that impossible, its halves.
  void Commit(absl::Span<Waiter> batch, absl::Span<Answer> answers) {
    std::vector<jobs::Enqueued> enqueued;
    absl::Status status =
        deps.pool.Transaction(deps.clock.Now() + options.commit_timeout, [&](pqxx::transaction_base& tx) {
          enqueued.clear();
          return Store(tx, batch, answers, &enqueued);
        });
    if (status.ok()) {
      deps.handoff.Publish(enqueued);
      for (size_t i = 0; i < batch.size(); ++i) {
        const Incoming& in = *batch[i].incoming;
        bool duplicate = answers[i].event_id != FormatId("evt", in.id);
        Received(in.source, duplicate ? "duplicate" : in.state == "received" ? "stored" : in.state).Increment();
      }
      return;
    }
    const bool hopeless = postgres::IsTransient(status) || absl::IsUnavailable(status) ||
                          absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status);
    if (batch.size() > 1 && !hopeless) {
      size_t half = batch.size() / 2;
      Commit(batch.subspan(0, half), answers.subspan(0, half));
      Commit(batch.subspan(half), answers.subspan(half));
      return;
    }
    log::Error("webhooks not stored", {{"events", int64_t(batch.size())},
                                       {"source", batch[0].incoming->source},
                                       {"reason", ToStd(status.message())}});
    for (size_t i = 0; i < batch.size(); ++i) {
      Received(batch[i].incoming->source, "not_stored").Increment();
      answers[i] = Refuse(503, "service-unavailable", 5);
    }
  }

  absl::Status Store(pqxx::transaction_base& tx, absl::Span<Waiter> batch, absl::Span<Answer> answers,
                     std::vector<jobs::Enqueued>* enqueued) {
    const absl::Time now = deps.clock.Now();
    PgArray tenants, sources, keys, events, expiries;
    for (const Waiter& waiter : batch) {
      const Incoming& in = *waiter.incoming;
      tenants.Add(in.tenant);
      sources.Add(in.source);
      keys.Add(in.key);
      events.Add(in.id.ToString());
      expiries.Add(FormatTimestamp(now + in.window));
    }
    pqxx::result taken =
        tx.exec_params(sql::kTakeDedup, std::move(tenants).Finish(), std::move(sources).Finish(),
                       std::move(keys).Finish(), std::move(events).Finish(), std::move(expiries).Finish());
    absl::flat_hash_map<std::string, bool> fresh;
    for (const auto& row : taken) fresh[row[0].c_str()] = true;

    std::vector<Incoming*> news;
    std::vector<size_t> duplicates;
    for (size_t i = 0; i < batch.size(); ++i) {
      Incoming* in = batch[i].incoming;
      if (fresh.contains(in->id.ToString())) {
        news.push_back(in);
        answers[i] = Accept(FormatId("evt", in->id), false);
      } else {
        duplicates.push_back(i);
      }
    }

    std::vector<jobs::JobSpec> specs;
    for (Incoming* in : news) {
      if (in->state != "received") continue;
      jobs::JobSpec spec;
      spec.kind = std::string(kProcessKind);
      spec.queue = options.queue;
      spec.args = StrCat("{\"event\":", JsonQuote(FormatId("evt", in->id)), "}");
      if (!in->entity.empty()) spec.ordering_key = StrCat(in->source, "/", in->entity);
      spec.catalog_hash = in->catalog_hash;
      spec.context = &in->context;
      specs.push_back(std::move(spec));
    }
    if (!specs.empty()) {
      CallContext context = *specs[0].context;
      ASSIGN_OR_RETURN(*enqueued, jobs::Enqueue(tx, context, specs));
    }

    if (!news.empty()) {
      PgArray id, tenant, source, external_id, type, entity, state, event_time, received_at, job_id, detail, hash, key,
          target, headers, content_type, body, remote, request_id, traceparent;
      size_t job = 0;
      for (const Incoming* in : news) {
        id.Add(in->id.ToString());
        tenant.Add(in->tenant);
        source.Add(in->source);
        external_id.Add(in->external_id);
        type.Add(in->type);
        entity.Add(in->entity);
        state.Add(in->state);
        in->event_time ? event_time.Add(FormatTimestamp(*in->event_time)) : event_time.AddNull();
        received_at.Add(FormatTimestamp(in->delivery.received_at));
        in->state == "received" ? job_id.Add((*enqueued)[job++].id.ToString()) : job_id.AddNull();
        detail.Add(in->detail);
        hash.Add(in->catalog_hash);
        key.Add(in->key);
        target.Add(Cut(in->delivery.target, 2048));
        headers.Add(HeadersJson(in->delivery));
        content_type.Add(Cut(in->delivery.Header("content-type").value_or(""), kMaxText));
        body.Add(StrCat("\\x", HexEncode(in->delivery.body)));
        remote.Add(Cut(in->delivery.remote_address, 64));
        request_id.Add(in->context.request_id);
        traceparent.Add(in->context.traceparent);
      }
      tx.exec_params(sql::kInsertEvents, std::move(id).Finish(), std::move(tenant).Finish(), std::move(source).Finish(),
                     std::move(external_id).Finish(), std::move(type).Finish(), std::move(entity).Finish(),
                     std::move(state).Finish(), std::move(event_time).Finish(), std::move(received_at).Finish(),
                     std::move(job_id).Finish(), std::move(detail).Finish(), std::move(hash).Finish(),
                     std::move(key).Finish(), std::move(target).Finish(), std::move(headers).Finish(),
                     std::move(content_type).Finish(), std::move(body).Finish(), std::move(remote).Finish(),
                     std::move(request_id).Finish(), std::move(traceparent).Finish());
    }

    if (!duplicates.empty()) {
      PgArray dup_tenants, dup_sources, dup_keys;
      for (size_t i : duplicates) {
        dup_tenants.Add(batch[i].incoming->tenant);
        dup_sources.Add(batch[i].incoming->source);
        dup_keys.Add(batch[i].incoming->key);
      }
      pqxx::result known = tx.exec_params(sql::kCountDuplicates, std::move(dup_tenants).Finish(),
                                          std::move(dup_sources).Finish(), std::move(dup_keys).Finish());
      std::map<std::tuple<std::string, std::string, std::string>, std::string> by_key;
      for (const auto& row : known) {
        absl::StatusOr<Uuid> event = ParseUuid(row[3].c_str());
        if (event.ok()) by_key[{row[0].c_str(), row[1].c_str(), row[2].c_str()}] = FormatId("evt", *event);
      }
      for (size_t i : duplicates) {
        const Incoming& in = *batch[i].incoming;
        // The key may have been purged between the two statements; then it was not stored, and the sender tries again.
        auto found = by_key.find({in.tenant, in.source, in.key});
        if (found == by_key.end()) return absl::AbortedError("a dedup key vanished");
        answers[i] = Accept(found->second, true);
      }
    }
    return absl::OkStatus();
  }

  const InboxOptions options;
  const InboxDependencies deps;
  Schemes schemes;
  absl::Mutex mu;
  std::deque<Waiter> waiting ABSL_GUARDED_BY(mu);
  int64_t waiting_bytes ABSL_GUARDED_BY(mu) = 0;
  bool stopping ABSL_GUARDED_BY(mu) = false, running ABSL_GUARDED_BY(mu) = false;
  std::thread committer;
};

Inbox::Inbox(InboxOptions options, InboxDependencies dependencies)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(dependencies))) {}

Inbox::~Inbox() {
  Stop();
}

std::vector<Answer> Inbox::Ingest(std::vector<Delivery> deliveries) {
  return impl_->Ingest(std::move(deliveries));
}

void Inbox::Stop() {
  {
    absl::MutexLock lock(&impl_->mu);
    if (impl_->stopping) return;
    impl_->stopping = true;
  }
  if (impl_->committer.joinable()) impl_->committer.join();
}

absl::StatusOr<int64_t> Inbox::PurgeDedup(int limit) {
  int64_t purged = 0;
  RETURN_IF_ERROR(impl_->deps.pool.Transaction(
      impl_->deps.clock.Now() + impl_->options.commit_timeout, [&](pqxx::transaction_base& tx) {
        purged = int64_t(tx.exec_params(sql::kPurgeDedup, limit).affected_rows());
        return absl::OkStatus();
      }));
  return purged;
}

}  // namespace mainstay::webhooks
