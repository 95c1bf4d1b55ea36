// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <pqxx/pqxx>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/catalog/init.h"
#include "libs/catalog/publish.h"
#include "libs/webhooks/scheme.h"
#include "services/cli/command.h"
#include "services/cli/database.h"

namespace mainstay::cli {
namespace {

absl::StatusOr<catalog::Variables> VariablesOf(const Arguments& arguments) {
  catalog::Variables variables;
  for (const std::string& text : arguments.All("set")) {
    const size_t equals = text.find('=');
    if (equals == text.npos || equals == 0)
      return absl::InvalidArgumentError(StrCat("--set ", text, " is not of the form name=value"));
    variables[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return variables;
}

// Words of the catalog that only the libraries which use them can judge.
catalog::Checks OtherWords() {
  return {.scheme = [](const catalog::SignatureScheme& scheme) { return webhooks::Scheme::Compile(scheme).status(); }};
}

void PrintWarnings(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
}

absl::Status Check(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string url, arguments.FlagOrEnvironment("database", "MAINSTAY_DATABASE_URL"));
  ASSIGN_OR_RETURN(const auto variables, VariablesOf(arguments));
  ASSIGN_OR_RETURN(const auto files, catalog::ReadFolder(arguments[0]));
  ASSIGN_OR_RETURN(const catalog::Checked checked, catalog::Check(url, files, variables, OtherWords()));
  PrintWarnings(checked.warnings);
  std::printf("%s is good: %zu resources, %zu sources, %zu providers, hash %s\n", arguments[0].c_str(),
              checked.model->resources.size(), checked.model->sources.size(), checked.model->providers.size(),
              checked.hash.c_str());
  return absl::OkStatus();
}

// Until every service runs the catalog, or says why it can't, or the time is over: what is asked of them after a
// publish that returned meets the new one. A process that was killed lately may be waited for in vain: no failure.
absl::Status AwaitFollowers(const Arguments& arguments, const std::string& hash, absl::Duration patience) {
  const absl::Time end = absl::Now() + patience;
  std::vector<std::string> behind;
  std::vector<catalog::Follower> followers;
  for (;;) {
    RETURN_IF_ERROR(InTransaction(arguments, [&](pqxx::transaction_base& tx) -> absl::Status {
      ASSIGN_OR_RETURN(followers, catalog::Followers(tx));
      return absl::OkStatus();
    }));
    behind.clear();
    for (const catalog::Follower& follower : followers)
      if (follower.hash != hash)
        behind.push_back(StrCat(follower.service, " (", follower.instance, ")",
                                follower.problem.empty() ? "" : StrCat(": ", follower.problem)));
    if (behind.empty() || absl::Now() >= end) break;
    absl::SleepFor(absl::Milliseconds(50));
  }
  if (!behind.empty())
    std::fprintf(stderr, "warning: not taken over yet by %s\n", absl::StrJoin(behind, ", ").c_str());
  else if (!followers.empty())
    std::printf("taken over by %zu running services\n", followers.size());
  return absl::OkStatus();
}

absl::Status Publish(const Arguments& arguments) {
  int64_t wait = 0;
  if (!absl::SimpleAtoi(arguments.Get("wait", "5"), &wait) || wait < 0 || wait > 600)
    return absl::InvalidArgumentError("--wait is a number of seconds from 0 to 600");
  ASSIGN_OR_RETURN(const std::string url, arguments.FlagOrEnvironment("database", "MAINSTAY_DATABASE_URL"));
  ASSIGN_OR_RETURN(const auto variables, VariablesOf(arguments));
  ASSIGN_OR_RETURN(const auto files, catalog::ReadFolder(arguments[0]));
  const char* user = std::getenv("USER");
  ASSIGN_OR_RETURN(
      const catalog::Published published,
      catalog::Publish(url, files, variables, arguments.Get("author", user == nullptr ? "mainstay publish" : user),
                       OtherWords()));
  PrintWarnings(published.warnings);
  std::printf("%s %s\n", published.changed ? "published" : "already active:", published.hash.c_str());
  return wait == 0 ? absl::OkStatus() : AwaitFollowers(arguments, published.hash, absl::Seconds(wait));
}

absl::Status Init(const Arguments& arguments) {
  return InTransaction(arguments, [&](pqxx::transaction_base& tx) -> absl::Status {
    ASSIGN_OR_RETURN(const std::string yaml, catalog::Draft(tx, arguments.All("schema")));
    std::fputs(yaml.c_str(), stdout);
    return absl::OkStatus();
  });
}

}  // namespace

std::vector<Command> CatalogCommands() {
  const Flag set = {"set", "NAME=VALUE", "the value of ${NAME} in the files; may be given several times", true};
  return {
      {
          .name = "init",
          .summary = "draft a catalog from your tables",
          .details = "Prints YAML: a resource per table, relations from the foreign keys, columns that look sensitive "
                     "hidden. Read it and\n"
                     "trim it before you publish it.",
          .flags = DatabaseFlags({{"schema", "NAME", "only this schema; may be given several times", true}}),
          .examples = "mkdir catalog && mainstay init --schema shop > catalog/shop.yaml",
          .run = Init,
      },
      {
          .name = "check",
          .summary = "check a catalog against the database",
          .details = "Names every mistake with file, line and column. Changes nothing.",
          .positionals = {"FOLDER"},
          .flags = DatabaseFlags({set}),
          .examples = "mainstay check deploy/demo/catalog --set payments_url=https://api.payments.example",
          .run = Check,
      },
      {
          .name = "publish",
          .summary = "check a catalog and make it the one that serves",
          .details = "Stores the catalog under its hash and switches to it, in one transaction. Running services take "
                     "it over within two\n"
                     "seconds, which is waited for; a bad one is refused and the old one keeps serving.",
          .positionals = {"FOLDER"},
          .flags = DatabaseFlags({set,
                                  {"author", "NAME", "who publishes, for the history (default: $USER)"},
                                  {"wait", "SECONDS", "for running services to take it over (default 5; 0: not)"}}),
          .examples = "mainstay publish deploy/demo/catalog --set payments_url=https://api.payments.example",
          .run = Publish,
      },
  };
}

}  // namespace mainstay::cli
