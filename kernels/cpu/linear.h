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

// ---- more tokens: panels of weights, converted once, times packed tokens ----

// n tokens in tiles of kTileT and kTileT - 1: no tile is so small that its few chains of additions wait for each other
template <class V>
struct TokenTiles {
  static_assert(kFewTokens + 1 >= (V::kTileT - 1) * (V::kTileT - 2), "n tokens, more than kFewTokens, are a sum of such tiles");
  explicit TokenTiles(int64_t n) : count((n + V::kTileT - 1) / V::kTileT), least(n / count), larger(n % count) {}
  int64_t size(int64_t i) const { return i < larger ? least + 1 : least; }
  int64_t count, least, larger;  // the first `larger` tiles have one more than `least`
};

// One K block of n_tok tokens to [tile][step][token of the tile][kLanes], zeros behind n_k: what a tile reads is one stream
template <class V>
void pack_tokens(const float* x, int64_t x_stride, int64_t n_tok, int64_t n_k, float* packed) {
  const TokenTiles<V> tiles(n_tok);
  for (int64_t i = 0; i < tiles.count; ++i) {
    const int64_t n = tiles.size(i);
    for (int64_t k = 0; k < n_k; k += kLanes)
      for (int64_t t = 0; t < n; ++t, packed += kLanes) {
        const float* const from = x + t * x_stride + k;
        (n_k - k < kLanes ? V::load(from, n_k - k) : V::load(from)).store(packed);
      }
    x += n * x_stride;
  }
}

// The weights of R rows for a tile: from a panel, [step][R][kLanes] in f32 ...
template <class V, int R>
struct PanelRows {
  const float* panel;
  typename V::Reg load(int r, int part) const { return V::Reg::load(panel + r * kLanes + part); }
  void step() { panel += R * kLanes; }
};
// ... or as they lie in memory; the panel is written on the way
template <class V, class Element, int R>
struct StoredRows {
  const std::byte* w;
  int64_t row_bytes;
  float* panel;
  typename V::Reg load(int r, int) const {
    const V row = V::load(Element{}, w + r * row_bytes);
    row.store(panel + r * kLanes);
    return row;
  }
  void step() { w += kLanes * static_cast<int64_t>(sizeof(Element)), panel += R * kLanes; }
};

// What is asked for while a tile is computed, per step: two lines of the next tile's tokens into L1; into L2 `far_step` bytes of one
// or two stretches of what comes later, rows of weights from memory or x of the next pass
struct Ahead {
  const float* x;
  int64_t x_step;         // floats
  const std::byte* far[2];
  int64_t far_step;
};

// `steps` x 16 further elements for R rows and T tokens; x is [step][T][kLanes], sums[t * kGroupRows + r]
template <class V, int R, int T, int kFar, class Weights>
void dot_tile(Weights weights, const float* x, int64_t steps, bool first, V* sums, Ahead ahead) {
  using Reg = typename V::Reg;
  for (int part = 0; part < kLanes; part += V::kRegLanes) {
    float* const out = reinterpret_cast<float*>(sums) + part;
    Weights w = weights;
    const float* xp = x + part;
    Reg acc[R][T];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) acc[r][t] = first ? Reg::zero() : Reg::load(out + (t * kGroupRows + r) * kLanes);
    for (int64_t s = 0; s < steps; ++s, w.step(), xp += T * kLanes) {
      if (part == 0) {
        __builtin_prefetch(ahead.x, 0, 3);
        __builtin_prefetch(ahead.x + kLanes, 0, 3);
        ahead.x += ahead.x_step;
        if constexpr (kFar > 0) __builtin_prefetch(ahead.far[0] + s * ahead.far_step, 0, 2);
        if constexpr (kFar > 1) __builtin_prefetch(ahead.far[1] + s * ahead.far_step, 0, 2);
      }
      Reg xs[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) xs[t] = Reg::load(xp + t * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Reg wr = w.load(r, part);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) acc[r][t] = fma(wr, xs[t], acc[r][t]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) acc[r][t].store(out + (t * kGroupRows + r) * kLanes);
  }
}

