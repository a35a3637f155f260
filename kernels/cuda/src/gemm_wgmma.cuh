// SPDX-License-Identifier: Apache-2.0
// The GEMM of gemm.cuh on the matrix instructions of sm_90a: a group of four warps multiplies 64 tokens by all rows of the tile, both
// operands from shared memory. Tiles, arguments, copies and epilogue are gemm.cuh's: its swizzle of 128-byte lines is what wgmma reads,
// and warp w of a block owns tokens 16 w to 16 w + 15 in the layout of mma fragments.
//
// Copies are cp.async of single lines, not TMA: a tile may span up to 64 row blocks, each with an address of its own, which would be a
// tensor map each.
#pragma once

#include "kernels/cuda/core/wgmma.h"
#include "kernels/cuda/src/gemm.cuh"

namespace flexgen::cuda {

template <int Tokens, int Rows, int Stages>
struct WgmmaTile : GemmTile<Tokens, Rows, 64, 16, Rows, Stages> {
  static_assert(Tokens % 64 == 0 && Stages >= 3);
};

// One barrier a step. When that of step i opens, everybody's copies of tile i have landed, and everybody has waited for the products of
// tile i - 2, whose stage is refilled; those of i - 1 may still run.
template <class T, class Tile>
FG_DEVICE void multiply_tiles_wgmma(float (&sum)[Tile::kRowFragments][4], const GemmArguments& a, const Lines<T, Tile>& lines, T* shared, int begin,
                                    int end, int group_token) {
  constexpr int kAhead = Tile::kStages - 2;  // tiles under way
  const int tiles = (end - begin + Tile::kDepth - 1) / Tile::kDepth;
  const auto stage = [&](int tile) { return shared + tile % Tile::kStages * Tile::kStageElements; };
  FG_UNROLL
  for (int i = 0; i < kAhead; ++i) {
    if (i < tiles) copy_stage<T, Tile>(a, lines, stage(i), begin + i * Tile::kDepth, end);
    commit_copies();
  }
  for (int tile = 0; tile < tiles; ++tile) {
    wait_copies<kAhead - 1>();
    fence_async_proxy();
    __syncthreads();
    const int next = tile + kAhead;
    if (next < tiles) copy_stage<T, Tile>(a, lines, stage(next), begin + next * Tile::kDepth, end);
    commit_copies();
    const uint64_t x = matrix_descriptor(stage(tile) + group_token * Tile::kDepth);
    const uint64_t w = matrix_descriptor(stage(tile) + Tile::kTokens * Tile::kDepth);
    wgmma_fence();
    FG_UNROLL
    for (int step = 0; step < Tile::kDepth / 16; ++step) wgmma<T>(sum, wgmma_advance(x, step), wgmma_advance(w, step), 1);
    wgmma_commit();
    wgmma_wait<1>(sum);
  }
  wgmma_wait<0>(sum);
}

template <class T, class Tile>
FG_KERNEL(Tile::kThreads, 1) gemm_wgmma(GemmArguments a) {
#if FG_HOPPER
  FG_DYNAMIC_SHARED(T, shared);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const BlockTile at = block_tile<Tile>(a);
  float sum[1][Tile::kRowFragments][4] = {};
  const Lines<T, Tile> lines(a, at.first_token, at.first_row);
  multiply_tiles_wgmma<T, Tile>(sum[0], a, lines, shared, at.begin, at.end, warp / 4 * 64);
  store_tile<Tile>(sum, a, shared, at.first_token, at.first_row, at.split, warp * 16, 0);
#else
  not_built();
#endif
}

}  // namespace flexgen::cuda
