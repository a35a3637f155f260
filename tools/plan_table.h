// SPDX-License-Identifier: Apache-2.0
// A memory plan as a table for people and as JSON for programs: what lies where, and the shares that were asked for beside those that
// came of it.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "flexgen/base/bytes.h"
#include "flexgen/runtime/memory_plan.h"

namespace flexgen::tools {

// Shares in percent
struct PlanShares {
  double weights = 100, kv_cache = 100, activations = 100;
};

inline PlanShares realised(const MemoryPlan& p) {
  const uint64_t hidden = p.hidden_bytes + p.hidden_disk_bytes;
  return {100 * p.weights.share(), 100 * p.kv_share(), hidden ? 100 * static_cast<double>(p.hidden_bytes) / static_cast<double>(hidden) : 100};
}
inline std::optional<PlanShares> asked(const MemoryPlan& p) {
  if (!p.asked) return std::nullopt;
  return PlanShares{100 * p.asked->weights.memory(), 100 * p.asked->cache.memory(), 100 * p.asked->activations.memory()};
}

// Lines that end with a newline
inline std::string plan_table(const MemoryPlan& p) {
  std::string out = fmt::format("memory plan                   in memory     on disk   in memory, asked and realised\n");
  const auto wanted = asked(p);
  const PlanShares real = realised(p);
  for (const MemoryPlan::Line& l : p.lines()) {
    if (l.memory_bytes == 0 && l.disk_bytes == 0) continue;
    std::string shares;
    const auto share = [&](std::string_view what, double PlanShares::*which) {
      if (l.what != what) return;
      shares = fmt::format("   {:>6} {:6.2f} %", wanted ? fmt::format("{:.4g} %", (*wanted).*which) : "-", real.*which);
    };
    share("weights", &PlanShares::weights), share("KV cache", &PlanShares::kv_cache), share("activations", &PlanShares::activations);
    out += fmt::format("  {:<25} {:>11} {:>11}{}\n", l.what, format_bytes(l.memory_bytes), l.disk_bytes ? format_bytes(l.disk_bytes) : "-", shares);
  }
  out += fmt::format("  {:<25} {:>11} {:>11}   budget {}{}\n", "in all", format_bytes(p.memory_bytes()),
                     format_bytes(p.weights.streamed_bytes() + p.spill_bytes()), format_bytes(p.budget_bytes),
                     p.missing_bytes() ? fmt::format(", {} are missing", format_bytes(p.missing_bytes())) : "");
  return out;
}

inline nlohmann::ordered_json plan_json(const MemoryPlan& p) {
  const auto shares = [](const PlanShares& s) {
    return nlohmann::ordered_json{{"weights", s.weights}, {"kv_cache", s.kv_cache}, {"activations", s.activations}};
  };
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const MemoryPlan::Line& l : p.lines()) lines.push_back({{"what", l.what}, {"memory_bytes", l.memory_bytes}, {"disk_bytes", l.disk_bytes}});
  return {{"budget_bytes", p.budget_bytes},
          {"memory_bytes", p.memory_bytes()},
          {"streamed_weight_bytes", p.weights.streamed_bytes()},
          {"spill_bytes", p.spill_bytes()},
          {"asked_percent", asked(p) ? shares(*asked(p)) : nlohmann::ordered_json()},
          {"realised_percent", shares(realised(p))},
          {"page_tokens", p.kv_demand.layout.page_tokens},
          {"sweep_tokens", p.sweep_tokens},
          {"lines", std::move(lines)}};
}

}  // namespace flexgen::tools
