// SPDX-License-Identifier: Apache-2.0
// The smallest attention with an online softmax, tensor cores and double-buffered keys and values. It carries the planted bugs of
// test_planted_attention.cc; what the engine runs is kernels/cuda/src.
#pragma once

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/core/tile.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::testing {

enum class AttentionBug {
  none,
  barrier_skipped_by_one_warp,
  no_barrier_before_keys,
  no_barrier_before_values,
  mask_off_by_one,
  shuffle_distance_wrong,
  shuffle_in_divergent_branch,
  one_buffer_for_keys,
  sum_not_rescaled,
};

struct AttentionArguments {
  const __half* q;  // [queries, 64]
  const __half* k;  // [keys, 64]
  const __half* v;  // [keys, 64]
  float* out;       // [queries, 64]
  int queries, keys;  // query i sees keys [0, keys - queries + i]
  float scale_log2;   // of a score, times log2(e)
};

struct SmallAttention {
  static constexpr int kHead = 64, kQueryRows = 64, kKeyRows = 32;
  static constexpr int kWarps = kQueryRows / 16, kThreads = kWarps * 32;
  static constexpr size_t kSharedBytes = size_t{kQueryRows + 4 * kKeyRows} * kHead * 2;  // queries, two buffers of keys, two of values
};

// Rows [first, first + count) of x[rows, 64] into a tile; zeros where x ends
FG_DEVICE void load_attention_tile(__half* tile, const __half* x, int count, int first, int rows, int thread) {
  constexpr int kChunks = SmallAttention::kHead / 8;
  for (int i = thread; i < count * kChunks; i += SmallAttention::kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = first + row < rows;
    cuda::copy_async_16(tile + cuda::swizzled<SmallAttention::kHead>(row, chunk), valid ? x + (first + row) * SmallAttention::kHead + chunk * 8 : x,
                        valid);
  }
}

template <AttentionBug kBug>
FG_KERNEL(SmallAttention::kThreads) small_attention(AttentionArguments g) {
  using Tile = SmallAttention;
  constexpr int kHead = Tile::kHead, kKeyTiles = Tile::kKeyRows / 8, kHeadTiles = kHead / 8, kBuffer = Tile::kKeyRows * kHead;
  FG_DYNAMIC_SHARED(__half, queries);
  __half* const keys = queries + Tile::kQueryRows * kHead;
  __half* const values = keys + 2 * kBuffer;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int first_query = static_cast<int>(blockIdx.x) * Tile::kQueryRows, shift = g.keys - g.queries;
  const int steps = (min(g.keys, first_query + Tile::kQueryRows + shift) + Tile::kKeyRows - 1) / Tile::kKeyRows;
  const auto buffer = [](int step) { return kBug == AttentionBug::one_buffer_for_keys ? 0 : step % 2 * kBuffer; };

  load_attention_tile(queries, g.q, Tile::kQueryRows, first_query, g.queries, thread);
  load_attention_tile(keys, g.k, Tile::kKeyRows, 0, g.keys, thread);
  cuda::commit_copies();
  load_attention_tile(values, g.v, Tile::kKeyRows, 0, g.keys, thread);
  cuda::commit_copies();

  float out[kHeadTiles][4] = {}, largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  for (int step = 0; step < steps; ++step) {
    cuda::wait_copies<1>();
    if constexpr (kBug == AttentionBug::barrier_skipped_by_one_warp) {
      if (warp != 3 || step == 0) __syncthreads();
    } else if constexpr (kBug != AttentionBug::no_barrier_before_keys) {
      __syncthreads();  // the step's keys are here for all, and nobody reads those of the step before
    }
    if (step + 1 < steps) load_attention_tile(keys + buffer(step + 1), g.k, Tile::kKeyRows, (step + 1) * Tile::kKeyRows, g.keys, thread);
    cuda::commit_copies();

    float score[kKeyTiles][4] = {};
    for (int kk = 0; kk < kHead / 16; ++kk) {
      uint32_t a[4], b[4];
      cuda::load_matrix_x4(a, queries + cuda::swizzled<kHead>(warp * 16 + lane % 16, kk * 2 + lane / 16));
      for (int j = 0; j < kKeyTiles / 2; ++j) {
        cuda::load_matrix_x4(b, keys + buffer(step) + cuda::swizzled<kHead>(j * 16 + lane % 8 + lane / 16 * 8, kk * 2 + lane / 8 % 2));
        cuda::mma_m16n8k16<__half>(score[2 * j], a, b[0], b[1]);
        cuda::mma_m16n8k16<__half>(score[2 * j + 1], a, b[2], b[3]);
      }
    }
    for (int half = 0; half < 2; ++half) {  // a lane holds two rows
      const int query = first_query + warp * 16 + lane / 4 + half * 8;
      const int seen = kBug == AttentionBug::mask_off_by_one ? query + shift - 1 : query + shift;
      float top = largest[half];
      for (int j = 0; j < kKeyTiles; ++j)
        for (int e = 0; e < 2; ++e) {
          float& s = score[j][half * 2 + e];
          const int key = step * Tile::kKeyRows + j * 8 + lane % 4 * 2 + e;
          s = key < g.keys && key <= seen ? s * g.scale_log2 : -INFINITY;
          top = fmaxf(top, s);
        }
      constexpr int kSecond = kBug == AttentionBug::shuffle_distance_wrong ? 4 : 2;
      if (kBug != AttentionBug::shuffle_in_divergent_branch || query < g.queries) {
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, kSecond));
      }
      const float base = top == -INFINITY ? 0.0f : top;
      const float factor = cuda::exp2_approx(largest[half] - base);
      largest[half] = top;
      float added = 0;
      for (int j = 0; j < kKeyTiles; ++j)
        for (int e = 0; e < 2; ++e) added += score[j][half * 2 + e] = cuda::exp2_approx(score[j][half * 2 + e] - base);
      sum[half] = sum[half] * (kBug == AttentionBug::sum_not_rescaled ? 1.0f : factor) + added;
      for (int d = 0; d < kHeadTiles; ++d)
        for (int e = 0; e < 2; ++e) out[d][half * 2 + e] *= factor;
    }

    cuda::wait_copies<1>();
    if constexpr (kBug != AttentionBug::no_barrier_before_values) __syncthreads();  // the step's values are here for all
    if (step + 1 < steps) load_attention_tile(values + (step + 1) % 2 * kBuffer, g.v, Tile::kKeyRows, (step + 1) * Tile::kKeyRows, g.keys, thread);
    cuda::commit_copies();
    for (int kk = 0; kk < Tile::kKeyRows / 16; ++kk) {  // the scores lie as the next product's a wants them
      const float(&left)[4] = score[2 * kk], (&right)[4] = score[2 * kk + 1];
      const uint32_t a[4] = {cuda::pack<__half>(left[0], left[1]), cuda::pack<__half>(left[2], left[3]), cuda::pack<__half>(right[0], right[1]),
                             cuda::pack<__half>(right[2], right[3])};
      for (int d = 0; d < kHeadTiles / 2; ++d) {
        uint32_t b[4];
        cuda::load_matrix_x4_transposed(b, values + step % 2 * kBuffer + cuda::swizzled<kHead>(kk * 16 + lane % 16, d * 2 + lane / 16));
        cuda::mma_m16n8k16<__half>(out[2 * d], a, b[0], b[1]);
        cuda::mma_m16n8k16<__half>(out[2 * d + 1], a, b[2], b[3]);
      }
    }
  }

  for (int half = 0; half < 2; ++half) {
    float total = sum[half];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    const int query = first_query + warp * 16 + lane / 4 + half * 8;
    if (query >= g.queries) continue;
    for (int d = 0; d < kHeadTiles; ++d)
      for (int e = 0; e < 2; ++e) g.out[query * kHead + d * 8 + lane % 4 * 2 + e] = out[d][half * 2 + e] / total;
  }
}

}  // namespace flexgen::testing
