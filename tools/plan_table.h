// SPDX-License-Identifier: Apache-2.0
// A memory plan as a table for people and as JSON for programs: what lies where, and the shares that were asked for beside those that
// came of it.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/runtime/memory_plan.h"

namespace flexgen::tools {

// Shares in percent
struct PlanShares {
  double weights = 100, kv_cache = 100, activations = 100;
};

// in memory: the card's and the host's
inline PlanShares realised(const MemoryPlan& p) {
  const uint64_t hidden = p.hidden_bytes + p.hidden_host_bytes + p.hidden_disk_bytes, in_memory = hidden - p.hidden_disk_bytes;
  return {100 * (p.weights.share() + p.weights.host_share()), 100 * p.kv_share(),
          hidden ? 100 * static_cast<double>(in_memory) / static_cast<double>(hidden) : 100};
}
inline std::optional<PlanShares> asked(const MemoryPlan& p) {
  if (!p.asked) return std::nullopt;
  return PlanShares{100 * p.asked->weights.memory(), 100 * p.asked->cache.memory(), 100 * p.asked->activations.memory()};
}
// on the card alone
inline PlanShares realised_on_device(const MemoryPlan& p) {
  const uint64_t hidden = p.hidden_bytes + p.hidden_host_bytes + p.hidden_disk_bytes;
  return {100 * p.weights.share(), 100 * p.kv_device_share(), hidden ? 100 * static_cast<double>(p.hidden_bytes) / static_cast<double>(hidden) : 100};
}
inline std::optional<PlanShares> asked_on_device(const MemoryPlan& p) {
  if (!p.asked) return std::nullopt;
  return PlanShares{100 * p.asked->weights.device, 100 * p.asked->cache.device, 100 * p.asked->activations.device};
}

// Lines that end with a newline
inline std::string plan_table(const MemoryPlan& p) {
  const bool card = p.device.has_value();
  const auto size = [](uint64_t bytes) { return bytes ? format_bytes(bytes) : std::string("-"); };
  const auto row = [&](std::string_view what, const std::string& device, const std::string& memory, const std::string& disk,
                       const std::string& rest) {
    return fmt::format("  {:<25}{} {:>11} {:>11}{}\n", what, card ? fmt::format(" {:>11}", device) : "", memory, disk, rest);
  };
  std::string out = fmt::format("memory plan                {}  in memory     on disk   {}\n", card ? "    on card " : "",
                                card ? "on card, in memory: asked and realised" : "in memory, asked and realised");
  struct Column {
    std::optional<PlanShares> wanted;
    PlanShares real;
  };
  std::vector<Column> columns;
  if (card) {
    columns.push_back({asked_on_device(p), realised_on_device(p)});
    const std::optional<PlanShares> both = asked(p);
    const auto less = [](const PlanShares& a, const PlanShares& b) {
      return PlanShares{a.weights - b.weights, a.kv_cache - b.kv_cache, a.activations - b.activations};
    };
    columns.push_back({both ? std::optional(less(*both, *columns[0].wanted)) : std::nullopt, less(realised(p), columns[0].real)});
  } else {
    columns.push_back({asked(p), realised(p)});
  }
  for (const MemoryPlan::Line& l : p.lines()) {
    if (l.device_bytes == 0 && l.memory_bytes == 0 && l.disk_bytes == 0) continue;
    std::string shares;
    const auto share = [&](std::string_view what, double PlanShares::*which) {
      if (l.what != what) return;
      for (const Column& c : columns)
        shares += fmt::format("   {:>6} {:6.2f} %", c.wanted ? fmt::format("{:.4g} %", (*c.wanted).*which) : "-", c.real.*which);
    };
    share("weights", &PlanShares::weights), share("KV cache", &PlanShares::kv_cache), share("activations", &PlanShares::activations);
    out += row(l.what, size(l.device_bytes), card ? size(l.memory_bytes) : format_bytes(l.memory_bytes), size(l.disk_bytes), shares);
  }
  const auto more = [](uint64_t asked) { return asked ? fmt::format(", no more of the {} asked for is free", format_bytes(asked)) : std::string(); };
  const auto missing = [](uint64_t bytes) { return bytes ? fmt::format(", {} are missing", format_bytes(bytes)) : std::string(); };
  out += row("in all", card ? format_bytes(p.device_bytes()) : "", format_bytes(p.memory_bytes()),
             format_bytes(p.weights.disk_bytes() + p.spill_bytes()),
             card ? fmt::format("   budgets {}{}{} and {}{}{}", format_bytes(p.device->budget_bytes), more(p.device->asked_bytes),
                                missing(p.device_missing_bytes()), format_bytes(p.budget_bytes), more(p.asked_bytes), missing(p.missing_bytes()))
                  : fmt::format("   budget {}{}{}", format_bytes(p.budget_bytes), more(p.asked_bytes), missing(p.missing_bytes())));
  return out;
}

// Sizes in bytes, shares in percent of all; `device` is null without a card
inline nlohmann::ordered_json plan_json(const MemoryPlan& p) {
  using Object = nlohmann::ordered_json;
  const auto shares = [](const PlanShares& s) { return Object{{"weights", s.weights}, {"kv_cache", s.kv_cache}, {"activations", s.activations}}; };
  const auto maybe = [&](const std::optional<PlanShares>& s) { return s ? shares(*s) : Object(); };
  Object lines = Object::array();
  for (const MemoryPlan::Line& l : p.lines())
    lines.push_back({{"what", l.what}, {"device_bytes", l.device_bytes}, {"memory_bytes", l.memory_bytes}, {"disk_bytes", l.disk_bytes}});
  Object device;
  if (p.device)
    device = {{"budget_bytes", p.device->budget_bytes},
              {"bytes", p.device_bytes()},
              {"asked_percent", maybe(asked_on_device(p))},
              {"realised_percent", shares(realised_on_device(p))}};
  return {{"budget_bytes", p.budget_bytes},
          {"memory_bytes", p.memory_bytes()},
          {"streamed_weight_bytes", p.weights.streamed_bytes()},
          {"spill_bytes", p.spill_bytes()},
          {"asked_percent", maybe(asked(p))},
          {"realised_percent", shares(realised(p))},
          {"device", device},
          {"page_tokens", p.kv_demand.layout.page_tokens},
          {"sweep_tokens", p.sweep_tokens},
          {"lines", std::move(lines)}};
}

}  // namespace flexgen::tools
