// SPDX-License-Identifier: Apache-2.0
// f16 (IEEE 754 binary16) and bf16 as bit patterns, and their exact conversions. Rounding is to nearest, ties to even, as the
// hardware does it; NaN stays NaN.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "flexgen/tensor/dtype.h"

namespace flexgen {

struct f16_t { uint16_t bits; };
struct bf16_t { uint16_t bits; };

inline float to_float(f16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t magnitude = h.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return std::bit_cast<float>(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13 | ((magnitude & 0x3FFu) ? 0x400000u : 0u));
  // the 10-bit significand and 5-bit exponent moved to f32's place, then the exponent bias corrected by an exact product
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112f));
}

inline f16_t to_f16(float f) {
  const uint32_t x = std::bit_cast<uint32_t>(f);
  const auto sign = static_cast<uint16_t>(x >> 16 & 0x8000u);
  const uint32_t a = x & 0x7FFFFFFFu;
  if (a > 0x7F800000u) return {static_cast<uint16_t>(sign | 0x7E00u | (a >> 13 & 0x3FFu))};
  if (a >= 0x477FF000u) return {static_cast<uint16_t>(sign | 0x7C00u)};  // 65520 and above round to infinity
  if (a < 0x38800000u) {                                                 // below 2^-14: subnormal; the sum rounds for us
    const float shifted = std::bit_cast<float>(a) + 0.5f;                // ulp of [0.5, 1) is 2^-24, f16's smallest step
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000u))};
  }
  const uint32_t odd = a >> 13 & 1u;
  return {static_cast<uint16_t>(sign | ((a - 0x38000000u + 0xFFFu + odd) >> 13))};
}

inline float to_float(bf16_t b) { return std::bit_cast<float>(static_cast<uint32_t>(b.bits) << 16); }

inline bf16_t to_bf16(float f) {
  const uint32_t x = std::bit_cast<uint32_t>(f);
  if ((x & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<uint16_t>(x >> 16 | 0x40u)};
  return {static_cast<uint16_t>((x + 0x7FFFu + (x >> 16 & 1u)) >> 16)};
}

inline float to_float(float f) { return f; }

// element i of an array of dtype at data (no alignment needed)
inline float load_element(DType t, const std::byte* data, size_t i) {
  if (t == DType::f32) {
    float f;
    std::memcpy(&f, data + 4 * i, 4);
    return f;
  }
  uint16_t bits;
  std::memcpy(&bits, data + 2 * i, 2);
  return t == DType::f16 ? to_float(f16_t{bits}) : to_float(bf16_t{bits});
}

// value rounded to dtype, stored as element i of an array at data (no alignment needed)
inline void store_element(DType t, std::byte* data, size_t i, float value) {
  if (t == DType::f32) {
    std::memcpy(data + 4 * i, &value, 4);
    return;
  }
  const uint16_t bits = t == DType::f16 ? to_f16(value).bits : to_bf16(value).bits;
  std::memcpy(data + 2 * i, &bits, 2);
}

}  // namespace flexgen
