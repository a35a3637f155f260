// SPDX-License-Identifier: Apache-2.0
// Inner loops of linear over V, 16 f32 lanes. Every dot product is one chain of fused multiply-adds per lane, whatever tile computes
// it, so tile shapes, K blocks and token counts never change a bit.
#pragma once

#include "flexgen/ops/math.h"
#include "flexgen/tensor/half.h"
#include "kernels/cpu/kernels.h"

namespace flexgen::cpu {

// y[0..n) = act(dots + bias), or +=
template <class V>
inline void finish_dots(V dots, const float* bias, float* y, int64_t n, Activation activation, bool accumulate) {
  if (bias) dots = dots + (n == kLanes ? V::load(bias) : V::load(bias, n));
  switch (activation) {
    case Activation::none: break;
    case Activation::relu: dots = select_less(dots, V::zero(), V::zero(), dots); break;  // NaN stays NaN
    case Activation::gelu_erf: dots = math::gelu_erf(dots); break;
    case Activation::gelu_tanh: dots = math::gelu_tanh(dots); break;
  }
  if (accumulate) dots = (n == kLanes ? V::load(y) : V::load(y, n)) + dots;
  if (n == kLanes)
    dots.store(y);
  else
    dots.store(y, n);
}

// ---- few tokens: weights go from memory to registers and are used at once ----

// Partial sums of R rows and T tokens over all of K; sums[t * kLanes + r]
template <class V, class Element, int R, int T>
inline void few_tile(const std::byte* w, int64_t row_bytes, const float* x, int64_t x_stride, int64_t k, V* sums) {
  // Far enough ahead to cover DRAM latency; behind a row's end the same row of the next tile follows
  constexpr int64_t kAhead = 2048;
  constexpr int64_t kStepBytes = kLanes * static_cast<int64_t>(sizeof(Element));
  V acc[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) acc[r][t] = V::zero();
  const int64_t whole = k / kLanes;
  for (int64_t s = 0; s < whole; ++s) {
    const int64_t at = s * kStepBytes;
    const std::byte* ahead = w + at + kAhead + (at + kAhead >= row_bytes ? (R - 1) * row_bytes : 0);
    V xs[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) xs[t] = V::load(x + t * x_stride + s * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(ahead + r * row_bytes, 0, 3);
      const V row = V::load(Element{}, w + r * row_bytes + at);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) acc[r][t] = fma(row, xs[t], acc[r][t]);
    }
  }
  if (const int64_t rest = k % kLanes; rest != 0) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const V tail = V::load(x + t * x_stride + whole * kLanes, rest);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r][t] = fma(V::load(Element{}, w + r * row_bytes + whole * kStepBytes, rest), tail, acc[r][t]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[t * kLanes + r] = acc[r][t];
}

template <class V, class Element, int T>
void few_rows(const LinearTask& a) {
  constexpr int kRows = V::few_rows(T);
  static_assert(kLanes % kRows == 0);
  const int64_t row_bytes = a.k * static_cast<int64_t>(sizeof(Element));
  V sums[T * kLanes];
  for (V& s : sums) s = V::zero();
  for (int64_t r0 = 0; r0 < a.n_rows; r0 += kLanes) {
    const int64_t n = a.n_rows - r0 < kLanes ? a.n_rows - r0 : kLanes;
    const std::byte* w = a.w + r0 * row_bytes;
    int64_t r = 0;
    for (; r + kRows <= n; r += kRows) few_tile<V, Element, kRows, T>(w + r * row_bytes, row_bytes, a.x, a.x_stride, a.k, sums + r);
    for (; r < n; ++r) few_tile<V, Element, 1, T>(w + r * row_bytes, row_bytes, a.x, a.x_stride, a.k, sums + r);
    for (int64_t t = 0; t < T; ++t)
      finish_dots(V::sums(sums + t * kLanes), a.bias ? a.bias + r0 : nullptr, a.y + t * a.y_stride + r0, n, a.activation, a.accumulate);
  }
}

template <class V, class Element>
void linear_few_of(const LinearTask& a) {
  static_assert(kFewTokens == 6);
  switch (a.n_tok) {
    case 1: return few_rows<V, Element, 1>(a);
    case 2: return few_rows<V, Element, 2>(a);
    case 3: return few_rows<V, Element, 3>(a);
    case 4: return few_rows<V, Element, 4>(a);
    case 5: return few_rows<V, Element, 5>(a);
    default: return few_rows<V, Element, 6>(a);
  }
}

