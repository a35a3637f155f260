// SPDX-License-Identifier: Apache-2.0
#include "flexgen/text/utf8.h"

#include <string>
#include <utility>
#include <vector>

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("every character's encoding is one character", "[text]") {
  for (uint32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string s;
    const auto lead = [&](uint32_t byte) { s += static_cast<char>(byte); };
    const auto follow = [&](int shift) { s += static_cast<char>(0x80 | (c >> shift & 0x3F)); };
    if (c < 0x80) lead(c);
    else if (c < 0x800) lead(0xC0 | c >> 6), follow(0);
    else if (c < 0x10000) lead(0xE0 | c >> 12), follow(6), follow(0);
    else lead(0xF0 | c >> 18), follow(12), follow(6), follow(0);
    std::string followed = s;
    followed += 'x';
    const Utf8Step step = next_utf8(followed);
    const bool whole = step.kind == Utf8::character && step.bytes == s.size() && step.code == c;
    if (!whole) FAIL("character " << c);
    for (size_t n = 1; n < s.size(); ++n) {
      const Utf8Step part = next_utf8(std::string_view(s).substr(0, n));
      if (part.kind != Utf8::incomplete || part.bytes != n) FAIL("character " << c << " cut after " << n);
    }
  }
}

// Expected: Python's bytes.decode("utf-8", errors="replace"); R is U+FFFD.
TEST_CASE("what is not UTF-8 is replaced as Python does", "[text]") {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", ""},
      {"abc", "abc"},
      {"\x80", "R"},
      {"\xFF\xFE", "RR"},
      {"\xC0\x80", "RR"},
      {"\xC1\xBF", "RR"},
      {"\xC2", "R"},
      {"\xC2x", "Rx"},
      {"\xE0\x80\x80", "RRR"},
      {"\xE0\xA0", "R"},
      {"\xE0\xA0x", "Rx"},
      {"\xED\xA0\x80", "RRR"},
      {"\xED\x9F", "R"},
      {"\xEF\xBF", "R"},
      {"\xF0\x80\x80\x80", "RRRR"},
      {"\xF0\x90\x80", "R"},
      {"\xF0\x90\x80\xE6\x97\xA5", "R\xE6\x97\xA5"},
      {"\xF4\x90\x80\x80", "RRRR"},
      {"\xF5\x80", "RR"},
      {"\xE6\x97\xE6\x97\xA5", "R\xE6\x97\xA5"},
      {"12345678\xFF" "12345678", "12345678R12345678"},
      {"\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63", "RRRbRc"},  // the example of the Unicode Standard, table 3-8
  };
  for (const auto& [bytes, want] : cases) {
    std::string text;
    for (const char c : want) {
      if (c == 'R') text += kReplacement;
      else text += c;
    }
    CAPTURE(bytes);
    CHECK(replace_invalid_utf8(bytes) == text);
    CHECK(is_utf8(bytes) == (bytes == text));
    CHECK(is_utf8(text));
  }
}

TEST_CASE("characters are taken as soon as they are whole", "[text]") {
  const std::string text = "a\xC3\xA9\xE6\x97\xA5\xF0\x9F\x99\x82z";
  std::string out, held;
  for (const char c : text) {
    held += c;
    held.erase(0, held.size() - take_utf8(held, out));
    CHECK(held.size() <= 3);
    CHECK(is_utf8(out));
  }
  CHECK(out == text);
}

TEST_CASE("white space is Unicode's", "[text]") {
  size_t n = 0;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) n += is_white_space(c);
  CHECK(n == 25);  // PropList.txt lists 25 characters
  for (const char32_t c : {0x09, 0x0D, 0x20, 0x85, 0xA0, 0x3000}) CHECK(is_white_space(c));
  for (const char32_t c : {0x08, 0x0E, 0x1C, 0x180E, 0x200B, 0xFEFF}) CHECK_FALSE(is_white_space(c));
}
