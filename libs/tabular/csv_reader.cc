// SPDX-License-Identifier: Apache-2.0
#include "libs/tabular/csv_reader.h"

#include <algorithm>

#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::tabular {
namespace {

// What repairing unclosed quotes may read again, over the whole file: an honest file never comes near.
constexpr int64_t kMaxRescanned = 256 << 20;

void AddIssue(Record* record, std::string_view code, int column, std::string message) {
  for (const Issue& issue : record->issues)
    if (issue.code == code && issue.column == column) return;
  record->issues.push_back({std::string(code), column, std::move(message)});
}

}  // namespace

CsvReader::CsvReader(std::unique_ptr<ByteSource> source, Dialect dialect, Limits limits)
    : source_(std::move(source)), dialect_(dialect), limits_(limits) {}

absl::StatusOr<bool> CsvReader::Fill() {
  if (source_ended_) return false;
  // What lies before start_ is done with. The record's own bytes stay until it is whole: a slip of a quote is repaired
  // by reading it again.
  if (start_ > 0 && start_ >= buffer_.size() / 2) {
    buffer_.erase(0, start_);
    end_ -= std::min(end_, start_);
    if (first_newline_ > 0) first_newline_ -= start_;
    start_ = 0;
  }
  ASSIGN_OR_RETURN(const std::string_view piece, source_->Next());
  if (piece.empty()) {
    source_ended_ = true;
    return false;
  }
  buffer_.append(piece);
  return true;
}

absl::StatusOr<CsvReader::End> CsvReader::Parse(Record* record, bool single_line) {
  const char delimiter = dialect_.delimiter;
  const char quote = dialect_.quote;
  record->issues.clear();
  record->line = line_;
  lines_read_ = 0;
  first_newline_ = 0;
  size_t used = 0;  // cells of record->cells in use: their buffers are kept
  size_t i = 0;     // relative to start_, which Fill may move
  const auto at = [&](size_t offset) { return buffer_[start_ + offset]; };
  // Whether the byte at i exists, reading on when it is not there yet.
  const auto have = [&](size_t offset) -> absl::StatusOr<bool> {
    while (start_ + offset >= buffer_.size()) {
      ASSIGN_OR_RETURN(const bool more, Fill());
      if (!more) return false;
    }
    return true;
  };
  const auto new_cell = [&]() -> absl::StatusOr<Cell*> {
    if (static_cast<int>(used) >= limits_.columns)
      return Refuse("file.too_many_columns", StrCat("line ", line_, " has more than ", limits_.columns, " columns"));
    if (used == record->cells.size()) record->cells.emplace_back();
    Cell* cell = &record->cells[used++];
    cell->text.clear();
    cell->quoted = false;
    return cell;
  };
  const auto finish = [&](End end) {
    record->cells.resize(used);
    end_ = start_ + i;
    return end;
  };

  ASSIGN_OR_RETURN(bool more, have(0));
  if (!more) {
    record->cells.clear();
    end_ = start_;
    return End::kFile;
  }
  while (true) {  // one cell each
    ASSIGN_OR_RETURN(Cell * cell, new_cell());
    const int column = static_cast<int>(used) - 1;
    ASSIGN_OR_RETURN(more, have(i));
    if (more && quote != 0 && at(i) == quote) {
      cell->quoted = true;
      ++i;
      bool closed = false, newline_inside = false;
      while (!closed) {
        ASSIGN_OR_RETURN(more, have(i));
        if (!more) break;
        const char c = at(i);
        if (c == quote) {
          ASSIGN_OR_RETURN(more, have(i + 1));
          if (!dialect_.backslash_escape && more && at(i + 1) == quote) {
            cell->text += quote;
            i += 2;
            continue;
          }
          closed = true;
          ++i;
          continue;
        }
        if (c == '\\' && dialect_.backslash_escape) {
          ASSIGN_OR_RETURN(more, have(i + 1));
          if (more) {
            cell->text += at(i + 1);
            i += 2;
            continue;
          }
        }
        if (c == '\n' || c == '\r') {
          if (single_line) break;
          cell->text += c;
          ++i;
          if (c == '\r') {
            ASSIGN_OR_RETURN(more, have(i));
            if (more && at(i) == '\n') {
              cell->text += '\n';
              ++i;
            }
          }
          ++lines_read_;
          newline_inside = true;
          if (first_newline_ == 0) first_newline_ = start_ + i;
        } else {
          // The run up to the next byte that means something.
          size_t stop = start_ + i;
          while (stop < buffer_.size() && buffer_[stop] != quote && buffer_[stop] != '\n' && buffer_[stop] != '\r' &&
                 !(buffer_[stop] == '\\' && dialect_.backslash_escape))
            ++stop;
          if (stop == start_ + i) ++stop;
          cell->text.append(buffer_, start_ + i, stop - start_ - i);
          i = stop - start_;
        }
        if (static_cast<int64_t>(cell->text.size()) > limits_.cell_bytes) break;
      }
      if (!closed) {
        if (!single_line && newline_inside) return finish(End::kUnclosed);
        if (static_cast<int64_t>(cell->text.size()) > limits_.cell_bytes)
          return Refuse("file.cell_too_large",
                        StrCat("a cell on line ", line_, " is longer than ", limits_.cell_bytes, " bytes"));
        AddIssue(record, "row.unclosed_quote", column, "the quote that opens this cell is never closed");
      } else {
        ASSIGN_OR_RETURN(more, have(i));
        if (more && at(i) != delimiter && at(i) != '\n' && at(i) != '\r') {
          // Text behind a closing quote: either the quote opened by mistake lines ago, or one inside the text was not
          // doubled.
          if (newline_inside && !single_line) return finish(End::kUnclosed);
          AddIssue(record, "row.stray_quote", column, "a quote inside a quoted cell is not doubled");
          cell->text += quote;
        }
      }
    }
    // An unquoted cell, or what follows a closing quote.
    while (true) {
      ASSIGN_OR_RETURN(more, have(i));
      if (!more) break;
      size_t stop = start_ + i;
      while (stop < buffer_.size() && buffer_[stop] != delimiter && buffer_[stop] != '\n' && buffer_[stop] != '\r' &&
             (quote == 0 || buffer_[stop] != quote))
        ++stop;
      cell->text.append(buffer_, start_ + i, stop - start_ - i);
      i = stop - start_;
      if (static_cast<int64_t>(cell->text.size()) > limits_.cell_bytes)
        return Refuse("file.cell_too_large",
                      StrCat("a cell on line ", line_, " is longer than ", limits_.cell_bytes, " bytes"));
      if (static_cast<int64_t>(i) > limits_.record_bytes)
        return Refuse("file.cell_too_large",
                      StrCat("the record on line ", line_, " is longer than ", limits_.record_bytes, " bytes"));
      if (stop == buffer_.size()) continue;
      if (quote != 0 && buffer_[stop] == quote) {
        // In a cell that does not start with one a quote is just a character (5" pipe): nobody reads it otherwise.
        cell->text += quote;
        ++i;
        continue;
      }
      break;
    }
    if (!more) return finish(End::kRecord);
    const char c = at(i);
    ++i;
    if (c == delimiter) {
      if (static_cast<int64_t>(i) > limits_.record_bytes)
        return Refuse("file.cell_too_large",
                      StrCat("the record on line ", line_, " is longer than ", limits_.record_bytes, " bytes"));
      continue;
    }
    ++lines_read_;
    if (c == '\r') {
      ASSIGN_OR_RETURN(more, have(i));
      if (more && at(i) == '\n') ++i;
    }
    return finish(End::kRecord);
  }
}

