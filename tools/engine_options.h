// SPDX-License-Identifier: Apache-2.0
// The options that say how the engine works and where things lie: they change speed and memory, and no result but for --kv-dtype.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/base/error.h"
#include "flexgen/base/bytes.h"
#include "flexgen/engine/engine.h"
#include "flexgen/io/fault_spec.h"
#include "flexgen/runtime/policy.h"
#include "tools/cpu_count.h"

namespace flexgen::tools {

struct EngineFlags {
  std::optional<int64_t> threads;
  std::string isa = "auto";
  int64_t gpu_batch_size = Policy{}.gpu_batch_size;
  int64_t num_gpu_batches = Policy{}.num_gpu_batches;
  int64_t micro_batch_tokens = Policy{}.micro_batch_tokens;
  std::string kv_dtype;  // f32, f16, or empty: f16, but f32 where the weights are f32
  std::vector<double> percent;
  std::string device = "auto", gpu_memory, cpu_cache_compute = "off", gemm = "own";
  bool deterministic = false;
  std::string memory, look_ahead, overlap = "on", sep_layer = "on", pin_weight = "on", verify = "first", io_engine = "auto", offload_dir = "/var/tmp",
                                  fault;

  // throws Fault::usage
  void check() const {
    const auto whole = [](const char* name, int64_t value, int64_t high) {
      if (value < 1 || value > high) fail(Fault::usage, "{}: found {}, allowed a whole number from 1 to {}", name, value, high);
    };
    if (threads) whole("--threads", *threads, 1024);
    whole("--gpu-batch-size", gpu_batch_size, 1 << 20);
    whole("--num-gpu-batches", num_gpu_batches, 1 << 20);
    whole("--micro-batch-tokens", micro_batch_tokens, 1 << 20);
    if (!kv_dtype.empty() && kv_dtype != "f32" && kv_dtype != "f16")
      fail(Fault::usage, "--kv-dtype: found '{}', allowed f32 or f16", printable(kv_dtype));
    if (io_engine != "auto" && io_engine != "uring" && io_engine != "threads")
      fail(Fault::usage, "--io-engine: found '{}', allowed auto, uring or threads", printable(io_engine));
    policy(DType::f16);
    faults();
    card();
    if (gemm != "own" && gemm != "cublaslt") fail(Fault::usage, "--gemm: found '{}', allowed own or cublaslt", printable(gemm));
    if (gemm == "cublaslt" && deterministic)
      fail(Fault::usage, "--gemm cublaslt: found with --deterministic, allowed without: its kernels keep no order of sums. Leave out one of the two");
    if (gemm == "cublaslt" && !card())
      fail(Fault::usage, "--gemm cublaslt: found with --device cpu, allowed with a card. Leave out one of the two");
  }

  // The card that is asked for: nullopt for the CPU, -1 for the first one where there is one. throws Fault::usage
  std::optional<int> card() const {
    if (device == "cpu") return std::nullopt;
    if (device == "auto") return -1;
    int index = 0;
    const std::string_view number = device.starts_with("cuda:") ? std::string_view(device).substr(5) : device == "cuda" ? "0" : "";
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), index);
    if (number.empty() || error != std::errc{} || end != number.data() + number.size() || index < 0)
      fail(Fault::usage, "--device: found '{}', allowed cpu, auto, or cuda:0, cuda:1, ... See flexgen devices", printable(device));
    return index;
  }

  // throws Fault::usage
  Policy policy(DType default_kv_dtype) const {
    Policy p;
    p.gpu_batch_size = gpu_batch_size;
    p.num_gpu_batches = num_gpu_batches;
    p.micro_batch_tokens = micro_batch_tokens;
    p.kv_dtype = kv_dtype.empty() ? default_kv_dtype : kv_dtype == "f32" ? DType::f32 : DType::f16;
    p.memory_bytes = size("--memory", memory);
    p.look_ahead_bytes = size("--look-ahead", look_ahead);
    p.overlap = on("--overlap", overlap);
    p.sep_layer = on("--sep-layer", sep_layer);
    p.pin_weight = on("--pin-weight", pin_weight);
    p.device_bytes = size("--gpu-memory", gpu_memory);
    p.cpu_cache_compute = on("--cpu-cache-compute", cpu_cache_compute);
    p.deterministic = deterministic;
    if (verify != "first" && verify != "always" && verify != "off")
      fail(Fault::usage, "--verify: found '{}', allowed first, always or off", printable(verify));
    p.verify = verify == "first" ? Verify::first : verify == "always" ? Verify::always : Verify::off;
    if (!percent.empty()) p.shares = Policy::Shares{share("weights", 0), share("KV cache", 2), share("activations", 4)};
    return p;
  }

  std::optional<FaultSpec> faults() const { return fault.empty() ? std::nullopt : std::optional(parse_fault_spec(fault)); }

  int n_threads() const { return threads ? static_cast<int>(*threads) : usable_cpus(); }

 private:
  static uint64_t size(const char* name, const std::string& text) {
    if (text.empty()) return 0;
    const uint64_t bytes = parse_bytes(text, name);
    if (bytes == 0) fail(Fault::usage, "{}: found '{}', allowed a size above 0, such as 12GiB", name, printable(text));
    return bytes;
  }
  static bool on(const char* name, const std::string& value) {
    const std::string v = CLI::detail::to_lower(value);
    if (v == "on" || v == "true" || v == "yes" || v == "1") return true;
    if (v == "off" || v == "false" || v == "no" || v == "0") return false;
    fail(Fault::usage, "{}: found '{}', allowed on, off, true or false", name, printable(value));
  }
  TierShare share(const char* what, size_t first) const {
    if (percent.size() != 6)
      fail(Fault::usage, "--percent: found {} numbers, allowed 6: W_DEV W_HOST KV_DEV KV_HOST ACT_DEV ACT_HOST", percent.size());
    const double on_card = percent[first], host = percent[first + 1];
    if (!(on_card >= 0 && host >= 0 && on_card + host <= 100))
      fail(Fault::usage, "--percent: {}: found {} and {}, allowed two numbers from 0 to 100 whose sum is at most 100 (the rest is on disk)", what,
           on_card, host);
    return {on_card / 100, host / 100};
  }
};

