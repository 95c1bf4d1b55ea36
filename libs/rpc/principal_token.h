// SPDX-License-Identifier: Apache-2.0
// The signed principal that travels between services in the metadata key "mainstay-principal".
//
// "v1.<base64url payload>.<base64url Ed25519 signature>"; payload = JSON {iss, aud, exp, tenant, sub, roles}. Lives at
// most 60 s. Every service holds the public keys of those it trusts; the gateway signs for callers from outside, a
// service signs for the principal of the job it runs. Never kept on the connection: gRPC's AuthContext is shared by all
// calls of a channel.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "libs/base/clock.h"
#include "libs/base/principal.h"

namespace mainstay::rpc {

class Signer {
 public:
  // `issuer`: this service's name; `private_key`: 32 raw bytes.
  Signer(std::string issuer, std::string private_key, Clock& clock);
  Signer(Signer&&) noexcept;
  ~Signer();
  // A token for `principal`, valid for `audience` (a service's name). Reused while at least half its life is left;
  // thread-safe.
  std::string Sign(const Principal& principal, std::string_view audience);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct VerifiedPrincipal {
  Principal principal;
  std::string issuer;
};

class Verifier {
 public:
  // issuer → public key (32 raw bytes).
  Verifier(std::string audience, std::map<std::string, std::string> trusted, Clock& clock);
  // Unauthenticated for anything wrong, without saying what to the peer.
  absl::StatusOr<VerifiedPrincipal> Verify(std::string_view token) const;

 private:
  const std::string audience_;
  const std::map<std::string, std::string> trusted_;
  Clock& clock_;
};

}  // namespace mainstay::rpc
