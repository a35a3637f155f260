// SPDX-License-Identifier: Apache-2.0
// The linear layer in f32, whatever the weights are stored in: the arithmetic contract of ops/ops.h, so its results are the bits of the
// CPU backends. It needs no tensor core, no alignment and no size, which makes it also the path for what the others do not take.
//
// 16 lanes, half a warp, are the 16 partial sums of the contract: lane j takes k = j, j + 16, ... They own Tokens x Rows elements of y.
// Grid: (row tiles, token tiles up to 65535, strided beyond). Operands come through L1: the halves of a block that share tokens or rows
// read the same lines at about the same time.
#pragma once

#include "kernels/cuda/src/linear_rows.cuh"

namespace flexgen::cuda {

inline constexpr int kContractLanes = 16;

// Halves: half warps of a block along the tokens and along the rows. Steps: how many k a lane loads before it multiplies
template <int Tokens, int Rows, int TokenHalves, int RowHalves, int Steps>
struct F32Tile {
  static constexpr int kTokens = Tokens, kRows = Rows, kTokenHalves = TokenHalves, kRowHalves = RowHalves, kSteps = Steps;
  static constexpr int kBlockTokens = Tokens * TokenHalves, kBlockRows = Rows * RowHalves;
  static constexpr int kThreads = TokenHalves * RowHalves * kContractLanes;
};

// Adds lanes j and j + 8, then j and j + 4, j + 2, j + 1 for N sums a lane. While there are several, each lane of a pair keeps one half
// of them. In the end lane j
// has the N / 16 sums from j (N / 16) on, or with fewer than 16 sums number j / (16 / N).
template <int N, int Distance = kContractLanes / 2>
FG_DEVICE void add_lanes(float (&value)[N], int lane) {
  if constexpr (Distance > 0) {
    if constexpr (N > 1) {
      const bool upper = (lane & Distance) != 0;
      float half[N / 2];
      FG_UNROLL for (int i = 0; i < N / 2; ++i) {
        const float other = __shfl_xor_sync(0xFFFFFFFFu, upper ? value[i] : value[i + N / 2], Distance);
        half[i] = add(upper ? value[i + N / 2] : value[i], other);
      }
      add_lanes<N / 2, Distance / 2>(half, lane);
      FG_UNROLL for (int i = 0; i < N / 2; ++i) value[i] = half[i];
    } else {
      value[0] = add(value[0], __shfl_xor_sync(0xFFFFFFFFu, value[0], Distance));
      add_lanes<1, Distance / 2>(value, lane);
    }
  }
}
// sum += x w for the k of one lane, in order, kSteps of them; k behind K count as 0 * 0, which makes a -0 of the sum +0
template <class W, class Tile, int Steps>
FG_DEVICE void add_products(float (&sum)[Tile::kTokens * Tile::kRows], const float* const (&x)[Tile::kTokens],
                            const W* const (&w)[Tile::kRows], int k, int cols) {
  float rows[Steps][Tile::kRows], tokens[Steps][Tile::kTokens];
  FG_UNROLL for (int s = 0; s < Steps; ++s) {
    const int at = k + s * kContractLanes;
    FG_UNROLL for (int r = 0; r < Tile::kRows; ++r) rows[s][r] = at < cols ? to_float(w[r][at]) : 0.0f;
    FG_UNROLL for (int t = 0; t < Tile::kTokens; ++t) tokens[s][t] = at < cols ? x[t][at] : 0.0f;
  }
  FG_UNROLL for (int s = 0; s < Steps; ++s)
    FG_UNROLL for (int t = 0; t < Tile::kTokens; ++t)
      FG_UNROLL for (int r = 0; r < Tile::kRows; ++r) sum[t * Tile::kRows + r] = fmaf(tokens[s][t], rows[s][r], sum[t * Tile::kRows + r]);
}

template <class W, class Tile>
FG_KERNEL(Tile::kThreads) gemm_f32(GemmF32Arguments a) {
  constexpr int kSums = Tile::kTokens * Tile::kRows;
  constexpr int kOwn = kSums > kContractLanes ? kSums / kContractLanes : 1;         // sums that a lane stores
  constexpr int kSharers = kSums < kContractLanes ? kContractLanes / kSums : 1;     // lanes that end with the same sum
  const int lane = static_cast<int>(threadIdx.x) % kContractLanes, half = static_cast<int>(threadIdx.x) / kContractLanes;
  const int row = static_cast<int>(blockIdx.x) * Tile::kBlockRows + half / Tile::kTokenHalves * Tile::kRows;
  const W* w[Tile::kRows];  // beyond the last row or token: that one again, and its sum is not stored
  FG_UNROLL for (int r = 0; r < Tile::kRows; ++r) w[r] = weight_row<W>(a.w, row + r < a.w.rows ? row + r : a.w.rows - 1, a.cols);
  const int token_tiles = (a.tokens + Tile::kBlockTokens - 1) / Tile::kBlockTokens;
  for (int tile = static_cast<int>(blockIdx.y); tile < token_tiles; tile += static_cast<int>(gridDim.y)) {
    const int token = tile * Tile::kBlockTokens + half % Tile::kTokenHalves * Tile::kTokens;
    const float* x[Tile::kTokens];
    FG_UNROLL for (int t = 0; t < Tile::kTokens; ++t) x[t] = a.x + (token + t < a.tokens ? token + t : a.tokens - 1) * a.x_stride;
    float sum[kSums] = {};
    int k = 0;
    constexpr int kAtOnce = Tile::kSteps * kContractLanes;
    for (; k + kAtOnce <= a.cols; k += kAtOnce) add_products<W, Tile, Tile::kSteps>(sum, x, w, k + lane, a.cols);
    for (; k < a.cols; k += kContractLanes) add_products<W, Tile, 1>(sum, x, w, k + lane, a.cols);
    add_lanes(sum, lane);
    for (int i = 0; i < kOwn; ++i) {
      const int s = lane / kSharers * kOwn + i, t = token + s / Tile::kRows, r = row + s % Tile::kRows;
      float own = sum[0];
      FG_UNROLL for (int j = 1; j < kOwn; ++j) own = i == j ? sum[j] : own;  // a register has no index
      if (lane % kSharers == 0 && t < a.tokens && r < a.w.rows) store(a.out, t, output_column(a.w, r), own);
    }
  }
}

}  // namespace flexgen::cuda
