// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <fstream>

#include "libs/base/crypto.h"
#include "libs/base/text.h"
#include "tests/unit/transfer/shop.h"

namespace mainstay::transfer {
namespace {

using testing::HasProblem;
using testing::IsOk;

std::string Content(BlobClient& blobs, const CallContext& context, std::string_view id) {
  auto reader = blobs.Read(context, id);
  REQUIRE_THAT(reader, IsOk());
  std::string out;
  while (true) {
    const auto piece = (*reader)->Next();
    REQUIRE_THAT(piece, IsOk());
    CHECK(piece->size() <= kChunkBytes);
    if (piece->empty()) return out;
    out += *piece;
  }
}
int Files(const std::string& folder) {
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    count += entry.is_regular_file() ? 1 : 0;
  return count;
}

TEST_CASE("a blob is what was written, hashed, and only its tenant's") {
  Shop shop;
  const CallContext acme = shop.As("acme", "admin");
  std::string text;
  for (int i = 0; i < 50000; ++i) StrAppend(&text, "line ", i, "\n");
  const BlobInfo info = shop.Upload(text, acme);
  CHECK(info.size == static_cast<int64_t>(text.size()));
  CHECK(info.sha256 == HexEncode(Sha256(text)));
  CHECK(Content(*shop.blobs, acme, info.id) == text);
  CHECK(Content(*shop.blobs, shop.As("*", "admin"), info.id) == text);
  CHECK_THAT(shop.blobs->Read(shop.As("globex", "admin"), info.id), HasProblem("not-found"));
  CHECK_THAT(shop.blobs->Read(acme, "blob_nothing"), HasProblem("not-found"));
  CHECK_THAT(shop.blobs->Read(acme, "../../etc/passwd"), HasProblem("not-found"));
  auto tail = shop.blobs->ReadFrom(acme, info.id, info.size - 3);
  REQUIRE_THAT(tail, IsOk());
  CHECK((*tail)->Next().value() == text.substr(text.size() - 3));
  CHECK_THAT(shop.blobs->Delete(shop.As("globex", "admin"), info.id), IsOk());
  CHECK(Files(shop.folder.path()) == 1);
  CHECK_THAT(shop.blobs->Delete(acme, info.id), IsOk());
  CHECK_THAT(shop.blobs->Read(acme, info.id), HasProblem("not-found"));
  CHECK(Files(shop.folder.path()) == 0);
}

TEST_CASE("a writer that ends early leaves nothing; too much is refused") {
  Shop shop;
  const CallContext acme = shop.As("acme", "admin");
  {
    auto writer = shop.blobs->Write(acme, {.expires_at = absl::Now() + absl::Hours(1)});
    REQUIRE_THAT(writer, IsOk());
    REQUIRE_THAT((*writer)->Write("half"), IsOk());
    CHECK(Files(shop.folder.path()) == 1);
  }
  CHECK(Files(shop.folder.path()) == 0);
  Blobs small(*shop.service, *shop.store, {.max_bytes = 10});
  auto writer = small.Write(acme, {.expires_at = absl::Now() + absl::Hours(1)});
  REQUIRE_THAT(writer, IsOk());
  CHECK_THAT((*writer)->Write("12345678901"), HasProblem("content-too-large"));
}

TEST_CASE("upkeep removes what expired, what a crash left half written and what never got its row") {
  Shop shop;
  const CallContext acme = shop.As("acme", "admin");
  const BlobInfo kept = shop.Upload("kept", acme), expired = shop.Upload("expired", acme),
                 orphan = shop.Upload("orphan", acme);
  const auto uuid = [](const BlobInfo& info) { return ParseId("blob", info.id)->ToString(); };
  testing::Sql(shop.url, StrCat("UPDATE mainstay.blobs SET expires_at = now() - interval '1 second' WHERE id = '",
                                uuid(expired), "'; DELETE FROM mainstay.blobs WHERE id = '", uuid(orphan), "'"));
  std::ofstream(StrCat(shop.folder.path(), "/tmp/", NewUuid().ToString(), ".part")) << "half";
  CHECK(Files(shop.folder.path()) == 4);
  CHECK(shop.blobs->RemoveExpired(absl::Now() + absl::Seconds(10)).value() == 1);
  CHECK(shop.blobs->RemoveLeftovers(absl::Now() + absl::Seconds(10), absl::Hours(1)).value() ==
        0);  // too young: an upload may be under way
  CHECK(Files(shop.folder.path()) == 3);
  CHECK(shop.blobs->RemoveLeftovers(absl::Now() + absl::Seconds(10), -absl::Seconds(1)).value() == 1);
  CHECK(Files(shop.folder.path()) == 1);
  CHECK(Content(*shop.blobs, acme, kept.id) == "kept");
}

TEST_CASE("content that lost bytes is noticed, not handed out as whole") {
  Shop shop;
  const CallContext acme = shop.As("acme", "admin");
  const BlobInfo info = shop.Upload("twelve bytes", acme);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(shop.folder.path()))
    if (entry.is_regular_file()) std::filesystem::resize_file(entry.path(), 5);
  auto reader = shop.blobs->Read(acme, info.id);
  REQUIRE_THAT(reader, IsOk());
  CHECK((*reader)->Next().ok());
  CHECK((*reader)->Next().status().code() == absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace mainstay::transfer
