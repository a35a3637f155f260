// SPDX-License-Identifier: Apache-2.0
// Reference of linear: a double for every dot product and activation, libm in double, one rounding to f32 at the end.
#pragma once

#include <cmath>

#include "flexgen/ops/backend.h"
#include "flexgen/tensor/half.h"

namespace flexgen::ref {

inline double activate(Activation a, double x) {
  switch (a) {
    case Activation::none: return x;
    case Activation::relu: return x < 0 ? 0 : x;
    case Activation::gelu_erf: return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
  }
  return x;
}

inline void linear(const LinearArgs& a, Queue) {
  for (const RowBlock& block : a.w.blocks)
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t n = block.first_row + r;
      for (int64_t t = 0; t < a.x.rows; ++t) {
        double sum = 0;
        for (int64_t k = 0; k < a.w.cols; ++k)
          sum += static_cast<double>(a.x.row(t)[k]) * static_cast<double>(load_element(a.w.dtype, block.data, static_cast<size_t>(r * a.w.cols + k)));
        const double value = activate(a.activation, sum + (a.bias ? static_cast<double>(a.bias[n]) : 0.0));
        float& y = a.y.row(t)[n];
        y = static_cast<float>(a.accumulate ? static_cast<double>(y) + value : value);
      }
    }
}

}  // namespace flexgen::ref
