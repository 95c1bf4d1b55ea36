// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/report.h"

#include <map>
#include <pqxx/pqxx>
#include <vector>

#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/tabular/csv_writer.h"
#include "libs/transfer/decode.h"
#include "libs/transfer/row_errors.h"
#include "libs/transfer/sql.h"

namespace mainstay::transfer {
namespace {

constexpr int64_t kRowsAtOnce = 2000;

struct RowOutcome {
  char status = '?';
  std::string codes, messages;
};

std::string_view StatusWord(const RowOutcome& outcome) {
  if (!outcome.codes.empty()) return "error";
  switch (outcome.status) {
    case 'c':
      return "created";
    case 'u':
      return "updated";
    case 'n':
      return "unchanged";
    case 'd':
      return "deleted";
    case 'e':
      return "error";
    default:
      return "skipped";
  }
}

absl::Status ReadOutcomes(postgres::Pool& pool, const CallContext& context, const Uuid& import, int64_t first,
                          std::vector<RowOutcome>* outcomes) {
  const int64_t last = first + static_cast<int64_t>(outcomes->size()) - 1;
  return pool.Snapshot(context.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
    std::map<int64_t, int> errors_of;
    for (const auto& row : tx.exec_params(sql::kErrorsOfRows, import.ToString(), first, last)) {
      const int64_t number = row[0].as<int64_t>();
      RowOutcome& outcome = (*outcomes)[static_cast<size_t>(number - first)];
      if (++errors_of[number] > 20) continue;
      StrAppend(&outcome.codes, outcome.codes.empty() ? "" : " ", row[1].c_str());
      StrAppend(&outcome.messages, outcome.messages.empty() ? "" : "; ", row[3].c_str(),
                *row[3].c_str() == 0 ? "" : ": ", row[2].c_str());
    }
    for (const auto& row : tx.exec_params(sql::kStatusesOfRows, import.ToString(), first, last)) {
      const int64_t from = row[0].as<int64_t>();
      const std::string statuses = HexDecode(row[1].c_str()).value_or("");
      for (size_t i = 0; i < statuses.size(); ++i) {
        const int64_t number = from + static_cast<int64_t>(i);
        if (number >= first && number <= last) (*outcomes)[static_cast<size_t>(number - first)].status = statuses[i];
      }
    }
    return absl::OkStatus();
  });
}

}  // namespace

absl::Status WriteReport(postgres::Pool& pool, BlobClient& blobs, const CallContext& context, const ImportRow& import,
                         absl::FunctionRef<absl::Status(std::string_view)> write) {
  if (import.state == "queued" || import.state == "running")
    return MakeProblem("conflict", "the import has not ended yet");
  if (import.detection.empty())
    return MakeProblem("conflict",
                       StrCat("the file could not be read: ", import.error.empty() ? import.state : import.error));
  ASSIGN_OR_RETURN(std::unique_ptr<BlobReader> blob, blobs.Read(context, FormatId("blob", import.blob)));
  ASSIGN_OR_RETURN(Decoded file, OpenFile(std::move(blob), import.detection, nullptr));

  std::string text;
  tabular::CsvWriter csv(text, {.escape_formulas = false});  // the user's own text, as it was
  // A report that comes back carries our columns already: they are replaced, not repeated.
  std::vector<bool> ours(file.detection.columns.size(), false);
  for (size_t c = 0; c < file.detection.columns.size(); ++c) {
    const std::string& name = file.detection.columns[c];
    ours[c] = name == "_row" || name == "_status" || name == "_error_codes" || name == "_errors";
    if (!ours[c]) csv.Cell(ShownValue(file.detection.raw_columns.at(c)));
  }
  for (const char* name : {"_row", "_status", "_error_codes", "_errors"}) csv.Cell(name);
  csv.EndRow();

  int64_t first = 1;
  bool ended = false;
  while (!ended) {
    std::vector<tabular::Record> records;
    tabular::Record record;
    size_t bytes = 0;
    while (static_cast<int64_t>(records.size()) < kRowsAtOnce && bytes < (8 << 20)) {
      const auto more = file.records->Next(&record);
      if (!more.ok() && !tabular::GetRefusal(more.status())) return more.status();
      if (!more.ok() || !*more) {
        ended = true;
        break;
      }
      for (const tabular::Cell& cell : record.cells) bytes += cell.text.size();
      records.push_back(record);
    }
    if (!records.empty()) {
      std::vector<RowOutcome> outcomes(records.size());
      RETURN_IF_ERROR(ReadOutcomes(pool, context, import.id, first, &outcomes));
      for (size_t i = 0; i < records.size(); ++i) {
        std::vector<tabular::Cell>& cells = records[i].cells;
        const size_t width = std::max(cells.size(), ours.size());
        for (size_t c = 0; c < width; ++c) {
          if (c < ours.size() && ours[c]) continue;
          if (c >= cells.size() || (cells[c].text.empty() && !cells[c].quoted)) {
            csv.Cell(std::nullopt);
          } else {
            csv.Cell(IsValidUtf8(cells[c].text) ? cells[c].text : ShownValue(cells[c].text));
          }
        }
        csv.Cell(StrCat(first + static_cast<int64_t>(i)), false);
        csv.Cell(StatusWord(outcomes[i]), false);
        csv.Cell(outcomes[i].codes.empty() ? std::nullopt : std::optional<std::string_view>(outcomes[i].codes), false);
        csv.Cell(outcomes[i].messages.empty() ? std::nullopt : std::optional<std::string_view>(outcomes[i].messages),
                 false);
        csv.EndRow();
        if (text.size() >= kChunkBytes) {
          RETURN_IF_ERROR(write(text));
          text.clear();
        }
      }
      first += static_cast<int64_t>(records.size());
    }
  }
  return text.empty() ? absl::OkStatus() : write(text);
}

}  // namespace mainstay::transfer
