// SPDX-License-Identifier: Apache-2.0
#include "services/gateway/authenticator.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "libs/base/clock.h"
#include "libs/base/ids.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/secrets/api_keys.h"

namespace mainstay::gateway {
namespace {

namespace asio = boost::asio;

constexpr size_t kMaxEntries = 20000;

absl::Status Unauthenticated() {
  return MakeProblem("unauthenticated", "a valid API key is required: Authorization: Bearer mst_…");
}

// {a,"b c"} as PostgreSQL prints a text array.
std::vector<std::string> ParseTextArray(std::string_view text) {
  std::vector<std::string> items;
  if (text.size() < 2) return items;
  text = text.substr(1, text.size() - 2);
  size_t at = 0;
  while (at < text.size()) {
    std::string item;
    if (text[at] == '"') {
      for (++at; at < text.size() && text[at] != '"'; ++at) {
        if (text[at] == '\\') ++at;
        item += text[at];
      }
      ++at;
    } else {
      for (; at < text.size() && text[at] != ','; ++at) item += text[at];
    }
    items.push_back(std::move(item));
    ++at;  // the comma
  }
  return items;
}

// The token of "Bearer <token>", the scheme in any case (RFC 9110 11.1).
std::optional<std::string_view> BearerToken(std::string_view header) {
  constexpr std::string_view kScheme = "bearer ";
  if (header.size() <= kScheme.size() ||
      !absl::EqualsIgnoreCase(ToAbsl(header.substr(0, kScheme.size())), ToAbsl(kScheme)))
    return std::nullopt;
  header.remove_prefix(kScheme.size());
  while (!header.empty() && header.front() == ' ') header.remove_prefix(1);
  return header;
}

}  // namespace

struct Authenticator::Impl {
  struct Entry {
    secrets::StoredKey key;
    absl::Duration until;  // monotonic
  };
  postgres::AsyncPostgres& postgres;
  Clock& clock;
  const absl::Duration lifetime;
  const postgres::SqlPtr select = std::make_shared<const postgres::Sql>(secrets::kSelectApiKey);
  absl::flat_hash_map<std::string, Entry> entries;

  asio::awaitable<absl::StatusOr<std::optional<secrets::StoredKey>>> Load(std::string id, absl::Time deadline) {
    const absl::StatusOr<Uuid> uuid = ParseId("key", id);
    // What can't be an id is looked up too, as one that no key has: the same path for every wrong key.
    const Uuid wanted = uuid.ok() ? *uuid : Uuid();
    postgres::Statement statement{select, {}};
    statement.params.emplace_back(wanted.ToString());
    absl::StatusOr<postgres::Result> result = co_await postgres.Execute(std::move(statement), deadline);
    if (!result.ok()) co_return result.status();
    if (result->rows() == 0) co_return std::optional<secrets::StoredKey>();
    secrets::StoredKey key;
    key.principal.tenant = std::string(result->Get(0, 0));
    key.principal.subject = std::move(id);
    key.principal.roles = ParseTextArray(result->Get(0, 1));
    key.secret_hash = HexDecode(result->Get(0, 2)).value_or("");
    if (!result->IsNull(0, 3)) {
      const absl::StatusOr<absl::Time> expires = ParseTimestamp(result->Get(0, 3));
      if (!expires.ok()) co_return absl::InternalError("an API key has an unreadable expiry");
      key.expires_at = *expires;
    }
    co_return std::optional<secrets::StoredKey>(std::move(key));
  }
};

Authenticator::Authenticator(postgres::AsyncPostgres& postgres, Clock& clock, absl::Duration lifetime)
    : impl_(new Impl{postgres, clock, lifetime}) {}
Authenticator::~Authenticator() = default;

asio::awaitable<absl::StatusOr<Principal>> Authenticator::Authenticate(const http::Request& request) {
  const std::string* header = nullptr;
  for (const auto& [name, value] : request.headers) {
    if (name != "authorization") continue;
    if (header != nullptr) co_return MakeProblem("malformed-request", "there are two Authorization headers");
    header = &value;
  }
  if (request.query.find("mst_") != std::string::npos) {
    co_return MakeProblem(
        "invalid-parameter",
        "an API key must not stand in the URL; send it as Authorization: Bearer, and revoke this one");
  }
  const std::optional<std::string_view> token = header != nullptr ? BearerToken(*header) : std::nullopt;
  const std::optional<secrets::PresentedKey> presented = token ? secrets::ParseApiKey(*token) : std::nullopt;
  if (!presented) co_return Unauthenticated();

  const absl::Duration now = impl_->clock.Monotonic();
  const auto found = impl_->entries.find(presented->id);
  std::optional<secrets::StoredKey> key;
  if (found != impl_->entries.end() && found->second.until > now) {
    key = found->second.key;
  } else {
    absl::StatusOr<std::optional<secrets::StoredKey>> loaded = co_await impl_->Load(presented->id, request.deadline);
    if (!loaded.ok()) co_return loaded.status();
    key = *std::move(loaded);
    // Only keys that exist are kept: guesses must not push them out.
    if (impl_->entries.size() >= kMaxEntries) impl_->entries.clear();
    if (key) impl_->entries.insert_or_assign(presented->id, Impl::Entry{*key, now + impl_->lifetime});
  }
  static const secrets::StoredKey kNobody{{}, std::string(32, '\0'), std::nullopt};
  const bool matches = secrets::Matches(key ? *key : kNobody, presented->secret, impl_->clock.Now());
  if (!matches || !key) co_return Unauthenticated();
  co_return std::move(key->principal);
}

}  // namespace mainstay::gateway
