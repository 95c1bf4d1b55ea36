// SPDX-License-Identifier: Apache-2.0
#include "libs/secrets/secrets.h"

#include <openssl/crypto.h>

#include <fstream>
#include <pqxx/pqxx>
#include <sstream>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/crypto.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/secrets/sql.h"
#include "libs/telemetry/log.h"

namespace mainstay::secrets {
namespace {

constexpr absl::Duration kCacheFor = absl::Seconds(60), kStatementTime = absl::Seconds(5);
constexpr size_t kMaxCached = 10'000, kMaxName = 200, kMaxValue = 64 << 10;

// Binds a sealed value to its row, so that rows cannot be swapped. None of the parts may contain the separator
// (CheckName).
std::string Aad(std::string_view tenant, std::string_view name, int version) {
  return StrCat(tenant, "|", name, "|", version);
}

absl::Status CheckName(std::string_view tenant, std::string_view name) {
  const auto plain = [](std::string_view text) {
    for (const char c : text) {
      if (c == '|' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return false;
    }
    return IsValidUtf8(text);
  };
  if (name.empty() || name.size() > kMaxName || !plain(name)) {
    return MakeProblem("invalid-parameter",
                       "the name of a secret has 1 to 200 bytes of text without | and control characters");
  }
  if (tenant.size() > kMaxName || !plain(tenant))
    return MakeProblem("invalid-parameter", "that cannot be a tenant's name");
  return absl::OkStatus();
}

void Wipe(std::string& text) {
  OPENSSL_cleanse(text.data(), text.size());
}

}  // namespace

absl::StatusOr<KeyRing> KeyRing::Load(const std::string& file) {
  std::ifstream in(file);
  if (!in) return absl::NotFoundError(StrCat("cannot read the key file ", file));
  KeyRing ring;
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string id, text, rest;
    words >> id >> text;
    const auto key = Base64Decode(text);
    // The line itself is never shown: it is a key.
    if (id.empty() || (words >> rest) || !key.has_value() || key->size() != 32) {
      return absl::InvalidArgumentError(StrCat(file, ":", number, ": expected \"<id> <base64 of 32 bytes>\""));
    }
    for (const auto& [known, unused] : ring.keys) {
      if (known == id) return absl::InvalidArgumentError(StrCat(file, ":", number, ": key id ", id, " stands twice"));
    }
    log::RegisterSecret(text);
    ring.keys.emplace_back(id, *key);
    Wipe(line);
  }
  if (ring.keys.empty()) return absl::InvalidArgumentError(StrCat("the key file ", file, " holds no key"));
  return ring;
}

std::string KeyRing::NewFile() {
  return StrCat(
      "# Key-encryption keys of Mainstay's secrets. Whoever has this file and the database can read them; without it "
      "they are lost. The first key is used for new values.\n",
      "k", HexEncode(RandomBytes(4)), " ", Base64Encode(RandomBytes(32)), "\n");
}

struct Store::Impl {
  Impl(postgres::Pool& p, KeyRing k) : pool(p), keys(std::move(k)) {}
  ~Impl() {
    for (auto& [key, entry] : cache) {
      for (auto& value : entry.values) Wipe(value);
    }
    for (auto& [id, key] : keys.keys) Wipe(key);
  }

  const std::string* FindKey(std::string_view id) const {
    for (const auto& [known, key] : keys.keys) {
      if (known == id) return &key;
    }
    return nullptr;
  }

  absl::StatusOr<std::string> Unseal(const pqxx::row& row, std::string_view name) const {
    const std::string tenant = row[0].c_str(), kek = row[2].c_str();
    const int version = row[1].as<int>();
    const std::string label =
        StrCat("secret ", name, tenant.empty() ? "" : StrCat(" of tenant ", tenant), " version ", version);
    const std::string* key = FindKey(kek);
    if (key == nullptr) return absl::InternalError(StrCat(label, " needs key ", kek, ", which is not in the key file"));
    const std::string aad = Aad(tenant, name, version);
    auto data_key = mainstay::Open(*key, HexDecode(row[3].c_str()).value_or(""), aad);
    if (!data_key.ok())
      return absl::InternalError(
          StrCat(label, " cannot be opened: its data key is not what key ", kek, " wrapped for it"));
    auto value = mainstay::Open(*data_key, HexDecode(row[4].c_str()).value_or(""), aad);
    Wipe(*data_key);
    if (!value.ok()) return absl::InternalError(StrCat(label, " cannot be opened: the row was changed or swapped"));
    log::RegisterSecret(*value);
    return *std::move(value);
  }

