// SPDX-License-Identifier: Apache-2.0
// Text that a model wrote, made safe for a terminal: nothing in it may move the cursor, change colours or titles, or turn the reading
// direction. Only for terminals; files and pipes get the text as it is.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "flexgen/text/utf8.h"

namespace flexgen::tools {

// Leaves out control characters (C0 but newline and tab, DEL, C1) and those that override the direction of text (U+202A to U+202E,
// U+2066 to U+2069). text: whole characters, as StreamDecoder gives them; other bytes become U+FFFD.
inline std::string terminal_safe(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Step step = next_utf8(text);
    const char32_t c = step.code;
    const bool control = (c < 0x20 && c != U'\n' && c != U'\t') || (c >= 0x7F && c < 0xA0);
    const bool direction = (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
    if (step.kind != Utf8::character) {
      out += kReplacement;
    } else if (!control && !direction) {
      out += text.substr(0, step.bytes);
    }
    text.remove_prefix(step.bytes);
  }
  return out;
}

}  // namespace flexgen::tools
