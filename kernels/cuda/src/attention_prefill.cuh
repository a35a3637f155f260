// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores over f16 caches, FlashAttention-2's loop: a block holds 16 query rows a warp and walks the positions that
// they see in tiles of kKeys, with the running maximum and sum of each row in registers. Rows are (token, query head) pairs of one KV
// head, so a tile of K and V serves the whole group. q and the probabilities are rounded to f16, everything else is f32.
//
// mma.m16n8k16 (PTX ISA, "Warp-level matrix instructions"): with g = lane / 4, t = lane % 4 a lane holds of a 16 x 8 tile of scores or
// outputs rows g and g + 8, columns 2t and 2t + 1. The scores' registers are, packed to f16, the A operand of the product with V.
#pragma once

#include "kernels/cuda/api/attention.h"
#include "kernels/cuda/core/contract.h"
#include "kernels/cuda/core/element.h"
#include "kernels/cuda/core/tile.h"
#include "kernels/cuda/core/vocab.h"
#include "kernels/cuda/src/rotary.cuh"

namespace flexgen::cuda {

// kHead: at least D, a multiple of 16; columns behind D are zeros
template <int kHead_, int kRows_, int kKeys_>
struct PrefillTile {
  static constexpr int kHead = kHead_, kRows = kRows_, kKeys = kKeys_;
  static constexpr int kThreads = kRows / 16 * kWarp;
  static constexpr size_t kSharedBytes = prefill_shared_bytes(kHead, kRows, kKeys);
};

template <class Tile>
class PrefillBlock {
 public:
  static constexpr int kHead = Tile::kHead, kRows = Tile::kRows, kKeys = Tile::kKeys;
  static constexpr int kChunks = kHead / 8;  // 16 bytes each, of a row

  FG_DEVICE PrefillBlock(const AttentionArguments& a, __half* shared)
      : a_(a), item_(a.items[blockIdx.x]), span_(a.spans[item_.span]), thread_(static_cast<int>(threadIdx.x)),
        kv_head_(static_cast<int>(blockIdx.y)) {
    queries_ = shared;
    keys_ = queries_ + kRows * kHead;
    values_ = keys_ + 2 * kKeys * kHead;
    group_ = a.n_heads / a.layout.n_heads;
    n_rows_ = min(kRows, span_.n_tok * group_ - item_.first_row);
    end_ = min(item_.end, seen(n_rows_ - 1));
    FG_UNROLL for (int half = 0; half < 2; ++half) {
      seen_[half] = min(seen(min(row(half), n_rows_ - 1)), end_);
      slope_[half] = a.alibi_slopes != nullptr ? a.alibi_slopes[head_of(min(row(half), n_rows_ - 1))] * kLog2E : 0.0f;
    }
  }

  FG_DEVICE void run() {
    const int n_tiles = max(0, (end_ - item_.begin + kKeys - 1) / kKeys);
    load_queries();
    load_tile(keys_, span_.k_pages, 0, n_tiles);
    load_tile(values_, span_.v_pages, 0, n_tiles);
    for (int t = 0; t < n_tiles; ++t) {
      wait_copies<1>();
      __syncthreads();  // keys of t are here, and the queries; all are done with the keys of t - 1
      load_tile(keys_ + (t + 1) % 2 * kKeys * kHead, span_.k_pages, t + 1, n_tiles);
      float score[kKeys / 8][4] = {};
      multiply_keys(keys_ + t % 2 * kKeys * kHead, score);
      weigh(item_.begin + t * kKeys, score);
      wait_copies<1>();
      __syncthreads();  // values of t are here; all are done with the values of t - 1
      load_tile(values_ + (t + 1) % 2 * kKeys * kHead, span_.v_pages, t + 1, n_tiles);
      add_values(values_ + t % 2 * kKeys * kHead, score);
    }
    FG_UNROLL for (int half = 0; half < 2; ++half) {
      float sum = sum_[half];  // of this lane's columns
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      if (row(half) < n_rows_) store(half, sum);
    }
  }

 private:
  static constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

  FG_DEVICE int lane() const { return thread_ % kWarp; }
  FG_DEVICE int row(int half) const { return thread_ / kWarp * 16 + lane() / 4 + half * 8; }  // of the tile
  FG_DEVICE int token_of(int row) const { return (item_.first_row + row) / group_; }
  FG_DEVICE int head_of(int row) const { return kv_head_ * group_ + (item_.first_row + row) % group_; }
  FG_DEVICE int seen(int row) const { return static_cast<int>(span_.first_position) + token_of(row) + 1; }  // positions, from 0