template <class V>
void linear_few(const LinearTask& a) {
  switch (a.dtype) {
    case DType::f32: return linear_few_of<V, float>(a);
    case DType::f16: return linear_few_of<V, f16_t>(a);
    case DType::bf16: return linear_few_of<V, bf16_t>(a);
  }
}

// ---- more tokens: K blocks of weights, converted once, times packed tokens ----

template <class V>
void pack_row(const float* x, int64_t k, float* packed, int64_t block_stride) {
  for (int64_t k0 = 0; k0 < k; k0 += kBlockK, packed += block_stride) {
    const int64_t n = k - k0 < kBlockK ? k - k0 : kBlockK;
    for (int64_t i = 0; i < n; i += kLanes) (n - i < kLanes ? V::load(x + k0 + i, n - i) : V::load(x + k0 + i)).store(packed + i);
  }
}

// Rows of W that come from memory while a tile is computed: `step` bytes of each per step
struct Ahead {
  const std::byte* first;
  const std::byte* second;
  int64_t step;
};

// `steps` x 16 further elements for R rows and T tokens; w and x are [.][kBlockK], sums[t * kSubRows + r]
template <class V, int R, int T, bool kAhead>
void dot_tile(const float* w, const float* x, int64_t steps, bool first, V* sums, [[maybe_unused]] Ahead ahead) {
  using Reg = typename V::Reg;
  for (int part = 0; part < kLanes; part += V::kRegLanes) {
    float* const out = reinterpret_cast<float*>(sums) + part;
    Reg acc[R][T];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) acc[r][t] = first ? Reg::zero() : Reg::load(out + (t * kSubRows + r) * kLanes);
    const float* wp = w + part;
    const float* xp = x + part;
    for (int64_t s = 0; s < steps; ++s, wp += kLanes, xp += kLanes) {
      if (kAhead && part == 0) {
        __builtin_prefetch(ahead.first + s * ahead.step, 0, 2);
        __builtin_prefetch(ahead.second + s * ahead.step, 0, 2);
      }
      if constexpr (R <= T) {
        Reg ws[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) ws[r] = Reg::load(wp + r * kBlockK);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          const Reg xt = Reg::load(xp + t * kBlockK);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) acc[r][t] = fma(ws[r], xt, acc[r][t]);
        }
      } else {
        Reg xs[T];
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) xs[t] = Reg::load(xp + t * kBlockK);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const Reg wr = Reg::load(wp + r * kBlockK);
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) acc[r][t] = fma(wr, xs[t], acc[r][t]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) acc[r][t].store(out + (t * kSubRows + r) * kLanes);
  }
}

// One K block: a panel of kSubRows rows times n_tok tokens; x of the first, sums[t * kSubRows + r]. `next` are the rows of the next
// panel, row_bytes apart, n_next of them.
struct PanelTask {
  const float* panel;
  int64_t n_rows;  // a multiple of the tile's
  const float* x;
  int64_t n_tok, steps;
  bool first;
  const std::byte* next;
  int64_t n_next, row_bytes, step_bytes;
};

template <class V, int T>
void dot_tiles(const PanelTask& a, V* sums, int64_t t) {
  constexpr int kR = V::kTileR;
  // Per tile of rows, the first 4 tiles of tokens ask for one row of the next panel each, or the first 2 for two; the others for none:
  // asking again for what is there costs a tenth of the speed.
  const int64_t tile = t / V::kTileT, each = a.n_tok >= kR * V::kTileT ? 1 : 2;
  for (int64_t r = 0; r < a.n_rows; r += kR) {
    const int64_t row = r + tile * each, last = a.n_next - 1;
    if (tile * each < kR && row <= last) {
      const std::byte* const ahead = a.next + row * a.row_bytes;
      dot_tile<V, kR, T, true>(a.panel + r * kBlockK, a.x + t * kBlockK, a.steps, a.first, sums + t * kSubRows + r,
                               {ahead, each == 2 && row < last ? ahead + a.row_bytes : ahead, a.step_bytes});
    } else {
      dot_tile<V, kR, T, false>(a.panel + r * kBlockK, a.x + t * kBlockK, a.steps, a.first, sums + t * kSubRows + r, {});
    }
  }
}

