// SPDX-License-Identifier: Apache-2.0
#include "libs/webhooks/processing.h"

#include <algorithm>
#include <optional>
#include <pqxx/pqxx>

#include "absl/strings/numbers.h"
#include "libs/base/clock.h"
#include "libs/base/ids.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/enqueue.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/records/merge.h"
#include "libs/telemetry/log.h"
#include "libs/webhooks/extract.h"
#include "libs/webhooks/routes.h"
#include "libs/webhooks/sql.h"

namespace mainstay::webhooks {
namespace {

using jobs::Outcome;
using jobs::RunningJob;

constexpr size_t kMaxDetail = 1000;
constexpr size_t kMaxJobPayload = 200 << 10;

struct Event {
  Uuid id;
  std::string tenant, source, external_id, type, entity, state, event_time;
  bool open = false;
  Delivery delivery;
};

// What will not get better by trying again: the event fails, its job is dead. Everything else is a status for the job's
// retry policy.
struct Permanent {
  std::string code, message;
};

// One expression's value. `number`: it was a JSON number (times may be).
struct Value {
  std::optional<std::string> text;
  bool number = false;
};

// Whether `job` is to work on the event: it waits, or failed by this very job, which was since retried by hand.
bool IsOpen(const pqxx::field& state, const pqxx::field& job_id, const RunningJob& job) {
  const std::string_view word = state.c_str();
  return word == "received" || (word == "failed" && job.id().ToString() == job_id.c_str());
}

std::string Shorten(std::string_view text) {
  return std::string(TruncateUtf8(text, kMaxDetail));
}

bool Transient(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kCancelled:
      return true;
    default:
      return postgres::IsTransient(status);
  }
}

// The detail of a problem with its first errors: what an operator needs to see.
std::string Describe(const absl::Status& status) {
  std::string out(ToStd(status.message()));
  int shown = 0;
  for (const FieldError& error : ProblemFromStatus(status).errors) {
    if (++shown > 5) break;
    StrAppend(&out, "; ", error.name, ": ", error.code, error.detail.empty() ? "" : StrCat(" (", error.detail, ")"));
  }
  return out;
}

class Processor {
 public:
  explicit Processor(ProcessingDependencies deps) : deps_(std::move(deps)) {}

  Outcome Process(RunningJob& job) {
    absl::StatusOr<JsonDocument> args = JsonDocument::Parse(std::string(job.args()));
    const JsonValue* event_id = args.ok() ? args->root().Find("event") : nullptr;
    absl::StatusOr<Uuid> id = event_id != nullptr && event_id->is_string() ? ParseId("evt", event_id->text())
                                                                           : absl::InvalidArgumentError("no event");
    if (!id.ok()) return Outcome::Dead("args_invalid", "args must be {\"event\": \"evt_…\"}");

    Event event;
    absl::Status loaded = Load(job, *id, &event);
    if (absl::IsNotFound(loaded)) return Outcome::Dead("event_missing", "the event no longer exists");
    if (!loaded.ok()) return Outcome::FromStatus(loaded);
    // A job acts for its own tenant only, whatever its arguments say.
    const Principal& owner = job.context().principal;
    if (owner.tenant != event.tenant) return Outcome::Dead("event_missing", "the event no longer exists");
    if (!event.open) return Outcome::Done(StrCat("{\"state\":", JsonQuote(event.state), ",\"already\":true}"));

    catalog::ModelPtr model = deps_.model();
    if (model == nullptr) return Outcome::Retry("no_catalog", "no catalog is loaded yet", absl::Seconds(5));
    auto source = model->sources.find(event.source);
    if (source == model->sources.end())
      return Conclude(job, event, "failed", StrCat("source ", event.source, " is no longer declared"),
                      Outcome::Dead("source_unknown", "the source is no longer declared"));
    const catalog::Route* route = FindRoute(source->second, event.type);
    if (route == nullptr) return Conclude(job, event, "unrouted", "", Outcome::Done("{\"state\":\"unrouted\"}"));

    JsonLimits limits;
    limits.depth = 64;
    absl::StatusOr<JsonDocument> body = JsonDocument::Parse(event.delivery.body, limits);
    const JsonValue* body_root = body.ok() ? &body->root() : nullptr;
    std::optional<JsonDocument> fetched;
    if (route->fetch) {
      absl::StatusOr<JsonDocument> answer = Fetch(job, event, *route->fetch, body_root);
      if (!answer.ok()) {
        std::string message =
            StrCat("fetch ", route->fetch->provider, ".", route->fetch->operation, ": ", Describe(answer.status()));
        if (!Transient(answer.status())) return Fail(job, event, {"fetch_failed", message});
        Note(job, event, message);
        Outcome outcome = Outcome::FromStatus(answer.status());
        outcome.message = Shorten(message);
        return outcome;
      }
      fetched = *std::move(answer);
    }
    return Apply(job, event, *model, *route, body_root, fetched ? &fetched->root() : nullptr);
  }

