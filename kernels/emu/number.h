// SPDX-License-Identifier: Apache-2.0
// 16-bit floats as the matrix instructions read them: exact, subnormals and NaN included, in a form that vectorises.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/emu/device.h"

namespace flexgen::emu {

template <MatrixType kType>
inline float to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  if constexpr (kType == MatrixType::bf16) {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  } else {
    const uint32_t magnitude = bits & 0x7FFFu;
    const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;  // exponent bias 15 to 127; scales subnormals too
    const uint32_t special = magnitude >= 0x7C00u ? 0x7F800000u : 0;        // infinity and NaN
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
  }
}

}  // namespace flexgen::emu
