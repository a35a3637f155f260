// SPDX-License-Identifier: Apache-2.0
// The smallest GEMM that has everything worth breaking: cp.async stages, swizzled shared memory, ldmatrix, mma, tails. It carries the
// planted bugs of test_planted_gemm.cc; what the engine runs is kernels/cuda/src.
#pragma once

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/core/tile.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::testing {

enum class GemmBug {
  none,
  no_barrier_after_wait,
  refill_of_the_stage_being_read,
  wait_one_group_too_lax,
  epilogue_rows_swapped,
  b_lanes_swapped,
  half_the_shared_memory,
  no_row_guard,
  no_column_guard,
  no_swizzle,
  unaligned_ldmatrix,
  unaligned_copy,
  copies_never_committed,
  accumulators_not_cleared,
  barrier_in_divergent_branch,
  mma_by_half_a_warp,
};

template <typename T>
struct GemmArguments {
  const T* a;       // [m, k]
  const T* w;       // [n, k]
  float* out;       // [m, n]
  int m, n, k;      // k % 8 == 0
};

struct SmallGemm {
  static constexpr int kRows = 64, kColumns = 64, kDepth = 32, kStages = 3;
  static constexpr int kThreads = 128;  // four warps, each 32 x 32
  static constexpr int kStageElements = (kRows + kColumns) * kDepth;
  static constexpr size_t kSharedBytes = size_t{kStages} * kStageElements * 2;

  static dim3 grid(int m, int n) {
    return dim3(static_cast<unsigned>((n + kColumns - 1) / kColumns), static_cast<unsigned>((m + kRows - 1) / kRows));
  }
};

template <GemmBug kBug>
FG_DEVICE int gemm_place(int row, int chunk) {
  if constexpr (kBug == GemmBug::no_swizzle) {
    return row * SmallGemm::kDepth + chunk * 8;
  } else {
    return cuda::swizzled<SmallGemm::kDepth>(row, chunk);
  }
}

// Rows [first, first + 64) and columns [at, at + 32) of x[rows, k] into a tile; zeros where x ends
template <GemmBug kBug, typename T>
FG_DEVICE void load_gemm_tile(T* tile, const T* x, int first, int rows, int at, int k, int thread) {
  constexpr int kChunks = SmallGemm::kDepth / 8;
  for (int i = thread; i < SmallGemm::kRows * kChunks; i += SmallGemm::kThreads) {
    const int row = i / kChunks, chunk = i % kChunks, column = at + chunk * 8;
    const bool valid = (kBug == GemmBug::no_row_guard || first + row < rows) && column < k;
    const int shift = kBug == GemmBug::unaligned_copy && i == 5 ? 4 : 0;
    cuda::copy_async_16(tile + gemm_place<kBug>(row, chunk),
                        valid ? x + static_cast<size_t>(first + row) * static_cast<size_t>(k) + column + shift : x, valid);
  }
}

template <typename T, GemmBug kBug>
FG_KERNEL(SmallGemm::kThreads) small_gemm(GemmArguments<T> g) {
  using Tile = SmallGemm;
  constexpr int kWarpTiles = 2;  // of 16 rows, of 16 columns
  FG_DYNAMIC_SHARED(T, shared);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  const int row0 = static_cast<int>(blockIdx.y) * Tile::kRows, column0 = static_cast<int>(blockIdx.x) * Tile::kColumns;
  const int steps = (g.k + Tile::kDepth - 1) / Tile::kDepth;

  const auto load = [&](int stage, int step) {
    T* a = shared + stage * Tile::kStageElements;
    load_gemm_tile<kBug>(a, g.a, row0, g.m, step * Tile::kDepth, g.k, thread);
    load_gemm_tile<kBug>(a + Tile::kRows * Tile::kDepth, g.w, column0, g.n, step * Tile::kDepth, g.k, thread);
  };

  float sum[kWarpTiles][kWarpTiles * 2][4];
  for (auto& r : sum)
    for (auto& c : r)
      for (float& v : c) v = kBug == GemmBug::accumulators_not_cleared ? 1.0f : 0.0f;

  for (int s = 0; s < Tile::kStages - 1; ++s) {
    if (s < steps) load(s, s);
    if constexpr (kBug != GemmBug::copies_never_committed) cuda::commit_copies();
  }
  for (int step = 0; step < steps; ++step) {
    cuda::wait_copies<kBug == GemmBug::wait_one_group_too_lax ? Tile::kStages - 1 : Tile::kStages - 2>();
    if constexpr (kBug == GemmBug::barrier_in_divergent_branch) {
      if (warp != 3 || step == 0) __syncthreads();
    } else if constexpr (kBug != GemmBug::no_barrier_after_wait) {
      __syncthreads();  // the step's stage is here for all, and nobody reads the stage that is filled next
    }
    const int next = step + Tile::kStages - 1;
    if (next < steps) load((kBug == GemmBug::refill_of_the_stage_being_read ? step : next) % Tile::kStages, next);
    if constexpr (kBug != GemmBug::copies_never_committed) cuda::commit_copies();

    const T* a = shared + step % Tile::kStages * Tile::kStageElements;
    const T* w = a + Tile::kRows * Tile::kDepth;
    for (int kk = 0; kk < Tile::kDepth / 16; ++kk) {
      uint32_t fa[kWarpTiles][4], fb[kWarpTiles][4];
      for (int i = 0; i < kWarpTiles; ++i) {
        const int shift = kBug == GemmBug::unaligned_ldmatrix ? 4 : 0;
        cuda::load_matrix_x4(fa[i], a + gemm_place<kBug>(warp_row + i * 16 + lane % 16, kk * 2 + lane / 16) + shift);
        const int b_row = kBug == GemmBug::b_lanes_swapped ? lane % 16 : lane % 8 + lane / 16 * 8;
        const int b_chunk = kBug == GemmBug::b_lanes_swapped ? lane / 16 : lane / 8 % 2;
        cuda::load_matrix_x4(fb[i], w + gemm_place<kBug>(warp_column + i * 16 + b_row, kk * 2 + b_chunk));
      }
      if (kBug == GemmBug::mma_by_half_a_warp && lane >= 16 && kk == 1) continue;
      for (int i = 0; i < kWarpTiles; ++i)
        for (int j = 0; j < kWarpTiles * 2; ++j) cuda::mma_m16n8k16<T>(sum[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
    }
  }

  for (int i = 0; i < kWarpTiles; ++i)
    for (int j = 0; j < kWarpTiles * 2; ++j)
      for (int e = 0; e < 4; ++e) {
        const int half = kBug == GemmBug::epilogue_rows_swapped ? 1 - e / 2 : e / 2;
        const int row = row0 + warp_row + i * 16 + lane / 4 + half * 8, column = column0 + warp_column + j * 8 + lane % 4 * 2 + e % 2;
        if (row < g.m && (kBug == GemmBug::no_column_guard || column < g.n))
          g.out[static_cast<size_t>(row) * static_cast<size_t>(g.n) + static_cast<size_t>(column)] = sum[i][j][e];
      }
}

}  // namespace flexgen::testing
