// SPDX-License-Identifier: Apache-2.0
#include "libs/secrets/api_keys.h"

#include <pqxx/pqxx>

#include "libs/base/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/ids.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/postgres/errors.h"
#include "libs/secrets/sql.h"

namespace mainstay::secrets {
namespace {

constexpr std::string_view kPrefix = "mst_";
constexpr size_t kIdLength = 26, kSecretBytes = 32, kSecretLength = 43;  // base64url of 32 bytes

bool IsName(std::string_view text, size_t max) {
  if (text.empty() || text.size() > max || !IsValidUtf8(text)) return false;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return false;
  }
  return true;
}

// The whole 256 bits are random, so a plain hash is enough: there is nothing to guess.
std::string HashOf(std::string_view secret) {
  return Sha256(secret);
}

std::optional<absl::Time> Micros(const pqxx::field& field) {
  if (field.is_null()) return std::nullopt;
  return absl::FromUnixMicros(field.as<int64_t>());
}

}  // namespace

// Revoked and expired keys are not found here or refused by Matches: the answer to the caller is one.
const char kSelectApiKey[] =
    "SELECT tenant, roles, encode(secret_hash, 'hex'), to_char(expires_at AT TIME ZONE 'UTC', "
    "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') "
    "FROM mainstay.api_keys WHERE id = $1::uuid AND revoked_at IS NULL";

absl::StatusOr<CreatedApiKey> CreateApiKey(pqxx::transaction_base& tx, const NewApiKey& key) {
  if (!IsName(key.tenant, 100))
    return MakeProblem("invalid-parameter", "a key belongs to a tenant (1 to 100 bytes of text), or * for operators");
  if (!IsName(key.name, 200))
    return MakeProblem("invalid-parameter", "a key needs a name (1 to 200 bytes of text) that says who uses it");
  if (key.roles.empty() || key.roles.size() > 50) return MakeProblem("invalid-parameter", "a key needs 1 to 50 roles");
  PgArray roles;
  for (const auto& role : key.roles) {
    if (!IsName(role, 100)) return MakeProblem("invalid-parameter", "the name of a role has 1 to 100 bytes of text");
    roles.Add(role);
  }
  const Uuid uuid = NewUuid();
  const std::string secret = Base64UrlEncode(RandomBytes(kSecretBytes));
  CreatedApiKey created{.id = FormatId("key", uuid)};
  created.key = StrCat(kPrefix, created.id.substr(4), "_", secret);
  try {
    tx.exec_params(sql::kInsertApiKey, uuid.ToString(), key.tenant, key.name, std::move(roles).Finish(),
                   HexEncode(HashOf(secret)),
                   key.expires_at.has_value() ? FormatTimestamp(*key.expires_at) : std::string());
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
  return created;
}

absl::Status RevokeApiKey(pqxx::transaction_base& tx, std::string_view id) {
  ASSIGN_OR_RETURN(const Uuid uuid, ParseId("key", id));
  try {
    if (tx.exec_params(sql::kRevokeApiKey, uuid.ToString()).empty())
      return MakeProblem("not-found", StrCat("there is no key ", id));
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ListedApiKey>> ListApiKeys(pqxx::transaction_base& tx) {
  std::vector<ListedApiKey> list;
  try {
    for (const auto& row : tx.exec(sql::kListApiKeys)) {
      ASSIGN_OR_RETURN(const Uuid uuid, ParseUuid(row[0].c_str()));
      ListedApiKey key{.id = FormatId("key", uuid), .tenant = row[1].c_str(), .name = row[2].c_str()};
      auto roles = row[3].as_array();
      for (auto item = roles.get_next(); item.first != pqxx::array_parser::done; item = roles.get_next()) {
        if (item.first == pqxx::array_parser::string_value) key.roles.push_back(item.second);
      }
      key.created_at = *Micros(row[4]);
      key.expires_at = Micros(row[5]);
      key.revoked_at = Micros(row[6]);
      list.push_back(std::move(key));
    }
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
  return list;
}

std::optional<PresentedKey> ParseApiKey(std::string_view text) {
  if (text.size() != kPrefix.size() + kIdLength + 1 + kSecretLength || !text.starts_with(kPrefix)) return std::nullopt;
  text.remove_prefix(kPrefix.size());
  if (text[kIdLength] != '_') return std::nullopt;
  PresentedKey key{StrCat("key_", text.substr(0, kIdLength)), std::string(text.substr(kIdLength + 1))};
  if (!ParseId("key", key.id).ok() || !Base64UrlDecode(key.secret).has_value()) return std::nullopt;
  return key;
}

absl::StatusOr<Principal> CheckApiKey(pqxx::transaction_base& tx, std::string_view key, absl::Time now) {
  const auto wrong = [] { return MakeProblem("unauthenticated", "a valid API key is required"); };
  const std::optional<PresentedKey> presented = ParseApiKey(key);
  if (!presented.has_value()) return wrong();
  StoredKey stored{{}, std::string(32, '\0'), std::nullopt};
  ASSIGN_OR_RETURN(const Uuid uuid, ParseId("key", presented->id));
  try {
    const pqxx::result rows = tx.exec_params(kSelectApiKey, uuid.ToString());
    if (!rows.empty()) {
      stored.principal = {.tenant = rows[0][0].c_str(), .subject = presented->id};
      auto roles = rows[0][1].as_array();
      for (auto item = roles.get_next(); item.first != pqxx::array_parser::done; item = roles.get_next()) {
        if (item.first == pqxx::array_parser::string_value) stored.principal.roles.push_back(item.second);
      }
      stored.secret_hash = HexDecode(rows[0][2].c_str()).value_or("");
      if (!rows[0][3].is_null()) {
        ASSIGN_OR_RETURN(stored.expires_at, ParseTimestamp(rows[0][3].c_str()));
      }
    }
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
  if (!Matches(stored, presented->secret, now) || stored.principal.subject.empty()) return wrong();
  return std::move(stored.principal);
}

bool Matches(const StoredKey& stored, std::string_view secret, absl::Time now) {
  // The comparison comes first, whatever else is wrong with the key.
  const bool same = ConstantTimeEquals(stored.secret_hash, HashOf(secret));
  return same && (!stored.expires_at.has_value() || now < *stored.expires_at);
}

}  // namespace mainstay::secrets
