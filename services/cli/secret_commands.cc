// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

#include "libs/base/clock.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/postgres/pool.h"
#include "libs/secrets/secrets.h"
#include "services/cli/command.h"
#include "services/cli/database.h"

namespace mainstay::cli {
namespace {

absl::Status WithStore(const Arguments& arguments, const std::function<absl::Status(secrets::Store&)>& body) {
  ASSIGN_OR_RETURN(const std::string kek, arguments.FlagOrEnvironment("kek", "MAINSTAY_KEK_FILE"));
  ASSIGN_OR_RETURN(secrets::KeyRing keys, secrets::KeyRing::Load(kek));
  ASSIGN_OR_RETURN(const auto pool, OpenDatabase(arguments));
  secrets::Store store(*pool, std::move(keys));
  return body(store);
}

absl::Status Put(const Arguments& arguments) {
  std::string value;
  if (arguments[1].empty() || arguments[1] == "-") {
    value.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    std::ifstream in(arguments[1], std::ios::binary);
    if (!in) return absl::NotFoundError(StrCat("cannot read ", arguments[1]));
    value.assign(std::istreambuf_iterator<char>(in), {});
  }
  // The line end that editors and echo leave is not part of a secret.
  if (!value.empty() && value.back() == '\n') value.pop_back();
  if (!value.empty() && value.back() == '\r') value.pop_back();
  if (value.empty()) return absl::InvalidArgumentError("the secret is empty");
  absl::Duration overlap = absl::ZeroDuration();
  if (arguments.Has("overlap")) {
    ASSIGN_OR_RETURN(overlap, ParseDuration(arguments.Get("overlap")));
  }
  return WithStore(arguments, [&](secrets::Store& store) {
    absl::Status status = store.Put(arguments.Get("tenant"), arguments[0], value, overlap);
    if (status.ok()) std::printf("stored %s\n", arguments[0].c_str());
    return status;
  });
}

absl::Status List(const Arguments& arguments) {
  return WithStore(arguments, [](secrets::Store& store) -> absl::Status {
    ASSIGN_OR_RETURN(const auto listed, store.List());
    for (const secrets::Store::Listed& secret : listed) {
      std::printf("%-24s  %-12s  version %d  %s\n", secret.name.c_str(),
                  secret.tenant.empty() ? "(all)" : secret.tenant.c_str(), secret.version,
                  FormatTime(secret.created_at).c_str());
    }
    return absl::OkStatus();
  });
}

absl::Status Remove(const Arguments& arguments) {
  return WithStore(arguments, [&](secrets::Store& store) {
    absl::Status status = store.Remove(arguments.Get("tenant"), arguments[0]);
    if (status.ok()) std::printf("removed %s\n", arguments[0].c_str());
    return status;
  });
}

std::vector<Flag> StoreFlags(std::vector<Flag> more = {}) {
  more.push_back({"kek", "FILE", "the key-encryption key (or MAINSTAY_KEK_FILE)"});
  return DatabaseFlags(std::move(more));
}

}  // namespace

std::vector<Command> SecretCommands() {
  const Flag tenant = {"tenant", "NAME", "a tenant's own; default: for all tenants"};
  return {
      {
          .name = "secrets put",
          .summary = "store a secret under the name that catalogs use",
          .details = "Reads the value from FILE, or from stdin, never from the command line. The value is encrypted "
                     "before it is stored.\n"
                     "With --overlap the version before stays valid for that long, so that both sides of a rotation "
                     "keep working.",
          .positionals = {"NAME", "[FILE]"},
          .flags = StoreFlags({tenant, {"overlap", "TIME", "how long older versions stay valid: 24h"}}),
          .examples = "mainstay secrets put payments-webhook secret.txt\npass show payments/api | mainstay secrets put "
                      "payments-api-key",
          .run = Put,
      },
      {
          .name = "secrets list",
          .summary = "names and versions of the stored secrets",
          .details = "Values are never shown.",
          .flags = StoreFlags(),
          .run = List,
      },
      {
          .name = "secrets remove",
          .summary = "remove a secret with all its versions",
          .details = "What still refers to it fails from then on, with a message that names it.",
          .positionals = {"NAME"},
          .flags = StoreFlags({tenant}),
          .examples = "mainstay secrets remove payments-api-key",
          .run = Remove,
      },
  };
}

}  // namespace mainstay::cli
