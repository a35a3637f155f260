// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/crc32.h"

#include <string>
#include <string_view>

#include "support/catch.h"

using flexgen::crc32;

TEST_CASE("CRC-32 as everybody else computes it", "[format]") {
  const auto of = [](std::string_view s, uint32_t before = 0) { return crc32(std::as_bytes(std::span(s)), before); };
  // python3 -c 'import zlib; print(zlib.crc32(...))'
  CHECK(of("") == 0u);
  CHECK(of("123456789") == 0xCBF43926u);
  CHECK(of("The quick brown fox jumps over the lazy dog") == 0x414FA339u);
  CHECK(of(std::string(32, '\0')) == 0x190A55ADu);
  CHECK(of(std::string(32, '\xFF')) == 0xFF6CAB0Bu);
  for (size_t cut = 0; cut <= 9; ++cut)
    CHECK(of(std::string_view("123456789").substr(cut), of(std::string_view("123456789").substr(0, cut))) == 0xCBF43926u);
}
