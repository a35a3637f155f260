// SPDX-License-Identifier: Apache-2.0
// 16 f32 lanes in an array, for CPUs that none of the others fits. std::fma is exact everywhere, and slow where the CPU lacks it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "flexgen/ops/math.h"
#include "flexgen/tensor/half.h"

namespace flexgen::cpu::portable {

struct V {
  float v[16];

  V() = default;
  explicit V(float f) {
    for (float& e : v) e = f;
  }
  static V zero() { return V{0.0f}; }

  // 16 elements, or the first n < 16 and zeros; no alignment needed
  static V load(const float* p, int64_t n = 16) { return load(float{}, reinterpret_cast<const std::byte*>(p), n); }
  template <typename Element>
  static V load(Element, const std::byte* p, int64_t n = 16) {
    V r{0.0f};
    for (int64_t i = 0; i < n; ++i) {
      Element e;
      __builtin_memcpy(&e, p + static_cast<size_t>(i) * sizeof e, sizeof e);
      r.v[i] = to_float(e);
    }
    return r;
  }
  void store(float* p, int64_t n = 16) const { __builtin_memcpy(p, v, static_cast<size_t>(n) * sizeof(float)); }
  void store_f16(std::byte* p, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) store_element(DType::f16, p, static_cast<size_t>(i), v[i]);
  }

  friend V operator+(V a, V b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
  friend V operator-(V a, V b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
  friend V operator*(V a, V b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
  friend V operator/(V a, V b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
  friend V fma(V a, V b, V c) { return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
  friend V sqrt(V a) { return each([&](int i) { return std::sqrt(a.v[i]); }); }
  friend V select_less(V a, V b, V x, V y) { return each([&](int i) { return a.v[i] < b.v[i] ? x.v[i] : y.v[i]; }); }
  friend V abs(V a) { return each([&](int i) { return std::fabs(a.v[i]); }); }
  friend V copy_sign(V a, V s) { return each([&](int i) { return std::copysign(a.v[i], s.v[i]); }); }
  friend V times_pow2(V p, V t) { return each([&](int i) { return times_pow2(math::Lane{p.v[i]}, math::Lane{t.v[i]}).v; }); }

  // lanes j and j+8, then j+4, j+2, j+1
  float sum() const {
    V r = *this;
    for (int half = 8; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) r.v[i] += r.v[i + half];
    return r.v[0];
  }
  float max() const {
    float m = v[0];
    for (float e : v) m = m < e ? e : m;
    return m;
  }
  static V sums(const V* a) { return each([&](int i) { return a[i].sum(); }); }

  using Reg = V;
  static constexpr int kRegLanes = 16;
  static constexpr int kTileR = 1, kTileT = 1;
  static constexpr int few_rows(int) { return 1; }
  static constexpr int kScoreTile = 1;
  static constexpr int kValueTile = 4;

 private:
  template <typename Fn>
  static V each(Fn fn) {
    V r;
    for (int i = 0; i < 16; ++i) r.v[i] = fn(i);
    return r;
  }
};

}  // namespace flexgen::cpu::portable
