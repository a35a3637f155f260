// SPDX-License-Identifier: Apache-2.0
// Owned host memory: anonymous pages, 2 MiB aligned and advised huge where that is worth it, zeroed by the kernel.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "flexgen/base/bytes.h"
#include "flexgen/base/checked.h"
#include "flexgen/base/error.h"

namespace flexgen {

[[noreturn]] inline void out_of_memory(size_t size_bytes) {
  fail(Fault::space, "out of memory: {} were asked for. Lower the memory budget or close other programs", format_bytes(size_bytes));
}

class Buffer {
 public:
  static constexpr size_t kHugePage = 2_MiB;

  Buffer() = default;
  // size_bytes may be 0; throws Fault::space where the system has no memory left
  explicit Buffer(size_t size_bytes) : size_(size_bytes) {
    if (size_bytes == 0) return;
    // Small buffers take plain pages. Large ones are mapped with 2 MiB to spare and cut to alignment: O_DIRECT reads into huge
    // pages run nearly three times as fast as into 4 KiB pages, and weights in them cost fewer TLB misses.
    const bool huge = size_bytes >= kHugePage;
    if (size_bytes > kMostBytes) out_of_memory(size_bytes);
    mapped_ = huge ? round_up(size_bytes, kHugePage) + kHugePage : round_up<size_t>(size_bytes, 4096);
    void* p = ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) out_of_memory(size_bytes);
    base_ = static_cast<std::byte*>(p);
    data_ = base_;
    if (huge) {
      data_ = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uintptr_t>(base_), uintptr_t{kHugePage}));
      ::madvise(data_, round_up(size_bytes, kHugePage), MADV_HUGEPAGE);
    }
  }
  Buffer(Buffer&& o) noexcept { swap(o); }
  Buffer& operator=(Buffer&& o) noexcept {
    Buffer(std::move(o)).swap(*this);
    return *this;
  }
  ~Buffer() {
    if (base_) ::munmap(base_, mapped_);
  }

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }  // bytes
  std::span<std::byte> bytes() const { return {data_, size_}; }
  template <typename T>
  T* as() const { return reinterpret_cast<T*>(data_); }

 private:
  static constexpr size_t kMostBytes = size_t{1} << 62;  // rounding up to pages stays far from overflow

  void swap(Buffer& o) noexcept {
    std::swap(base_, o.base_);
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(mapped_, o.mapped_);
  }
  std::byte* base_ = nullptr;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_ = 0;
};

}  // namespace flexgen
