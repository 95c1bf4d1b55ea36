// SPDX-License-Identifier: Apache-2.0
// A worker of one's own: two kinds of jobs for the demo's shop.
//
//   shop.ship     {"order": "7"}        ships a paid order: once, whatever happens
//   shop.revenue  {"pause_ms": 100}     adds up all orders, page by page, and goes on where it was after a crash
//
// It may be killed at any moment and run in any number of copies, beside the suite's own workers.
#include <algorithm>
#include <pqxx/pqxx>
#include <string>

#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/jobs/worker_main.h"
#include "libs/postgres/pool.h"

namespace {

using mainstay::JsonDocument;
using mainstay::JsonQuote;
using mainstay::JsonValue;
using mainstay::MakeProblem;
using mainstay::StrCat;
using mainstay::jobs::Outcome;
using mainstay::jobs::RunningJob;

constexpr char kShipSchema[] = R"({
  "type": "object", "required": ["order"], "additionalProperties": false,
  "properties": {"order": {"type": "string", "pattern": "^[0-9]{1,18}$"}}})";

std::string Text(std::string_view json, std::string_view name, std::string fallback) {
  const auto document = JsonDocument::Parse(std::string(json));
  const JsonValue* value = document.ok() ? document->root().Find(name) : nullptr;
  return value == nullptr ? std::move(fallback) : std::string(value->text());
}

// The order and the job change in one transaction. If the process dies before its commit, neither did and the job runs
// again; if another worker has the job by now, FinishIn refuses and the order stays as it is.
Outcome Ship(RunningJob& job) {
  const absl::Status status =
      job.pool().Transaction(job.context().deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
        const pqxx::result shipped = tx.exec_params(
            "UPDATE shop.orders SET status = 'shipped', version = version + 1, updated_at = now() "
            "WHERE id = $1 AND tenant_id = $2 AND status = 'paid' RETURNING number",
            Text(job.args(), "order", ""), job.context().principal.tenant);
        if (shipped.empty())
          return MakeProblem("rule-violation", "there is no such order that is paid and not shipped");
        return job.FinishIn(tx, Outcome::Done(StrCat("{\"shipped\":", JsonQuote(shipped[0][0].c_str()), "}")));
      });
  // What may help another time (the database is away) is retried; what cannot (the rule above) is dead at once.
  return status.ok() ? Outcome::Done() : Outcome::FromStatus(status);
}

// Saves after each page how far it is. A run after a crash, a deploy or an error begins there.
Outcome Revenue(RunningJob& job) {
  const absl::Duration pause = absl::Milliseconds(std::atoi(Text(job.args(), "pause_ms", "0").c_str()));
  const std::string began = Text(job.checkpoint(), "after", "0");
  std::string after = began, sum = Text(job.checkpoint(), "sum", "0");
  for (bool more = true; more;) {
    if (job.cancelled()) return Outcome::Retry("stopped", "told to stop");
    absl::Status status =
        job.pool().Autocommit(job.context().deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          const auto page = tx.exec_params1(
              "SELECT max(id), coalesce(sum(total), 0) + $3::numeric FROM (SELECT id, total FROM shop.orders WHERE "
              "tenant_id = $1 AND id > $2 ORDER BY id LIMIT 500) page",
              job.context().principal.tenant, after, sum);
          more = !page[0].is_null();
          if (more) after = page[0].c_str();
          sum = page[1].c_str();
          return absl::OkStatus();
        });
    if (status.ok()) status = job.SaveCheckpoint(StrCat("{\"after\":\"", after, "\",\"sum\":\"", sum, "\"}"));
    if (status.ok()) status = job.Progress(0, StrCat("up to order ", after));
    if (!status.ok()) return Outcome::FromStatus(status);
    for (const absl::Time end = absl::Now() + pause; absl::Now() < end && !job.cancelled();)
      absl::SleepFor(std::min(absl::Milliseconds(20), pause));
  }
  return Outcome::Done(StrCat("{\"sum\":\"", sum, "\",\"began_after\":\"", began, "\"}"));
}

}  // namespace

int main(int argc, char** argv) {
  mainstay::jobs::Registry registry;
  registry.Register("shop.ship", Ship);
  registry.SetSchema("shop.ship", kShipSchema);
  registry.Register("shop.revenue", Revenue);
  return mainstay::jobs::WorkerMain(argc, argv, registry);
}
