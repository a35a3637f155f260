// SPDX-License-Identifier: Apache-2.0
// Attention on CUDA cores, in the contract's arithmetic (ops/ops.h), for few rows a KV head. A block is one warp, which reads its
// positions once, as they lie: a lane is a position of a block of 32 while scores are made, and a pair of columns while values are
// summed. Tiles of K and V come through a ring in shared memory, so that two are always on their way.
#pragma once

#include "kernels/cuda/api/attention.h"
#include "kernels/cuda/core/contract.h"
#include "kernels/cuda/core/element.h"
#include "kernels/cuda/core/vocab.h"
#include "kernels/cuda/src/rotary.cuh"

namespace flexgen::cuda {

// kColumns: at least D; kRows: query rows of an item
template <class Element, int kColumns, int kRows>
class DecodeWarp {
 public:
  static constexpr int kTileRows = kColumns * sizeof(Element) > 512 ? kPositionBlock / 2 : kPositionBlock;
  static constexpr int kTilesOfK = kPositionBlock / kTileRows;  // of one block, and as many of V
  static constexpr int kPairs = (kColumns + 63) / 64;           // pairs of columns of a lane: 2 * (lane + 32 i) and the next

  FG_DEVICE DecodeWarp(const AttentionArguments& a, unsigned char* shared)
      : a_(a), item_(a.items[blockIdx.x]), span_(a.spans[item_.span]), lane_(static_cast<int>(threadIdx.x)), kv_head_(static_cast<int>(blockIdx.y)) {
    const int head_dim = a.layout.head_dim;
    group_ = a.n_heads / a.layout.n_heads;
    n_rows_ = min(kRows, span_.n_tok * group_ - item_.first_row);
    width_ = (head_dim + 15) / 16 * 16;
    stride_ = ((width_ * static_cast<int>(sizeof(Element)) / 16) | 1) * 16;
    ring_ = shared;
    q_ = reinterpret_cast<float*>(shared + kDecodeRing * kTileRows * stride_);
    p_ = q_ + kRows * width_;
    int last = 0;
    FG_UNROLL for (int r = 0; r < kRows; ++r) {
      const int token = (item_.first_row + min(r, n_rows_ - 1)) / group_;
      seen_[r] = r < n_rows_ ? static_cast<int>(span_.first_position) + token + 1 : 0;
      last = max(last, seen_[r]);
    }
    end_ = min(item_.end, last);
    n_tiles_ = max(0, (end_ - item_.begin + kPositionBlock - 1) / kPositionBlock) * 2 * kTilesOfK;
  }

  FG_DEVICE void run() {
    load_queries();
    FG_UNROLL for (int t = 0; t < kDecodeRing - 1; ++t) load_next();
    if (item_.part_row < 0 && a_.before.o != nullptr) load_before();
    else clear();
    int start = item_.begin, part = 0;
    for (; start < end_; start += kPositionBlock, ++part) {
      attend_block(start);
      if (a_.part_per_block && item_.part_row >= 0) {
        store_part(part);
        clear();
      }
    }
    if (a_.part_per_block && item_.part_row >= 0) {
      for (; start < item_.end; start += kPositionBlock, ++part) store_part(part);  // blocks that none of these rows sees
    } else if (item_.part_row >= 0) {
      store_part(0);
    } else if (a_.whole.o != nullptr) {
      FG_UNROLL for (int r = 0; r < kRows; ++r)
        if (r < n_rows_) store_seen(a_.whole, row_of(r), r);
    } else {
      store_result();
    }
  }

 private:
  FG_DEVICE int token_of(int r) const { return (item_.first_row + r) / group_; }
  FG_DEVICE int head_of(int r) const { return kv_head_ * group_ + (item_.first_row + r) % group_; }
  FG_DEVICE int64_t row_of(int r) const { return span_.first_row + token_of(r); }  // of q
  FG_DEVICE int column(int pair) const { return 2 * (lane_ + kWarp * pair); }

