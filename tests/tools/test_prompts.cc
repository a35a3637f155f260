// SPDX-License-Identifier: Apache-2.0
// Prompt files as people write them, and every way in which one can be wrong, with its line and its exact message.
#include "tools/prompts.h"

#include "support/catch.h"
#include "support/errors.h"
#include "support/temp_dir.h"

using namespace flexgen;
using namespace flexgen::tools;

namespace {

std::vector<Prompt> read(const std::string& name, const std::string& content, const GenerationSettings& defaults = {}) {
  testing::TempDir dir;
  return collect_prompts({.files = {dir.write(name, content)}}, defaults);
}

std::vector<std::string> texts(const std::vector<Prompt>& prompts) {
  std::vector<std::string> all;
  for (const Prompt& p : prompts) all.push_back(p.text.value_or("(tokens)"));
  return all;
}

using Texts = std::vector<std::string>;

// a JSON line that is refused, and the message after "FILE: line 2: "
void refused(const std::string& line, const std::string& message) {
  testing::TempDir dir;
  const std::string path = dir.write("p.jsonl", "{\"prompt\": \"fine\"}\n" + line + "\n");
  INFO(line);
  CHECK_FAULT(collect_prompts({.files = {path}}, {}), Fault::usage, path + ": line 2: " + message);
}

}  // namespace

TEST_CASE("a text file has a prompt a line; blank lines, BOM and CRLF are not part of any") {
  CHECK(texts(read("p.txt", "one\ntwo\n")) == Texts{"one", "two"});
  CHECK(texts(read("p.txt", "\xEF\xBB\xBFone\r\n\r\n \t\r\n  two \r\nthree")) == Texts{"one", "  two ", "three"});
  CHECK(texts(read("p.txt", "{\"prompt\": \"text, not JSON\"}")) == Texts{"{\"prompt\": \"text, not JSON\"}"});
}

TEST_CASE("JSON lines take prompt or prompt_tokens, id, and settings for the line") {
  GenerationSettings defaults;
  defaults.max_new_tokens = 7;
  const auto p =
      read("p.jsonl",
           "\xEF\xBB\xBF{\"prompt\": \"a\\nb\", \"id\": \"first\", \"temperature\": 0.5, \"do_sample\": true, \"top_k\": 3, \"stop\": \"x\"}\r\n"
           "\n"
           "{\"prompt_tokens\": [2, 100, 5], \"id\": 17, \"max_new_tokens\": 16, \"stop\": [\"a\", \"b\"], \"seed\": 18446744073709551615}\n"
           "{\"prompt\": \"\", \"top_p\": null, \"logprobs\": 0, \"ignore_eos\": true, \"min_new_tokens\": 2, \"min_p\": 0.5, "
           "\"repetition_penalty\": 2, \"no_repeat_ngram_size\": 4, \"num_return_sequences\": 1}\n",
           defaults);
  REQUIRE(p.size() == 3);
  CHECK(p[0].text == "a\nb");
  CHECK(p[0].id == "first");
  CHECK(p[0].key(0) == "first");
  CHECK(p[0].settings.temperature == 0.5);
  CHECK(p[0].settings.do_sample);
  CHECK(p[0].settings.top_k == 3);
  CHECK(p[0].settings.stop == Texts{"x"});
  CHECK(p[0].settings.max_new_tokens == 7);
  CHECK_FALSE(p[1].text);
  CHECK(p[1].tokens == std::vector<int32_t>{2, 100, 5});
  CHECK(p[1].id == 17);
  CHECK(p[1].key(1) == "17");
  CHECK(p[1].settings.max_new_tokens == 16);
  CHECK(p[1].settings.stop == Texts{"a", "b"});
  CHECK(p[1].settings.seed == 18446744073709551615u);
  CHECK_FALSE(p[1].settings.do_sample);
  CHECK(p[2].text == "");
  CHECK(p[2].key(2) == "#2");
  CHECK(p[2].settings.top_p == 1.0);
  CHECK(p[2].settings.logprobs == 0);
  CHECK(p[2].settings.ignore_eos);
  CHECK(p[2].settings.min_new_tokens == 2);
  CHECK(p[2].settings.min_p == 0.5);
  CHECK(p[2].settings.repetition_penalty == 2);
  CHECK(p[2].settings.no_repeat_ngram_size == 4);
}

