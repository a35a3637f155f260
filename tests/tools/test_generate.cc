// SPDX-License-Identifier: Apache-2.0
// flexgen generate as its users see it: HF's tokens, text and log-probabilities; JSON, exit codes and messages; and that no option of
// the engine, and nothing that runs beside, changes a result.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "flexgen/io/file.h"
#include "support/catch.h"
#include "support/fixture_model.h"
#include "support/process.h"
#include "support/temp_dir.h"

using namespace flexgen;
using flexgen::testing::fixture_model;
using flexgen::testing::run_flexgen;
using flexgen::testing::RunOptions;
using flexgen::testing::RunResult;
using flexgen::testing::TempDir;
using Json = nlohmann::json;
using Strings = std::vector<std::string>;

namespace {

RunResult generate(const std::string& model, Strings arguments, const RunOptions& options = {}) {
  arguments.insert(arguments.begin(), {"generate", "--model", model});
  return run_flexgen(arguments, options);
}

std::vector<Json> json_lines(const std::string& text) {
  std::vector<Json> all;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) all.push_back(Json::parse(line));
  return all;
}

// runs with --json, which must succeed
std::vector<Json> answers(const std::string& model, Strings arguments) {
  arguments.push_back("--json");
  const RunResult r = generate(model, arguments);
  INFO(r.err);
  REQUIRE(r.exit == 0);
  return json_lines(r.out);
}

const std::string& tiny() { return fixture_model("tiny-opt"); }

Strings keys(const std::string& line) {
  Strings names;
  const auto object = nlohmann::ordered_json::parse(line);
  for (const auto& [name, value] : object.items()) names.push_back(name);
  return names;
}

// Three prompts of different length, two samples each, and some settings of their own
std::string mixed_file(const TempDir& dir) {
  return dir.write("mixed.jsonl",
                   R"({"prompt": "HAMLET:", "id": "h"})" "\n"
                   R"({"prompt": "In the beginning God created the heaven and the earth. And the earth was without form, and void;", "id": "g", "top_p": 0.9})" "\n"
                   R"({"prompt_tokens": [2, 100], "id": 3, "temperature": 1.7, "max_new_tokens": 9})" "\n");
}
const Strings kSampling{"--do-sample", "--num-return-sequences", "2", "--seed", "5", "--max-new-tokens", "12"};

