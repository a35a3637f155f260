// SPDX-License-Identifier: Apache-2.0
// One f32 of a CUDA thread as the pack of ops/math.h: every operation is rounded on its own (nvcc would contract a product and a sum
// into one fma), so exp, erf and the GELUs give the bits that the CPU backends give.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "flexgen/ops/activation.h"
#include "flexgen/ops/math.h"
#include "kernels/cuda/core/vocab.h"

#if defined(__CUDACC__)
#define FG_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FG_HOST_DEVICE inline
#endif

namespace flexgen::cuda {

// Rounded on their own, never contracted
FG_HOST_DEVICE constexpr float add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
FG_HOST_DEVICE constexpr float multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

FG_HOST_DEVICE constexpr double add(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}
FG_HOST_DEVICE constexpr double multiply(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// constexpr throughout: it makes the templates of ops/math.h callable on the device (--expt-relaxed-constexpr), which need not know CUDA
struct Scalar {
  float v;

  FG_HOST_DEVICE constexpr explicit Scalar(float f) : v(f) {}
  FG_HOST_DEVICE friend constexpr Scalar operator+(Scalar a, Scalar b) { return Scalar{add(a.v, b.v)}; }
  FG_HOST_DEVICE friend constexpr Scalar operator-(Scalar a, Scalar b) { return Scalar{add(a.v, -b.v)}; }
  FG_HOST_DEVICE friend constexpr Scalar operator*(Scalar a, Scalar b) { return Scalar{multiply(a.v, b.v)}; }
  FG_HOST_DEVICE friend constexpr Scalar operator/(Scalar a, Scalar b) { return Scalar{a.v / b.v}; }
  FG_HOST_DEVICE friend constexpr Scalar fma(Scalar a, Scalar b, Scalar c) { return Scalar{fmaf(a.v, b.v, c.v)}; }
  FG_HOST_DEVICE friend constexpr Scalar select_less(Scalar a, Scalar b, Scalar x, Scalar y) { return a.v < b.v ? x : y; }
  FG_HOST_DEVICE friend constexpr Scalar abs(Scalar a) { return Scalar{fabsf(a.v)}; }
  FG_HOST_DEVICE friend constexpr Scalar copy_sign(Scalar a, Scalar s) { return Scalar{copysignf(a.v, s.v)}; }
  FG_HOST_DEVICE friend constexpr Scalar times_pow2(Scalar p, Scalar t) {
    const int32_t n = std::bit_cast<int32_t>(std::bit_cast<uint32_t>(t.v) - std::bit_cast<uint32_t>(math::kRoundMagic));
    const int32_t half = n >> 1;
    return Scalar{multiply(multiply(p.v, power(half)), power(n - half))};
  }

 private:
  FG_HOST_DEVICE static constexpr float power(int32_t n) { return std::bit_cast<float>((static_cast<uint32_t>(n) + 127u) << 23); }
};

FG_DEVICE float activate(Activation a, float x) {
  switch (a) {
    case Activation::none: return x;
    case Activation::relu: return x < 0 ? 0.0f : x;
    case Activation::gelu_erf: return math::gelu_erf(Scalar{x}).v;
    case Activation::gelu_tanh: return math::gelu_tanh(Scalar{x}).v;
  }
  return x;
}

}  // namespace flexgen::cuda
