// SPDX-License-Identifier: Apache-2.0
// What kind of file this is, found in its first mebibyte: container, encoding, dialect, preamble, header. Always shown
// to the user, always a guess.
//
// A dialect never wins by throwing records away: those that do not fit count against it. Where the header cannot be
// told from the data, the answer is kUnknown and the caller must ask.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/tabular/csv_reader.h"
#include "libs/tabular/encoding.h"

namespace mainstay::tabular {

inline constexpr size_t kSampleBytes = 1 << 20;

struct Detection {
  enum class Header { kPresent, kAbsent, kUnknown };
  std::string encoding = "utf-8";
  bool encoding_certain = true;
  Dialect dialect;
  bool separator_line = false;  // "sep=;" stands in front
  int preamble = 0;  // records in front of the header (or the data) that belong to neither; blank ones not counted
  Header header = Header::kUnknown;
  int64_t header_line = 0;
  int width = 0;   // columns, blank ones at the right edge dropped
  int widest = 0;  // cells of a record, those blank ones included
  std::vector<std::string>
      columns;  // trimmed, NFC, inner blanks folded; "column_7" where blank. Empty without a header
  std::vector<std::string> raw_columns;  // as they stand in the file
  std::vector<std::string> warnings;     // codes
};

struct DetectOptions {
  // Whether a (cleaned) header cell names a field; null: unknown names only.
  std::function<bool(std::string_view)> known_name;
  int max_preamble = 20;
  Limits limits;
};

// `sample`: the first kSampleBytes, or all. A file that cannot be read today is a Refusal (file.empty, file.no_rows,
// file.unsupported_format, file.encrypted).
absl::StatusOr<Detection> Detect(std::string_view sample, bool complete, const DetectOptions& options);

// The data records of a file, as detected: decoded, behind preamble and header, their width checked.
absl::StatusOr<std::unique_ptr<RecordSource>> OpenRecords(std::unique_ptr<ByteSource> file, const Detection& detection,
                                                          const Limits& limits);

// "  Order   No. " → "Order No."
std::string CleanHeader(std::string_view text);

}  // namespace mainstay::tabular
