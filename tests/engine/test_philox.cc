// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 against the known answers that Random123 publishes (tests/kat_vectors), and the range of what is drawn.
#include "flexgen/engine/philox.h"

#include <algorithm>

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("Philox4x32-10 gives the published answers") {
  using Words = std::array<uint32_t, 4>;
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("each part of seed, request, sample and position makes another number") {
  const double one = uniform(1, 2, 3, 4);
  CHECK(uniform(1, 2, 3, 4) == one);
  CHECK(uniform(2, 2, 3, 4) != one);
  CHECK(uniform(1 | uint64_t{1} << 32, 2, 3, 4) != one);
  CHECK(uniform(1, 3, 3, 4) != one);
  CHECK(uniform(1, 2 | uint64_t{1} << 32, 3, 4) != one);
  CHECK(uniform(1, 2, 4, 4) != one);
  CHECK(uniform(1, 2, 3, 5) != one);
}

TEST_CASE("draws are uniform in [0, 1)") {
  constexpr int kDraws = 1 << 16, kBins = 16;
  int count[kBins] = {};
  double least = 1, most = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = uniform(7, 11, 0, static_cast<uint32_t>(i));
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    least = std::min(least, u);
    most = std::max(most, u);
    ++count[static_cast<int>(u * kBins)];
  }
  double chi2 = 0;
  for (const int n : count) chi2 += (n - kDraws / kBins) * (n - kDraws / kBins) / (double(kDraws) / kBins);
  CHECK(chi2 < 37.7);  // 15 degrees of freedom: 0.1 % of true uniforms exceed it
  CHECK(least < 1e-3);
  CHECK(most > 1 - 1e-3);
}
