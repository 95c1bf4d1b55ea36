// SPDX-License-Identifier: Apache-2.0
// What the catalog's PostgreSQL tests share: a database with given tables, a catalog checked against it.
#pragma once

#include <catch2/catch.hpp>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "libs/catalog/build.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/parse.h"
#include "libs/catalog/publish.h"
#include "tests/support/environment.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::catalog {

inline std::vector<File> OneFile(const std::string& text) {
  return {{"c.yaml", text}};
}

// A database of the demo's shop.
inline std::string ShopDatabase(bool migrated = false) {
  std::string url = migrated ? testing::NewMigratedDatabase() : testing::NewDatabase();
  testing::Sql(url, testing::ReadFile(testing::SourceDir() + "/deploy/demo/schema.sql"));
  return url;
}
inline std::vector<File> DemoFiles() {
  absl::StatusOr<std::vector<File>> files = ReadFolder(testing::SourceDir() + "/deploy/demo/catalog");
  REQUIRE_THAT(files, testing::IsOk());
  return *files;
}
inline const Variables kDemoVariables = {{"payments_url", "http://127.0.0.1:9000"}};

// What `check` finds wrong, a line each; empty when nothing.
inline std::vector<std::string> Mistakes(const std::string& url, const std::string& text) {
  absl::StatusOr<Checked> checked = Check(url, OneFile(text));
  if (checked.ok()) return {};
  REQUIRE_THAT(checked, testing::StatusIs(absl::StatusCode::kInvalidArgument));
  return absl::StrSplit(std::string(checked.status().message()), '\n');
}

}  // namespace mainstay::catalog
