// SPDX-License-Identifier: Apache-2.0
// Reference of layer_norm: two passes in double.
#pragma once

#include <cmath>

#include "flexgen/ops/backend.h"

namespace flexgen::ref {

inline void layer_norm(const LayerNormArgs& a, Queue) {
  const auto n = static_cast<double>(a.x.cols);
  for (int64_t t = 0; t < a.x.rows; ++t) {
    const float* x = a.x.row(t);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < a.x.cols; ++i) sum += static_cast<double>(x[i]);
    const double mean = sum / n;
    for (int64_t i = 0; i < a.x.cols; ++i) squares += (static_cast<double>(x[i]) - mean) * (static_cast<double>(x[i]) - mean);
    const double scale = 1 / std::sqrt(squares / n + static_cast<double>(a.eps));
    for (int64_t i = 0; i < a.x.cols; ++i) {
      const double gamma = a.gamma ? static_cast<double>(a.gamma[i]) : 1.0, beta = a.beta ? static_cast<double>(a.beta[i]) : 0.0;
      a.y.row(t)[i] = static_cast<float>((static_cast<double>(x[i]) - mean) * scale * gamma + beta);
    }
  }
}

}  // namespace flexgen::ref
