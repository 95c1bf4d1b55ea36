// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <set>

#include "tests/unit/transfer/shop.h"

namespace mainstay::transfer {
namespace {

using testing::HasProblem;
using testing::IsOk;

const ImportRequest kUpsertSkip = {
    .resource = "customers", .mode = "upsert", .commit = "all", .on_error = "skip", .key = {"email"}};

// 10,000 customers; every 500th row has one of four mistakes.
std::string TenThousand(std::map<int64_t, std::string>* mistakes) {
  std::string out = "E-Mail,name,Country,credit_limit,marketing_consent,born_on\r\n";
  for (int i = 1; i <= 10000; ++i) {
    std::string email = StrCat("customer", i, "@example.com"), country = "DE", limit = StrCat(i % 900, ".50"),
                born = "1980-02-03", consent = i % 2 == 0 ? "yes" : "no";
    if (i % 500 == 0) {
      switch ((i / 500) % 4) {
        case 0:
          email = "not an address";
          (*mistakes)[i] = "cell.invalid_email";
          break;
        case 1:
          limit = "BBB";
          (*mistakes)[i] = "cell.invalid_number";
          break;
        case 2:
          born = "1980-02-30";
          (*mistakes)[i] = "cell.invalid_date";
          break;
        case 3:
          consent = "perhaps";
          (*mistakes)[i] = "cell.invalid_boolean";
          break;
      }
    }
    StrAppend(&out, email, ",\"Customer, ", i, "\",", country, ",", limit, ",", consent, ",", born, "\r\n");
  }
  return out;
}

TEST_CASE("10,000 customers with 20 bad rows: 9,980 go in, 20 are reported by line, column, code and message") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  std::map<int64_t, std::string> mistakes;
  const ImportRow import = shop.Import(TenThousand(&mistakes), kUpsertSkip, acme);
  CHECK(import.state == "succeeded_with_errors");
  CHECK(import.rows.total == 10000);
  CHECK(import.rows.created == 9980);
  CHECK(import.rows.error == 20);
  CHECK(shop.Value("SELECT count(*) FROM shop.customers WHERE tenant_id = 'acme'") == "9980");
  CHECK(shop.Value("SELECT count(*) FROM public.finished") == "1");
  const auto errors = testing::Sql(
      shop.url, "SELECT row, line, \"column\", field, code, value, message FROM mainstay.import_errors ORDER BY row");
  REQUIRE(errors.size() == 20);
  std::map<int64_t, std::string> found;
  for (const auto& error : errors) {
    found[std::stoll(error[0])] = error[4];
    CHECK(std::stoll(error[1]) == std::stoll(error[0]) + 1);  // the header is line 1
    CHECK_FALSE(error[2].empty());
    CHECK_FALSE(error[3].empty());
    CHECK_FALSE(error[5].empty());
    CHECK_FALSE(error[6].empty());
  }
  CHECK(found == mistakes);
  CHECK(errors[0][2] == "credit_limit");
  CHECK(errors[0][6] == "\"BBB\" is not a decimal; expected e.g. 12.50");
  CHECK(shop.Value("SELECT credit_limit || '|' || name || '|' || marketing_consent || '|' || born_on FROM "
                   "shop.customers WHERE email = 'customer7@example.com'") == "7.50|Customer, 7|false|1980-02-03");
  // The staging table is gone.
  CHECK(shop.Value("SELECT count(*) FROM pg_class WHERE relname LIKE 'import_staging%' AND relkind = 'r'") == "0");

  // The report is the user's own file, with what became of each row.
  const std::string report = shop.Report(import, acme);
  CHECK(report.substr(0, report.find('\r')) ==
        "E-Mail,name,Country,credit_limit,marketing_consent,born_on,_row,_status,_error_codes,_errors");
  CHECK(report.find("customer1@example.com,\"Customer, 1\",DE,1.50,no,1980-02-03,1,created,,\r\n") !=
        std::string::npos);
  CHECK(report.find("customer500@example.com,\"Customer, 500\",DE,BBB,yes,1980-02-03,500,error,cell.invalid_number,") !=
        std::string::npos);
  CHECK(std::count(report.begin(), report.end(), '\n') == 10001);

