// SPDX-License-Identifier: Apache-2.0
#include "libs/records/cursor.h"

#include <cstdint>

#include "libs/base/crypto.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::records {
namespace {

constexpr char kVersion = 1;
constexpr size_t kDigest = 16, kKeyId = 4;
constexpr std::string_view kPurpose = "mainstay/records/cursor";

void AppendNumber(uint64_t number, int bytes, std::string& out) {
  for (int i = bytes - 1; i >= 0; --i) out += static_cast<char>(number >> (8 * i));
}
bool TakeNumber(std::string_view& text, size_t bytes, uint64_t& number) {
  if (text.size() < bytes) return false;
  number = 0;
  for (size_t i = 0; i < bytes; ++i) number = number << 8 | static_cast<unsigned char>(text[i]);
  text.remove_prefix(bytes);
  return true;
}

std::string KeyId(std::string_view key) {
  return Sha256(StrCat(kPurpose, key)).substr(0, kKeyId);
}
absl::Status Broken() {
  return MakeProblem("cursor-invalid", "the cursor is broken or too old; start again without it",
                     {{.place = FieldError::Place::kParameter, .name = "cursor", .code = "invalid"}});
}

absl::Status TooLong() {
  return MakeProblem("invalid-parameter", "the values to sort by are too long for a cursor; sort by fewer fields",
                     {{.place = FieldError::Place::kParameter, .name = "sort", .code = "too_long"}});
}

}  // namespace

CursorBinding BindCursor(std::string_view key, const catalog::Model& model, const ListQuery& query, const Given& given,
                         const CallContext& context, absl::Time now, absl::Duration life) {
  CursorBinding binding{.key = key, .now = now, .life = life};
  std::string shape = StrCat(model.schema_hash, "|", query.shape);
  for (int i = query.first_argument; i < query.end_argument; ++i) {
    const std::string& sent = given.sent[static_cast<size_t>(i)];
    StrAppend(&shape, "|", sent.size(), ":", sent);
  }
  binding.shape = Sha256(shape).substr(0, kDigest);
  const Principal& principal = context.principal;
  binding.view =
      Sha256(StrCat(principal.tenant, "\x1f", principal.subject, "\x1f", query.access->fingerprint)).substr(0, kDigest);
  return binding;
}

absl::StatusOr<std::string> SealCursor(const CursorBinding& binding, const Position& position) {
  std::string plain;
  plain += kVersion;
  plain += position.backward ? 'b' : 'f';
  AppendNumber(static_cast<uint64_t>(absl::ToUnixSeconds(binding.now)), 8, plain);
  plain += binding.shape;
  plain += binding.view;
  for (const auto& value : position.values) {
    if (value.has_value() && value->size() > kMaxCursor) return TooLong();
    plain += value.has_value() ? '\1' : '\0';
    if (!value.has_value()) continue;
    AppendNumber(value->size(), 2, plain);
    plain += *value;
  }
  std::string cursor = Base64UrlEncode(KeyId(binding.key) + Seal(binding.key, plain, kPurpose));
  if (cursor.size() > kMaxCursor) return TooLong();
  return cursor;
}

absl::StatusOr<Position> OpenCursor(const CursorBinding& binding, std::string_view cursor, size_t keys) {
  if (cursor.size() > kMaxCursor) return Broken();
  const std::optional<std::string> bytes = Base64UrlDecode(cursor);
  if (!bytes.has_value() || bytes->size() < kKeyId || std::string_view(*bytes).substr(0, kKeyId) != KeyId(binding.key))
    return Broken();
  const absl::StatusOr<std::string> opened = Open(binding.key, std::string_view(*bytes).substr(kKeyId), kPurpose);
  if (!opened.ok()) return Broken();
  std::string_view rest = *opened;
  if (rest.size() < 2 + 8 + 2 * kDigest || rest[0] != kVersion) return Broken();
  Position position;
  position.backward = rest[1] == 'b';
  rest.remove_prefix(2);
  uint64_t issued = 0;
  TakeNumber(rest, 8, issued);
  const absl::Time time = absl::FromUnixSeconds(static_cast<int64_t>(issued));
  if (time + binding.life < binding.now || time > binding.now + absl::Minutes(5)) return Broken();
  const bool same = ConstantTimeEquals(rest.substr(0, kDigest), binding.shape) &&
                    ConstantTimeEquals(rest.substr(kDigest, kDigest), binding.view);
  if (!same) {
    return MakeProblem("cursor-mismatch", "the cursor belongs to another query; only limit may change between pages",
                       {{.place = FieldError::Place::kParameter, .name = "cursor", .code = "mismatch"}});
  }
  rest.remove_prefix(2 * kDigest);
  while (!rest.empty()) {
    const bool present = rest[0] != 0;
    rest.remove_prefix(1);
    uint64_t size = 0;
    if (!present) {
      position.values.emplace_back(std::nullopt);
      continue;
    }
    if (!TakeNumber(rest, 2, size) || rest.size() < size) return Broken();
    position.values.emplace_back(std::string(rest.substr(0, size)));
    rest.remove_prefix(size);
  }
  if (position.values.size() != keys) return Broken();
  return position;
}

}  // namespace mainstay::records
