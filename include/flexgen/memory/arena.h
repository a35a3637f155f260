// SPDX-License-Identifier: Apache-2.0
// All large memory of a run: one range of huge pages, there before anything runs, from which pieces are cut and never returned. Direct
// reads into huge pages are nearly three times as fast as into 4 KiB pages, and what is touched now cannot fail to be there later.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/checked.h"
#include "flexgen/base/error.h"
#include "flexgen/memory/buffer.h"

namespace flexgen {

// Makes memory reachable for a device. CPU builds have none.
class HostPinner {
 public:
  virtual ~HostPinner() = default;
  virtual void pin(std::span<std::byte> memory) = 0;  // throws where the driver refuses
  virtual void unpin(std::span<std::byte> memory) noexcept = 0;
};

// The share of [begin, end) that lies in transparent huge pages, 0 to 1, from a text like /proc/self/smaps: mappings that lie inside the
// range are counted. nullopt where the text knows none of them.
inline std::optional<double> huge_page_share(std::istream& smaps, uintptr_t begin, uintptr_t end) {
  uint64_t huge = 0;
  bool inside = false, found = false;
  for (std::string line; std::getline(smaps, line);) {
    uintptr_t from = 0, to = 0;
    const char* const stop = line.data() + line.size();
    if (const auto [dash, bad] = std::from_chars(line.data(), stop, from, 16); bad == std::errc{} && dash != stop && *dash == '-') {
      const auto [after, worse] = std::from_chars(dash + 1, stop, to, 16);
      inside = worse == std::errc{} && from >= begin && to <= end;
    } else if (constexpr std::string_view kKey = "AnonHugePages:"; inside && line.compare(0, kKey.size(), kKey) == 0) {
      const size_t at = std::min(line.find_first_not_of(" \t", kKey.size()), line.size());
      uint64_t kib = 0;
      if (std::from_chars(line.data() + at, stop, kib).ec == std::errc{}) huge += kib << 10, found = true;
    }
  }
  if (!found || end <= begin) return std::nullopt;
  return static_cast<double>(huge) / static_cast<double>(end - begin);
}

class Arena {
 public:
  static constexpr size_t kHugePage = Buffer::kHugePage;

