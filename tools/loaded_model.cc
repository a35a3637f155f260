// SPDX-License-Identifier: Apache-2.0
// Compiled once for all commands that run a model: most of the readers' code enters the program here.
#include "tools/loaded_model.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <optional>
#include <utility>

#include "flexgen/base/bytes.h"
#include "flexgen/format/json.h"
#include "flexgen/format/model_file.h"
#include "flexgen/io/file.h"
#include "flexgen/model/conversion.h"
#include "flexgen/text/checked_tokenizer_files.h"
#include "kernels/registry.h"
#include "tools/file_id.h"
#include "tools/interrupt.h"
#include "tools/model_cache.h"
#include "tools/plan_table.h"
#include "tools/progress.h"

namespace flexgen::tools {

namespace {

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

}  // namespace

std::string model_file_for(const std::string& model) {
  if (!is_folder(model)) return model;
  const auto convert = [](const std::string& folder, const std::string& output) {
    Conversion conversion(folder, checked_tokenizer_files(folder), std::nullopt, "flexgen " FLEXGEN_VERSION);
    for (const std::string& note : conversion.notes()) fmt::print(stderr, "note: {}\n", note);
    std::atomic<uint64_t> done{0};
    const Progress progress("convert", done, conversion.total_bytes());
    for (const SuspectTensor& s :
         conversion.write(output, {.file_id = random_file_id(), .overwrite = true, .stop = &interrupted, .done_bytes = &done}))
      fmt::print(stderr, "warning: tensor '{}': {} values are infinite or NaN in the checkpoint\n", printable(s.name), with_commas(s.not_finite));
  };
  const ModelCache cache(ModelCache::default_folder());
  const auto found = cache.get(model, convert, [&] { fmt::print(stderr, "waiting for another run that converts {}\n", printable(model)); });
  fmt::print(stderr, "model: {} ({})\n", found.path,
             found.converted ? "converted now, kept for the next time; see flexgen cache" : "converted before");
  return found.path;
}

nlohmann::json generation_config(const std::string& model) {
  const auto from_config = [](nlohmann::json config) {
    if (config.is_object() && !config.contains("eos_token_id")) config["eos_token_id"] = 2u;
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
    : flags_(flags),
      trace_(trace),
      backend_(backend(flags.isa)),
      path_(model_file_for(model)),
      model_(path_),
      policy_(flags.policy(model_.default_kv_dtype())),
      pool_(flags.n_threads()),
      device_(flags) {
  if (!device_.note().empty()) fmt::print(stderr, "{}\n", device_.note());
}

void LoadedModel::load(Demand demand) {
  const Stopwatch watch;
  if (trace_) demand.trace_bytes = trace_->most_bytes();
  MemoryPlan plan = make_memory_plan(model_.file(), model_.description(), policy_, demand, process_memory(), device_.room());
  const bool told = policy_.shares || policy_.memory_bytes != 0 || policy_.device_bytes != 0 ||
                    plan.missing_bytes() + plan.device_missing_bytes() > 0 || plan.weights.streamed_bytes() + plan.spill_bytes() > 0 ||
                    ::isatty(STDERR_FILENO) == 1;
  if (told) fmt::print(stderr, "{}", plan_table(plan));
  std::atomic<uint64_t> done{0};
  {
    const Progress progress("load", done, plan.weights.memory_bytes() + plan.weights.host_bytes());
    offload_ = std::make_unique<Offload>(model_, policy_, std::move(plan), pool_,
                                         OffloadOptions{.io_engine = flags_.io_engine,
                                                        .faults = flags_.faults(),
                                                        .spill_folder = flags_.offload_dir,
                                                        .device = device_.backend(),
                                                        .host = &backend_,
                                                        .trace = trace_,
                                                        .progress = [&](uint64_t bytes) { done.store(bytes, std::memory_order_relaxed); },
                                                        .stop = &interrupted});
  }
  if (const std::string& note = offload_->io().note(); !note.empty() && told) fmt::print(stderr, "note: {}\n", note);
  if (const auto huge = offload_->arena().huge_coverage(); huge && told)
    fmt::print(stderr, "huge pages: {:.0f} % of {}\n", *huge * 100, format_bytes(offload_->arena().size()));
  engine_ = std::make_unique<Engine>(model_.description(), offload_->weights(), model_.tokenizer(), operations(), pool_, offload_->engine_options());
  load_s_ = watch.seconds();
}

}  // namespace flexgen::tools
