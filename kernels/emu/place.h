// SPDX-License-Identifier: Apache-2.0
// Where a CUDA thread is: what threadIdx, blockIdx, blockDim and gridDim read.
#pragma once

#include <vector_types.h>

#include <cstdint>

namespace flexgen::emu {

struct Place {
  uint3 thread;
  uint3 block;
  dim3 block_dim;
  dim3 grid_dim;
  uint32_t lane;
  uint32_t warp;
};

// Of the calling thread; constant while it lives, so the compiler may ask once
[[gnu::const]] const Place& place();

}  // namespace flexgen::emu
