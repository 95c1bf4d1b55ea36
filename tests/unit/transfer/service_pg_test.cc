// SPDX-License-Identifier: Apache-2.0
// The transfer service over real gRPC: uploads, lists, downloads, and the worker's way to files.
#include <grpcpp/grpcpp.h>

#include "libs/base/crypto.h"
#include "libs/base/text.h"
#include "libs/rpc/principal_token.h"
#include "services/transfer/services.h"
#include "tests/unit/transfer/shop.h"

namespace mainstay::transfer {
namespace {

using testing::HasProblem;
using testing::IsOk;

class Collected : public jobs::Handoff {
 public:
  void Publish(absl::Span<const jobs::Enqueued> jobs) override {
    published.insert(published.end(), jobs.begin(), jobs.end());
  }
  std::vector<jobs::Enqueued> published;
};

struct Service {
  Shop shop;
  Ed25519KeyPair gateway_key = NewEd25519KeyPair(), worker_key = NewEd25519KeyPair();
  rpc::Signer gateway{"gateway", gateway_key.private_key, Clock::Real()},
      worker{"worker", worker_key.private_key, Clock::Real()};
  rpc::Guard guard{"transfer",
                   rpc::Verifier("transfer", {{"gateway", gateway_key.public_key}, {"worker", worker_key.public_key}},
                                 Clock::Real()),
                   [this](const std::vector<std::string>& roles, std::string_view scope) {
                     return shop.model->HasScope(roles, scope);
                   }};
  StreamPermits permits{3};
  Collected handoff;
  ServiceParts parts{.guard = guard,
                     .pool = *shop.service,
                     .blobs = *shop.blobs,
                     .handoff = handoff,
                     .model = [this] { return shop.model; },
                     .permits = permits,
                     .cursor_key = std::string(32, 'k'),
                     .options = shop.dependencies.options};
  ImportsServiceImpl imports{parts};
  ExportsServiceImpl exports{parts};
  BlobsServiceImpl blobs{parts};
  std::unique_ptr<grpc::Server> server;
  std::shared_ptr<grpc::Channel> channel;

  Service() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&imports);
    builder.RegisterService(&exports);
    builder.RegisterService(&blobs);
    server = builder.BuildAndStart();
    channel = rpc::Connect(StrCat("127.0.0.1:", port));
  }
  ~Service() { server->Shutdown(); }

