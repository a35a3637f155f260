// SPDX-License-Identifier: Apache-2.0
#include "flexgen/base/checked.h"

#include <cstdint>

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;

TEST_CASE("products and sums of sizes from a file never wrap", "[base]") {
  CHECK(checked_mul(0, UINT64_MAX, "w") == 0);
  CHECK(checked_mul(UINT64_MAX, 1, "w") == UINT64_MAX);
  CHECK(checked_mul(1ull << 32, (1ull << 32) - 1, "w") == 0xFFFFFFFF00000000ull);
  CHECK_FAULT(checked_mul(1ull << 32, 1ull << 32, "tensor 'w'"), Fault::checkpoint, "tensor 'w': 4294967296 x 4294967296 overflows 64 bits");
  // 4194305 x 4194305 x 211106198978564 is 4 modulo 2^64
  CHECK_FAULT(checked_mul(checked_mul(4194305, 4194305, "w"), 211106198978564, "w"), Fault::checkpoint, "overflows 64 bits");

  CHECK(checked_add(UINT64_MAX, 0, "w") == UINT64_MAX);
  CHECK(checked_add(UINT64_MAX - 1, 1, "w") == UINT64_MAX);
  CHECK_FAULT(checked_add(UINT64_MAX, 1, "end of 'w'"), Fault::checkpoint, "end of 'w': 18446744073709551615 + 1 overflows 64 bits");

  uint64_t out = 0;
  CHECK(try_mul(6, 7, &out));
  CHECK(out == 42);
  CHECK_FALSE(try_mul(UINT64_MAX, 2, &out));
  CHECK(try_add(40, 2, &out));
  CHECK(out == 42);
  CHECK_FALSE(try_add(UINT64_MAX, UINT64_MAX, &out));
}

TEST_CASE("rounding up to a step", "[base]") {
  CHECK(round_up<uint64_t>(0, 4096) == 0);
  CHECK(round_up<uint64_t>(1, 4096) == 4096);
  CHECK(round_up<uint64_t>(4096, 4096) == 4096);
  CHECK(round_up(10, 3) == 12);
  CHECK(div_up(0, 3) == 0);
  CHECK(div_up(9, 3) == 3);
  CHECK(div_up(10, 3) == 4);
}
