// SPDX-License-Identifier: Apache-2.0
// Inner loops over one row: layer_norm, and the conversions of embed and kv_append. Templates over V, 16 f32 lanes.
#pragma once

#include "flexgen/tensor/half.h"
#include "kernels/cpu/kernels.h"

namespace flexgen::cpu {

template <class V>
V load_upto(const float* p, int64_t n) {
  return n < kLanes ? V::load(p, n) : V::load(p);
}
template <class V>
void store_upto(V v, float* p, int64_t n) {
  if (n < kLanes)
    v.store(p, n);
  else
    v.store(p);
}

template <class V>
void layer_norm_row(const float* x, const float* gamma, const float* beta, float* y, int64_t n, float eps) {
  const V count{static_cast<float>(n)};
  V sum = V::zero();
  for (int64_t i = 0; i < n; i += kLanes) sum = sum + load_upto<V>(x + i, n - i);
  const V mean = V{sum.sum()} / count;
  V squares = V::zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const V d = V::load(x + i) - mean;
    squares = fma(d, d, squares);
  }
  if (i < n) {  // the lanes behind the row's end must give 0, not mean^2
    float rest[kLanes] = {};
    (V::load(x + i, n - i) - mean).store(rest, n - i);
    const V d = V::load(rest);
    squares = fma(d, d, squares);
  }
  const V scale = V{1.0f} / sqrt(V{squares.sum()} / count + V{eps});
  for (i = 0; i < n; i += kLanes) {
    const V g = gamma ? load_upto<V>(gamma + i, n - i) : V{1.0f};
    const V b = beta ? load_upto<V>(beta + i, n - i) : V::zero();
    store_upto(fma((load_upto<V>(x + i, n - i) - mean) * scale, g, b), y + i, n - i);
  }
}

template <class V, class Element>
void load_row_of(const std::byte* from, float* to, int64_t n, bool accumulate) {
  for (int64_t i = 0; i < n; i += kLanes, from += kLanes * static_cast<int64_t>(sizeof(Element))) {
    V v = n - i < kLanes ? V::load(Element{}, from, n - i) : V::load(Element{}, from);
    if (accumulate) v = load_upto<V>(to + i, n - i) + v;
    store_upto(v, to + i, n - i);
  }
}

// to = from, or += ; exact conversion
template <class V>
void load_row(DType dtype, const std::byte* from, float* to, int64_t n, bool accumulate) {
  switch (dtype) {
    case DType::f32: return load_row_of<V, float>(from, to, n, accumulate);
    case DType::f16: return load_row_of<V, f16_t>(from, to, n, accumulate);
    case DType::bf16: return load_row_of<V, bf16_t>(from, to, n, accumulate);
  }
}

// to = from, rounded to nearest even where dtype is f16
template <class V>
void store_row(DType dtype, const float* from, std::byte* to, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t some = n - i < kLanes ? n - i : kLanes;
    const V v = load_upto<V>(from + i, some);
    if (dtype == DType::f16)
      v.store_f16(to + 2 * i, some);
    else
      store_upto(v, reinterpret_cast<float*>(to) + i, some);
  }
}

}  // namespace flexgen::cpu
