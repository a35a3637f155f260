// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/little_endian.h"

#include "support/catch.h"

using flexgen::load_le;

TEST_CASE("little-endian integers at any place", "[format]") {
  const std::string_view s("\x01\x02\xFE\xFF\x80\x00\x00\x00\xF1", 9);
  CHECK(load_le<uint8_t>(s, 2) == 0xFE);
  CHECK(load_le<uint16_t>(s, 0) == 0x0201);
  CHECK(load_le<uint16_t>(s, 2) == 0xFFFE);
  CHECK(load_le<uint32_t>(s, 1) == 0x80FFFE02u);
  CHECK(load_le<uint64_t>(s, 1) == 0xF100000080FFFE02u);
}
