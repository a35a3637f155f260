// SPDX-License-Identifier: Apache-2.0
// The options that say how text is continued: the same names, defaults and help for every command that generates.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "flexgen/engine/sampling_settings.h"

namespace flexgen::tools {

// What the command line says; an absent one leaves the model's default, or else HF's
struct GenerationOptions {
  std::optional<int64_t> max_new_tokens, min_new_tokens, top_k, no_repeat_ngram_size, num_return_sequences, logprobs;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<uint64_t> seed;
  std::optional<bool> do_sample;
  bool ignore_eos = false;
  std::vector<std::string> stop;

  // over what s has
  void apply(GenerationSettings& s) const {
    const auto take = [](auto& to, const auto& from) {
      if (from) to = *from;
    };
    take(s.max_new_tokens, max_new_tokens);
    take(s.min_new_tokens, min_new_tokens);
    take(s.do_sample, do_sample);
    take(s.temperature, temperature);
    take(s.top_k, top_k);
    take(s.top_p, top_p);
    take(s.min_p, min_p);
    take(s.repetition_penalty, repetition_penalty);
    take(s.no_repeat_ngram_size, no_repeat_ngram_size);
    take(s.seed, seed);
    take(s.num_return_sequences, num_return_sequences);
    take(s.logprobs, logprobs);
    if (ignore_eos) s.ignore_eos = true;
    if (!stop.empty()) s.stop = stop;
  }

  // Options of sampling that greedy decoding does not use, as HF warns about them: "--temperature, --top-k"; empty where all is well
  std::string unused(const GenerationSettings& merged) const {
    if (merged.do_sample) return "";
    std::string names;
    const auto add = [&](bool given, const char* name) {
      if (given) names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
    };
    add(temperature && *temperature != 0, "--temperature");  // 0 is how many people ask for greedy decoding
    add(top_k.has_value(), "--top-k");
    add(top_p.has_value(), "--top-p");
    add(min_p.has_value(), "--min-p");
    add(seed.has_value(), "--seed");
    return names;
  }
};

// A repeatable option whose values are taken as they stand: one each time it is given, empty, "[a]" and "{}" included
inline CLI::Option* add_text_list(CLI::App& command, const std::string& name, std::vector<std::string>& values, const std::string& help) {
  CLI::Option* option = command.add_option(
      name,
      [&values](const CLI::results_t& given) {
        values = given;
        return true;
      },
      help);
  return option->type_size(1)->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->allow_extra_args(false);
}

// The options live as long as the command.
inline void add_generation_options(CLI::App& command, GenerationOptions& o) {
  const std::string answer = "Length and end", sampling = "Choice of tokens";
  command.add_option("--max-new-tokens", o.max_new_tokens, "New tokens at most, the end token included [128]")->type_name("N")->group(answer);
  command.add_option("--min-new-tokens", o.min_new_tokens, "No end token before that many new tokens [0]")->type_name("N")->group(answer);
  add_text_list(command, "--stop", o.stop, "The text ends before this string; repeatable")->type_name("TEXT")->group(answer);
  command.add_flag("--ignore-eos", o.ignore_eos, "Go on after an end token")->group(answer);

  const auto choose = [&o](bool draw) { return [&o, draw](int64_t) { o.do_sample = draw; }; };
  CLI::Option* draw = command.add_flag_function("--do-sample", choose(true), "Draw tokens by their probability")->group(sampling);
  command.add_flag_function("--greedy", choose(false), "Take the likeliest token: the default, unless the model's own defaults draw")
      ->excludes(draw)
      ->group(sampling);
  command.add_option("--temperature", o.temperature, "Divides the scores: below 1 bolder, above 1 wilder [1]")->type_name("X")->group(sampling);
  command.add_option("--top-k", o.top_k, "Draw from the K likeliest tokens; 0 for all [50]")->type_name("K")->group(sampling);
  command.add_option("--top-p", o.top_p, "Draw from the fewest tokens that together have this probability [1]")->type_name("P")->group(sampling);
  command.add_option("--min-p", o.min_p, "Draw from tokens at least P times as likely as the likeliest [0]")->type_name("P")->group(sampling);
  command.add_option("--repetition-penalty", o.repetition_penalty, "Above 1: tokens of prompt and answer become less likely [1]")
      ->type_name("X")
      ->group(sampling);
  command.add_option("--no-repeat-ngram-size", o.no_repeat_ngram_size, "No N tokens in a row occur twice; 0: off [0]")
      ->type_name("N")
      ->group(sampling);
  command.add_option("--seed", o.seed, "Of the random numbers: same seed, same samples, whatever runs beside [0]")->type_name("N")->group(sampling);
}

}  // namespace flexgen::tools
