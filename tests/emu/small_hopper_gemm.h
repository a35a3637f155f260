// SPDX-License-Identifier: Apache-2.0
// The smallest GEMM of sm_90a with roles: one warp group loads tiles through TMA, another multiplies them with wgmma, mbarriers between
// them say what is full and what is empty, the result leaves through TMA. It carries the planted bugs of test_planted_hopper.cc; what the
// engine runs is kernels/cuda/src.
#pragma once

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/core/tile.h"
#include "kernels/cuda/core/wgmma.h"

namespace flexgen::testing {

enum class HopperBug {
  none,
  full_never_waited_for,
  empty_never_waited_for,
  empty_signalled_before_the_wait,
  wrong_parity,
  too_few_bytes_expected,
  too_many_bytes_expected,
  no_bytes_expected,
  empty_counts_one_too_many,
  barriers_not_fenced,
  no_barrier_after_init,
  wgmma_not_fenced,
  wgmma_not_waited_for,
  wgmma_not_committed,
  descriptor_wrong,
  first_product_accumulates,
  result_not_fenced,
  result_not_complete,
  store_not_waited_for,
  overwritten_while_stored,
  one_warp_skips_wgmma,
  box_unaligned,
  try_wait_ignored,
};

struct HopperGemm {
  static constexpr int kRows = 64, kDepth = 64, kStages = 3, kGroup = 128, kThreads = 2 * kGroup;
  static constexpr int kTileElements = kRows * kDepth;  // of a; b has as many a 64 columns
  static constexpr int kOutColumns = 32;                // of a box of f32: 128 bytes
  template <int kColumns>
  static constexpr size_t shared_bytes() {
    return size_t{kStages} * (kTileElements + kColumns * kDepth) * 2 + size_t{kRows} * kColumns * 4;
  }
};

// a[m, k], w[n, k], out[m, n] by tensor maps; k in steps of 64, tails are zeros of TMA. One block makes all tiles of its column, one
// after the other, so that stages and the result's memory are used again.
template <typename T, int kColumns, HopperBug kBug>
FG_KERNEL(HopperGemm::kThreads, 1)
small_hopper_gemm(FG_GRID_CONSTANT cuda::TensorMap map_a, FG_GRID_CONSTANT cuda::TensorMap map_w, FG_GRID_CONSTANT cuda::TensorMap map_out,
                  int row_tiles, int steps) {
#if FG_HOPPER
  using Tile = HopperGemm;
  constexpr int kStageElements = Tile::kTileElements + kColumns * Tile::kDepth;
  constexpr uint32_t kStageBytes = kStageElements * 2;
  FG_DYNAMIC_SHARED(T, stages);
  FG_SHARED(uint64_t, full, Tile::kStages);
  FG_SHARED(uint64_t, empty, Tile::kStages);
  float* const result = reinterpret_cast<float*>(stages + Tile::kStages * kStageElements);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int column0 = static_cast<int>(blockIdx.x) * kColumns;

  if (thread == 0) {
    for (int s = 0; s < Tile::kStages; ++s) {
      cuda::barrier_init(full + s, 1);
      cuda::barrier_init(empty + s, Tile::kGroup + (kBug == HopperBug::empty_counts_one_too_many ? 1 : 0));
    }
    if constexpr (kBug != HopperBug::barriers_not_fenced) cuda::barrier_init_fence();
  }
  if constexpr (kBug != HopperBug::no_barrier_after_init) __syncthreads();

  cuda::StageRing<Tile::kStages> ring;
  if (thread >= Tile::kGroup) {  // the producer
    cuda::lower_registers<40>();
    if (thread != Tile::kGroup) return;
    for (int tile = 0; tile < row_tiles; ++tile)
      for (int step = 0; step < steps; ++step, ring.next()) {
        if constexpr (kBug != HopperBug::empty_never_waited_for)
          cuda::barrier_wait(empty + ring.stage, kBug == HopperBug::wrong_parity ? ring.parity : ring.parity ^ 1);
        T* const a = stages + ring.stage * kStageElements + (kBug == HopperBug::box_unaligned ? 64 : 0);
        const uint32_t bytes = kBug == HopperBug::too_few_bytes_expected    ? kStageBytes - 128
                               : kBug == HopperBug::too_many_bytes_expected ? kStageBytes + 128
                                                                            : kStageBytes;
        if constexpr (kBug == HopperBug::no_bytes_expected) {
          cuda::barrier_arrive(full + ring.stage);
        } else {
          cuda::barrier_arrive_expect(full + ring.stage, bytes);
        }
        cuda::tma_load(a, &map_a, step * Tile::kDepth, tile * Tile::kRows, full + ring.stage);
        cuda::tma_load(a + Tile::kTileElements, &map_w, step * Tile::kDepth, column0, full + ring.stage);
      }
    return;
  }

  cuda::raise_registers<232>();
  float sum[kColumns / 8][4] = {};
  for (int tile = 0; tile < row_tiles; ++tile) {
    for (int step = 0; step < steps; ++step, ring.next()) {
      if constexpr (kBug == HopperBug::try_wait_ignored) {
        cuda::barrier_try_wait(full + ring.stage, ring.parity);
      } else if constexpr (kBug != HopperBug::full_never_waited_for) {
        cuda::barrier_wait(full + ring.stage, ring.parity);
      }
      if constexpr (kBug == HopperBug::empty_signalled_before_the_wait) cuda::barrier_arrive(empty + ring.stage);
      const T* const a = stages + ring.stage * kStageElements;
      const uint64_t of_a = cuda::matrix_descriptor(a), of_w = cuda::matrix_descriptor(a + Tile::kTileElements);
      if constexpr (kBug != HopperBug::wgmma_not_fenced) cuda::wgmma_fence();
      for (int k = 0; k < Tile::kDepth / 16; ++k) {
        if (kBug == HopperBug::one_warp_skips_wgmma && warp == 2 && step == 1) break;
        const int at = kBug == HopperBug::descriptor_wrong && k == 2 ? 1 : k;
        const bool accumulate = kBug == HopperBug::first_product_accumulates || step > 0 || k > 0;
        cuda::wgmma<T>(sum, cuda::wgmma_advance(of_a, at), cuda::wgmma_advance(of_w, k), accumulate);
      }
      if constexpr (kBug != HopperBug::wgmma_not_committed) cuda::wgmma_commit();
      if constexpr (kBug != HopperBug::wgmma_not_waited_for) cuda::wgmma_wait<0>(sum);
      if constexpr (kBug != HopperBug::empty_signalled_before_the_wait) cuda::barrier_arrive(empty + ring.stage);
    }
    if constexpr (kBug == HopperBug::wgmma_not_waited_for || kBug == HopperBug::wgmma_not_committed) {
      cuda::wgmma_commit();
      cuda::wgmma_wait<0>(sum);
    }

    // The result as boxes of 32 columns, swizzled as TMA reads them; only the consumers meet in this barrier
    constexpr uint32_t kConsumers = 1;
    if (kBug != HopperBug::store_not_waited_for && kBug != HopperBug::overwritten_while_stored && thread == 0) cuda::tma_store_wait<0>();
    cuda::named_barrier_sync(kConsumers, Tile::kGroup);
    FG_UNROLL
    for (int j = 0; j < kColumns / 8; ++j) {
      FG_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = warp * 16 + lane / 4 + i / 2 * 8, column = j * 8 + lane % 4 * 2 + i % 2;
        const int within = column % Tile::kOutColumns, chunk = within / 4 ^ row % 8;
        result[column / Tile::kOutColumns * Tile::kRows * Tile::kOutColumns + row * Tile::kOutColumns + chunk * 4 + within % 4] = sum[j][i];
      }
    }
    if constexpr (kBug != HopperBug::result_not_fenced) cuda::fence_async_proxy();
    if constexpr (kBug != HopperBug::result_not_complete) cuda::named_barrier_sync(kConsumers, Tile::kGroup);
    if (thread == 0) {
      for (int box = 0; box < kColumns / Tile::kOutColumns; ++box)
        cuda::tma_store(&map_out, column0 + box * Tile::kOutColumns, tile * Tile::kRows, result + box * Tile::kRows * Tile::kOutColumns);
      cuda::tma_store_commit();
    }
  }
  if (kBug != HopperBug::store_not_waited_for && thread == 0) cuda::tma_store_wait<0>();
#endif
}

}  // namespace flexgen::testing
