// SPDX-License-Identifier: Apache-2.0
#include "flexgen/text/token_table.h"

#include <fmt/format.h>

#include <string_view>

#include "support/catch.h"

using namespace flexgen;

TEST_CASE("tokens are found by their bytes, and bytes by id", "[text]") {
  TokenTable table;
  CHECK(table.find("x") == -1);
  for (int i = 0; i < 5000; ++i) table.add(fmt::format("t{}", i), i % 3 != 0);
  table.add("", false);
  table.add(std::string_view("\0\xFF", 2), true);
  CHECK(table.size() == 5002);
  for (int32_t i = 0; i < 5000; ++i) {
    CHECK(table.bytes(i) == fmt::format("t{}", i));
    CHECK(table.find(fmt::format("t{}", i)) == (i % 3 != 0 ? i : -1));
  }
  CHECK(table.bytes(5000).empty());
  CHECK(table.find(std::string_view("\0\xFF", 2)) == 5001);
  CHECK(table.find("") == -1);
  CHECK(table.find("t5000") == -1);
  CHECK(table.bytes(-1).empty());
  CHECK(table.bytes(5002).empty());
}
