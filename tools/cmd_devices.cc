// SPDX-License-Identifier: Apache-2.0
// flexgen devices: where --device can compute.
#include <fmt/core.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flexgen/memory/device_text.h"
#include "kernels/registry.h"
#include "tools/command.h"
#include "tools/cpu_count.h"

namespace flexgen::tools {

namespace {

int list_devices(bool json) {
  std::string why;
  const std::vector<DeviceInfo> cards = devices(&why);
  if (json) {
    using Object = nlohmann::ordered_json;
    Object array = Object::array();
    for (const DeviceInfo& d : cards)
      array.push_back({{"device", fmt::format("cuda:{}", d.index)},
                       {"name", d.name},
                       {"compute_capability", fmt::format("{}.{}", d.arch / 10, d.arch % 10)},
                       {"multiprocessors", d.multiprocessors},
                       {"memory_bytes", d.total_bytes}});
    Object isa = Object::array();
    for (const Backend* b : backends()) isa.push_back(b->name);
    const Object out{{"cpu", {{"device", "cpu"}, {"threads", usable_cpus()}, {"isa", isa}}},
                     {"cards", array},
                     {"no_cards_because", cards.empty() ? Object(why) : Object()}};
    fmt::print("{}\n", out.dump(1, ' ', false, Object::error_handler_t::replace));
    return 0;
  }
  fmt::print("{:<7} {} threads, {}\n", "cpu", usable_cpus(), backends().front()->name);
  for (const DeviceInfo& d : cards) fmt::print("{}\n", to_string(d));
  if (cards.empty()) fmt::print("no card: {}\n", why);
  return 0;
}

}  // namespace

void add_devices(CLI::App& program, Selected& selected) {
  CLI::App* command = program.add_subcommand("devices", "Lists where --device can compute: the CPU, and the cards that this build can use");
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "One JSON object");
  command->callback([json, &selected] { selected = [json] { return list_devices(*json); }; });
}

}  // namespace flexgen::tools
