// SPDX-License-Identifier: Apache-2.0
// A large file that appears under its name complete or not at all. It is written as `.NAME.partial` in the same folder, locked while
// somebody writes it, synced, renamed, and the folder synced. What a killed run left under that name is taken over by the next one.
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"
#include "flexgen/base/handle.h"
#include "flexgen/io/file.h"

namespace flexgen {

class OutputFile {
 public:
  // Reserves size_bytes on the disk; all of it reads as zeros. Exists without overwrite, or a folder: Fault::usage. Being written by
  // another process: Fault::locked. Too little space: Fault::space, with the bytes needed and free.
  OutputFile(std::string path, uint64_t size_bytes, bool overwrite) : path_(std::move(path)), overwrite_(overwrite) {
    const size_t slash = path_.rfind('/');
    folder_ = slash == std::string::npos ? "" : path_.substr(0, slash + 1);
    const std::string name = path_.substr(folder_.size());
    if (name.empty() || name == "." || name == "..") fail(Fault::usage, "{}: is not a file name to write to. Name a file", path_);
    check_absent();
    temporary_ = folder_ + "." + name + ".partial";
    Fd fd = open_locked();
    owned_ = true;
    try {
      reserve(fd.get(), size_bytes);
    } catch (...) {
      ::unlink(temporary_.c_str());
      throw;
    }
    file_ = File(std::move(fd), temporary_, size_bytes);
    file_.set_direct(true);  // where it is refused (tmpfs), writes go through the page cache
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile() {
    if (owned_) ::unlink(temporary_.c_str());
  }

  // Offsets, lengths and addresses of writes are multiples of kIoAlign.
  const File& file() const { return file_; }
  const std::string& path() const { return path_; }

  // Everything written so far is on the disk when this returns, under the final name.
  void commit() {
    file_.sync();
    publish();
    owned_ = false;
    sync_folder(folder_);
  }

 private:
  void check_absent() const {
    struct stat st {};
    if (::lstat(path_.c_str(), &st) != 0) return;  // absent; anything else shows when it is opened
    if (S_ISDIR(st.st_mode)) fail(Fault::usage, "{}: is a folder; the output is one file. Name a file with -o", path_);
    if (!overwrite_) fail_exists();
  }
  [[noreturn]] void fail_exists() const { fail(Fault::usage, "{}: exists already. Use --overwrite to replace it, or another name with -o", path_); }

  Fd open_locked() const {
    for (;;) {
      Fd fd(::open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666));
      if (!fd) fail(Fault::io, "{}: cannot be written: {}", temporary_, std::strerror(errno));
      if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
          fail(Fault::locked, "{}: is being written by another process, which holds {}. Wait for it, or choose another name with -o", path_,
               temporary_);
        fail(Fault::io, "{}: cannot be locked: {}", temporary_, std::strerror(errno));
      }
      // between open and lock its owner may have renamed or removed it: then this is no longer the temporary file
      struct stat ours {}, named {};
      if (::fstat(fd.get(), &ours) != 0) fail(Fault::io, "{}: cannot be examined: {}", temporary_, std::strerror(errno));
      if (::lstat(temporary_.c_str(), &named) != 0 || ours.st_ino != named.st_ino || ours.st_dev != named.st_dev) continue;
      if (!S_ISREG(ours.st_mode)) fail(Fault::io, "{}: is in the way and not a regular file. Remove it", temporary_);
      return fd;
    }
  }

  void reserve(int fd, uint64_t size_bytes) const {
    if (::ftruncate(fd, 0) != 0) fail(Fault::io, "{}: cannot be emptied: {}", temporary_, std::strerror(errno));
    const uint64_t free_bytes = free_disk_bytes(folder_);
    const auto no_space = [&] {
      fail(Fault::space, "{}: found {} bytes of free disk space, {} are needed. Free some, or write to another disk with -o", path_,
           with_commas(free_bytes), with_commas(size_bytes));
    };
    if (free_bytes < size_bytes) no_space();
    if (size_bytes == 0) return;
    int error = 0;
    while (::fallocate(fd, 0, 0, static_cast<off_t>(size_bytes)) != 0 && (error = errno) == EINTR) {}
    if (error == ENOSPC || error == EDQUOT) no_space();
    if (error == EFBIG)
      fail(Fault::space, "{}: {} bytes are more than a file may have here. Raise the limit (ulimit -f)", path_, with_commas(size_bytes));
    if (error != 0 && error != EINTR && ::ftruncate(fd, static_cast<off_t>(size_bytes)) != 0)  // a file system without fallocate
      fail(Fault::io, "{}: {} bytes cannot be reserved: {}", temporary_, with_commas(size_bytes), std::strerror(errno));
  }

  void publish() const {
    if (overwrite_) {
      if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_rename();
      return;
    }
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) == 0) return;
    if (errno == EEXIST) fail_exists();
    if (errno != EINVAL && errno != ENOSYS) fail_rename();
    // file systems without RENAME_NOREPLACE: a link never replaces either
    if (::link(temporary_.c_str(), path_.c_str()) != 0) {
      if (errno == EEXIST) fail_exists();
      fail_rename();
    }
    ::unlink(temporary_.c_str());
  }
  [[noreturn]] void fail_rename() const { fail(Fault::io, "{}: cannot be renamed to {}: {}", temporary_, path_, std::strerror(errno)); }

  std::string path_, folder_, temporary_;
  bool overwrite_;
  bool owned_ = false;
  File file_;
};

}  // namespace flexgen