// the last tokens, which fill no tile
template <class V, int T>
void last_tiles(const PanelTask& a, V* sums, int64_t t) {
  if (a.n_tok - t == T) return dot_tiles<V, T>(a, sums, t);
  if constexpr (T > 1) last_tiles<V, T - 1>(a, sums, t);
}

// n rows of n_k elements, row_bytes apart, to [kSubRows][kBlockK] in f32; whole vectors, zeros behind n_k; zero rows behind n
template <class V, class Element>
void convert_panel(const std::byte* w, int64_t row_bytes, int64_t n, int64_t n_k, float* panel) {
  constexpr int64_t kSize = sizeof(Element);
  for (int64_t r = 0; r < kSubRows; ++r, w += row_bytes, panel += kBlockK) {
    int64_t i = 0;
    if (r < n) {
      for (; i + kLanes <= n_k; i += kLanes) V::load(Element{}, w + i * kSize).store(panel + i);
      if (i < n_k) V::load(Element{}, w + i * kSize, n_k - i).store(panel + i);
    } else {
      for (; i < n_k; i += kLanes) V::zero().store(panel + i);
    }
  }
}

template <class V, class Element>
void linear_tile_of(const LinearTask& a) {
  constexpr int64_t kSize = sizeof(Element);
  static_assert(kSubRows % V::kTileR == 0 && kSubRows % kLanes == 0 && kTileRows % kSubRows == 0);
  float* const panel = reinterpret_cast<float*>(a.scratch);
  V* const sums = reinterpret_cast<V*>(panel + kSubRows * kBlockK);  // [n_rows / kSubRows][n_tok][kSubRows]
  const int64_t n_blocks = a.k == 0 ? 1 : (a.k + kBlockK - 1) / kBlockK;
  const int64_t row_bytes = a.k * kSize;
  for (int64_t b = 0; b < n_blocks; ++b) {
    const int64_t n_k = a.k - b * kBlockK < kBlockK ? a.k - b * kBlockK : kBlockK;
    for (int64_t r0 = 0; r0 < a.n_rows; r0 += kSubRows) {
      const int64_t n = a.n_rows - r0 < kSubRows ? a.n_rows - r0 : kSubRows;
      const std::byte* const w = a.w + r0 * row_bytes + b * kBlockK * kSize;
      convert_panel<V, Element>(w, row_bytes, n, n_k, panel);
      PanelTask task;
      task.panel = panel;
      task.n_rows = (n + V::kTileR - 1) / V::kTileR * V::kTileR;
      task.x = a.x + b * a.x_stride;
      task.n_tok = a.n_tok;
      task.steps = (n_k + kLanes - 1) / kLanes;
      task.first = b == 0;
      // the next panel: the rows below, or the next K block of the first rows
      const bool below = r0 + kSubRows < a.n_rows;
      task.next = below ? w + kSubRows * row_bytes : b + 1 < n_blocks ? a.w + (b + 1) * kBlockK * kSize : w;
      task.n_next = below ? (a.n_rows - r0 - kSubRows < kSubRows ? a.n_rows - r0 - kSubRows : kSubRows) : n;
      task.row_bytes = row_bytes;
      task.step_bytes = kLanes * kSize;
      V* const out = sums + r0 * a.n_tok;
      int64_t t = 0;
      for (; t + V::kTileT <= a.n_tok; t += V::kTileT) dot_tiles<V, V::kTileT>(task, out, t);
      if (t < a.n_tok) last_tiles<V, V::kTileT - 1 + (V::kTileT == 1)>(task, out, t);
    }
  }
  for (int64_t r0 = 0; r0 < a.n_rows; r0 += kSubRows)
    for (int64_t t = 0; t < a.n_tok; ++t)
      for (int64_t r = r0; r < r0 + kSubRows && r < a.n_rows; r += kLanes)
        finish_dots(V::sums(sums + r0 * a.n_tok + t * kSubRows + (r - r0)), a.bias ? a.bias + r : nullptr, a.y + t * a.y_stride + r,
                    a.n_rows - r < kLanes ? a.n_rows - r : kLanes, a.activation, a.accumulate);
}

template <class V>
void linear_tile(const LinearTask& a) {
  switch (a.dtype) {
    case DType::f32: return linear_tile_of<V, float>(a);
    case DType::f16: return linear_tile_of<V, f16_t>(a);
    case DType::bf16: return linear_tile_of<V, bf16_t>(a);
  }
}

}  // namespace flexgen::cpu
