// SPDX-License-Identifier: Apache-2.0
#include "flexgen/text/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "flexgen/format/tokenizer_files.h"
#include "flexgen/text/stream_decoder.h"
#include "support/catch.h"
#include "support/errors.h"

using namespace flexgen;
using testing::shared_data, testing::test_data;

namespace {

Tokenizer open(const std::string& folder) { return Tokenizer::from_files(read_tokenizer_files(folder), folder); }

std::string streamed(const Tokenizer& t, std::span<const int32_t> ids, bool skip_special) {
  StreamDecoder decoder(t, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = decoder.push(id);
    REQUIRE(is_utf8(part));
    text += part;
  }
  return text + decoder.finish();
}

// Every line of a file {"text", "ids", "ids_special"} that HuggingFace's tokenizer made; returns how many there were.
size_t check_golden(const Tokenizer& t, const std::string& path) {
  std::ifstream in(path);
  size_t n = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const auto want = nlohmann::json::parse(line);
    const auto text = want["text"].get<std::string>();
    const auto ids = want["ids"].get<std::vector<int32_t>>();
    CAPTURE(n, text);
    CHECK(t.encode(text) == ids);
    CHECK(t.encode(text, true) == want["ids_special"].get<std::vector<int32_t>>());
    CHECK(t.decode(std::span(ids).subspan(1), false) == text);
    CHECK(streamed(t, std::span(ids).subspan(1), false) == text);
  }
  return n;
}

}  // namespace

TEST_CASE("ids and text equal HuggingFace's over the real OPT vocabulary", "[text]") {
  const auto folder = shared_data("opt-tokenizer"), golden = shared_data("golden/tokenizer/opt.jsonl");
  if (!folder || !golden) return;
  CHECK(check_golden(open(*folder), *golden) == 690);
}

TEST_CASE("ids and text equal HuggingFace's over the bundled OPT's vocabulary", "[text]") {
  CHECK(check_golden(open(test_data("tiny-opt")), test_data("tokenizer/tiny-opt.jsonl")) == 290);
}

TEST_CASE("the golden checkpoints' prompts become HuggingFace's tokens", "[text]") {
  std::vector<std::string> folders;
  for (const char* name : {"prenorm-f16-bin", "postnorm-proj-f16", "head128-bf16-sharded"}) folders.push_back(test_data("golden/") + name);
  if (const auto golden = shared_data("golden/opt"))
    for (const auto& entry : std::filesystem::directory_iterator(*golden)) folders.push_back(entry.path());
  for (const std::string& folder : folders) {
    CAPTURE(folder);
    const Tokenizer t = open(folder);
    const auto expected = nlohmann::json::parse(std::ifstream(folder + "/expected.json"));
    REQUIRE(expected["sequences"].size() > 0);
    for (const auto& p : expected["sequences"]) {
      CHECK(t.encode(p["prompt"].get<std::string>()) == p["prompt_tokens"].get<std::vector<int32_t>>());
      CHECK(t.decode(p["tokens"].get<std::vector<int32_t>>(), false) == p["text"].get<std::string>());
    }
  }
}

// Changes to one tokenizer.json, with what HuggingFace's tokenizers make of it: added tokens with every flag, templates, odd merge lists
TEST_CASE("every supported kind of tokenizer.json gives HuggingFace's ids", "[text]") {
  const std::string base_text = read_text_file(test_data("tokenizer/tokenizer.json"));
  for (const auto& variant : nlohmann::json::parse(std::ifstream(test_data("tokenizer/variants.json")))) {
    nlohmann::json root = nlohmann::json::parse(base_text);
    root.merge_patch(variant["patch"]);
    const auto name = variant["name"].get<std::string>();
    // a tokenizer_config.json, so that OPT's rules for its absence stay out
    const Tokenizer t = Tokenizer::from_files({{"tokenizer.json", root.dump()}, {"tokenizer_config.json", "{}"}}, name);
    REQUIRE(variant["cases"].size() > 40);
    for (const auto& c : variant["cases"]) {
      const auto text = c["text"].get<std::string>();
      CAPTURE(name, text);
      const auto ids = c["ids"].get<std::vector<int32_t>>(), special = c["ids_special"].get<std::vector<int32_t>>();
      CHECK(t.encode(text) == ids);
      CHECK(t.encode(text, true) == special);
      CHECK(t.decode(ids, false) == c["text_of_ids"].get<std::string>());
      CHECK(t.decode(special, true) == c["text_skipped"].get<std::string>());
      CHECK(streamed(t, special, true) == c["text_skipped"].get<std::string>());
    }
  }
}

TEST_CASE("without a tokenizer_config.json OPT's rules hold", "[text]") {
  auto files = read_tokenizer_files(test_data("tiny-opt"));
  files.erase("tokenizer_config.json");
  files.erase("special_tokens_map.json");
  const Tokenizer t = Tokenizer::from_files(files, "x");
  CHECK(t.bos() == 2);
  CHECK(t.eos() == 2);
  CHECK(t.pad() == 1);
  CHECK(t.is_special(1));
  CHECK(t.is_special(2));
  CHECK_FALSE(t.is_special(0));
  CHECK_FALSE(t.is_special(3));
  CHECK(t.encode("") == std::vector<int32_t>{2});
  CHECK(t.encode("</s><pad><s>", true)[1] == 2);
  CHECK(check_golden(t, test_data("tokenizer/tiny-opt.jsonl")) == 290);
}

