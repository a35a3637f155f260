// SPDX-License-Identifier: Apache-2.0
// wgmma as each of the four warps of a group does it: 16 of the 64 rows. Operands are read between issue and the end of the wait, and
// the accumulators hold NaN in between.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "kernels/emu/clocks.h"
#include "kernels/emu/device.h"
#include "kernels/emu/location.h"

namespace flexgen::emu {

struct WarpgroupProduct {
  std::array<float*, 32> d{};  // of each lane
  int n = 0;
  MatrixType type = MatrixType::f16;
  uint64_t a = 0, b = 0;  // descriptors
  bool accumulate = true;
  bool done = false;
  Location where;
};

// Accumulators that products in flight use: their values, kept where the kernel cannot see them
struct HiddenAccumulators {
  std::array<float*, 32> d{};
  int n = 0;
  int products = 0;  // in flight
  std::vector<float> values;
};

// Of one warp
struct WarpgroupQueue {
  std::vector<WarpgroupProduct> open;
  std::deque<std::vector<WarpgroupProduct>> groups;
  std::vector<HiddenAccumulators> hidden;
  bool fenced = false;      // wgmma.fence since the accumulators may have been touched
  Clocks::Time issued = 0;  // products, of all time
  Clocks::Time finished = 0;
  int registers = 0;  // by setmaxnreg; 0: as launched
};

}  // namespace flexgen::emu
