// SPDX-License-Identifier: Apache-2.0
#include "flexgen/format/crc32_combine.h"

#include <span>
#include <string>

#include "flexgen/format/crc32.h"
#include "support/catch.h"

using namespace flexgen;

TEST_CASE("the CRC of a whole follows from those of its parts", "[format]") {
  std::string text;
  for (unsigned i = 0; i < 100000; ++i) text += static_cast<char>(i * i >> 3);
  const auto crc = [](std::string_view s) { return crc32(std::as_bytes(std::span(s))); };
  const std::string_view all = text;
  for (const size_t cut : {size_t{0}, size_t{1}, size_t{7}, size_t{4096}, size_t{65537}, text.size()})
    CHECK(crc32_combine(crc(all.substr(0, cut)), crc(all.substr(cut)), text.size() - cut) == crc(all));
}
