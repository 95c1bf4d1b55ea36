// SPDX-License-Identifier: Apache-2.0
#include "tests/support/postgres.h"

#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <stdexcept>

#include "absl/time/clock.h"
#include "libs/postgres/connect.h"
#include "libs/postgres/migrations.h"
#include "services/cli/all_migrations.h"
#include "tests/support/environment.h"
#include "tests/support/subprocess.h"

namespace mainstay::testing {
namespace {

constexpr char kBin[] = "/usr/lib/postgresql/15/bin/";
std::mutex mu;  // of creating databases

// As the user that PostgreSQL accepts, able to pass through folders of root.
std::vector<std::string> AsPostgres(std::vector<std::string> argv) {
  if (geteuid() != 0) return argv;
  std::vector<std::string> out = {"setpriv",        "--reuid=postgres",         "--regid=postgres",
                                  "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"};
  out.insert(out.end(), argv.begin(), argv.end());
  return out;
}

void MustRun(std::vector<std::string> argv) {
  const RunResult result = Run({.argv = AsPostgres(argv), .directory = "/"});
  if (result.code != 0)
    throw std::runtime_error(argv[0] + " ended with " + std::to_string(result.code) + ": " + result.output);
}

std::string Database(const std::string& url, const std::string& name) {
  const auto out = postgres::WithDatabase(url, name);
  if (!out.ok()) throw std::runtime_error(out.status().ToString());
  return *out;
}

}  // namespace

Postgres& Postgres::Shared() {
  static const std::unique_ptr<Postgres> shared = [] {
    if (const char* url = std::getenv("MAINSTAY_TEST_POSTGRES"); url != nullptr && *url != 0) {
      std::unique_ptr<Postgres> server(new Postgres);
      server->url_ = url;
      return server;
    }
    return StartOwn();
  }();
  return *shared;
}

std::unique_ptr<Postgres> Postgres::StartOwn(const std::vector<std::string>& settings) {
  std::unique_ptr<Postgres> server(new Postgres);
  server->own_ = true;
  char name[] = "/tmp/mst-pg-XXXXXX";  // short: socket paths end at 107 bytes
  if (mkdtemp(name) == nullptr) throw std::runtime_error("cannot make a folder in /tmp");
  server->directory_ = name;
  if (geteuid() == 0) {
    const passwd* user = getpwnam("postgres");
    if (user == nullptr || chown(name, user->pw_uid, user->pw_gid) != 0)
      throw std::runtime_error("cannot give a folder to the user postgres");
  }
  const std::string data = server->directory_ + "/data";
  server->guard_ = std::make_unique<Guard>(
      "p=$(head -n 1 " + data +
      "/postmaster.pid 2>/dev/null); [ -z \"$p\" ] || kill -QUIT $p; for i in 1 2 3 4 5 6 7 8 9 10; do [ -n \"$p\" ] "
      "&& [ -d /proc/$p ] && sleep 0.1; done; [ -z \"$p\" ] || kill -KILL $p 2>/dev/null; rm -rf " +
      server->directory_);
  MustRun({std::string(kBin) + "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8",
           "--no-sync"});
  server->options_ = "-k " + server->directory_ +
                     " -c listen_addresses=127.0.0.1 -c fsync=off -c full_page_writes=off -c "
                     "max_connections=150 -c shared_buffers=64MB "
                     "-c max_wal_size=2GB -c autovacuum_naptime=60s";
  for (const auto& setting : settings) server->options_ += " -c " + setting;
  for (int attempt = 0;; ++attempt) {
    server->port_ = FreePort();
    try {
      server->Start();
      break;
    } catch (const std::exception&) {
      if (attempt == 5) throw;
    }
  }
  server->url_ =
      "postgresql://postgres@/postgres?host=" + server->directory_ + "&port=" + std::to_string(server->port_);
  return server;
}

Postgres::~Postgres() = default;

void Postgres::Start() {
  const std::string log = directory_ + "/log";
  try {
    MustRun({std::string(kBin) + "pg_ctl", "-D", directory_ + "/data", "-w", "-s", "-t", "30", "-l", log, "-o",
             options_ + " -p " + std::to_string(port_), "start"});
  } catch (const std::exception& e) {
    throw std::runtime_error(std::string(e.what()) + Run({.argv = {"tail", "-n", "5", log}}).output);
  }
}
void Postgres::Stop() {
  MustRun({std::string(kBin) + "pg_ctl", "-D", directory_ + "/data", "-m", "fast", "-w", "-s", "stop"});
}
void Postgres::Kill() {
  MustRun({std::string(kBin) + "pg_ctl", "-D", directory_ + "/data", "-m", "immediate", "-w", "-s", "stop"});
}

void Postgres::Forget(absl::Duration lately) {
  const pid_t writer = std::stoi(SqlValue(url_, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"));
  kill(writer, SIGSTOP);
  absl::SleepFor(lately);
  kill(writer, SIGKILL);
}

std::string Postgres::NewDatabase() {
  const std::lock_guard lock(mu);
  static std::atomic<int> counter{0};
  const std::string name = "t" + std::to_string(getpid()) + "_" + std::to_string(++counter);
  Sql(url_, "CREATE DATABASE " + name);
  return Database(url_, name);
}

std::string Postgres::NewMigratedDatabase() {
  const std::lock_guard lock(mu);
  const std::string prefix = "m" + std::to_string(getpid()) + "_";
  if (template_.empty()) {
    const std::string name = prefix + "template";
    Sql(url_, "CREATE DATABASE " + name);
    const absl::Status status = MigrateAll(Database(url_, name));
    if (!status.ok()) throw std::runtime_error("migrating the template: " + status.ToString());
    template_ = name;
  }
  const std::string name = prefix + std::to_string(++count_);
  Sql(url_, "CREATE DATABASE " + name + " TEMPLATE " + template_);
  return Database(url_, name);
}

std::string Postgres::As(const std::string& url, const std::string& role) {
  const size_t start = url.find("://") + 3, at = url.find('@');
  const size_t end = at != std::string::npos && at < url.find('/', start) ? at + 1 : start;
  return url.substr(0, start) + role + "@" + url.substr(end);
}

absl::Status MigrateAll(const std::string& url) {
  return postgres::Migrate(url, cli::AllMigrations()).status();
}

std::vector<std::vector<std::string>> Sql(const std::string& url, const std::string& sql) {
  const std::unique_ptr<PGconn, decltype(&PQfinish)> connection(PQconnectdb(url.c_str()), &PQfinish);
  if (PQstatus(connection.get()) != CONNECTION_OK) throw std::runtime_error(PQerrorMessage(connection.get()));
  PQsetNoticeProcessor(
      connection.get(), [](void*, const char*) {}, nullptr);
  const std::unique_ptr<PGresult, decltype(&PQclear)> result(PQexec(connection.get(), sql.c_str()), &PQclear);
  const ExecStatusType status = PQresultStatus(result.get());
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
    throw std::runtime_error(PQresultErrorMessage(result.get()));
  std::vector<std::vector<std::string>> rows(PQntuples(result.get()));
  for (size_t r = 0; r < rows.size(); ++r) {
    for (int c = 0; c < PQnfields(result.get()); ++c) rows[r].emplace_back(PQgetvalue(result.get(), int(r), c));
  }
  return rows;
}

std::string SqlValue(const std::string& url, const std::string& sql) {
  const auto rows = Sql(url, sql);
  if (rows.size() != 1 || rows[0].size() != 1) throw std::runtime_error("expected one value: " + sql);
  return rows[0][0];
}

}  // namespace mainstay::testing
