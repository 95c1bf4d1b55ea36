// SPDX-License-Identifier: Apache-2.0
// API keys: "mst_" + id + "_" + secret. The database holds SHA-256 of the secret only; a lost key cannot be shown
// again.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/principal.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::secrets {

struct NewApiKey {
  std::string tenant;  // or kAllTenants for operators
  std::string name;
  std::vector<std::string> roles;
  std::optional<absl::Time> expires_at;
};
struct CreatedApiKey {
  std::string id;   // key_…
  std::string key;  // shown once
};
absl::StatusOr<CreatedApiKey> CreateApiKey(pqxx::transaction_base& tx, const NewApiKey& key);
absl::Status RevokeApiKey(pqxx::transaction_base& tx, std::string_view id);

struct ListedApiKey {
  std::string id, tenant, name;
  std::vector<std::string> roles;
  absl::Time created_at;
  std::optional<absl::Time> expires_at, revoked_at;
};
absl::StatusOr<std::vector<ListedApiKey>> ListApiKeys(pqxx::transaction_base& tx);

// A key as presented, cut into its parts; nullopt when it cannot be one.
struct PresentedKey {
  std::string id, secret;
};
std::optional<PresentedKey> ParseApiKey(std::string_view text);
// What is stored of a key; compared with the presented secret in constant time.
struct StoredKey {
  Principal principal;
  std::string secret_hash;  // 32 bytes
  std::optional<absl::Time> expires_at;
};
// The statement that reads one: $1 = id as uuid; columns tenant, roles (text array), secret hash (hex), expires_at
// (text, UTC). For the gateway's asynchronous reader.
extern const char kSelectApiKey[];
// Whose key this is, read now. unauthenticated for every sort of wrong one, after the same work.
absl::StatusOr<Principal> CheckApiKey(pqxx::transaction_base& tx, std::string_view key, absl::Time now);
bool Matches(const StoredKey& stored, std::string_view secret, absl::Time now);

}  // namespace mainstay::secrets
