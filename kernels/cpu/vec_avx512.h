// SPDX-License-Identifier: Apache-2.0
// 16 f32 lanes in one zmm register. Only backend_avx512.cc includes this.
#pragma once

// g++ 12 takes the undefined operand that its own masked intrinsics pass for a mistake of ours (GCC bug 105593)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstddef>
#include <cstdint>

#include "flexgen/ops/math.h"
#include "flexgen/tensor/half.h"

namespace flexgen::cpu::avx512 {

struct V {
  __m512 v;

  V() = default;
  V(__m512 r) : v(r) {}
  explicit V(float f) : v(_mm512_set1_ps(f)) {}
  static V zero() { return _mm512_setzero_ps(); }

  // 16 elements, or the first n < 16 and zeros; no alignment needed
  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static V load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static V load(float, const std::byte* p) { return _mm512_loadu_ps(p); }
  static V load(float, const std::byte* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static V load(f16_t, const std::byte* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static V load(f16_t, const std::byte* p, int64_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p)); }
  static V load(bf16_t, const std::byte* p) { return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static V load(bf16_t, const std::byte* p, int64_t n) { return from_bf16(_mm256_maskz_loadu_epi16(first(n), p)); }

  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, first(n), v); }
  void store_f16(std::byte* p, int64_t n) const {
    _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  friend V operator+(V a, V b) { return _mm512_add_ps(a.v, b.v); }
  friend V operator-(V a, V b) { return _mm512_sub_ps(a.v, b.v); }
  friend V operator*(V a, V b) { return _mm512_mul_ps(a.v, b.v); }
  friend V operator/(V a, V b) { return _mm512_div_ps(a.v, b.v); }
  friend V fma(V a, V b, V c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
  friend V sqrt(V a) { return _mm512_sqrt_ps(a.v); }
  friend V select_less(V a, V b, V x, V y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v); }
  friend V abs(V a) { return _mm512_abs_ps(a.v); }
  friend V copy_sign(V a, V s) {
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(sign, _mm512_castps_si512(s.v), _mm512_castps_si512(a.v), 0xCA));  // sign ? s : a
  }
  friend V times_pow2(V p, V t) {
    const __m512i n = _mm512_sub_epi32(_mm512_castps_si512(t.v), _mm512_castps_si512(_mm512_set1_ps(math::kRoundMagic)));
    const __m512i half = _mm512_srai_epi32(n, 1);
    return V{_mm512_mul_ps(_mm512_mul_ps(p.v, power(half)), power(_mm512_sub_epi32(n, half)))};
  }

  // lanes j and j+8, then j+4, j+2, j+1
  float sum() const {
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }

  float max() const { return _mm512_reduce_max_ps(v); }

  // lane i of the result is a[i].sum(): at each step two vectors are halved into one, so 15 additions do for all 16
  static V sums(const V* a) {
    __m512 q[4];
    for (int i = 0; i < 4; ++i) {  // of vectors 4i .. 4i+3: their quarters after the first two steps, one 128-bit lane each
      const __m512 x = halve(a[4 * i].v, a[4 * i + 1].v), y = halve(a[4 * i + 2].v, a[4 * i + 3].v);
      // x = [x0 lower, x0 upper, x1 lower, x1 upper] in 128-bit lanes
      q[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x, y, _MM_SHUFFLE(2, 0, 2, 0)), _mm512_shuffle_f32x4(x, y, _MM_SHUFFLE(3, 1, 3, 1)));
    }
    // 128-bit lane m of q[i] holds 4 sums of vector 4i+m: transposed adds leave lane m = [vector m, 4+m, 8+m, 12+m]
    const __m512 a01 = _mm512_add_ps(_mm512_shuffle_ps(q[0], q[1], _MM_SHUFFLE(1, 0, 1, 0)), _mm512_shuffle_ps(q[0], q[1], _MM_SHUFFLE(3, 2, 3, 2)));
    const __m512 a23 = _mm512_add_ps(_mm512_shuffle_ps(q[2], q[3], _MM_SHUFFLE(1, 0, 1, 0)), _mm512_shuffle_ps(q[2], q[3], _MM_SHUFFLE(3, 2, 3, 2)));
    const __m512 r = _mm512_add_ps(_mm512_shuffle_ps(a01, a23, _MM_SHUFFLE(2, 0, 2, 0)), _mm512_shuffle_ps(a01, a23, _MM_SHUFFLE(3, 1, 3, 1)));
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), r);
  }

  // The registers of linear's tile: all 16 partial sums in one
  using Reg = V;
  static constexpr int kRegLanes = 16;
  // Rows x tokens of linear's tile: 24 sums + 4 tokens + 1 weight of 32 registers
  static constexpr int kTileR = 6, kTileT = 4;
  static constexpr int few_rows(int n_tok) { return n_tok <= 3 ? 8 : 4; }  // the tile of linear_few
  static constexpr int kScoreTile = 16;                                    // keys at once in attention
  static constexpr int kValueTile = 8;  // vectors of an output row at once: that many chains of additions

 private:
  static __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
  static __m512 from_bf16(__m256i b) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16)); }
  static __m512 power(__m512i n) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23)); }
  // [a lower + a upper, b lower + b upper] halves of 8 lanes
  static __m512 halve(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, _MM_SHUFFLE(1, 0, 1, 0)), _mm512_shuffle_f32x4(a, b, _MM_SHUFFLE(3, 2, 3, 2)));
  }
};

}  // namespace flexgen::cpu::avx512
