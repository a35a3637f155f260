// SPDX-License-Identifier: Apache-2.0
// Inner loops of attention over V, 16 f32 lanes: one KV head, its group of query heads, some tokens of a span. A row below is one
// (token, query head) pair. For each block of 32 positions all rows are served, so that a converted block is used many times.
#pragma once

#include "flexgen/ops/math.h"
#include "kernels/cpu/rows.h"

namespace flexgen::cpu {

// K or V of the two halves of a block, [16, D] each: a page of 16 positions holds one of them. A half without positions is not used.
struct Halves {
  const std::byte* of[2];
};

// Scores of one query (zeros behind D) against keys [0, n), n <= 32; the rest of score[32] is -infinity.
// keys: `stride` bytes apart; memory behind the n-th key of its half is readable but not used. With kAhead the next block's keys, at
// `next`, are asked for.
template <class V, class Element, bool kAhead>
void block_scores(const float* q, const Halves& keys, [[maybe_unused]] const Halves& next, int64_t stride, int64_t d, int64_t n, float* score) {
  constexpr int kTile = V::kScoreTile;
  constexpr int64_t kSize = sizeof(Element);
  for (int64_t j0 = 0; j0 < n; j0 += kLanes) {
    V dots[kLanes];
    for (int64_t j = 0; j < kLanes; j += kTile) {
      const std::byte* key = keys.of[j0 / kLanes] + j * stride;
      V acc[kTile];
#pragma GCC unroll 16
      for (int i = 0; i < kTile; ++i) acc[i] = V::zero();
      int64_t e = 0;
      for (; e + kLanes <= d; e += kLanes) {
        const V qe = V::load(q + e);
        if (kAhead && e * kSize % 64 == 0) {
#pragma GCC unroll 16
          for (int i = 0; i < kTile; ++i) __builtin_prefetch(next.of[j0 / kLanes] + (j + i) * stride + e * kSize, 0, 3);
        }
#pragma GCC unroll 16
        for (int i = 0; i < kTile; ++i) acc[i] = fma(V::load(Element{}, key + i * stride + e * kSize), qe, acc[i]);
      }
      if (e < d) {
        const V qe = V::load(q + e);
#pragma GCC unroll 16
        for (int i = 0; i < kTile; ++i) acc[i] = fma(V::load(Element{}, key + i * stride + e * kSize, d - e), qe, acc[i]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kTile; ++i) dots[j + i] = acc[i];
    }
    V::sums(dots).store(score + j0);
  }
  for (int64_t j = n; j < kAttentionBlock; ++j) score[j] = -__builtin_inff();
}

// o = fma(sum over j < n of p[j] * values[j], b, o * a), C vectors wide, from `at` bytes of each row on
template <class V, class Element, int C, bool kAhead>
void merge_values(const float* p, const Halves& values, [[maybe_unused]] const Halves& next, int64_t at, int64_t stride, int64_t n, V a, V b,
                  float* o, int64_t width) {
  constexpr int64_t kSize = sizeof(Element);
  V acc[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) acc[c] = V::zero();
  for (int64_t j0 = 0; j0 < n; j0 += kLanes) {
    const int64_t there = n - j0 < kLanes ? n - j0 : kLanes;
    const std::byte* const half = values.of[j0 / kLanes] + at;
    if (width == C * kLanes) {
      for (int64_t j = 0; j < there; ++j) {
        const V pj{p[j0 + j]};
        if constexpr (kAhead) {
          const std::byte* const to = next.of[j0 / kLanes] + at + j * stride;
#pragma GCC unroll 8
          for (int64_t byte = 0; byte < C * kLanes * kSize; byte += 64) __builtin_prefetch(to + byte, 0, 3);
        }
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) acc[c] = fma(pj, V::load(Element{}, half + j * stride + c * kLanes * kSize), acc[c]);
      }
    } else {  // the last, narrower vector; only with C == 1
      for (int64_t j = 0; j < there; ++j) acc[0] = fma(V{p[j0 + j]}, V::load(Element{}, half + j * stride, width), acc[0]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) fma(acc[c], b, V::load(o + c * kLanes) * a).store(o + c * kLanes);
}

// K and V of one block, rows of d elements `stride` bytes apart; next_*: the block behind it
struct KvBlock {
  Halves keys, values, next_keys, next_values;
  int64_t stride;
  int64_t d;
};

// n positions of one block for one row. state: maximum, sum
template <class V, class Element, bool kAhead>
void attend_block(const float* q, const KvBlock& kv, int64_t n, float* p, float* state, float* o) {
  static_assert(kAttentionBlock == 2 * kLanes);
  block_scores<V, Element, kAhead>(q, kv.keys, kv.next_keys, kv.stride, kv.d, n, p);
  V s0 = V::load(p), s1 = V::load(p + kLanes);
  const float m = select_less(s0, s1, s1, s0).max();
  s0 = math::exp(s0 - V{m});
  s1 = math::exp(s1 - V{m});
  s0.store(p);
  s1.store(p + kLanes);
  const float maximum = state[0] < m ? m : state[0];
  const V a = math::exp(V{state[0] - maximum}), b = math::exp(V{m - maximum});
  state[0] = maximum;
  const V sum = fma(V{(s0 + s1).sum()}, b, V{state[1]} * a);
  sum.store(state + 1, 1);
  constexpr int64_t kSize = sizeof(Element), kWide = V::kValueTile * kLanes;
  int64_t e = 0;
  for (; e + kWide <= kv.d; e += kWide)
    merge_values<V, Element, V::kValueTile, kAhead>(p, kv.values, kv.next_values, e * kSize, kv.stride, n, a, b, o + e, kWide);
  if (e + 4 * kLanes <= kv.d) {
    merge_values<V, Element, 4, kAhead>(p, kv.values, kv.next_values, e * kSize, kv.stride, n, a, b, o + e, 4 * kLanes);
    e += 4 * kLanes;
  }
  for (; e < kv.d; e += kLanes)
    merge_values<V, Element, 1, kAhead>(p, kv.values, kv.next_values, e * kSize, kv.stride, n, a, b, o + e, kv.d - e < kLanes ? kv.d - e : kLanes);
}

template <class V, class Element>
void attention_of(const AttentionTask& a) {
  const int64_t rows = a.n_tok * a.group, d = a.head_dim, width = (d + kLanes - 1) / kLanes * kLanes;
  float* const q = reinterpret_cast<float*>(a.scratch);  // [rows, width], scaled
  float* const o = q + rows * width;                     // [rows, width]
  float* const p = o + rows * width;                     // [rows, 32]
  float* const state = p + rows * kAttentionBlock;       // [rows, 16], two used
  float* const k32 = state + rows * kLanes;              // [32, width]
  float* const v32 = k32 + kAttentionBlock * width;      // [32, width]
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = a.q + r / a.group * a.q_stride + r % a.group * d;
    for (int64_t e = 0; e < d; e += kLanes) {
      float* const to = q + r * width + e;
      (load_upto<V>(from + e, d - e) * V{a.scale}).store(to);
      if (d - e < kLanes)
        for (int64_t i = d - e; i < kLanes; ++i) to[i] = 0;  // 0 * an infinite scale is not 0
      V::zero().store(o + r * width + e);
    }
    state[r * kLanes] = -__builtin_inff();
    state[r * kLanes + 1] = 0;
    if (a.before) {
      const AttentionPartials& b = *a.before;
      const int64_t row = a.before_row + r / a.group, head = a.first_head + r % a.group;
      for (int64_t e = 0; e < d; e += kLanes) load_upto<V>(b.o.data + row * b.o.stride + head * d + e, d - e).store(o + r * width + e);
      state[r * kLanes] = b.maximum.data[row * b.maximum.stride + head];
      state[r * kLanes + 1] = b.sum.data[row * b.sum.stride + head];
    }
  }
  constexpr int64_t kSize = sizeof(Element);
  // One or two rows read the cache once, as it is, and ask for the next block meanwhile. With more rows a block is converted once;
  // whole vectors in f32 need no conversion.
  const bool few = rows <= 2, convert = !few && (kSize != sizeof(float) || d % kLanes != 0);
  const int64_t n_positions = a.first_position + a.n_tok < a.end ? a.first_position + a.n_tok : a.end;
  const auto halves = [&](std::byte* const* pages, int64_t start) {
    const auto at = [&](int64_t position) {
      return pages[position / a.page_tokens] + (a.page_offset + position % a.page_tokens * d) * kSize;
    };
    return Halves{{at(start), at(start + kLanes < n_positions ? start + kLanes : start)}};
  };
  for (int64_t start = a.begin; start < n_positions; start += kAttentionBlock) {
    const int64_t after = start + kAttentionBlock < n_positions ? start + kAttentionBlock : start;
    KvBlock kv{halves(a.k_pages, start), halves(a.v_pages, start), halves(a.k_pages, after), halves(a.v_pages, after), d * kSize, d};
    const int64_t there = n_positions - start < kAttentionBlock ? n_positions - start : kAttentionBlock;
    if (convert) {
      for (int64_t j = 0; j < there; ++j)
        for (int64_t e = 0; e < d; e += kLanes) {
          const std::byte* const k = kv.keys.of[j / kLanes] + (j % kLanes * d + e) * kSize;
          const std::byte* const v = kv.values.of[j / kLanes] + (j % kLanes * d + e) * kSize;
          (d - e < kLanes ? V::load(Element{}, k, d - e) : V::load(Element{}, k)).store(k32 + j * width + e);
          (d - e < kLanes ? V::load(Element{}, v, d - e) : V::load(Element{}, v)).store(v32 + j * width + e);
        }
      kv.keys = {{reinterpret_cast<const std::byte*>(k32), reinterpret_cast<const std::byte*>(k32 + kLanes * width)}};
      kv.values = {{reinterpret_cast<const std::byte*>(v32), reinterpret_cast<const std::byte*>(v32 + kLanes * width)}};
      kv.stride = width * static_cast<int64_t>(sizeof(float));
      kv.d = width;
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t seen = a.first_position + r / a.group + 1 - start;
      if (seen <= 0) continue;
      const int64_t n = seen < there ? seen : there;
      float *const qr = q + r * width, *const pr = p + r * kAttentionBlock, *const sr = state + r * kLanes, *const orow = o + r * width;
      if (convert)
        attend_block<V, float, false>(qr, kv, n, pr, sr, orow);
      else if (few)
        attend_block<V, Element, true>(qr, kv, n, pr, sr, orow);
      else
        attend_block<V, Element, false>(qr, kv, n, pr, sr, orow);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* const y = a.y + r / a.group * a.y_stride + r % a.group * d;
    const V sum{state[r * kLanes + 1]};
    if (a.maximum) {
      a.maximum[r / a.group * a.state_stride + r % a.group] = state[r * kLanes];
      a.sum[r / a.group * a.state_stride + r % a.group] = state[r * kLanes + 1];
      for (int64_t e = 0; e < d; e += kLanes) store_upto(V::load(o + r * width + e), y + e, d - e);
      continue;
    }
    for (int64_t e = 0; e < d; e += kLanes) store_upto(V::load(o + r * width + e) / sum, y + e, d - e);
  }
}

template <class V>
void attention(const AttentionTask& a) {
  if (a.dtype == DType::f16) return attention_of<V, f16_t>(a);
  attention_of<V, float>(a);
}

// The running state is the first part's, o in y
template <class V>
void merge_parts(const MergeTask& a) {
  const int64_t d = a.head_dim;
  for (int64_t head = 0; head < a.n_heads; ++head) {
    float* const y = a.y + head * d;
    float maximum = 0, sum[kLanes] = {};  // one used
    for (int64_t i = 0; i < a.n_parts; ++i) {
      const AttentionPartials& part = a.parts[i];
      const float* const o = part.o.data + a.token * part.o.stride + head * d;
      const float m = part.maximum.data[a.token * part.maximum.stride + head], l = part.sum.data[a.token * part.sum.stride + head];
      if (i == 0) {
        for (int64_t e = 0; e < d; e += kLanes) store_upto(load_upto<V>(o + e, d - e), y + e, d - e);
        maximum = m;
        sum[0] = l;
        continue;
      }
      if (m == -__builtin_inff() && l == 0) continue;  // no position: -infinity less -infinity is not a number
      const float larger = maximum < m ? m : maximum;
      const V before = math::exp(V{maximum - larger}), now = math::exp(V{m - larger});
      maximum = larger;
      fma(V{l}, now, V{sum[0]} * before).store(sum);
      for (int64_t e = 0; e < d; e += kLanes) store_upto(fma(load_upto<V>(o + e, d - e), now, load_upto<V>(y + e, d - e) * before), y + e, d - e);
    }
    for (int64_t e = 0; e < d; e += kLanes) store_upto(load_upto<V>(y + e, d - e) / V{sum[0]}, y + e, d - e);
  }
}

}  // namespace flexgen::cpu
