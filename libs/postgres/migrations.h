// SPDX-License-Identifier: Apache-2.0
// Schema changes: numbered SQL files per domain, compiled in, applied once, never edited (a changed checksum stops the
// run).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mainstay::postgres {

struct Migration {
  std::string domain;  // the library that owns it
  int number;
  std::string title;
  std::string sql;  // one transaction
};

struct AppliedMigration {
  std::string domain;
  int number;
  std::string title;
  bool already;
};

// Applies what is missing, domain after domain in the order given, under an advisory lock and a lock_timeout. Creates
// schema `mainstay`, its migrations table and the service roles first (mainstay_gateway, mainstay_webhooks,
// mainstay_integrations, mainstay_transfer, mainstay_worker).
absl::StatusOr<std::vector<AppliedMigration>> Migrate(const std::string& url,
                                                      const std::vector<std::vector<Migration>>& domains);

// The number of migrations in the database, per domain as "jobs=3 records=2"; for readiness (schema ≥ minimum).
absl::Status CheckSchema(const std::string& url, const std::vector<std::vector<Migration>>& domains);

// Generated from each library's migrations/ folder (CMakeLists.txt, mainstay_library).
const std::vector<Migration>& Migrations_postgres();
const std::vector<Migration>& Migrations_secrets();
const std::vector<Migration>& Migrations_catalog();
const std::vector<Migration>& Migrations_jobs();
const std::vector<Migration>& Migrations_records();
const std::vector<Migration>& Migrations_webhooks();
const std::vector<Migration>& Migrations_integrations();
const std::vector<Migration>& Migrations_transfer();

}  // namespace mainstay::postgres
