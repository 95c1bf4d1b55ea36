// SPDX-License-Identifier: Apache-2.0
#include "libs/base/crypto.h"

#include <catch2/catch.hpp>

#include "libs/base/text.h"

namespace mainstay {

TEST_CASE("digests and MACs match published vectors") {
  CHECK(HexEncode(Sha256("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");  // FIPS 180-2
  CHECK(HexEncode(Sha1("abc")) == "a9993e364706816aba3e25717850c26c9cd0d89d");
  // RFC 4231 test case 2, RFC 2202 test case 2.
  CHECK(HexEncode(HmacSha256("Jefe", "what do ya want for nothing?")) ==
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  CHECK(HexEncode(HmacSha1("Jefe", "what do ya want for nothing?")) == "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
  CHECK(HmacSha256("", "x") != HmacSha256("k", "x"));
}

TEST_CASE("a sealed value opens with the same key and context only") {
  const std::string key = RandomBytes(32), other = RandomBytes(32);
  const std::string sealed = Seal(key, "secret", "tenant|name");
  CHECK(*Open(key, sealed, "tenant|name") == "secret");
  CHECK(Seal(key, "secret", "tenant|name") != sealed);
  CHECK_FALSE(Open(other, sealed, "tenant|name").ok());
  CHECK_FALSE(Open(key, sealed, "tenant|other").ok());
  for (size_t i = 0; i < sealed.size(); ++i) {
    std::string flipped = sealed;
    flipped[i] = char(flipped[i] ^ 1);
    CHECK_FALSE(Open(key, flipped, "tenant|name").ok());
  }
  CHECK_FALSE(Open(key, sealed.substr(0, 20), "tenant|name").ok());
  CHECK(*Open(key, Seal(key, "", ""), "") == "");
}

TEST_CASE("Ed25519 matches RFC 8032, test 2") {
  const std::string secret = *HexDecode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
  const std::string pub = *Ed25519PublicKey(secret);
  CHECK(HexEncode(pub) == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
  const std::string signature = *Ed25519Sign(secret, "\x72");
  CHECK(HexEncode(signature) ==
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302a"
        "eeb00d291612bb0c00");
  CHECK(Ed25519Verify(pub, "\x72", signature));
  CHECK_FALSE(Ed25519Verify(pub, "\x73", signature));
  CHECK_FALSE(Ed25519Verify(pub, "\x72", signature.substr(1)));
  CHECK_FALSE(Ed25519Verify("short", "\x72", signature));
}

TEST_CASE("constant-time equality is equality") {
  CHECK(ConstantTimeEquals("abc", "abc"));
  CHECK_FALSE(ConstantTimeEquals("abc", "abd"));
  CHECK_FALSE(ConstantTimeEquals("abc", "ab"));
}

}  // namespace mainstay
