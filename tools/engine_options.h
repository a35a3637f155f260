// SPDX-License-Identifier: Apache-2.0
// The options that say how the engine works: they change speed and memory, and no result but for --kv-dtype.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "flexgen/base/error.h"
#include "flexgen/engine/engine.h"
#include "tools/cpu_count.h"

namespace flexgen::tools {

struct EngineFlags {
  std::optional<int64_t> threads;
  std::string isa = "auto";
  int64_t gpu_batch_size = EngineOptions{}.gpu_batch_size;
  int64_t num_gpu_batches = EngineOptions{}.num_gpu_batches;
  int64_t micro_batch_tokens = EngineOptions{}.micro_batch_tokens;
  std::string kv_dtype;  // f32, f16, or empty: f16, but f32 where the weights are f32

  // throws Fault::usage
  void check() const {
    const auto whole = [](const char* name, int64_t value, int64_t high) {
      if (value < 1 || value > high) fail(Fault::usage, "{}: found {}, allowed a whole number from 1 to {}", name, value, high);
    };
    if (threads) whole("--threads", *threads, 1024);
    whole("--gpu-batch-size", gpu_batch_size, 1 << 20);
    whole("--num-gpu-batches", num_gpu_batches, 1 << 20);
    whole("--micro-batch-tokens", micro_batch_tokens, 1 << 20);
    if (!kv_dtype.empty() && kv_dtype != "f32" && kv_dtype != "f16") fail(Fault::usage, "--kv-dtype: found '{}', allowed f32 or f16", printable(kv_dtype));
  }

  int n_threads() const { return threads ? static_cast<int>(*threads) : usable_cpus(); }
};

// The flags live as long as the command.
inline void add_engine_options(CLI::App& command, EngineFlags& f) {
  const std::string group = "Engine (speed and memory; no result depends on them but for --kv-dtype)";
  command.add_option("--threads", f.threads, "Threads [the CPUs this process may use]")->type_name("N")->group(group);
  command.add_option("--isa", f.isa, "Kernels: auto, avx512, avx2, portable or ref [auto]")->type_name("NAME")->group(group);
  command.add_option("--gpu-batch-size", f.gpu_batch_size, fmt::format("Sequences of a micro-batch [{}]", f.gpu_batch_size))->type_name("N")->group(group);
  command.add_option("--num-gpu-batches", f.num_gpu_batches, fmt::format("Micro-batches that share a pass over the weights [{}]", f.num_gpu_batches))
      ->type_name("N")
      ->group(group);
  command.add_option("--micro-batch-tokens", f.micro_batch_tokens, fmt::format("Tokens of a micro-batch; longer prompts are cut [{}]", f.micro_batch_tokens))
      ->type_name("N")
      ->group(group);
  command.add_option("--kv-dtype", f.kv_dtype, "Number format of the KV cache: f32 or f16 [f16; f32 where the weights are f32]")->type_name("TYPE")->group(group);
}

}  // namespace flexgen::tools
