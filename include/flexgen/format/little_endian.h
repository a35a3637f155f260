// SPDX-License-Identifier: Apache-2.0
// Little-endian integers out of a byte string, by index; the caller has checked that they are there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace flexgen {

template <typename T>
T load_le(std::string_view bytes, size_t at) {
  T v = 0;
  for (size_t i = 0; i < sizeof(T); ++i) v = static_cast<T>(v | static_cast<T>(static_cast<T>(static_cast<unsigned char>(bytes[at + i])) << (8 * i)));
  return v;
}

}  // namespace flexgen