 private:
  absl::Status Load(const RunningJob& job, const Uuid& id, Event* event) {
    return deps_.pool.Autocommit(job.context().deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
      pqxx::result rows = tx.exec_params(sql::kLoadEvent, id.ToString());
      if (rows.empty()) return absl::NotFoundError("no such event");
      const auto& row = rows[0];
      event->id = id;
      event->tenant = row[0].c_str();
      event->source = row[1].c_str();
      event->external_id = row[2].c_str();
      event->type = row[3].c_str();
      event->entity = row[4].c_str();
      event->state = row[5].c_str();
      event->open = IsOpen(row[5], row[13], job);
      event->event_time = row[6].is_null() ? "" : row[6].c_str();
      std::optional<std::string> bytes = HexDecode(row[7].c_str());
      if (!bytes) return absl::DataLossError("the stored body is not readable");
      event->delivery.body = *std::move(bytes);
      event->delivery.source = event->source;
      event->delivery.method = "POST";
      event->delivery.target = row[9].c_str();
      absl::StatusOr<JsonDocument> headers = JsonDocument::Parse(row[8].c_str());
      if (headers.ok() && headers->root().is_array()) {
        for (const JsonValue& pair : headers->root().items())
          if (pair.is_array() && pair.items().size() == 2)
            event->delivery.headers.emplace_back(std::string(pair.items()[0].text()),
                                                 std::string(pair.items()[1].text()));
      }
      return absl::OkStatus();
    });
  }

  // nullopt: the expression names something that is not there.
  std::optional<Value> Evaluate(std::string_view expression, const Event& event, const JsonValue* body,
                                const JsonValue* fetched) {
    size_t colon = expression.find(':');
    std::string_view kind = expression.substr(0, colon),
                     name = colon == std::string_view::npos ? std::string_view() : expression.substr(colon + 1);
    if (kind == "const") return Value{std::string(name)};
    if (kind == "json" || kind == "fetched") {
      const JsonValue* root = kind == "json" ? body : fetched;
      const JsonValue* value = root == nullptr ? nullptr : FindPath(*root, name);
      if (value == nullptr) return std::nullopt;
      return Value{TextOf(*value), value->is_number()};
    }
    if (kind == "event") {
      std::string text = name == "id"       ? event.external_id
                         : name == "type"   ? event.type
                         : name == "time"   ? event.event_time
                         : name == "entity" ? event.entity
                                            : "";
      if (text.empty()) return std::nullopt;
      return Value{std::move(text)};
    }
    std::optional<std::string> text = Extract({std::string(expression)}, event.delivery, body);
    if (!text) return std::nullopt;
    return Value{std::move(text)};
  }

  absl::StatusOr<JsonDocument> Fetch(RunningJob& job, const Event& event, const catalog::FetchRoute& route,
                                     const JsonValue* body) {
    ProviderCall call;
    call.provider = route.provider;
    call.connection = route.connection;
    call.operation = route.operation;
    // The same on every run of this job, so a repeated call is the same logical call.
    call.idempotency_key = FormatId("job", job.id());
    call.params.clear();
    JsonWriter json(call.params);
    json.BeginObject();
    for (const auto& [name, expression] : route.params) {
      std::optional<Value> value = Evaluate(expression, event, body, nullptr);
      if (!value || !value->text)
        return absl::FailedPreconditionError(StrCat("parameter ", name, ": ", expression, " is not in the event"));
      json.Key(name).String(*value->text);
    }
    json.EndObject();
    CallContext context = job.context();
    context.principal = PrincipalOf(event);
    ASSIGN_OR_RETURN(std::string answer, deps_.providers.Call(context, call));
    JsonLimits limits;
    limits.depth = 64;
    absl::StatusOr<JsonDocument> document = JsonDocument::Parse(std::move(answer), limits);
    if (!document.ok()) return absl::FailedPreconditionError("the provider's answer is not JSON");
    return document;
  }

  static Principal PrincipalOf(const Event& event) {
    std::string name = StrCat("source:", event.source);
    return {event.tenant, name, {name}};
  }

