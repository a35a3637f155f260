// SPDX-License-Identifier: Apache-2.0
// Files, memory and requests for the tests of I/O engines.
#pragma once

#include <fcntl.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "flexgen/base/handle.h"
#include "flexgen/io/file.h"
#include "flexgen/io/io_engine.h"
#include "flexgen/memory/buffer.h"
#include "support/temp_dir.h"

namespace flexgen::testing {

inline std::string random_bytes(size_t n, uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::string s(n, '\0');
  for (size_t i = 0; i < n; i += 8) {
    const uint64_t v = random();
    std::memcpy(s.data() + i, &v, std::min<size_t>(8, n - i));
  }
  return s;
}

inline void write_file(const std::string& path, std::string_view content) {
  std::ofstream(path, std::ios::binary) << content;
}

// past the page cache where the file system can
inline Fd open_direct(const std::string& path, int flags) {
  Fd fd(::open(path.c_str(), flags | O_DIRECT | O_CLOEXEC, 0600));
  if (!fd) fd.reset(::open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (!fd) fail(Fault::io, "{}: cannot be opened", path);
  return fd;
}

// Reads the whole file in requests of mixed sizes, in order, all submitted at once; returns what came, or the first error in *error.
inline std::string read_all(IoEngine& engine, int fd, size_t bytes, int* error = nullptr) {
  const Buffer buffer(round_up(bytes, kIoAlign));
  std::deque<IoTicket> tickets;
  std::vector<IoRequest> requests;
  constexpr std::array<size_t, 5> kSizes{4096, 65536, 1_MiB, 3_MiB + 8192, 12288};
  for (size_t at = 0, i = 0; at < bytes; ++i) {
    const size_t n = std::min(kSizes[i % kSizes.size()], bytes - at);
    requests.push_back({IoRequest::Op::read, fd, at, buffer.data() + at, n, &tickets.emplace_back()});
    at += n;
  }
  engine.submit(requests);
  int first = 0;
  for (const IoTicket& t : tickets)
    if (const int e = t.wait(); first == 0) first = e;
  if (error) *error = first;
  else if (first != 0) fail(Fault::io, "read_all: error {}", first);
  return {reinterpret_cast<const char*>(buffer.data()), bytes};
}

// Writes content to fd in pages-aligned requests of mixed sizes
inline void write_all(IoEngine& engine, int fd, const std::string& content) {
  const Buffer buffer(round_up(content.size(), kIoAlign));
  std::memcpy(buffer.data(), content.data(), content.size());
  std::deque<IoTicket> tickets;
  std::vector<IoRequest> requests;
  constexpr std::array<size_t, 4> kSizes{4096, 262144, 2_MiB + 4096, 5_MiB};
  for (size_t at = 0, i = 0; at < content.size(); ++i) {
    const size_t n = std::min(kSizes[i % kSizes.size()], content.size() - at);
    requests.push_back({IoRequest::Op::write, fd, at, buffer.data() + at, n, &tickets.emplace_back()});
    at += n;
  }
  engine.submit(requests);
  for (const IoTicket& t : tickets)
    if (const int e = t.wait(); e != 0) fail(Fault::io, "write_all: error {}", e);
}

}  // namespace flexgen::testing
