// SPDX-License-Identifier: Apache-2.0
// The user's own file again, with what became of each row: original columns and text, then _row, _status, _error_codes,
// _errors.
//
// Made when it is asked for, from the uploaded file and what was stored about its rows; streamed, in bounded memory.
// Fixed and sent back as it is, only its rows with _status = error are imported.
#pragma once

#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "libs/base/principal.h"
#include "libs/postgres/pool.h"
#include "libs/transfer/blob_client.h"
#include "libs/transfer/imports.h"

namespace mainstay::transfer {

// Calls `write` with pieces of CSV. The import must have ended and its file must have been readable (`conflict`
// otherwise).
absl::Status WriteReport(postgres::Pool& pool, BlobClient& blobs, const CallContext& context, const ImportRow& import,
                         absl::FunctionRef<absl::Status(std::string_view)> write);

}  // namespace mainstay::transfer
