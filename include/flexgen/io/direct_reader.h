// SPDX-License-Identifier: Apache-2.0
// Reads any stretch of a file past the page cache: the aligned stretch around it goes into the caller's buffer. Where O_DIRECT is
// refused (tmpfs, some overlays) or little is wanted, the page cache serves.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <string>

#include "flexgen/base/checked.h"
#include "flexgen/io/file.h"
#include "flexgen/memory/buffer.h"

namespace flexgen {

class DirectReader {
 public:
  // Reopens the file behind its descriptor, so it is the same one whatever its name means by now. file outlives this.
  explicit DirectReader(const File& file) : file_(&file) {
    direct_.reset(::open(("/proc/self/fd/" + std::to_string(file.fd())).c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
  }

  // bytes that a buffer needs for reads of up to size_bytes
  static constexpr size_t buffer_bytes(size_t size_bytes) { return round_up(size_bytes, kIoAlign) + kIoAlign; }

  // [offset, offset + size_bytes) of the file, somewhere inside buffer. Errors as File::read's. thread: any
  std::span<const std::byte> read(uint64_t offset, size_t size_bytes, const Buffer& buffer) const {
    FG_CHECK(buffer.size() >= buffer_bytes(size_bytes), "{} bytes into a buffer of {}", size_bytes, buffer.size());
    if (!direct_ || size_bytes < kSmall) return through_cache(offset, size_bytes, buffer);
    const uint64_t start = offset / kIoAlign * kIoAlign;
    const size_t head = static_cast<size_t>(offset - start), whole = round_up(head + size_bytes, kIoAlign);
    size_t done = 0;
    while (done < head + size_bytes) {
      const ssize_t n = ::pread(direct_.get(), buffer.data() + done, whole - done, static_cast<off_t>(start + done));
      if (n < 0 && errno == EINTR) continue;
      // a refusal, or an end that is not on a page boundary: the page cache reads it, or says what is wrong
      if (n <= 0 || (static_cast<size_t>(n) % kIoAlign != 0 && done + static_cast<size_t>(n) < head + size_bytes))
        return through_cache(offset, size_bytes, buffer);
      done += static_cast<size_t>(n);
    }
    return {buffer.data() + head, size_bytes};
  }

 private:
  static constexpr size_t kSmall = 65536;  // below, neighbours are likely wanted too and read-ahead helps

  std::span<const std::byte> through_cache(uint64_t offset, size_t size_bytes, const Buffer& buffer) const {
    file_->read(offset, buffer.bytes().first(size_bytes));
    return buffer.bytes().first(size_bytes);
  }

  const File* file_;
  Fd direct_;
};

}  // namespace flexgen
