// SPDX-License-Identifier: Apache-2.0
// The CRC-32 of two stretches of bytes from their CRCs and the second's length, so that a large entry can be summed in pieces on several
// threads. Appending n zero bytes multiplies by x^(8n) modulo the polynomial (as zlib's crc32_combine does).
#pragma once

#include <cstdint>

namespace flexgen {

namespace detail {

// a times b modulo the CRC polynomial; bit 31 is the coefficient of x^0
constexpr uint32_t crc_multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = b & 1 ? b >> 1 ^ 0xEDB88320u : b >> 1;
  }
  return product;
}

}  // namespace detail

constexpr uint32_t crc32_combine(uint32_t first, uint32_t second, uint64_t second_bytes) {
  uint32_t power = 1u << 23;  // x^8
  uint32_t shift = 1u << 31;  // x^0
  for (; second_bytes != 0; second_bytes >>= 1) {
    if (second_bytes & 1) shift = detail::crc_multiply(shift, power);
    power = detail::crc_multiply(power, power);
  }
  return detail::crc_multiply(shift, first) ^ second;
}

}  // namespace flexgen
