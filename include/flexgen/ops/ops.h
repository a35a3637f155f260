// SPDX-License-Identifier: Apache-2.0
// The contract of every operation: plain arguments, what they mean, and one check each. Reference, CPU and CUDA backends share it.
//
// Arithmetic contract of f32 backends (ref, which accumulates in double, is the only exception). It makes results the same bits on
// every instruction set and for any number of tokens, threads and row blocks:
//   dot product over K   16 partial sums: sum j takes elements j, j+16, j+32, ... in that order with one fused multiply-add each
//                        (behind K, up to the next multiple of 16, elements count as 0 * 0 whatever lies in memory); then lanes
//                        j and j+8 are added, then j and j+4, j+2, j+1. Weights and cached K, V are converted to f32 exactly before.
//   sum over K           the same, with an addition for the fused multiply-add
//   linear               dot, + bias where there is one, activation, then y + that with accumulate
//   layer_norm           mean = sum(x) / E;  d = x - mean;  variance = dot(d, d) / E;  s = 1 / sqrt(variance + eps);
//                        y = fma(d * s, gamma, beta)
//   elementwise          in the order written here, one operation each; fma where fma is said
//   exp, erf, ...        the polynomials of ops/math.h, never libm
//   attention            in blocks of kAttentionBlock absolute positions: block b holds [b*kAttentionBlock, (b+1)*kAttentionBlock);
//                        each gives (o, maximum, sum); blocks merge in position order
// Every NaN counts as the same value: which of two survives an operation is the compiler's choice.
#pragma once

#include <cstdint>
#include <span>

#include "flexgen/base/error.h"
#include "flexgen/ops/activation.h"
#include "flexgen/tensor/shape.h"
#include "flexgen/tensor/view.h"

namespace flexgen {

inline constexpr int64_t kAttentionBlock = 32;  // positions; page sizes are multiples of it, or half of it

// y = act(x W^T + b), or y += act(x W^T + b) with accumulate. Only the columns of y that w.blocks cover are touched.
struct LinearArgs {
  MatView<const float> x;            // [T, K]
  WeightView w;                      // [N, K], all rows or some
  const float* bias = nullptr;       // [N], or null
  MatView<float> y;                  // [T, N]; must not overlap x
  Activation activation = Activation::none;
  bool accumulate = false;           // adds to y: the residual
  uint64_t x_id = 0;                 // of new_x_ids, where further calls have just this x: a backend may keep what it makes of it; 0: none
};

// y = (x - mean) / sqrt(variance + eps) * gamma + beta, per row; biased variance, two passes
struct LayerNormArgs {
  MatView<const float> x;            // [T, E]
  const float* gamma = nullptr;      // [E], or null: 1
  const float* beta = nullptr;       // [E], or null: 0
  MatView<float> y;                  // [T, E]; may be x
  float eps = 1e-5f;                 // added to the variance
};

// y[t] = table[ids[t]], or y[t] += with accumulate
struct EmbedArgs {
  std::span<const int32_t> ids;      // [T], each in [0, table.rows); the caller has checked them
  WeightView table;                  // [rows, W]; blocks cover every row of ids
  MatView<float> y;                  // [T, W]
  bool accumulate = false;
};

// Positions [begin, end) of a sequence
struct PositionRange {
  int64_t begin = 0;                 // a multiple of kAttentionBlock
  int64_t end = 0;                   // any; tokens see none behind themselves
};

// What queries have seen of some positions, per token and head (ops/attention_partial.h). Of no position: 0, -infinity, 0
//   o = sum of exp(score - maximum) v;  maximum = max score;  sum = sum of exp(score - maximum)
struct AttentionPartials {
  MatView<float> o;                  // [T, H*D]
  MatView<float> maximum;            // [T, H]
  MatView<float> sum;                // [T, H], the stride of maximum
};

// The consecutive tokens of one sequence within a micro-batch, and that sequence's cache in one layer. Page i holds positions
// [i*page_tokens, (i+1)*page_tokens) as [Hk, page_tokens, D] in the cache's number format.
struct KvSpan {
  int64_t first_row = 0;             // of q, k, v and y
  int64_t n_tok = 0;
  int64_t first_position = 0;        // absolute, of the first token
  std::byte* const* k_pages = nullptr;
  std::byte* const* v_pages = nullptr;
};

struct KvLayout {
  DType dtype = DType::f32;          // f32 or f16
  int64_t n_heads = 0;               // Hk
  int64_t head_dim = 0;              // D
  int64_t page_tokens = 0;           // a multiple of kAttentionBlock, or on a CPU half of it

