// SPDX-License-Identifier: Apache-2.0
// The demo shop in a database of its own, its catalog published, and a job that stands for the worker's.
#pragma once

#include <functional>
#include <memory>
#include <pqxx/pqxx>
#include <string>

#include "absl/time/clock.h"
#include "libs/base/ids.h"
#include "libs/base/strings.h"
#include "libs/catalog/publish.h"
#include "libs/jobs/handler.h"
#include "libs/postgres/pool.h"
#include "libs/transfer/blobs.h"
#include "libs/transfer/imports.h"
#include "libs/transfer/report.h"
#include "libs/transfer/run_import.h"
#include "tests/support/environment.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::transfer {

// Runs under a fence; its end is a row in a table of the test, written in the handler's transaction as the engine
// would.
class TestJob : public jobs::RunningJob {
 public:
  TestJob(std::string kind, std::string args, CallContext context, int64_t fence = 1)
      : id_(NewUuid()), kind_(std::move(kind)), args_(std::move(args)), context_(std::move(context)), fence_(fence) {}
  const Uuid& id() const override { return id_; }
  std::string_view kind() const override { return kind_; }
  int version() const override { return 0; }
  std::string_view args() const override { return args_; }
  int64_t fence() const override { return fence_; }
  int attempt() const override { return 1; }
  const CallContext& context() const override { return context_; }
  bool cancelled() const override { return asked_++ >= cancel_after; }
  std::string_view checkpoint() const override { return ""; }
  absl::Status SaveCheckpoint(std::string_view) override { return absl::OkStatus(); }
  absl::Status Progress(double, std::string_view, const std::map<std::string, int64_t>&) override {
    return absl::OkStatus();
  }
  absl::Status FinishIn(pqxx::transaction_base& tx, const jobs::Outcome& outcome) override {
    tx.exec_params("INSERT INTO public.finished (args, result) VALUES ($1, $2::jsonb)", args_, outcome.result);
    return before_commit ? before_commit(tx) : absl::OkStatus();
  }
  postgres::Pool& pool() override { throw std::logic_error("this test has no worker's pool"); }

  int cancel_after = 1 << 30;
  std::function<absl::Status(pqxx::transaction_base&)> before_commit;

 private:
  const Uuid id_;
  const std::string kind_, args_;
  const CallContext context_;
  const int64_t fence_;
  mutable int asked_ = 0;
};

class Shop {
 public:
  Shop() : url(testing::NewMigratedDatabase()) {
    testing::Sql(url, testing::ReadFile(StrCat(testing::SourceDir(), "/deploy/demo/schema.sql")));
    testing::Sql(url,
                 "INSERT INTO shop.tenants VALUES ('acme', 'Acme'), ('globex', 'Globex'); CREATE TABLE public.finished "
                 "(args text, result jsonb); "
                 "GRANT INSERT ON public.finished TO mainstay_worker");
    const auto files = catalog::ReadFolder(StrCat(testing::SourceDir(), "/deploy/demo/catalog"));
    REQUIRE_THAT(files, testing::IsOk());
    const auto published = catalog::Publish(url, *files, {{"payments_url", "http://127.0.0.1:1"}}, "test");
    REQUIRE_THAT(published, testing::IsOk());
    worker = std::make_unique<postgres::Pool>(postgres::PoolOptions{
        .url = testing::Postgres::As(url, "mainstay_worker"), .application_name = "test worker", .size = 4});
    service = std::make_unique<postgres::Pool>(postgres::PoolOptions{
        .url = testing::Postgres::As(url, "mainstay_transfer"), .application_name = "test transfer", .size = 4});
    auto opened = OpenDirectoryStore(folder.path());
    REQUIRE_THAT(opened, testing::IsOk());
    store = *std::move(opened);
    blobs = std::make_unique<Blobs>(*service, *store, BlobOptions{});
    REQUIRE_THAT(worker->Transaction(absl::Now() + absl::Seconds(10),
                                     [&](pqxx::transaction_base& tx) -> absl::Status {
                                       auto built = catalog::LoadActive(tx);
                                       if (!built.ok()) return built.status();
                                       model = built->model;
                                       return absl::OkStatus();
                                     }),
                 testing::IsOk());
    dependencies = {.pool = worker.get(), .model = [this] { return model; }, .blobs = blobs.get()};
    dependencies.options.batch_rows = 1000;
  }

  CallContext As(std::string tenant, std::string role) const {
    return {.principal = {std::move(tenant), "key_test", {std::move(role)}},
            .deadline = absl::Now() + absl::Minutes(2),
            .request_id = "test"};
  }

  BlobInfo Upload(std::string_view text, const CallContext& context, const std::string& name = "file.csv") {
    auto writer =
        blobs->Write(context, {.name = name, .content_type = "text/csv", .expires_at = absl::Now() + absl::Hours(1)});
    REQUIRE_THAT(writer, testing::IsOk());
    REQUIRE_THAT((*writer)->Write(text), testing::IsOk());
    auto info = (*writer)->Finish();
    REQUIRE_THAT(info, testing::IsOk());
    return *info;
  }

  // Creates the import as the service does; the job's id in it is of no use here.
  CreatedImport Create(std::string_view text, const ImportRequest& request, const CallContext& context,
                       const std::string& name = "file.csv") {
    const BlobInfo file = Upload(text, context, name);
    CreatedImport created;
    const absl::Status status = service->Transaction(context.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
      auto result = CreateImport(tx, context, request, file, model->hash, dependencies.options, absl::Now());
      if (!result.ok()) return result.status();
      created = *std::move(result);
      return absl::OkStatus();
    });
    REQUIRE_THAT(status, testing::IsOk());
    return created;
  }
  TestJob Job(const CreatedImport& created, const CallContext& context, int64_t fence = 1) {
    return TestJob(kImportJob, StrCat("{\"id\":\"", FormatId("imp", created.id), "\"}"), context, fence);
  }
  ImportRow Get(const Uuid& id, const CallContext& context) {
    ImportRow row;
    const absl::Status status = service->Autocommit(context.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
      auto result = GetImport(tx, context.principal, id);
      if (!result.ok()) return result.status();
      row = *std::move(result);
      return absl::OkStatus();
    });
    REQUIRE_THAT(status, testing::IsOk());
    return row;
  }
  ImportRow Import(std::string_view text, const ImportRequest& request, const CallContext& context,
                   const std::string& name = "file.csv") {
    const CreatedImport created = Create(text, request, context, name);
    TestJob job = Job(created, context);
    const jobs::Outcome outcome = RunImport(job, dependencies);
    INFO(outcome.code << ": " << outcome.message);
    REQUIRE(outcome.kind == jobs::Outcome::Kind::kDone);
    return Get(created.id, context);
  }
  std::string Report(const ImportRow& import, const CallContext& context) {
    std::string out;
    const absl::Status status = WriteReport(*service, *blobs, context, import, [&](std::string_view text) {
      out += text;
      return absl::OkStatus();
    });
    REQUIRE_THAT(status, testing::IsOk());
    return out;
  }
  std::string Value(const std::string& sql) const { return testing::SqlValue(url, sql); }

  const std::string url;
  testing::TempDir folder;
  std::unique_ptr<postgres::Pool> worker, service;
  std::unique_ptr<BlobStore> store;
  std::unique_ptr<Blobs> blobs;
  catalog::ModelPtr model;
  Dependencies dependencies;
};

}  // namespace mainstay::transfer
