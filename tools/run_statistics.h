// SPDX-License-Identifier: Apache-2.0
// What a run did, as a table for people and as JSON for programs: both show the same numbers.
#pragma once

#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/engine/statistics.h"
#include "tools/flow_report.h"
#include "tools/plan_table.h"

namespace flexgen::tools {

struct RunStatistics {
  std::string model;     // path of the model file
  std::string isa;       // of the CPU
  std::string device;    // that computed: "cpu", or a card
  std::string kv_dtype;
  int threads = 0;
  double load_s = 0;     // reading and verifying the weights
  double generate_s = 0; // from the first sweep to the last token
  Statistics engine;
  FlowStatistics flow;   // of the sweeps
  MemoryPlan plan;       // what was to lie where
};

inline uint64_t peak_rss_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;  // Linux counts in KiB
}

// 0 where no time has passed
inline double per_second(uint64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; }

inline nlohmann::ordered_json to_json(const RunStatistics& r) {
  const Statistics& e = r.engine;
  return {{"model", r.model},
          {"device", r.device},
          {"isa", r.isa},
          {"threads", r.threads},
          {"kv_dtype", r.kv_dtype},
          {"prompts", e.requests_done},
          {"prompts_failed", e.requests_failed},
          {"sequences", e.sequences_done},
          {"prompt_tokens", e.prompt_tokens},
          {"generated_tokens", e.tokens_generated},
          {"tokens_computed", e.tokens_computed},
          {"sweeps", e.sweeps},
          {"peak_sequences", e.peak_sequences},
          {"load_seconds", r.load_s},
          {"prefill_seconds", e.prefill_s},
          {"prefill_tokens_per_second", per_second(e.tokens_computed - e.decode_tokens, e.prefill_s)},
          {"decode_seconds", e.decode_s},
          {"decode_tokens_per_second", per_second(e.decode_tokens, e.decode_s)},
          {"generate_seconds", r.generate_s},
          {"generated_tokens_per_second", per_second(e.tokens_generated, r.generate_s)},
          {"peak_kv_bytes", e.peak_kv_bytes},
          {"peak_rss_bytes", peak_rss_bytes()},
          {"plan", plan_json(r.plan)},
          {"flow", to_json(r.flow)}};
}

// Lines of "what   number"; ends with a newline
inline std::string table(const RunStatistics& r) {
  const Statistics& e = r.engine;
  std::string out;
  const auto line = [&](std::string_view what, const std::string& value) { out += fmt::format("  {:<18} {}\n", what, value); };
  const auto rate = [](uint64_t n, double s) { return fmt::format("{} tokens in {:.2f} s, {:.1f} tokens/s", with_commas(n), s, per_second(n, s)); };
  line("model", r.model);
  line("engine", fmt::format("{}{} threads, {}, KV cache {}", r.device == "cpu" ? "" : r.device + "; ", r.threads, r.isa, r.kv_dtype));
  line("load", fmt::format("{:.2f} s", r.load_s));
  line("prompts", fmt::format("{} ({} failed), {} sequences, {} together at most", with_commas(e.requests_done), with_commas(e.requests_failed),
                              with_commas(e.sequences_done), with_commas(e.peak_sequences)));
  line("prompt tokens", with_commas(e.prompt_tokens));
  line("generated tokens", with_commas(e.tokens_generated));
  line("computed tokens", fmt::format("{} in {} sweeps", with_commas(e.tokens_computed), with_commas(e.sweeps)));
  line("prefill", rate(e.tokens_computed - e.decode_tokens, e.prefill_s));
  line("decode", rate(e.decode_tokens, e.decode_s));
  line("in all", rate(e.tokens_generated, r.generate_s));
  line("memory", fmt::format("{} at most, of it KV cache {}", format_bytes(peak_rss_bytes()), format_bytes(e.peak_kv_bytes)));
  return out + table(r.flow);
}

}  // namespace flexgen::tools
