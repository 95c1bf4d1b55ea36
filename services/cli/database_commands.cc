// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <pqxx/pqxx>

#include "libs/base/status.h"
#include "libs/postgres/migrations.h"
#include "libs/postgres/pool.h"
#include "services/cli/all_migrations.h"
#include "services/cli/command.h"
#include "services/cli/database.h"

namespace mainstay::cli {
namespace {

absl::Status Migrate(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string url, arguments.FlagOrEnvironment("database", "MAINSTAY_DATABASE_URL"));
  ASSIGN_OR_RETURN(const auto applied, postgres::Migrate(url, AllMigrations()));
  int fresh = 0;
  for (const postgres::AppliedMigration& migration : applied) {
    if (migration.already) continue;
    std::printf("applied %s %04d %s\n", migration.domain.c_str(), migration.number, migration.title.c_str());
    ++fresh;
  }
  if (fresh == 0) std::printf("the schema is up to date (%zu migrations)\n", applied.size());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<postgres::Pool>> OpenDatabase(const Arguments& arguments) {
  ASSIGN_OR_RETURN(std::string url, arguments.FlagOrEnvironment("database", "MAINSTAY_DATABASE_URL"));
  postgres::PoolOptions options;
  options.url = std::move(url);
  options.application_name = "mainstay-cli";
  options.size = 1;
  options.statement_timeout = absl::Minutes(5);
  return std::make_unique<postgres::Pool>(std::move(options));
}

absl::Status InTransaction(const Arguments& arguments, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
  ASSIGN_OR_RETURN(const auto pool, OpenDatabase(arguments));
  return pool->Transaction(absl::Now() + absl::Minutes(5), body);
}

std::vector<Command> DatabaseCommands() {
  return {{
      .name = "migrate",
      .summary = "create or update the suite's own tables",
      .details =
          "Applies what is missing, in the schema \"mainstay\", under an advisory lock: running it twice, or in two "
          "places at once, is\n"
          "harmless. Your tables are not touched. A migration that was edited after it was applied stops the run.",
      .flags = DatabaseFlags(),
      .examples = "mainstay migrate --database postgresql://owner@localhost/shop",
      .run = Migrate,
  }};
}

}  // namespace mainstay::cli
