// SPDX-License-Identifier: Apache-2.0
// Lines of a text file, a pipe or standard input, one at a time and within a length limit: memory does not depend on the file.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"
#include "flexgen/base/handle.h"
#include "tools/interrupt.h"

namespace flexgen::tools {

inline constexpr size_t kMaxLineBytes = 8_MiB;

class LineReader {
 public:
  // A file or a pipe; "-" is standard input. A missing file is a Fault::io, a folder a Fault::usage.
  static LineReader open(const std::string& path) {
    if (path == "-") return LineReader(Fd(), STDIN_FILENO, "standard input");
    Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) fail(Fault::io, "{}: cannot be opened: {}", path, std::strerror(errno));
    struct stat st {};
    if (::fstat(fd.get(), &st) == 0 && S_ISDIR(st.st_mode)) fail(Fault::usage, "{}: is a folder; a text file is needed", path);
    const int raw = fd.get();
    return LineReader(std::move(fd), raw, path);
  }

  // The next line without its end (LF or CRLF) and, in the first one, without a byte order mark; nullopt at the end of the text.
  // The view holds until the next call. A line over the limit is a Fault::usage, a signal to stop a Fault::interrupted.
  std::optional<std::string_view> next() {
    buffer_.erase(0, used_);
    used_ = 0;
    size_t searched = 0;
    for (;;) {
      const size_t end = buffer_.find('\n', searched);
      if (end != buffer_.npos) return take(end, end + 1);
      if (at_end_) {
        if (buffer_.empty()) return std::nullopt;
        return take(buffer_.size(), buffer_.size());
      }
      searched = buffer_.size();
      if (searched > kMaxLineBytes + 2) too_long();
      fill();
    }
  }

  // "prompts.txt: line 7", for messages about the line that next() gave last
  std::string where() const { return name_ + ": line " + std::to_string(line_); }
  uint64_t line() const { return line_; }  // of that line, from 1
  const std::string& name() const { return name_; }

 private:
  LineReader(Fd owned, int fd, std::string name) : owned_(std::move(owned)), fd_(fd), name_(std::move(name)) {}

  std::string_view take(size_t end, size_t next) {
    ++line_;
    used_ = next;
    std::string_view line(buffer_.data(), end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
    if (line.size() > kMaxLineBytes) fail(Fault::usage, "{}: longer than {}", where(), format_bytes(kMaxLineBytes));
    return line;
  }

  [[noreturn]] void too_long() {
    ++line_;
    fail(Fault::usage, "{}: longer than {}", where(), format_bytes(kMaxLineBytes));
  }

  void fill() {
    constexpr size_t kChunk = 64_KiB;
    const size_t have = buffer_.size();
    buffer_.resize(have + kChunk);
    ssize_t n = 0;
    do {
      if (interrupted) fail(Fault::interrupted, "{}: interrupted while it was read", name_);
      n = ::read(fd_, buffer_.data() + have, kChunk);
    } while (n < 0 && errno == EINTR);
    if (n < 0) fail(Fault::io, "{}: cannot be read: {}", name_, std::strerror(errno));
    buffer_.resize(have + static_cast<size_t>(n));
    at_end_ = n == 0;
  }

  Fd owned_;
  int fd_;
  std::string name_;
  std::string buffer_;
  size_t used_ = 0;  // bytes of the buffer that the last line took
  bool at_end_ = false;
  uint64_t line_ = 0;
};

}  // namespace flexgen::tools
