// SPDX-License-Identifier: Apache-2.0
#include "flexgen/text/byte_map.h"

#include <set>
#include <string>

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("each byte has a printable character of its own, and back", "[text]") {
  std::set<std::string> seen;
  for (unsigned b = 0; b < 256; ++b) {
    const std::string c = byte_to_character(static_cast<uint8_t>(b));
    CHECK(seen.insert(c).second);
    CHECK(characters_to_bytes(c) == std::string(1, static_cast<char>(b)));
  }
}

TEST_CASE("the map is GPT-2's", "[text]") {
  CHECK(byte_to_character('!') == "!");
  CHECK(byte_to_character('~') == "~");
  CHECK(byte_to_character(' ') == "\xC4\xA0");   // U+0120
  CHECK(byte_to_character('\n') == "\xC4\x8A");  // U+010A
  CHECK(byte_to_character(0) == "\xC4\x80");     // U+0100
  CHECK(byte_to_character(0x7F) == "\xC4\xA1");  // U+0121
  CHECK(byte_to_character(0xA1) == "\xC2\xA1");  // itself
  CHECK(byte_to_character(0xAD) == "\xC5\x83");  // U+0143, the last
  CHECK(byte_to_character(0xFF) == "\xC3\xBF");
}

TEST_CASE("characters that stand for no byte have none", "[text]") {
  CHECK(characters_to_bytes("") == "");
  CHECK(characters_to_bytes("\xC4\xA0the") == " the");
  CHECK_FALSE(characters_to_bytes("a b"));
  CHECK_FALSE(characters_to_bytes("\xE6\x97\xA5"));
  CHECK_FALSE(characters_to_bytes("\xC5\x84"));  // U+0144, after the last
  CHECK_FALSE(characters_to_bytes("\xC2\xAD"));  // U+00AD, not printable
  CHECK_FALSE(characters_to_bytes("\xFF"));
}
