// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "tests/unit/transfer/shop.h"

namespace mainstay::transfer {
namespace {

using testing::HasProblem;
using testing::IsOk;

struct Exported {
  ExportRow row;
  std::string text;
};

Exported Export(Shop& shop, const CallContext& context, std::string_view resource, std::string_view query) {
  const auto request = ResolveExport(*shop.model, context.principal, resource, "", query);
  REQUIRE_THAT(request, IsOk());
  CreatedExport created;
  REQUIRE_THAT(shop.service->Transaction(context.deadline,
                                         [&](pqxx::transaction_base& tx) -> absl::Status {
                                           auto result =
                                               CreateExport(tx, context, *request, shop.model->hash, {}, absl::Now());
                                           if (!result.ok()) return result.status();
                                           created = *std::move(result);
                                           return absl::OkStatus();
                                         }),
               IsOk());
  TestJob job(kExportJob, StrCat("{\"id\":\"", FormatId("exp", created.id), "\"}"), context);
  const jobs::Outcome outcome = RunExport(job, shop.dependencies);
  INFO(outcome.code << ": " << outcome.message);
  REQUIRE(outcome.kind == jobs::Outcome::Kind::kDone);
  Exported out;
  REQUIRE_THAT(shop.service->Autocommit(context.deadline,
                                        [&](pqxx::transaction_base& tx) -> absl::Status {
                                          auto result = GetExport(tx, context.principal, created.id);
                                          if (!result.ok()) return result.status();
                                          out.row = *std::move(result);
                                          return absl::OkStatus();
                                        }),
               IsOk());
  if (out.row.blob.empty()) return out;
  auto reader = shop.blobs->Read(context, FormatId("blob", *ParseUuid(out.row.blob)));
  REQUIRE_THAT(reader, IsOk());
  while (true) {
    const auto piece = (*reader)->Next();
    REQUIRE_THAT(piece, IsOk());
    if (piece->empty()) return out;
    out.text += *piece;
  }
}

TEST_CASE("an export holds what the caller's list would, as CSV") {
  Shop shop;
  testing::Sql(shop.url,
               "INSERT INTO shop.customers (id, tenant_id, email, name, phone, credit_limit, country) VALUES (1, "
               "'acme', 'a@example.com', '=1+1', '+49 1', 12.50, 'DE'), "
               "(2, 'acme', 'b@example.com', 'B, \"the\" second', NULL, 0, 'FR'), (3, 'globex', 'c@example.com', "
               "'theirs', NULL, 0, 'DE')");
  const Exported all = Export(shop, shop.As("acme", "staff"), "customers",
                              "sort=id&fields=id,email,name,phone,credit_limit,marketing_consent");
  CHECK(all.row.state == "succeeded");
  CHECK(all.row.rows == 2);
  CHECK(all.row.size == static_cast<int64_t>(all.text.size()));
  CHECK(all.text ==
        "id,email,name,phone,credit_limit,marketing_consent\r\n"
        "1,a@example.com,\"'=1+1\",\"'+49 1\",12.50,false\r\n"
        "2,b@example.com,\"B, \"\"the\"\" second\",,0.00,false\r\n");
  const Exported one = Export(shop, shop.As("acme", "staff"), "customers", "filter[country]=DE&fields=email");
  CHECK(one.text == "email\r\na@example.com\r\n");
  // A viewer may not read phones: the column is not there, and asking for it fails.
  const Exported viewer = Export(shop, shop.As("acme", "viewer"), "customers", "");
  CHECK(viewer.row.state == "succeeded");
  CHECK(viewer.text.find("phone") == std::string::npos);
  CHECK(Export(shop, shop.As("acme", "viewer"), "customers", "fields=phone").row.error_code == "query.invalid");
  CHECK_THAT(ResolveExport(*shop.model, shop.As("acme", "staff").principal, "customers", "pdf", ""),
             HasProblem("validation-failed"));
  CHECK_THAT(ResolveExport(*shop.model, shop.As("acme", "staff").principal, "nothing", "csv", ""),
             HasProblem("validation-failed"));
}

TEST_CASE("50,000 rows stream out, and back in without a change") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  testing::Sql(shop.url,
               "INSERT INTO shop.customers (tenant_id, email, name, credit_limit, born_on, country) SELECT 'acme', 'c' "
               "|| n || '@example.com', 'Customer \"' || n || '\"' || "
               "E'\\nsecond line', n % 1000, date '1970-01-01' + n % 10000, 'DE' FROM generate_series(1, 50000) n");
  const Exported all = Export(shop, acme, "customers", "sort=id");
  CHECK(all.row.rows == 50000);
  const ImportRow import =
      shop.Import(all.text, {.resource = "customers", .mode = "update", .commit = "all", .on_error = "abort"}, acme);
  INFO(import.error_code << " " << import.error);
  CHECK(import.state == "succeeded");
  CHECK(import.rows.unchanged == 50000);
  CHECK(import.rows.updated == 0);
}

TEST_CASE("what was escaped against formulas comes back as it was, by the tag in the file's name and only by that") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  testing::Sql(shop.url,
               "INSERT INTO shop.customers (id, tenant_id, email, name, phone, credit_limit) VALUES (1, 'acme', "
               "'a@example.com', '=1+1', '+49 1', 12.50), (2, 'acme', 'b@example.com', '''=quoted already', NULL, 0), "
               "(3, 'acme', 'c@example.com', '''tis plain', NULL, 0)");
  const auto rows = [&] {
    return shop.Value(
        "SELECT string_agg(concat_ws('|', name, phone, credit_limit), E'\\n' ORDER BY id) FROM shop.customers");
  };
  const std::string before = rows();
  const Exported all = Export(shop, acme, "customers", "sort=id&fields=id,email,name,phone,credit_limit");
  CHECK(all.text.find("\"'=1+1\"") != std::string::npos);
  const std::string name = shop.Value("SELECT name FROM mainstay.blobs");
  CHECK(name == "customers.mainstay-escaped=1.csv");
  const ImportRequest update{.resource = "customers", .mode = "update", .commit = "all", .on_error = "abort"};
  const ImportRow back = shop.Import(all.text, update, acme, name);
  INFO(back.error_code << " " << back.error);
  CHECK(back.rows.unchanged == 3);
  CHECK(rows() == before);
  // The same bytes under another name are another import, of a file whose ' is the user's own.
  const ImportRow plain = shop.Import(all.text, update, acme, "customers.csv");
  CHECK(plain.id.ToString() != back.id.ToString());
  CHECK(plain.rows.updated == 2);
  CHECK(shop.Value("SELECT name || phone FROM shop.customers WHERE id = 1") == "'=1+1'+49 1");
}

