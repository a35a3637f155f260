// SPDX-License-Identifier: Apache-2.0
// Malformed tokenizers: each is refused with the fault and the whole message that are listed here.
#include "flexgen/text/tokenizer_spec.h"

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flexgen/format/tokenizer_files.h"
#include "flexgen/text/tokenizer.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace flexgen;
using testing::test_data;
using Json = nlohmann::json;
using Files = std::map<std::string, std::string>;

namespace {

const Files& pair_files() {
  static const Files files = read_tokenizer_files(test_data("golden/prenorm-f16-bin"));
  return files;
}
const Files& json_files() {
  static const Files files{{"tokenizer.json", read_text_file(test_data("tokenizer/tokenizer.json"))}};
  return files;
}

// What from_files() says; "" where it accepts
std::string refusal(const Files& files) {
  try {
    (void)Tokenizer::from_files(files, "m");
  } catch (const Error& e) {
    CHECK(std::string(name(e.fault())) == "checkpoint");
    return e.what();
  }
  return "";
}

using Change = std::function<void(Json&)>;
Files changed(Files files, const std::string& name, const Change& change) {
  Json root = files.contains(name) ? Json::parse(files.at(name)) : Json::object();
  change(root);
  files[name] = root.dump();
  return files;
}
Files vocab(const Change& change) { return changed(pair_files(), "vocab.json", change); }
Files root(const Change& change) { return changed(json_files(), "tokenizer.json", change); }
Files config(const Change& change) { return changed(pair_files(), "tokenizer_config.json", change); }
Files with(Files files, const std::string& name, const std::string& text) {
  files[name] = text;
  return files;
}
Files without(Files files, const std::string& name) {
  files.erase(name);
  return files;
}

}  // namespace

TEST_CASE("the unchanged files are accepted", "[text]") {
  CHECK(refusal(pair_files()) == "");
  CHECK(refusal(json_files()) == "");
}

TEST_CASE("missing files are named", "[text]") {
  CHECK(refusal({}) ==
        "m: tokenizer: found none of its files, allowed tokenizer.json, or vocab.json with merges.txt. Copy them from the model's folder");
  CHECK(
      refusal(without(pair_files(), "merges.txt")) ==
      "m: tokenizer: found vocab.json without merges.txt, allowed tokenizer.json, or vocab.json with merges.txt. Copy them from the model's folder");
  CHECK(
      refusal(without(pair_files(), "vocab.json")) ==
      "m: tokenizer: found merges.txt without vocab.json, allowed tokenizer.json, or vocab.json with merges.txt. Copy them from the model's folder");
}

TEST_CASE("malformed vocabularies are refused", "[text]") {
  CHECK(refusal(with(pair_files(), "vocab.json", "{}")) == "m/vocab.json: found 0 tokens, allowed 1 to 4,194,304");
  CHECK(refusal(with(pair_files(), "vocab.json", "[1, 2]")) == "m/vocab.json: found a list, allowed an object of tokens with their ids");
  CHECK(refusal(with(pair_files(), "vocab.json", "")).starts_with("m/vocab.json: invalid JSON at byte 0"));
  CHECK(refusal(with(pair_files(), "vocab.json", "{\"a\": 1, \"a\": 2}")).starts_with("m/vocab.json: key 'a' is given twice"));
  CHECK(refusal(with(pair_files(), "vocab.json", "{\"\xFF\": 1}")) == "m/vocab.json: invalid UTF-8 at byte 2");
  CHECK(refusal(vocab([](Json& v) { v["the"] = -1; })) == "m/vocab.json: id of token 'the': found -1, allowed a whole number from 0 to 4194303");
  CHECK(refusal(vocab([](Json& v) { v["the"] = 4194304; })) ==
        "m/vocab.json: id of token 'the': found 4194304, allowed a whole number from 0 to 4194303");
  CHECK(refusal(vocab([](Json& v) { v["the"] = 18446744073709551615u; })) ==
        "m/vocab.json: id of token 'the': found 18446744073709551615, allowed a whole number from 0 to 4194303");
  CHECK(refusal(vocab([](Json& v) { v["the"] = "7"; })) == "m/vocab.json: id of token 'the': found \"7\", allowed a whole number from 0 to 4194303");
  CHECK(refusal(vocab([](Json& v) { v["the"] = 1.0; })) == "m/vocab.json: id of token 'the': found 1.0, allowed a whole number from 0 to 4194303");
  CHECK(refusal(vocab([](Json& v) { v["extra"] = 7; })) == "m/vocab.json: id 7: found two tokens, '$' and 'extra', allowed one");
  CHECK(refusal(vocab([](Json& v) { v["extra"] = 600; })) == "m/vocab.json: id 512: found no token, allowed one for each id from 0 to 600");
  CHECK(refusal(vocab([](Json& v) { v["extra\x1B[31m"] = 600, v[std::string(5000, 'x')] = 512; })) ==
        fmt::format("m/vocab.json: token '{}...': found 5,000 bytes, allowed 4,096", std::string(120, 'x')));
  CHECK(refusal(vocab([](Json& v) { v["extra"] = v["q"], v.erase("q"); })) ==
        "m/vocab.json: found no token 'q' for byte 0x71, allowed one for each byte. Only byte-level vocabularies are supported");
}

