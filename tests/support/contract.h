// SPDX-License-Identifier: Apache-2.0
// The arithmetic contract of ops/ops.h written out one scalar operation at a time. f32 backends must equal it bit by bit.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "flexgen/ops/math.h"
#include "flexgen/ops/ops.h"

namespace flexgen::testing {

inline float lanes_sum(std::array<float, 16> s) {
  for (size_t half : {8u, 4u, 2u, 1u})
    for (size_t j = 0; j < half; ++j) s[j] += s[j + half];
  return s[0];
}

// a(k) and b(k) for k in [0, K); elements behind K count as 0 * 0
template <typename A, typename B>
float contract_dot(int64_t k, A&& a, B&& b) {
  std::array<float, 16> s{};
  for (int64_t i = 0; i < (k + 15) / 16 * 16; ++i) {
    const auto j = static_cast<size_t>(i % 16);
    s[j] = std::fma(i < k ? a(i) : 0.0f, i < k ? b(i) : 0.0f, s[j]);
  }
  return lanes_sum(s);
}

inline float contract_activation(Activation a, float x) {
  switch (a) {
    case Activation::none: return x;
    case Activation::relu: return x < 0 ? 0.0f : x;
    case Activation::gelu_erf: return math::gelu_erf(math::Lane{x}).v;
    case Activation::gelu_tanh: return math::gelu_tanh(math::Lane{x}).v;
  }
  return x;
}

}  // namespace flexgen::testing
