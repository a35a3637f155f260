// SPDX-License-Identifier: Apache-2.0
// The comparator of all operation tests, tested itself: a comparator that lets a NaN through makes every other test worthless.
#include "support/compare.h"

#include <array>
#include <limits>

#include "support/catch.h"

using namespace flexgen::testing;

namespace {
const float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();
bool same(float got, float want) { return difference(std::array{got}, std::array{want}, Tolerance{1e-6, 1e-5}).empty(); }
bool same_bits(float got, float want) { return bit_difference(std::array{got}, std::array{want}).empty(); }
}  // namespace

TEST_CASE("the comparator refuses what is wrong and accepts what is right", "[ops]") {
  CHECK_FALSE(same(kNan, 1));
  CHECK_FALSE(same(1, kNan));
  CHECK_FALSE(same(kNan, kNan));
  CHECK_FALSE(same(kInf, 1));
  CHECK_FALSE(same(1, kInf));
  CHECK_FALSE(same(-kInf, kInf));
  CHECK_FALSE(same(-5, -500));
  CHECK_FALSE(same(5, -5));
  CHECK_FALSE(same(1, 0));
  CHECK_FALSE(same(0, 1));
  CHECK(same(kInf, kInf));
  CHECK(same(-kInf, -kInf));
  CHECK(same(std::nextafter(1.0f, 2.0f), 1));
  CHECK(same(0.0f, -0.0f));
  CHECK_FALSE(difference(std::array{1.0f}, std::array{1.0f, 2.0f}, Tolerance{1, 1}).empty());
  // a tolerance of zero accepts only what is equal
  CHECK_FALSE(difference(std::array{std::nextafter(1.0f, 2.0f)}, std::array{1.0f}, Tolerance{}).empty());
  CHECK(difference(std::array{1.0f}, std::array{1.0f}, Tolerance{}).empty());
  CHECK(difference(std::array{1.0f, 3.0f, kNan}, std::array{1.0f, 2.0f, 5.0f}, Tolerance{0.5, 0}) ==
        "2 of 3 differ; at 2: found nan, wanted 5, inf times the tolerance");
}

TEST_CASE("the bit comparator sees the sign of zero and one ulp, and takes all NaN for one", "[ops]") {
  CHECK(same_bits(1, 1));
  CHECK(same_bits(kNan, -kNan));
  CHECK_FALSE(same_bits(0.0f, -0.0f));
  CHECK_FALSE(same_bits(1, std::nextafter(1.0f, 2.0f)));
  CHECK_FALSE(same_bits(kNan, 1));
  CHECK_FALSE(same_bits(1, kNan));
  CHECK_FALSE(bit_difference(std::array{1.0f}, std::array{1.0f, 2.0f}).empty());
}
