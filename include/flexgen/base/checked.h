// SPDX-License-Identifier: Apache-2.0
// Arithmetic on sizes that come from a file: every product and sum is checked, an overflow is a Fault::checkpoint.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "flexgen/base/error.h"

namespace flexgen {

// nullopt-free form for hot paths: true and *out set, or false
[[nodiscard]] inline bool try_mul(uint64_t a, uint64_t b, uint64_t* out) { return !__builtin_mul_overflow(a, b, out); }
[[nodiscard]] inline bool try_add(uint64_t a, uint64_t b, uint64_t* out) { return !__builtin_add_overflow(a, b, out); }

inline uint64_t checked_mul(uint64_t a, uint64_t b, std::string_view what) {
  uint64_t r = 0;
  if (!try_mul(a, b, &r)) fail(Fault::checkpoint, "{}: {} x {} overflows 64 bits", what, a, b);
  return r;
}
inline uint64_t checked_add(uint64_t a, uint64_t b, std::string_view what) {
  uint64_t r = 0;
  if (!try_add(a, b, &r)) fail(Fault::checkpoint, "{}: {} + {} overflows 64 bits", what, a, b);
  return r;
}

// a rounded up to a multiple of step (a power of two or not; step > 0); the caller knows that it does not overflow
template <typename T>
constexpr T round_up(T a, T step) { return (a + step - 1) / step * step; }
template <typename T>
constexpr T div_up(T a, T step) { return (a + step - 1) / step; }

}  // namespace flexgen