TEST_CASE("malformed merge lists are refused", "[text]") {
  const auto& merges = pair_files().at("merges.txt");
  const auto appended = [&](const std::string& line) { return refusal(with(pair_files(), "merges.txt", merges + line)); };
  CHECK(appended("\n\n") == "");
  CHECK(appended("q \xC4\xA0"
                 "foo\n") ==
        "m/merges.txt: merge 252 uses unknown piece '\xC4\xA0"
        "foo'. Take vocabulary and merges from the same model");
  CHECK(appended("q q\n") == "m/merges.txt: merge 252 makes 'qq', which the vocabulary lacks. Take vocabulary and merges from the same model");
  CHECK(appended("qq\n") == "m/merges.txt: line 254: found 'qq', allowed two pieces with one space between them");
  CHECK(appended("q  q\n") == "m/merges.txt: line 254: found 'q  q', allowed two pieces with one space between them");
  CHECK(appended(" q\n") == "m/merges.txt: line 254: found ' q', allowed two pieces with one space between them");
  CHECK(appended("\nq q\n") == "m/merges.txt: line 254: found '', allowed two pieces with one space between them");
  CHECK(appended("q \xFF\n") == "m/merges.txt: line 254: invalid UTF-8");
  CHECK(refusal(with(pair_files(), "merges.txt", "")) == "");
}

TEST_CASE("malformed merges of a tokenizer.json are refused", "[text]") {
  CHECK(refusal(root([](Json& r) { r["model"]["merges"] = 3; })) == "m/tokenizer.json: model: merges: found 3, allowed a list");
  CHECK(refusal(root([](Json& r) { r["model"].erase("merges"); })) == "m/tokenizer.json: model: merges: found null, allowed a list");
  CHECK(refusal(root([](Json& r) { r["model"]["merges"][2] = Json::array({"a", "b", "c"}); })) ==
        "m/tokenizer.json: model: merges: merge 2: found a list, allowed a string or a list of two strings");
  CHECK(refusal(root([](Json& r) { r["model"]["merges"][2] = "a"; })) ==
        "m/tokenizer.json: model: merges: merge 2: found 'a', allowed two pieces with one space between them");
  CHECK(refusal(root([](Json& r) { r["model"]["merges"][2] = Json::array({"a", "zzz"}); })) ==
        "m/tokenizer.json: merge 2 uses unknown piece 'zzz'. Take vocabulary and merges from the same model");
}

TEST_CASE("what a tokenizer.json asks for and is not supported is refused by name", "[text]") {
  const std::string end = ". This kind of tokenizer is not supported yet";
  const auto refused = [&](const char* pointer, Json value) {
    return refusal(root([&](Json& r) { r[Json::json_pointer(pointer)] = std::move(value); }));
  };
  CHECK(refused("/model/type", "Unigram") == "m/tokenizer.json: model: found Unigram, allowed BPE" + end);
  CHECK(refused("/model/type", 7) == "m/tokenizer.json: model: type: found 7, allowed a string");
  CHECK(refused("/model", "BPE") == "m/tokenizer.json: model: found \"BPE\", allowed an object");
  CHECK(refused("/model/dropout", 0.1) == "m/tokenizer.json: model: dropout: found 0.1, allowed null" + end);
  CHECK(refused("/model/byte_fallback", true) == "m/tokenizer.json: model: byte_fallback: found true, allowed false" + end);
  CHECK(refused("/model/end_of_word_suffix", "</w>") == "m/tokenizer.json: model: end_of_word_suffix: found '</w>', allowed none" + end);
  CHECK(refused("/model/continuing_subword_prefix", "##") == "m/tokenizer.json: model: continuing_subword_prefix: found '##', allowed none" + end);
  CHECK(refused("/normalizer", {{"type", "NFKC"}}) == "m/tokenizer.json: normalizer: found NFKC, allowed null" + end);
  CHECK(refused("/pre_tokenizer", nullptr) == "m/tokenizer.json: pre_tokenizer: found null, allowed ByteLevel" + end);
  CHECK(refused("/pre_tokenizer", {{"type", "Metaspace"}}) == "m/tokenizer.json: pre_tokenizer: found Metaspace, allowed ByteLevel" + end);
  CHECK(refused("/pre_tokenizer/use_regex", 1) == "m/tokenizer.json: pre_tokenizer: use_regex: found 1, allowed true or false");
  CHECK(refused("/decoder", {{"type", "WordPiece"}}) == "m/tokenizer.json: decoder: found WordPiece, allowed ByteLevel" + end);
  CHECK(refused("/post_processor", {{"type", "RobertaProcessing"}}) ==
        "m/tokenizer.json: post_processor: found RobertaProcessing, allowed ByteLevel, TemplateProcessing, a Sequence of them, or null" + end);
  CHECK(refusal(with({}, "tokenizer.json", "[]")) == "m/tokenizer.json: found a list, allowed an object");
  CHECK(refusal(with({}, "tokenizer.json", "{}")) == "m/tokenizer.json: model: found null, allowed an object");
}

