// SPDX-License-Identifier: Apache-2.0
// More cases, with HuggingFace's results, are in tests/data/tokenizer/variants.json (test_tokenizer.cc).
#include "flexgen/text/added_tokens.h"

#include <string>
#include <vector>

#include "support/catch.h"

using namespace flexgen;

namespace {

AddedToken token(const std::string& content, int32_t id, bool special = false) {
  AddedToken t;
  t.content = content;
  t.id = id;
  t.special = special;
  return t;
}

// "text|#id|text"
std::string cut(const AddedTokens& tokens, std::string_view text, bool parse_special) {
  std::string out;
  const auto add = [&](const std::string& part) { out.append(out.empty() ? "" : "|").append(part); };
  tokens.cut(text, parse_special, [&](std::string_view piece) { add(std::string(piece)); }, [&](int32_t id) { add(fmt::format("#{}", id)); });
  return out;
}

}  // namespace

TEST_CASE("control tokens are cut out only when asked for", "[text]") {
  const AddedTokens tokens({token("</s>", 2, true), token("<x>", 7)});
  CHECK(cut(tokens, "a</s>b<x>c", true) == "a|#2|b|#7|c");
  CHECK(cut(tokens, "a</s>b<x>c", false) == "a</s>b|#7|c");
  CHECK(cut(tokens, "", true) == "");
  CHECK(cut(tokens, "</s></s>", true) == "#2|#2");
}

TEST_CASE("the longest token counts, and a skipped one is skipped whole", "[text]") {
  const AddedTokens tokens({token("ab", 1), token("abcd", 2, true), token("cd", 3)});
  CHECK(cut(tokens, "abcdab", true) == "#2|#1");
  CHECK(cut(tokens, "abcdab", false) == "abcd|#1");
  CHECK(cut(tokens, "abcab", false) == "#1|c|#1");
}

TEST_CASE("of equal contents the first counts", "[text]") {
  const AddedTokens tokens({token("ab", 1), token("ab", 2)});
  CHECK(cut(tokens, "xab", true) == "x|#1");
}

TEST_CASE("white space goes along where the token says so", "[text]") {
  AddedToken left = token("<l>", 1), right = token("<r>", 2);
  left.lstrip = true;
  right.rstrip = true;
  const AddedTokens tokens({left, right});
  CHECK(cut(tokens, "a \t<l> b", false) == "a|#1| b");
  CHECK(cut(tokens, "a <r>\xE3\x80\x80 b", false) == "a |#2|b");
  CHECK(cut(tokens, "<r>  <l>", false) == "#2|#1");
}

TEST_CASE("single words need neighbours that are none", "[text]") {
  AddedToken word = token("cat", 1);
  word.single_word = true;
  const AddedTokens tokens({word});
  CHECK(cut(tokens, "cat", false) == "#1");
  CHECK(cut(tokens, "(cat)", false) == "(|#1|)");
  CHECK(cut(tokens, "cats cat_ 1cat", false) == "cats cat_ 1cat");
  CHECK(cut(tokens, "cat\xCC\x81 cat\xE2\x80\x8D", false) == "cat\xCC\x81 cat\xE2\x80\x8D");  // marks and joiners belong to words
}

TEST_CASE("no added tokens leave the text", "[text]") { CHECK(cut(AddedTokens(), "a</s>", true) == "a</s>"); }