  void Forget(std::string_view name) {
    absl::MutexLock lock(&mu);
    // An installation's secret may be cached under any tenant.
    for (auto it = cache.begin(); it != cache.end();) {
      const auto current = it++;
      if (current->first.second != name) continue;
      for (auto& value : current->second.values) Wipe(value);
      cache.erase(current);
    }
  }

  struct Entry {
    std::vector<std::string> values;
    absl::Time until;
  };
  postgres::Pool& pool;
  KeyRing keys;
  absl::Mutex mu;
  absl::flat_hash_map<std::pair<std::string, std::string>, Entry> cache ABSL_GUARDED_BY(mu);
};

Store::Store(postgres::Pool& pool, KeyRing keys) : impl_(std::make_unique<Impl>(pool, std::move(keys))) {}
Store::~Store() = default;

absl::Status Store::Put(std::string_view tenant, std::string_view name, std::string_view value,
                        absl::Duration overlap) {
  RETURN_IF_ERROR(CheckName(tenant, name));
  if (value.empty() || value.size() > kMaxValue)
    return MakeProblem("invalid-parameter", "the value of a secret has 1 to 65536 bytes");
  if (impl_->keys.keys.empty()) return absl::FailedPreconditionError("there is no key to encrypt with");
  const std::string &kek_id = impl_->keys.keys[0].first, &kek = impl_->keys.keys[0].second;
  const std::string t(tenant), n(name);
  absl::Status status = impl_->pool.Transaction(absl::Now() + kStatementTime, [&](pqxx::transaction_base& tx) {
    tx.exec_params(sql::kLockSecret, t, n);
    const int version = tx.exec_params(sql::kNextVersion, t, n)[0][0].as<int>();
    const std::string aad = Aad(tenant, name, version);
    std::string data_key = RandomBytes(32);
    const std::string sealed = Seal(data_key, value, aad), wrapped = Seal(kek, data_key, aad);
    Wipe(data_key);
    tx.exec_params(sql::kRetireVersions, t, n, std::max<int64_t>(0, absl::ToInt64Milliseconds(overlap)));
    tx.exec_params(sql::kInsertSecret, t, n, version, kek_id, HexEncode(wrapped), HexEncode(sealed));
    return absl::OkStatus();
  });
  impl_->Forget(name);
  return status;
}

absl::StatusOr<std::vector<std::string>> Store::Get(std::string_view tenant, std::string_view name) {
  RETURN_IF_ERROR(CheckName(tenant, name));
  const std::pair<std::string, std::string> key{tenant, name};
  {
    absl::MutexLock lock(&impl_->mu);
    const auto it = impl_->cache.find(key);
    if (it != impl_->cache.end() && it->second.until > absl::Now()) return it->second.values;
  }
  std::vector<std::string> values;
  RETURN_IF_ERROR(impl_->pool.Autocommit(absl::Now() + kStatementTime, [&](pqxx::transaction_base& tx) -> absl::Status {
    const pqxx::result rows = tx.exec_params(sql::kSelectSecret, key.first, key.second);
    for (const auto& row : rows) {
      ASSIGN_OR_RETURN(std::string value, impl_->Unseal(row, name));
      values.push_back(std::move(value));
    }
    return absl::OkStatus();
  }));
  if (values.empty())
    return absl::NotFoundError(StrCat("there is no secret ", name, tenant.empty() ? "" : StrCat(" for tenant ", tenant),
                                      "; store it with `mainstay secrets put`"));
  absl::MutexLock lock(&impl_->mu);
  if (impl_->cache.size() >= kMaxCached) impl_->cache.clear();
  impl_->cache[key] = {values, absl::Now() + kCacheFor};
  return values;
}

absl::Status Store::Remove(std::string_view tenant, std::string_view name) {
  RETURN_IF_ERROR(CheckName(tenant, name));
  size_t removed = 0;
  RETURN_IF_ERROR(impl_->pool.Autocommit(absl::Now() + kStatementTime, [&](pqxx::transaction_base& tx) {
    removed = tx.exec_params(sql::kRemoveSecret, std::string(tenant), std::string(name)).affected_rows();
    return absl::OkStatus();
  }));
  impl_->Forget(name);
  return removed > 0 ? absl::OkStatus() : absl::NotFoundError(StrCat("there is no secret ", name));
}

absl::StatusOr<std::vector<Store::Listed>> Store::List() {
  std::vector<Listed> list;
  RETURN_IF_ERROR(impl_->pool.Autocommit(absl::Now() + kStatementTime, [&](pqxx::transaction_base& tx) {
    for (const auto& row : tx.exec(sql::kListSecrets)) {
      list.push_back({row[0].c_str(), row[1].c_str(), row[2].as<int>(), absl::FromUnixMicros(row[3].as<int64_t>())});
    }
    return absl::OkStatus();
  }));
  return list;
}

}  // namespace mainstay::secrets
