// SPDX-License-Identifier: Apache-2.0
// Arrays from one number format to another, rounded to nearest even, and how many values of an array are not finite.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "flexgen/base/error.h"
#include "flexgen/tensor/dtype.h"
#include "flexgen/tensor/half.h"

namespace flexgen {

namespace detail {

inline float as_float(float f) { return f; }
inline float as_float(f16_t h) { return to_float(h); }
inline float as_float(bf16_t b) { return to_float(b); }
template <typename To>
To from_float(float f);
template <>
inline float from_float<float>(float f) { return f; }
template <>
inline f16_t from_float<f16_t>(float f) { return to_f16(f); }
template <>
inline bf16_t from_float<bf16_t>(float f) { return to_bf16(f); }

// through small arrays, so that nothing depends on how src and dst are aligned
template <typename From, typename To>
void convert_array(const std::byte* src, std::byte* dst, size_t n) {
  constexpr size_t kChunk = 1024;
  From in[kChunk];
  To out[kChunk];
  for (size_t i = 0; i < n; i += kChunk) {
    const size_t m = n - i < kChunk ? n - i : kChunk;
    std::memcpy(in, src + i * sizeof(From), m * sizeof(From));
    for (size_t k = 0; k < m; ++k) out[k] = from_float<To>(as_float(in[k]));
    std::memcpy(dst + i * sizeof(To), out, m * sizeof(To));
  }
}

template <typename Bits>
uint64_t count_masked(const std::byte* data, size_t n, Bits exponent) {
  uint64_t count = 0;
  for (size_t i = 0; i < n;) {
    uint32_t some = 0;  // of a stretch short enough for 32 bits
    for (const size_t end = n - i < 65536 ? n : i + 65536; i < end; ++i) {
      Bits b;
      std::memcpy(&b, data + i * sizeof(Bits), sizeof(Bits));
      some += (b & exponent) == exponent;
    }
    count += some;
  }
  return count;
}

}  // namespace detail

// n elements; src and dst do not overlap and need no alignment
inline void convert_elements(DType from, const std::byte* src, DType to, std::byte* dst, size_t n) {
  using namespace detail;
  if (from == to) {
    std::memcpy(dst, src, n * size_of(to));
  } else if (from == DType::f32) {
    to == DType::f16 ? convert_array<float, f16_t>(src, dst, n) : convert_array<float, bf16_t>(src, dst, n);
  } else if (from == DType::f16) {
    to == DType::f32 ? convert_array<f16_t, float>(src, dst, n) : convert_array<f16_t, bf16_t>(src, dst, n);
  } else {
    to == DType::f32 ? convert_array<bf16_t, float>(src, dst, n) : convert_array<bf16_t, f16_t>(src, dst, n);
  }
}

// Infinities and NaNs: all exponent bits set
inline uint64_t count_not_finite(DType t, std::span<const std::byte> values) {
  const size_t n = values.size() / size_of(t);
  switch (t) {
    case DType::f32: return detail::count_masked<uint32_t>(values.data(), n, 0x7F800000u);
    case DType::f16: return detail::count_masked<uint16_t>(values.data(), n, 0x7C00u);
    case DType::bf16: return detail::count_masked<uint16_t>(values.data(), n, 0x7F80u);
  }
  return 0;
}

}  // namespace flexgen