TEST_CASE("prompts from the command line come first, then token lists, then files") {
  testing::TempDir dir;
  const auto p = collect_prompts(
      {.texts = {"a", ""}, .tokens = {"2, 100 ,5", "0"}, .files = {dir.write("p.txt", "c\n"), dir.write("q.jsonl", "{\"prompt\": \"d\"}")}}, {});
  CHECK(texts(p) == Texts{"a", "", "(tokens)", "(tokens)", "c", "d"});
  CHECK(p[2].tokens == std::vector<int32_t>{2, 100, 5});
  CHECK(p[3].tokens == std::vector<int32_t>{0});
}

TEST_CASE("a token list that is none is refused") {
  const auto list = [](const std::string& text) { return collect_prompts({.tokens = {text}}, {}); };
  CHECK_FAULT(list(""), Fault::usage, "--prompt-tokens: found '', allowed token ids separated by commas. Write for example 2,100,5");
  CHECK_FAULT(list("2,,5"), Fault::usage, "--prompt-tokens: found ',5', allowed token ids");
  CHECK_FAULT(list("2,5,"), Fault::usage, "--prompt-tokens: found '', allowed token ids");
  CHECK_FAULT(list("2 5"), Fault::usage, "--prompt-tokens: found '5', allowed a comma");
  CHECK_FAULT(list("-1"), Fault::usage, "--prompt-tokens: found '-1', allowed token ids");
  CHECK_FAULT(list("1.5"), Fault::usage, "--prompt-tokens: found '.5', allowed a comma");
  CHECK_FAULT(list("3000000000"), Fault::usage, "--prompt-tokens: found '3000000000', allowed token ids");
  CHECK_FAULT(list("99999999999999999999999"), Fault::usage, "--prompt-tokens: found '99999999999999999999999', allowed token ids");
}

TEST_CASE("what is not a JSON object is refused") {
  refused("Once upon a time", "invalid JSON at byte 0");
  refused("{\"prompt\": \"a\"", "invalid JSON at byte 14");
  refused("{\"prompt\": \"a\"} {}", "invalid JSON at byte 16");
  refused("[\"a\"]", "found a list, allowed an object with prompt or prompt_tokens");
  refused("\"a\"", "found \"a\", allowed an object with prompt or prompt_tokens");
  refused("{\"prompt\": \"\xFF\"}", "invalid UTF-8 at byte 12");
  refused("{\"prompt\": \"\\ud800\"}", "invalid JSON at byte");
  refused("{\"prompt\": \"a\", \"prompt\": \"b\"}", "key 'prompt' is given twice");
  refused("{\"prompt\": " + std::string(40, '[') + std::string(40, ']') + "}", "JSON is nested deeper than 8 levels at byte 18");
}

TEST_CASE("a line without one prompt is refused") {
  refused("{}", "found neither prompt nor prompt_tokens");
  refused("{\"id\": \"a\"}", "found neither prompt nor prompt_tokens");
  refused("{\"prompt\": \"a\", \"prompt_tokens\": [2]}", "found prompt and prompt_tokens, allowed one of them");
  refused("{\"prompt\": 7}", "prompt: found 7, allowed a string");
  refused("{\"prompt\": null}", "prompt: found null, allowed a string");
  refused("{\"prompt\": [\"a\"]}", "prompt: found a list, allowed a string");
  refused("{\"prompt_tokens\": []}", "prompt_tokens: found an empty list, allowed a list of token ids");
  refused("{\"prompt_tokens\": \"2,3\"}", "prompt_tokens: found \"2,3\", allowed a list of token ids");
  refused("{\"prompt_tokens\": 2}", "prompt_tokens: found 2, allowed a list of token ids");
  refused("{\"prompt_tokens\": [2, -1]}", "prompt_tokens[1]: found -1, allowed a whole number from 0 to 2147483647");
  refused("{\"prompt_tokens\": [2, 3.0]}", "prompt_tokens[1]: found 3.0, allowed a whole number from 0 to 2147483647");
  refused("{\"prompt_tokens\": [2147483648]}", "prompt_tokens[0]: found 2147483648, allowed");
}

