// SPDX-License-Identifier: Apache-2.0
#include "flexgen/tensor/convert.h"

#include <limits>
#include <random>
#include <vector>

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("arrays convert as their elements do, at any alignment", "[tensor]") {
  std::mt19937 random(7);
  const auto from = GENERATE(DType::f32, DType::f16, DType::bf16);
  const auto to = GENERATE(DType::f32, DType::f16, DType::bf16);
  for (const size_t n : {size_t{0}, size_t{1}, size_t{1023}, size_t{2500}}) {
    std::vector<std::byte> src(1 + n * size_of(from)), dst(1 + n * size_of(to), std::byte{0xEE});
    for (std::byte& b : src) b = static_cast<std::byte>(random());
    convert_elements(from, src.data() + 1, to, dst.data() + 1, n);
    size_t wrong = 0;
    for (size_t i = 0; i < n; ++i) {
      std::byte want[4];
      if (from == to) std::memcpy(want, src.data() + 1 + i * size_of(from), size_of(from));
      else store_element(to, want, 0, load_element(from, src.data() + 1, i));
      wrong += std::memcmp(want, dst.data() + 1 + i * size_of(to), size_of(to)) != 0;
    }
    CHECK(wrong == 0);
    CHECK(dst[0] == std::byte{0xEE});
  }
}

TEST_CASE("values that are not finite are counted", "[tensor]") {
  for (const DType t : {DType::f32, DType::f16, DType::bf16}) {
    std::vector<std::byte> v(200'000 * size_of(t));
    CHECK(count_not_finite(t, v) == 0);
    for (size_t i = 0; i < 200'000; ++i) store_element(t, v.data(), i, -65504.0f);
    CHECK(count_not_finite(t, v) == 0);
    store_element(t, v.data(), 0, std::numeric_limits<float>::infinity());
    store_element(t, v.data(), 70'000, -std::numeric_limits<float>::infinity());
    store_element(t, v.data(), 199'999, std::numeric_limits<float>::quiet_NaN());
    CHECK(count_not_finite(t, v) == 3);
  }
}
