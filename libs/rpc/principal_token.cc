// SPDX-License-Identifier: Apache-2.0
#include "libs/rpc/principal_token.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::rpc {
namespace {

constexpr absl::Duration kLife = absl::Seconds(60);
constexpr absl::Duration kSkew = absl::Seconds(5);  // between clocks of hosts
constexpr size_t kMaxToken = 8192;
constexpr size_t kMaxCached = 10000;

absl::Status Refused() {
  return absl::UnauthenticatedError("the call carries no valid principal");
}

}  // namespace

struct Signer::Impl {
  struct Cached {
    std::string token;
    absl::Time reuse_until;
  };
  const std::string issuer, key;
  Clock& clock;
  absl::Mutex mu;
  absl::flat_hash_map<std::string, Cached> cache ABSL_GUARDED_BY(mu);
};

Signer::Signer(std::string issuer, std::string private_key, Clock& clock)
    : impl_(new Impl{std::move(issuer), std::move(private_key), clock}) {}
Signer::Signer(Signer&&) noexcept = default;
Signer::~Signer() = default;

std::string Signer::Sign(const Principal& principal, std::string_view audience) {
  const absl::Time now = impl_->clock.Now();
  const std::string id =
      StrCat(audience, "\n", principal.tenant, "\n", principal.subject, "\n", absl::StrJoin(principal.roles, "\n"));
  {
    absl::ReaderMutexLock lock(&impl_->mu);
    const auto cached = impl_->cache.find(id);
    // The wall clock may have been set back since: then the entry's end lies too far ahead.
    if (cached != impl_->cache.end() && now < cached->second.reuse_until &&
        cached->second.reuse_until <= now + kLife / 2)
      return cached->second.token;
  }
  std::string payload;
  JsonWriter json(payload);
  json.BeginObject()
      .Key("iss")
      .String(impl_->issuer)
      .Key("aud")
      .String(audience)
      .Key("exp")
      .Int(absl::ToUnixSeconds(now + kLife));
  json.Key("tenant").String(principal.tenant).Key("sub").String(principal.subject).Key("roles").BeginArray();
  for (const std::string& role : principal.roles) json.String(role);
  json.EndArray().EndObject();
  const std::string signed_part = StrCat("v1.", Base64UrlEncode(payload));
  std::string token = StrCat(signed_part, ".", Base64UrlEncode(*Ed25519Sign(impl_->key, signed_part)));
  absl::MutexLock lock(&impl_->mu);
  if (impl_->cache.size() >= kMaxCached) impl_->cache.clear();
  impl_->cache[id] = {token, now + kLife / 2};
  return token;
}

Verifier::Verifier(std::string audience, std::map<std::string, std::string> trusted, Clock& clock)
    : audience_(std::move(audience)), trusted_(std::move(trusted)), clock_(clock) {}

absl::StatusOr<VerifiedPrincipal> Verifier::Verify(std::string_view token) const {
  if (token.size() > kMaxToken || token.substr(0, 3) != "v1.") return Refused();
  const size_t dot = token.rfind('.');
  if (dot <= 3) return Refused();
  const auto payload = Base64UrlDecode(token.substr(3, dot - 3));
  const auto signature = Base64UrlDecode(token.substr(dot + 1));
  if (!payload || !signature) return Refused();
  // The issuer is read before the signature is checked, only to choose the key; nothing else is believed until then.
  const auto document = JsonDocument::Parse(*payload);
  if (!document.ok()) return Refused();
  const JsonValue& claims = document->root();
  const auto text = [&](std::string_view name) -> std::string_view {
    const JsonValue* value = claims.Find(name);
    return value != nullptr && value->is_string() ? value->text() : std::string_view();
  };
  const auto key = trusted_.find(std::string(text("iss")));
  if (key == trusted_.end() || !Ed25519Verify(key->second, token.substr(0, dot), *signature)) return Refused();
  const JsonValue* expires = claims.Find("exp");
  int64_t unix = 0;
  if (expires == nullptr || !expires->is_number() || !absl::SimpleAtoi(ToAbsl(expires->text()), &unix))
    return Refused();
  const absl::Time now = clock_.Now();
  if (now >= absl::FromUnixSeconds(unix) + kSkew || absl::FromUnixSeconds(unix) > now + kLife + kSkew) return Refused();
  if (text("aud") != audience_ || text("tenant").empty() || text("sub").empty()) return Refused();
  VerifiedPrincipal verified;
  verified.issuer = key->first;
  verified.principal.tenant = std::string(text("tenant"));
  verified.principal.subject = std::string(text("sub"));
  const JsonValue* roles = claims.Find("roles");
  if (roles == nullptr || !roles->is_array()) return Refused();
  for (const JsonValue& role : roles->items()) {
    if (!role.is_string()) return Refused();
    verified.principal.roles.emplace_back(role.text());
  }
  return verified;
}

}  // namespace mainstay::rpc
