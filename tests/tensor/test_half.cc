// SPDX-License-Identifier: Apache-2.0
#include "flexgen/tensor/half.h"

#include <cmath>
#include <limits>

#include "support/catch.h"

using namespace flexgen;

namespace {

// value of an f16 or bf16 bit pattern from the definition of the format, in double
double value(uint32_t bits, int exponent_bits, int significand_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits >> (exponent_bits + significand_bits) & 1 ? -1 : 1;
  const int exponent = static_cast<int>(bits >> significand_bits) & ((1 << exponent_bits) - 1);
  const double significand = bits & ((1u << significand_bits) - 1);
  if (exponent == (1 << exponent_bits) - 1) return significand != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(significand, 1 - bias - significand_bits);
  return sign * std::ldexp(1 + std::ldexp(significand, -significand_bits), exponent - bias);
}

bool same(float a, double b) { return std::isnan(b) ? std::isnan(a) : static_cast<double>(a) == b && std::signbit(a) == std::signbit(b); }

}  // namespace

TEST_CASE("every f16 and bf16 converts to f32 exactly and back to itself", "[tensor]") {
  int bad = 0;
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    if (!same(to_float(f16_t{bits}), value(i, 5, 10)) || !same(to_float(bf16_t{bits}), value(i, 8, 7))) ++bad;
    if (!std::isnan(value(i, 5, 10)) && to_f16(to_float(f16_t{bits})).bits != bits) ++bad;
    if (!std::isnan(value(i, 8, 7)) && to_bf16(to_float(bf16_t{bits})).bits != bits) ++bad;
    if (std::isnan(value(i, 5, 10)) && !std::isnan(to_float(to_f16(to_float(f16_t{bits}))))) ++bad;
    if (std::isnan(value(i, 8, 7)) && !std::isnan(to_float(to_bf16(to_float(bf16_t{bits}))))) ++bad;
  }
  CHECK(bad == 0);
}

TEST_CASE("rounding to f16 and bf16 is to nearest, ties to even", "[tensor]") {
  // between each pair of neighbours: just below the middle, the middle, just above
  int bad = 0;
  for (uint32_t i = 0; i + 1 < 0x7C00; ++i) {
    const double a = value(i, 5, 10), b = value(i + 1, 5, 10);
    const auto middle = static_cast<float>((a + b) / 2);
    if (to_f16(middle).bits != (i & 1 ? i + 1 : i)) ++bad;
    if (to_f16(std::nextafter(middle, 0.0f)).bits != i) ++bad;
    if (to_f16(std::nextafter(middle, 1e9f)).bits != i + 1) ++bad;
    if (to_f16(-middle).bits != (0x8000 | (i & 1 ? i + 1 : i))) ++bad;
  }
  CHECK(bad == 0);
  CHECK(to_f16(65519.996f).bits == 0x7BFF);
  CHECK(to_f16(65520.0f).bits == 0x7C00);
  CHECK(to_f16(1e-30f).bits == 0);
  CHECK(to_bf16(1.00390625f).bits == 0x3F80);   // tie to even
  CHECK(to_bf16(1.01171875f).bits == 0x3F82);   // tie to even, upwards
  CHECK(to_bf16(3.4e38f).bits == 0x7F80);
}
