// SPDX-License-Identifier: Apache-2.0
// A small result beside the main output, such as --stats-json: under its name complete or not at all, and known to be writable before
// the work begins.
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "flexgen/base/error.h"
#include "flexgen/base/handle.h"
#include "flexgen/io/file.h"

namespace flexgen::tools {

class SmallFile {
 public:
  // Opens a temporary file beside path, which commit() renames; a device or a pipe is opened itself. throws Fault::io
  explicit SmallFile(std::string path) : path_(std::move(path)) {
    struct stat st {};
    direct_ = ::stat(path_.c_str(), &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
    target_ = direct_ ? path_ : path_ + "." + std::to_string(::getpid()) + ".partial";
    fd_ = Fd(::open(target_.c_str(), direct_ ? O_WRONLY | O_CLOEXEC : O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (!fd_) fail(Fault::io, "{}: cannot be written: {}", path_, std::strerror(errno));
    if (!direct_ && S_ISDIR(st.st_mode)) {
      ::unlink(target_.c_str());
      fail(Fault::usage, "{}: is a folder. Name a file", path_);
    }
  }
  SmallFile(const SmallFile&) = delete;
  SmallFile& operator=(const SmallFile&) = delete;
  ~SmallFile() {
    if (fd_ && !direct_) ::unlink(target_.c_str());
  }

  // Puts the file under its name, with text as its last part. Call once.
  void commit(std::string_view text = "") {
    append(text);
    if (!direct_ && ::rename(target_.c_str(), path_.c_str()) != 0) fail(Fault::io, "{}: cannot be written: {}", path_, std::strerror(errno));
    fd_.reset();
  }

  void append(std::string_view text) {
    size_t done = 0;
    while (done < text.size()) {
      const ssize_t n = ::write(fd_.get(), text.data() + done, text.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0)
        fail(errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? Fault::space : Fault::io, "{}: cannot be written: {}", path_,
             std::strerror(errno));
      done += static_cast<size_t>(n);
    }
  }

 private:
  std::string path_, target_;
  bool direct_ = false;  // no regular file: written in place
  Fd fd_;
};

}  // namespace flexgen::tools