TEST_CASE("add_bos_token decides where tokenizer.json has no template", "[text]") {
  auto root = nlohmann::json::parse(read_text_file(test_data("tokenizer/tokenizer.json")));
  const std::string config = read_text_file(test_data("tiny-opt/tokenizer_config.json"));
  root["post_processor"] = {{"type", "ByteLevel"}};
  const auto first = [&](const std::string& c) {
    return Tokenizer::from_files({{"tokenizer.json", root.dump()}, {"tokenizer_config.json", c}}, "x").encode("!");
  };
  CHECK(first(config) == std::vector<int32_t>{2, 4});
  CHECK(first(R"({"bos_token": "</s>", "add_bos_token": false})") == std::vector<int32_t>{4});
  CHECK(first(R"({"bos_token": "</s>"})") == std::vector<int32_t>{4});
  CHECK(first(R"({"eos_token": {"content": "</s>"}, "add_eos_token": true})") == std::vector<int32_t>{4, 2});
  CHECK(Tokenizer::from_files({{"tokenizer.json", root.dump()}}, "x").encode("!") == std::vector<int32_t>{2, 4});
  root["post_processor"] = nullptr;
  CHECK(first(config) == std::vector<int32_t>{2, 4});
}

TEST_CASE("both forms of the files together are one tokenizer", "[text]") {
  auto files = read_tokenizer_files(test_data("golden/prenorm-f16-bin"));
  const Tokenizer pair = Tokenizer::from_files(files, "x");
  files["tokenizer.json"] = read_text_file(test_data("tokenizer/tokenizer.json"));
  const Tokenizer both = Tokenizer::from_files(files, "x");
  for (const char* text : {"", "The king said unto </s> him", "<pad>x", "\xE6\x97\xA5"}) {
    CHECK(both.encode(text) == pair.encode(text));
    CHECK(both.encode(text, true) == pair.encode(text, true));
  }
  files["merges.txt"] += "q q\n";
  CHECK_THROWS_AS(Tokenizer::from_files(files, "x"), Error);
}

TEST_CASE("bytes that are not UTF-8 are taken as U+FFFD", "[text]") {
  const Tokenizer t = open(test_data("tiny-opt"));
  const auto same = [&](std::string_view bytes, std::string_view text) { return t.encode(bytes) == t.encode(text); };
  CHECK(same("a\xFFz", "a\xEF\xBF\xBDz"));
  CHECK(same("\xE6\x97", "\xEF\xBF\xBD"));
  CHECK(same("\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"));
  CHECK(t.decode(t.encode_bare("a\xFFz"), false) == "a\xEF\xBF\xBDz");
}

TEST_CASE("ids without a string give nothing", "[text]") {
  const Tokenizer t = open(test_data("tiny-opt"));
  CHECK(t.size() == 4096);
  const std::vector<int32_t> ids{-1, 4, 4096, INT32_MAX, INT32_MIN, 4};
  CHECK(t.decode(ids, false) == "!!");
  CHECK(streamed(t, ids, true) == "!!");
  CHECK(t.token_bytes(4096).empty());
  CHECK(t.token_bytes(-1).empty());
  CHECK_FALSE(t.is_special(-1));
  CHECK_FALSE(t.is_special(4096));
}

TEST_CASE("encode_bare leaves out what goes around a text", "[text]") {
  const Tokenizer t = open(test_data("tiny-opt"));
  auto ids = t.encode("the king");
  ids.erase(ids.begin());
  CHECK(t.encode_bare("the king") == ids);
  CHECK(t.encode_bare("").empty());
  CHECK(t.encode_bare("</s>", true) == std::vector<int32_t>{2});
}

TEST_CASE("look-alikes of control tokens stay text", "[text]") {
  const Tokenizer t = open(test_data("tiny-opt"));
  for (const char* text : {"</s>", "<pad>", "a</s>b", " </s>", "<pad></s>", "\xC4\xA0</s>", "<|im_end|>", "<|endoftext|>"}) {
    const auto ids = t.encode_bare(text);
    for (const int32_t id : ids) CHECK_FALSE(t.is_special(id));
    CHECK(t.decode(ids, true) == text);
  }
}

TEST_CASE("100 kB without a place to split are tokenized", "[text]") {
  const Tokenizer t = open(test_data("tiny-opt"));
  for (const std::string& part :
       {std::string("a"), std::string(" "), std::string("\xE3\x80\x80"), std::string("!"), std::string("7"), std::string("\xE6\x97\xA5")}) {
    std::string text;
    while (text.size() < 100'000) text += part;
    CHECK(t.decode(t.encode_bare(text), false) == text);
    CHECK(t.decode(t.encode_bare(text + "x"), false) == text + "x");
  }
}

TEST_CASE("a tokenizer serves several threads", "[text]") {
  const Tokenizer t = open(test_data("tiny-opt"));
  const std::string text = read_text_file(test_data("tokenizer/make_tokenizer.py"));
  std::vector<std::vector<int32_t>> results(4);
  std::vector<std::thread> threads;
  for (auto& r : results) threads.emplace_back([&] { r = t.encode(text); });
  for (auto& thread : threads) thread.join();
  const auto want = open(test_data("tiny-opt")).encode(text);
  for (const auto& r : results) CHECK(r == want);
}

TEST_CASE("a text of more than 1 GiB is refused", "[.slow][text]") {
  const Tokenizer t = open(test_data("tiny-opt"));
  const std::string text(Tokenizer::kMaxTextBytes + 1, 'a');
  CHECK_FAULT(t.encode(text), Fault::usage, "text: found 1,073,741,825 bytes, allowed 1,073,741,824. Give it in parts");
}
