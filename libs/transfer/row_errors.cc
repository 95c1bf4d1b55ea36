// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/row_errors.h"

#include <pqxx/pqxx>

#include "absl/strings/numbers.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/transfer/sql.h"

namespace mainstay::transfer {

std::string ShownValue(std::string_view text) {
  std::string out;
  int characters = 0;
  for (size_t i = 0; i < text.size() && characters < 200;) {
    const auto byte = static_cast<unsigned char>(text[i]);
    size_t length = byte < 0x80 ? 1 : byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    length = std::min(length, text.size() - i);
    const std::string_view character = text.substr(i, length);
    if (byte == 0 || !IsValidUtf8(character)) {
      out += "\xEF\xBF\xBD";
      length = 1;
    } else {
      out += character;
    }
    i += length;
    ++characters;
  }
  return out;
}

std::string ErrorCounts::ByCodeJson() const {
  std::string out;
  JsonWriter json(out);
  json.BeginObject();
  for (const auto& [code, count] : by_code) json.Key(code).Int(count);
  json.EndObject();
  return out;
}

ErrorCounts ErrorCounts::Parse(std::string_view by_code_json, int64_t rows, int64_t kept) {
  ErrorCounts out;
  out.rows = rows;
  out.kept = kept;
  const auto document = JsonDocument::Parse(std::string(by_code_json));
  if (!document.ok() || !document->root().is_object()) return out;
  for (const JsonValue::Member& member : document->root().members()) {
    int64_t count = 0;
    if (absl::SimpleAtoi(ToAbsl(member.value.text()), &count)) out.by_code[std::string(member.key)] = count;
  }
  return out;
}

absl::Status StoreErrors(pqxx::transaction_base& tx, const Uuid& import, std::string_view tenant,
                         const std::vector<RowError>& errors, int64_t max_kept, ErrorCounts* counts) {
  PgArray row, line, column, field, code, value, message, suggestion;
  int64_t stored = 0, last = -1;
  for (const RowError& error : errors) {
    ++counts->by_code[error.code];
    if (error.row != last) ++counts->rows;
    last = error.row;
    if (counts->kept + stored >= max_kept) continue;
    ++stored;
    row.Add(StrCat(error.row));
    line.Add(StrCat(error.line));
    column.Add(ShownValue(error.column));
    field.Add(error.field);
    code.Add(error.code);
    value.Add(ShownValue(error.value));
    message.Add(ShownValue(error.message));
    suggestion.Add(ShownValue(error.suggestion));
  }
  counts->kept += stored;
  if (stored == 0) return absl::OkStatus();
  tx.exec_params(sql::kInsertErrors, import.ToString(), std::string(tenant), std::move(row).Finish(),
                 std::move(line).Finish(), std::move(column).Finish(), std::move(field).Finish(),
                 std::move(code).Finish(), std::move(value).Finish(), std::move(message).Finish(),
                 std::move(suggestion).Finish());
  return absl::OkStatus();
}

}  // namespace mainstay::transfer