Strings operator+(Strings a, const Strings& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

TEST_CASE("greedy tokens, text and log-probabilities are HF's", "[golden]") {
  for (const std::string name : {"prenorm-f16-bin", "postnorm-proj-f16", "head128-bf16-sharded"}) {
    INFO(name);
    const Json expected = Json::parse(read_text_file(testing::test_data("golden/" + name + "/expected.json")));
    Strings prompts;
    for (const Json& s : expected["sequences"]) prompts = prompts + Strings{"--prompt", s["prompt"]};
    const auto got = answers(fixture_model("golden/" + name),
                             prompts + Strings{"--max-new-tokens", std::to_string(expected["new_tokens"].get<int>()), "--ignore-eos", "--kv-dtype", "f32", "--logprobs", "0"});
    REQUIRE(got.size() == expected["sequences"].size());
    for (size_t i = 0; i < got.size(); ++i) {
      const Json& want = expected["sequences"][i];
      CHECK(got[i]["index"] == i);
      CHECK(got[i]["prompt"] == want["prompt"]);
      CHECK(got[i]["prompt_tokens"] == want["prompt_tokens"]);
      CHECK(got[i]["tokens"] == want["tokens"]);
      const bool special = std::any_of(want["tokens"].begin(), want["tokens"].end(), [](const Json& t) { return t <= 3; });
      if (!special) CHECK(got[i]["text"] == want["text"]);  // HF's text there has control tokens in it
      CHECK(got[i]["finish_reason"] == "length");
      REQUIRE(got[i]["logprobs"].size() == want["logprobs"].size());
      for (size_t t = 0; t < want["logprobs"].size(); ++t) {
        CHECK(got[i]["logprobs"][t]["token"] == want["tokens"][t]);
        CHECK(std::abs(got[i]["logprobs"][t]["logprob"].get<double>() - want["logprobs"][t].get<double>()) < 1e-4);
        CHECK(got[i]["logprobs"][t]["top"] == Json::array());
      }
    }
  }
}

TEST_CASE("no option of the engine changes a result") {
  TempDir dir;
  const Strings run = Strings{"--prompt-file", mixed_file(dir)} + kSampling + Strings{"--logprobs", "3"};
  const auto want = answers(tiny(), run);
  REQUIRE(want.size() == 6);
  for (const Strings& engine : std::vector<Strings>{{"--threads", "1"},
                                                    {"--threads", "3"},
                                                    {"--gpu-batch-size", "1"},
                                                    {"--gpu-batch-size", "2", "--num-gpu-batches", "1"},
                                                    {"--gpu-batch-size", "1", "--num-gpu-batches", "1"},
                                                    {"--micro-batch-tokens", "1"},
                                                    {"--micro-batch-tokens", "5", "--num-gpu-batches", "2"},
                                                    {"--isa", "portable"}}) {
    INFO(fmt::format("{}", fmt::join(engine, " ")));
    CHECK(answers(tiny(), run + engine) == want);
  }
}

TEST_CASE("samples are reproducible, differ from each other, and depend on nothing beside them") {
  TempDir dir;
  const Strings file{"--prompt-file", mixed_file(dir)};
  const auto all = answers(tiny(), file + kSampling);
  CHECK(answers(tiny(), file + kSampling) == all);
  std::set<Json> different;
  for (const Json& a : all) different.insert(a["tokens"]);
  CHECK(different.size() == all.size());

  // one prompt alone, and one sample fewer
  const std::string alone = dir.write("alone.jsonl", R"({"prompt": "HAMLET:", "id": "h"})");
  const auto single = answers(tiny(), {"--prompt-file", alone, "--do-sample", "--seed", "5", "--max-new-tokens", "12"});
  REQUIRE(single.size() == 1);
  CHECK(single[0] == all[0]);
  // in another order its tokens are the same
  const std::string turned = dir.write("turned.jsonl", R"({"prompt": "x"})" "\n" R"({"prompt": "HAMLET:", "id": "h"})");
  const auto second = answers(tiny(), Strings{"--prompt-file", turned} + kSampling);
  REQUIRE(second.size() == 4);
  CHECK(second[2]["tokens"] == all[0]["tokens"]);
  CHECK(second[3]["tokens"] == all[1]["tokens"]);
  // another seed, or another id, gives others
  const std::string renamed = dir.write("renamed.jsonl", R"({"prompt": "HAMLET:", "id": "k"})");
  CHECK(answers(tiny(), Strings{"--prompt-file", renamed} + kSampling)[0]["tokens"] != all[0]["tokens"]);
  CHECK(answers(tiny(), {"--prompt-file", alone, "--do-sample", "--seed", "6", "--max-new-tokens", "12"})[0]["tokens"] != all[0]["tokens"]);
}

TEST_CASE("JSON has one object a sequence with the fields of the contract, in the order of the prompts") {
  TempDir dir;
  const RunResult r = generate(tiny(), Strings{"--json", "--prompt-file", mixed_file(dir)} + kSampling);
  REQUIRE(r.exit == 0);
  const auto got = json_lines(r.out);
  REQUIRE(got.size() == 6);
  for (size_t i = 0; i < got.size(); ++i) {
    CHECK(got[i]["index"] == i / 2);
    CHECK(got[i]["sample"] == i % 2);
    CHECK(got[i]["tokens"].size() == (i < 4 ? 12 : 9));
    CHECK(got[i]["finish_reason"] == "length");
  }
  CHECK(got[0]["id"] == "h");
  CHECK(got[4]["id"] == 3);
  CHECK(got[4]["prompt_tokens"] == Json{2, 100});
  CHECK(keys(r.out.substr(0, r.out.find('\n'))) == Strings{"index", "sample", "id", "prompt", "prompt_tokens", "tokens", "text", "finish_reason"});
  const RunResult plain = generate(tiny(), {"--json", "--prompt", "a\tb", "--max-new-tokens", "1", "--logprobs", "2"});
  CHECK(keys(plain.out) == Strings{"index", "sample", "prompt", "prompt_tokens", "tokens", "text", "finish_reason", "logprobs"});
  CHECK(keys(Json::parse(plain.out)["logprobs"][0].dump()).size() == 3);
  // a prompt of tokens shows their text, without control tokens
  const auto tokens = answers(tiny(), {"--prompt-tokens", fmt::format("{}", fmt::join(answers(tiny(), {"--prompt", "HAMLET:", "--max-new-tokens", "1"})[0]["prompt_tokens"].get<std::vector<int>>(), ",")),
                                       "--max-new-tokens", "1"});
  CHECK(tokens[0]["prompt"] == "HAMLET:");
}

TEST_CASE("top log-probabilities are the largest, likeliest first, and greedy takes the first") {
  const auto got = answers(tiny(), {"--prompt", "HAMLET:", "--max-new-tokens", "6", "--logprobs", "5"});
  for (const Json& t : got[0]["logprobs"]) {
    REQUIRE(t["top"].size() == 5);
    CHECK(t["top"][0] == Json{t["token"], t["logprob"]});
    double sum = 0;
    for (size_t i = 0; i < 5; ++i) {
      sum += std::exp(t["top"][i][1].get<double>());
      if (i > 0) CHECK(t["top"][i][1] <= t["top"][i - 1][1]);
    }
    CHECK(sum < 1);
  }
}

TEST_CASE("text ends before a stop string, and tokens tell how far it went") {
  const auto whole = answers(tiny(), {"--prompt", "HAMLET:", "--max-new-tokens", "24"})[0];
  const std::string text = whole["text"];
  const std::string stop = text.substr(10, 4);
  REQUIRE(text.find(stop) == 10);
  for (const Strings& stops : std::vector<Strings>{{"--stop", stop}, {"--stop", "never this", "--stop", stop}}) {
    const auto got = answers(tiny(), Strings{"--prompt", "HAMLET:", "--max-new-tokens", "24"} + stops)[0];
    CHECK(got["finish_reason"] == "stop");
    CHECK(got["text"] == text.substr(0, 10));
    CHECK(got["tokens"].size() < whole["tokens"].size());
    CHECK(std::equal(got["tokens"].begin(), got["tokens"].end(), whole["tokens"].begin()));
  }
  // streamed text never shows a part of it either
  const RunResult r = generate(tiny(), {"--prompt", "HAMLET:", "--max-new-tokens", "24", "--stop", stop, "--hide-prompt"});
  CHECK(r.out == text.substr(0, 10) + "\n");
}

TEST_CASE("an end token ends a sequence, is among its tokens and not in its text") {
  // Any token that the model is sure to write can be its end token: a copy of the folder says so.
  const auto free_run = answers(tiny(), {"--prompt", "HAMLET:", "--max-new-tokens", "8"})[0];
  const int32_t third = free_run["tokens"][2];
  TempDir dir;
  const std::string folder = dir / "m";
  std::filesystem::copy(testing::test_data("tiny-opt"), folder);
  std::filesystem::permissions(folder + "/generation_config.json", std::filesystem::perms::owner_all);
  dir.write("m/generation_config.json", fmt::format(R"({{"eos_token_id": [2, {}]}})", third));
  const RunOptions cache{.env = {{"XDG_CACHE_HOME", dir / "cache"}}};
  const auto run = [&](const Strings& more) {
    const RunResult r = generate(folder, Strings{"--prompt", "HAMLET:", "--max-new-tokens", "8", "--json"} + more, cache);
    INFO(r.err);
    REQUIRE(r.exit == 0);
    return Json::parse(r.out);
  };
  const Json ended = run({});
  CHECK(ended["finish_reason"] == "eos");
  CHECK(ended["tokens"].size() == 3);
  CHECK(ended["tokens"][2] == third);
  CHECK(run({"--ignore-eos"})["tokens"] == free_run["tokens"]);
  const Json later = run({"--min-new-tokens", "5"});
  CHECK(later["tokens"].size() >= 5);
  CHECK(later["tokens"][2] != third);
}

TEST_CASE("without a generation_config.json the end token is config.json's, from a folder and from its model file") {
  const auto free_run = answers(tiny(), {"--prompt", "HAMLET:", "--max-new-tokens", "8"})[0];
  TempDir dir;
  std::filesystem::copy(testing::test_data("tiny-opt"), dir / "m");
  Json config = Json::parse(read_text_file(dir / "m/config.json"));
  config["eos_token_id"] = free_run["tokens"][3];
  std::filesystem::remove(dir / "m/generation_config.json");
  std::filesystem::remove(dir / "m/config.json");
  dir.write("m/config.json", config.dump());
  REQUIRE(run_flexgen({"convert", dir / "m", "-o", dir / "m.flex"}).exit == 0);
  const RunOptions cache{.env = {{"XDG_CACHE_HOME", dir / "cache"}}};
  for (const std::string& model : {dir / "m", dir / "m.flex"}) {
    const RunResult r = generate(model, {"--prompt", "HAMLET:", "--max-new-tokens", "8", "--json"}, cache);
    REQUIRE(r.exit == 0);
    CHECK(Json::parse(r.out)["finish_reason"] == "eos");
    CHECK(Json::parse(r.out)["tokens"].size() == 4);
  }
}

TEST_CASE("a folder is converted once into the cache, and listed and removed there") {
  TempDir dir;
  const RunOptions cache{.env = {{"XDG_CACHE_HOME", dir / "cache"}}};
  const std::string folder = testing::test_data("tiny-opt");
  const RunResult first = generate(folder, {"--prompt", "x", "--max-new-tokens", "3"}, cache);
  REQUIRE(first.exit == 0);
  CHECK_THAT(first.err, Catch::StartsWith("model: " + (dir / "cache/flexgen/tiny-opt-")));
  CHECK_THAT(first.err, Catch::Contains(".flex (converted now"));
  const RunResult second = generate(folder, {"--prompt", "x", "--max-new-tokens", "3"}, cache);
  CHECK(second.out == first.out);
  CHECK_THAT(second.err, Catch::Contains(".flex (converted before)"));

  const Json list = Json::parse(run_flexgen({"cache", "list", "--json"}, cache).out);
  REQUIRE(list.size() == 1);
  CHECK(list[0]["source"] == std::filesystem::canonical(folder).string());
  CHECK(list[0]["bytes"] == std::filesystem::file_size(list[0]["path"].get<std::string>()));
  CHECK_THAT(run_flexgen({"cache", "list"}, cache).out, Catch::Contains(list[0]["name"].get<std::string>()) && Catch::Contains("1 model in "));
  CHECK(run_flexgen({"cache", "rm"}, cache).exit == 2);
  CHECK(run_flexgen({"cache", "rm", "nothing"}, cache).exit == 2);
  CHECK(run_flexgen({"cache", "rm", folder}, cache).exit == 0);
  CHECK(run_flexgen({"cache", "list", "--json"}, cache).out == "[]\n");
  CHECK(std::filesystem::is_empty(dir / "cache/flexgen"));
  CHECK(run_flexgen({"cache", "rm", "--all"}, cache).exit == 0);
}

TEST_CASE("runs side by side on a new folder convert it once") {
  TempDir dir;
  const RunOptions cache{.env = {{"XDG_CACHE_HOME", dir / "cache"}}};
  std::vector<RunResult> results(3);
  std::vector<std::thread> threads;
  for (RunResult& r : results)
    threads.emplace_back([&] { r = generate(testing::test_data("tiny-opt"), {"--prompt", "x", "--max-new-tokens", "2"}, cache); });
  for (auto& t : threads) t.join();
  int converted = 0;
  for (const RunResult& r : results) {
    CHECK(r.exit == 0);
    CHECK(r.out == results[0].out);
    converted += r.err.find("converted now") != std::string::npos;
  }
  CHECK(converted == 1);
}

TEST_CASE("a prompt that cannot be served has its own error, and the others go on") {
  TempDir dir;
  std::string long_list = "2";
  for (int i = 0; i < 600; ++i) long_list += ",100";
  const RunResult r = generate(tiny(), {"--json", "--prompt-tokens", "2,100", "--prompt-tokens", long_list, "--prompt-tokens", "2,99999", "--prompt-tokens", "2,101",
                                        "--max-new-tokens", "3"});
  CHECK(r.exit == 1);
  const auto got = json_lines(r.out);
  REQUIRE(got.size() == 4);
  CHECK(got[0]["finish_reason"] == "length");
  CHECK(got[1]["finish_reason"] == "error");
  CHECK(got[1]["error"] == "the prompt has 601 tokens, the model takes 512");
  CHECK(got[1]["tokens"] == Json::array());
  CHECK(got[1]["text"] == "");
  CHECK(got[1]["prompt_tokens"].size() == 601);
  CHECK(got[2]["error"] == "token 99999 in the prompt: allowed 0 to 4095");
  CHECK(got[3]["finish_reason"] == "length");
  CHECK_FALSE(got[3].contains("error"));

  const RunResult text = generate(tiny(), {"--prompt-tokens", long_list, "--prompt-tokens", "2,101", "--max-new-tokens", "3"});
  CHECK(text.exit == 1);
  CHECK_THAT(text.err, Catch::Contains("error: prompt 0: the prompt has 601 tokens, the model takes 512\n"));
  CHECK_FALSE(text.out.empty());

  const RunResult samples = generate(tiny(), {"--json", "--prompt-tokens", long_list, "--do-sample", "--num-return-sequences", "3"});
  CHECK(samples.exit == 1);
  CHECK(json_lines(samples.out).size() == 1);
}

TEST_CASE("a context that is full ends a sequence with its length") {
  std::string list = "2";
  for (int i = 0; i < 505; ++i) list += ",100";
  const auto got = answers(tiny(), {"--prompt-tokens", list, "--ignore-eos"});
  CHECK(got[0]["finish_reason"] == "length");
  CHECK(got[0]["tokens"].size() == 512 - 506 + 1);  // the last one needs no place
}

TEST_CASE("malformed prompts and settings end the program before any work") {
  TempDir dir;
  const auto refused = [&](const Strings& arguments, int exit, const std::string& message) {
    const RunResult r = generate("/nowhere.flex", arguments);
    INFO(r.err);
    CHECK(r.exit == exit);
    CHECK(r.out.empty());
    CHECK_THAT(r.err, Catch::Contains(message));
  };
  const auto with_model = [&](const Strings& arguments, const std::string& message) {
    const RunResult r = generate(tiny(), arguments);
    INFO(r.err);
    CHECK(r.exit == 2);
    CHECK(r.out.empty());
    CHECK_THAT(r.err, Catch::Contains(message));
  };
  refused({"--prompt", "x"}, 4, "error[E-io]: /nowhere.flex: cannot be opened: No such file or directory");
  refused({"--threads", "0", "--prompt", "x"}, 2, "error[E-usage]: --threads: found 0, allowed a whole number from 1 to 1024");
  refused({"--kv-dtype", "q4", "--prompt", "x"}, 2, "--kv-dtype: found 'q4', allowed f32 or f16");
  refused({"--gpu-batch-size", "0"}, 2, "--gpu-batch-size: found 0, allowed");
  refused({"--num-gpu-batches", "-1"}, 2, "--num-gpu-batches: found -1, allowed");
  refused({"--micro-batch-tokens", "0"}, 2, "--micro-batch-tokens: found 0, allowed");
  const std::string bad = dir.write("bad.jsonl", "{\"prompt\": \"fine\"}\n{\"prompt\": \"a\", \"max_tokens\": 3}\n");
  with_model({"--prompt-file", bad}, "error[E-usage]: " + bad + ": line 2: unknown field 'max_tokens'. Write max_new_tokens");
  with_model({"--prompt", "x", "--temperature", "nan", "--do-sample"}, "temperature: found nan, allowed a number above 0");
  with_model({"--prompt", "x", "--top-p", "1.5"}, "top_p: found 1.5, allowed a number from 0 to 1");
  with_model({"--prompt", "x", "--top-k", "-3"}, "top_k: found -3, allowed a whole number from 0 to 2147483647");
  with_model({"--prompt", "x", "--max-new-tokens", "many"}, "--max-new-tokens");
  with_model({"--prompt", "x", "--num-return-sequences", "2"}, "num_return_sequences: found 2, allowed 1 without do_sample");
  with_model({"--prompt", "x", "--do-sample", "--greedy"}, "--greedy");
  with_model({"--prompt", "x", "--logprobs", "2"}, "--logprobs: found without --json");
  with_model({"--prompt", "x", "--stop", ""}, "stop: found an empty string");
  with_model({"--prompt-tokens", "2,x"}, "--prompt-tokens: found 'x', allowed token ids");
  with_model({"--prompt", "x", "--isa", "mmx"}, "--isa: found 'mmx'");
  with_model({"--prompt-file", dir.write("empty.txt", "\n\n")}, "empty.txt: holds no prompt");
  with_model({"--no-such-option"}, "--no-such-option");
}

TEST_CASE("text is prompt and continuation, prompts in their order; from standard input too") {
  const auto one = answers(tiny(), {"--prompt", "HAMLET:", "--max-new-tokens", "8"})[0];
  const auto two = answers(tiny(), {"--prompt", "In the", "--max-new-tokens", "8"})[0];
  const std::string first = "HAMLET:" + one["text"].get<std::string>() + "\n", second = "In the" + two["text"].get<std::string>() + "\n";
  CHECK(generate(tiny(), {"--prompt", "HAMLET:", "--max-new-tokens", "8"}).out == first);
  CHECK(generate(tiny(), {"--prompt", "HAMLET:", "--prompt", "In the", "--max-new-tokens", "8"}).out == first + "\n" + second);
  CHECK(generate(tiny(), {"--max-new-tokens", "8"}, {.input = "HAMLET:\r\n\nIn the"}).out == first + "\n" + second);
  CHECK(generate(tiny(), {"--prompt-file", "-", "--max-new-tokens", "8"}, {.input = "In the\n"}).out == second);
}

TEST_CASE("values of text options are taken as they stand") {
  const auto got = answers(tiny(), {"--prompt", "", "--prompt", "{}", "--prompt", "[a]", "--prompt=-x", "--prompt", "%%", "--max-new-tokens", "1"});
  REQUIRE(got.size() == 5);
  Strings prompts;
  for (const Json& a : got) prompts.push_back(a["prompt"]);
  CHECK(prompts == Strings{"", "{}", "[a]", "-x", "%%"});
  CHECK(got[0]["prompt_tokens"] == Json{2});
}

TEST_CASE("text of a user becomes a control token only when that is asked for") {
  const auto plain = answers(tiny(), {"--prompt", "a</s>", "--max-new-tokens", "1"})[0]["prompt_tokens"];
  CHECK(std::count(plain.begin(), plain.end(), 2) == 1);
  const auto parsed = answers(tiny(), {"--prompt", "a</s>", "--max-new-tokens", "1", "--parse-special"})[0]["prompt_tokens"];
  CHECK(std::count(parsed.begin(), parsed.end(), 2) == 2);
}

TEST_CASE("statistics count what was computed, nothing twice, in table and JSON alike") {
  TempDir dir;
  const std::string path = dir / "stats.json";
  const RunResult r = generate(tiny(), {"--prompt-tokens", "2,5,6,7", "--prompt-tokens", "2,9", "--max-new-tokens", "10", "--ignore-eos", "--stats", "--stats-json", path,
                                        "--threads", "2"});
  REQUIRE(r.exit == 0);
  const Json s = Json::parse(read_text_file(path));
  CHECK(s["prompts"] == 2);
  CHECK(s["prompts_failed"] == 0);
  CHECK(s["prompt_tokens"] == 6);
  CHECK(s["generated_tokens"] == 20);
  CHECK(s["tokens_computed"] == 6 + 2 * 9);  // the last token of each is never fed back
  CHECK(s["sweeps"] == 10);
  CHECK(s["threads"] == 2);
  CHECK(s["model"] == tiny());
  for (const char* time : {"load_seconds", "prefill_seconds", "decode_seconds", "generate_seconds", "peak_rss_bytes", "decode_tokens_per_second"}) CHECK(s[time] > 0);
  CHECK_THAT(r.err, Catch::Contains("computed tokens    24 in 10 sweeps") && Catch::Contains("generated tokens   20\n") && Catch::Contains("prompt tokens      6\n"));
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);  // nothing temporary is left

  const Json& flow = s["flow"];  // everything was in memory
  CHECK(flow["stages"]["disk"]["busy_seconds"] == 0);
  CHECK(flow["stages"]["compute"]["busy_seconds"] > 0);
  CHECK(flow["stages"]["compute"]["busy_seconds"].get<double>() <= flow["sweep_seconds"].get<double>());
  CHECK(flow["bytes"]["weights"]["memory"] > 0);
  CHECK(flow["bytes"]["weights"]["disk"] == 0);
  CHECK(flow["roof"] == "compute");
  CHECK_THAT(r.err, Catch::Contains("stage ") && Catch::Contains("compute ") && Catch::Contains("computing was busy that share of"));

  // weights on disk are read in every sweep, the cache's pages in memory are not
  REQUIRE(generate(tiny(), {"--prompt-tokens", "2,5,6,7", "--max-new-tokens", "5", "--ignore-eos", "--percent", "0", "0", "100", "0", "100", "0", "--stats-json", path}).exit == 0);
  const Json streamed = Json::parse(read_text_file(path))["flow"];
  CHECK(streamed["bytes"]["weights"]["disk"] > 0);
  CHECK(streamed["stages"]["disk_read"]["bytes"] > 0);
  CHECK(streamed["stages"]["disk_write"]["bytes"] == 0);
  CHECK(streamed["stages"]["disk"]["busy_seconds"].get<double>() >= streamed["stages"]["disk_read"]["busy_seconds"].get<double>() * 0.999);
  CHECK(streamed["bytes"]["kv_cache"]["disk"] == 0);
  const double share = streamed["share_of_roof"];
  CHECK(share > 0);
  CHECK(share <= 1.001);
  const auto& waited = streamed["stages"]["compute"]["waited_seconds"];
  CHECK(waited["disk"].get<double>() + waited["verify"].get<double>() + waited["slot"].get<double>() + streamed["stages"]["compute"]["busy_seconds"].get<double>() <=
        streamed["sweep_seconds"].get<double>());

  // samples share their prompt
  REQUIRE(generate(tiny(), {"--prompt-tokens", "2,5,6,7", "--max-new-tokens", "5", "--ignore-eos", "--do-sample", "--num-return-sequences", "3", "--stats-json", path}).exit == 0);
  CHECK(Json::parse(read_text_file(path))["tokens_computed"] == 4 + 3 * 4);

  const RunResult nowhere = generate(tiny(), {"--prompt", "x", "--stats-json", dir / "no/such/folder.json"});
  CHECK(nowhere.exit == 4);
  CHECK(nowhere.out.empty());
}

