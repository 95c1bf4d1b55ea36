// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/run_import.h"

#include <algorithm>
#include <map>
#include <pqxx/pqxx>

#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/introspect.h"
#include "libs/postgres/copy.h"
#include "libs/postgres/errors.h"
#include "libs/records/merge.h"
#include "libs/tabular/csv_writer.h"
#include "libs/telemetry/log.h"
#include "libs/transfer/decode.h"
#include "libs/transfer/escape.h"
#include "libs/transfer/imports.h"
#include "libs/transfer/mapping.h"
#include "libs/transfer/row_errors.h"
#include "libs/transfer/sql.h"
#include "libs/transfer/values.h"

namespace mainstay::transfer {
namespace {

using records::MergeMode;
using records::RowStatus;

// Errors of a merge that is going to be rolled back, held until they can be stored.
constexpr size_t kMaxHeldErrors = 10'000;

absl::Status Fenced() {
  return absl::FailedPreconditionError("fenced: another run of this import goes on");
}
bool IsFenced(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) && status.message().substr(0, 6) == "fenced";
}
// A transaction is rolled back on purpose; nothing went wrong.
absl::Status RollBack() {
  return absl::CancelledError("rolled back on purpose");
}

absl::Status Changed(const pqxx::result& result) {
  return result.affected_rows() > 0 ? absl::OkStatus() : Fenced();
}

struct StagedRow {
  int64_t row = 0, line = 0;
  std::vector<std::optional<std::string>> cells;  // as Mapping::columns
};

class ImportRun {
 public:
  ImportRun(jobs::RunningJob& job, const Dependencies& dependencies)
      : job_(job), deps_(dependencies), pool_(*dependencies.pool), deadline_(job.context().deadline) {}

  absl::StatusOr<jobs::Outcome> Run(const Uuid& id);

 private:
  // How the merge ended, before it is written down.
  struct Totals {
    RowCounts rows;
    ErrorCounts errors;
  };

  absl::Status Load(const Uuid& id);
  absl::Status OpenAndMap();
  absl::Status Stage();
  absl::Status ParseRecord(const tabular::Record& record, int64_t row, bool* good,
                           std::vector<std::optional<std::string>>* cells, std::vector<RowError>* errors);
  absl::Status RemoveDuplicates();
  absl::StatusOr<jobs::Outcome> MergeAll();
  absl::StatusOr<jobs::Outcome> MergeChunks();
  absl::StatusOr<std::vector<StagedRow>> ReadStaged(pqxx::transaction_base& tx, int64_t after);
  // Merges one batch; statuses are per row of the batch.
  absl::Status MergeBatch(pqxx::transaction_base& tx, const std::vector<StagedRow>& batch, std::string* statuses,
                          RowCounts* counts, std::vector<RowError>* errors);
  absl::Status StoreStatuses(pqxx::transaction_base& tx, int64_t first, int64_t last,
                             const std::vector<StagedRow>& batch, const std::string& statuses);
  absl::Status SetFinished(pqxx::transaction_base& tx, std::string_view state, std::string_view code,
                           std::string_view message, const Totals& totals, jobs::Outcome* outcome);
  // Ends the import without rows: nothing was written, or only chunks before.
  absl::StatusOr<jobs::Outcome> FinishWithout(std::string_view state, std::string_view code, std::string_view message,
                                              Totals totals, const std::vector<RowError>& errors);
  bool TooManyErrors(int64_t rows_with_errors) const;
  std::string StagingTable() const;
  void DropStaging();
  RowError MergeError(const StagedRow& row, const FieldError& error) const;