// R rows of n_k elements, row_bytes apart, to [step][R][kLanes] in f32; zeros behind n_k, zero rows behind the first n
template <class V, class Element, int R>
void convert_rows(const std::byte* w, int64_t row_bytes, int64_t n, int64_t n_k, float* panel) {
  for (int64_t k = 0; k < n_k; k += kLanes, w += kLanes * static_cast<int64_t>(sizeof(Element)))
    for (int64_t r = 0; r < R; ++r, panel += kLanes) {
      const std::byte* const from = w + r * row_bytes;
      (r >= n ? V::zero() : n_k - k < kLanes ? V::load(Element{}, from, n_k - k) : V::load(Element{}, from)).store(panel);
    }
}

// x that a later pass will take from L2, asked for a tile at a time
struct Later {
  const float* at = nullptr;
  const float* end = nullptr;
};

// One K block of a panel of rows times all tokens
struct PanelTask {
  const std::byte* w;     // the first row, at the K block
  int64_t row_bytes;
  int64_t n_rows, n_k;    // at most kPanelRows, kBlockK
  const float* x;         // packed, of the K block
  int64_t n_tok;
  bool first;             // sums start at zero
  const std::byte* next;  // w of the panel that follows, and its rows; 0: none does
  int64_t n_next;
  Later* later;
};

// One tile of R rows, with what it asks for besides its tokens
template <class V, int R, int T, class Weights>
void dot_tile_ahead(Weights w, const float* x, int64_t steps, bool first, V* sums, int n_far, const Ahead& ahead) {
  if (n_far == 2)
    dot_tile<V, R, T, 2>(w, x, steps, first, sums, ahead);
  else if (n_far == 1)
    dot_tile<V, R, T, 1>(w, x, steps, first, sums, ahead);
  else
    dot_tile<V, R, T, 0>(w, x, steps, first, sums, ahead);
}

// all rows for T tokens, the i-th tile; the first one makes the panel
template <class V, class Element, int T>
void dot_rows(const PanelTask& a, float* panel, const float* x, int64_t i, int64_t n_tiles, V* sums) {
  constexpr int kR = V::kTileR;
  constexpr int64_t kXStep = T * kLanes / (kPanelRows / kR);  // floats: the tiles of rows share the next tile of tokens
  constexpr int64_t kLine = 64;
  const int64_t steps = (a.n_k + kLanes - 1) / kLanes, row_tiles = (a.n_rows + kR - 1) / kR;
  // Each tile asks for one row of the next panel until all are asked for, or two where there are few tiles; the others for later x.
  // Asking again for what is there costs.
  const int64_t each = n_tiles * row_tiles >= a.n_next ? 1 : 2;
  for (int64_t tile = 0; tile < row_tiles; ++tile) {
    float* const rows = panel + tile * kR * steps * kLanes;
    V* const out = sums + tile * kR;
    Ahead ahead = {x + T * steps * kLanes + tile * kXStep * steps, kXStep, {}, kLanes * static_cast<int64_t>(sizeof(Element))};
    int n_far = 0;
    if (const int64_t next = (i * row_tiles + tile) * each; next < a.n_next) {
      n_far = each == 2 && next + 1 < a.n_next ? 2 : 1;
      ahead.far[0] = a.next + next * a.row_bytes;
      ahead.far[1] = ahead.far[0] + a.row_bytes;
    } else if (a.later->at < a.later->end) {
      n_far = 1;
      ahead.far[0] = reinterpret_cast<const std::byte*>(a.later->at);
      ahead.far_step = kLine;
      a.later->at += steps * (kLine / static_cast<int64_t>(sizeof(float)));
    }
    if (i == 0) {
      const int64_t n = a.n_rows - tile * kR;
      const std::byte* const w = a.w + tile * kR * a.row_bytes;
      if constexpr (V::kRegLanes == kLanes) {
        if (n >= kR && a.n_k % kLanes == 0) {
          dot_tile_ahead<V, kR, T>(StoredRows<V, Element, kR>{w, a.row_bytes, rows}, x, steps, a.first, out, n_far, ahead);
          continue;
        }
      }
      convert_rows<V, Element, kR>(w, a.row_bytes, n, a.n_k, rows);
    }
    dot_tile_ahead<V, kR, T>(PanelRows<V, kR>{rows}, x, steps, a.first, out, n_far, ahead);
  }
}

