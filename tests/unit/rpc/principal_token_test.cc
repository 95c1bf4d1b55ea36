// SPDX-License-Identifier: Apache-2.0
#include "libs/rpc/principal_token.h"

#include <catch2/catch.hpp>

#include "libs/base/crypto.h"
#include "libs/base/text.h"

namespace mainstay::rpc {
namespace {

struct World {
  SimulatedClock clock{absl::FromUnixSeconds(1800000000)};
  Ed25519KeyPair gateway = NewEd25519KeyPair(), stranger = NewEd25519KeyPair();
  Verifier verifier{"worker", {{"gateway", gateway.public_key}}, clock};
  Principal principal{"acme", "key_1", {"staff", "viewer"}};
};

}  // namespace

TEST_CASE_METHOD(World, "a principal arrives as it was signed, with its issuer") {
  Signer signer("gateway", gateway.private_key, clock);
  const auto verified = verifier.Verify(signer.Sign(principal, "worker"));
  REQUIRE(verified.ok());
  CHECK(verified->principal == principal);
  CHECK(verified->issuer == "gateway");
}

TEST_CASE_METHOD(World, "a token is refused for another service, after its time, or by another key") {
  Signer signer("gateway", gateway.private_key, clock);
  CHECK_FALSE(verifier.Verify(signer.Sign(principal, "transfer")).ok());
  CHECK_FALSE(verifier.Verify(Signer("gateway", stranger.private_key, clock).Sign(principal, "worker")).ok());
  CHECK_FALSE(verifier.Verify(Signer("nobody", gateway.private_key, clock).Sign(principal, "worker")).ok());
  const std::string token = signer.Sign(principal, "worker");
  clock.Advance(absl::Seconds(59));
  CHECK(verifier.Verify(token).ok());
  clock.Advance(absl::Seconds(10));
  CHECK_FALSE(verifier.Verify(token).ok());
}

TEST_CASE_METHOD(World, "a token from the future is refused: it would live too long") {
  SimulatedClock ahead(clock.Now() + absl::Hours(1));
  CHECK_FALSE(verifier.Verify(Signer("gateway", gateway.private_key, ahead).Sign(principal, "worker")).ok());
}

TEST_CASE_METHOD(World, "no byte of a token can be changed") {
  Signer signer("gateway", gateway.private_key, clock);
  const std::string token = signer.Sign(principal, "worker");
  for (size_t i = 0; i < token.size(); ++i) {
    std::string changed = token;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    INFO(i);
    CHECK_FALSE(verifier.Verify(changed).ok());
  }
  for (const char* text : {"", "v1.", "v1..", "v2.a.b", "v1.e30.AAAA"}) CHECK_FALSE(verifier.Verify(text).ok());
  CHECK_FALSE(verifier.Verify(std::string(100000, 'v')).ok());
}

TEST_CASE_METHOD(World, "a signed payload that lacks a claim is refused") {
  const auto token = [&](const std::string& payload) {
    const std::string part = "v1." + Base64UrlEncode(payload);
    return part + "." + Base64UrlEncode(*Ed25519Sign(gateway.private_key, part));
  };
  const std::string exp = std::to_string(absl::ToUnixSeconds(clock.Now() + absl::Seconds(30)));
  CHECK(verifier
            .Verify(token(R"({"iss":"gateway","aud":"worker","exp":)" + exp + R"(,"tenant":"a","sub":"s","roles":[]})"))
            .ok());
  for (const std::string& payload :
       {R"({"iss":"gateway","aud":"worker","tenant":"a","sub":"s","roles":[]})" + std::string(),
        R"({"iss":"gateway","aud":"worker","exp":)" + exp + R"(,"tenant":"","sub":"s","roles":[]})",
        R"({"iss":"gateway","aud":"worker","exp":)" + exp + R"(,"tenant":"a","sub":"s"})",
        R"({"iss":"gateway","aud":"worker","exp":)" + exp + R"(,"tenant":"a","sub":"s","roles":[1]})",
        R"({"iss":"gateway","aud":"worker","exp":")" + exp + R"(","tenant":"a","sub":"s","roles":[]})"}) {
    INFO(payload);
    CHECK_FALSE(verifier.Verify(token(payload)).ok());
  }
}

TEST_CASE_METHOD(World, "a token is reused for half its life, and never for another principal") {
  Signer signer("gateway", gateway.private_key, clock);
  const std::string first = signer.Sign(principal, "worker");
  clock.Advance(absl::Seconds(10));
  CHECK(signer.Sign(principal, "worker") == first);
  Principal other = principal;
  other.tenant = "globex";
  CHECK(signer.Sign(other, "worker") != first);
  clock.Advance(absl::Seconds(25));
  CHECK(signer.Sign(principal, "worker") != first);
}

}  // namespace mainstay::rpc
