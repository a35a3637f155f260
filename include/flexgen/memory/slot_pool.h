// SPDX-License-Identifier: Apache-2.0
// Equal slots cut from a piece of an arena, with a free list. A quota for a class of use is a pool of its own: what prefetching holds,
// write-back cannot lack. The pool belongs to one thread, and so do its slots.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "flexgen/base/error.h"

namespace flexgen {

class SlotPool;

// Memory of one slot, given back when this ends. Whoever reads or writes it through a request keeps the slot until the ticket is done.
class Slot {
 public:
  Slot() = default;
  Slot(Slot&& o) noexcept : pool_(std::exchange(o.pool_, nullptr)), data_(std::exchange(o.data_, nullptr)) {}
  Slot& operator=(Slot&& o) noexcept {
    if (this != &o) {
      reset();
      pool_ = std::exchange(o.pool_, nullptr);
      data_ = std::exchange(o.data_, nullptr);
    }
    return *this;
  }
  ~Slot() { reset(); }

  explicit operator bool() const { return data_ != nullptr; }
  std::byte* data() const { return data_; }
  inline void reset() noexcept;

 private:
  friend class SlotPool;
  Slot(SlotPool* pool, std::byte* data) : pool_(pool), data_(data) {}

  SlotPool* pool_ = nullptr;
  std::byte* data_ = nullptr;
};

// thread: one; it stays where it is and outlives its slots
class SlotPool {
 public:
  // as many slots of slot_bytes as fit into memory
  SlotPool(std::span<std::byte> memory, size_t slot_bytes) : slot_bytes_(slot_bytes) {
    FG_CHECK(slot_bytes > 0, "slots of {} bytes", slot_bytes);
    n_slots_ = memory.size() / slot_bytes;
    free_.reserve(n_slots_);
    for (size_t i = n_slots_; i-- > 0;) free_.push_back(memory.data() + i * slot_bytes);
  }
  SlotPool(const SlotPool&) = delete;
  SlotPool& operator=(const SlotPool&) = delete;

  // the slot that was given back last, which caches may still hold; empty when none is free
  Slot take() {
    if (free_.empty()) return {};
    std::byte* const data = free_.back();
    free_.pop_back();
    return {this, data};
  }

  size_t slot_bytes() const { return slot_bytes_; }
  size_t n_slots() const { return n_slots_; }
  size_t n_free() const { return free_.size(); }

 private:
  friend class Slot;
  size_t slot_bytes_, n_slots_ = 0;
  std::vector<std::byte*> free_;  // never grows beyond n_slots
};

void Slot::reset() noexcept {
  if (data_) pool_->free_.push_back(data_);
  pool_ = nullptr;
  data_ = nullptr;
}

}  // namespace flexgen