  FG_DEVICE void clear() {
    FG_UNROLL for (int r = 0; r < kRows; ++r) {
      maximum_[r] = -INFINITY;
      sum_[r] = 0;
      FG_UNROLL for (int i = 0; i < kPairs; ++i) o_[r][i][0] = o_[r][i][1] = 0;
    }
  }

  FG_DEVICE void load_before() {
    FG_UNROLL for (int r = 0; r < kRows; ++r) {
      const int64_t at = row_of(min(r, n_rows_ - 1)) * a_.n_heads + head_of(min(r, n_rows_ - 1));
      maximum_[r] = a_.before.maximum[at];
      sum_[r] = a_.before.sum[at];
      FG_UNROLL for (int i = 0; i < kPairs; ++i)
        FG_UNROLL for (int e = 0; e < 2; ++e)
          o_[r][i][e] = column(i) + e < a_.layout.head_dim ? a_.before.o[at * a_.layout.head_dim + column(i) + e] : 0.0f;
    }
  }

  // q * scale in f32, zeros behind D and for rows that are not there
  FG_DEVICE void load_queries() {
    FG_UNROLL for (int r = 0; r < kRows; ++r)
      for (int d = lane_; d < width_; d += kWarp) {
        float v = 0;
        if (r < n_rows_ && d < a_.layout.head_dim) {
          const float* const head = a_.q + row_of(r) * a_.q_stride + static_cast<int64_t>(head_of(r)) * a_.layout.head_dim;
          v = multiply(rotated(a_.rotary, head, d, span_.first_position + token_of(r)), a_.scale);
        }
        q_[r * width_ + d] = v;
      }
  }

  // The next tile on its way into the slot that was read last; K of a block, then its V. A group is committed even behind the last tile.
  FG_DEVICE void load_next() {
    if (next_tile_ < n_tiles_) {
      const int within = next_tile_ % (2 * kTilesOfK);
      const bool is_key = within < kTilesOfK;
      const int position = item_.begin + next_tile_ / (2 * kTilesOfK) * kPositionBlock + (is_key ? within : within - kTilesOfK) * kTileRows;
      const int there = end_ - position;  // rows of the tile that are read
      const int page = position / a_.layout.page_tokens, in_page = position - page * a_.layout.page_tokens;
      const auto* const from = static_cast<const Element*>((is_key ? span_.k_pages : span_.v_pages)[page]) +
                               (static_cast<int64_t>(kv_head_) * a_.layout.page_tokens + in_page) * a_.layout.head_dim;
      load_tile(ring_ + next_slot_ * kTileRows * stride_, from, there);
    }
    commit_copies();
    ++next_tile_;
    if (++next_slot_ == kDecodeRing) next_slot_ = 0;
  }

  // Rows behind `there` and columns behind D are zeros
  FG_DEVICE void load_tile(unsigned char* to, const Element* from, int there) {
    const int head_dim = a_.layout.head_dim, row_bytes = head_dim * static_cast<int>(sizeof(Element));
    if (row_bytes % 16 != 0) {  // head sizes of test models: element by element
      for (int i = lane_; i < kTileRows * width_; i += kWarp) {
        const int row = i / width_, d = i % width_;
        reinterpret_cast<Element*>(to + row * stride_)[d] = row < there && d < head_dim ? from[row * head_dim + d] : from_float<Element>(0.0f);
      }
      return;
    }
    const auto* const bytes = reinterpret_cast<const unsigned char*>(from);
    const int chunks = width_ * static_cast<int>(sizeof(Element)) / 16;
    const int rows_on = kWarp / chunks, chunks_on = kWarp % chunks;
    int row = lane_ / chunks, chunk = lane_ % chunks;
    while (row < kTileRows) {
      const bool valid = row < there && chunk * 16 < row_bytes;
      copy_async_16(to + row * stride_ + chunk * 16, bytes + (valid ? row * row_bytes + chunk * 16 : 0), valid);
      row += rows_on;
      chunk += chunks_on;
      if (chunk >= chunks) {
        chunk -= chunks;
        ++row;
      }
    }
  }