TEST_CASE("options of sampling without sampling are warned about") {
  const RunResult r = generate(tiny(), {"--prompt", "x", "--max-new-tokens", "1", "--temperature", "0.7", "--top-k", "5"});
  CHECK(r.exit == 0);
  CHECK_THAT(r.err, Catch::Contains("warning: --temperature, --top-k have no effect without --do-sample"));
}

TEST_CASE("an interruption shows what has ended, and nothing half") {
  TempDir dir;
  std::string lines = "{\"prompt\": \"x\", \"max_new_tokens\": 2}\n";
  for (int i = 0; i < 3000; ++i) lines += "{\"prompt\": \"And the\", \"max_new_tokens\": 400, \"ignore_eos\": true}\n";
  const RunResult r = generate(tiny(), {"--json", "--prompt-file", dir.write("many.jsonl", lines), "--stats-json", dir / "s.json"}, {.signal = SIGINT, .signal_after_ms = 700});
  CHECK(r.exit == 130);
  CHECK_THAT(r.err, Catch::Contains("interrupted"));
  const auto got = json_lines(r.out);
  CHECK(got.size() < 3001);
  for (const Json& a : got) CHECK(a["tokens"].size() == (a["index"] == 0 ? 2 : 400));
}

TEST_CASE("an interrupted text ends its line") {
  const RunResult r = generate(tiny(), {"--prompt", "HAMLET:", "--prompt", "x", "--max-new-tokens", "500", "--ignore-eos", "--isa", "ref", "--threads", "1"},
                               {.signal = SIGTERM, .signal_after_ms = 700});
  CHECK(r.exit == 130);
  CHECK_THAT(r.out, Catch::StartsWith("HAMLET:") && Catch::EndsWith("\n"));
  CHECK(r.err == "interrupted\n");
}