TEST_CASE("an id is a string or a whole number, and given once") {
  refused("{\"prompt\": \"a\", \"id\": \"\"}", "id: found an empty string, allowed 1 to 512 bytes");
  refused("{\"prompt\": \"a\", \"id\": 1.5}", "id: found 1.5, allowed a string or a whole number");
  refused("{\"prompt\": \"a\", \"id\": null}", "id: found null, allowed a string or a whole number");
  refused("{\"prompt\": \"a\", \"id\": \"" + std::string(10000, 'x') + "\"}", "id: found 10000 bytes, allowed 1 to 512");
  testing::TempDir dir;
  const std::string path = dir.write("p.jsonl", "{\"prompt\": \"a\", \"id\": \"7\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \"c\", \"id\": 7}\n");
  CHECK_FAULT(collect_prompts({.files = {path}}, {}), Fault::usage, path + ": line 3: the id '7' is already that of " + path + ": line 1");
}

TEST_CASE("settings of a wrong name, type or range are refused") {
  refused("{\"prompt\": \"a\", \"max_tokens\": 5}", "unknown field 'max_tokens'. Write max_new_tokens");
  refused("{\"prompt\": \"a\", \"num_beams\": 5}", "unknown field 'num_beams', allowed id, prompt, prompt_tokens, max_new_tokens,");
  refused("{\"prompt\": \"a\", \"\\u001b[31m\": 5}", "unknown field '\\x1b[31m', allowed");
  refused("{\"prompt\": \"a\", \"max_new_tokens\": \"5\"}", "max_new_tokens: found \"5\", allowed a whole number");
  refused("{\"prompt\": \"a\", \"max_new_tokens\": 5.5}", "max_new_tokens: found 5.5, allowed a whole number");
  refused("{\"prompt\": \"a\", \"max_new_tokens\": 0}", "max_new_tokens: found 0, allowed a whole number from 1 to 2147483647");
  refused("{\"prompt\": \"a\", \"max_new_tokens\": 18446744073709551615}", "max_new_tokens: found 18446744073709551615, allowed a whole number");
  refused("{\"prompt\": \"a\", \"max_new_tokens\": 1e30}", "max_new_tokens: found 1e+30, allowed a whole number");
  refused("{\"prompt\": \"a\", \"temperature\": -1}", "temperature: found -1, allowed a number above 0");
  refused("{\"prompt\": \"a\", \"temperature\": NaN}", "invalid JSON at byte");
  refused("{\"prompt\": \"a\", \"temperature\": true}", "temperature: found true, allowed a number");
  refused("{\"prompt\": \"a\", \"do_sample\": 1}", "do_sample: found 1, allowed true or false");
  refused("{\"prompt\": \"a\", \"seed\": -1}", "seed: found -1, allowed a whole number from 0 to 18446744073709551615");
  refused("{\"prompt\": \"a\", \"stop\": 5}", "stop: found 5, allowed a string or a list of strings");
  refused("{\"prompt\": \"a\", \"stop\": [\"x\", 5]}", "stop[1]: found 5, allowed a string");
  refused("{\"prompt\": \"a\", \"stop\": \"\"}", "stop: found an empty string, allowed 1 to 4096 bytes");
  refused("{\"prompt\": \"a\", \"top_p\": 1.5}", "top_p: found 1.5, allowed a number from 0 to 1");
  refused("{\"prompt\": \"a\", \"num_return_sequences\": 3}", "num_return_sequences: found 3, allowed 1 without do_sample");
  refused("{\"prompt\": \"a\", \"ignore_eos\": {}}", "ignore_eos: found an object, allowed true or false");
}

