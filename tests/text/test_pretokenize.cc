// SPDX-License-Identifier: Apache-2.0
#include "flexgen/text/pretokenize.h"

#include <string>
#include <vector>

#include "support/catch.h"

using namespace flexgen;
using Pieces = std::vector<std::string>;

namespace {
Pieces split(std::string_view text) {
  static const Gpt2Split gpt2;
  Pieces pieces;
  gpt2(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}
}  // namespace

// Expected: regex.findall of Python's regex module with GPT-2's own pattern
TEST_CASE("text is split as GPT-2 does", "[text]") {
  CHECK(split("").empty());
  CHECK(split("Hello world") == Pieces{"Hello", " world"});
  CHECK(split("I'll it's DON'T") == Pieces{"I", "'ll", " it", "'s", " DON", "'", "T"});
  CHECK(split("a  b") == Pieces{"a", " ", " b"});
  CHECK(split("a   ") == Pieces{"a", "   "});
  CHECK(split(" \n x") == Pieces{" \n", " x"});
  CHECK(split("a\n\nb") == Pieces{"a", "\n", "\n", "b"});
  CHECK(split("x1y2 34") == Pieces{"x", "1", "y", "2", " 34"});
  CHECK(split("(a, b)!") == Pieces{"(", "a", ",", " b", ")!"});
  CHECK(split("  !?") == Pieces{" ", " !?"});
  CHECK(split("a\r\nb") == Pieces{"a", "\r", "\n", "b"});
  CHECK(split("\xC2\xB2\xC2\xBD") == Pieces{"\xC2\xB2\xC2\xBD"});                                    // numbers: superscript, fraction
  CHECK(split("a\xE3\x80\x80" "b") == Pieces{"a", "\xE3\x80\x80", "b"});                             // U+3000 is white space
  CHECK(split("a\xC2\x85" "b") == Pieces{"a", "\xC2\x85", "b"});                                     // U+0085 too
  CHECK(split("a\xE1\xA0\x8E" "b") == Pieces{"a", "\xE1\xA0\x8E", "b"});                             // U+180E alone is not:
  CHECK(split("a \xE1\xA0\x8E!b") == Pieces{"a", " \xE1\xA0\x8E!", "b"});                            // it goes with punctuation
  CHECK(split("e\xCC\x81") == Pieces{"e", "\xCC\x81"});                                              // a combining accent is no letter
}

TEST_CASE("long runs are split without recursion", "[text]") {
  for (const std::string& part : {std::string("a"), std::string("\xE6\x97\xA5"), std::string("1"), std::string("!")}) {
    std::string run;
    while (run.size() < 3'000'000) run += part;
    CHECK(split(run) == Pieces{run});
  }
  for (const std::string& part : {std::string(" "), std::string("\xE3\x80\x80")}) {
    std::string run;
    while (run.size() < 3'000'000) run += part;
    CHECK(split(run + part + "!") == (part == " " ? Pieces{run, " !"} : Pieces{run, part, "!"}));
    CHECK(split(run) == Pieces{run});
  }
}
