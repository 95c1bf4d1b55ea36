// SPDX-License-Identifier: Apache-2.0
// Which characters a file is written in, and their strict conversion to UTF-8.
//
// Detection looks at a sample and may be wrong; conversion looks at every byte. What cannot be converted is never
// replaced in silence: it becomes the byte 0xFF, which no UTF-8 text contains, so that the reader of records reports
// the record it falls into.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "libs/tabular/record.h"

namespace mainstay::tabular {

struct EncodingGuess {
  std::string name;  // "utf-8", "utf-16le", "windows-1252", …
  size_t bom = 0;    // bytes of byte order mark to skip
  bool certain = true;
};

// `complete`: the sample is the whole file.
EncodingGuess DetectEncoding(std::string_view sample, bool complete);

// The same bytes as UTF-8, without a byte order mark. UTF-8 passes through unchecked (records are checked as they are
// read). Unknown name: InvalidArgument.
absl::StatusOr<std::unique_ptr<ByteSource>> DecodeToUtf8(std::unique_ptr<ByteSource> source, std::string_view encoding);

// Unicode normal form C. The text must be valid UTF-8.
std::string NormalizeNfc(std::string_view text);

}  // namespace mainstay::tabular