  FG_DEVICE void load_queries() {
    FG_UNROLL_BY(1) for (int i = thread_; i < kRows * kChunks; i += Tile::kThreads) {
      const int r = i / kChunks, chunk = i % kChunks;
      uint32_t pairs[4] = {};
      if (r < n_rows_ && chunk * 8 < a_.layout.head_dim) {
        const float* const head = a_.q + (span_.first_row + token_of(r)) * a_.q_stride + static_cast<int64_t>(head_of(r)) * a_.layout.head_dim;
        const int64_t position = span_.first_position + token_of(r);
        FG_UNROLL for (int e = 0; e < 4; ++e)
          pairs[e] = pack<__half>(rotated(a_.rotary, head, chunk * 8 + 2 * e, position), rotated(a_.rotary, head, chunk * 8 + 2 * e + 1, position));
      }
      *reinterpret_cast<uint4*>(queries_ + swizzled<kHead>(r, chunk)) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }

  // Tile t of K or V on its way, zeros where no row sees; a group even behind the last
  FG_DEVICE void load_tile(__half* to, void* const* pages, int t, int n_tiles) {
    if (t < n_tiles) {
      const int start = item_.begin + t * kKeys;
      const __half* from[kKeys / kPositionBlock];  // a block of positions lies in one page
      FG_UNROLL for (int b = 0; b < kKeys / kPositionBlock; ++b) {
        const int position = min(start + b * kPositionBlock, end_ - 1), page = position / a_.layout.page_tokens;
        const int in_page = position - position % kPositionBlock - page * a_.layout.page_tokens;
        from[b] = static_cast<const __half*>(pages[page]) + (static_cast<int64_t>(kv_head_) * a_.layout.page_tokens + in_page) * a_.layout.head_dim;
      }
      FG_UNROLL_BY(2) for (int i = thread_; i < kKeys * kChunks; i += Tile::kThreads) {
        const int r = i / kChunks, chunk = i % kChunks;
        const bool valid = start + r < end_ && chunk * 8 < a_.layout.head_dim;
        const __half* const block = kKeys == kPositionBlock || r < kPositionBlock ? from[0] : from[kKeys / kPositionBlock - 1];
        copy_async_16(to + swizzled<kHead>(r, chunk), valid ? block + r % kPositionBlock * a_.layout.head_dim + chunk * 8 : block, valid);
      }
    }
    commit_copies();
  }

  // score[16, kKeys] = q k^T of this warp's rows
  FG_DEVICE void multiply_keys(const __half* keys, float (&score)[kKeys / 8][4]) const {
    FG_UNROLL for (int d = 0; d < kHead / 16; ++d) {
      uint32_t q[4];
      load_matrix_x4(q, queries_ + swizzled<kHead>(thread_ / kWarp * 16 + lane() % 16, d * 2 + lane() / 16));
      FG_UNROLL for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t k[4];  // 16 keys: columns 0..7 and 8..15 of d for keys 0..7, then for keys 8..15
        load_matrix_x4(k, keys + swizzled<kHead>(j * 16 + lane() % 8 + lane() / 16 * 8, d * 2 + lane() / 8 % 2));
        mma_m16n8k16<__half>(score[2 * j], q, k[0], k[1]);
        mma_m16n8k16<__half>(score[2 * j + 1], q, k[2], k[3]);
      }
    }
  }

  // Scores to probabilities relative to the running maximum, in powers of two; what was summed before is scaled to it
  FG_DEVICE void weigh(int start, float (&score)[kKeys / 8][4]) {
    const float scale = a_.scale * kLog2E;
    FG_UNROLL for (int half = 0; half < 2; ++half) {
      const int own = start + lane() % 4 * 2;  // position of this lane's first column
      if (a_.alibi_slopes != nullptr) {
        FG_UNROLL for (int j = 0; j < kKeys / 8; ++j)
          FG_UNROLL for (int e = 0; e < 2; ++e) {
            const float distance = static_cast<float>(own + j * 8 + e + 1 - seen(min(row(half), n_rows_ - 1)));
            score[j][half * 2 + e] = fmaf(slope_[half], distance, score[j][half * 2 + e] * scale);
          }
      } else {
        FG_UNROLL for (int j = 0; j < kKeys / 8; ++j)
          FG_UNROLL for (int e = 0; e < 2; ++e) score[j][half * 2 + e] *= scale;
      }
      if (start + kKeys > seen_[half])
        FG_UNROLL for (int j = 0; j < kKeys / 8; ++j)
          FG_UNROLL for (int e = 0; e < 2; ++e)
            if (own + j * 8 + e >= seen_[half]) score[j][half * 2 + e] = -INFINITY;
      float maximum = maximum_[half];
      FG_UNROLL for (int j = 0; j < kKeys / 8; ++j) maximum = fmaxf(maximum, fmaxf(score[j][half * 2], score[j][half * 2 + 1]));
      maximum = fmaxf(maximum, __shfl_xor_sync(kFullWarp, maximum, 1));
      maximum = fmaxf(maximum, __shfl_xor_sync(kFullWarp, maximum, 2));
      const float origin = maximum == -INFINITY ? 0.0f : maximum;  // a row that sees nothing yet
      const float before = exp2_approx(maximum_[half] - origin);
      maximum_[half] = maximum;
      float sum = 0;
      FG_UNROLL for (int j = 0; j < kKeys / 8; ++j)
        FG_UNROLL for (int e = 0; e < 2; ++e) sum += score[j][half * 2 + e] = exp2_approx(score[j][half * 2 + e] - origin);
      sum_[half] = fmaf(sum_[half], before, sum);
      FG_UNROLL for (int j = 0; j < kHead / 8; ++j) {
        o_[j][half * 2] *= before;
        o_[j][half * 2 + 1] *= before;
      }
    }
  }

