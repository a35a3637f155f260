// SPDX-License-Identifier: Apache-2.0
// UTF-8 as the tokenizer needs it: is it valid, what replaces what is not, one character at a time. Invalid bytes become U+FFFD, one
// for each maximal subpart (The Unicode Standard, section 3.9, table 3-8), as Python's errors="replace" and Rust's from_utf8_lossy do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace flexgen {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD in UTF-8

enum class Utf8 {
  character,   // a whole character
  broken,      // can never become one, whatever follows
  incomplete,  // the text ends inside a character
};

struct Utf8Step {
  Utf8 kind = Utf8::broken;
  size_t bytes = 0;    // 1 to 4; of a broken or incomplete character its maximal subpart
  char32_t code = 0;   // the character, where it is whole
};

// What text, which is not empty, begins with
inline Utf8Step next_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Utf8::character, 1, lead};
  const size_t n = lead >= 0xC2 && lead <= 0xDF ? 2 : lead >= 0xE0 && lead <= 0xEF ? 3 : lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
  if (n == 0) return {Utf8::broken, 1, 0};
  // the second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t code = lead & (0x7Fu >> n);
  for (size_t i = 1; i < n; ++i) {
    if (i == text.size()) return {Utf8::incomplete, i, 0};
    const bool follows = i == 1 ? byte(i) >= low && byte(i) <= high : (byte(i) & 0xC0) == 0x80;
    if (!follows) return {Utf8::broken, i, 0};
    code = code << 6 | (byte(i) & 0x3Fu);
  }
  return {Utf8::character, n, code};
}

// The bytes at the front of text that are ASCII, counted in steps of 8 (the last few may be missed)
inline size_t ascii_prefix(std::string_view text) {
  size_t i = 0;
  for (uint64_t word = 0; i + 8 <= text.size(); i += 8) {
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080u) break;
  }
  return i;
}

inline bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    text.remove_prefix(ascii_prefix(text));
    if (text.empty()) break;
    const Utf8Step step = next_utf8(text);
    if (step.kind != Utf8::character) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

// Moves whole characters, and U+FFFD for what can never become one, from the front of text to out; returns how many bytes of text
// remain: 0, or up to 3 that begin a character.
inline size_t take_utf8(std::string_view text, std::string& out) {
  while (!text.empty()) {
    const size_t ascii = ascii_prefix(text);
    out.append(text.substr(0, ascii));
    text.remove_prefix(ascii);
    if (text.empty()) break;
    const Utf8Step step = next_utf8(text);
    if (step.kind == Utf8::incomplete) break;
    out.append(step.kind == Utf8::character ? text.substr(0, step.bytes) : kReplacement);
    text.remove_prefix(step.bytes);
  }
  return text.size();
}

inline std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  if (take_utf8(text, out) != 0) out.append(kReplacement);
  return out;
}

// Unicode's White_Space property, which is what \s means in HuggingFace's patterns (PropList.txt: Z*, U+0009 to U+000D, U+0085)
constexpr bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

}  // namespace flexgen
