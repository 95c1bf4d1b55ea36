// SPDX-License-Identifier: Apache-2.0
// From files to the active catalog in PostgreSQL (tables mainstay.catalogs, catalog_active, catalog_history,
// catalog_seen).
//
// A catalog is stored once under its hash and never changed; the row in catalog_active names the one that serves.
// Publishing checks everything against the live database, refuses what open work still names, grants the service roles
// what the catalog needs on the user's tables, and switches: all in one transaction, so a failure leaves everything as
// it was. Runs as the owner of the tables (the `mainstay` command), not as a service.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/catalog/build.h"
#include "libs/catalog/parse.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::catalog {

// What libraries that stand above this one know of words they own. Empty: not asked.
struct Checks {
  std::function<absl::Status(const SignatureScheme&)> scheme;  // libs/webhooks: presets and templates
};

struct Checked {
  std::string hash;
  std::vector<std::string> warnings;  // "file:line:column: path: sentence"
  std::shared_ptr<const Model> model;
};
// InvalidArgument names every mistake, a line each.
absl::StatusOr<Checked> Check(const std::string& url, const std::vector<File>& files, const Variables& variables = {},
                              const Checks& checks = {});
absl::StatusOr<Checked> Check(pqxx::transaction_base& tx, const std::vector<File>& files,
                              const Variables& variables = {}, const Checks& checks = {});

struct Published {
  std::string hash;
  std::vector<std::string> warnings;
  bool changed = false;  // false: this very catalog was active already (its rights are granted again all the same)
};
// FailedPrecondition when something removed is still named by open work.
absl::StatusOr<Published> Publish(const std::string& url, const std::vector<File>& files, const Variables& variables,
                                  const std::string& author, const Checks& checks = {});
absl::StatusOr<Published> Publish(pqxx::transaction_base& tx, const std::vector<File>& files,
                                  const Variables& variables, const std::string& author, const Checks& checks = {});

// Hash of the active catalog; NotFound when none was published.
absl::StatusOr<std::string> ActiveHash(pqxx::transaction_base& tx);

// A process that follows the active catalog: what it said last, at most 90 s ago.
struct Follower {
  std::string service;   // "gateway"
  std::string instance;  // host and process
  std::string hash;      // what it runs; empty: nothing yet
  std::string problem;   // why it could not load, or which of its resources are broken; else empty
};
absl::StatusOr<std::vector<Follower>> Followers(pqxx::transaction_base& tx);

struct Stored {
  std::string hash;
  std::vector<File> files;
  Variables variables;
};
absl::StatusOr<Stored> LoadStored(pqxx::transaction_base& tx, const std::string& hash);  // "" = the active one

// The active catalog joined with the live tables, as services do it: resources that do not fit are marked broken.
// NotFound when none was published.
absl::StatusOr<Built> LoadActive(pqxx::transaction_base& tx, QuerySource queries = QuerySource::kDatabase);

}  // namespace mainstay::catalog
