// SPDX-License-Identifier: Apache-2.0
// Layout: 1 | length of the key's id | id | wrapped data key (60 bytes) | sealed arguments.
#include "libs/jobs/sealer.h"

#include "libs/base/crypto.h"
#include "libs/base/strings.h"

namespace mainstay::jobs {
namespace {

constexpr char kLayout = 1;
constexpr size_t kDataKey = 32, kWrapped = 12 + kDataKey + 16;  // nonce, key, tag

std::string Bound(std::string_view tenant, const Uuid& job) {
  return StrCat("job|", tenant, "|", job.ToString());
}

}  // namespace

std::string Sealer::Seal(std::string_view tenant, const Uuid& job, std::string_view args) const {
  const auto& [id, key] = keys_.keys.at(0);
  const std::string bound = Bound(tenant, job), data_key = RandomBytes(kDataKey);
  std::string out;
  out += kLayout;
  out += static_cast<char>(id.size());
  out += id;
  out += mainstay::Seal(key, data_key, bound);
  out += mainstay::Seal(data_key, args, bound);
  return out;
}

absl::StatusOr<std::string> Sealer::Open(std::string_view tenant, const Uuid& job, std::string_view sealed) const {
  const size_t id_size = sealed.size() < 2 ? 0 : static_cast<uint8_t>(sealed[1]);
  if (sealed.size() < 2 + id_size + kWrapped || sealed[0] != kLayout)
    return absl::InternalError("sensitive arguments in a form that this version does not know");
  const std::string_view id = sealed.substr(2, id_size);
  const std::string bound = Bound(tenant, job);
  for (const auto& [known, key] : keys_.keys) {
    if (known != id) continue;
    const auto data_key = mainstay::Open(key, sealed.substr(2 + id_size, kWrapped), bound);
    if (!data_key.ok()) return absl::InternalError("sensitive arguments that were sealed for another job or key");
    const auto args = mainstay::Open(*data_key, sealed.substr(2 + id_size + kWrapped), bound);
    if (!args.ok()) return absl::InternalError("sensitive arguments that were changed");
    return *args;
  }
  return absl::InternalError(StrCat("sensitive arguments need key ", id, ", which is not in the key file"));
}

}  // namespace mainstay::jobs
