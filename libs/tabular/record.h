// SPDX-License-Identifier: Apache-2.0
// What every file format is read into: records of text cells that know where they stood.
//
// A bad record is data, not a failure: it arrives with its issues and the reader goes on. Only what makes the whole
// file unusable is a status, a Refusal whose code is stable ("file.empty"). Memory is bounded by the limits, whatever
// the size of the file.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mainstay::tabular {

// Bytes in pieces, in order. Whoever reads slowly slows the other side down.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // The next piece; valid until the next call. Empty: the end.
  virtual absl::StatusOr<std::string_view> Next() = 0;
};

// A text that is already there.
class MemorySource : public ByteSource {
 public:
  // The text must outlive this. `piece` is for tests: pieces of that size.
  explicit MemorySource(std::string_view text, size_t piece = 0)
      : text_(text), piece_(piece == 0 ? text.size() : piece) {}
  absl::StatusOr<std::string_view> Next() override {
    std::string_view out = text_.substr(0, piece_);
    text_.remove_prefix(out.size());
    return out;
  }

 private:
  std::string_view text_;
  size_t piece_;
};

struct Limits {
  int columns = 1024;
  int64_t cell_bytes = 1 << 20;
  int64_t record_bytes = 16 << 20;
};

struct Cell {
  std::string text;
  bool quoted = false;  // "" is a text of no characters, nothing between two delimiters is no value
};

struct Issue {
  std::string code;  // "row.stray_quote"
  int column = -1;   // index; -1: the whole record
  std::string message;
};

struct Record {
  int64_t line = 0;  // physical, from 1, where it starts
  std::vector<Cell> cells;
  std::vector<Issue> issues;
  bool blank() const;  // nothing in it but empty cells
};

class RecordSource {
 public:
  virtual ~RecordSource() = default;
  // False: the end. Reuses what `record` holds.
  virtual absl::StatusOr<bool> Next(Record* record) = 0;
};

// The file as a whole cannot be used.
struct Refusal {
  std::string code;  // "file.encrypted"
  std::string message;
};
absl::Status Refuse(std::string_view code, std::string_view message);
std::optional<Refusal> GetRefusal(const absl::Status& status);

}  // namespace mainstay::tabular
