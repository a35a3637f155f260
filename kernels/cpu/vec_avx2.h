// SPDX-License-Identifier: Apache-2.0
// 16 f32 lanes in two ymm registers: lanes 0-7 and 8-15. Only backend_avx2.cc includes this.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "flexgen/ops/math.h"
#include "flexgen/tensor/half.h"

namespace flexgen::cpu::avx2 {

// 8 lanes: what linear's tile keeps in registers
struct Half {
  __m256 v;
  static Half zero() { return {_mm256_setzero_ps()}; }
  static Half load(const float* p) { return {_mm256_loadu_ps(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  friend Half fma(Half a, Half b, Half c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
};

struct V {
  __m256 lo, hi;

  V() = default;
  V(__m256 l, __m256 h) : lo(l), hi(h) {}
  explicit V(float f) : lo(_mm256_set1_ps(f)), hi(lo) {}
  static V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }

  // 16 elements, or the first n < 16 and zeros; no alignment needed
  static V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static V load(const float* p, int64_t n) { return load(float{}, reinterpret_cast<const std::byte*>(p), n); }
  static V load(float, const std::byte* p) { return load(reinterpret_cast<const float*>(p)); }
  static V load(float, const std::byte* p, int64_t n) {
    const float* f = reinterpret_cast<const float*>(p);
    return {_mm256_maskload_ps(f, first(n)), _mm256_maskload_ps(f + 8, first(n - 8))};
  }
  static V load(f16_t, const std::byte* p) { return {_mm256_cvtph_ps(load8(p)), _mm256_cvtph_ps(load8(p + 16))}; }
  static V load(bf16_t, const std::byte* p) { return {from_bf16(load8(p)), from_bf16(load8(p + 16))}; }
  static V load(f16_t t, const std::byte* p, int64_t n) { return load_tail(t, p, n); }
  static V load(bf16_t t, const std::byte* p, int64_t n) { return load_tail(t, p, n); }

  void store(float* p) const { _mm256_storeu_ps(p, lo), _mm256_storeu_ps(p + 8, hi); }
  void store(float* p, int64_t n) const { _mm256_maskstore_ps(p, first(n), lo), _mm256_maskstore_ps(p + 8, first(n - 8), hi); }
  void store_f16(std::byte* p, int64_t n) const {
    __m128i h[2] = {_mm256_cvtps_ph(lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                    _mm256_cvtps_ph(hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
    __builtin_memcpy(p, h, static_cast<size_t>(2 * n));
  }

  friend V operator+(V a, V b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  friend V operator-(V a, V b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  friend V operator*(V a, V b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  friend V operator/(V a, V b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  friend V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
  friend V sqrt(V a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
  friend V select_less(V a, V b, V x, V y) {
    return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)), _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
  }
  friend V abs(V a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
  }
  friend V copy_sign(V a, V s) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_or_ps(_mm256_andnot_ps(sign, a.lo), _mm256_and_ps(sign, s.lo)),
            _mm256_or_ps(_mm256_andnot_ps(sign, a.hi), _mm256_and_ps(sign, s.hi))};
  }
  friend V times_pow2(V p, V t) { return {scaled(p.lo, t.lo), scaled(p.hi, t.hi)}; }

  // lanes j and j+8, then j+4, j+2, j+1
  float sum() const {
    const __m256 a = _mm256_add_ps(lo, hi);
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }

  float max() const {
    const __m256 a = _mm256_max_ps(lo, hi);
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }

  // lane i of the result is a[i].sum()
  static V sums(const V* a) { return {sums8(a), sums8(a + 8)}; }

  // The registers of linear's tile: the tile passes twice, for lanes 0-7 and 8-15, so that more dot products fit
  using Reg = Half;
  static constexpr int kRegLanes = 8;
  static constexpr int kTileR = 4, kTileT = 3;  // 12 sums + 3 tokens + 1 weight of 16 registers
  static constexpr int few_rows(int n_tok) { return n_tok == 1 ? 4 : n_tok <= 3 ? 2 : 1; }
  static constexpr int kScoreTile = 4;  // keys at once in attention
  static constexpr int kValueTile = 4;  // vectors of an output row at once: that many chains of additions

 private:
  static __m256i first(int64_t n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
  static __m128i load8(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static __m256 from_bf16(__m128i b) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(b), 16)); }
  template <typename Half16>
  static V load_tail(Half16 t, const std::byte* p, int64_t n) {
    alignas(32) std::byte whole[32] = {};
    __builtin_memcpy(whole, p, static_cast<size_t>(2 * n));
    return load(t, whole);
  }
  static __m256 scaled(__m256 p, __m256 t) {
    const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(_mm256_set1_ps(math::kRoundMagic)));
    const __m256i half = _mm256_srai_epi32(n, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, power(half)), power(_mm256_sub_epi32(n, half)));
  }
  static __m256 power(__m256i n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)); }
  static __m256 sums8(const V* a) {
    __m256 h[8];
    for (int i = 0; i < 8; ++i) h[i] = _mm256_add_ps(a[i].lo, a[i].hi);
    // lower and upper 128 bits of two vectors: [a, b], so that 4 sums of each remain
    __m256 q[4];
    for (int i = 0; i < 4; ++i) {  // vectors i and i+4
      q[i] = _mm256_add_ps(_mm256_permute2f128_ps(h[i], h[i + 4], 0x20), _mm256_permute2f128_ps(h[i], h[i + 4], 0x31));
    }
    const __m256 a01 = _mm256_add_ps(_mm256_shuffle_ps(q[0], q[1], _MM_SHUFFLE(1, 0, 1, 0)), _mm256_shuffle_ps(q[0], q[1], _MM_SHUFFLE(3, 2, 3, 2)));
    const __m256 a23 = _mm256_add_ps(_mm256_shuffle_ps(q[2], q[3], _MM_SHUFFLE(1, 0, 1, 0)), _mm256_shuffle_ps(q[2], q[3], _MM_SHUFFLE(3, 2, 3, 2)));
    return _mm256_add_ps(_mm256_shuffle_ps(a01, a23, _MM_SHUFFLE(2, 0, 2, 0)), _mm256_shuffle_ps(a01, a23, _MM_SHUFFLE(3, 1, 3, 1)));
  }
};

}  // namespace flexgen::cpu::avx2
