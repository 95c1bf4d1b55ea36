// SPDX-License-Identifier: Apache-2.0
// HTTP/1.x request heads and chunked bodies, parsed to the letter of RFC 9112.
//
// A parser of our own, for what general ones forgive is what request smuggling is made of: no folding, no bare CR or
// LF, one Content-Length of digits only, no Transfer-Encoding but "chunked", no white space before a colon, UTF-8 in
// values. Pure, incremental and bounded; knows no sockets. What is refused carries the problem to answer with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace mainstay::http {

struct ParserLimits {
  size_t request_line = 8 << 10, header_line = 8 << 10, header_block = 16 << 10;
  size_t header_fields = 100;
};

struct Head {
  std::string method, target;
  int minor_version = 1;                                     // HTTP/1.x
  std::vector<std::pair<std::string, std::string>> headers;  // names lower-case
  std::string host;                   // of the absolute form, else the Host header; lower-case, without port
  std::string path, query;            // of the target, as sent
  std::vector<std::string> segments;  // decoded
  int64_t content_length = 0;         // -1: chunked
  bool chunked = false, keep_alive = true, expect_continue = false;
  void Clear();
};

// Of one message: Feed sees the whole buffer from the message's first byte on, each time with more in it.
class HeadParser {
 public:
  enum class State { kMore, kDone, kFailed };
  State Feed(std::string_view buffer, const ParserLimits& limits, Head& head);
  // kDone: where the body begins.
  size_t consumed() const { return at_; }
  // kFailed: a problem. With fatal() the bytes that follow cannot be trusted, so the connection must be closed.
  const absl::Status& error() const { return error_; }
  bool fatal() const { return fatal_; }
  void Reset();

 private:
  State Fail(std::string_view slug, std::string_view detail, bool fatal = true);
  bool RequestLine(std::string_view line, Head& head);
  bool Field(std::string_view line, Head& head);
  bool Finish(Head& head);

  size_t at_ = 0;       // start of the current line
  size_t scanned_ = 0;  // no line end before here
  bool in_fields_ = false;
  bool fatal_ = false;
  absl::Status error_;
};

// "/v1/orders/a%20b" → {"v1","orders","a b"}. invalid-path for dot segments, encoded slashes, NUL, broken escapes and
// invalid UTF-8.
absl::Status DecodePath(std::string_view path, std::vector<std::string>& segments);

// Decodes a chunked body piece by piece. Extensions are bounded and ignored, trailer fields are dropped.
class ChunkDecoder {
 public:
  // Consumes from the front of `in` (advances it) and appends at most `max` decoded bytes to `out`. Returns an error
  // for bytes that are not a chunked body. Done when done(); otherwise more input is needed once `in` is empty.
  absl::Status Decode(std::string_view& in, size_t max, std::string& out);
  bool done() const { return state_ == State::kDone; }

 private:
  enum class State { kSize, kExtension, kSizeLf, kData, kDataCr, kDataLf, kTrailer, kTrailerLf, kDone };
  State state_ = State::kSize;
  uint64_t left_ = 0;
  int digits_ = 0;
  size_t overhead_ = 0;  // bytes of extensions and trailers so far
  size_t line_ = 0;      // length of the current trailer line
};

}  // namespace mainstay::http
