// SPDX-License-Identifier: Apache-2.0
// Number types of kernels, and pairs of 16-bit floats in the 32-bit registers that matrix instructions take. Needs what vocab.h
// includes before it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "kernels/cuda/core/qualifiers.h"

namespace flexgen::cuda {

template <typename T>
inline constexpr bool kIsHalf = false;
template <>
inline constexpr bool kIsHalf<__half> = true;
template <typename T>
inline constexpr bool kIsBfloat = false;
template <>
inline constexpr bool kIsBfloat<__nv_bfloat16> = true;

FG_DEVICE float to_float(float v) { return v; }
FG_DEVICE float to_float(__half v) { return __half2float(v); }
FG_DEVICE float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

// To nearest, ties to even
template <typename T>
FG_DEVICE T from_float(float v) {
  if constexpr (kIsHalf<T>) {
    return __float2half_rn(v);
  } else if constexpr (kIsBfloat<T>) {
    return __float2bfloat16_rn(v);
  } else {
    return v;
  }
}

// The bits of v as a To; std::bit_cast is not for device code
template <typename To, typename From>
FG_DEVICE To bits(const From& v) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(static_cast<void*>(&to), &v, sizeof(To));
  return to;
}

// Two values as one register, the first in the low half
template <typename T>
FG_DEVICE uint32_t pack(float low, float high) {
  static_assert(kIsHalf<T> || kIsBfloat<T>);
  if constexpr (kIsBfloat<T>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return bits<uint32_t>(pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return bits<uint32_t>(pair);
  }
}

template <typename T>
FG_DEVICE float2 unpack(uint32_t pair) {
  static_assert(kIsHalf<T> || kIsBfloat<T>);
  if constexpr (kIsBfloat<T>) {
    return __bfloat1622float2(bits<__nv_bfloat162>(pair));
  } else {
    return __half22float2(bits<__half2>(pair));
  }
}

}  // namespace flexgen::cuda
