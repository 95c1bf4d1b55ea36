// SPDX-License-Identifier: Apache-2.0
#include "libs/transfer/blobs.h"

#include <openssl/evp.h>

#include <pqxx/pqxx>
#include <vector>

#include "absl/time/clock.h"
#include "libs/base/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/transfer/sql.h"

namespace mainstay::transfer {
namespace {

absl::Status NoSuchBlob(std::string_view id) {
  return MakeProblem("not-found", StrCat("there is no file ", TruncateUtf8(id, 64)));
}

// SHA-256 while the bytes pass by.
class Hasher {
 public:
  Hasher() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_, EVP_sha256(), nullptr); }
  ~Hasher() { EVP_MD_CTX_free(context_); }
  Hasher(const Hasher&) = delete;
  void Add(std::string_view data) { EVP_DigestUpdate(context_, data.data(), data.size()); }
  std::string Hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    EVP_DigestFinal_ex(context_, digest, &length);
    return HexEncode(std::string_view(reinterpret_cast<char*>(digest), length));
  }

 private:
  EVP_MD_CTX* context_;
};

class StoredReader : public BlobReader {
 public:
  StoredReader(BlobInfo info, std::unique_ptr<BlobStore::Reader> content, int64_t left)
      : info_(std::move(info)), content_(std::move(content)), left_(left) {}
  const BlobInfo& info() const override { return info_; }
  absl::StatusOr<std::string_view> Next() override {
    ASSIGN_OR_RETURN(const std::string_view piece, content_->Next());
    left_ -= static_cast<int64_t>(piece.size());
    if (piece.empty() ? left_ != 0 : left_ < 0)
      return absl::DataLossError(StrCat("the content of ", info_.id, " has not the size that its row says"));
    return piece;
  }

 private:
  const BlobInfo info_;
  std::unique_ptr<BlobStore::Reader> content_;
  int64_t left_;
};

class StoringWriter : public BlobWriter {
 public:
  StoringWriter(postgres::Pool& pool, const CallContext& context, BlobSpec spec, Uuid id,
                std::unique_ptr<BlobStore::Writer> content, int64_t max)
      : pool_(pool), context_(context), spec_(std::move(spec)), id_(id), content_(std::move(content)), max_(max) {}
  absl::Status Write(std::string_view data) override {
    size_ += static_cast<int64_t>(data.size());
    if (size_ > max_)
      return MakeProblem("content-too-large", StrCat("file.too_large: the file is larger than ", max_, " bytes"));
    hasher_.Add(data);
    return content_->Write(data);
  }
  absl::StatusOr<BlobInfo> Finish() override {
    BlobInfo info = {.id = FormatId("blob", id_),
                     .size = size_,
                     .sha256 = hasher_.Hex(),
                     .content_type = spec_.content_type,
                     .name = spec_.name};
    RETURN_IF_ERROR(content_->Commit());
    // When this fails the content stays for upkeep: the outcome may be unknown, and the row be there.
    RETURN_IF_ERROR(pool_.Autocommit(context_.deadline, [&](pqxx::transaction_base& tx) {
      tx.exec_params(sql::kInsertBlob, id_.ToString(), context_.principal.tenant, info.size, info.sha256,
                     info.content_type, info.name, context_.principal.subject, FormatTimestamp(spec_.expires_at));
      return absl::OkStatus();
    }));
    return info;
  }

