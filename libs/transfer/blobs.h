// SPDX-License-Identifier: Apache-2.0
// The files the transfer service keeps: content in a store, one row each in mainstay.blobs. The row is the truth:
// content without one is a leftover and goes.
//
// Order of things: content is written under a temporary name, made durable, renamed, and only then the row is inserted;
// on the way out the row goes first. A crash in between leaves a file that no one can see and that upkeep removes.
// Thread-safe; readers and writers belong to one thread each.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "libs/base/ids.h"
#include "libs/base/principal.h"
#include "libs/postgres/pool.h"
#include "libs/transfer/blob_client.h"

namespace mainstay::transfer {

// Where content lies. A directory today; an object store can stand here.
class BlobStore {
 public:
  class Writer {
   public:
    virtual ~Writer() = default;  // without Commit: nothing remains
    virtual absl::Status Write(std::string_view data) = 0;
    virtual absl::Status Commit() = 0;  // durable and visible under its id
  };
  class Reader {
   public:
    virtual ~Reader() = default;
    // At most 64 KiB; empty at the end. Valid until the next call.
    virtual absl::StatusOr<std::string_view> Next() = 0;
  };
  virtual ~BlobStore() = default;
  virtual absl::StatusOr<std::unique_ptr<Writer>> Create(const Uuid& id) = 0;
  virtual absl::StatusOr<std::unique_ptr<Reader>> Open(const Uuid& id, int64_t offset) = 0;
  virtual absl::Status Remove(const Uuid& id) = 0;  // fine when it is not there
  // Calls `visit` for content that was last written before `age` ago, and removes temporary files of that age.
  virtual absl::Status Sweep(absl::Duration age, absl::FunctionRef<absl::Status(const Uuid&)> visit) = 0;
};

// One file per blob under `directory`, spread over 256 folders by the id's last byte. Creates the directory; refuses
// one it cannot write.
absl::StatusOr<std::unique_ptr<BlobStore>> OpenDirectoryStore(const std::string& directory);

struct BlobOptions {
  int64_t max_bytes = int64_t{1} << 30;  // per blob; more is content-too-large
};

class Blobs : public BlobClient {
 public:
  Blobs(postgres::Pool& pool, BlobStore& store, BlobOptions options) : pool_(pool), store_(store), options_(options) {}

  absl::StatusOr<std::unique_ptr<BlobReader>> Read(const CallContext& context, std::string_view id) override;
  absl::StatusOr<std::unique_ptr<BlobReader>> ReadFrom(const CallContext& context, std::string_view id, int64_t offset);
  absl::StatusOr<std::unique_ptr<BlobWriter>> Write(const CallContext& context, const BlobSpec& spec) override;
  absl::Status Delete(const CallContext& context, std::string_view id) override;

  // Removes what has expired. Returns how many.
  absl::StatusOr<int64_t> RemoveExpired(absl::Time deadline);
  // Removes content that never got its row, or lost it, and has not been touched for `age`. Looks at every file: for
  // once an hour.
  absl::StatusOr<int64_t> RemoveLeftovers(absl::Time deadline, absl::Duration age = absl::Hours(1));

 private:
  postgres::Pool& pool_;
  BlobStore& store_;
  const BlobOptions options_;
};

}  // namespace mainstay::transfer
