// SPDX-License-Identifier: Apache-2.0
// Files of the suite as a reader and a writer see them, wherever they lie.
//
// The transfer service owns the files; everyone else, the worker first, reaches them through this interface, over gRPC
// streams of 64 KiB chunks: a slow side slows the other one down, nothing piles up. A blob is written once and never
// changed; a writer that is destroyed before Finish leaves nothing behind. Objects returned here are used by one thread
// at a time; the client itself is thread-safe. A broken stream is Unavailable: the caller starts again.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/principal.h"

namespace grpc {
class Channel;
}
namespace mainstay::rpc {
class Signer;
}

namespace mainstay::transfer {

inline constexpr size_t kChunkBytes = 64 << 10;

struct BlobInfo {
  std::string id;  // "blob_…"
  int64_t size = 0;
  std::string sha256;  // lower-case hex
  std::string content_type;
  std::string name;  // as the user called it; never a path on our side
};

struct BlobSpec {
  std::string name;
  std::string content_type;
  // Kept at least until then; the owner's upkeep removes it some time later.
  absl::Time expires_at;
};

class BlobReader {
 public:
  virtual ~BlobReader() = default;
  virtual const BlobInfo& info() const = 0;
  // The next piece, at most 64 KiB; valid until the next call. Empty: the end, and everything arrived.
  virtual absl::StatusOr<std::string_view> Next() = 0;
};

class BlobWriter {
 public:
  virtual ~BlobWriter() = default;
  virtual absl::Status Write(std::string_view data) = 0;
  // Durable once this returns OK.
  virtual absl::StatusOr<BlobInfo> Finish() = 0;
};

class BlobClient {
 public:
  virtual ~BlobClient() = default;
  // A blob of another tenant is NotFound.
  virtual absl::StatusOr<std::unique_ptr<BlobReader>> Read(const CallContext& context, std::string_view id) = 0;
  virtual absl::StatusOr<std::unique_ptr<BlobWriter>> Write(const CallContext& context, const BlobSpec& spec) = 0;
  // Deleting what is not there is fine.
  virtual absl::Status Delete(const CallContext& context, std::string_view id) = 0;
};

// Over gRPC to the transfer service. The signer must outlive the client.
std::unique_ptr<BlobClient> MakeBlobClient(std::shared_ptr<grpc::Channel> channel, rpc::Signer& signer);

}  // namespace mainstay::transfer
