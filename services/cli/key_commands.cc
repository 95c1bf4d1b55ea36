// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <pqxx/pqxx>

#include "absl/strings/str_join.h"
#include "libs/base/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/secrets/api_keys.h"
#include "libs/secrets/secrets.h"
#include "services/cli/command.h"
#include "services/cli/database.h"

namespace mainstay::cli {
namespace {

// A new file that only its owner may read; an existing one is never replaced.
absl::Status WriteNewFile(const std::string& name, const std::string& text, int mode) {
  const int file = open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (file < 0) return absl::FailedPreconditionError(StrCat("cannot create ", name, ": ", std::strerror(errno)));
  const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (close(file) != 0 || !written) return absl::UnavailableError(StrCat("cannot write ", name));
  return absl::OkStatus();
}

absl::Status Create(const Arguments& arguments) {
  secrets::NewApiKey key;
  key.tenant = arguments.Get("tenant");
  if (key.tenant.empty()) return absl::InvalidArgumentError("--tenant is missing; \"*\" is a key for all tenants");
  key.roles = arguments.All("role");
  if (key.roles.empty())
    return absl::InvalidArgumentError("--role is missing; \"admin\" may do everything within its tenant");
  key.name = arguments.Get("name", StrCat(absl::StrJoin(key.roles, ", "), " of ", key.tenant));
  if (arguments.Has("expires-in")) {
    ASSIGN_OR_RETURN(const absl::Duration life, ParseDuration(arguments.Get("expires-in")));
    key.expires_at = absl::Now() + life;
  }
  secrets::CreatedApiKey created;
  RETURN_IF_ERROR(InTransaction(arguments, [&](pqxx::transaction_base& tx) -> absl::Status {
    ASSIGN_OR_RETURN(created, secrets::CreateApiKey(tx, key));
    return absl::OkStatus();
  }));
  std::fprintf(stderr, "%s: keep it now, it cannot be shown again\n", created.id.c_str());
  std::printf("%s\n", created.key.c_str());
  return absl::OkStatus();
}

absl::Status List(const Arguments& arguments) {
  std::vector<secrets::ListedApiKey> keys;
  RETURN_IF_ERROR(InTransaction(arguments, [&](pqxx::transaction_base& tx) -> absl::Status {
    ASSIGN_OR_RETURN(keys, secrets::ListApiKeys(tx));
    return absl::OkStatus();
  }));
  const absl::Time now = absl::Now();
  for (const secrets::ListedApiKey& key : keys) {
    const char* state = key.revoked_at.has_value()                             ? "revoked"
                        : key.expires_at.has_value() && *key.expires_at <= now ? "expired"
                                                                               : "live";
    std::printf("%s  %-7s  %-12s  %-20s  %s  %s\n", key.id.c_str(), state, key.tenant.c_str(),
                absl::StrJoin(key.roles, ",").c_str(), FormatTime(key.created_at).c_str(), key.name.c_str());
  }
  return absl::OkStatus();
}

absl::Status Revoke(const Arguments& arguments) {
  RETURN_IF_ERROR(
      InTransaction(arguments, [&](pqxx::transaction_base& tx) { return secrets::RevokeApiKey(tx, arguments[0]); }));
  std::printf("revoked %s\n", arguments[0].c_str());
  return absl::OkStatus();
}

absl::Status GenerateSigning(const Arguments& arguments) {
  const std::string out = arguments.Get("out");
  if (out.empty()) return absl::InvalidArgumentError("--out is missing");
  const Ed25519KeyPair pair = NewEd25519KeyPair();
  RETURN_IF_ERROR(WriteNewFile(StrCat(out, ".key"), StrCat(Base64Encode(pair.private_key), "\n"), 0600));
  return WriteNewFile(StrCat(out, ".pub"), StrCat(Base64Encode(pair.public_key), "\n"), 0644);
}

absl::Status GenerateKek(const Arguments& arguments) {
  const std::string out = arguments.Get("out");
  if (out.empty()) return absl::InvalidArgumentError("--out is missing");
  return WriteNewFile(out, secrets::KeyRing::NewFile(), 0600);
}

}  // namespace

std::vector<Command> KeyCommands() {
  return {
      {
          .name = "keys create",
          .summary = "make an API key",
          .details = "Prints the key on stdout, once: the database holds only a hash of it.",
          .flags = DatabaseFlags({{"tenant", "NAME", "whose rows it sees; \"*\": all tenants"},
                                  {"role", "NAME", "a role of the catalog, or admin; may be given several times", true},
                                  {"name", "TEXT", "what it is for"},
                                  {"expires-in", "TIME", "30d, 12h …; default: never"}}),
          .examples = "mainstay keys create --tenant acme --role staff --name 'shop floor' > staff.key",
          .run = Create,
      },
      {
          .name = "keys list",
          .summary = "all API keys, without their secrets",
          .details = "A line each: id, state, tenant, roles, time of creation, name.",
          .flags = DatabaseFlags(),
          .run = List,
      },
      {
          .name = "keys revoke",
          .summary = "end an API key",
          .details = "Takes effect within seconds, on every gateway.",
          .positionals = {"ID"},
          .flags = DatabaseFlags(),
          .examples = "mainstay keys revoke key_01jc8z4v0m2k7x5c9q3b6t8w1e",
          .run = Revoke,
      },
      {
          .name = "keys generate-signing",
          .summary = "make the key pair of a service",
          .details = "Writes OUT.key (Ed25519, private) and OUT.pub, in base64. A service signs the principals it "
                     "passes on with its key; the\n"
                     "others hold its public key in trusted_keys. Existing files are never replaced.",
          .flags = {{"out", "OUT", "path without an extension"}},
          .examples = "mainstay keys generate-signing --out /etc/mainstay/keys/gateway",
          .run = GenerateSigning,
      },
      {
          .name = "keys generate-kek",
          .summary = "make the key that encrypts the secrets",
          .details = "Writes a file with one key-encryption key. Without it no stored secret can be read again: keep a "
                     "copy apart from the\n"
                     "database's backups.",
          .flags = {{"out", "FILE", "where to write it; never replaced"}},
          .examples = "mainstay keys generate-kek --out /etc/mainstay/keys/secrets.kek",
          .run = GenerateKek,
      },
  };
}

}  // namespace mainstay::cli
