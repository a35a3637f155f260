// SPDX-License-Identifier: Apache-2.0
// How byte-level tokenizers write bytes as characters: vocabularies and merge lists are text files, so each byte has a printable
// character. Bytes 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for themselves; the other 68, in order, are U+0100, U+0101, ... .
// Source: openai/gpt-2 src/encoder.py, bytes_to_unicode.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "flexgen/text/utf8.h"

namespace flexgen {

namespace detail {

struct ByteMap {
  std::array<char16_t, 256> character{};   // of a byte
  std::array<int16_t, 0x100 + 68> byte{};  // of a character, or -1

  constexpr ByteMap() {
    byte.fill(-1);
    char16_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[b] = printable ? static_cast<char16_t>(b) : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};
inline constexpr ByteMap kByteMap;

}  // namespace detail

// A byte's character in UTF-8: 0x20 is "Ġ"
inline std::string byte_to_character(uint8_t byte) {
  const char16_t c = detail::kByteMap.character[byte];
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

// The bytes that a token's characters (valid UTF-8) stand for; nullopt where one of them stands for no byte
inline std::optional<std::string> characters_to_bytes(std::string_view characters) {
  std::string bytes;
  bytes.reserve(characters.size());
  while (!characters.empty()) {
    const Utf8Step step = next_utf8(characters);
    if (step.kind != Utf8::character || step.code >= detail::kByteMap.byte.size() || detail::kByteMap.byte[step.code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(detail::kByteMap.byte[step.code]));
    characters.remove_prefix(step.bytes);
  }
  return bytes;
}

}  // namespace flexgen
