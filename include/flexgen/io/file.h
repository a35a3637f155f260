// SPDX-License-Identifier: Apache-2.0
// A file that is read or written at offsets. Reads and writes are whole or an error: short ones are resumed, EINTR retried.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"
#include "flexgen/base/handle.h"

namespace flexgen {

// Offsets, lengths and addresses of O_DIRECT transfers are multiples of this, whatever the device would allow.
inline constexpr size_t kIoAlign = 4096;

class File {
 public:
  File() = default;

  // A regular file for reading. A folder, FIFO, socket or device is a Fault::checkpoint; a missing file or one that may not be
  // read is a Fault::io.
  static File open(const std::string& path) {
    Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // O_NONBLOCK: a FIFO must not hang us
    if (!fd) fail(Fault::io, "{}: cannot be opened: {}", path, std::strerror(errno));
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) fail(Fault::io, "{}: cannot be examined: {}", path, std::strerror(errno));
    if (!S_ISREG(st.st_mode)) fail(Fault::checkpoint, "{}: is a {}; a regular file is needed", path, kind(st.st_mode));
    return File(std::move(fd), path, static_cast<uint64_t>(st.st_size));
  }

  // takes over fd, which refers to a file of size_bytes
  File(Fd fd, std::string path, uint64_t size_bytes) : fd_(std::move(fd)), path_(std::move(path)), size_(size_bytes) {}

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }  // bytes, when it was opened

  // Turns O_DIRECT on or off; false where the file system refuses.
  bool set_direct(bool on) {
    const int flags = ::fcntl(fd_.get(), F_GETFL);
    return flags >= 0 && ::fcntl(fd_.get(), F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
  }

  // Fills dst from offset. The end of the file before that is a Fault::damaged, a system error a Fault::io.
  void read(uint64_t offset, std::span<std::byte> dst) const {
    size_t done = 0;
    while (done < dst.size()) {
      const ssize_t n = ::pread(fd_.get(), dst.data() + done, dst.size() - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail(Fault::io, "{}: reading {} bytes at offset {} failed: {}", path_, dst.size(), offset, std::strerror(errno));
      if (n == 0)
        fail(Fault::damaged, "{}: ends at byte {}, but {} bytes at offset {} are needed: truncated or changed while in use. Copy or convert it again",
             path_, offset + done, dst.size(), offset);
      done += static_cast<size_t>(n);
    }
  }

  // Writes all of src at offset. A full disk is a Fault::space.
  void write(uint64_t offset, std::span<const std::byte> src) const {
    size_t done = 0;
    while (done < src.size()) {
      const ssize_t n = ::pwrite(fd_.get(), src.data() + done, src.size() - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0)
        fail(errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? Fault::space : Fault::io, "{}: writing {} bytes at offset {} failed: {}", path_,
             src.size(), offset, std::strerror(errno));
      if (n == 0) fail(Fault::io, "{}: writing {} bytes at offset {} stopped after {}", path_, src.size(), offset, done);
      done += static_cast<size_t>(n);
    }
  }

  // A failed sync is final: the kernel may have dropped the pages, so it is never retried.
  void sync() const {
    if (::fsync(fd_.get()) != 0) fail(Fault::io, "{}: the system could not write it to disk: {}", path_, std::strerror(errno));
  }

 private:
  static const char* kind(mode_t m) {
    return S_ISDIR(m) ? "folder" : S_ISFIFO(m) ? "FIFO" : S_ISSOCK(m) ? "socket" : S_ISCHR(m) || S_ISBLK(m) ? "device" : "special file";
  }

  Fd fd_;
  std::string path_;
  uint64_t size_ = 0;
};

// The whole of a small file. Larger than limit_bytes is a Fault::checkpoint.
inline std::string read_text_file(const std::string& path, uint64_t limit_bytes = 256_MiB) {
  const File file = File::open(path);
  if (file.size() > limit_bytes) fail(Fault::checkpoint, "{}: found {} bytes, allowed {}", path, with_commas(file.size()), with_commas(limit_bytes));
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

// Makes a rename in this folder durable.
inline void sync_folder(const std::string& folder) {
  Fd fd(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) fail(Fault::io, "{}: the folder could not be written to disk: {}", folder, std::strerror(errno));
}

// Bytes that an ordinary user may still write to the file system that holds path
inline uint64_t free_disk_bytes(const std::string& path) {
  struct statvfs s {};
  if (::statvfs(path.empty() ? "." : path.c_str(), &s) != 0) fail(Fault::io, "{}: free space cannot be found out: {}", path, std::strerror(errno));
  return static_cast<uint64_t>(s.f_bavail) * s.f_frsize;
}

}  // namespace flexgen
