// SPDX-License-Identifier: Apache-2.0
// The largest logit of a row, by a block. What does not depend on the order of comparisons needs none: the largest value, then the lowest
// id.
#pragma once

#include "kernels/cuda/core/contract.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

inline constexpr int32_t kNoId = 0x7FFFFFFF;

struct Likeliest {
  float value;
  int32_t id;
  int32_t not_finite;  // the lowest id of a logit that is infinite or NaN, or kNoId
};

FG_DEVICE bool is_finite(float v) { return (__float_as_uint(v) & 0x7F800000u) != 0x7F800000u; }

// -0 and +0 are equal, as they are for the sampler
FG_DEVICE Likeliest likelier(const Likeliest& a, const Likeliest& b) {
  Likeliest best = a.value > b.value || (a.value == b.value && a.id < b.id) ? a : b;
  best.not_finite = min(a.not_finite, b.not_finite);
  return best;
}

FG_DEVICE Likeliest likeliest_of_warp(Likeliest v) {
  FG_UNROLL for (int distance = 16; distance > 0; distance /= 2) {
    Likeliest other;
    other.value = __shfl_xor_sync(kFullWarp, v.value, distance);
    other.id = __shfl_xor_sync(kFullWarp, v.id, distance);
    other.not_finite = __shfl_xor_sync(kFullWarp, v.not_finite, distance);
    v = likelier(v, other);
  }
  return v;
}

// Of a row, by all kThreads threads of a block; the first warp has the result
template <int kThreads>
FG_DEVICE Likeliest likeliest_of_row(const float* logits, int vocabulary) {
  constexpr int kWarps = kThreads / kWarp;
  FG_SHARED(Likeliest, of_warp, kWarps);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  Likeliest best{-INFINITY, kNoId, kNoId};
  for (int id = thread; id < vocabulary; id += kThreads) {
    const float v = logits[id];
    best = likelier(best, Likeliest{v, id, is_finite(v) ? kNoId : id});
  }
  best = likeliest_of_warp(best);
  if (lane == 0) of_warp[thread / kWarp] = best;
  __syncthreads();
  return likeliest_of_warp(lane < kWarps ? of_warp[lane] : Likeliest{-INFINITY, kNoId, kNoId});
}

}  // namespace flexgen::cuda
