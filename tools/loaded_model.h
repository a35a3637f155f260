// SPDX-License-Identifier: Apache-2.0
// From --model to a running engine: converts a folder into the cache where that is needed, reads the weights, plans the KV cache.
#pragma once

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "flexgen/base/error.h"
#include "flexgen/base/thread_pool.h"
#include "flexgen/engine/engine.h"
#include "flexgen/engine/language_model.h"
#include "tools/engine_options.h"

namespace flexgen::tools {

// The model file for --model: the file itself, or the one that the cache has for a folder. Where a folder leads to is told on standard
// error.
std::string model_file_for(const std::string& model);

// What generate takes as the model's own defaults: generation_config.json, or where there is none config.json, from which HF derives one
// (GenerationConfig.from_model_config), with OPT's end token where it names none (configuration_opt.py). Cheap: nothing is converted.
nlohmann::json generation_config(const std::string& model);

// Seconds on a clock that does not jump
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// A model with its weights in memory, and an engine on top
class LoadedModel {
 public:
  // flags: checked. trace: null, or gets what happens; outlives this. What does not fit into memory is a Fault::space before anything
  // is read.
  LoadedModel(const std::string& model, const EngineFlags& flags, Trace* trace = nullptr);

  const std::string& path() const { return path_; }
  const LanguageModel& model() const { return model_; }
  Engine& engine() { return *engine_; }
  const Backend& isa() const { return backend_; }
  ThreadPool& pool() { return pool_; }
  int n_threads() const { return pool_.size(); }
  double load_s() const { return load_s_; }

  // throws Fault::usage where the model file has none
  const Tokenizer& tokenizer() const {
    if (!model_.tokenizer()) fail(Fault::usage, "{}: has no tokenizer, so there is no text. Give --prompt-tokens, or convert again with the tokenizer's files", path_);
    return *model_.tokenizer();
  }

 private:
  const Backend& backend_;
  std::string path_;
  LanguageModel model_;
  ThreadPool pool_;
  std::unique_ptr<Engine> engine_;
  double load_s_ = 0;
};

}  // namespace flexgen::tools
