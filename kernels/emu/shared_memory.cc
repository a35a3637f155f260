// SPDX-License-Identifier: Apache-2.0
// See shared_memory.h.
#include "kernels/emu/shared_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstring>
#include <new>

namespace flexgen::emu {
namespace {
constexpr size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
}  // namespace

SharedMemory::SharedMemory() {
  void* p = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  arena_ = static_cast<std::byte*>(p);
}

SharedMemory::~SharedMemory() { munmap(arena_, kArenaBytes); }

void SharedMemory::begin_block(size_t dynamic_bytes, bool poison) {
  arrays_.clear();
  if (dynamic_bytes > 0) arrays_.push_back({0, dynamic_bytes, nullptr, "dynamic shared memory"});
  requested_ = dynamic_bytes;
  used_ = round_up(dynamic_bytes, 16) + kRedZoneBytes;
  std::memset(arena_, poison ? 0xFF : 0, kArenaBytes);
}

void* SharedMemory::static_array(const void* key, const char* name, size_t bytes, size_t alignment, size_t limit) {
  for (const Array& a : arrays_)
    if (a.key == key) return arena_ + a.offset;
  const size_t at = round_up(used_, alignment);
  if (requested_ + bytes > limit || at + bytes + kRedZoneBytes > kArenaBytes) return nullptr;
  arrays_.push_back({at, bytes, key, name});
  requested_ += bytes;
  used_ = round_up(at + bytes, 16) + kRedZoneBytes;
  return arena_ + at;
}

const SharedMemory::Array* SharedMemory::array_of(size_t at, size_t bytes) const {
  for (const Array& a : arrays_)
    if (at >= a.offset && at + bytes <= a.offset + a.bytes) return &a;
  return nullptr;
}

std::string SharedMemory::describe(size_t at, size_t bytes) const {
  const Array* nearest = nullptr;  // the last one that begins at or before `at`
  for (const Array& a : arrays_)
    if (a.offset <= at && (nearest == nullptr || a.offset > nearest->offset)) nearest = &a;
  if (nearest == nullptr) return fmt::format("bytes [{}, {}) of the block's shared memory, which has no array there", at, at + bytes);
  return fmt::format("bytes [{}, {}) of {}, which has {}", at - nearest->offset, at - nearest->offset + bytes, nearest->name, nearest->bytes);
}

}  // namespace flexgen::emu