TEST_CASE("a model without a tokenizer takes and gives token ids") {
  TempDir dir;
  std::filesystem::create_directory(dir / "m");
  for (const char* name : {"config.json", "generation_config.json", "pytorch_model.bin"})
    std::filesystem::copy(testing::test_data("tiny-opt/") + name, dir / "m");
  const std::string file = dir / "m.flex";
  REQUIRE(run_flexgen({"convert", dir / "m", "-o", file}).exit == 0);
  const auto with = answers(tiny(), {"--prompt-tokens", "2,100,7", "--max-new-tokens", "5"}), without = answers(file, {"--prompt-tokens", "2,100,7", "--max-new-tokens", "5"});
  CHECK(without[0]["tokens"] == with[0]["tokens"]);
  CHECK(without[0]["prompt"].is_null());
  CHECK(without[0]["text"] == "");
  const RunResult text = generate(file, {"--prompt", "x"});
  CHECK(text.exit == 2);
  CHECK_THAT(text.err, Catch::Contains("error[E-usage]: " + file + ": has no tokenizer, so there is no text. Give --prompt-tokens"));
  const RunResult stop = generate(file, {"--prompt-tokens", "2", "--stop", "x", "--json"});
  CHECK(stop.exit == 1);
  CHECK(json_lines(stop.out)[0]["error"] == "stop strings need a tokenizer, and the model has none");
}

