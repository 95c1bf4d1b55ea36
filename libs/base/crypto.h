// SPDX-License-Identifier: Apache-2.0
// The cryptography the suite uses, over OpenSSL's libcrypto, with the choices made: nothing here takes an algorithm by
// name.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace mainstay {

std::string RandomBytes(size_t n);  // from the system; aborts when there is none
std::string Sha256(std::string_view data);
std::string Sha1(std::string_view data);
std::string HmacSha256(std::string_view key, std::string_view data);
std::string HmacSha1(std::string_view key, std::string_view data);
// Equal in time that depends only on the lengths.
bool ConstantTimeEquals(std::string_view a, std::string_view b);

// AES-256-GCM with a fresh random 96-bit nonce in front: nonce | ciphertext | tag. `key` has 32 bytes; `aad` is bound,
// not stored.
std::string Seal(std::string_view key, std::string_view plaintext, std::string_view aad);
absl::StatusOr<std::string> Open(std::string_view key, std::string_view sealed, std::string_view aad);

// Ed25519 (RFC 8032); keys are the raw 32 bytes.
struct Ed25519KeyPair {
  std::string private_key;
  std::string public_key;
};
Ed25519KeyPair NewEd25519KeyPair();
absl::StatusOr<std::string> Ed25519PublicKey(std::string_view private_key);
absl::StatusOr<std::string> Ed25519Sign(std::string_view private_key, std::string_view message);
bool Ed25519Verify(std::string_view public_key, std::string_view message, std::string_view signature);

}  // namespace mainstay
