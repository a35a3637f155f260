// SPDX-License-Identifier: Apache-2.0
// Barriers in shared memory (PTX ISA, "mbarrier"), and the copies that the tensor memory accelerator has under way: they land when
// the scheduler likes, between issue and the phase of the barrier that they complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "kernels/cuda/core/tensor_map.h"
#include "kernels/emu/clocks.h"
#include "kernels/emu/location.h"

namespace flexgen::emu {

class Block;

struct MBarrier {
  size_t offset = 0;      // in shared memory
  uint32_t arrivals = 0;  // that complete a phase
  uint32_t missing = 0;   // of the current phase
  int64_t bytes = 0;      // expected and not yet here; below zero where they came before they were expected
  uint32_t phase = 0;     // phases that are complete
  Clocks::Time time = 0;  // of its copy engine
  Clocks::Knowledge arriving, complete;
  std::vector<uint32_t> waiting;  // threads
  Location init, wait;
};

struct BoxCopy {
  cuda::TensorTile tile;
  int64_t row = 0, column = 0;  // of the box's first element in the matrix
  size_t offset = 0;            // of the box in shared memory
  size_t bytes = 0;
  Location where;
};

class MBarriers {
 public:
  static constexpr size_t kMost = 64;  // in a block

  explicit MBarriers(Block& block) : block_(block) {}
  void begin_block();

  void init(const void* p, uint32_t arrivals, Location where);
  void arrive(const void* p, uint32_t expected_bytes, Location where);
  bool try_wait(const void* p, uint32_t parity, Location where);

  // Load a box; it completes its bytes of the barrier's phase
  void load(const BoxCopy& copy, const void* barrier);
  bool idle() const { return loads_.empty(); }
  void land_one();  // some load that is under way

  std::string who_waits() const;
  Location where() const;          // of one of those waits, else of a load that is under way
  std::string what_flies() const;  // loads that nobody can wait for any more

 private:
  struct Load {
    BoxCopy copy;
    size_t barrier;
  };
  size_t find(const void* p, Location where);
  void complete_where_due(size_t i);
  static uint64_t cookie(size_t i) { return 0xB0A2D1E5C0000000u + i; }

  Block& block_;
  std::deque<MBarrier> barriers_;
  std::vector<Load> loads_;
};

// Elements outside of the matrix are zeros in shared memory, and are not stored
void copy_box_to_shared(const BoxCopy& copy, std::byte* shared);
void copy_box_to_global(const BoxCopy& copy, const std::byte* shared);

}  // namespace flexgen::emu
