// SPDX-License-Identifier: Apache-2.0
// Internal: rows in other forms than JSON objects of a page, and whole lists in pieces.
//
// A stream holds one connection and one snapshot from its first row to its last, and one batch of rows: how many these
// are follows their size, so memory is bounded whatever the list. A client that reads slowly is dropped by the server's
// write timeout; the number of streams at once is bounded by the caller. After the first byte there is no status any
// more: a failure cuts the connection, so a whole answer is known by its last chunk. On one loop.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "libs/http/server.h"
#include "libs/records/http_shared.h"
#include "libs/records/read.h"

namespace mainstay::records {

enum class RowFormat : uint8_t { kJson, kCsv, kLines };

std::string_view ContentType(RowFormat format);
// The names of the fields, as a row. Nothing in other formats than CSV.
void AppendHeader(RowFormat format, const ListQuery& query, std::string& out);
// A row with its end of line. `escape_formulas`: for spreadsheets.
void AppendRow(RowFormat format, bool escape_formulas, const Level& level, int row, std::string& out);

struct RowStreamOptions {
  RowFormat format = RowFormat::kLines;
  bool escape_formulas = false;
  absl::Duration life = absl::Minutes(5);  // then the connection is needed by others
  ReadOptions reading;                     // for the cursors of related lists
};

// All rows of the plan's query and what it expands. The first ones are fetched here, so that what is wrong is still an
// answer of its own. `held` is kept until the last row was read or the stream is given up.
boost::asio::awaitable<absl::StatusOr<std::unique_ptr<http::BodySource>>> OpenRowStream(
    CachePtr cache, CallContext context, std::unique_ptr<ReadPlan> plan, postgres::AsyncPostgres& postgres,
    const http::Request* request, std::shared_ptr<void> held, RowStreamOptions options);

}  // namespace mainstay::records
