// SPDX-License-Identifier: Apache-2.0
// Compiled once for all commands that run a model: most of the readers' code enters the program here.
#include "tools/loaded_model.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <optional>
#include <utility>

#include "flexgen/base/bytes.h"
#include "flexgen/format/json.h"
#include "flexgen/format/model_file.h"
#include "flexgen/io/file.h"
#include "flexgen/memory/system_memory.h"
#include "flexgen/model/conversion.h"
#include "flexgen/text/checked_tokenizer_files.h"
#include "kernels/registry.h"
#include "tools/file_id.h"
#include "tools/interrupt.h"
#include "tools/model_cache.h"
#include "tools/progress.h"

namespace flexgen::tools {

namespace {

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

// What is free now that the weights are in memory, less what a sweep needs and a tenth for the system. Pages are mapped when they
// are used, so a large budget costs nothing.
uint64_t kv_budget(const EngineOptions& options) {
  const uint64_t available = available_memory() / 10 * 9, working = options.sweep.activation_bytes + 2 * options.sweep.logits_bytes;
  return std::max<uint64_t>(available > working ? available - working : 0, 64_MiB);
}

}  // namespace

std::string model_file_for(const std::string& model) {
  if (!is_folder(model)) return model;
  const auto convert = [](const std::string& folder, const std::string& output) {
    Conversion conversion(folder, checked_tokenizer_files(folder), std::nullopt, "flexgen " FLEXGEN_VERSION);
    for (const std::string& note : conversion.notes()) fmt::print(stderr, "note: {}\n", note);
    std::atomic<uint64_t> done{0};
    const Progress progress("convert", done, conversion.total_bytes());
    for (const SuspectTensor& s : conversion.write(output, {.file_id = random_file_id(), .overwrite = true, .stop = &interrupted, .done_bytes = &done}))
      fmt::print(stderr, "warning: tensor '{}': {} values are infinite or NaN in the checkpoint\n", printable(s.name), with_commas(s.not_finite));
  };
  const ModelCache cache(ModelCache::default_folder());
  const auto found = cache.get(model, convert, [&] { fmt::print(stderr, "waiting for another run that converts {}\n", printable(model)); });
  fmt::print(stderr, "model: {} ({})\n", found.path, found.converted ? "converted now, kept for the next time; see flexgen cache" : "converted before");
  return found.path;
}

nlohmann::json generation_config(const std::string& model) {
  const auto from_config = [](nlohmann::json config) {
    if (config.is_object() && !config.contains("eos_token_id")) config["eos_token_id"] = 2;
    return config;
  };
  if (is_folder(model)) {
    for (const char* name : {"generation_config.json", "config.json"}) {
      const std::string path = model + "/" + name;
      std::error_code ignored;
      if (!std::filesystem::exists(path, ignored)) continue;
      nlohmann::json config = parse_json(read_text_file(path, 16_MiB), path);
      return std::string_view(name) == "config.json" ? from_config(std::move(config)) : config;
    }
    return nullptr;  // no checkpoint: the conversion says so
  }
  const ModelFile file = ModelFile::open(model);
  const nlohmann::json& d = file.description();
  if (d.contains("generation") && d["generation"].is_object() && !d["generation"].empty()) return d["generation"];
  if (d.contains("provenance") && d["provenance"].is_object() && d["provenance"].contains("config") && d["provenance"]["config"].is_string())
    return from_config(parse_json(d["provenance"]["config"].get_ref<const std::string&>(), model + ": config.json"));
  return from_config(nlohmann::json::object());
}

LoadedModel::LoadedModel(const std::string& model, const EngineFlags& flags, Trace* trace)
    : backend_(backend(flags.isa)), path_(model_file_for(model)), model_(path_), pool_(flags.n_threads()) {
  const Stopwatch watch;
  {
    std::atomic<uint64_t> done{0};
    const Progress progress("load", done, model_.file().weight_bytes());
    model_.load_weights(pool_, available_memory(), [&](uint64_t bytes) { done.store(bytes, std::memory_order_relaxed); }, &interrupted);
  }
  EngineOptions options;
  options.gpu_batch_size = flags.gpu_batch_size;
  options.num_gpu_batches = flags.num_gpu_batches;
  options.micro_batch_tokens = flags.micro_batch_tokens;
  options.kv_dtype = flags.kv_dtype.empty() ? model_.default_kv_dtype() : flags.kv_dtype == "f32" ? DType::f32 : DType::f16;
  options.sweep.trace = trace;
  options.kv_bytes = kv_budget(options);
  engine_ = std::make_unique<Engine>(model_.description(), model_.weights(), model_.tokenizer(), backend_, pool_, options);
  load_s_ = watch.seconds();
}

}  // namespace flexgen::tools