  // Fixed and sent back as it is: only the rows that failed are taken.
  std::string fixed = report;
  for (size_t at = 0; (at = fixed.find("BBB", at)) != std::string::npos;) fixed.replace(at, 3, "1.0");
  const ImportRow again = shop.Import(fixed, kUpsertSkip, acme);
  CHECK(again.rows.created == 5);
  CHECK(again.rows.skipped == 9980);
  CHECK(again.rows.error == 15);
}

TEST_CASE("on_error: abort writes nothing when a row is bad") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  ImportRequest request = kUpsertSkip;
  request.on_error = "abort";
  const ImportRow import = shop.Import("email,name\na@example.com,A\nnobody,B\nc@example.com,\n", request, acme);
  CHECK(import.state == "failed");
  CHECK(import.error_code == "rows.errors");
  CHECK(import.rows.error == 2);
  CHECK(import.rows.skipped == 1);
  CHECK(shop.Value("SELECT count(*) FROM shop.customers") == "0");
  CHECK(shop.Value("SELECT string_agg(code, ' ' ORDER BY row) FROM mainstay.import_errors") ==
        "cell.invalid_email cell.required");
  // What only the merge finds aborts too.
  testing::Sql(shop.url,
               "INSERT INTO shop.customers (tenant_id, email, name) VALUES ('acme', 'taken@example.com', 'T')");
  request.mode = "create";
  request.key = {};
  const ImportRow taken = shop.Import("email,name\nnew@example.com,N\ntaken@example.com,M\n", request, acme);
  CHECK(taken.state == "failed");
  CHECK(shop.Value("SELECT count(*) FROM shop.customers") == "1");
  CHECK(shop.Value("SELECT code || ' ' || line FROM mainstay.import_errors ORDER BY id DESC LIMIT 1") ==
        "row.exists 3");
}

TEST_CASE("the same import again is the first one; after a failure it is a new one") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff"), globex = shop.As("globex", "staff");
  const std::string file = "email,name\na@example.com,A\n";
  const CreatedImport first = shop.Create(file, kUpsertSkip, acme);
  const CreatedImport replay = shop.Create(file, kUpsertSkip, acme);
  CHECK_FALSE(first.existed);
  CHECK(replay.existed);
  CHECK(replay.id == first.id);
  CHECK(replay.enqueued.empty());
  CHECK_FALSE(shop.Create(file, kUpsertSkip, globex).existed);
  ImportRequest other = kUpsertSkip;
  other.mode = "update";
  CHECK_FALSE(shop.Create(file, other, acme).existed);
  TestJob job = shop.Job(first, acme);
  CHECK(RunImport(job, shop.dependencies).kind == jobs::Outcome::Kind::kDone);
  CHECK(shop.Create(file, kUpsertSkip, acme).id == first.id);
  // The job again, as after a lost reply: it has ended, nothing happens.
  TestJob again = shop.Job(first, acme, 2);
  CHECK(RunImport(again, shop.dependencies).kind == jobs::Outcome::Kind::kDone);
  CHECK(shop.Value("SELECT count(*) FROM public.finished") == "1");

  ImportRequest abort = kUpsertSkip;
  abort.on_error = "abort";
  const std::string bad = "email,name\nnobody,A\n";
  const ImportRow failed = shop.Import(bad, abort, acme);
  CHECK(failed.state == "failed");
  const CreatedImport retry = shop.Create(bad, abort, acme);
  CHECK_FALSE(retry.existed);
  CHECK(retry.id != failed.id);
}

