// SPDX-License-Identifier: Apache-2.0
// Loads and stores as a card sees them: the accesses of a warp's lanes to one instruction, at the same repetition of it, are one
// request. Counted of it: passes through the banks of shared memory, sectors of global memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "kernels/emu/emulator.h"

namespace flexgen::emu {

// Lanes of one request, by address; for shared memory the offset in it
struct Request {
  uint32_t lanes = 0;
  uint32_t bytes = 0;  // of each lane
  std::array<uintptr_t, 32> addresses{};
};

// 32 banks of 4 bytes. Lanes that read one word share a pass; 8 bytes a lane take a pass for each half of a warp, 16 for each quarter.
uint32_t passes(const Request& request);
uint32_t fewest_passes(const Request& request);
uint32_t sectors(const Request& request);  // of 32 bytes

class RequestCounter {
 public:
  void begin_block();
  void shared(uint32_t thread, uint64_t site, bool write, size_t offset, size_t bytes);
  void global(uint32_t thread, uint64_t site, bool write, size_t buffer, uintptr_t address, size_t bytes);

  // Adds what the block did; traffic[i] is that of the launch's buffer i
  void finish(Statistics& statistics, std::vector<Traffic>& traffic);

 private:
  static constexpr size_t kShared = ~size_t{0};

  struct Instruction {  // of one warp
    size_t buffer = 0;
    bool write = false;
    std::array<uint32_t, 32> repetitions{};  // of each lane
    uint32_t tallied = 0;                    // requests that left `open`
    std::deque<Request> open;
  };
  void access(uint32_t thread, uint64_t site, bool write, size_t buffer, uintptr_t address, size_t bytes);
  void tally(const Instruction& instruction, const Request& request);

  std::unordered_map<uint64_t, Instruction> instructions_;
  Statistics statistics_;
  std::vector<Traffic> traffic_;
};

}  // namespace flexgen::emu
