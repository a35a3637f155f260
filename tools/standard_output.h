// SPDX-License-Identifier: Apache-2.0
// Standard output that knows when nobody reads it any more: a closed pipe is the reader's way to say that it has enough.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "flexgen/base/error.h"

namespace flexgen::tools {

// thread: one at a time. SIGPIPE is ignored by the program.
class StandardOutput {
 public:
  // Buffered until flush(). After the pipe was closed nothing is written. A full disk is a Fault::space, other errors a Fault::io.
  void write(std::string_view text) {
    if (!closed_ && std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) failed();
  }
  void flush() {
    if (!closed_ && std::fflush(stdout) != 0) failed();
  }
  bool closed() const { return closed_; }
  static bool is_terminal() { return ::isatty(STDOUT_FILENO) == 1; }

 private:
  void failed() {
    if (errno == EPIPE) {
      closed_ = true;
      return;
    }
    fail(errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? Fault::space : Fault::io, "standard output: cannot be written: {}",
         std::strerror(errno));
  }
  bool closed_ = false;
};

}  // namespace flexgen::tools
