// SPDX-License-Identifier: Apache-2.0
// Malformed files, with their whole messages, are in test_tokenizer_spec.cc.
#include "flexgen/text/special_tokens.h"

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "support/catch.h"

using namespace flexgen;
using Json = nlohmann::json;

namespace {
const std::map<std::string, int32_t, std::less<>> kIds{{"</s>", 2}, {"<pad>", 1}, {"x", 5}};
}

TEST_CASE("tokens are strings or objects with flags", "[text]") {
  const AddedToken plain = read_added_token("<s>", "t");
  CHECK(plain.content == "<s>");
  CHECK_FALSE(plain.normalized);
  const AddedToken flags = read_added_token({{"content", "a"}, {"lstrip", true}, {"single_word", true}, {"special", true}}, "t");
  CHECK((flags.lstrip && flags.single_word && flags.special && !flags.rstrip && !flags.normalized));
  CHECK(read_added_token({{"content", "a"}}, "t").normalized);
}

TEST_CASE("named tokens are special and get the vocabulary's ids; unknown ones are left out", "[text]") {
  SpecialTokens tokens;
  tokens.name({{"bos_token", "</s>"},
               {"pad_token", {{"content", "<pad>"}}},
               {"mask_token", "<mask>"},
               {"sep_token", nullptr},
               {"additional_special_tokens", {"x", "unknown"}}},
              "c");
  tokens.name_default("bos_token", "x");    // named already
  tokens.name_default("eos_token", "</s>");
  CHECK(tokens.content("bos_token") == "</s>");
  CHECK(tokens.content("eos_token") == "</s>");
  CHECK_FALSE(tokens.content("sep_token").has_value());
  std::map<std::string, int32_t> found;
  for (const AddedToken& t : tokens.resolve(kIds, "s")) {
    CHECK(t.special);
    found[t.content] = t.id;
  }
  CHECK(found == std::map<std::string, int32_t>{{"</s>", 2}, {"<pad>", 1}, {"x", 5}});
}

TEST_CASE("a later file overrides names, and null takes one away", "[text]") {
  SpecialTokens tokens;
  tokens.name({{"bos_token", "</s>"}, {"pad_token", "<pad>"}}, "a");
  tokens.name({{"bos_token", "x"}, {"pad_token", nullptr}}, "b");
  CHECK(tokens.content("bos_token") == "x");
  CHECK_FALSE(tokens.content("pad_token").has_value());
}

TEST_CASE("the first to describe a token decides its flags, any one makes it special", "[text]") {
  SpecialTokens tokens;
  tokens.add_list(Json::array({{{"id", 5}, {"content", "x"}, {"lstrip", true}}}), "l");
  tokens.add_decoder({{"5", {{"content", "x"}, {"special", true}, {"rstrip", true}}}, {"9", "y"}}, "d");
  tokens.add_encoder({{"z", 10}}, "e");
  const auto all = tokens.resolve(kIds, "s");
  REQUIRE(all.size() == 3);
  CHECK((all[0].content == "x" && all[0].id == 5 && all[0].lstrip && !all[0].rstrip && all[0].special));
  CHECK((all[1].content == "y" && all[1].id == 9 && !all[1].special));
  CHECK((all[2].content == "z" && all[2].id == 10 && all[2].normalized));
}
