// SPDX-License-Identifier: Apache-2.0
// One export as a job: the caller's own list query over everything that matches → rows from one snapshot → CSV → blob.
//
// Streamed: a few thousand rows are in memory at a time, and the blob's flow control slows the cursor down. A crash
// starts again from a new snapshot; the part that was written never became a blob.
#include <algorithm>
#include <pqxx/pqxx>

#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/http/list_query.h"
#include "libs/postgres/copy.h"
#include "libs/records/claims.h"
#include "libs/records/list.h"
#include "libs/tabular/csv_writer.h"
#include "libs/transfer/escape.h"
#include "libs/transfer/imports.h"
#include "libs/transfer/run_import.h"
#include "libs/transfer/sql.h"
#include "mainstay/common/v1/common.pb.h"

namespace mainstay::transfer {
namespace {

absl::StatusOr<jobs::Outcome> Export(jobs::RunningJob& job, const Dependencies& deps, const Uuid& id) {
  CallContext context = job.context();
  postgres::Pool& pool = *deps.pool;
  ExportRow row;
  bool taken = false;
  RETURN_IF_ERROR(pool.Transaction(context.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
    ASSIGN_OR_RETURN(row, GetExport(tx, context.principal, id));
    taken = tx.exec_params(sql::kTakeExport, id.ToString(), job.fence()).affected_rows() > 0;
    return absl::OkStatus();
  }));
  const auto result_json = [&](std::string_view state, int64_t rows) {
    std::string out;
    JsonWriter(out)
        .BeginObject()
        .Key("export")
        .String(FormatId("exp", id))
        .Key("state")
        .String(state)
        .Key("rows")
        .Int(rows)
        .EndObject();
    return out;
  };
  if (!taken) {
    if (row.state == "queued" || row.state == "running")
      return jobs::Outcome::Retry("fenced", "another run of this export goes on");
    return jobs::Outcome::Done(result_json(row.state, row.rows));
  }
  const auto finish = [&](std::string_view state, int64_t rows, const BlobInfo& file, std::string_view code,
                          std::string_view message) -> absl::StatusOr<jobs::Outcome> {
    jobs::Outcome outcome = jobs::Outcome::Done(result_json(state, rows));
    std::string blob;
    if (!file.id.empty()) {
      ASSIGN_OR_RETURN(const Uuid uuid, ParseId("blob", file.id));
      blob = uuid.ToString();
    }
    RETURN_IF_ERROR(pool.Transaction(job.context().deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
      if (tx.exec_params(sql::kFinishExport, id.ToString(), job.fence(), std::string(state), rows, file.size,
                         file.sha256, blob, std::string(code), std::string(message))
              .affected_rows() == 0)
        return absl::FailedPreconditionError("fenced: another run of this export goes on");
      return job.FinishIn(tx, outcome);
    }));
    return outcome;
  };

  const catalog::ModelPtr model = deps.model();
  const catalog::Resource* resource = model->FindResource(row.request.resource);
  if (resource == nullptr)
    return finish("failed", 0, {}, "resource.unknown",
                  StrCat("the catalog has no resource ", row.request.resource, " any more"));
  if (!resource->problem.empty())
    return MakeProblem("resource-unavailable", StrCat("the resource ", resource->name, " does not fit the database"));
  const auto query = http::ParseListQuery(row.request.query);
  if (!query.ok()) return finish("failed", 0, {}, "query.invalid", ToStd(query.status().message()));
  const auto plan = records::PlanExport(*resource, *model, context, *query);
  if (!plan.ok()) {
    if (absl::IsInvalidArgument(plan.status()) || absl::IsPermissionDenied(plan.status()) ||
        absl::IsNotFound(plan.status()))
      return finish("failed", 0, {}, absl::IsPermissionDenied(plan.status()) ? "forbidden" : "query.invalid",
                    ToStd(plan.status().message()));
    return plan.status();
  }

