// SPDX-License-Identifier: Apache-2.0
// Secrets of tenants and providers, envelope-encrypted in PostgreSQL; catalogs hold their names only.
//
// A random data key per secret (AES-256-GCM, AAD = tenant|name|version) is wrapped by a key-encryption key that stands
// in a file outside the database. Several keys may be known: the first wraps, all unwrap. A secret may have several
// live versions (rotation with overlap). Plain values are cached for at most 60 s and registered with the log's
// redaction.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pqxx {
class transaction_base;
}
namespace mainstay::postgres {
class Pool;
}

namespace mainstay::secrets {

// Key-encryption keys, the one for new writes first. File: a line per key, "<id> <base64 of 32 bytes>".
class KeyRing {
 public:
  static absl::StatusOr<KeyRing> Load(const std::string& file);
  static std::string NewFile();  // the text of a file with one fresh key
  std::vector<std::pair<std::string, std::string>> keys;
};

class Store {
 public:
  Store(postgres::Pool& pool, KeyRing keys);
  ~Store();
  // Adds a version and keeps older live ones for `overlap`. Tenant "" is for the whole installation.
  absl::Status Put(std::string_view tenant, std::string_view name, std::string_view value,
                   absl::Duration overlap = absl::ZeroDuration());
  // All live versions, newest first; a tenant's own before the installation's. NotFound when none. An unknown key id is
  // Internal, not NotFound.
  absl::StatusOr<std::vector<std::string>> Get(std::string_view tenant, std::string_view name);
  absl::Status Remove(std::string_view tenant, std::string_view name);
  struct Listed {
    std::string tenant, name;
    int version;
    absl::Time created_at;
  };
  absl::StatusOr<std::vector<Listed>> List();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::secrets