  size_t page_bytes() const { return static_cast<size_t>(n_heads * head_dim * page_tokens) * size_of(dtype); }
};

// Rounds k and v to the cache's format and stores them at positions [first_position, first_position + n_tok) of each span.
struct KvAppendArgs {
  MatView<const float> k, v;         // [T, Hk*D]
  KvLayout layout;
  std::span<const KvSpan> spans;
};

// y = softmax(q k^T * scale) v per head, causal: token i of a span sees positions 0 .. first_position + i, its own included, all of
// which are in the cache already. Query head h reads KV head h / (H / Hk).
//   score = dot(q * scale, k): the product q*scale is rounded to f32 first
//   block:  m = max score;  p = exp(score - m);  l = sum over the 32 positions of p, 0 where not seen (sum over K above);
//           o = fma(p, v, o) in position order from 0
//   merge:  M = max(m_old, m);  a = exp(m_old - M);  b = exp(m - M);  l = fma(l, b, l_old * a);  o = fma(o, b, o_old * a);
//           before the first block m_old is -infinity, l_old and o_old are 0, or what `before` says
//   y = o / l
struct AttentionArgs {
  MatView<const float> q;            // [T, H*D]
  MatView<float> y;                  // [T, H*D]; must not overlap q
  int64_t n_heads = 0;               // H, a multiple of layout.n_heads
  float scale = 1;
  KvLayout layout;
  std::span<const KvSpan> spans;
  std::span<const PositionRange> ranges;      // one for each span, of whose pages alone are read; empty: all positions
  const AttentionPartials* before = nullptr;  // of the positions in front of the ranges, attended elsewhere, a row for each of q; or null
};

// Attention over a part of each span's positions, to be merged with the other parts: of those that a token sees, the blocks of its
// range merge as in `attention`, and what is left out is the division. Only the pages of the range are read.
struct AttentionPartialArgs {
  MatView<const float> q;            // [T, H*D]
  MatView<float> o;                  // [T, H*D]; must not overlap q
  MatView<float> maximum;            // [T, H]
  MatView<float> sum;                // [T, H], the stride of maximum
  int64_t n_heads = 0;               // H, a multiple of layout.n_heads
  float scale = 1;
  KvLayout layout;
  std::span<const KvSpan> spans;
  std::span<const PositionRange> ranges;  // one for each span
};

// y of parts in the order of their positions: to the first one the others are merged as blocks are in `attention`, but for those of no
// position, which change nothing; then divided.
struct AttentionMergeArgs {
  std::span<const AttentionPartials> parts;  // at least one; each has a row for every row of y
  MatView<float> y;                          // [T, H*D]; must not overlap the parts
  int64_t n_heads = 0;                       // H
  int64_t head_dim = 0;                      // D
};

namespace detail {
template <typename T>
void check_view(const MatView<T>& m, const char* what) {
  FG_CHECK(m.rows >= 0 && m.cols >= 0 && m.stride >= m.cols && (m.data != nullptr || m.rows * m.cols == 0), "{} is {} x {}, stride {}", what, m.rows,
           m.cols, m.stride);
}
inline void check_weight(const WeightView& w) {
  int64_t next = 0;
  for (const RowBlock& b : w.blocks) {
    FG_CHECK(b.data != nullptr && b.rows > 0 && b.first_row >= next && b.first_row + b.rows <= w.rows, "row block [{}, {}) of a matrix with {} rows",
             b.first_row, b.first_row + b.rows, w.rows);
    next = b.first_row + b.rows;
  }
}
inline void check_spans(const KvLayout& l, std::span<const KvSpan> spans, int64_t rows) {
  const bool pages = l.page_tokens > 0 && (l.page_tokens % kAttentionBlock == 0 || 2 * l.page_tokens == kAttentionBlock);
  FG_CHECK(l.n_heads > 0 && l.head_dim > 0 && pages, "{} heads of {}, pages of {} tokens", l.n_heads, l.head_dim, l.page_tokens);
  FG_CHECK(l.dtype == DType::f32 || l.dtype == DType::f16, "cache in {}", name(l.dtype));
  for (const KvSpan& s : spans)
    FG_CHECK(s.first_row >= 0 && s.n_tok > 0 && s.first_row + s.n_tok <= rows && s.first_position >= 0 && s.k_pages && s.v_pages,
             "span of rows [{}, {}) of {}", s.first_row, s.first_row + s.n_tok, rows);
}
inline void check_ranges(std::span<const PositionRange> ranges, size_t n_spans) {
  FG_CHECK(ranges.size() == n_spans, "{} ranges for {} spans", ranges.size(), n_spans);
  for (const PositionRange& r : ranges)
    FG_CHECK(r.begin >= 0 && r.begin % kAttentionBlock == 0 && r.begin <= r.end, "positions [{}, {})", r.begin, r.end);
}
inline void check_partials(const AttentionPartials& p, int64_t rows, int64_t n_heads, int64_t head_dim) {
  check_view(p.o, "o");
  check_view(p.maximum, "maximum");
  check_view(p.sum, "sum");
  FG_CHECK(p.o.rows == rows && p.o.cols == n_heads * head_dim, "o {} x {}, {} tokens, {} heads of {}", p.o.rows, p.o.cols, rows, n_heads, head_dim);
  FG_CHECK(p.maximum.rows == rows && p.maximum.cols == n_heads && p.sum.rows == rows && p.sum.cols == n_heads && p.sum.stride == p.maximum.stride,
           "maximum {} x {}, stride {}, sum {} x {}, stride {}, {} tokens, {} heads", p.maximum.rows, p.maximum.cols, p.maximum.stride, p.sum.rows,
           p.sum.cols, p.sum.stride, rows, n_heads);
}
}  // namespace detail

inline void check(const LinearArgs& a) {
  detail::check_view(a.x, "x");
  detail::check_view(a.y, "y");
  detail::check_weight(a.w);
  FG_CHECK(a.x.cols == a.w.cols && a.y.cols == a.w.rows && a.x.rows == a.y.rows, "x {} x {}, W {} x {}, y {} x {}", a.x.rows, a.x.cols, a.w.rows,
           a.w.cols, a.y.rows, a.y.cols);
}
inline void check(const LayerNormArgs& a) {
  detail::check_view(a.x, "x");
  detail::check_view(a.y, "y");
  FG_CHECK(a.x.rows == a.y.rows && a.x.cols == a.y.cols && a.x.cols > 0, "x {} x {}, y {} x {}", a.x.rows, a.x.cols, a.y.rows, a.y.cols);
  FG_CHECK(a.eps > 0, "eps {}", a.eps);
}
inline void check(const EmbedArgs& a) {
  detail::check_view(a.y, "y");
  detail::check_weight(a.table);
  FG_CHECK(static_cast<int64_t>(a.ids.size()) == a.y.rows && a.table.cols == a.y.cols, "{} ids, table {} x {}, y {} x {}", a.ids.size(), a.table.rows,
           a.table.cols, a.y.rows, a.y.cols);
  for (int32_t id : a.ids) FG_CHECK(id >= 0 && id < a.table.rows, "id {} of {} rows", id, a.table.rows);
}
inline void check(const KvAppendArgs& a) {
  detail::check_view(a.k, "k");
  detail::check_view(a.v, "v");
  detail::check_spans(a.layout, a.spans, a.k.rows);
  const int64_t width = a.layout.n_heads * a.layout.head_dim;
  FG_CHECK(a.k.rows == a.v.rows && a.k.cols == width && a.v.cols == width, "k {} x {}, v {} x {}, heads {} x {}", a.k.rows, a.k.cols, a.v.rows,
           a.v.cols, a.layout.n_heads, a.layout.head_dim);
}
inline void check(const AttentionArgs& a) {
  detail::check_view(a.q, "q");
  detail::check_view(a.y, "y");
  detail::check_spans(a.layout, a.spans, a.q.rows);
  FG_CHECK(a.n_heads > 0 && a.n_heads % a.layout.n_heads == 0, "{} query heads, {} KV heads", a.n_heads, a.layout.n_heads);
  const int64_t width = a.n_heads * a.layout.head_dim;
  FG_CHECK(a.q.rows == a.y.rows && a.q.cols == width && a.y.cols == width, "q {} x {}, y {} x {}, width {}", a.q.rows, a.q.cols, a.y.rows, a.y.cols,
           width);
  if (!a.ranges.empty()) detail::check_ranges(a.ranges, a.spans.size());
  if (a.before) detail::check_partials(*a.before, a.q.rows, a.n_heads, a.layout.head_dim);
}
inline void check(const AttentionPartialArgs& a) {
  check(AttentionArgs{a.q, a.o, a.n_heads, a.scale, a.layout, a.spans});
  detail::check_partials({a.o, a.maximum, a.sum}, a.q.rows, a.n_heads, a.layout.head_dim);
  detail::check_ranges(a.ranges, a.spans.size());
}
inline void check(const AttentionMergeArgs& a) {
  detail::check_view(a.y, "y");
  FG_CHECK(!a.parts.empty() && a.n_heads > 0 && a.head_dim > 0 && a.y.cols == a.n_heads * a.head_dim, "{} parts, y {} x {}, {} heads of {}",
           a.parts.size(), a.y.rows, a.y.cols, a.n_heads, a.head_dim);
  for (const AttentionPartials& p : a.parts) detail::check_partials(p, a.y.rows, a.n_heads, a.head_dim);
}

}  // namespace flexgen
