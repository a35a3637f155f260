// SPDX-License-Identifier: Apache-2.0
// exp, erf and the GELUs in f32 as fixed sequences of IEEE operations, so that every backend gives the same bits. Each is a template
// over V, a pack of f32 lanes (kernels/cpu/vec_*.h; Lane below is one), that offers
//   V{f} broadcast; + - * /; fma(a, b, c) = a*b + c rounded once; select_less(a, b, x, y) = a < b ? x : y; abs(a); copy_sign(a, s);
//   times_pow2(p, t) = p * 2^n in two factors, n = bits(t) - bits(kRoundMagic): the result is rounded once, subnormals included.
// Coefficients are minimax fits (Chebyshev interpolation, then rounded to f32). Error bounds were measured against libm in double by
// tests/ops/test_math.cc over every f32 (FLEXGEN_EXHAUSTIVE=1); it asserts them.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace flexgen::math {

// 1.5 * 2^23: adding it rounds a small float to the nearest integer, ties to even, which then sits in the low bits
inline constexpr float kRoundMagic = 0x1.8p23f;

// e^x within 0.96 ulp (subnormal results within one step of 2^-149); +inf above 88.73, 0 below -103.98, NaN stays NaN
template <class V>
constexpr V exp(V x) {
  x = select_less(x, V{-105.0f}, V{-105.0f}, x);  // e^-105 rounds to 0 and e^89 to infinity
  x = select_less(V{89.0f}, x, V{89.0f}, x);
  const V t = fma(x, V{0x1.715476p+0f}, V{kRoundMagic});  // log2(e)
  const V n = t - V{kRoundMagic};
  V r = fma(n, V{-0x1.62e4p-1f}, x);  // ln 2 in two parts; the first has 16 bits, so n * it is exact
  r = fma(n, V{-0x1.7f7d1cp-20f}, r);
  V p{0x1.6d127p-10f};  // (e^r - 1 - r) / r^2 on [-ln2/2, ln2/2]
  p = fma(p, r, V{0x1.120cd4p-7f});
  p = fma(p, r, V{0x1.555518p-5f});
  p = fma(p, r, V{0x1.5554dcp-3f});
  p = fma(p, r, V{0.5f});
  p = fma(p, r, V{1.0f});
  p = fma(p, r, V{1.0f});
  return times_pow2(p, t);
}

// erf(x) within 1.14 ulp
template <class V>
constexpr V erf(V x) {
  const V a = abs(x);
  const V z = x * x;
  V p{0x1.4a569p-14f};  // erf(x) / x - 1 over x^2 on [0, 1]
  p = fma(p, z, V{-0x1.a45088p-11f});
  p = fma(p, z, V{0x1.541270p-8f});
  p = fma(p, z, V{-0x1.b7fabap-6f});
  p = fma(p, z, V{0x1.ce2d10p-4f});
  p = fma(p, z, V{-0x1.81273ep-2f});
  p = fma(p, z, V{0x1.06eba8p-3f});
  const V small = fma(p, x, x);
  const V c = select_less(V{4.0f}, a, V{4.0f}, a);  // 1 - erf(4) is below half an ulp of 1
  V q{0x1.b77830p-20f};  // ln(1 - erf(a)) on [1, 4]
  q = fma(q, c, V{-0x1.825ce4p-15f});
  q = fma(q, c, V{0x1.38e5e6p-11f});
  q = fma(q, c, V{-0x1.37ecc6p-8f});
  q = fma(q, c, V{0x1.b0e246p-6f});
  q = fma(q, c, V{-0x1.c2e356p-4f});
  q = fma(q, c, V{-0x1.437eb4p-1f});
  q = fma(q, c, V{-0x1.2156fap+0f});
  q = fma(q, c, V{0x1.4fb068p-12f});
  const V large = copy_sign(V{1.0f} - exp(q), x);
  return select_less(V{1.0f}, a, large, small);  // NaN takes small, which is NaN
}

// 0.5 x (1 + erf(x / sqrt 2)), the "gelu" of HF, within 1.4e-7 of max(|gelu(x)|, |x| / 2)
template <class V>
constexpr V gelu_erf(V x) {
  return (V{0.5f} * x) * (V{1.0f} + erf(x * V{0x1.6a09e6p-1f}));
}

// 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), the "gelu_new" of HF, within 1.5e-7 likewise; 1 + tanh(u) is 2 / (1 + e^-2u)
template <class V>
constexpr V gelu_tanh(V x) {
  const V minus_2u = x * fma(x * x, V{-0x1.2444f2p-4f}, V{-0x1.988454p+0f});  // -2 sqrt(2/pi) x (0.044715 x^2 + 1)
  return x / (V{1.0f} + exp(minus_2u));
}

// One lane, for code without vectors
struct Lane {
  float v = 0;

  explicit Lane(float f) : v(f) {}
  friend Lane operator+(Lane a, Lane b) { return Lane{a.v + b.v}; }
  friend Lane operator-(Lane a, Lane b) { return Lane{a.v - b.v}; }
  friend Lane operator*(Lane a, Lane b) { return Lane{a.v * b.v}; }
  friend Lane operator/(Lane a, Lane b) { return Lane{a.v / b.v}; }
  friend Lane fma(Lane a, Lane b, Lane c) { return Lane{std::fma(a.v, b.v, c.v)}; }
  friend Lane select_less(Lane a, Lane b, Lane x, Lane y) { return a.v < b.v ? x : y; }
  friend Lane abs(Lane a) { return Lane{std::fabs(a.v)}; }
  friend Lane copy_sign(Lane a, Lane s) { return Lane{std::copysign(a.v, s.v)}; }
  friend Lane times_pow2(Lane p, Lane t) {
    const int32_t n = std::bit_cast<int32_t>(std::bit_cast<uint32_t>(t.v) - std::bit_cast<uint32_t>(kRoundMagic));
    const int32_t half = n >> 1;
    return Lane{p.v * power(half) * power(n - half)};
  }

 private:
  static float power(int32_t n) { return std::bit_cast<float>((static_cast<uint32_t>(n) + 127u) << 23); }
};

}  // namespace flexgen::math
