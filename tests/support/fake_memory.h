// SPDX-License-Identifier: Apache-2.0
// Memory of a fake card. It is the host's, but the host must not touch it: only while work of the card runs is it accessible, so that
// a read or write by the host is a segmentation fault. So is what runs over the end of an allocation, or uses one that was released.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <new>

#include "flexgen/base/checked.h"
#include "flexgen/base/error.h"

namespace flexgen::testing {

class FakeMemory {
 public:
  FakeMemory() = default;
  FakeMemory(const FakeMemory&) = delete;
  FakeMemory& operator=(const FakeMemory&) = delete;
  ~FakeMemory() {
    for (const auto& [data, a] : all_) ::munmap(a.mapping, a.mapped);
  }

  // At a multiple of 256 and no more, all bytes 0xFF: NaN in every float type
  std::byte* allocate(size_t bytes) {
    const size_t size = round_up(bytes, kAlignment), pages = round_up(size, kPage), mapped = pages + 2 * kPage;
    void* p = ::mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    auto* const mapping = static_cast<std::byte*>(p);
    std::byte* const data = mapping + kPage + (pages - size);  // the end is at the page behind, which nobody may touch
    Allocation& a = all_[data] = {mapping, mapped, bytes, true};
    protect(a, PROT_READ | PROT_WRITE);
    std::memset(mapping + kPage, 0xFF, pages);
    if (!open_) protect(a, PROT_NONE);
    used_ += bytes, ++alive_;
    return data;
  }
  // Its addresses are never given again
  void release(std::byte* data) {
    const auto found = all_.find(data);
    FG_CHECK(found != all_.end() && found->second.alive, "{} is no memory of this card, or was released before", static_cast<void*>(data));
    Allocation& a = found->second;
    protect(a, PROT_NONE);
    ::madvise(a.mapping, a.mapped, MADV_DONTNEED);
    a.alive = false;
    used_ -= a.bytes, --alive_;
  }

  bool holds(const void* p, size_t bytes) const {
    const Allocation* const a = around(p, bytes);
    return a && a->alive;
  }
  bool was_released(const void* p, size_t bytes) const {
    const Allocation* const a = around(p, bytes);
    return a && !a->alive;
  }

  // Accessible until close(): while the card works
  void open() {
    if (!open_) protect_all(PROT_READ | PROT_WRITE);
    open_ = true;
  }
  void close() noexcept {
    if (open_) protect_all(PROT_NONE);
    open_ = false;
  }

  uint64_t used_bytes() const { return used_; }
  size_t alive() const { return alive_; }

 private:
  static constexpr size_t kAlignment = 256, kPage = 4096;

  struct Allocation {
    std::byte* mapping;  // a page, the memory, a page
    size_t mapped, bytes;
    bool alive;
  };

  static void protect(const Allocation& a, int how) noexcept { ::mprotect(a.mapping + kPage, a.mapped - 2 * kPage, how); }
  void protect_all(int how) noexcept {
    for (const auto& [data, a] : all_)
      if (a.alive) protect(a, how);
  }
  const Allocation* around(const void* p, size_t bytes) const {
    const auto* const at = static_cast<const std::byte*>(p);
    const auto next = all_.upper_bound(at);
    if (next == all_.begin()) return nullptr;
    const auto& [data, a] = *std::prev(next);
    const auto offset = static_cast<size_t>(at - data);
    return offset <= a.bytes && bytes <= a.bytes - offset ? &a : nullptr;
  }

  std::map<const std::byte*, Allocation> all_;  // released ones too
  uint64_t used_ = 0;
  size_t alive_ = 0;
  bool open_ = false;
};

}  // namespace flexgen::testing