  Arena() = default;
  // Rounded up to whole huge pages; all of it is touched, and pinned where there is a pinner, which outlives the arena. Throws
  // Fault::space where the system has no such memory.
  explicit Arena(size_t size_bytes, HostPinner* pinner = nullptr) {
    if (size_bytes == 0) return;
    if (size_bytes > kMostBytes) out_of_memory(size_bytes);
    size_ = round_up(size_bytes, kHugePage);
    // What is not accessible around it keeps the kernel from merging it with a neighbour, so that its huge pages can be counted,
    // and stops whoever runs over its end.
    mapped_ = size_ + 2 * kHugePage;
    void* p = ::mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) out_of_memory(size_bytes);
    base_ = static_cast<std::byte*>(p);
    data_ = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uintptr_t>(base_) + 1, uintptr_t{kHugePage}));
    try {
      if (::mprotect(data_, size_, PROT_READ | PROT_WRITE) != 0) out_of_memory(size_bytes);
      ::madvise(data_, size_, MADV_HUGEPAGE);  // refused by kernels without them: coverage tells
      ::madvise(data_, size_, MADV_DONTFORK);  // copy-on-write after a fork would tear transfers in flight
      touch(data_, size_);
      make_huge();
      if (pinner) pinner->pin({data_, size_});
      pinner_ = pinner;
    } catch (...) {
      ::munmap(base_, mapped_);
      throw;
    }
  }
  Arena(Arena&& o) noexcept { swap(o); }
  Arena& operator=(Arena&& o) noexcept {
    Arena(std::move(o)).swap(*this);
    return *this;
  }
  ~Arena() {
    if (pinner_) pinner_->unpin({data_, size_});
    if (base_) ::munmap(base_, mapped_);
  }

  // The next piece: zero, of that many bytes, at a multiple of alignment (a power of two, at most 2 MiB). The plan has counted every
  // piece, so that asking for more than is left is a bug.
  std::span<std::byte> take(size_t bytes, size_t alignment = 4096) {
    FG_CHECK(alignment > 0 && alignment <= kHugePage && (alignment & (alignment - 1)) == 0, "alignment {}", alignment);
    const size_t at = round_up(taken_, alignment);
    FG_CHECK(at <= size_ && bytes <= size_ - at, "{} bytes at {} in an arena of {}", bytes, at, size_);
    taken_ = at + bytes;
    return {data_ + at, bytes};
  }

  std::span<std::byte> memory() const { return {data_, size_}; }
  size_t size() const { return size_; }           // bytes
  size_t left() const { return size_ - taken_; }  // bytes, before alignment
  bool pinned() const { return pinner_ != nullptr; }

  // The share that lies in huge pages now, 0 to 1; nullopt where the system does not say (no /proc, no huge pages in the kernel)
  std::optional<double> huge_coverage() const {
    std::ifstream smaps("/proc/self/smaps");
    return huge_page_share(smaps, reinterpret_cast<uintptr_t>(data_), reinterpret_cast<uintptr_t>(data_) + size_);
  }

 private:
  static constexpr size_t kMostBytes = size_t{1} << 62;
  static constexpr int kPopulateWrite = 23, kCollapse = 25;  // MADV_POPULATE_WRITE (Linux 5.14), MADV_COLLAPSE (6.1)

  // Writes to every page, which keep what they hold. Several threads: memory that a virtual machine has never used comes at 2.5 s a GB.
  void touch(std::byte* at, size_t bytes) {
    const size_t n = std::clamp<size_t>(bytes / 256_MiB, 1, std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 8));
    const size_t part = round_up(bytes / n, kHugePage);
    std::atomic<bool> missing{false};
    std::vector<std::thread> threads;
    for (size_t i = 1; i < n && i * part < bytes; ++i)
      threads.emplace_back([&, i] { touch_part(at + i * part, std::min(part, bytes - i * part), missing); });
    touch_part(at, std::min(part, bytes), missing);
    for (std::thread& t : threads) t.join();
    if (missing) out_of_memory(size_);
  }

  static void touch_part(std::byte* at, size_t bytes, std::atomic<bool>& missing) {
    if (::madvise(at, bytes, kPopulateWrite) == 0) return;
    if (errno == ENOMEM) {
      missing = true;
      return;
    }
    for (size_t i = 0; i < bytes; i += 4096) {  // an older kernel
      volatile std::byte& b = at[i];
      b = b;
    }
  }

  // Where memory was scarce for a moment (a cgroup full of page cache), 4 KiB pages were given instead. The cache gives way in the end:
  // such stretches are collapsed, or emptied and asked for again, which needs no room for a second copy.
  void make_huge() {
    constexpr int kRounds = 4;
    for (int round = 0; round < kRounds && huge_coverage().value_or(1) < 1; ++round) {
      for (std::byte* p = data_; p < data_ + size_; p += kHugePage) {
        if (::madvise(p, kHugePage, kCollapse) == 0) continue;
        if (errno == EINVAL) return;  // an older kernel, or huge pages are off
        ::madvise(p, kHugePage, MADV_DONTNEED);
        touch(p, kHugePage);
      }
    }
  }

  void swap(Arena& o) noexcept {
    std::swap(base_, o.base_);
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(mapped_, o.mapped_);
    std::swap(taken_, o.taken_);
    std::swap(pinner_, o.pinner_);
  }

  std::byte* base_ = nullptr;
  std::byte* data_ = nullptr;
  size_t size_ = 0, mapped_ = 0, taken_ = 0;
  HostPinner* pinner_ = nullptr;
};

}  // namespace flexgen
