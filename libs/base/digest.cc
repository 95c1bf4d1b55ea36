// SPDX-License-Identifier: Apache-2.0
#include "libs/base/digest.h"

#include "libs/base/crypto.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace mainstay {

std::string QuickDigest(uint64_t key, std::string_view text) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, XXH3_128bits_withSeed(text.data(), text.size(), key));
  return {reinterpret_cast<const char*>(bytes.digest), sizeof bytes.digest};
}

uint64_t QuickDigestKey(std::string_view secret, std::string_view purpose) {
  uint64_t key = 0;
  for (const char c : HmacSha256(secret, purpose).substr(0, 8)) key = key << 8 | static_cast<unsigned char>(c);
  return key;
}

}  // namespace mainstay