TEST_CASE("a reader that closes the pipe ends the program quietly") {
  const std::string command = "'" FLEXGEN_PROGRAM "' generate --model '" + tiny() +
                              "' --json --max-new-tokens 30 --prompt a --prompt b --prompt c --prompt d --gpu-batch-size 1 --num-gpu-batches 1 2>&1 >&3 | cat; ";
  const RunResult r = testing::run({"bash", "-c", "exec 3> >(head -c 1 >/dev/null); " + command + " exit ${PIPESTATUS[0]}"});
  CHECK(r.out.empty());
  CHECK(r.err.empty());
  CHECK(r.exit == 0);
}

TEST_CASE("a full disk under the output is told") {
  const RunResult r = testing::run({"bash", "-c", "'" FLEXGEN_PROGRAM "' generate --model '" + tiny() + "' --prompt a --max-new-tokens 2 > /dev/full"});
  CHECK(r.exit == 5);
  CHECK_THAT(r.err, Catch::Contains("error[E-space]: standard output: cannot be written: No space left on device"));
}

TEST_CASE("the help names every option, its default and the exit codes") {
  const RunResult r = run_flexgen({"generate", "--help"});
  CHECK(r.exit == 0);
  for (const char* word : {"--prompt-file", "--max-new-tokens N", "[128]", "--top-k K", "[50]", "--num-return-sequences", "--stats-json", "Examples:", "Exit codes:", "130 interrupted"})
    CHECK_THAT(r.out, Catch::Contains(word));
}

TEST_CASE("a model whose config names no end token has OPT's", "[tools]") {
  const TempDir dir;
  std::ofstream(dir / "config.json") << R"({"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 64,
    "vocab_size": 96, "max_position_embeddings": 64, "word_embed_proj_dim": 64, "do_layer_norm_before": true, "activation_function": "relu"})";
  REQUIRE(run_flexgen({"synth", "--like", dir / "config.json", "-o", dir / "m.flex"}).exit == 0);
  const RunResult r = run_flexgen({"generate", "--model", dir / "m.flex", "--prompt-tokens", "2,5,9", "--max-new-tokens", "4", "--json"});
  INFO(r.err);
  CHECK(r.exit == 0);
}
