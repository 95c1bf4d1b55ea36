// SPDX-License-Identifier: Apache-2.0
// Real PostgreSQL for tests: one server per test process, started at first use (or the one named by
// MAINSTAY_TEST_POSTGRES, a superuser's URL), a fresh database per test.
//
// The private server has its data in /tmp with fsync off (a crash of it forgets nothing all the same: what is committed
// has been written) and goes with the process, however that ends. Started by root it runs as the user `postgres`, which
// PostgreSQL insists on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace mainstay::testing {

class Guard;

class Postgres {
 public:
  // The process's server.
  static Postgres& Shared();
  // One of the caller's own, for tests that stop or kill it. `settings`: "max_connections=10".
  static std::unique_ptr<Postgres> StartOwn(const std::vector<std::string>& settings = {});
  ~Postgres();

  // Superuser's URLs of new databases: empty, or with all migrations applied (copied from a template, some 50 ms).
  std::string NewDatabase();
  std::string NewMigratedDatabase();
  // The same database as another role, which may log in without a password: As(url, "mainstay_gateway").
  static std::string As(const std::string& url, const std::string& role);
  const std::string& url() const { return url_; }

  // Own servers only. Stop is a fast shutdown (sessions end with 57P01), Kill a crash (SIGQUIT, sessions see a lost
  // connection); Start brings it back on the same port.
  void Stop();
  void Kill();
  void Start();
  // A crash that it recovers from by itself, without what was committed in the last `lately`: with
  // synchronous_commit=off it has not been written by then, for the process that writes is stopped first.
  void Forget(absl::Duration lately);

 private:
  Postgres() = default;
  std::string url_, directory_, template_, options_;
  int port_ = 0, count_ = 0;
  bool own_ = false;
  std::unique_ptr<Guard> guard_;
};

inline std::string NewDatabase() {
  return Postgres::Shared().NewDatabase();
}
inline std::string NewMigratedDatabase() {
  return Postgres::Shared().NewMigratedDatabase();
}

// All domains' migrations.
absl::Status MigrateAll(const std::string& url);

// Runs statements (simple protocol) and returns the last one's rows as text; throws with PostgreSQL's message. For
// arranging and asserting.
std::vector<std::vector<std::string>> Sql(const std::string& url, const std::string& sql);
// The only value of the only row.
std::string SqlValue(const std::string& url, const std::string& sql);

}  // namespace mainstay::testing