 private:
  postgres::Pool& pool_;
  const CallContext context_;
  const BlobSpec spec_;
  const Uuid id_;
  std::unique_ptr<BlobStore::Writer> content_;
  const int64_t max_;
  int64_t size_ = 0;
  Hasher hasher_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlobReader>> Blobs::Read(const CallContext& context, std::string_view id) {
  return ReadFrom(context, id, 0);
}

absl::StatusOr<std::unique_ptr<BlobReader>> Blobs::ReadFrom(const CallContext& context, std::string_view id,
                                                            int64_t offset) {
  const auto uuid = ParseId("blob", id);
  if (!uuid.ok()) return NoSuchBlob(id);
  std::optional<BlobInfo> info;
  RETURN_IF_ERROR(pool_.Autocommit(context.deadline, [&](pqxx::transaction_base& tx) {
    const pqxx::result rows = tx.exec_params(sql::kFindBlob, uuid->ToString(), context.principal.tenant);
    if (!rows.empty())
      info = BlobInfo{std::string(id), rows[0][0].as<int64_t>(), rows[0][1].c_str(), rows[0][2].c_str(),
                      rows[0][3].c_str()};
    return absl::OkStatus();
  }));
  if (!info) return NoSuchBlob(id);
  if (offset < 0 || offset > info->size)
    return MakeProblem("invalid-parameter", StrCat("offset ", offset, " lies outside the file"));
  auto content = store_.Open(*uuid, offset);
  if (absl::IsNotFound(content.status())) return absl::DataLossError(StrCat("the content of ", id, " is missing"));
  RETURN_IF_ERROR(content.status());
  const int64_t left = info->size - offset;
  return std::unique_ptr<BlobReader>(new StoredReader(*std::move(info), *std::move(content), left));
}

absl::StatusOr<std::unique_ptr<BlobWriter>> Blobs::Write(const CallContext& context, const BlobSpec& spec) {
  const Uuid id = NewUuid();
  BlobSpec clean = spec;
  for (std::string* text : {&clean.name, &clean.content_type}) {
    if (!IsValidUtf8(*text) || text->find('\0') != std::string::npos) text->clear();
    *text = std::string(TruncateUtf8(*text, 255));
  }
  ASSIGN_OR_RETURN(auto content, store_.Create(id));
  return std::unique_ptr<BlobWriter>(
      new StoringWriter(pool_, context, std::move(clean), id, std::move(content), options_.max_bytes));
}

absl::Status Blobs::Delete(const CallContext& context, std::string_view id) {
  const auto uuid = ParseId("blob", id);
  if (!uuid.ok()) return absl::OkStatus();
  bool ours = false;
  RETURN_IF_ERROR(pool_.Autocommit(context.deadline, [&](pqxx::transaction_base& tx) {
    ours = tx.exec_params(sql::kDeleteBlob, uuid->ToString(), context.principal.tenant).affected_rows() > 0;
    return absl::OkStatus();
  }));
  return ours ? store_.Remove(*uuid) : absl::OkStatus();
}

absl::StatusOr<int64_t> Blobs::RemoveExpired(absl::Time deadline) {
  int64_t removed = 0;
  while (absl::Now() < deadline) {
    std::vector<Uuid> expired;
    RETURN_IF_ERROR(pool_.Autocommit(deadline, [&](pqxx::transaction_base& tx) {
      for (const auto& row : tx.exec(sql::kDeleteExpiredBlobs)) {
        ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
        expired.push_back(id);
      }
      return absl::OkStatus();
    }));
    for (const Uuid& id : expired) RETURN_IF_ERROR(store_.Remove(id));
    removed += static_cast<int64_t>(expired.size());
    if (expired.empty()) break;
  }
  return removed;
}

absl::StatusOr<int64_t> Blobs::RemoveLeftovers(absl::Time deadline, absl::Duration age) {
  int64_t removed = 0;
  RETURN_IF_ERROR(store_.Sweep(age, [&](const Uuid& id) -> absl::Status {
    bool known = true;
    RETURN_IF_ERROR(pool_.Autocommit(deadline, [&](pqxx::transaction_base& tx) {
      known = !tx.exec_params(sql::kBlobExists, id.ToString()).empty();
      return absl::OkStatus();
    }));
    if (known) return absl::OkStatus();
    ++removed;
    return store_.Remove(id);
  }));
  return removed;
}

}  // namespace mainstay::transfer
