// SPDX-License-Identifier: Apache-2.0
// Little-endian integers as byte strings, and changes in the middle of one: the tests build good and broken files from these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace flexgen::testing {

template <typename T>
std::string le(T value) {
  std::string s;
  for (size_t i = 0; i < sizeof(T); ++i) s += static_cast<char>(static_cast<uint64_t>(value) >> (8 * i));
  return s;
}
inline std::string u16(uint64_t v) { return le(static_cast<uint16_t>(v)); }
inline std::string u32(uint64_t v) { return le(static_cast<uint32_t>(v)); }
inline std::string u64(uint64_t v) { return le(v); }

// parts end to end
template <typename... Parts>
std::string cat(const Parts&... parts) {
  std::string s;
  (s.append(std::string_view(parts)), ...);
  return s;
}

// bytes with what is at [at, at + with.size()) replaced
inline std::string patched(std::string bytes, size_t at, std::string_view with) {
  if (at + with.size() > bytes.size()) throw std::out_of_range("patch passes the end");
  return bytes.replace(at, with.size(), with);
}

// where the n-th (from 0) occurrence of what begins
inline size_t place_of(std::string_view bytes, std::string_view what, size_t n = 0) {
  size_t at = bytes.find(what);
  for (; n > 0 && at != bytes.npos; --n) at = bytes.find(what, at + 1);
  if (at == bytes.npos) throw std::out_of_range("not in the bytes");
  return at;
}

}  // namespace flexgen::testing
