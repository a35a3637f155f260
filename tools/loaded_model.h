// SPDX-License-Identifier: Apache-2.0
// From --model to a running engine: converts a folder into the cache where that is needed, plans the memory and says how, reads what
// stays in memory.
#pragma once

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "flexgen/base/error.h"
#include "flexgen/base/thread_pool.h"
#include "flexgen/engine/engine.h"
#include "flexgen/engine/language_model.h"
#include "flexgen/engine/offload.h"
#include "tools/compute_device.h"
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

// A model, and after load() an engine on top
class LoadedModel {
 public:
  // Opens it. flags: checked, and outlive this, as does trace, which may be null
  LoadedModel(const std::string& model, const EngineFlags& flags, Trace* trace = nullptr);

  // Plans, prints the plan where it says something, and reads. What does not fit is a Fault::space before anything is read.
  void load(Demand demand);

  const std::string& path() const { return path_; }
  const LanguageModel& model() const { return model_; }
  Engine& engine() { return *engine_; }
  const Backend& isa() const { return backend_; }  // of the CPU
  const ComputeDevice& device() const { return device_; }
  const Backend& operations() const { return device_ ? device_.backend()->operations() : backend_; }
  ThreadPool& pool() { return pool_; }
  Offload& offload() { return *offload_; }
  const Policy& policy() const { return policy_; }
  int n_threads() const { return pool_.size(); }
  double load_s() const { return load_s_; }

  // throws Fault::usage where the model file has none
  const Tokenizer& tokenizer() const {
    if (!model_.tokenizer())
      fail(Fault::usage, "{}: has no tokenizer, so there is no text. Give --prompt-tokens, or convert again with the tokenizer's files", path_);
    return *model_.tokenizer();
  }

 private:
  const EngineFlags& flags_;
  Trace* const trace_;
  const Backend& backend_;
  std::string path_;
  LanguageModel model_;
  const Policy policy_;
  ThreadPool pool_;
  const ComputeDevice device_;
  std::unique_ptr<Offload> offload_;
  std::unique_ptr<Engine> engine_;
  double load_s_ = 0;
};

}  // namespace flexgen::tools
