// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
// (SC 2011), section 3.3. A number is a pure function of key and counter: no state is carried, so what a sample draws depends on
// nothing that ran before or beside it.
#pragma once

#include <array>
#include <cstdint>

namespace flexgen {

constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b), static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;  // the golden ratio
    key[1] += 0xBB67AE85;  // the square root of 3, less 1
  }
  return counter;
}

// Uniform in [0, 1) with 53 bits, for one draw: the key is the seed; the counter the request, the sample of that request and the
// position of the token in it.
constexpr double uniform(uint64_t seed, uint64_t request, uint32_t sample, uint32_t position) {
  const auto word = philox4x32({position, sample, static_cast<uint32_t>(request), static_cast<uint32_t>(request >> 32)},
                               {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<double>((uint64_t{word[0]} << 32 | word[1]) >> 11) * 0x1p-53;
}

}  // namespace flexgen
