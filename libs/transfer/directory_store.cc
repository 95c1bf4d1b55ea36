// SPDX-License-Identifier: Apache-2.0
// Blobs as files: <directory>/<last byte of the id>/<id>, written as <directory>/tmp/<id>.part first.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "absl/time/clock.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/transfer/blobs.h"

namespace mainstay::transfer {
namespace {

absl::Status Failed(std::string_view what, const std::string& path) {
  const int error = errno;
  const std::string text = StrCat("cannot ", what, " ", path, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT) return absl::ResourceExhaustedError(text);
  return error == ENOENT ? absl::NotFoundError(text) : absl::UnavailableError(text);
}

absl::Status SyncFolder(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Failed("open", path);
  const int result = fsync(fd);
  absl::Status status = result == 0 ? absl::OkStatus() : Failed("sync", path);
  close(fd);
  return status;
}

class FileWriter : public BlobStore::Writer {
 public:
  FileWriter(int fd, std::string temporary, std::string folder, std::string path)
      : fd_(fd), temporary_(std::move(temporary)), folder_(std::move(folder)), path_(std::move(path)) {}
  ~FileWriter() override {
    if (fd_ >= 0) close(fd_);
    if (!committed_) unlink(temporary_.c_str());
  }
  absl::Status Write(std::string_view data) override {
    while (!data.empty()) {
      const ssize_t n = write(fd_, data.data(), data.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed("write", temporary_);
      data.remove_prefix(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }
  absl::Status Commit() override {
    if (fsync(fd_) != 0) return Failed("sync", temporary_);
    const int closed = close(fd_);
    fd_ = -1;
    if (closed != 0) return Failed("close", temporary_);
    if (rename(temporary_.c_str(), path_.c_str()) != 0) return Failed("rename", temporary_);
    committed_ = true;
    return SyncFolder(folder_);
  }

 private:
  int fd_;
  const std::string temporary_, folder_, path_;
  bool committed_ = false;
};

class FileReader : public BlobStore::Reader {
 public:
  FileReader(int fd, std::string path) : fd_(fd), path_(std::move(path)), buffer_(kChunkBytes, '\0') {}
  ~FileReader() override { close(fd_); }
  absl::StatusOr<std::string_view> Next() override {
    while (true) {
      const ssize_t n = read(fd_, buffer_.data(), buffer_.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed("read", path_);
      return std::string_view(buffer_).substr(0, static_cast<size_t>(n));
    }
  }

 private:
  const int fd_;
  const std::string path_;
  std::string buffer_;
};

class DirectoryStore : public BlobStore {
 public:
  explicit DirectoryStore(std::string directory) : directory_(std::move(directory)) {}

  absl::Status Prepare() {
    std::error_code error;
    std::filesystem::create_directories(Temporary(), error);
    if (error)
      return absl::FailedPreconditionError(StrCat("blob_dir: cannot create ", Temporary(), ": ", error.message()));
    if (access(Temporary().c_str(), W_OK | X_OK) != 0)
      return absl::FailedPreconditionError(StrCat("blob_dir: cannot write to ", Temporary()));
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Writer>> Create(const Uuid& id) override {
    const std::string folder = Folder(id);
    if (mkdir(folder.c_str(), 0700) == 0) {
      RETURN_IF_ERROR(SyncFolder(directory_));
    } else if (errno != EEXIST) {
      return Failed("create", folder);
    }
    const std::string temporary = StrCat(Temporary(), "/", id.ToString(), ".part");
    const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return Failed("create", temporary);
    return std::unique_ptr<Writer>(new FileWriter(fd, temporary, folder, Path(id)));
  }

  absl::StatusOr<std::unique_ptr<Reader>> Open(const Uuid& id, int64_t offset) override {
    const std::string path = Path(id);
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return Failed("open", path);
    auto reader = std::make_unique<FileReader>(fd, path);
    if (offset > 0 && lseek(fd, offset, SEEK_SET) < 0) return Failed("seek in", path);
    return std::unique_ptr<Reader>(std::move(reader));
  }

  absl::Status Remove(const Uuid& id) override {
    const std::string path = Path(id);
    if (unlink(path.c_str()) != 0 && errno != ENOENT) return Failed("remove", path);
    return absl::OkStatus();
  }

  absl::Status Sweep(absl::Duration age, absl::FunctionRef<absl::Status(const Uuid&)> visit) override {
    const absl::Time before = absl::Now() - age;
    for (const std::string& folder : Names(directory_)) {
      for (const std::string& name : Names(StrCat(directory_, "/", folder))) {
        const std::string path = StrCat(directory_, "/", folder, "/", name);
        struct stat info;
        if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || absl::TimeFromTimespec(info.st_mtim) >= before)
          continue;
        if (folder == "tmp") {
          if (unlink(path.c_str()) != 0 && errno != ENOENT) return Failed("remove", path);
        } else if (const auto id = ParseUuid(name); id.ok()) {
          RETURN_IF_ERROR(visit(*id));
        }
      }
    }
    return absl::OkStatus();
  }

 private:
  static std::vector<std::string> Names(const std::string& folder) {
    std::vector<std::string> out;
    if (DIR* dir = opendir(folder.c_str())) {
      while (const dirent* entry = readdir(dir))
        if (entry->d_name[0] != '.') out.push_back(entry->d_name);
      closedir(dir);
    }
    return out;
  }
  std::string Temporary() const { return StrCat(directory_, "/tmp"); }
  std::string Folder(const Uuid& id) const {
    constexpr char kHex[] = "0123456789abcdef";
    const uint8_t last = id.bytes[15];
    return StrCat(directory_, "/", std::string{kHex[last >> 4], kHex[last & 15]});
  }
  std::string Path(const Uuid& id) const { return StrCat(Folder(id), "/", id.ToString()); }

  const std::string directory_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlobStore>> OpenDirectoryStore(const std::string& directory) {
  if (directory.empty() || directory[0] != '/')
    return absl::InvalidArgumentError("blob_dir: an absolute path is needed");
  auto store = std::make_unique<DirectoryStore>(directory);
  RETURN_IF_ERROR(store->Prepare());
  return std::unique_ptr<BlobStore>(std::move(store));
}

}  // namespace mainstay::transfer
