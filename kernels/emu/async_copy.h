// SPDX-License-Identifier: Apache-2.0
// cp.async of one thread: groups of copies from global to shared memory that land between issue and wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/emu/location.h"

namespace flexgen::emu {

struct AsyncCopy {
  void* to;
  const void* from;
  uint32_t bytes;
  uint32_t valid_bytes;  // the rest is filled with zeros
  uint32_t group;
  bool landed;
  Location where;
};

class AsyncCopies {
 public:
  void begin_block();
  void issue(const AsyncCopy& copy);
  void commit() { ++committed_; }

  // fn(copy) for each copy of all but the last `groups` committed groups, oldest first
  template <typename Fn>
  void wait(uint32_t groups, Fn&& fn) {
    while (first_ < copies_.size() && copies_[first_].group + groups < committed_) fn(copies_[first_++]);
    if (first_ == copies_.size()) {
      copies_.clear();
      first_ = 0;
    }
  }

 private:
  std::vector<AsyncCopy> copies_;  // in order of issue; those before first_ are done
  size_t first_ = 0;
  uint32_t committed_ = 0;  // also the number of the group that is open
};

}  // namespace flexgen::emu
