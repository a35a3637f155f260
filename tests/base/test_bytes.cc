// SPDX-License-Identifier: Apache-2.0
#include "flexgen/base/bytes.h"

#include <cstdint>
#include <string>

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;

TEST_CASE("sizes are read with binary, decimal and no units", "[base]") {
  struct Case { std::string text; uint64_t bytes; };
  const Case cases[] = {
      {"0", 0},           {"4096", 4096},       {"7B", 7},          {"7 B", 7},
      {"1K", 1024},       {"1k", 1024},         {"1KiB", 1024},     {"1kB", 1000},
      {"1KB", 1000},      {"512 MiB", 512_MiB}, {"512MB", 512'000'000}, {"12GiB", 12_GiB},
      {"12G", 12_GiB},    {"1.5GB", 1'500'000'000}, {"1.5GiB", 1536_MiB}, {"2TiB", 2048_GiB},
      {"2TB", 2'000'000'000'000}, {"1e3", 1000}, {"0.5", 1},         {"8388607TiB", 8388607ull << 40},
  };
  for (const Case& c : cases) {
    CAPTURE(c.text);
    if (c.text == "8388607TiB")  // above 9e18: refused rather than rounded into another number
      CHECK_FAULT(parse_bytes(c.text), Fault::usage, "size: found '");
    else
      CHECK(parse_bytes(c.text) == c.bytes);
  }
}

TEST_CASE("what is not a size is refused with what is allowed", "[base]") {
  for (const char* text : {"", " ", "GiB", "-1", "-0.1GiB", "nan", "inf", "1e400", "12Gib", "12 giB ", "12GiBs", "0x10", "1,5GB", "1 2", "12E", "+5",
                           " 5", "9e18K", "8388607TiB"}) {
    CAPTURE(text);
    CHECK_FAULT(parse_bytes(text), Fault::usage, "size: found '");
    CHECK_FAULT(parse_bytes(text), Fault::usage, "Write for example 12GiB");
  }
  CHECK_FAULT(parse_bytes("6QiB", "--memory"), Fault::usage, "--memory: found '6QiB', allowed a number with B, KiB");
  CHECK_FAULT(parse_bytes("\x1b[31m"), Fault::usage, "\\x1b[31m");
}

TEST_CASE("byte counts are printed with three significant digits", "[base]") {
  CHECK(format_bytes(0) == "0 B");
  CHECK(format_bytes(1023) == "1023 B");
  CHECK(format_bytes(1024) == "1.00 KiB");
  CHECK(format_bytes(10 * 1024) == "10.0 KiB");
  CHECK(format_bytes(300_MiB) == "300 MiB");
  CHECK(format_bytes(12_GiB + 512_MiB) == "12.5 GiB");
  CHECK(format_bytes(UINT64_MAX) == "16384 PiB");
}

TEST_CASE("numbers are grouped by thousands", "[base]") {
  CHECK(with_commas(0) == "0");
  CHECK(with_commas(999) == "999");
  CHECK(with_commas(1000) == "1,000");
  CHECK(with_commas(1234567) == "1,234,567");
  CHECK(with_commas(UINT64_MAX) == "18,446,744,073,709,551,615");
}
