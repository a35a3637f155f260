// SPDX-License-Identifier: Apache-2.0
// The linear layer for up to 8 tokens of f16 or bf16 weights: bound by the memory's speed, so CUDA cores, x as it is in f32, and every
// weight read once in 16-byte loads.
//
// Grid: ceil(rows / (kGemvRows * 4 / warps_along_k)). A warp owns kGemvRows weight rows for all tokens; warps_along_k warps of a block
// share them and take turns along K in pieces of 256 elements, 8 a lane. Sums: lanes by a butterfly, then warps in order.
#pragma once

#include "kernels/cuda/src/linear_rows.cuh"

namespace flexgen::cuda {

inline constexpr int kGemvThreads = 128;
inline constexpr int kGemvRows = 4;          // weight rows a warp has under way
inline constexpr int kGemvPiece = 32 * 8;    // elements of K that a warp takes at once

// d += the dot product of 4 weights (two registers of pairs) and 4 activations
template <class T>
FG_DEVICE float dot_4(uint32_t w01, uint32_t w23, float4 x, float d) {
  const float2 low = unpack<T>(w01), high = unpack<T>(w23);
  return fmaf(high.y, x.w, fmaf(high.x, x.z, fmaf(low.y, x.y, fmaf(low.x, x.x, d))));
}

template <class T, int Tokens>
FG_KERNEL(kGemvThreads) gemv(GemvArguments a) {
  constexpr int kWarps = kGemvThreads / 32;
  FG_SHARED(float, sums, kWarps * Tokens * kGemvRows);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int along = a.warps_along_k, groups = kWarps / along;
  const int first_row = (static_cast<int>(blockIdx.x) * groups + warp / along) * kGemvRows;
  const T* w[kGemvRows];  // beyond the last row: that row again, and its sum is not stored
  FG_UNROLL for (int r = 0; r < kGemvRows; ++r) w[r] = weight_row<T>(a.w, first_row + r < a.w.rows ? first_row + r : a.w.rows - 1, a.cols);
  float sum[Tokens][kGemvRows] = {};
  for (int k = (warp % along * 32 + lane) * 8; k < a.cols; k += along * kGemvPiece) {
    uint4 weights[kGemvRows];
    FG_UNROLL for (int r = 0; r < kGemvRows; ++r) weights[r] = *reinterpret_cast<const uint4*>(w[r] + k);
    FG_UNROLL for (int part = 0; part < 2; ++part)  // of the 8: fewer registers than all at once
      FG_UNROLL for (int t = 0; t < Tokens; ++t) {
        const float4 x = *reinterpret_cast<const float4*>(a.x + (t < a.tokens ? t : a.tokens - 1) * a.x_stride + k + part * 4);
        FG_UNROLL for (int r = 0; r < kGemvRows; ++r)
          sum[t][r] = dot_4<T>(part == 0 ? weights[r].x : weights[r].z, part == 0 ? weights[r].y : weights[r].w, x, sum[t][r]);
      }
  }
  FG_UNROLL for (int t = 0; t < Tokens; ++t)
    FG_UNROLL for (int r = 0; r < kGemvRows; ++r) {
      FG_UNROLL for (int other = 16; other > 0; other /= 2) sum[t][r] += __shfl_xor_sync(0xFFFFFFFFu, sum[t][r], other);
      if (lane == 0) sums[(warp * Tokens + t) * kGemvRows + r] = sum[t][r];
    }
  __syncthreads();
  // one thread an element; its `along` sums lie in `along` consecutive warps
  for (int i = static_cast<int>(threadIdx.x); i < groups * Tokens * kGemvRows; i += kGemvThreads) {
    const int group = i / (Tokens * kGemvRows), t = i / kGemvRows % Tokens, r = i % kGemvRows;
    const int row = (static_cast<int>(blockIdx.x) * groups + group) * kGemvRows + r;
    if (row >= a.w.rows || t >= a.tokens) continue;
    float total = 0;
    for (int s = 0; s < along; ++s) total += sums[((group * along + s) * Tokens + t) * kGemvRows + r];
    store(a.out, t, output_column(a.w, row), total);
  }
}

}  // namespace flexgen::cuda
