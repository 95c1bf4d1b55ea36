// SPDX-License-Identifier: Apache-2.0
// Delimited text (RFC 4180 and its relatives) as records, in one pass, in bounded memory.
//
// Newlines may be LF, CRLF, CR or a mixture; inside quotes they are data. A quote that never closes ends at the end of
// its own line, once the cell limit, the end of the file or a following record of the right width shows that it was a
// slip: the records after it are not swallowed. A record with stray or unclosed quotes, bytes that are no UTF-8 or the
// wrong number of cells arrives with an issue. Input is UTF-8 (encoding.h). Single-threaded.
#pragma once

#include <memory>
#include <string>

#include "libs/tabular/record.h"

namespace mainstay::tabular {

struct Dialect {
  char delimiter = ',';
  char quote = '"';               // 0: none
  bool backslash_escape = false;  // \" inside quotes instead of ""
  friend bool operator==(const Dialect&, const Dialect&) = default;
};

class CsvReader : public RecordSource {
 public:
  CsvReader(std::unique_ptr<ByteSource> source, Dialect dialect, Limits limits = {});
  absl::StatusOr<bool> Next(Record* record) override;
  // From now on records with another number of cells have the issue row.too_few_cells or row.too_many_cells. Up to
  // `widest` cells are fine when those behind `width` are empty: files with a delimiter at the end of each line.
  void ExpectWidth(int width, int widest = 0) {
    width_ = width;
    widest_ = widest;
  }
  int64_t blank_records() const { return blank_; }  // skipped so far

 private:
  enum class End { kRecord, kFile, kUnclosed };
  absl::StatusOr<bool> Fill();
  // Parses from start_; `single_line`: a quoted cell ends with its line.
  absl::StatusOr<End> Parse(Record* record, bool single_line);
  absl::StatusOr<bool> NextLineFits(size_t from);
  void Check(Record* record, std::string_view raw);

  std::unique_ptr<ByteSource> source_;
  const Dialect dialect_;
  const Limits limits_;
  int width_ = -1, widest_ = 0;
  std::string buffer_;
  size_t start_ = 0;  // of the record being read
  size_t end_ = 0;    // behind it, once parsed
  bool source_ended_ = false;
  int64_t line_ = 1;          // of start_
  int64_t lines_read_ = 0;    // newlines in the record just parsed
  size_t first_newline_ = 0;  // behind the first newline inside quotes; 0: none
  int64_t blank_ = 0;
  int64_t rescanned_ = 0;
};

}  // namespace mainstay::tabular