  // o[16, kHead] += p v
  FG_DEVICE void add_values(const __half* values, const float (&p)[kKeys / 8][4]) {
    FG_UNROLL for (int k = 0; k < kKeys / 16; ++k) {
      const uint32_t a[4] = {pack<__half>(p[2 * k][0], p[2 * k][1]), pack<__half>(p[2 * k][2], p[2 * k][3]),
                             pack<__half>(p[2 * k + 1][0], p[2 * k + 1][1]), pack<__half>(p[2 * k + 1][2], p[2 * k + 1][3])};
      FG_UNROLL for (int d = 0; d < kHead / 16; ++d) {
        uint32_t v[4];
        load_matrix_x4_transposed(v, values + swizzled<kHead>(k * 16 + lane() % 16, d * 2 + lane() / 16));
        mma_m16n8k16<__half>(o_[2 * d], a, v[0], v[1]);
        mma_m16n8k16<__half>(o_[2 * d + 1], a, v[2], v[3]);
      }
    }
  }

  // What was seen before is merged at the end, where registers are free: nothing here depends on the order to the last bit. For the same
  // reason item and span are read again.
  FG_DEVICE void store(int half, float sum) const {
    const AttentionItem item = a_.items[blockIdx.x];
    const int token = (item.first_row + row(half)) / group_, head = kv_head_ * group_ + (item.first_row + row(half)) % group_;
    const int head_dim = a_.layout.head_dim;
    const bool complete = item.part_row < 0, divided = complete && a_.whole.o == nullptr;
    const int64_t q_row = a_.spans[item.span].first_row + static_cast<int64_t>(token);
    float maximum = maximum_[half] * kLn2, own = 1, taken = 0;
    const float* before = nullptr;
    if (complete && a_.before.o != nullptr) {
      const int64_t at = q_row * a_.n_heads + head;
      before = a_.before.o + at * head_dim;
      const float larger = fmaxf(maximum, a_.before.maximum[at]), origin = larger == -INFINITY ? 0.0f : larger;
      own = exp2_approx((maximum - origin) * kLog2E);
      taken = exp2_approx((a_.before.maximum[at] - origin) * kLog2E);
      sum = fmaf(a_.before.sum[at], taken, sum * own);
      maximum = larger;
    }
    float* to;
    if (divided) {
      to = a_.y + q_row * a_.y_stride + static_cast<int64_t>(head) * head_dim;
    } else {
      const PartArrays& part = complete ? a_.whole : a_.parts;
      const int64_t at = (complete ? q_row : item.part_row + static_cast<int64_t>(token)) * a_.n_heads + head;
      to = part.o + at * head_dim;
      if (lane() % 4 == 0) {
        part.maximum[at] = maximum;
        part.sum[at] = sum;
      }
    }
    const float divisor = divided ? sum : 1.0f;
    FG_UNROLL for (int j = 0; j < kHead / 8; ++j) {
      const int column = j * 8 + lane() % 4 * 2;
      if (column >= head_dim) break;
      FG_UNROLL for (int e = 0; e < 2; ++e) {
        float o = o_[j][half * 2 + e];
        if (before != nullptr) o = fmaf(before[column + e], taken, o * own);
        to[column + e] = o / divisor;
      }
    }
  }

  const AttentionArguments& a_;
  const AttentionItem item_;
  const PagedSpan span_;
  const int thread_, kv_head_;
  __half *queries_, *keys_, *values_;  // [kRows, kHead]; two tiles of [kKeys, kHead] each, swizzled
  int group_, n_rows_, end_;
  int seen_[2];     // positions that rows g and g + 8 see, up to end_
  float slope_[2];  // ALiBi, in powers of two
  float o_[kHead / 8][4] = {};
  float maximum_[2] = {-INFINITY, -INFINITY}, sum_[2] = {};  // sum of this lane's columns
};

// Grid: (n_items, Hk); dynamic shared memory: Tile::kSharedBytes
template <class Tile>
FG_KERNEL(Tile::kThreads, 256 / Tile::kThreads) attention_prefill_kernel(AttentionArguments a) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  constexpr bool kFits = Tile::kSharedBytes <= size_t{64} << 10;  // what a block of sm_75 may ask for
#else
  constexpr bool kFits = true;
#endif
  if constexpr (kFits) {
    FG_DYNAMIC_SHARED(__half, shared);
    PrefillBlock<Tile>(a, shared).run();
  }
}

}  // namespace flexgen::cuda
