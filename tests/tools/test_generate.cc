// SPDX-License-Identifier: Apache-2.0
// flexgen generate as its users see it: HF's tokens, text and log-probabilities, JSON, and that no option of the engine, and nothing
// that runs beside, changes a result.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <thread>

#include "flexgen/io/file.h"
#include "support/generate.h"
#include "support/temp_dir.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

Strings keys(const std::string& line) {
  Strings names;
  const auto object = nlohmann::ordered_json::parse(line);
  for (const auto& [name, value] : object.items()) names.push_back(name);
  return names;
}

// Three prompts of different length, two samples each, and some settings of their own
std::string mixed_file(const TempDir& dir) {
  return dir.write(
      "mixed.jsonl",
      R"({"prompt": "HAMLET:", "id": "h"})"
      "\n"
      R"({"prompt": "In the beginning God created the heaven and the earth. And the earth was without form, and void;", "id": "g", "top_p": 0.9})"
      "\n"
      R"({"prompt_tokens": [2, 100], "id": 3, "temperature": 1.7, "max_new_tokens": 9})"
      "\n");
}
const Strings kSampling{"--do-sample", "--num-return-sequences", "2", "--seed", "5", "--max-new-tokens", "12"};

}  // namespace

TEST_CASE("greedy tokens, text and log-probabilities are HF's", "[golden]") {
  for (const std::string name : {"prenorm-f16-bin", "postnorm-proj-f16", "head128-bf16-sharded"}) {
    INFO(name);
    const Json expected = Json::parse(read_text_file(test_data("golden/" + name + "/expected.json")));
    Strings prompts;
    for (const Json& s : expected["sequences"]) prompts = prompts + Strings{"--prompt", s["prompt"]};
    const auto got = answers(fixture_model("golden/" + name), prompts + Strings{"--max-new-tokens", std::to_string(expected["new_tokens"].get<int>()),
                                                                                "--ignore-eos", "--kv-dtype", "f32", "--logprobs", "0"});
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
  const auto tokens = answers(
      tiny(),
      {"--prompt-tokens",
       fmt::format("{}",
                   fmt::join(answers(tiny(), {"--prompt", "HAMLET:", "--max-new-tokens", "1"})[0]["prompt_tokens"].get<std::vector<int>>(), ",")),
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
  std::filesystem::copy(test_data("tiny-opt"), folder);
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
  std::filesystem::copy(test_data("tiny-opt"), dir / "m");
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
  const std::string folder = test_data("tiny-opt");
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
    threads.emplace_back([&] { r = generate(test_data("tiny-opt"), {"--prompt", "x", "--max-new-tokens", "2"}, cache); });
  for (auto& t : threads) t.join();
  int converted = 0;
  for (const RunResult& r : results) {
    CHECK(r.exit == 0);
    CHECK(r.out == results[0].out);
    converted += r.err.find("converted now") != std::string::npos;
  }
  CHECK(converted == 1);
}

TEST_CASE("text of a user becomes a control token only when that is asked for") {
  const auto plain = answers(tiny(), {"--prompt", "a</s>", "--max-new-tokens", "1"})[0]["prompt_tokens"];
  CHECK(std::count(plain.begin(), plain.end(), 2) == 1);
  const auto parsed = answers(tiny(), {"--prompt", "a</s>", "--max-new-tokens", "1", "--parse-special"})[0]["prompt_tokens"];
  CHECK(std::count(parsed.begin(), parsed.end(), 2) == 2);
}

TEST_CASE("a model without a tokenizer takes and gives token ids") {
  TempDir dir;
  std::filesystem::create_directory(dir / "m");
  for (const char* name : {"config.json", "generation_config.json", "pytorch_model.bin"})
    std::filesystem::copy(test_data("tiny-opt/") + name, dir / "m");
  const std::string file = dir / "m.flex";
  REQUIRE(run_flexgen({"convert", dir / "m", "-o", file}).exit == 0);
  const auto with = answers(tiny(), {"--prompt-tokens", "2,100,7", "--max-new-tokens", "5"}),
             without = answers(file, {"--prompt-tokens", "2,100,7", "--max-new-tokens", "5"});
  CHECK(without[0]["tokens"] == with[0]["tokens"]);
  CHECK(without[0]["prompt"].is_null());
  CHECK(without[0]["text"] == "");
  const std::string ids = with[0]["tokens"].dump(), continued = ids.substr(1, ids.size() - 2);
  CHECK(generate(file, {"--prompt-tokens", "2,100,7", "--max-new-tokens", "5"}).out == "2,100,7," + continued + "\n");
  CHECK(generate(file, {"--prompt-tokens", "2,100,7", "--max-new-tokens", "5", "--hide-prompt"}).out == continued + "\n");
  const RunResult text = generate(file, {"--prompt", "x"});
  CHECK(text.exit == 2);
  CHECK_THAT(text.err, Catch::Contains("error[E-usage]: " + file + ": has no tokenizer, so there is no text. Give --prompt-tokens"));
  const RunResult stop = generate(file, {"--prompt-tokens", "2", "--stop", "x", "--json"});
  CHECK(stop.exit == 1);
  CHECK(json_lines(stop.out)[0]["error"] == "stop strings need a tokenizer, and the model has none");
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
