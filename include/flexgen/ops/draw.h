// SPDX-License-Identifier: Apache-2.0
// How a token is drawn from a row of logits where a device does it: the settings of engine/sampler.h that it knows, and the random number,
// which is the host's.
#pragma once

#include <cstdint>
#include <limits>

namespace flexgen {

// As it stands: the likeliest token, the lowest id where several are equal
struct Draw {
  double uniform = 0;     // in [0, 1), of engine/philox.h
  double top_p = 1;
  double min_p = 0;
  float temperature = 1;
  int32_t top_k = 1;      // 1 .. kMostDrawn

  bool operator==(const Draw&) const = default;
};

inline constexpr int32_t kMostDrawn = 512;  // tokens that a draw is made among; those that equal the top_k-th count

// In place of a token: there are more than kMostDrawn, because many are equal, and the host has to draw
inline constexpr int32_t kNotDrawn = std::numeric_limits<int32_t>::min();

}  // namespace flexgen
