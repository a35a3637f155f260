// SPDX-License-Identifier: Apache-2.0
// Malformed vocabularies, with their whole messages, are in test_tokenizer_spec.cc.
#include "flexgen/text/vocabulary.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;
using Pairs = std::vector<std::pair<std::string, std::string>>;

TEST_CASE("a vocabulary is tokens with ids", "[text]") {
  const Vocabulary v = read_vocabulary({{"a", 0}, {"\xC4\xA0", 5}}, "v");
  CHECK(v.ids.size() == 2);
  CHECK(v.ids.at("\xC4\xA0") == 5);
  CHECK(v.merge_list.empty());
}

TEST_CASE("merges are lines of two pieces; only a version line is no merge", "[text]") {
  CHECK(read_merges(std::string_view("#version: 0.2\na b\n# #\n#v x\n"), "m") == Pairs{{"a", "b"}, {"#", "#"}, {"#v", "x"}});
  CHECK(read_merges(std::string_view("a b\r\nc d"), "m") == Pairs{{"a", "b"}, {"c", "d"}});
  CHECK(read_merges(std::string_view("a b\n\n\r\n"), "m") == Pairs{{"a", "b"}});
  CHECK(read_merges(std::string_view(""), "m").empty());
}

TEST_CASE("merges of a tokenizer.json are strings or pairs", "[text]") {
  const nlohmann::json list = {"a b", {"c", "d e"}};
  CHECK(read_merges(list, "m") == Pairs{{"a", "b"}, {"c", "d e"}});
}

TEST_CASE("merges become ids in order of rank", "[text]") {
  Vocabulary v = read_vocabulary({{"a", 0}, {"b", 1}, {"ab", 2}, {"aba", 3}}, "v");
  v.merge_list = {{"a", "b"}, {"ab", "a"}};
  const auto merges = resolve_merges(v, "m");
  REQUIRE(merges.size() == 2);
  CHECK((merges[1].left == 2 && merges[1].right == 0 && merges[1].result == 3));
  v.merge_list.emplace_back("b", "b");
  CHECK_FAULT(resolve_merges(v, "m"), Fault::checkpoint,
              "m: merge 2 makes 'bb', which the vocabulary lacks. Take vocabulary and merges from the same model");
}

TEST_CASE("every byte needs a token", "[text]") {
  nlohmann::json object;
  for (unsigned b = 0; b < 256; ++b) object[byte_to_character(static_cast<uint8_t>(b))] = 1000 - b;
  const auto ids = byte_tokens(read_vocabulary(object, "v"), "v");
  CHECK(ids[0] == 1000);
  CHECK(ids[255] == 745);
  object.erase("\xC4\xA0");
  CHECK_FAULT(byte_tokens(read_vocabulary(object, "v"), "v"), Fault::checkpoint,
              "v: found no token '\xC4\xA0' for byte 0x20, allowed one for each byte. Only byte-level vocabularies are supported");
}