  Outcome Apply(RunningJob& job, const Event& event, const catalog::Model& model, const catalog::Route& route,
                const JsonValue* body, const JsonValue* fetched) {
    CallContext context = job.context();
    context.principal = PrincipalOf(event);
    std::optional<Permanent> permanent;
    std::vector<jobs::Enqueued> enqueued;
    Outcome outcome;
    absl::Status status = deps_.pool.Transaction(context.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
      permanent.reset();
      enqueued.clear();
      pqxx::result locked = tx.exec_params(sql::kLockEvent, event.id.ToString());
      if (locked.empty()) return absl::NotFoundError("the event is gone");
      if (!IsOpen(locked[0][0], locked[0][1], job)) {
        outcome = Outcome::Done(StrCat("{\"state\":", JsonQuote(locked[0][0].c_str()), ",\"already\":true}"));
        return job.FinishIn(tx, outcome);
      }
      tx.exec("SAVEPOINT applies");
      std::string state = "processed", detail, result;
      JsonWriter json(result);
      json.BeginObject().Key("applied").BeginArray();
      for (const catalog::ApplyRoute& apply : route.apply) {
        ASSIGN_OR_RETURN(std::optional<std::string> done,
                         ApplyOne(tx, context, event, model, apply, body, fetched, &permanent));
        if (permanent) return absl::FailedPreconditionError("permanent");
        if (!done) continue;
        json.BeginObject().Key("resource").String(apply.resource).Key("status").String(*done).EndObject();
        if (*done == "stale") {
          // Old news: nothing of it may stay, also not what stood before the guard.
          tx.exec("ROLLBACK TO SAVEPOINT applies");
          state = "stale";
          detail = StrCat(apply.resource, " has a newer ", apply.stale_field);
          break;
        }
      }
      json.EndArray();
      if (state == "processed" && route.job) {
        jobs::JobSpec spec;
        spec.kind = route.job->kind;
        spec.queue = route.job->queue.empty() ? "default" : route.job->queue;
        spec.catalog_hash = model.hash;
        spec.args.clear();
        JsonWriter args(spec.args);
        args.BeginObject()
            .Key("event")
            .String(FormatId("evt", event.id))
            .Key("source")
            .String(event.source)
            .Key("type")
            .String(event.type);
        args.Key("entity").String(event.entity);
        if (body != nullptr && event.delivery.body.size() <= kMaxJobPayload) args.Key("payload").Raw(body->raw());
        args.EndObject();
        absl::StatusOr<std::vector<jobs::Enqueued>> added = jobs::Enqueue(tx, context, {&spec, 1});
        if (!added.ok()) {
          if (Transient(added.status())) return added.status();
          permanent = Permanent{"enqueue_refused", Describe(added.status())};
          return absl::FailedPreconditionError("permanent");
        }
        enqueued = *std::move(added);
        json.Key("job").String(FormatId("job", enqueued[0].id));
      }
      json.Key("state").String(state).EndObject();
      tx.exec_params(sql::kConcludeEvent, event.id.ToString(), state, detail);
      outcome = Outcome::Done(result);
      return job.FinishIn(tx, outcome);
    });
    if (permanent) return Fail(job, event, *permanent);
    if (!status.ok()) {
      if (!Transient(status) && ToStd(status.message()) != "fenced")
        return Fail(job, event, {"apply_failed", Describe(status)});
      return Outcome::FromStatus(status);
    }
    if (deps_.handoff != nullptr && !enqueued.empty()) deps_.handoff->Publish(enqueued);
    return outcome;
  }

  // What became of the row ("created", "updated", "stale" …), or nullopt when the apply's conditions do not hold.
  absl::StatusOr<std::optional<std::string>> ApplyOne(pqxx::transaction_base& tx, const CallContext& context,
                                                      const Event& event, const catalog::Model& model,
                                                      const catalog::ApplyRoute& apply, const JsonValue* body,
                                                      const JsonValue* fetched, std::optional<Permanent>* permanent) {
    for (const auto& [expression, expected] : apply.when) {
      std::optional<Value> value = Evaluate(expression, event, body, fetched);
      if (!value || !value->text || *value->text != expected) return std::optional<std::string>();
    }
    const catalog::Resource* resource = model.FindResource(apply.resource);
    if (resource == nullptr) {
      *permanent = Permanent{"resource_unknown", StrCat("resource ", apply.resource, " is not declared")};
      return std::optional<std::string>();
    }
    records::MergeRows rows;
    rows.rows.emplace_back();
    for (const auto& [name, expression] : apply.map) {
      std::optional<Value> value = Evaluate(expression, event, body, fetched);
      const bool identifies = std::find(apply.key.begin(), apply.key.end(), name) != apply.key.end();
      if (!value || (identifies && !value->text)) {
        if (!identifies && name != apply.stale_field) continue;  // what was not sent stays as it is
        *permanent = Permanent{"value_missing", StrCat(apply.resource, ".", name, ": ", expression, " is not there")};
        return std::optional<std::string>();
      }
      const catalog::Field* field = resource->FindField(name);
      if (field != nullptr && value->number && value->text &&
          (field->type.family == catalog::TypeFamily::kTimestampTz ||
           field->type.family == catalog::TypeFamily::kTimestamp)) {
        // Many APIs give times as a number: of seconds, or of milliseconds when it is too large for that.
        int64_t number = 0;
        if (absl::SimpleAtoi(*value->text, &number) && number >= 0)
          value->text =
              FormatTimestamp(number < 100'000'000'000 ? absl::FromUnixSeconds(number) : absl::FromUnixMillis(number));
      }
      rows.fields.push_back(name);
      rows.rows[0].push_back(std::move(value->text));
    }
    records::MergeOptions options;
    options.mode = apply.mode == "create"   ? records::MergeMode::kCreate
                   : apply.mode == "update" ? records::MergeMode::kUpdate
                                            : records::MergeMode::kUpsert;
    options.key = apply.key;
    options.skip_errors = true;  // of one row: its errors are looked at here
    options.stale_field = apply.stale_field;
    options.status_field = apply.status_field;
    options.transitions = apply.transitions;
    absl::StatusOr<records::MergeResult> merged = records::Merge(tx, *resource, model, context, rows, options);
    if (!merged.ok()) {
      if (Transient(merged.status())) return merged.status();
      *permanent = Permanent{"apply_refused", StrCat(apply.resource, ": ", Describe(merged.status()))};
      return std::optional<std::string>();
    }
    switch (merged->status.empty() ? records::RowStatus::kError : merged->status[0]) {
      case records::RowStatus::kCreated:
        return std::optional<std::string>("created");
      case records::RowStatus::kUpdated:
        return std::optional<std::string>("updated");
      case records::RowStatus::kUnchanged:
        return std::optional<std::string>("unchanged");
      case records::RowStatus::kDeleted:
        return std::optional<std::string>("deleted");
      case records::RowStatus::kSkipped:
        return std::optional<std::string>("skipped");
      case records::RowStatus::kStale:
        return std::optional<std::string>("stale");
      case records::RowStatus::kError:
        break;
    }
    std::string message = StrCat(apply.resource, ": refused");
    std::string code = "apply_refused";
    if (!merged->errors.empty()) {
      for (const FieldError& error : merged->errors[0]) {
        StrAppend(&message, "; ", error.name, ": ", error.code,
                  error.detail.empty() ? "" : StrCat(" (", error.detail, ")"));
        if (error.code == "invalid_transition") code = error.code;
      }
    }
    *permanent = Permanent{std::move(code), std::move(message)};
    return std::optional<std::string>();
  }

  Outcome Fail(RunningJob& job, const Event& event, const Permanent& why) {
    log::Warn("webhook event failed", {{"event", FormatId("evt", event.id)},
                                       {"source", event.source},
                                       {"type", event.type},
                                       {"code", why.code},
                                       {"reason", why.message}});
    return Conclude(job, event, "failed", why.message, Outcome::Dead(why.code, Shorten(why.message)));
  }

  // The event's last state and the job's end, together.
  Outcome Conclude(RunningJob& job, const Event& event, std::string_view state, std::string_view detail,
                   Outcome outcome) {
    absl::Status status =
        deps_.pool.Transaction(job.context().deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          tx.exec_params(sql::kConcludeEvent, event.id.ToString(), std::string(state), Shorten(detail));
          return job.FinishIn(tx, outcome);
        });
    if (!status.ok()) return Outcome::FromStatus(status);
    return outcome;
  }

  // Leaves word why the event is not done yet; only a help for people, so its own failure does not matter.
  void Note(RunningJob& job, const Event& event, std::string_view detail) {
    absl::Status noted = deps_.pool.Autocommit(job.context().deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
      tx.exec_params(sql::kNoteEvent, event.id.ToString(), Shorten(detail));
      return absl::OkStatus();
    });
    if (!noted.ok())
      log::Warn("webhook event note not stored",
                {{"event", FormatId("evt", event.id)}, {"reason", ToStd(noted.message())}});
  }

  const ProcessingDependencies deps_;
};

}  // namespace

void RegisterHandlers(jobs::Registry& registry, ProcessingDependencies dependencies) {
  auto processor = std::make_shared<Processor>(std::move(dependencies));
  registry.Register(std::string(kProcessKind), [processor](RunningJob& job) { return processor->Process(job); });
}

}  // namespace mainstay::webhooks
