// SPDX-License-Identifier: Apache-2.0
// Files as an engine uses them, past the page cache where the file system allows: a model file to read, and a file to spill to that has
// all its space from the start and no name, so that nothing stays behind.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "flexgen/base/bytes.h"
#include "flexgen/base/checked.h"
#include "flexgen/base/error.h"
#include "flexgen/base/handle.h"
#include "flexgen/io/file.h"
#include "flexgen/memory/buffer.h"

namespace flexgen {

// What tells whether a file is still the one that was opened, as it was
struct FileIdentity {
  uint64_t device = 0, inode = 0, size = 0;
  int64_t modified_ns = 0;

  bool operator==(const FileIdentity&) const = default;

  // throws Fault::io
  static FileIdentity of(int fd, const std::string& path) {
    struct stat st {};
    if (::fstat(fd, &st) != 0) fail(Fault::io, "{}: cannot be examined: {}", path, std::strerror(errno));
    return {st.st_dev, st.st_ino, static_cast<uint64_t>(st.st_size), int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec};
  }
};

namespace detail {

// Whether an aligned read of the first page past the page cache succeeds: some file systems take the flag and refuse the read
inline bool direct_read_works(int fd) {
  const Buffer page(kIoAlign);
  ssize_t n = 0;
  while ((n = ::pread(fd, page.data(), page.size(), 0)) < 0 && errno == EINTR) {}
  return n >= 0;
}

}  // namespace detail

// A file that is there, open for an engine's reads
class IoFile {
 public:
  // Reopens the file behind its descriptor, so it is the same one whatever its name means by now. Where O_DIRECT is refused (tmpfs, some
  // overlays) the page cache is used, and read ahead.
  static IoFile open(const File& file) {
    IoFile f;
    f.path_ = file.path();
    f.identity_ = FileIdentity::of(file.fd(), f.path_);
    const std::string link = "/proc/self/fd/" + std::to_string(file.fd());
    f.fd_.reset(::open(link.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
    f.direct_ = f.fd_ && detail::direct_read_works(f.fd_.get());
    if (f.direct_) return f;
    f.fd_.reset(::open(link.c_str(), O_RDONLY | O_CLOEXEC));
    if (!f.fd_) f.fd_.reset(::fcntl(file.fd(), F_DUPFD_CLOEXEC, 0));  // without /proc
    if (!f.fd_) fail(Fault::io, "{}: cannot be opened again: {}", f.path_, std::strerror(errno));
    ::posix_fadvise(f.fd_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
    return f;
  }

  int fd() const { return fd_.get(); }
  bool direct() const { return direct_; }  // requests are multiples of kIoAlign then, and pass the page cache
  uint64_t size() const { return identity_.size; }
  const std::string& path() const { return path_; }

  // Throws Fault::damaged where the file has changed since it was opened.
  void check_unchanged() const {
    const FileIdentity now = FileIdentity::of(fd_.get(), path_);
    if (now.size != identity_.size)
      fail(Fault::damaged, "{}: changed while in use: found {} bytes, allowed {} as when it was opened. Start again once it is whole", path_,
           with_commas(now.size), with_commas(identity_.size));
    if (now != identity_)
      fail(Fault::damaged, "{}: changed while in use: found another time of modification than when it was opened. Start again once it is whole",
           path_);
  }

 private:
  IoFile() = default;

  std::string path_;
  FileIdentity identity_;
  Fd fd_;
  bool direct_ = false;
};

// A file without a name, for what memory has no room for. The system frees it with the process, however that ends.
class SpillFile {
 public:
  // bytes > 0, rounded up to kIoAlign; all of it is allocated now. No room is a Fault::space that names folder, need and what is free;
  // a folder where no file can be made a Fault::io.
  static SpillFile create(const std::string& folder, uint64_t bytes) {
    FG_CHECK(bytes > 0 && bytes < uint64_t{1} << 62, "a file of {} bytes", bytes);
    SpillFile file;
    file.size_ = round_up<uint64_t>(bytes, kIoAlign);
    file.name_ = (folder.empty() ? "." : folder) + "/(flexgen's spill file)";
    file.fd_ = open_unnamed(folder.empty() ? "." : folder);
    file.allocate(folder);
    const int flags = ::fcntl(file.fd_.get(), F_GETFL);
    file.direct_ = flags >= 0 && ::fcntl(file.fd_.get(), F_SETFL, flags | O_DIRECT) == 0 && detail::direct_read_works(file.fd_.get());
    if (!file.direct_ && flags >= 0) ::fcntl(file.fd_.get(), F_SETFL, flags);
    return file;
  }

  int fd() const { return fd_.get(); }
  bool direct() const { return direct_; }
  uint64_t size() const { return size_; }               // bytes
  const std::string& name() const { return name_; }     // for messages

 private:
  SpillFile() = default;

  static Fd open_unnamed(const std::string& folder) {
    Fd fd(::open(folder.c_str(), O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
    if (fd) return fd;
    std::string name = folder + "/flexgen-spill-XXXXXX";  // a file system without unnamed files
    fd.reset(::mkostemp(name.data(), O_CLOEXEC));
    if (!fd)
      fail(errno == ENOSPC || errno == EDQUOT ? Fault::space : Fault::io,
           "{}: no file for the cache can be made in this folder: {}. Choose another folder", folder, std::strerror(errno));
    ::unlink(name.c_str());
    return fd;
  }

  // fallocate, not posix_fallocate, which would write every block where the file system cannot reserve
  void allocate(const std::string& folder) const {
    int error = 0;
    while (::fallocate(fd_.get(), 0, 0, static_cast<off_t>(size_)) != 0 && (error = errno) == EINTR) error = 0;
    if (error == 0) return;
    const uint64_t room = free_disk_bytes(folder);
    const bool cannot = error == EOPNOTSUPP || error == ENOSYS;
    if (error == ENOSPC || error == EDQUOT || error == EFBIG || (cannot && room < size_))
      fail(Fault::space,
           "{}: the file for the cache needs {}: found {} free, allowed at least that. Choose another folder or a smaller cache on disk{}", folder,
           format_bytes(size_), format_bytes(room), error == ENOSPC || cannot ? "" : fmt::format(" ({})", std::strerror(error)));
    if (!cannot || ::ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0)
      fail(Fault::io, "{}: {} cannot be reserved for the cache: {}", folder, format_bytes(size_), std::strerror(cannot ? errno : error));
  }

  std::string name_;
  Fd fd_;
  uint64_t size_ = 0;
  bool direct_ = false;
};

}  // namespace flexgen
