// SPDX-License-Identifier: Apache-2.0
// A run of flexgen generate from outside: prompts that cannot be served, text and statistics as they are shown, warnings, interruptions,
// readers that leave, exit codes and messages.
#include <csignal>
#include <filesystem>

#include "flexgen/io/file.h"
#include "support/generate.h"
#include "support/temp_dir.h"

using namespace flexgen;
using namespace flexgen::testing;

TEST_CASE("a prompt that cannot be served has its own error, and the others go on") {
  TempDir dir;
  std::string long_list = "2";
  for (int i = 0; i < 600; ++i) long_list += ",100";
  const RunResult r = generate(tiny(), {"--json", "--prompt-tokens", "2,100", "--prompt-tokens", long_list, "--prompt-tokens", "2,99999",
                                        "--prompt-tokens", "2,101", "--max-new-tokens", "3"});
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

TEST_CASE("statistics count what was computed, nothing twice, in table and JSON alike") {
  TempDir dir;
  const std::string path = dir / "stats.json";
  const RunResult r = generate(tiny(), {"--prompt-tokens", "2,5,6,7", "--prompt-tokens", "2,9", "--max-new-tokens", "10", "--ignore-eos", "--stats",
                                        "--stats-json", path, "--threads", "2"});
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
  for (const char* time : {"load_seconds", "prefill_seconds", "decode_seconds", "generate_seconds", "peak_rss_bytes", "decode_tokens_per_second"})
    CHECK(s[time] > 0);
  CHECK_THAT(r.err, Catch::Contains("computed tokens    24 in 10 sweeps") && Catch::Contains("generated tokens   20\n") &&
                        Catch::Contains("prompt tokens      6\n"));
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);  // nothing temporary is left

  const Json& plan = s["plan"];
  CHECK(plan["memory_bytes"] <= plan["budget_bytes"]);
  CHECK(plan["asked_percent"].is_null());
  CHECK(plan["realised_percent"] == Json{{"weights", 100.0}, {"kv_cache", 100.0}, {"activations", 100.0}});

  const Json& flow = s["flow"];  // everything was in memory
  CHECK(flow["stages"]["disk"]["busy_seconds"] == 0);
  CHECK(flow["stages"]["compute"]["busy_seconds"] > 0);
  CHECK(flow["stages"]["compute"]["busy_seconds"].get<double>() <= flow["sweep_seconds"].get<double>());
  CHECK(flow["bytes"]["weights"]["memory"] > 0);
  CHECK(flow["bytes"]["weights"]["disk"] == 0);
  CHECK(flow["roof"] == "compute");
  CHECK_THAT(r.err, Catch::Contains("stage ") && Catch::Contains("compute ") && Catch::Contains("computing was busy that share of"));

  // weights on disk are read in every sweep, the cache's pages in memory are not
  REQUIRE(generate(tiny(), {"--prompt-tokens", "2,5,6,7", "--max-new-tokens", "5", "--ignore-eos", "--percent", "0", "0", "100", "0", "100", "0",
                            "--stats-json", path})
              .exit == 0);
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
  CHECK(waited["disk"].get<double>() + waited["verify"].get<double>() + waited["slot"].get<double>() +
            streamed["stages"]["compute"]["busy_seconds"].get<double>() <=
        streamed["sweep_seconds"].get<double>());

  // samples share their prompt
  REQUIRE(generate(tiny(), {"--prompt-tokens", "2,5,6,7", "--max-new-tokens", "5", "--ignore-eos", "--do-sample", "--num-return-sequences", "3",
                            "--stats-json", path})
              .exit == 0);
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
  const RunResult r = generate(tiny(), {"--json", "--prompt-file", dir.write("many.jsonl", lines), "--stats-json", dir / "s.json"},
                               {.signal = SIGINT, .signal_after_ms = 700});
  CHECK(r.exit == 130);
  CHECK_THAT(r.err, Catch::Contains("interrupted"));
  const auto got = json_lines(r.out);
  CHECK(got.size() < 3001);
  for (const Json& a : got) CHECK(a["tokens"].size() == (a["index"] == 0 ? 2 : 400));
}

TEST_CASE("an interrupted text ends its line") {
  const RunResult r =
      generate(tiny(), {"--prompt", "HAMLET:", "--prompt", "x", "--max-new-tokens", "500", "--ignore-eos", "--isa", "ref", "--threads", "1"},
               {.signal = SIGTERM, .signal_after_ms = FLEXGEN_SANITIZED ? 2500 : 700});
  CHECK(r.exit == 130);
  CHECK_THAT(r.out, Catch::StartsWith("HAMLET:") && Catch::EndsWith("\n"));
  CHECK(r.err == "interrupted\n");
}

TEST_CASE("a reader that closes the pipe ends the program quietly") {
  const std::string command =
      "'" FLEXGEN_PROGRAM "' generate --model '" + tiny() +
      "' --json --max-new-tokens 30 --prompt a --prompt b --prompt c --prompt d --gpu-batch-size 1 --num-gpu-batches 1 2>&1 >&3 | cat; ";
  const RunResult r = run({"bash", "-c", "exec 3> >(head -c 1 >/dev/null); " + command + " exit ${PIPESTATUS[0]}"});
  CHECK(r.out.empty());
  CHECK(r.err.empty());
  CHECK(r.exit == 0);
}

TEST_CASE("a full disk under the output is told") {
  const RunResult r =
      run({"bash", "-c", "'" FLEXGEN_PROGRAM "' generate --model '" + tiny() + "' --prompt a --max-new-tokens 2 > /dev/full"});
  CHECK(r.exit == 5);
  CHECK_THAT(r.err, Catch::Contains("error[E-space]: standard output: cannot be written: No space left on device"));
}

TEST_CASE("the help names every option, its default and the exit codes") {
  const RunResult r = run_flexgen({"generate", "--help"});
  CHECK(r.exit == 0);
  for (const char* word : {"--prompt-file", "--max-new-tokens N", "[128]", "--top-k K", "[50]", "--num-return-sequences", "--stats-json",
                           "Examples:", "Exit codes:", "130 interrupted"})
    CHECK_THAT(r.out, Catch::Contains(word));
}
