// SPDX-License-Identifier: Apache-2.0
// The error bounds that ops/math.h states, against libm in double; and, through layer and lane code, the edges.
#include "flexgen/ops/math.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "support/catch.h"

using namespace flexgen;

namespace {

float exp32(float x) { return math::exp(math::Lane{x}).v; }
float erf32(float x) { return math::erf(math::Lane{x}).v; }
float gelu_erf32(float x) { return math::gelu_erf(math::Lane{x}).v; }
float gelu_tanh32(float x) { return math::gelu_tanh(math::Lane{x}).v; }

// distance in units of the last place of `want` as an f32
double ulps(float got, double want) {
  int exponent = 0;
  std::frexp(want, &exponent);
  return std::abs(static_cast<double>(got) - want) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

// largest fn(x) over positive and negative floats, every `step`-th bit pattern up to `limit`
template <typename Fn>
double largest(float limit, uint32_t step, Fn&& fn) {
  double worst = 0;
  for (uint32_t bits = 0; bits <= std::bit_cast<uint32_t>(limit); bits += step)
    for (float x : {std::bit_cast<float>(bits), -std::bit_cast<float>(bits)}) {
      const double e = fn(x);
      if (!(e <= worst)) worst = e;
    }
  return worst;
}

const float kInfinity = std::numeric_limits<float>::infinity();

// FLEXGEN_EXHAUSTIVE=1 takes every float: the bounds in math.h come from there (minutes)
uint32_t step() { return std::getenv("FLEXGEN_EXHAUSTIVE") ? 1 : 1009; }

}  // namespace

TEST_CASE("exp is within its stated error", "[ops]") {
  const double worst = largest(103.9f, step(), [](float x) { return x > 88.72f ? 0.0 : ulps(exp32(x), std::exp(static_cast<double>(x))); });
  INFO("largest error: " << worst << " ulp");
  CHECK(worst <= 0.96);
}

TEST_CASE("exp at its edges", "[ops]") {
  CHECK(exp32(0) == 1);
  CHECK(exp32(-0.0f) == 1);
  CHECK(exp32(-kInfinity) == 0);
  CHECK(exp32(-1000) == 0);
  CHECK(exp32(-104) == 0);
  CHECK(exp32(-103.9f) == std::numeric_limits<float>::denorm_min());
  CHECK(exp32(88.72f) < kInfinity);
  CHECK(exp32(88.73f) == kInfinity);
  CHECK(exp32(kInfinity) == kInfinity);
  CHECK(std::isnan(exp32(std::nanf(""))));
  CHECK(std::isnan(exp32(-std::nanf(""))));
}

TEST_CASE("erf is within its stated error and odd", "[ops]") {
  const double worst = largest(5.0f, step(), [](float x) { return ulps(erf32(x), std::erf(static_cast<double>(x))); });
  INFO("largest error: " << worst << " ulp");
  CHECK(worst <= 1.14);
  CHECK(erf32(4) == 1);
  CHECK(erf32(-100) == -1);
  CHECK(erf32(kInfinity) == 1);
  CHECK(erf32(-kInfinity) == -1);
  CHECK(std::signbit(erf32(-0.0f)));
  CHECK(std::isnan(erf32(std::nanf(""))));
}

TEST_CASE("the GELUs are within their stated error", "[ops]") {
  // relative to max(|gelu(x)|, |x| / 2): the definition itself, evaluated in f32 as HF does, loses what cancels in 1 + erf
  const auto error = [](float x, float got, double want) {
    return std::abs(static_cast<double>(got) - want) / std::max({std::abs(want), std::abs(static_cast<double>(x)) / 2, 0x1p-126});
  };
  const double erf_worst = largest(30.0f, step(), [&](float x) {
    const double d = static_cast<double>(x);
    return error(x, gelu_erf32(x), 0.5 * d * (1 + std::erf(d * std::sqrt(0.5))));
  });
  const double tanh_worst = largest(30.0f, step(), [&](float x) {
    const double d = static_cast<double>(x);
    return error(x, gelu_tanh32(x), 0.5 * d * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (d + 0.044715 * d * d * d))));
  });
  INFO("largest errors: " << erf_worst << " and " << tanh_worst);
  CHECK(erf_worst <= 1.4e-7);
  CHECK(tanh_worst <= 1.5e-7);
  for (auto gelu : {gelu_erf32, gelu_tanh32}) {
    CHECK(gelu(0) == 0);
    CHECK(gelu(kInfinity) == kInfinity);
    CHECK(gelu(50) == 50);
    CHECK(gelu(-50) == 0);
    CHECK(std::isnan(gelu(std::nanf(""))));
  }
}
