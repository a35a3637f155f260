// SPDX-License-Identifier: Apache-2.0
// An engine on a golden checkpoint, and what its events add up to.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "flexgen/engine/engine.h"
#include "kernels/registry.h"
#include "support/golden.h"

namespace flexgen::testing {

struct Answer {
  std::vector<int32_t> tokens;
  std::string text, error;
  std::optional<FinishReason> reason;
  bool last = false;
  std::vector<TokenLogprobs> logprobs;
};
using Answers = std::map<std::pair<RequestId, int>, Answer>;

inline void collect(const std::vector<Event>& events, Answers& answers) {
  for (const Event& e : events) {
    Answer& a = answers[{e.request, e.sample}];
    REQUIRE(!a.reason);  // nothing comes after the end
    for (const auto& [key, other] : answers)
      if (key.first == e.request) REQUIRE(!other.last);
    a.text += e.text;
    if (e.kind == Event::Kind::token) {
      a.tokens.push_back(e.token);
      if (e.logprobs) a.logprobs.push_back(*e.logprobs);
    } else {
      a.reason = e.reason;
      a.error = e.error;
      a.last = e.last;
    }
  }
}

// A golden checkpoint under an engine
struct EngineBench {
  explicit EngineBench(const std::string& folder, EngineOptions options = {}, int threads = 2)
      : golden(folder),
        pool(threads),
        weights(golden.checkpoint, golden.sources),
        tokenizer(Tokenizer::from_files(files(folder), folder)),
        engine(golden.model(), weights, &tokenizer, *backends().front(), pool, with_f32(options)) {}

  static EngineOptions with_f32(EngineOptions o) {
    o.kv_dtype = DType::f32;
    return o;
  }
  static std::map<std::string, std::string> files(const std::string& folder) {
    std::map<std::string, std::string> out;
    for (const char* name : {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
      if (std::filesystem::exists(folder + "/" + name)) out[name] = read_text_file(folder + "/" + name);
    return out;
  }

  Request greedy(size_t i) const {
    Request r;
    r.id = std::to_string(i);
    r.prompt = golden.sequences[i].prompt_tokens;
    r.settings.max_new_tokens = static_cast<int64_t>(golden.sequences[i].tokens.size());
    r.settings.ignore_eos = true;
    r.settings.eos = {2};
    return r;
  }

  Answers run() {
    Answers answers;
    for (int steps = 0; !engine.idle(); ++steps) {
      REQUIRE(steps < 100000);
      collect(engine.step(), answers);
    }
    return answers;
  }

  Golden golden;
  ThreadPool pool;
  CheckpointWeights weights;
  Tokenizer tokenizer;
  Engine engine;
};

inline const std::string kSmallGolden = test_data("golden/prenorm-f16-bin");

}  // namespace flexgen::testing
