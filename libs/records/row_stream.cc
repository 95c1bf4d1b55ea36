// SPDX-License-Identifier: Apache-2.0
#include "libs/records/row_stream.h"

#include <algorithm>

#include "libs/base/strings.h"
#include "libs/records/list.h"
#include "libs/records/plan.h"
#include "libs/tabular/csv_writer.h"

namespace mainstay::records {
namespace {

using boost::asio::awaitable;

constexpr int kFirstRows = 16, kMostRows = 4000;
constexpr size_t kPieceBytes = 256 << 10;

class RowStream final : public http::BodySource {
 public:
  RowStream(CachePtr cache, CallContext context, std::unique_ptr<ReadPlan> plan,
            std::shared_ptr<postgres::Session> session, std::shared_ptr<void> held, RowStreamOptions options)
      : cache_(std::move(cache)),
        context_(std::move(context)),
        plan_(std::move(plan)),
        level_(plan_->level()),
        runner_(OnSession(*session, cache_->sql)),
        held_(std::move(held)),
        session_(std::move(session)),
        options_(options) {
    AppendHeader(options_.format, plan_->query(), piece_);
  }

  awaitable<absl::Status> Begin() {
    session_->Begin("ISOLATION LEVEL REPEATABLE READ, READ ONLY");
    postgres::Statement statement{plan_->rows().sql(),
                                  plan_->rows().Fill({.context = context_, .given = &plan_->query().given})};
    absl::StatusOr<postgres::Result> rows = co_await session_->FetchFirst(std::move(statement), asked_);
    if (!rows.ok()) co_return ReadFailure(rows.status());
    const absl::Status taken = co_await Take(*std::move(rows));
    co_return taken;
  }

  awaitable<absl::StatusOr<std::string>> Next() override {
    if (piece_.empty() && session_ != nullptr) {
      absl::StatusOr<postgres::Result> rows = co_await session_->FetchMore(asked_);
      if (!rows.ok()) co_return rows.status();
      const absl::Status taken = co_await Take(*std::move(rows));
      if (!taken.ok()) co_return taken;
    }
    co_return std::exchange(piece_, std::string());
  }

  void Cancel() override {
    if (session_ != nullptr) session_->Cancel();
  }

 private:
  awaitable<absl::Status> Take(postgres::Result result) {
    const int rows = result.rows();
    level_.rows = WrapResult(std::move(result));
    level_.shown = rows;
    level_.related.clear();
    if (!plan_->level().below.empty() && rows > 0) {
      const absl::Status related =
          co_await FetchRelated(*runner_, *cache_->model, context_, plan_->query().given, level_, options_.reading);
      if (!related.ok()) co_return related;
    }
    const size_t before = piece_.size();
    for (int row = 0; row < rows; ++row) AppendRow(options_.format, options_.escape_formulas, level_, row, piece_);
    if (rows < asked_) {
      Release();
    } else {
      const size_t each = std::max<size_t>(1, (piece_.size() - before) / static_cast<size_t>(rows));
      asked_ = static_cast<int>(std::clamp<size_t>(kPieceBytes / each, 1, kMostRows));
    }
    co_return absl::OkStatus();
  }

  // The transaction read only: rolled back in the background.
  void Release() {
    level_.rows.reset();
    runner_.reset();
    session_.reset();
    held_.reset();
  }

  const CachePtr cache_;
  const CallContext context_;
  const std::unique_ptr<ReadPlan> plan_;
  Level level_;
  std::unique_ptr<Runner> runner_;
  std::shared_ptr<void> held_;
  std::shared_ptr<postgres::Session> session_;
  const RowStreamOptions options_;
  int asked_ = kFirstRows;
  std::string piece_;
};

}  // namespace

std::string_view ContentType(RowFormat format) {
  switch (format) {
    case RowFormat::kCsv:
      return "text/csv; charset=utf-8; header=present";
    case RowFormat::kLines:
      return "application/x-ndjson";
    case RowFormat::kJson:
      break;
  }
  return "application/json";
}

void AppendHeader(RowFormat format, const ListQuery& query, std::string& out) {
  if (format != RowFormat::kCsv) return;
  tabular::CsvWriter csv(out, {.escape_formulas = false});
  for (int position : query.output) csv.Cell(query.resource->fields[static_cast<size_t>(position)].name);
  csv.EndRow();
}

void AppendRow(RowFormat format, bool escape_formulas, const Level& level, int row, std::string& out) {
  if (format != RowFormat::kCsv) {
    RenderRow(level, row, out);
    out += '\n';
    return;
  }
  tabular::CsvWriter csv(out, {.escape_formulas = escape_formulas});
  const ListQuery& query = *level.plan->query;
  for (int position : query.output) {
    const catalog::ColumnType& type = query.resource->fields[static_cast<size_t>(position)].type;
    const int column = level.ColumnOf(position);
    if (level.rows->IsNull(row, column)) {
      csv.Cell(std::nullopt);
    } else {
      csv.Cell(PlainText(type, level.rows->Get(row, column)), type.array || type.family == catalog::TypeFamily::kText);
    }
  }
  csv.EndRow();
}

awaitable<absl::StatusOr<std::unique_ptr<http::BodySource>>> OpenRowStream(
    CachePtr cache, CallContext context, std::unique_ptr<ReadPlan> plan, postgres::AsyncPostgres& postgres,
    const http::Request* request, std::shared_ptr<void> held, RowStreamOptions options) {
  auto acquired = co_await postgres.Acquire(absl::Now() + options.life);
  if (!acquired.ok()) co_return acquired.status();
  std::shared_ptr<postgres::Session> session = *std::move(acquired);
  CancelOnDisconnect(request, session);
  auto stream = std::make_unique<RowStream>(std::move(cache), std::move(context), std::move(plan), std::move(session),
                                            std::move(held), options);
  const absl::Status begun = co_await stream->Begin();
  if (!begun.ok()) co_return begun;
  co_return std::unique_ptr<http::BodySource>(std::move(stream));
}

}  // namespace mainstay::records