  // The tile that arrived; what was read before may be overwritten by the one asked for here
  FG_DEVICE const unsigned char* next_arrived() {
    wait_copies<kDecodeRing - 2>();
    __syncwarp();
    load_next();
    const unsigned char* const tile = ring_ + slot_ * kTileRows * stride_;
    if (++slot_ == kDecodeRing) slot_ = 0;
    return tile;
  }

  template <int kHalf>
  FG_DEVICE static void add_halves(float (&sums)[16]) {
    FG_UNROLL for (int j = 0; j < kHalf; ++j) sums[j] = add(sums[j], sums[j + kHalf]);
  }

  // dot(q, key) of one key, in 16 partial sums
  FG_DEVICE void dots(const Element* key, float (&score)[kRows]) const {
    constexpr int kChunk = 16 / sizeof(Element);
    float sums[kRows][16];
    FG_UNROLL for (int r = 0; r < kRows; ++r)
      FG_UNROLL for (int j = 0; j < 16; ++j) sums[r][j] = 0;
    FG_UNROLL_BY(1) for (int d = 0; d < width_; d += 16) {
      FG_UNROLL for (int c = 0; c < 16; c += kChunk) {
        const Elements<Element, kChunk> k = load_elements<kChunk>(key + d + c);
        FG_UNROLL for (int r = 0; r < kRows; ++r)
          FG_UNROLL for (int j = 0; j < kChunk; j += 4) {
            const Elements<float, 4> q = load_elements<4>(q_ + r * width_ + d + c + j);
            FG_UNROLL for (int e = 0; e < 4; ++e) sums[r][c + j + e] = fmaf(to_float(k.at[j + e]), q.at[e], sums[r][c + j + e]);
          }
      }
    }
    FG_UNROLL for (int r = 0; r < kRows; ++r) {
      add_halves<8>(sums[r]);
      add_halves<4>(sums[r]);
      add_halves<2>(sums[r]);
      score[r] = add(sums[r][0], sums[r][1]);
    }
  }

  // o_block[r] = sum of p * v over the tile's positions [0, n) that row r sees; kAll: every row sees all of the tile
  template <bool kAll>
  FG_DEVICE void sum_values(const unsigned char* tile, int first, const int (&n)[kRows], float (&o)[kRows][kPairs][2]) const {
    FG_UNROLL_BY(2) for (int j = 0; j < kTileRows; j += 4) {
      Elements<float, 4> p[kRows];
      FG_UNROLL for (int r = 0; r < kRows; ++r) p[r] = load_elements<4>(p_ + r * kPositionBlock + first + j);
      FG_UNROLL for (int i = 0; i < 4; ++i)
        FG_UNROLL for (int pair = 0; pair < kPairs; ++pair) {
          if (column(pair) >= width_) continue;
          const Elements<Element, 2> v = load_elements<2>(reinterpret_cast<const Element*>(tile + (j + i) * stride_) + column(pair));
          FG_UNROLL for (int r = 0; r < kRows; ++r)
            if (kAll || first + j + i < n[r])
              FG_UNROLL for (int e = 0; e < 2; ++e) o[r][pair][e] = fmaf(p[r].at[i], to_float(v.at[e]), o[r][pair][e]);
        }
    }
  }