TEST_CASE("a worker that dies before its commit leaves nothing; the next run does all of it once") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  std::map<int64_t, std::string> mistakes;
  const CreatedImport created = shop.Create(TenThousand(&mistakes), kUpsertSkip, acme);
  TestJob killed = shop.Job(created, acme, 1);
  killed.before_commit = [&](pqxx::transaction_base& tx) {
    // All rows are merged, and the session ends as if its process had been killed.
    const std::string pid = tx.exec("SELECT pg_backend_pid()")[0][0].c_str();
    testing::Sql(shop.url, StrCat("SELECT pg_terminate_backend(", pid, ")"));
    return absl::OkStatus();
  };
  CHECK(RunImport(killed, shop.dependencies).kind == jobs::Outcome::Kind::kRetry);
  CHECK(shop.Value("SELECT count(*) FROM shop.customers") == "0");
  CHECK(shop.Value("SELECT count(*) FROM public.finished") == "0");
  CHECK(shop.Get(created.id, acme).state == "running");
  TestJob next = shop.Job(created, acme, 2);
  CHECK(RunImport(next, shop.dependencies).kind == jobs::Outcome::Kind::kDone);
  const ImportRow import = shop.Get(created.id, acme);
  CHECK(import.rows.created == 9980);
  CHECK(import.rows.error == 20);
  CHECK(shop.Value("SELECT count(*) FROM shop.customers") == "9980");
  CHECK(shop.Value("SELECT count(*) FROM mainstay.import_errors") == "20");
  // The one that was thought dead comes back under its old fence: nothing.
  TestJob late = shop.Job(created, acme, 1);
  RunImport(late, shop.dependencies);
  CHECK(shop.Value("SELECT count(*) FROM public.finished") == "1");
}

TEST_CASE("stopped while staging, the next run goes on; a staging table that was emptied is filled again") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  for (const bool emptied : {false, true}) {
    std::map<int64_t, std::string> mistakes;
    std::string file = TenThousand(&mistakes);
    if (emptied) file += "\r\n";  // other content, another import
    const CreatedImport created = shop.Create(file, kUpsertSkip, acme);
    REQUIRE_FALSE(created.existed);
    TestJob stopped = shop.Job(created, acme, 1);
    stopped.cancel_after = 4;
    CHECK(RunImport(stopped, shop.dependencies).kind == jobs::Outcome::Kind::kRetry);
    CHECK(shop.Get(created.id, acme).staged_rows == 4000);
    if (emptied) {
      std::string hex = created.id.ToString();
      hex.erase(std::remove(hex.begin(), hex.end(), '-'), hex.end());
      testing::Sql(shop.url, StrCat("TRUNCATE mainstay.import_staging_", hex));
    }
    TestJob next = shop.Job(created, acme, 2);
    CHECK(RunImport(next, shop.dependencies).kind == jobs::Outcome::Kind::kDone);
    const ImportRow import = shop.Get(created.id, acme);
    CHECK(import.rows.total == 10000);
    CHECK(import.rows.error == 20);
    CHECK((emptied ? import.rows.unchanged : import.rows.created) == 9980);
    CHECK(shop.Value(StrCat("SELECT count(*) FROM mainstay.import_errors WHERE import = '", created.id.ToString(),
                            "'")) == "20");
  }
}

TEST_CASE("commit: chunks keeps what was committed and goes on behind it, once") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  std::map<int64_t, std::string> mistakes;
  ImportRequest request = kUpsertSkip;
  request.commit = "chunks";
  const CreatedImport created = shop.Create(TenThousand(&mistakes), request, acme);
  TestJob stopped = shop.Job(created, acme, 1);
  stopped.cancel_after = 11 + 3;  // eleven looks while staging, then three chunks
  CHECK(RunImport(stopped, shop.dependencies).kind == jobs::Outcome::Kind::kRetry);
  CHECK(shop.Value("SELECT count(*) FROM shop.customers") == "3000");
  SECTION("staging still there") {}
  SECTION("staging emptied by a crash of PostgreSQL") {
    std::string hex = created.id.ToString();
    hex.erase(std::remove(hex.begin(), hex.end(), '-'), hex.end());
    testing::Sql(shop.url, StrCat("TRUNCATE mainstay.import_staging_", hex));
  }
  TestJob next = shop.Job(created, acme, 2);
  CHECK(RunImport(next, shop.dependencies).kind == jobs::Outcome::Kind::kDone);
  const ImportRow import = shop.Get(created.id, acme);
  CHECK(import.state == "succeeded_with_errors");
  CHECK(import.rows.created == 9980);
  CHECK(import.rows.unchanged == 0);
  CHECK(import.rows.error == 20);
  CHECK(shop.Value("SELECT count(*) FROM shop.customers") == "9980");
  CHECK(shop.Value("SELECT count(*) FROM mainstay.import_errors") == "20");
}

