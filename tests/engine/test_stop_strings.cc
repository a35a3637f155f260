// SPDX-License-Identifier: Apache-2.0
// Text ends before a stop string however it is cut into pieces, and no byte of one is ever shown.
#include "flexgen/engine/stop_strings.h"

#include <random>

#include "support/catch.h"

using namespace flexgen;

namespace {

struct Shown {
  std::string text;
  std::optional<size_t> matched;
};

// pushes text in pieces of `step` bytes
Shown stream(const std::vector<std::string>& stops, const std::string& text, size_t step = 1) {
  StopMatcher m(stops);
  Shown s;
  for (size_t i = 0; i < text.size(); i += step) s.text += m.push(std::string_view(text).substr(i, step));
  s.text += m.finish();
  s.matched = m.matched();
  return s;
}

// The definition, spelt out: the least end; of those the longest.
Shown slow(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t k = 0; k < stops.size(); ++k)
      if (text.substr(0, end).ends_with(stops[k]) && (!best || stops[k].size() > stops[*best].size())) best = k;
    if (best) return {text.substr(0, end - stops[*best].size()), best};
  }
  return {text, std::nullopt};
}

}  // namespace

TEST_CASE("text without a stop string comes through whole") {
  CHECK(stream({}, "all of it").text == "all of it");
  CHECK(stream({"xyz"}, "all of it").text == "all of it");
  CHECK_FALSE(stream({"xyz"}, "all of it").matched);
}

TEST_CASE("what may become a stop string is held back until it is decided") {
  StopMatcher m({"\n\nHuman:"});
  CHECK(m.push("well") == "well");
  CHECK(m.push("\n") == "");
  CHECK(m.push("\nHum") == "");
  CHECK(m.push("ble") == "\n\nHumble");
  CHECK(m.push("\n\n") == "");
  CHECK(m.push("\nHuman") == "\n");
  CHECK(m.push(": what") == "");
  CHECK(m.matched() == 0u);
  CHECK(m.push("more") == "");
  CHECK(m.finish() == "");
}

TEST_CASE("what is held back at the end is shown") {
  StopMatcher m({"STOP"});
  CHECK(m.push("a STO") == "a ");
  CHECK(m.finish() == "STO");
  CHECK(m.finish() == "");
}

TEST_CASE("the stop string that is complete first wins, of those ending together the longest") {
  CHECK(stream({"abcd", "bc"}, "xabcdy").text == "xa");
  CHECK(stream({"bc", "abc"}, "xabcdy").text == "x");
  CHECK(stream({"abc", "bc"}, "xabcdy").matched == 0u);
}

TEST_CASE("a stop string that overlaps itself is found") {
  CHECK(stream({"aab"}, "aaaab!").text == "aa");
  CHECK(stream({"abab"}, "abaabab").text == "aba");
}

TEST_CASE("any cut of any text gives what the definition says, and never shows a byte of a stop string") {
  std::mt19937 random(11);
  const auto word = [&](size_t n) {
    std::string s;
    for (size_t i = 0; i < n; ++i) s += static_cast<char>('a' + random() % 2);
    return s;
  };
  int stopped = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (size_t k = 0; k < 1 + random() % 4; ++k) stops.push_back(word(1 + random() % 6));
    const std::string text = word(random() % 40);
    const Shown want = slow(stops, text);
    for (const size_t step : {1, 2, 3, 40}) {
      const Shown got = stream(stops, text, step);
      REQUIRE(got.text == want.text);
      REQUIRE(got.matched.has_value() == want.matched.has_value());
    }
    stopped += want.matched.has_value();
    // at every moment what was shown is a prefix of the final text
    StopMatcher m(stops);
    std::string shown;
    for (const char c : text) {
      shown += m.push(std::string(1, c));
      REQUIRE(want.text.starts_with(shown));
    }
  }
  CHECK(stopped > 1000);
}