  // Sends a file in small chunks; `whole` false: goes away in the middle.
  absl::StatusOr<v1::Import> Upload(const CallContext& call, const v1::ImportOptions& options, std::string_view file,
                                    bool whole = true, int64_t announced = -1) {
    const auto stub = v1::ImportsService::NewStub(channel);
    grpc::ClientContext context;
    rpc::PrepareCall(context, call, gateway, "transfer");
    v1::Import import;
    const auto writer = stub->CreateImport(&context, &import);
    v1::CreateImportRequest message;
    *message.mutable_options() = options;
    message.mutable_chunk()->mutable_info()->set_name("people.csv");
    message.mutable_chunk()->mutable_info()->set_size(announced);
    bool open = writer->Write(message);
    for (size_t at = 0; open && at < file.size(); at += 1000) {
      message.Clear();
      message.mutable_chunk()->set_data(std::string(file.substr(at, 1000)));
      open = writer->Write(message);
    }
    if (whole) {
      writer->WritesDone();
    } else {
      context.TryCancel();
    }
    const absl::Status status = rpc::FromGrpc(writer->Finish());
    if (!status.ok()) return status;
    return import;
  }
  template <typename Request, typename Response, typename Stub>
  absl::StatusOr<Response> Call(const CallContext& call, Stub& stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                const Request& request) {
    grpc::ClientContext context;
    rpc::PrepareCall(context, call, gateway, "transfer");
    Response response;
    const absl::Status status = rpc::FromGrpc((stub.*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }
};

v1::ImportOptions Customers() {
  v1::ImportOptions options;
  options.set_import("customers");
  return options;
}

TEST_CASE("an upload becomes an import with its job, runs over the worker's streams, and is listed with its errors") {
  Service service;
  const CallContext acme = service.shop.As("acme", "staff"), globex = service.shop.As("globex", "staff");
  std::string file = "email,name,shoe\n";
  for (int i = 0; i < 30000; ++i)
    StrAppend(&file, i == 700 ? "nobody" : StrCat("c", i, "@example.com"), ",Name ", i, ",43\n");
  const auto import = service.Upload(acme, Customers(), file, true, static_cast<int64_t>(file.size()));
  REQUIRE_THAT(import, IsOk());
  CHECK(import->state() == v1::IMPORT_STATE_QUEUED);
  CHECK(import->resource() == "customers");
  CHECK(import->file_name() == "people.csv");
  CHECK(import->sha256() == HexEncode(Sha256(file)));
  REQUIRE(service.handoff.published.size() == 1);
  CHECK(import->job_id() == FormatId("job", service.handoff.published[0].id));
  CHECK(service.shop.Value("SELECT kind || ' ' || queue || ' ' || tenant FROM mainstay.jobs") ==
        "imports.run mainstay acme");

  // As the worker runs it: files come over gRPC.
  const std::unique_ptr<BlobClient> client = MakeBlobClient(service.channel, service.worker);
  Dependencies dependencies = service.shop.dependencies;
  dependencies.blobs = client.get();
  TestJob job(kImportJob, StrCat("{\"id\":\"", import->id(), "\"}"), acme);
  const jobs::Outcome outcome = RunImport(job, dependencies);
  INFO(outcome.code << ": " << outcome.message);
  REQUIRE(outcome.kind == jobs::Outcome::Kind::kDone);

  const auto stub = v1::ImportsService::NewStub(service.channel);
  v1::GetImportRequest get;
  get.set_id(import->id());
  const auto done = service.Call(acme, *stub, &v1::ImportsService::Stub::GetImport, get);
  REQUIRE_THAT(done, IsOk());
  CHECK(done->state() == v1::IMPORT_STATE_SUCCEEDED_WITH_ERRORS);
  CHECK(done->rows().created() == 29999);
  CHECK(done->errors_by_code().at("cell.invalid_email") == 1);
  REQUIRE(done->warnings_size() == 1);
  CHECK(done->warnings(0) == "header.unknown: shoe");
  CHECK_THAT(service.Call(globex, *stub, &v1::ImportsService::Stub::GetImport, get), HasProblem("not-found"));

  v1::ListImportsRequest list;
  const auto listed = service.Call(acme, *stub, &v1::ImportsService::Stub::ListImports, list);
  REQUIRE_THAT(listed, IsOk());
  REQUIRE(listed->data_size() == 1);
  CHECK(listed->data(0).id() == import->id());
  CHECK(listed->data(0).state() == v1::IMPORT_STATE_SUCCEEDED_WITH_ERRORS);
  CHECK(listed->data(0).rows().created() == 29999);
  CHECK(listed->data(0).errors_by_code().at("cell.invalid_email") == 1);
  CHECK(service.Call(globex, *stub, &v1::ImportsService::Stub::ListImports, list)->data_size() == 0);

  v1::ListImportErrorsRequest errors_request;
  errors_request.set_id(import->id());
  const auto errors = service.Call(acme, *stub, &v1::ImportsService::Stub::ListImportErrors, errors_request);
  REQUIRE_THAT(errors, IsOk());
  REQUIRE(errors->data_size() == 1);
  CHECK(errors->data(0).row() == 701);
  CHECK(errors->data(0).line() == 702);
  CHECK(errors->data(0).column() == "email");
  CHECK(errors->data(0).code() == "cell.invalid_email");
  CHECK(errors->data(0).value() == "nobody");
  CHECK_FALSE(errors->data(0).message().empty());
  CHECK_THAT(service.Call(globex, *stub, &v1::ImportsService::Stub::ListImportErrors, errors_request),
             HasProblem("not-found"));

  grpc::ClientContext context;
  rpc::PrepareCall(context, acme, service.gateway, "transfer");
  v1::DownloadImportReportRequest report;
  report.set_id(import->id());
  const auto reader = stub->DownloadImportReport(&context, report);
  common::v1::FileChunk chunk;
  std::string text, name;
  while (reader->Read(&chunk)) {
    if (chunk.has_info()) name = chunk.info().name();
    CHECK(chunk.data().size() <= kChunkBytes);
    text += chunk.data();
  }
  CHECK(reader->Finish().ok());
  CHECK(name == StrCat(import->id(), "-report.csv"));
  CHECK(text.find("nobody,Name 700,43,701,error,cell.invalid_email,") != std::string::npos);

  // The same upload again is the same import, and its second copy of the file is not kept.
  const auto replay = service.Upload(acme, Customers(), file);
  REQUIRE_THAT(replay, IsOk());
  CHECK(replay->id() == import->id());
  CHECK(service.handoff.published.size() == 1);
  CHECK(service.shop.Value("SELECT count(*) FROM mainstay.blobs") == "1");
}

TEST_CASE("an upload that breaks off, lies about its size or asks for nonsense leaves nothing") {
  Service service;
  const CallContext acme = service.shop.As("acme", "staff");
  CHECK_FALSE(service.Upload(acme, Customers(), std::string(100000, 'x'), false).ok());
  CHECK_THAT(service.Upload(acme, Customers(), "email,name\n", true, 5), HasProblem("malformed-request"));
  v1::ImportOptions unknown;
  unknown.set_resource("nothing");
  const auto refused = service.Upload(acme, unknown, "email\n");
  REQUIRE_THAT(refused, HasProblem("invalid-parameter"));
  CHECK(ProblemFromStatus(refused.status()).errors.at(0).name == "resource");
  v1::ImportOptions mode = Customers();
  mode.set_mode("replace");
  CHECK_THAT(service.Upload(acme, mode, "email\n"), HasProblem("invalid-parameter"));
  CHECK_THAT(service.Upload(service.shop.As("acme", "viewer"), Customers(), "email\n"), HasProblem("forbidden"));
  service.server->Shutdown();  // waits for the handlers
  CHECK(service.shop.Value("SELECT (SELECT count(*) FROM mainstay.imports) + (SELECT count(*) FROM mainstay.blobs) + "
                           "(SELECT count(*) FROM mainstay.jobs)") == "0");
}

TEST_CASE("an export is downloaded once it has succeeded") {
  Service service;
  const CallContext acme = service.shop.As("acme", "staff");
  testing::Sql(service.shop.url,
               "INSERT INTO shop.customers (tenant_id, email, name) SELECT 'acme', 'c' || n || '@example.com', 'Name' "
               "FROM generate_series(1, 20000) n");
  const auto stub = v1::ExportsService::NewStub(service.channel);
  v1::CreateExportRequest request;
  request.set_resource("customers");
  request.set_query("fields=email,name&sort=id");
  const auto created = service.Call(acme, *stub, &v1::ExportsService::Stub::CreateExport, request);
  REQUIRE_THAT(created, IsOk());
  const auto download = [&](const CallContext& call, std::string* text) {
    grpc::ClientContext context;
    rpc::PrepareCall(context, call, service.gateway, "transfer");
    v1::DownloadExportRequest wanted;
    wanted.set_id(created->id());
    const auto reader = stub->DownloadExport(&context, wanted);
    common::v1::FileChunk chunk;
    while (reader->Read(&chunk)) *text += chunk.data();
    return rpc::FromGrpc(reader->Finish());
  };
  std::string text;
  CHECK_THAT(download(acme, &text), HasProblem("conflict"));
  const std::unique_ptr<BlobClient> client = MakeBlobClient(service.channel, service.worker);
  Dependencies dependencies = service.shop.dependencies;
  dependencies.blobs = client.get();
  TestJob job(kExportJob, StrCat("{\"id\":\"", created->id(), "\"}"), acme);
  REQUIRE(RunExport(job, dependencies).kind == jobs::Outcome::Kind::kDone);
  REQUIRE_THAT(download(acme, &text), IsOk());
  CHECK(text.substr(0, 37) == "email,name\r\nc1@example.com,Name\r\nc2@e");
  CHECK(std::count(text.begin(), text.end(), '\n') == 20001);
  CHECK_THAT(download(service.shop.As("globex", "staff"), &text), HasProblem("not-found"));
  const auto listed = service.Call(acme, *stub, &v1::ExportsService::Stub::ListExports, v1::ListExportsRequest());
  REQUIRE_THAT(listed, IsOk());
  REQUIRE(listed->data_size() == 1);
  CHECK(listed->data(0).rows() == 20000);
  CHECK(listed->data(0).sha256() == HexEncode(Sha256(text)));
}

TEST_CASE("blobs are for services of the suite; what is half written or too much at once does not stay") {
  Service service;
  const CallContext acme = service.shop.As("acme", "staff");
  const std::unique_ptr<BlobClient> client = MakeBlobClient(service.channel, service.worker),
                                    outside = MakeBlobClient(service.channel, service.gateway);
  const BlobInfo info = service.shop.Upload("text", acme);
  CHECK_FALSE(outside->Read(acme, info.id).ok());
  auto reader = client->Read(acme, info.id);
  REQUIRE_THAT(reader, IsOk());
  CHECK((*reader)->info().sha256 == info.sha256);
  CHECK((*reader)->Next().value() == "text");
  CHECK((*reader)->Next().value().empty());
  reader->reset();
  CHECK_THAT(client->Read(service.shop.As("globex", "staff"), info.id), HasProblem("not-found"));
  {
    auto writer = client->Write(acme, {.name = "half", .expires_at = absl::Now() + absl::Hours(1)});
    REQUIRE_THAT(writer, IsOk());
    REQUIRE_THAT((*writer)->Write(std::string(300000, 'x')), IsOk());
  }
  {
    std::vector<std::unique_ptr<BlobWriter>> writers;
    for (int i = 0; i < 3; ++i) {
      writers.push_back(client->Write(acme, {.name = "w", .expires_at = absl::Now() + absl::Hours(1)}).value());
      REQUIRE_THAT(writers.back()->Write("x"), IsOk());
    }
    // Until the three are in their handlers the fourth may get a place itself; it is tried until then.
    bool refused = false;
    for (int i = 0; i < 200 && !refused; ++i)
      refused = ProblemFromStatus(client->Read(acme, info.id).status()).type == "overloaded";
    CHECK(refused);
  }
  CHECK_THAT(client->Delete(acme, info.id), IsOk());
  service.server->Shutdown();
  CHECK(service.shop.Value("SELECT count(*) FROM mainstay.blobs") == "0");
}

}  // namespace
}  // namespace mainstay::transfer