TEST_CASE("malformed templates are refused", "[text]") {
  const auto refused = [&](const char* pointer, Json value) {
    return refusal(root([&](Json& r) { r["post_processor"][Json::json_pointer(pointer)] = std::move(value); }));
  };
  const std::string place = "m/tokenizer.json: post_processor: ";
  CHECK(refused("/single", "x") == place + "single: found \"x\", allowed a list");
  CHECK(refused("/single", Json::array()) == place + "single: found no sequence, allowed one");
  CHECK(refused("/single/0", 5) == place + "single: found 5, allowed special tokens and one sequence");
  CHECK(refused("/single/0", {{"Sequence", {{"id", "A"}}}}) == place + "single: found an object, allowed special tokens and one sequence");
  CHECK(refused("/single/0/SpecialToken/id", "<x>") == place + "special_tokens: '<x>' has no ids");
  CHECK(refused("/special_tokens/<~1s>/ids", 2) == place + "special_tokens: '</s>' has no ids");
  CHECK(refused("/special_tokens/<~1s>/ids/0", "2") == place + "id of '</s>': found \"2\", allowed a whole number from 0 to 4194303");
  CHECK(refused("/special_tokens/<~1s>/ids/0", -2) == place + "id of '</s>': found -2, allowed a whole number from 0 to 4194303");
  CHECK(refused("/special_tokens/<~1s>/ids/0", 512) == place + "found id 512, allowed 0 to 511");
}

TEST_CASE("malformed added tokens are refused", "[text]") {
  const auto refused = [&](Json token) { return refusal(root([&](Json& r) { r["added_tokens"].push_back(std::move(token)); })); };
  const std::string place = "m/tokenizer.json: added_tokens: 2: ";
  CHECK(refused({{"id", 512}, {"content", "<x>"}}) == "");
  CHECK(refused({{"id", 513}, {"content", "<x>"}}) == "m: id 512: found no token, allowed one for each id from 0 to 513");
  CHECK(refused({{"id", 4}, {"content", "<x>"}}) == "m: id 4: found two tokens, '!' and '<x>', allowed one");
  CHECK(refused({{"id", 9}, {"content", "!"}}) == "m: id of added token '!': found 9, in the vocabulary 4, allowed one");
  CHECK(refused({{"id", 9}, {"content", "</s>"}}) == place.substr(0, place.size() - 2) + ": id of token '</s>': found 9, elsewhere 2, allowed one");
  CHECK(refused({{"id", -1}, {"content", "<x>"}}) == place + "id: found -1, allowed a whole number from 0 to 4194303");
  CHECK(refused({{"content", "<x>"}}) == place + "id is missing");
  CHECK(refused({{"id", 512}}) == place + "content is missing");
  CHECK(refused({{"id", 512}, {"content", ""}}) == place + "content: found 0 bytes, allowed 1 to 4,096");
  CHECK(refused({{"id", 512}, {"content", "x"}, {"lstrip", "yes"}}) == place + "lstrip: found \"yes\", allowed true or false");
  CHECK(refused("<x>") == place + "found \"<x>\", allowed an object");
  CHECK(refusal(root([](Json& r) { r["added_tokens"] = 1; })) == "m/tokenizer.json: added_tokens: found 1, allowed a list");
}

