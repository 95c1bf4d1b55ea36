// SPDX-License-Identifier: Apache-2.0
#include "services/cli/all_migrations.h"

namespace mainstay::cli {

std::vector<std::vector<postgres::Migration>> AllMigrations() {
  return {postgres::Migrations_postgres(),     postgres::Migrations_secrets(), postgres::Migrations_catalog(),
          postgres::Migrations_jobs(),         postgres::Migrations_records(), postgres::Migrations_webhooks(),
          postgres::Migrations_integrations(), postgres::Migrations_transfer()};
}

}  // namespace mainstay::cli
