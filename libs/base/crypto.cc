// SPDX-License-Identifier: Apache-2.0
#include "libs/base/crypto.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

namespace mainstay {
namespace {

constexpr size_t kNonce = 12, kTag = 16;

// What hot paths use is fetched once: by EVP_sha256() and the like libcrypto looks it up at each use, which takes
// longer than a short digest.
const EVP_CIPHER* Aes256Gcm() {
  static const EVP_CIPHER* const kind = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  return kind;
}

struct Free {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using PKey = std::unique_ptr<EVP_PKEY, Free>;
using DigestContext = std::unique_ptr<EVP_MD_CTX, Free>;
using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, Free>;

const unsigned char* Bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}
unsigned char* Bytes(std::string& text) {
  return reinterpret_cast<unsigned char*>(text.data());
}

// libcrypto fails here only when memory or the random source does: nothing sensible could go on.
void Must(bool ok) {
  if (ok) return;
  std::fputs("libcrypto failed\n", stderr);
  std::abort();
}

std::string Digest(const EVP_MD* kind, std::string_view data) {
  std::string out(size_t(EVP_MD_get_size(kind)), '\0');
  unsigned length = 0;
  Must(EVP_Digest(data.data(), data.size(), Bytes(out), &length, kind, nullptr) == 1);
  return out;
}

std::string Hmac(const EVP_MD* kind, std::string_view key, std::string_view data) {
  std::string out(size_t(EVP_MD_get_size(kind)), '\0');
  unsigned length = 0;
  // OpenSSL reads a null key as "reuse the last one": an empty key must not be null.
  const char* bytes = key.empty() ? "" : key.data();
  Must(HMAC(kind, bytes, int(key.size()), Bytes(data), data.size(), Bytes(out), &length) != nullptr);
  return out;
}

}  // namespace

std::string RandomBytes(size_t n) {
  std::string out(n, '\0');
  Must(RAND_bytes(Bytes(out), int(n)) == 1);
  return out;
}

std::string Sha256(std::string_view data) {
  static const EVP_MD* const kind = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return Digest(kind, data);
}
std::string Sha1(std::string_view data) {
  return Digest(EVP_sha1(), data);
}
std::string HmacSha256(std::string_view key, std::string_view data) {
  return Hmac(EVP_sha256(), key, data);
}
std::string HmacSha1(std::string_view key, std::string_view data) {
  return Hmac(EVP_sha1(), key, data);
}

bool ConstantTimeEquals(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string Seal(std::string_view key, std::string_view plaintext, std::string_view aad) {
  Must(key.size() == 32);
  std::string out = RandomBytes(kNonce);
  out.resize(kNonce + plaintext.size() + kTag);
  CipherContext context(EVP_CIPHER_CTX_new());
  int length = 0;
  Must(EVP_EncryptInit_ex(context.get(), Aes256Gcm(), nullptr, Bytes(key), Bytes(out)) == 1);
  if (!aad.empty()) Must(EVP_EncryptUpdate(context.get(), nullptr, &length, Bytes(aad), int(aad.size())) == 1);
  if (!plaintext.empty()) {
    Must(EVP_EncryptUpdate(context.get(), Bytes(out) + kNonce, &length, Bytes(plaintext), int(plaintext.size())) == 1);
  }
  unsigned char* end = Bytes(out) + kNonce + plaintext.size();
  Must(EVP_EncryptFinal_ex(context.get(), end, &length) == 1);
  Must(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, int(kTag), end) == 1);
  return out;
}

absl::StatusOr<std::string> Open(std::string_view key, std::string_view sealed, std::string_view aad) {
  const absl::Status refused = absl::InvalidArgumentError("the sealed value is not authentic");
  if (key.size() != 32 || sealed.size() < kNonce + kTag) return refused;
  std::string out(sealed.size() - kNonce - kTag, '\0');
  std::string tag(sealed.substr(sealed.size() - kTag));
  CipherContext context(EVP_CIPHER_CTX_new());
  int length = 0;
  Must(EVP_DecryptInit_ex(context.get(), Aes256Gcm(), nullptr, Bytes(key), Bytes(sealed)) == 1);
  if (!aad.empty()) Must(EVP_DecryptUpdate(context.get(), nullptr, &length, Bytes(aad), int(aad.size())) == 1);
  if (!out.empty()) {
    Must(EVP_DecryptUpdate(context.get(), Bytes(out), &length, Bytes(sealed) + kNonce, int(out.size())) == 1);
  }
  Must(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, int(kTag), Bytes(tag)) == 1);
  unsigned char rest[kTag];
  if (EVP_DecryptFinal_ex(context.get(), rest, &length) != 1) return refused;
  return out;
}

Ed25519KeyPair NewEd25519KeyPair() {
  Ed25519KeyPair pair;
  pair.private_key = RandomBytes(32);
  pair.public_key = *Ed25519PublicKey(pair.private_key);
  return pair;
}

absl::StatusOr<std::string> Ed25519PublicKey(std::string_view private_key) {
  PKey key(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, Bytes(private_key), private_key.size()));
  if (!key) return absl::InvalidArgumentError("an Ed25519 private key has 32 bytes");
  std::string out(32, '\0');
  size_t length = out.size();
  Must(EVP_PKEY_get_raw_public_key(key.get(), Bytes(out), &length) == 1);
  return out;
}

absl::StatusOr<std::string> Ed25519Sign(std::string_view private_key, std::string_view message) {
  PKey key(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, Bytes(private_key), private_key.size()));
  if (!key) return absl::InvalidArgumentError("an Ed25519 private key has 32 bytes");
  DigestContext context(EVP_MD_CTX_new());
  std::string out(64, '\0');
  size_t length = out.size();
  Must(EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1);
  Must(EVP_DigestSign(context.get(), Bytes(out), &length, Bytes(message), message.size()) == 1);
  return out;
}

bool Ed25519Verify(std::string_view public_key, std::string_view message, std::string_view signature) {
  PKey key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, Bytes(public_key), public_key.size()));
  if (!key || signature.size() != 64) return false;
  DigestContext context(EVP_MD_CTX_new());
  Must(EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1);
  return EVP_DigestVerify(context.get(), Bytes(signature), signature.size(), Bytes(message), message.size()) == 1;
}

}  // namespace mainstay