template <class V, class Element>
void dot_panel(const PanelTask& a, float* panel, V* sums) {
  const TokenTiles<V> tiles(a.n_tok);
  const int64_t padded = (a.n_k + kLanes - 1) / kLanes * kLanes;
  const float* x = a.x;
  for (int64_t i = 0; i < tiles.count; ++i) {
    const int64_t n = tiles.size(i);
    if (V::kTileT == 1 || n == V::kTileT)
      dot_rows<V, Element, V::kTileT>(a, panel, x, i, tiles.count, sums);
    else
      dot_rows<V, Element, V::kTileT - (V::kTileT > 1)>(a, panel, x, i, tiles.count, sums);
    x += n * padded;
    sums += n * kGroupRows;
  }
}

// K in passes, whose x stays in L2 while panel after panel goes over it; a panel goes through a pass K block by K block
template <class V, class Element>
void linear_tile_of(const LinearTask& a) {
  constexpr int64_t kSize = sizeof(Element);
  static_assert(kPanelRows % V::kTileR == 0 && kGroupRows % kPanelRows == 0 && kGroupRows % kLanes == 0 && kTileRows % kGroupRows == 0);
  float* const panel = reinterpret_cast<float*>(a.scratch);
  V* const sums = reinterpret_cast<V*>(panel + kPanelRows * kBlockK);  // [group][n_tok][kGroupRows]; one group where K is one pass
  const int64_t row_bytes = a.k * kSize, block_x = kBlockK * a.n_tok, blocks = a.k == 0 ? 1 : (a.k + kBlockK - 1) / kBlockK;
  // K blocks of a pass: all of them, or so many that this pass and the next share L2
  const int64_t half = kPassFloats / 2 / block_x < 1 ? 1 : kPassFloats / 2 / block_x;
  const int64_t passes = blocks * block_x <= kPassFloats ? 1 : (blocks + half - 1) / half, pass = (blocks + passes - 1) / passes;
  for (int64_t b0 = 0; b0 < blocks; b0 += pass) {
    const int64_t b1 = b0 + pass < blocks ? b0 + pass : blocks;
    Later later;
    if (passes > 1) {  // the next pass, or the first one, which the next task begins with
      const int64_t from = b1 < blocks ? b1 : 0, to = from + pass < blocks ? from + pass : blocks - 1;  // the last block may be short
      later = {a.x + from * block_x, a.x + to * block_x};
    }
    for (int64_t g = 0; g < a.n_rows; g += kGroupRows) {
      V* const group = sums + (passes == 1 ? 0 : g * a.n_tok);
      const int64_t end = g + kGroupRows < a.n_rows ? g + kGroupRows : a.n_rows;
      for (int64_t r = g; r < end; r += kPanelRows)
        for (int64_t b = b0; b < b1; ++b) {
          PanelTask task;
          task.w = a.w + r * row_bytes + b * kBlockK * kSize;
          task.row_bytes = row_bytes;
          task.n_rows = end - r < kPanelRows ? end - r : kPanelRows;
          task.n_k = a.k - b * kBlockK < kBlockK ? a.k - b * kBlockK : kBlockK;
          task.x = a.x + b * block_x;
          task.later = &later;
          task.n_tok = a.n_tok;
          task.first = b == 0;
          // on along the rows, down to the rows below, or to the next pass of the first rows
          const bool along = b + 1 < b1, below = r + kPanelRows < a.n_rows, again = b1 < blocks;
          const int64_t left = along ? task.n_rows : below ? a.n_rows - r - kPanelRows : again ? a.n_rows : 0;
          task.next = along ? task.w + kBlockK * kSize : a.w + (below ? (r + kPanelRows) * row_bytes + b0 * kBlockK * kSize : b1 * kBlockK * kSize);
          task.n_next = left < kPanelRows ? left : kPanelRows;
          dot_panel<V, Element>(task, panel, group + (r - g));
        }
      if (b1 < blocks) continue;
      for (int64_t t = 0; t < a.n_tok; ++t)
        for (int64_t r = g; r < end; r += kLanes)
          finish_dots(V::sums(group + t * kGroupRows + (r - g)), a.bias ? a.bias + r : nullptr, a.y + t * a.y_stride + r,
                      end - r < kLanes ? end - r : kLanes, a.activation, a.accumulate);
    }
  }
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
