// SPDX-License-Identifier: Apache-2.0
#include "tools/terminal_text.h"

#include "support/catch.h"

using flexgen::tools::terminal_safe;

TEST_CASE("text without control characters is shown as it is") {
  CHECK(terminal_safe("") == "");
  CHECK(terminal_safe("To be,\n\tor not: caf\xC3\xA9 \xF0\x9F\x99\x82 \xE2\x80\x94") ==
        "To be,\n\tor not: caf\xC3\xA9 \xF0\x9F\x99\x82 \xE2\x80\x94");
}

TEST_CASE("what would act on the terminal is left out") {
  CHECK(terminal_safe("a\x1b[31mb\rc\x07\x08") == "a[31mbc");
  CHECK(terminal_safe(std::string_view("a\0b\x7f", 4)) == "ab");
  CHECK(terminal_safe("a\xC2\x9B" "31mb") == "a31mb");                          // C1: the one-byte CSI
  CHECK(terminal_safe("a\xE2\x80\xAE" "b\xE2\x81\xA6" "c") == "abc");        // right-to-left override, isolate
  CHECK(terminal_safe("a\x9B" "b\xE2\x80") == "a\xEF\xBF\xBD" "b\xEF\xBF\xBD");  // bytes that are no characters
}