TEST_CASE("malformed configurations are refused", "[text]") {
  const std::string file = "m/tokenizer_config.json: ";
  const auto refused = [&](const char* key, Json value) { return refusal(config([&](Json& c) { c[key] = std::move(value); })); };
  CHECK(refusal(with(pair_files(), "tokenizer_config.json", "null")) == file + "found null, allowed an object");
  CHECK(refused("add_prefix_space", "no") == file + "add_prefix_space: found \"no\", allowed true or false");
  CHECK(refused("add_bos_token", 1) == file + "add_bos_token: found 1, allowed true or false");
  CHECK(refused("pad_token", 1) == file + "pad_token: found 1, allowed a string or an object with \"content\"");
  CHECK(refused("pad_token", Json::object()) == file + "pad_token: content is missing");
  CHECK(refused("additional_special_tokens", "x") == file + "additional_special_tokens: found \"x\", allowed a list");
  CHECK(refused("added_tokens_decoder", {{"x", "</s>"}}) == file + "added_tokens_decoder: found 'x', allowed an id from 0 to 4194303");
  CHECK(refused("added_tokens_decoder", {{"4194304", "</s>"}}) == file + "added_tokens_decoder: found '4194304', allowed an id from 0 to 4194303");
  CHECK(refused("added_tokens_decoder", {{"5", "</s>"}}) == "m: id of added token '</s>': found 5, in the vocabulary 2, allowed one");
  CHECK(refusal(without(config([](Json& c) { c["bos_token"] = "<none>"; }), "special_tokens_map.json")) ==
        file + "add_bos_token is true, but bos_token: found '<none>', allowed a token of the vocabulary");
  CHECK(refusal(with(pair_files(), "special_tokens_map.json", "[]")) == "m/special_tokens_map.json: found a list, allowed an object");
  CHECK(refusal(with(pair_files(), "added_tokens.json", R"({"<x>": 512})")) == "");
  CHECK(refusal(with(pair_files(), "added_tokens.json", R"({"<x>": "512"})")) ==
        "m/added_tokens.json: id of token '<x>': found \"512\", allowed a whole number from 0 to 4194303");
  CHECK(refusal(with(pair_files(), "added_tokens.json", "[]")) == "m/added_tokens.json: found a list, allowed an object");
}

TEST_CASE("a vocabulary in which text could become a control token is refused", "[text]") {
  CHECK(refusal(without(config([](Json& c) { c["pad_token"] = "!"; }), "special_tokens_map.json")) ==
        "m: byte 0x21 is the control token '!': any text with it would hold one. Name another control token");
  const auto& merges = pair_files().at("merges.txt");
  REQUIRE(merges.find("\n\xC4\xA0 t\n") != std::string::npos);
  const Files files = without(config([](Json& c) { c["pad_token"] = "\xC4\xA0t"; }), "special_tokens_map.json");
  CHECK(refusal(files) == "m/merges.txt: merge 0 makes the control token '\xC4\xA0t': ordinary text could hold one. Name another control token");
}

TEST_CASE("files that contradict each other are refused", "[text]") {
  Files files = pair_files();
  files["tokenizer.json"] = json_files().at("tokenizer.json");
  CHECK(refusal(files) == "");
  CHECK(refusal(with(files, "merges.txt", "#version: 0.2\n")) ==
        "m/tokenizer.json: found another vocabulary or merge list than in vocab.json and merges.txt, allowed the same. Remove the files that are not "
        "the model's");
}

TEST_CASE("named tokens that the vocabulary lacks are left out", "[text]") {
  const Tokenizer t = Tokenizer::from_files(config([](Json& c) { c["mask_token"] = "<mask>"; }), "m");
  CHECK(t.size() == 512);
  CHECK(t.decode(t.encode_bare("<mask>", true), false) == "<mask>");
  CHECK_FALSE(t.is_special(512));
}

TEST_CASE("added tokens of the older files are cut out", "[text]") {
  Files files = with(pair_files(), "added_tokens.json", R"({"<x>": 512, "<end>": 513})");
  const Json map = {{"bos_token", "</s>"}, {"eos_token", "<end>"}, {"pad_token", "<pad>"}, {"unk_token", "</s>"}};
  files["special_tokens_map.json"] = map.dump();
  const Tokenizer t = Tokenizer::from_files(files, "m");
  CHECK(t.size() == 514);
  CHECK(t.eos() == 513);
  CHECK(t.is_special(513));
  CHECK_FALSE(t.is_special(512));
  CHECK(t.encode_bare("<x>") == std::vector<int32_t>{512});
  CHECK(t.encode_bare("<end>", true) == std::vector<int32_t>{513});
  CHECK(t.encode_bare("<end>").size() > 1);
}
