// SPDX-License-Identifier: Apache-2.0
#include "flexgen/base/error.h"

#include "support/errors.h"

using namespace flexgen;

TEST_CASE("exit codes are the contract's", "[base]") {
  CHECK(exit_code(Fault::usage) == 2);
  CHECK(exit_code(Fault::checkpoint) == 3);
  CHECK(exit_code(Fault::io) == 4);
  CHECK(exit_code(Fault::space) == 5);
  CHECK(exit_code(Fault::gpu) == 6);
  CHECK(exit_code(Fault::damaged) == 7);
  CHECK(exit_code(Fault::locked) == 8);
  CHECK(exit_code(Fault::interrupted) == 130);
}

TEST_CASE("names from files cannot reach the terminal raw", "[base]") {
  CHECK(printable("layers.0.attn") == "layers.0.attn");
  CHECK(printable("a\x1b[31mb") == "a\\x1b[31mb");
  CHECK(printable("caf\xC3\xA9") == "caf\xC3\xA9");
  CHECK(printable("\xFF\xC3") == "\\xff\\xc3");
  CHECK(printable("\xE2\x80\xAE") == "\\xe2\\x80\\xae");  // right-to-left override
  CHECK(printable(std::string_view("\0", 1)) == "\\x00");
  CHECK(printable(std::string(1000, 'x')) == std::string(120, 'x') + "...");
}

TEST_CASE("a broken precondition names its values", "[base]") { CHECK_FAULT([] { FG_CHECK(1 > 2, "left {}", 1); }(), Fault::internal, "left 1"); }
