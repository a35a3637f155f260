// SPDX-License-Identifier: Apache-2.0
// CRC-32 as zip archives have it (reflected polynomial 0xEDB88320, as in ISO 3309), eight bytes a step with eight tables.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace flexgen {

namespace detail {

inline constexpr std::array<std::array<uint32_t, 256>, 8> kCrcTables = [] {
  std::array<std::array<uint32_t, 256>, 8> t{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
    t[0][i] = c;
  }
  for (uint32_t i = 0; i < 256; ++i)
    for (size_t k = 1; k < 8; ++k) t[k][i] = t[k - 1][i] >> 8 ^ t[0][t[k - 1][i] & 0xFF];
  return t;
}();

}  // namespace detail

// crc of the bytes before (0 at the beginning) -> crc with these bytes added
inline uint32_t crc32(std::span<const std::byte> bytes, uint32_t crc = 0) {
  static_assert(std::endian::native == std::endian::little);
  const auto& t = detail::kCrcTables;
  uint32_t c = ~crc;
  const auto* p = reinterpret_cast<const unsigned char*>(bytes.data());
  size_t n = bytes.size();
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t x;
    std::memcpy(&x, p, 8);
    x ^= c;
    c = t[7][x & 0xFF] ^ t[6][x >> 8 & 0xFF] ^ t[5][x >> 16 & 0xFF] ^ t[4][x >> 24 & 0xFF] ^ t[3][x >> 32 & 0xFF] ^ t[2][x >> 40 & 0xFF] ^
        t[1][x >> 48 & 0xFF] ^ t[0][x >> 56];
  }
  for (; n > 0; ++p, --n) c = t[0][(c ^ *p) & 0xFF] ^ c >> 8;
  return ~c;
}

}  // namespace flexgen