  // 32 positions from `start`: scores, probabilities, values; merged into what was seen before
  FG_DEVICE void attend_block(int start) {
    float score[kRows];
    FG_UNROLL for (int t = 0; t < kTilesOfK; ++t) {
      const unsigned char* const keys = next_arrived();
      if (kTilesOfK == 1 || lane_ / kTileRows == t) dots(reinterpret_cast<const Element*>(keys + lane_ % kTileRows * stride_), score);
    }
    int n[kRows];  // positions of the block that a row sees
    float maximum[kRows], sum[kRows];
    bool all = true;
    FG_UNROLL for (int r = 0; r < kRows; ++r) {
      n[r] = min(kPositionBlock, min(seen_[r], end_) - start);
      all = all && (n[r] == kPositionBlock || r >= n_rows_);
      if (a_.alibi_slopes != nullptr && r < n_rows_)
        score[r] = fmaf(a_.alibi_slopes[head_of(r)], static_cast<float>(start + lane_ + 1 - seen_[r]), score[r]);
      maximum[r] = warp_max(lane_ < n[r] ? score[r] : -INFINITY);
      const float p = lane_ < n[r] ? exp_exact(add(score[r], -maximum[r])) : 0.0f;
      sum[r] = add_32_positions(p);
      p_[r * kPositionBlock + lane_] = p;
    }
    float o[kRows][kPairs][2];
    FG_UNROLL for (int r = 0; r < kRows; ++r)
      FG_UNROLL for (int i = 0; i < kPairs; ++i) o[r][i][0] = o[r][i][1] = 0;
    FG_UNROLL for (int t = 0; t < kTilesOfK; ++t) {
      const unsigned char* const values = next_arrived();  // its __syncwarp also makes p visible
      if (all) sum_values<true>(values, t * kTileRows, n, o);
      else sum_values<false>(values, t * kTileRows, n, o);
    }
    FG_UNROLL for (int r = 0; r < kRows; ++r) {
      if (n[r] <= 0) continue;
      const float larger = maximum_[r] < maximum[r] ? maximum[r] : maximum_[r];
      const float before = exp_exact(add(maximum_[r], -larger)), now = exp_exact(add(maximum[r], -larger));
      maximum_[r] = larger;
      sum_[r] = fmaf(sum[r], now, multiply(sum_[r], before));
      FG_UNROLL for (int i = 0; i < kPairs; ++i)
        FG_UNROLL for (int e = 0; e < 2; ++e) o_[r][i][e] = fmaf(o[r][i][e], now, multiply(o_[r][i][e], before));
    }
  }

  FG_DEVICE void store_part(int part) const {
    FG_UNROLL for (int r = 0; r < kRows; ++r) {
      if (r >= n_rows_) continue;
      store_seen(a_.parts, item_.part_row + static_cast<int64_t>(part) * span_.n_tok + token_of(r), r);
    }
  }

  FG_DEVICE void store_seen(const PartArrays& to, int64_t row, int r) const {
    const int64_t at = row * a_.n_heads + head_of(r);
    store_columns(to.o + at * a_.layout.head_dim, r, 1.0f);
    if (lane_ == 0) {
      to.maximum[at] = maximum_[r];
      to.sum[at] = sum_[r];
    }
  }

  FG_DEVICE void store_result() const {
    FG_UNROLL for (int r = 0; r < kRows; ++r)
      if (r < n_rows_)
        store_columns(a_.y + row_of(r) * a_.y_stride + static_cast<int64_t>(head_of(r)) * a_.layout.head_dim, r, sum_[r]);
  }

  FG_DEVICE void store_columns(float* to, int r, float divisor) const {
    FG_UNROLL for (int i = 0; i < kPairs; ++i)
      FG_UNROLL for (int e = 0; e < 2; ++e)
        if (column(i) + e < a_.layout.head_dim) to[column(i) + e] = o_[r][i][e] / divisor;
  }

  const AttentionArguments& a_;
  const AttentionItem item_;
  const PagedSpan span_;
  const int lane_, kv_head_;
  int group_, n_rows_, width_, stride_, end_, n_tiles_;
  int seen_[kRows];  // positions that a row sees, from 0
  unsigned char* ring_;
  float *q_, *p_;
  int next_tile_ = 0, next_slot_ = 0, slot_ = 0;
  float maximum_[kRows], sum_[kRows];
  float o_[kRows][kPairs][2];
};

// Grid: (n_items, Hk); dynamic shared memory: decode_shared_bytes
template <class Element, int kColumns, int kRows>
FG_KERNEL(kDecodeThreads, kDecodeBlocks) attention_decode_kernel(AttentionArguments a) {
  FG_DYNAMIC_SHARED(unsigned char, shared);
  DecodeWarp<Element, kColumns, kRows>(a, shared).run();
}

}  // namespace flexgen::cuda
