// SPDX-License-Identifier: Apache-2.0
// Decides which addresses may be dialled: the defence against requests that a user's URL or a hostile DNS server aims
// at our own network (SSRF).
//
// A URL is taken apart once, strictly, and put together again from the checked parts; what was typed is never sent.
// Names are checked before they are resolved, every answer after, and the connection is pinned to the checked answers
// (transport.h looks at the real socket address again). libcurl would read "127.1", "0x7f.1" or full-width digits as
// 127.0.0.1, so anything but the one canonical spelling is refused here first. Pure functions of policy and input;
// thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mainstay::integrations {

struct Address {
  bool v6 = false;
  std::array<uint8_t, 16> bytes{};  // the first four for IPv4
  // Strict: dotted decimal without leading zeros, or RFC 4291 text.
  static std::optional<Address> Parse(std::string_view text);
  std::string ToString() const;
  friend bool operator==(const Address&, const Address&) = default;
};

struct Cidr {
  Address base;
  int bits = 0;
  static absl::StatusOr<Cidr> Parse(std::string_view text);  // "10.20.0.0/24"
  bool Contains(const Address& address) const;
};

struct GuardPolicy {
  std::vector<std::string> schemes = {"https"};
  std::vector<int> ports = {443, 8443};
  // Networks that are reachable although their class is refused: laboratories, the demo. Of the deployment, never of a
  // tenant. A URL that names such an address itself may use plain http and any port. Metadata addresses stay closed.
  std::vector<Cidr> allow;
  // NAT64 prefixes (/96) in use here: the IPv4 inside is judged.
  std::vector<Cidr> nat64;
  // Our own public addresses.
  std::vector<Address> self;
  std::vector<std::string> internal_suffixes = {".internal", ".local",     ".localdomain", ".cluster.local", ".svc",
                                                ".lan",      ".home.arpa", ".corp",        ".intranet"};
  bool allow_ip_literals = true;
};

// A URL that passed all checks that need no DNS.
struct Target {
  std::string scheme;  // "https"
  std::string host;    // ASCII, lower-case, no brackets, no root dot
  int port = 0;
  std::string path;  // with the query, beginning with "/"
  std::optional<Address> literal;
  std::string Url() const;     // rebuilt; what is sent
  std::string Origin() const;  // "https://api.example.com:8443"
};

// The refusals: InvalidArgument "url_not_allowed" towards callers, with the reason for our logs attached.
absl::StatusOr<Target> CheckUrl(const GuardPolicy& policy, std::string_view url);
// Empty when the address may be dialled, else the reason ("loopback", "private", "metadata" …).
std::string_view CheckAddress(const GuardPolicy& policy, const Address& address);
// All answers of a name; one bad answer refuses all.
absl::Status CheckAnswers(const GuardPolicy& policy, absl::Span<const Address> answers);
// A reference out of a response (Location, next page) resolved against where it came from, then checked whole. A step
// from https to http is refused.
absl::StatusOr<Target> CheckReference(const GuardPolicy& policy, const Target& base, std::string_view reference);

// The reason inside a refusal of this library; empty for other statuses.
std::string GuardReason(const absl::Status& status);

}  // namespace mainstay::integrations