TEST_CASE("modes, duplicates in the file and blanks") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  ImportRequest request = kUpsertSkip;
  ImportRow import = shop.Import(
      "email,name,phone,credit_limit\na@example.com,A,1,10\nb@example.com,B,2,20\na@example.com,A again,3,30\n",
      request, acme);
  CHECK(import.rows.created == 2);
  CHECK(import.rows.error == 1);
  CHECK(shop.Value("SELECT code || ' ' || row || ' ' || message FROM mainstay.import_errors") ==
        "row.duplicate_key 3 the row has the same email as row 1 of this file");
  // Blank leaves what is there; the same again changes nothing.
  import = shop.Import("email,name,phone,credit_limit\na@example.com,A2,,\nb@example.com,B,2,20\nc@example.com,C,,\n",
                       request, acme);
  CHECK(import.rows.created == 1);
  CHECK(import.rows.updated == 1);
  CHECK(import.rows.unchanged == 1);
  CHECK(shop.Value(
            "SELECT name || ' ' || phone || ' ' || credit_limit FROM shop.customers WHERE email = 'a@example.com'") ==
        "A2 1 10.00");
  CHECK(shop.Value("SELECT credit_limit FROM shop.customers WHERE email = 'c@example.com'") == "0.00");
  request.mode = "update";
  import = shop.Import("email,name\na@example.com,A3\nz@example.com,Z\n", request, acme);
  CHECK(import.rows.updated == 1);
  CHECK(import.errors_by_code == "{\"row.not_found\": 1}");
  request.mode = "ignore";
  import = shop.Import("email,name\na@example.com,A4\ny@example.com,Y\n", request, acme);
  CHECK(import.rows.created == 1);
  CHECK(import.rows.skipped == 1);
  request.mode = "delete";
  import = shop.Import("email\ny@example.com\n", request, acme);
  CHECK(import.rows.deleted == 1);
  CHECK(shop.Value("SELECT count(*) FROM shop.customers") == "3");
  CHECK(shop.Value("SELECT name FROM shop.customers WHERE email = 'a@example.com'") == "A3");
}

TEST_CASE("a dry run reports the same and writes nothing") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  ImportRequest request = kUpsertSkip;
  request.dry_run = true;
  const ImportRow import = shop.Import("email,name\na@example.com,A\nnobody,B\n", request, acme);
  CHECK(import.state == "succeeded_with_errors");
  CHECK(import.rows.created == 1);
  CHECK(import.rows.error == 1);
  CHECK(shop.Value("SELECT count(*) FROM shop.customers") == "0");
}

TEST_CASE("files that cannot be read are rejected by code; headers that do not fit fail") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  const auto outcome = [&](std::string_view file) {
    const ImportRow import = shop.Import(file, kUpsertSkip, acme);
    return StrCat(import.state, " ", import.error_code);
  };
  CHECK(outcome("") == "rejected file.empty");
  CHECK(outcome("PK\x03\x04 xl/workbook.xml") == "rejected file.unsupported_format");
  CHECK(outcome(std::string(5000, ',')) == "rejected file.too_many_columns");
  CHECK(outcome("name,phone\nA,1\n") == "failed header.missing_required");
  CHECK(outcome("email,mail,name\na@example.com,b@example.com,A\n") == "failed header.duplicate");
  CHECK(outcome("a@example.com,A\nb@example.com,B\n") == "failed header.ambiguous");
  CHECK(outcome("email,name\n") == "succeeded ");
  CHECK(shop.Value("SELECT count(*) FROM shop.customers") == "0");
}

TEST_CASE("structure errors are rows' errors, and the others go in") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  const ImportRow import = shop.Import(
      "\xEF\xBB\xBF"
      "email,name\na@example.com,A\nb@example.com\nc@example.com,C,D\nd@example.com,\"D\ne@example.com,E\nf@example."
      "com,\xFF\n",
      kUpsertSkip, acme);
  CHECK(import.rows.created == 2);
  CHECK(shop.Value("SELECT string_agg(code || ':' || line, ' ' ORDER BY row) FROM mainstay.import_errors") ==
        "row.too_few_cells:3 row.too_many_cells:4 row.unclosed_quote:5 row.invalid_encoding:7");
}