TEST_CASE("files that hold no prompts, or lines without end, are refused") {
  testing::TempDir dir;
  const std::string empty = dir.write("e.txt", ""), blank = dir.write("b.jsonl", "\n \n\r\n");
  CHECK_FAULT(collect_prompts({.files = {empty}}, {}), Fault::usage, empty + ": holds no prompt");
  CHECK_FAULT(collect_prompts({.files = {blank}}, {}), Fault::usage, blank + ": holds no prompt");
  CHECK_FAULT(collect_prompts({.files = {dir / "none"}}, {}), Fault::io, "none: cannot be opened: No such file or directory");
  CHECK_FAULT(collect_prompts({.files = {dir.path()}}, {}), Fault::usage, dir.path() + ": is a folder; a text file is needed");
  const std::string latin = dir.write("l.txt", "fine\ncaf\xE9\n");
  CHECK_FAULT(collect_prompts({.files = {latin}}, {}), Fault::usage, latin + ": line 2: invalid UTF-8 at byte 3. Save the text as UTF-8");
  CHECK_FAULT(collect_prompts({.texts = {"\x80"}}, {}), Fault::usage, "--prompt: invalid UTF-8 at byte 0");
  const std::string longest = dir.write("m.txt", std::string(kMaxLineBytes, 'x') + "\r\n");
  CHECK(collect_prompts({.files = {longest}}, {}).front().text->size() == kMaxLineBytes);
  const std::string over = dir.write("o.txt", "a\n" + std::string(kMaxLineBytes + 1, 'x') + "\n");
  CHECK_FAULT(collect_prompts({.files = {over}}, {}), Fault::usage, over + ": line 2: longer than 8.00 MiB");
  const std::string endless = dir.write("n.txt", std::string(3 * kMaxLineBytes, 'x'));
  CHECK_FAULT(collect_prompts({.files = {endless}}, {}), Fault::usage, endless + ": line 1: longer than 8.00 MiB");
}

TEST_CASE("settings of the command line are checked before any file is read") {
  GenerationSettings bad;
  bad.top_p = 2;
  CHECK_FAULT(collect_prompts({.files = {"/nowhere"}}, bad), Fault::usage, "top_p: found 2, allowed a number from 0 to 1");
}

TEST_CASE("a generation_config.json gives defaults, and its mistakes are the checkpoint's") {
  GenerationSettings s;
  apply_generation_config(s, Json::parse(R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 50118], "max_length": 4096,
                                             "max_new_tokens": 5, "top_k": null, "_from_model_config": true})"), "g.json");
  CHECK(s.do_sample);
  CHECK(s.temperature == 0.6);
  CHECK(s.top_p == 0.9);
  CHECK(s.top_k == 50);
  CHECK(s.eos == std::vector<int32_t>{2, 50118});
  CHECK(s.max_new_tokens == 128);
  apply_generation_config(s, Json::parse(R"({"eos_token_id": 3})"), "g.json");
  CHECK(s.eos == std::vector<int32_t>{3});
  CHECK_NOTHROW(apply_generation_config(s, nullptr, "g.json"));
  const auto with = [](const char* text) {
    GenerationSettings t;
    apply_generation_config(t, Json::parse(text), "g.json");
  };
  CHECK_FAULT((with("[]"), 0), Fault::checkpoint, "g.json: found a list, allowed an object");
  CHECK_FAULT((with(R"({"temperature": "warm"})"), 0), Fault::checkpoint, "g.json: temperature: found \"warm\", allowed a number");
  CHECK_FAULT((with(R"({"top_p": 7})"), 0), Fault::checkpoint, "g.json: top_p: found 7, allowed a number from 0 to 1");
  CHECK_FAULT((with(R"({"eos_token_id": "</s>"})"), 0), Fault::checkpoint,
              "g.json: eos_token_id: found \"</s>\", allowed a whole number from 0 to 2147483647");
}