TEST_CASE("an export that is stopped starts again and leaves one file") {
  Shop shop;
  const CallContext acme = shop.As("acme", "staff");
  testing::Sql(shop.url,
               "INSERT INTO shop.customers (tenant_id, email, name) SELECT 'acme', 'c' || n || '@example.com', 'N' "
               "FROM generate_series(1, 9000) n");
  const auto request = ResolveExport(*shop.model, acme.principal, "customers", "csv", "fields=email");
  REQUIRE_THAT(request, IsOk());
  CreatedExport created;
  REQUIRE_THAT(
      shop.service->Transaction(acme.deadline,
                                [&](pqxx::transaction_base& tx) -> absl::Status {
                                  created = CreateExport(tx, acme, *request, shop.model->hash, {}, absl::Now()).value();
                                  return absl::OkStatus();
                                }),
      IsOk());
  const std::string args = StrCat("{\"id\":\"", FormatId("exp", created.id), "\"}");
  TestJob stopped(kExportJob, args, acme, 1);
  stopped.cancel_after = 2;
  CHECK(RunExport(stopped, shop.dependencies).kind == jobs::Outcome::Kind::kRetry);
  CHECK(shop.Value("SELECT count(*) FROM mainstay.blobs") == "0");
  TestJob next(kExportJob, args, acme, 2);
  CHECK(RunExport(next, shop.dependencies).kind == jobs::Outcome::Kind::kDone);
  CHECK(shop.Value("SELECT rows FROM mainstay.exports") == "9000");
  CHECK(shop.Value("SELECT count(*) FROM mainstay.blobs") == "1");
}

TEST_CASE("a job starts an export with the rights it has; the export and the job's end are one") {
  Shop shop;
  const CallContext staff = shop.As("acme", "staff");
  const std::string args = R"({"resource":"orders","query":"sort=id"})";
  TestJob job(kStartExportJob, args, staff);
  const jobs::Outcome outcome = StartExport(job, shop.dependencies);
  INFO(outcome.message);
  REQUIRE(outcome.kind == jobs::Outcome::Kind::kDone);
  CHECK(shop.Value("SELECT resource || ' ' || query || ' ' || created_by || ' ' || state FROM mainstay.exports") ==
        "orders sort=id key_test queued");
  CHECK(
      shop.Value("SELECT (e.job = j.id)::text FROM mainstay.exports e, mainstay.jobs j WHERE j.kind = 'exports.run'") ==
      "true");
  CHECK(shop.Value("SELECT mainstay.format_id('exp', id) FROM mainstay.exports") ==
        shop.Value("SELECT result ->> 'export' FROM public.finished"));

  TestJob fenced(kStartExportJob, args, staff);
  fenced.before_commit = [](pqxx::transaction_base&) { return absl::FailedPreconditionError("fenced"); };
  CHECK(StartExport(fenced, shop.dependencies).kind != jobs::Outcome::Kind::kDone);
  CHECK(shop.Value("SELECT count(*) FROM mainstay.exports") == "1");

  TestJob stranger(kStartExportJob, args, shop.As("acme", "nobody"));
  CHECK(StartExport(stranger, shop.dependencies).kind == jobs::Outcome::Kind::kDead);
  TestJob empty(kStartExportJob, "{}", staff);
  CHECK(StartExport(empty, shop.dependencies).kind == jobs::Outcome::Kind::kDead);
  CHECK(shop.Value("SELECT count(*) FROM mainstay.exports") == "1");
}

}  // namespace
}  // namespace mainstay::transfer