TEST_CASE("an import acts with its principal's rights, within its tenant") {
  Shop shop;
  testing::Sql(shop.url,
               "INSERT INTO shop.customers (tenant_id, email, name) VALUES ('globex', 'a@example.com', 'theirs')");
  const ImportRow import = shop.Import("email,name\na@example.com,ours\n", kUpsertSkip, shop.As("acme", "staff"));
  CHECK(import.rows.created == 1);
  CHECK(shop.Value("SELECT string_agg(tenant_id || '=' || name, ' ' ORDER BY tenant_id) FROM shop.customers") ==
        "acme=ours globex=theirs");
  const auto resolve = [&](const CallContext& context, std::string_view resource, std::string_view named,
                           std::string_view mode) {
    return ResolveImport(*shop.model, context.principal, resource, named, mode, "", "", false);
  };
  CHECK_THAT(resolve(shop.As("acme", "viewer"), "customers", "", "upsert"), HasProblem("forbidden"));
  CHECK_THAT(resolve(shop.As("acme", "staff"), "nothing", "", ""), HasProblem("invalid-parameter"));
  CHECK_THAT(resolve(shop.As("acme", "staff"), "customers", "", "replace"), HasProblem("invalid-parameter"));
  CHECK_THAT(resolve(shop.As("acme", "staff"), "", "nothing", ""), HasProblem("invalid-parameter"));
  CHECK_THAT(resolve(shop.As("*", "admin"), "customers", "", ""), HasProblem("forbidden"));
  const auto declared = resolve(shop.As("acme", "staff"), "", "customers", "");
  REQUIRE_THAT(declared, IsOk());
  CHECK(declared->key == std::vector<std::string>{"email"});
  CHECK(declared->on_error == "skip");
  // Rights that were lost meanwhile are noticed when the job runs.
  const CallContext staff = shop.As("acme", "staff"), viewer = shop.As("acme", "viewer");
  const CreatedImport created = shop.Create("email,name\nq@example.com,Q\n", kUpsertSkip, staff);
  TestJob job = shop.Job(created, viewer);
  CHECK(RunImport(job, shop.dependencies).kind == jobs::Outcome::Kind::kDone);
  CHECK(shop.Get(created.id, staff).error_code == "forbidden");
}

TEST_CASE("too many bad rows stop the import under on_error: skip") {
  Shop shop;
  std::string file = "email,name\n";
  for (int i = 0; i < 500; ++i) StrAppend(&file, i % 3 == 0 ? "nobody" : StrCat("c", i, "@example.com"), ",N\n");
  const ImportRow import = shop.Import(file, kUpsertSkip, shop.As("acme", "staff"));
  CHECK(import.state == "failed");
  CHECK(import.error_code == "rows.too_many_errors");
  CHECK(shop.Value("SELECT count(*) FROM shop.customers") == "0");
}

TEST_CASE("an import whose job ended without it is settled; leaked staging goes") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  const CreatedImport created = shop.Create("email,name\na@example.com,A\n", kUpsertSkip, acme);
  TestJob job = shop.Job(created, acme);
  job.cancel_after = 0;
  RunImport(job, shop.dependencies);
  CHECK(shop.Value("SELECT count(*) FROM pg_class WHERE relname LIKE 'import_staging%' AND relkind = 'r'") == "1");
  testing::Sql(shop.url,
               "INSERT INTO mainstay.jobs_history (id, fence, created_at, state, priority, attempt, crashes, snoozes, "
               "max_attempts, max_crashes, tenant, kind, queue, "
               "args, principal) SELECT id, fence, created_at, 8, priority, 0, 0, 0, 1, 1, tenant, kind, queue, args, "
               "principal FROM mainstay.jobs");
  CHECK(shop.Value("SELECT mainstay.settle_transfers()") == "1");
  CHECK(shop.Get(created.id, acme).state == "cancelled");
  CHECK(shop.Value("SELECT mainstay.drop_leaked_import_staging()") == "1");
}

}  // namespace
}  // namespace mainstay::transfer