absl::StatusOr<bool> CsvReader::NextLineFits(size_t from) {
  const size_t start = start_, end = end_, newline = first_newline_;
  const int64_t line = line_, lines = lines_read_;
  Record probe;
  start_ = from;
  // Reading on must not drop the record in front of it.
  auto parsed = [&]() -> absl::StatusOr<bool> {
    const size_t limit = std::min(buffer_.size(), from + (64 << 10));
    size_t stop = buffer_.find_first_of("\r\n", from);
    if (stop == std::string::npos || stop > limit) return false;
    CsvReader reader(std::make_unique<MemorySource>(std::string_view(buffer_).substr(from, stop - from)), dialect_,
                     limits_);
    ASSIGN_OR_RETURN(const bool some, reader.Next(&probe));
    return some && probe.issues.empty() &&
           (static_cast<int>(probe.cells.size()) == width_ || static_cast<int>(probe.cells.size()) == widest_);
  }();
  start_ = start;
  end_ = end;
  first_newline_ = newline;
  line_ = line;
  lines_read_ = lines;
  return parsed;
}

void CsvReader::Check(Record* record, std::string_view raw) {
  if (!IsValidUtf8(raw)) {
    for (size_t c = 0; c < record->cells.size(); ++c) {
      if (!IsValidUtf8(record->cells[c].text))
        AddIssue(record, "row.invalid_encoding", static_cast<int>(c),
                 "the cell has bytes that are no character in the file's encoding");
    }
    if (record->issues.empty())
      AddIssue(record, "row.invalid_encoding", -1, "the record has bytes that are no character in the file's encoding");
  }
  if (width_ < 0) return;
  const int cells = static_cast<int>(record->cells.size());
  if (cells > width_ && cells <= widest_) {
    while (static_cast<int>(record->cells.size()) > width_ && record->cells.back().text.empty())
      record->cells.pop_back();
    if (static_cast<int>(record->cells.size()) == width_) return;
  }
  if (cells > width_) {
    AddIssue(record, "row.too_many_cells", -1, StrCat(cells, " cells where the header has ", width_));
  } else if (cells < width_) {
    AddIssue(record, "row.too_few_cells", -1, StrCat(cells, " cells where the header has ", width_));
  }
}

absl::StatusOr<bool> CsvReader::Next(Record* record) {
  while (true) {
    ASSIGN_OR_RETURN(End end, Parse(record, false));
    if (end == End::kFile) return false;
    bool slipped = end == End::kUnclosed;
    if (!slipped && first_newline_ > 0 && width_ > 0 && static_cast<int>(record->cells.size()) != width_ &&
        static_cast<int>(record->cells.size()) != widest_) {
      ASSIGN_OR_RETURN(slipped, NextLineFits(first_newline_));
    }
    if (slipped) {
      rescanned_ += static_cast<int64_t>(end_ - start_);
      if (rescanned_ > kMaxRescanned)
        return Refuse("file.corrupt", StrCat("too many quotes are never closed, up to line ", line_));
      ASSIGN_OR_RETURN(end, Parse(record, true));
    }
    const bool blank = record->blank() && record->issues.empty();
    if (!blank) Check(record, std::string_view(buffer_).substr(start_, end_ - start_));
    start_ = end_;
    line_ += lines_read_;
    if (!blank) return true;
    ++blank_;
  }
}

}  // namespace mainstay::tabular