  jobs::RunningJob& job_;
  const Dependencies& deps_;
  postgres::Pool& pool_;
  const absl::Time deadline_;
  catalog::ModelPtr model_;
  const catalog::Resource* resource_ = nullptr;
  const catalog::ImportMapping* declared_ = nullptr;
  MergeMode mode_ = MergeMode::kUpsert;
  ImportRow import_;
  Mapping mapping_;
  Decoded file_;
  std::vector<ValueParser> parsers_;  // as mapping_.columns
  ErrorCounts counts_;
  int64_t staged_rows_ = 0, staged_good_ = 0;
  int64_t not_asked_for_ = 0;  // rows of a report that was sent back which had no error
  bool catalog_changed_ = false;
};

std::string ImportRun::StagingTable() const {
  std::string hex = import_.id.ToString();
  hex.erase(std::remove(hex.begin(), hex.end(), '-'), hex.end());
  return StrCat("import_staging_", hex);
}

absl::Status ImportRun::Load(const Uuid& id) {
  return pool_.Transaction(deadline_, [&](pqxx::transaction_base& tx) -> absl::Status {
    ASSIGN_OR_RETURN(import_, GetImport(tx, job_.context().principal, id));
    if (tx.exec_params(sql::kTakeImport, id.ToString(), job_.fence()).affected_rows() == 0) {
      if (import_.state == "queued" || import_.state == "running") return Fenced();
      return absl::OkStatus();  // has ended: nothing to do
    }
    if (import_.state == "queued") import_.state = "running";
    // Under another catalog the columns may map otherwise: what was staged is not trusted. Rows that were committed
    // stay committed.
    catalog_changed_ = import_.catalog_hash != model_->hash;
    if (catalog_changed_ && import_.merged_row == 0) {
      RETURN_IF_ERROR(Changed(tx.exec_params(sql::kResetImport, id.ToString(), job_.fence(), model_->hash)));
      tx.exec_params(sql::kDeleteErrors, id.ToString());
      import_.detection.clear();
      import_.staged = false;
      import_.staged_rows = import_.staged_good = import_.rows.error = import_.errors_kept = 0;
      import_.errors_by_code = "{}";
    }
    return absl::OkStatus();
  });
}

absl::Status ImportRun::OpenAndMap() {
  const CallContext& context = job_.context();
  ASSIGN_OR_RETURN(std::unique_ptr<BlobReader> blob, deps_.blobs->Read(context, FormatId("blob", import_.blob)));
  ASSIGN_OR_RETURN(file_, OpenFile(std::move(blob), import_.detection,
                                   [this](std::string_view name) { return NamesField(*resource_, declared_, name); }));
  if (file_.detection.header == tabular::Detection::Header::kAbsent)
    return tabular::Refuse("header.missing_required", "the file has no header line; the first line names the columns");
  if (file_.detection.header == tabular::Detection::Header::kUnknown)
    return tabular::Refuse("header.ambiguous", "it cannot be told whether the first line names the columns");
  ASSIGN_OR_RETURN(mapping_, MapColumns(*resource_, declared_, context.principal, mode_, import_.request.key,
                                        file_.detection.columns));
  parsers_.clear();
  std::vector<std::string> warnings = mapping_.warnings;
  for (const MappedColumn& column : mapping_.columns) {
    const catalog::Field& field = resource_->fields[static_cast<size_t>(column.field)];
    ValueParser parser(field, declared_ != nullptr ? declared_->locale : "en",
                       declared_ != nullptr ? declared_->zone : "");
    for (const tabular::Record& record : file_.sample)
      if (column.column < static_cast<int>(record.cells.size()))
        parser.Learn(record.cells[static_cast<size_t>(column.column)].text);
    if (const std::string warning = parser.warning(); !warning.empty())
      warnings.push_back(StrCat(warning, ": ", field.name));
    parsers_.push_back(parser);
  }
  if (!import_.detection.empty()) return absl::OkStatus();
  const std::string json = DetectionJson(file_.detection, warnings);
  return pool_.Autocommit(deadline_, [&](pqxx::transaction_base& tx) {
    return Changed(tx.exec_params(sql::kSetDetection, import_.id.ToString(), job_.fence(), json));
  });
}

absl::Status ImportRun::ParseRecord(const tabular::Record& record, int64_t row, bool* good,
                                    std::vector<std::optional<std::string>>* cells, std::vector<RowError>* errors) {
  const size_t before = errors->size();
  for (const tabular::Issue& issue : record.issues) {
    RowError error = {.row = row, .line = record.line, .code = issue.code, .message = issue.message};
    if (issue.column >= 0 && issue.column < static_cast<int>(file_.detection.columns.size()))
      error.column = file_.detection.columns[static_cast<size_t>(issue.column)];
    if (issue.column >= 0 && issue.column < static_cast<int>(record.cells.size()))
      error.value = record.cells[static_cast<size_t>(issue.column)].text;
    errors->push_back(std::move(error));
  }
  cells->clear();
  // With the wrong number of cells nothing says which is which.
  if (errors->size() > before) {
    *good = false;
    return absl::OkStatus();
  }
  const bool escaped = IsEscaped(import_.file_name);
  std::vector<CellError> wrong;
  for (size_t c = 0; c < mapping_.columns.size(); ++c) {
    const MappedColumn& column = mapping_.columns[c];
    const catalog::Field& field = resource_->fields[static_cast<size_t>(column.field)];
    std::string_view text = record.cells[static_cast<size_t>(column.column)].text;
    if (escaped && MayHoldFormula(field.type)) text = tabular::RemoveEscape(text);
    wrong.clear();
    std::optional<std::string> value = parsers_[c].Parse(text, wrong);
    if (!value && wrong.empty()) {
      const bool creates = mode_ == MergeMode::kCreate || mode_ == MergeMode::kUpsert || mode_ == MergeMode::kIgnore;
      const bool is_key = std::count(mapping_.key.begin(), mapping_.key.end(), field.name) > 0;
      const bool required = field.required || (!field.nullable && !field.has_default);
      if ((is_key && mode_ != MergeMode::kCreate) || (creates && required))
        wrong.push_back({"cell.required", StrCat(field.name, " must not be empty"), ""});
    }
    for (CellError& error : wrong) {
      errors->push_back(
          {.row = row,
           .line = record.line,
           .column = file_.detection.columns[static_cast<size_t>(column.column)],
           .field = field.name,
           .code = std::move(error.code),
           .value = Readable(*resource_, job_.context().principal, field) ? std::string(text) : "[redacted]",
           .message = std::move(error.message),
           .suggestion = std::move(error.suggestion)});
    }
    cells->push_back(std::move(value));
  }
  *good = errors->size() == before;
  return absl::OkStatus();
}

absl::Status ImportRun::Stage() {
  const std::string id = import_.id.ToString();
  const std::string table = StagingTable();
  // What a run before this one staged counts only if it is all still there.
  bool usable = false;
  if (import_.staged_rows > 0 || import_.staged) {
    RETURN_IF_ERROR(pool_.Transaction(deadline_, [&](pqxx::transaction_base& tx) -> absl::Status {
      usable = false;
      if (tx.exec_params("SELECT to_regclass($1)", StrCat("mainstay.", table))[0][0].is_null()) return absl::OkStatus();
      usable = tx.exec(StrCat("SELECT count(*) FROM mainstay.", table))[0][0].as<int64_t>() == import_.staged_good;
      return absl::OkStatus();
    }));
  }
  if (usable) {
    staged_rows_ = import_.staged_rows;
    staged_good_ = import_.staged_good;
    counts_ = ErrorCounts::Parse(import_.errors_by_code, import_.rows.error, import_.errors_kept);
    if (import_.staged) return absl::OkStatus();
  } else {
    // Read again from the start. Rows that chunks have committed keep their errors and are not staged a second time.
    RETURN_IF_ERROR(pool_.Transaction(deadline_, [&](pqxx::transaction_base& tx) -> absl::Status {
      counts_ = {};
      tx.exec_params(sql::kDeleteErrorsBehind, id, import_.merged_row);
      for (const auto& row : tx.exec_params(sql::kCountErrors, id)) {
        counts_.by_code[row[0].c_str()] = row[1].as<int64_t>();
        counts_.kept += row[1].as<int64_t>();
      }
      counts_.rows = tx.exec_params(sql::kCountErrorRows, id)[0][0].as<int64_t>();
      tx.exec_params(sql::kDeleteStatusesBehind, id, import_.merged_row);
      RETURN_IF_ERROR(Changed(tx.exec_params(sql::kSetStaged, id, job_.fence(), 0, 0, false, counts_.rows,
                                             counts_.ByCodeJson(), counts_.kept)));
      tx.exec_params(sql::kCreateStaging, id, static_cast<int>(mapping_.columns.size()));
      return absl::OkStatus();
    }));
  }

  std::vector<std::string> columns = {"row", "line"};
  for (size_t c = 0; c < mapping_.columns.size(); ++c) columns.push_back(StrCat("c", c));
  tabular::Record record;
  for (int64_t skipped = 0; skipped < staged_rows_; ++skipped) {
    ASSIGN_OR_RETURN(const bool more, file_.records->Next(&record));
    if (!more) return absl::DataLossError("the file is shorter than it was");
  }
  bool ended = false;
  while (!ended) {
    if (job_.cancelled()) return absl::AbortedError("stopped while staging");
    std::vector<StagedRow> rows;
    std::vector<RowError> errors;
    int64_t read = 0, bytes = 0;
    while (read < deps_.options.batch_rows && bytes < deps_.options.batch_bytes) {
      ASSIGN_OR_RETURN(const bool more, file_.records->Next(&record));
      if (!more) {
        ended = true;
        break;
      }
      ++read;
      const int64_t row = staged_rows_ + read;
      if (row > deps_.options.max_rows)
        return tabular::Refuse("file.too_many_rows",
                               StrCat("the file has more than ", deps_.options.max_rows, " rows"));
      if (row <= import_.merged_row) continue;
      for (const tabular::Cell& cell : record.cells) bytes += static_cast<int64_t>(cell.text.size());
      // A report of ours that was sent back: only what failed is taken.
      if (mapping_.status_column >= 0 && mapping_.status_column < static_cast<int>(record.cells.size()) &&
          TrimCell(record.cells[static_cast<size_t>(mapping_.status_column)].text) != "error")
        continue;
      StagedRow staged = {.row = row, .line = record.line};
      bool good = false;
      RETURN_IF_ERROR(ParseRecord(record, row, &good, &staged.cells, &errors));
      if (good) rows.push_back(std::move(staged));
    }
    ErrorCounts counts;
    RETURN_IF_ERROR(pool_.Transaction(deadline_, [&](pqxx::transaction_base& tx) -> absl::Status {
      counts = counts_;
      RETURN_IF_ERROR(StoreErrors(tx, import_.id, import_.tenant, errors, deps_.options.max_errors_kept, &counts));
      RETURN_IF_ERROR(Changed(tx.exec_params(sql::kSetStaged, id, job_.fence(), staged_rows_ + read,
                                             staged_good_ + static_cast<int64_t>(rows.size()), false, counts.rows,
                                             counts.ByCodeJson(), counts.kept)));
      if (rows.empty()) return absl::OkStatus();
      postgres::CopyIn copy(tx, StrCat("mainstay.", table), columns);
      std::vector<std::optional<std::string_view>> cells;
      for (const StagedRow& row : rows) {
        const std::string number = StrCat(row.row), line = StrCat(row.line);
        cells.assign({std::string_view(number), std::string_view(line)});
        for (const auto& cell : row.cells)
          cells.push_back(cell ? std::optional<std::string_view>(*cell) : std::nullopt);
        RETURN_IF_ERROR(copy.Row(cells));
      }
      return copy.Finish();
    }));
    counts_ = counts;
    staged_rows_ += read;
    staged_good_ += static_cast<int64_t>(rows.size());
  }
  RETURN_IF_ERROR(RemoveDuplicates());
  import_.staged = true;
  return absl::OkStatus();
}

// Set-based: the same key twice in the file. The later row is the error, and says where the first one stands.
absl::Status ImportRun::RemoveDuplicates() {
  std::vector<std::vector<size_t>> keys;  // as positions in mapping_.columns
  const auto staged = [&](const std::vector<int>& positions) -> std::optional<std::vector<size_t>> {
    std::vector<size_t> out;
    for (const int position : positions) {
      if (position == resource_->tenant) continue;
      const auto found = std::find_if(mapping_.columns.begin(), mapping_.columns.end(),
                                      [&](const MappedColumn& column) { return column.field == position; });
      if (found == mapping_.columns.end()) return std::nullopt;
      out.push_back(static_cast<size_t>(found - mapping_.columns.begin()));
    }
    if (out.empty()) return std::nullopt;
    return out;
  };
  if (!mapping_.key.empty()) {
    std::vector<int> positions;
    for (const std::string& name : mapping_.key) positions.push_back(resource_->FindField(name)->position);
    if (auto key = staged(positions)) keys.push_back(*std::move(key));
  }
  if (mode_ != MergeMode::kUpdate && mode_ != MergeMode::kDelete) {
    if (auto key = staged(resource_->key)) keys.push_back(*std::move(key));
    for (const auto& unique : resource_->unique_keys)
      if (auto key = staged(unique)) keys.push_back(*std::move(key));
  }
  const std::string id = import_.id.ToString();
  const std::string table = StrCat("mainstay.", StagingTable());
  ErrorCounts counts;
  int64_t good = 0;
  RETURN_IF_ERROR(pool_.Transaction(deadline_, [&](pqxx::transaction_base& tx) -> absl::Status {
    counts = counts_;
    good = staged_good_;
    for (const std::vector<size_t>& key : keys) {
      std::string partition, present, shown;
      for (const size_t c : key) {
        const catalog::Field& field = resource_->fields[static_cast<size_t>(mapping_.columns[c].field)];
        // As PostgreSQL compares them, except for text, whose collation does not matter for equality.
        const std::string value =
            field.type.family == catalog::TypeFamily::kText ? StrCat("c", c) : StrCat("c", c, "::", field.type.name);
        StrAppend(&partition, partition.empty() ? "" : ", ", value);
        StrAppend(&present, present.empty() ? "" : " AND ", "c", c, " IS NOT NULL");
      }
      const std::string ranked =
          StrCat("SELECT row, line, c", key[0], " AS value, first_value(row) OVER (PARTITION BY ", partition,
                 " ORDER BY row) AS first_row FROM ", table, " WHERE ", present);
      const catalog::Field& field = resource_->fields[static_cast<size_t>(mapping_.columns[key[0]].field)];
      const std::string& column = file_.detection.columns[static_cast<size_t>(mapping_.columns[key[0]].column)];
      std::vector<RowError> errors;
      const auto store = [&]() -> absl::Status {
        RETURN_IF_ERROR(StoreErrors(tx, import_.id, import_.tenant, errors, deps_.options.max_errors_kept, &counts));
        errors.clear();
        return absl::OkStatus();
      };
      RETURN_IF_ERROR(postgres::StreamRows(
          tx, StrCat("SELECT row, line, value, first_row FROM (", ranked, ") r WHERE row <> first_row ORDER BY row"),
          {}, [&](const pqxx::result& rows) -> absl::Status {
            for (const auto& row : rows) {
              errors.push_back(
                  {.row = row[0].as<int64_t>(),
                   .line = row[1].as<int64_t>(),
                   .column = column,
                   .field = field.name,
                   .code = "row.duplicate_key",
                   .value = Readable(*resource_, job_.context().principal, field) ? row[2].c_str() : "[redacted]",
                   .message =
                       StrCat("the row has the same ", field.name, " as row ", row[3].c_str(), " of this file")});
            }
            return store();
          }));
      good -= static_cast<int64_t>(tx.exec(StrCat("DELETE FROM ", table, " WHERE row IN (SELECT row FROM (", ranked,
                                                  ") r WHERE row <> first_row)"))
                                       .affected_rows());
    }
    return Changed(tx.exec_params(sql::kSetStaged, id, job_.fence(), staged_rows_, good, true, counts.rows,
                                  counts.ByCodeJson(), counts.kept));
  }));
  counts_ = counts;
  staged_good_ = good;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StagedRow>> ImportRun::ReadStaged(pqxx::transaction_base& tx, int64_t after) {
  std::string columns = "row, line";
  for (size_t c = 0; c < mapping_.columns.size(); ++c) StrAppend(&columns, ", c", c);
  const pqxx::result rows = tx.exec_params(StrCat("SELECT ", columns, " FROM mainstay.", StagingTable(),
                                                  " WHERE row > $1::bigint ORDER BY row LIMIT $2::bigint"),
                                           after, deps_.options.batch_rows);
  std::vector<StagedRow> out;
  out.reserve(rows.size());
  for (const auto& row : rows) {
    StagedRow staged = {.row = row[0].as<int64_t>(), .line = row[1].as<int64_t>()};
    for (size_t c = 0; c < mapping_.columns.size(); ++c) {
      const auto field = row[static_cast<pqxx::row::size_type>(c + 2)];
      staged.cells.push_back(field.is_null() ? std::nullopt
                                             : std::optional<std::string>(std::in_place, field.c_str(), field.size()));
    }
    out.push_back(std::move(staged));
  }
  return out;
}

RowError ImportRun::MergeError(const StagedRow& row, const FieldError& error) const {
  RowError out = {.row = row.row, .line = row.line, .message = error.detail};
  std::string name = error.name;
  if (!name.empty() && name[0] == '/') name.erase(0, name.rfind('/') + 1);
  const catalog::Field* field = resource_->FindField(name);
  if (field != nullptr) {
    out.field = field->name;
    for (size_t c = 0; c < mapping_.columns.size(); ++c) {
      if (mapping_.columns[c].field != field->position) continue;
      out.column = file_.detection.columns[static_cast<size_t>(mapping_.columns[c].column)];
      if (row.cells[c])
        out.value = Readable(*resource_, job_.context().principal, *field) ? *row.cells[c] : "[redacted]";
    }
  }
  if (error.code == "unique" || error.code == "unique_violation" || error.code == "already_exists" ||
      error.code == "exists" || error.code == "taken") {
    out.code = "row.exists";
  } else if (error.code == "not_found" || error.code == "forbidden") {
    out.code = StrCat("row.", error.code);
  } else if (field != nullptr) {
    out.code = CellCode(error.code, *field);
  } else {
    out.code = StrCat("row.", error.code);
  }
  if (out.message.empty()) out.message = StrCat("the row was refused: ", error.code);
  return out;
}

absl::Status ImportRun::MergeBatch(pqxx::transaction_base& tx, const std::vector<StagedRow>& batch,
                                   std::string* statuses, RowCounts* counts, std::vector<RowError>* errors) {
  statuses->assign(batch.size(), '?');
  // An empty cell means "leave it" (or the column's default), not NULL: rows with the same cells filled go together.
  std::map<std::vector<bool>, std::vector<size_t>> shapes;
  for (size_t i = 0; i < batch.size(); ++i) {
    std::vector<bool> shape;
    for (const auto& cell : batch[i].cells) shape.push_back(cell.has_value());
    shapes[std::move(shape)].push_back(i);
  }
  std::vector<std::pair<size_t, FieldError>> refused;
  for (const auto& [shape, members] : shapes) {
    records::MergeRows rows;
    for (size_t c = 0; c < shape.size(); ++c)
      if (shape[c]) rows.fields.push_back(resource_->fields[static_cast<size_t>(mapping_.columns[c].field)].name);
    for (const size_t i : members) {
      rows.rows.emplace_back();
      for (const auto& cell : batch[i].cells)
        if (cell) rows.rows.back().push_back(*cell);
    }
    // Errors are gathered in either case; what they mean for the import is decided above.
    ASSIGN_OR_RETURN(const records::MergeResult result,
                     records::Merge(tx, *resource_, *model_, job_.context(), rows,
                                    {.mode = mode_, .key = mapping_.key, .skip_errors = true}));
    for (size_t m = 0; m < members.size(); ++m) {
      char& status = (*statuses)[members[m]];
      switch (result.status.at(m)) {
        case RowStatus::kCreated:
          status = 'c';
          ++counts->created;
          break;
        case RowStatus::kUpdated:
          status = 'u';
          ++counts->updated;
          break;
        case RowStatus::kUnchanged:
          status = 'n';
          ++counts->unchanged;
          break;
        case RowStatus::kDeleted:
          status = 'd';
          ++counts->deleted;
          break;
        case RowStatus::kSkipped:
        case RowStatus::kStale:
          status = 's';
          ++counts->skipped;
          break;
        case RowStatus::kError:
          status = 'e';
          if (result.errors.at(m).empty())
            refused.emplace_back(members[m], FieldError{.code = "refused", .detail = "the row was refused"});
          for (const FieldError& error : result.errors[m]) refused.emplace_back(members[m], error);
          break;
      }
    }
  }
  std::stable_sort(refused.begin(), refused.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [i, error] : refused) errors->push_back(MergeError(batch[i], error));
  return absl::OkStatus();
}

absl::Status ImportRun::StoreStatuses(pqxx::transaction_base& tx, int64_t first, int64_t last,
                                      const std::vector<StagedRow>& batch, const std::string& statuses) {
  if (last < first) return absl::OkStatus();
  // Rows that were not staged (an error, or not asked for) are '?': their errors tell.
  std::string all(static_cast<size_t>(last - first + 1), '?');
  for (size_t i = 0; i < batch.size(); ++i) all[static_cast<size_t>(batch[i].row - first)] = statuses[i];
  tx.exec_params(sql::kInsertStatuses, import_.id.ToString(), first, HexEncode(all));
  return absl::OkStatus();
}

bool ImportRun::TooManyErrors(int64_t rows_with_errors) const {
  const double share = declared_ != nullptr ? declared_->max_error_share : deps_.options.max_error_share;
  return !import_.request.dry_run && rows_with_errors > deps_.options.max_errors_floor &&
         static_cast<double>(rows_with_errors) > share * static_cast<double>(staged_rows_);
}

absl::Status ImportRun::SetFinished(pqxx::transaction_base& tx, std::string_view state, std::string_view code,
                                    std::string_view message, const Totals& totals, jobs::Outcome* outcome) {
  const RowCounts& n = totals.rows;
  RETURN_IF_ERROR(
      Changed(tx.exec_params(sql::kFinishImport, import_.id.ToString(), job_.fence(), std::string(state),
                             std::string(code), std::string(message), n.total, n.created, n.updated, n.unchanged,
                             n.deleted, n.skipped, n.error, totals.errors.ByCodeJson(), totals.errors.kept)));
  std::string result;
  JsonWriter json(result);
  json.BeginObject().Key("import").String(FormatId("imp", import_.id)).Key("state").String(state);
  if (!code.empty()) json.Key("error_code").String(code);
  json.Key("rows").BeginObject();
  json.Key("total")
      .Int(n.total)
      .Key("created")
      .Int(n.created)
      .Key("updated")
      .Int(n.updated)
      .Key("unchanged")
      .Int(n.unchanged);
  json.Key("deleted").Int(n.deleted).Key("skipped").Int(n.skipped).Key("error").Int(n.error).EndObject().EndObject();
  *outcome = jobs::Outcome::Done(result);
  return job_.FinishIn(tx, *outcome);
}

absl::StatusOr<jobs::Outcome> ImportRun::FinishWithout(std::string_view state, std::string_view code,
                                                       std::string_view message, Totals totals,
                                                       const std::vector<RowError>& errors) {
  jobs::Outcome outcome;
  RETURN_IF_ERROR(pool_.Transaction(deadline_, [&](pqxx::transaction_base& tx) -> absl::Status {
    Totals now = totals;
    RETURN_IF_ERROR(StoreErrors(tx, import_.id, import_.tenant, errors, deps_.options.max_errors_kept, &now.errors));
    now.rows.error = now.errors.rows;
    return SetFinished(tx, state, code, message, now, &outcome);
  }));
  DropStaging();
  return outcome;
}

absl::StatusOr<jobs::Outcome> ImportRun::MergeAll() {
  const bool abort = import_.request.on_error == "abort";
  const bool dry_run = import_.request.dry_run;
  Totals totals;
  std::vector<RowError> held;  // stored after the roll-back
  std::vector<std::pair<int64_t, std::string>> held_statuses;
  bool refused = false;
  jobs::Outcome outcome;
  const absl::Status merged = pool_.Transaction(deadline_, [&](pqxx::transaction_base& tx) -> absl::Status {
    totals = {.errors = counts_};
    totals.rows.total = staged_rows_;
    held.clear();
    refused = false;
    int64_t done = 0;
    while (true) {
      if (job_.cancelled()) return absl::AbortedError("stopped while merging; nothing was written");
      ASSIGN_OR_RETURN(const std::vector<StagedRow> batch, ReadStaged(tx, done));
      std::string statuses;
      std::vector<RowError> errors;
      if (!batch.empty()) RETURN_IF_ERROR(MergeBatch(tx, batch, &statuses, &totals.rows, &errors));
      const int64_t last = batch.empty() ? staged_rows_ : batch.back().row;
      if (abort || dry_run) {
        held.insert(held.end(), errors.begin(), errors.end());
        refused |= abort && !errors.empty();
        if (held.size() > kMaxHeldErrors) return RollBack();
      } else {
        RETURN_IF_ERROR(
            StoreErrors(tx, import_.id, import_.tenant, errors, deps_.options.max_errors_kept, &totals.errors));
        if (TooManyErrors(totals.errors.rows)) {
          refused = true;
          held = std::move(errors);
          return RollBack();
        }
      }
      if (!dry_run) RETURN_IF_ERROR(StoreStatuses(tx, done + 1, last, batch, statuses));
      done = last;
      if (batch.empty()) break;
    }
    if (refused || dry_run) return RollBack();
    totals.rows.error = totals.errors.rows;
    totals.rows.skipped += not_asked_for_;
    return SetFinished(tx, totals.rows.error > 0 ? "succeeded_with_errors" : "succeeded", "", "", totals, &outcome);
  });
  if (merged.ok()) {
    DropStaging();
    return outcome;
  }
  if (!absl::IsCancelled(merged)) return merged;
  // Rolled back on purpose. A dry run reports what would have been; a refused import that nothing was.
  totals.errors = counts_;
  if (refused) {
    totals.rows = {.total = staged_rows_};
    totals.rows.skipped = staged_good_;
    ErrorCounts with_merge = counts_;
    int64_t last = -1;
    for (const RowError& error : held) {
      if (error.row != last) --totals.rows.skipped;
      last = error.row;
    }
    const std::string message =
        abort ? "rows have errors; nothing was written" : "too many rows have errors; nothing was written";
    return FinishWithout("failed", abort ? "rows.errors" : "rows.too_many_errors", message, totals, held);
  }
  const bool errors = counts_.rows > 0 || !held.empty();
  if (errors && abort)
    return FinishWithout("failed", "rows.errors", "rows have errors; this was a dry run", totals, held);
  return FinishWithout(errors ? "succeeded_with_errors" : "succeeded", "", "", totals, held);
}

absl::StatusOr<jobs::Outcome> ImportRun::MergeChunks() {
  const bool abort = import_.request.on_error == "abort";
  Totals totals = {.rows = import_.rows, .errors = counts_};
  totals.rows.total = staged_rows_;
  int64_t done = import_.merged_row;
  while (true) {
    if (job_.cancelled()) return absl::AbortedError("stopped between two chunks; what was committed stays");
    Totals next;
    std::vector<RowError> errors;
    int64_t last = 0;
    bool ended = false, refused = false;
    const absl::Status merged = pool_.Transaction(deadline_, [&](pqxx::transaction_base& tx) -> absl::Status {
      next = totals;
      errors.clear();
      refused = false;
      ASSIGN_OR_RETURN(const std::vector<StagedRow> batch, ReadStaged(tx, done));
      ended = batch.empty();
      last = ended ? staged_rows_ : batch.back().row;
      std::string statuses;
      if (!ended) RETURN_IF_ERROR(MergeBatch(tx, batch, &statuses, &next.rows, &errors));
      ErrorCounts after = next.errors;
      if (abort && !errors.empty()) {
        refused = true;
        return RollBack();
      }
      RETURN_IF_ERROR(StoreErrors(tx, import_.id, import_.tenant, errors, deps_.options.max_errors_kept, &after));
      if (TooManyErrors(after.rows)) {
        refused = true;
        return RollBack();
      }
      next.errors = after;
      next.rows.error = after.rows;
      RETURN_IF_ERROR(StoreStatuses(tx, done + 1, last, batch, statuses));
      const RowCounts& n = next.rows;
      return Changed(tx.exec_params(sql::kSetMerged, import_.id.ToString(), job_.fence(), last, n.created, n.updated,
                                    n.unchanged, n.deleted, n.skipped, n.error, next.errors.ByCodeJson(),
                                    next.errors.kept));
    });
    if (refused) {
      const std::string message = StrCat(abort ? "a row has an error" : "too many rows have errors",
                                         "; the rows up to ", done, " were written");
      const RowCounts& n = totals.rows;
      const int64_t written = n.created + n.updated + n.unchanged + n.deleted + n.skipped;
      totals.rows.skipped += std::max<int64_t>(0, staged_good_ - written - static_cast<int64_t>(errors.size()));
      return FinishWithout("failed", abort ? "rows.errors" : "rows.too_many_errors", message, totals, errors);
    }
    RETURN_IF_ERROR(merged);
    totals = next;
    done = last;
    if (ended) break;
  }
  totals.rows.skipped += not_asked_for_;
  return FinishWithout(totals.errors.rows > 0 ? "succeeded_with_errors" : "succeeded", "", "", totals, {});
}

void ImportRun::DropStaging() {
  const absl::Status dropped = pool_.Autocommit(deadline_, [&](pqxx::transaction_base& tx) {
    tx.exec_params(sql::kDropStaging, import_.id.ToString());
    return absl::OkStatus();
  });
  // Upkeep drops it later.
  if (!dropped.ok())
    log::Warn("staging table not dropped",
              {{"import", FormatId("imp", import_.id)}, {"error", ToStd(dropped.message())}});
}

absl::StatusOr<jobs::Outcome> ImportRun::Run(const Uuid& id) {
  model_ = deps_.model();
  RETURN_IF_ERROR(Load(id));
  if (import_.state != "running")
    return jobs::Outcome::Done(
        StrCat("{\"import\":", JsonQuote(FormatId("imp", id)), ",\"state\":", JsonQuote(import_.state), "}"));
  counts_ = ErrorCounts::Parse(import_.errors_by_code, import_.rows.error, import_.errors_kept);

  const auto refuse = [&](const tabular::Refusal& refusal) -> absl::StatusOr<jobs::Outcome> {
    const bool file = refusal.code.rfind("file.", 0) == 0;
    return FinishWithout(file ? "rejected" : "failed", refusal.code, refusal.message,
                         {.rows = {.total = staged_rows_, .skipped = staged_good_}, .errors = counts_}, {});
  };
  // What is staged was mapped under the other catalog, and a part of it is committed: neither going on nor starting
  // over is right.
  if (catalog_changed_ && import_.merged_row > 0)
    return refuse({"catalog.changed", StrCat("the catalog changed after the rows up to ", import_.merged_row,
                                             " had been written; import the file again")});
  resource_ = model_->FindResource(import_.request.resource);
  if (resource_ == nullptr)
    return refuse({"resource.unknown", StrCat("the catalog has no resource ", import_.request.resource, " any more")});
  if (!resource_->problem.empty())
    return MakeProblem("resource-unavailable", StrCat("the resource ", resource_->name, " does not fit the database"));
  if (!import_.request.mapping.empty()) {
    const auto found = model_->imports.find(import_.request.mapping);
    if (found == model_->imports.end())
      return refuse({"import.unknown", StrCat("the catalog has no import ", import_.request.mapping, " any more")});
    declared_ = &found->second;
  }
  ASSIGN_OR_RETURN(mode_, ParseMode(import_.request.mode));
  if (const absl::Status allowed = CheckAllowed(*resource_, job_.context().principal, mode_); !allowed.ok())
    return refuse({"forbidden", std::string(allowed.message())});

  absl::Status staged = OpenAndMap();
  if (staged.ok()) staged = Stage();
  if (!staged.ok()) {
    if (const auto refusal = tabular::GetRefusal(staged)) return refuse(*refusal);
    return staged;
  }
  not_asked_for_ = import_.merged_row > 0 ? 0 : staged_rows_ - staged_good_ - counts_.rows;
  // All errors that can be found without writing are known now.
  const Totals unwritten = {.rows = {.total = staged_rows_, .skipped = staged_good_}, .errors = counts_};
  if (import_.merged_row == 0 && !import_.request.dry_run) {
    if (counts_.rows > 0 && import_.request.on_error == "abort")
      return FinishWithout("failed", "rows.errors", "rows have errors; nothing was written", unwritten, {});
    if (TooManyErrors(counts_.rows))
      return FinishWithout("failed", "rows.too_many_errors", "too many rows have errors; nothing was written",
                           unwritten, {});
  }
  if (import_.request.commit == "chunks" && !import_.request.dry_run) return MergeChunks();
  return MergeAll();
}

}  // namespace

jobs::Outcome RunImport(jobs::RunningJob& job, const Dependencies& dependencies) {
  const auto args = JsonDocument::Parse(std::string(job.args()));
  const JsonValue* id_value = args.ok() ? args->root().Find("id") : nullptr;
  const auto id = ParseId("imp", id_value != nullptr ? id_value->text() : "");
  if (!id.ok()) return jobs::Outcome::Dead("invalid_args", "the job's args name no import");
  absl::StatusOr<jobs::Outcome> outcome = ImportRun(job, dependencies).Run(*id);
  if (outcome.ok()) return *std::move(outcome);
  if (IsFenced(outcome.status())) return jobs::Outcome::Retry("fenced", "another run of this import goes on");
  return jobs::Outcome::FromStatus(outcome.status());
}

}  // namespace mainstay::transfer
