// SPDX-License-Identifier: Apache-2.0
// Comparisons of f32 results: against a reference within a computed tolerance, and bit by bit. Both return "" or a sentence that
// says where and by how much. tests/ops/test_compare.cc shows what they must refuse.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>

#include <fmt/format.h>

namespace flexgen::testing {

struct Tolerance {
  double abs = 0;
  double rel = 0;  // of |want|
};

// tolerance(i) is the Tolerance of element i
template <typename Fn>
std::string difference(std::span<const float> got, std::span<const float> want, Fn&& tolerance) {
  if (got.size() != want.size()) return fmt::format("{} values, wanted {}", got.size(), want.size());
  size_t bad = 0, worst = 0;
  double worst_ratio = -1;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i]) continue;  // equal infinities too
    const Tolerance tol = tolerance(i);
    const double g = static_cast<double>(got[i]), w = static_cast<double>(want[i]);
    const double ratio = std::abs(g - w) / (tol.abs + tol.rel * std::abs(w));
    if (ratio <= 1.0 && std::isfinite(w)) continue;  // accepts only what compares true: NaN is bad
    ++bad;
    const double size = std::isnan(ratio) ? INFINITY : ratio;
    if (size > worst_ratio) worst_ratio = size, worst = i;
  }
  if (bad == 0) return "";
  return fmt::format("{} of {} differ; at {}: found {}, wanted {}, {:.3g} times the tolerance", bad, got.size(), worst, got[worst], want[worst],
                     worst_ratio);
}

inline std::string difference(std::span<const float> got, std::span<const float> want, Tolerance tolerance) {
  return difference(got, want, [&](size_t) { return tolerance; });
}

// Every NaN counts as the same value: which of two NaN operands survives is the compiler's choice
inline std::string bit_difference(std::span<const float> got, std::span<const float> want) {
  if (got.size() != want.size()) return fmt::format("{} values, wanted {}", got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const auto g = std::bit_cast<uint32_t>(got[i]), w = std::bit_cast<uint32_t>(want[i]);
    if (g != w && !(std::isnan(got[i]) && std::isnan(want[i])))
      return fmt::format("at {}: found {} ({:08x}), wanted {} ({:08x})", i, got[i], g, want[i], w);
  }
  return "";
}

}  // namespace flexgen::testing