// The flags live as long as the command.
inline void add_engine_options(CLI::App& command, EngineFlags& f) {
  const std::string group = "Engine (speed and memory; no result depends on them but for --kv-dtype)";
  command.add_option("--threads", f.threads, "Threads [the CPUs this process may use]")->type_name("N")->group(group);
  command
      .add_option("--isa", f.isa, "Kernels: auto, avx512, avx2, portable or ref, plain loops to compare with, whose sums round otherwise [auto]")
      ->type_name("NAME")
      ->group(group);
  command.add_option("--gpu-batch-size", f.gpu_batch_size, fmt::format("Sequences of a micro-batch [{}]", f.gpu_batch_size))
      ->type_name("N")
      ->group(group);
  command.add_option("--num-gpu-batches", f.num_gpu_batches, fmt::format("Micro-batches that share a pass over the weights [{}]", f.num_gpu_batches))
      ->type_name("N")
      ->group(group);
  command
      .add_option("--micro-batch-tokens", f.micro_batch_tokens,
                  fmt::format("Tokens of a micro-batch; longer prompts are cut [{}]", f.micro_batch_tokens))
      ->type_name("N")
      ->group(group);
  command.add_option("--verify", f.verify, "Compare the hashes of weights: first (once), always or off; cache pages on disk always are [first]")
      ->type_name("WHEN")
      ->group(group);
  command.add_option("--kv-dtype", f.kv_dtype, "Number format of the KV cache: f32 or f16 [f16; f32 where the weights are f32]")
      ->type_name("TYPE")
      ->group(group);

  command
      .add_option("--device", f.device,
                  "Where to compute: cuda:0, cuda:1, ... (flexgen devices lists them), cpu, or auto: the first card, without one the CPU [auto]")
      ->type_name("NAME")
      ->group(group);
  command
      .add_flag("--deterministic", f.deterministic,
                "On a card: only kernels with which a token's result depends neither on the batch nor on the placement; slower. On a CPU it "
                "always is so")
      ->group(group);
  command
      .add_option("--gemm", f.gemm,
                  "Matrix products on a card: own, or cublaslt: by NVIDIA's library, which must be installed, where operands fit it; not with "
                  "--deterministic [own]")
      ->type_name("NAME")
      ->group(group);

  const std::string tiers = "Memory and disk (no result depends on them)";
  command
      .add_option("--memory", f.memory,
                  "Budget of the whole process, as in 12GiB: what does not fit is streamed from disk [what is free, within cgroup limits]")
      ->type_name("SIZE")
      ->group(tiers);
  command
      .add_option(
          "--percent", f.percent,
          "Shares in percent: weights, KV cache and activations, of each on the card and in host memory; the rest is on disk. Without a card its "
          "share counts as host [as much as fits]")
      ->expected(6)
      ->type_name("W_DEV W_HOST KV_DEV KV_HOST ACT_DEV ACT_HOST")
      ->group(tiers);
  const auto toggle = [&](const char* name, std::string& value, const char* what) {
    command.add_option(name, value, what)->expected(0, 1)->default_str("on")->type_name("on|off")->group(tiers);
  };
  toggle("--overlap", f.overlap, "Read ahead and write behind while computing; off: everything when it is needed [on]");
  toggle("--sep-layer", f.sep_layer,
         "Attention and MLP are separate steps; off: one, which holds more weights and hands activations on disk over half as often [on]");
  toggle("--pin-weight", f.pin_weight,
         "Host weights in page-locked memory; off: only the slots through which they pass. Without a card it has no effect [on]");
  command
      .add_option("--gpu-memory", f.gpu_memory, "Budget of the card's memory, as in 16GiB; without a card it has no effect [what is free]")
      ->type_name("SIZE")
      ->group(tiers);
  command
      .add_option("--cpu-cache-compute", f.cpu_cache_compute,
                  "Cache pages in host memory are attended by the CPU while the card attends its own; without a card it has no effect [off]")
      ->expected(0, 1)
      ->default_str("on")
      ->type_name("on|off")
      ->group(tiers);
  command.add_option("--look-ahead", f.look_ahead, "Bytes of streamed weights that are read ahead [24MiB, to a GPU 256MiB, less for a small model]")
      ->type_name("SIZE")
      ->group(tiers);
  command.add_option("--io-engine", f.io_engine, "How files are read and written: uring, threads, or auto: uring where it is allowed [auto]")
      ->type_name("NAME")
      ->group(tiers);
  command
      .add_option("--offload-dir", f.offload_dir,
                  "Folder for KV cache and activations on disk; the file there has no name and never stays [/var/tmp]")
      ->type_name("DIR")
      ->group(tiers);
  command.add_option("--fault", f.fault)->group("");  // hidden: I/O faults on purpose (io/fault_spec.h)
}

}  // namespace flexgen::tools
