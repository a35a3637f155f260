// SPDX-License-Identifier: Apache-2.0
// Probabilities of a row of logits, in double: what sampling weighs, and the log-probabilities that are reported. exp is our own
// polynomial, so that a draw does not hang on the C library, and the loops over the vocabulary vectorise.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace flexgen {

// e^x for x <= 0, within 1.5 ulp; 0 where e^x is below the smallest normal double, also for -inf.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r is its Taylor polynomial of degree 13 (the first term left out is below 2^-56);
// ln 2 is in two parts, the first short enough that n times it is exact (Cody and Waite).
inline double exp_nonpositive(double x) {
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kRound = 0x1.8p52;  // adding and subtracting it rounds to a whole number
  const double clamped = x > -708.0 ? x : -708.0;
  const double shifted = clamped * 0x1.71547652b82fep0 + kRound;  // log2(e)
  const double n = shifted - kRound;
  const double r = (clamped - n * kLn2High) - n * kLn2Low;
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * (r * r) + r + 1.0;
  const uint64_t exponent = (std::bit_cast<uint64_t>(shifted) + 1023) << 52;  // the low bits of `shifted` are n
  return x > -708.0 ? p * std::bit_cast<double>(exponent) : 0.0;
}

// The k-th largest of `values`, 1 <= k <= values.size(), in about one pass: what cannot be among the k largest is left out early.
// `buffer` is scratch.
inline float kth_largest(std::span<const float> values, size_t k, std::vector<float>& buffer) {
  buffer.clear();
  const size_t limit = 2 * k + 1024;
  float floor = -std::numeric_limits<float>::infinity();  // the k-th largest of what was seen when the buffer was last cut
  const auto cut = [&] {
    std::nth_element(buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(k - 1), buffer.end(), std::greater<>());
    return buffer[k - 1];
  };
  for (const float v : values) {
    if (!(v > floor) && buffer.size() >= k) continue;
    buffer.push_back(v);
    if (buffer.size() == limit) {
      floor = cut();
      buffer.resize(k);
    }
  }
  return cut();
}

// The largest value, in one order of 16 lanes, which is one vector or several, whatever the compiler has.
inline float largest(std::span<const float> values) {
  constexpr size_t kLanes = 16;
  float lane[kLanes];
  std::fill(lane, lane + kLanes, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) lane[j] = values[i + j] > lane[j] ? values[i + j] : lane[j];
  for (; i < values.size(); ++i) lane[0] = values[i] > lane[0] ? values[i] : lane[0];
  return *std::max_element(lane, lane + kLanes);
}

// the id of the largest value, the lowest id where several are; values is not empty
inline int32_t argmax(std::span<const float> values) {
  return static_cast<int32_t>(std::find(values.begin(), values.end(), largest(values)) - values.begin());
}

inline bool all_finite(std::span<const float> values) {
  uint32_t seen = 0;  // bit 31 where an exponent was all ones
  for (const float v : values) seen |= (std::bit_cast<uint32_t>(v) & 0x7FFFFFFFu) + 0x00800000u;
  return (seen >> 31) == 0;
}

// the sum of e^(value - max), in 8 partial sums and one order
inline double sum_exp(std::span<const float> values, double max) {
  constexpr size_t kLanes = 8;
  double lane[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) lane[j] += exp_nonpositive(static_cast<double>(values[i + j]) - max);
  for (; i < values.size(); ++i) lane[0] += exp_nonpositive(static_cast<double>(values[i]) - max);
  return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
}

// log softmax of one row of logits [V], all finite
class LogSoftmax {
 public:
  explicit LogSoftmax(std::span<const float> logits) : logits_(logits), max_(largest(logits)), log_sum_(std::log(sum_exp(logits, max_))) {}

  double operator[](size_t id) const { return static_cast<double>(logits_[id]) - max_ - log_sum_; }

  // The n likeliest ids (fewer where the vocabulary is smaller), likeliest first, the lower id first where they are equal
  std::vector<std::pair<int32_t, double>> top(size_t n) const {
    n = std::min(n, logits_.size());
    std::vector<std::pair<int32_t, double>> best;
    if (n == 0) return best;
    std::vector<float> buffer;
    const float floor = kth_largest(logits_, n, buffer);
    size_t above = 0;
    for (const float v : logits_) above += v > floor;
    size_t equal = n - above;  // how many of those that equal the n-th have room
    for (size_t id = 0; id < logits_.size(); ++id) {
      if (logits_[id] < floor || (logits_[id] == floor && equal == 0)) continue;
      if (logits_[id] == floor) --equal;
      best.emplace_back(static_cast<int32_t>(id), (*this)[id]);
    }
    std::stable_sort(best.begin(), best.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    return best;
  }

 private:
  std::span<const float> logits_;
  double max_;
  double log_sum_;
};

}  // namespace flexgen