  const absl::Time until = std::min(context.deadline, absl::Now() + deps.options.export_max_duration);
  ASSIGN_OR_RETURN(
      std::unique_ptr<BlobWriter> writer,
      deps.blobs->Write(context, {.name = StrCat(resource->name, row.request.raw ? "" : kEscapedTag, ".csv"),
                                  .content_type = "text/csv; charset=utf-8; header=present",
                                  .expires_at = row.expires_at}));
  int64_t rows = 0;
  std::string text;
  tabular::CsvWriter csv(text, {.escape_formulas = !row.request.raw});
  std::vector<bool> is_text;
  for (size_t c = 0; c < plan->fields.size(); ++c) {
    csv.Cell(plan->fields[c], false);
    is_text.push_back(MayHoldFormula(plan->types[c]));
  }
  csv.EndRow();
  bool timed_out = false;
  const absl::Status streamed = pool.Snapshot(until, [&](pqxx::transaction_base& tx) -> absl::Status {
    // The pool may try again; rows that are on their way cannot be called back. The job starts over instead.
    if (rows > 0) return absl::UnavailableError("the snapshot was lost in the middle");
    RETURN_IF_ERROR(records::SetClaims(tx, *model, context));
    return postgres::StreamRows(tx, plan->sql, plan->params, [&](const pqxx::result& batch) -> absl::Status {
      if (job.cancelled()) return absl::AbortedError("stopped while exporting");
      if (absl::Now() > until) {
        timed_out = true;
        return absl::DeadlineExceededError("the export took too long");
      }
      for (const auto& r : batch) {
        for (size_t c = 0; c < plan->fields.size(); ++c) {
          const auto field = r[static_cast<pqxx::row::size_type>(c)];
          if (field.is_null()) {
            csv.Cell(std::nullopt);
          } else {
            csv.Cell(records::PlainText(plan->types[c], std::string_view(field.c_str(), field.size())), is_text[c]);
          }
        }
        csv.EndRow();
        ++rows;
        if (text.size() >= kChunkBytes) {
          RETURN_IF_ERROR(writer->Write(text));
          text.clear();
        }
      }
      return absl::OkStatus();
    });
  });
  if (timed_out)
    return finish("failed", rows, {}, "export.too_long",
                  StrCat("the export took longer than ", absl::FormatDuration(deps.options.export_max_duration)));
  RETURN_IF_ERROR(streamed);
  RETURN_IF_ERROR(writer->Write(text));
  ASSIGN_OR_RETURN(const BlobInfo file, writer->Finish());
  return finish("succeeded", rows, file, "", "");
}

}  // namespace

jobs::Outcome RunExport(jobs::RunningJob& job, const Dependencies& dependencies) {
  const auto args = JsonDocument::Parse(std::string(job.args()));
  const JsonValue* id_value = args.ok() ? args->root().Find("id") : nullptr;
  const auto id = ParseId("exp", id_value != nullptr ? id_value->text() : "");
  if (!id.ok()) return jobs::Outcome::Dead("invalid_args", "the job's args name no export");
  absl::StatusOr<jobs::Outcome> outcome = Export(job, dependencies, *id);
  return outcome.ok() ? *std::move(outcome) : jobs::Outcome::FromStatus(outcome.status());
}

jobs::Outcome StartExport(jobs::RunningJob& job, const Dependencies& dependencies) {
  const auto args = JsonDocument::Parse(std::string(job.args()));
  const auto text = [&](std::string_view key) {
    const JsonValue* value = args.ok() ? args->root().Find(key) : nullptr;
    return value != nullptr && value->is_string() ? std::string(value->text()) : std::string();
  };
  const catalog::ModelPtr model = dependencies.model();
  const CallContext& context = job.context();
  const auto request = ResolveExport(*model, context.principal, text("resource"), text("format"), text("query"));
  if (!request.ok()) return jobs::Outcome::FromStatus(request.status());
  CreatedExport created;
  jobs::Outcome outcome;
  const absl::Status stored =
      dependencies.pool->Transaction(context.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
        ASSIGN_OR_RETURN(created, CreateExport(tx, context, *request, model->hash, dependencies.options, absl::Now()));
        std::string result;
        JsonWriter(result).BeginObject().Key("export").String(FormatId("exp", created.id)).EndObject();
        outcome = jobs::Outcome::Done(std::move(result));
        return job.FinishIn(tx, outcome);
      });
  if (!stored.ok()) return jobs::Outcome::FromStatus(stored);
  if (dependencies.handoff != nullptr) dependencies.handoff->Publish(created.enqueued);
  return outcome;
}

}  // namespace mainstay::transfer
