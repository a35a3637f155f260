// SPDX-License-Identifier: Apache-2.0
// Pieces of the arithmetic contract of ops/ops.h in a warp: what is computed with them has the bits of the CPU backends.
#pragma once

#include "kernels/cuda/core/scalar.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

inline constexpr unsigned kFullWarp = 0xFFFFFFFFu;
inline constexpr int kWarp = 32;

FG_DEVICE float exp_exact(float x) { return math::exp(Scalar{x}).v; }

// The 16 partial sums of a row in the contract's order: lanes j and j + 8, then j + 4, j + 2, j + 1. Lanes 0..15 hold the sums of one
// row and lanes 16..31 those of another, or the same; each lane gets the total of its half. All 32 lanes call it.
FG_DEVICE float add_16_lanes(float sum) {
  FG_UNROLL for (int distance = 8; distance > 0; distance /= 2) sum = add(sum, __shfl_xor_sync(kFullWarp, sum, distance));
  return sum;
}

// The same over 32 positions of a block of attention: sum j takes lanes j and j + 16
FG_DEVICE float add_32_positions(float p) { return add_16_lanes(add(p, __shfl_xor_sync(kFullWarp, p, 16))); }

FG_DEVICE float warp_max(float v) {
  FG_UNROLL for (int distance = 16; distance > 0; distance /= 2) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, distance));
  return v;
}

}  // namespace flexgen::cuda
