// SPDX-License-Identifier: Apache-2.0
// The shared memory of one block: one arena, the dynamic array first, static arrays behind it in the order in which threads first
// reach them, red zones between all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace flexgen::emu {

class SharedMemory {
 public:
  static constexpr size_t kArenaBytes = size_t{256} << 10;
  static constexpr size_t kAlignment = 1024;  // of the dynamic array: what a 128-byte swizzle asks for
  static constexpr size_t kRedZoneBytes = 128;

  struct Array {
    size_t offset;
    size_t bytes;
    const void* key;   // nullptr: the dynamic array
    const char* name;  // as the kernel calls it
  };

  SharedMemory();
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void begin_block(size_t dynamic_bytes, bool poison);

  // The static array that belongs to this key, made on first use. nullptr where it does not fit into `limit` bytes in all.
  void* static_array(const void* key, const char* name, size_t bytes, size_t alignment, size_t limit);
  void* dynamic_array() { return arena_; }

  bool contains(const void* p) const { return offset(p) < kArenaBytes; }
  size_t offset(const void* p) const { return reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(arena_); }
  const Array* array_of(size_t offset, size_t bytes) const;  // the one that holds all these bytes, or nullptr
  std::string describe(size_t offset, size_t bytes) const;   // "part[128..132) of 128 bytes", for messages
  size_t used() const { return used_; }                      // bytes of the arena, red zones included

 private:
  std::byte* arena_ = nullptr;
  size_t used_ = 0;
  size_t requested_ = 0;  // bytes of all arrays, as a card counts them
  std::vector<Array> arrays_;
};

}  // namespace flexgen::emu
