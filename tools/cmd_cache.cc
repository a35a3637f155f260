// SPDX-License-Identifier: Apache-2.0
// flexgen cache: what generate and others have converted on the way, and how to get rid of it.
#include <fmt/chrono.h>
#include <fmt/core.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/command.h"
#include "tools/model_cache.h"
#include "tools/terminal_text.h"

namespace flexgen::tools {

namespace {

// "2025-03-14 09:26", in local time
std::string local_time(int64_t seconds) {
  const auto t = static_cast<std::time_t>(seconds);
  std::tm parts{};
  return ::localtime_r(&t, &parts) ? fmt::format("{:%Y-%m-%d %H:%M}", parts) : std::string("?");
}

int list_cache(bool json) {
  const ModelCache cache(ModelCache::default_folder());
  const std::vector<CacheEntry> entries = cache.list();
  if (json) {
    auto array = nlohmann::ordered_json::array();
    for (const CacheEntry& e : entries)
      array.push_back({{"name", e.name}, {"path", e.path}, {"source", e.source.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(e.source)},
                       {"bytes", e.bytes}, {"last_use", e.last_use_s}});
    fmt::print("{}\n", array.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    return 0;
  }
  size_t width = 4;
  uint64_t total = 0;
  for (const CacheEntry& e : entries) {
    width = std::max(width, e.name.size());
    total += e.bytes;
  }
  if (!entries.empty()) fmt::print("{:<{}}  {:>9}  {:<16}  {}\n", "NAME", width, "SIZE", "LAST USE", "SOURCE");
  for (const CacheEntry& e : entries)
    fmt::print("{:<{}}  {:>9}  {:<16}  {}\n", e.name, width, format_bytes(e.bytes), local_time(e.last_use_s),
               e.source.empty() ? "(unknown)" : terminal_safe(e.source));
  fmt::print("{} model{} in {}, {}\n", entries.size(), entries.size() == 1 ? "" : "s", cache.folder(), format_bytes(total));
  return 0;
}

int remove(const std::vector<std::string>& which, bool all) {
  if (all == !which.empty())
    fail(Fault::usage, "cache rm: found {}, allowed names of entries, or --all", all ? "both names and --all" : "nothing to remove");
  const ModelCache cache(ModelCache::default_folder());
  std::vector<CacheEntry> gone;
  if (all) gone = cache.remove_all();
  for (const std::string& w : which) gone.push_back(cache.remove(w));
  for (const CacheEntry& e : gone) fmt::print("removed {} ({})\n", e.name, format_bytes(e.bytes));
  return 0;
}

}  // namespace

void add_cache(CLI::App& program, Selected& selected) {
  CLI::App* c = program.add_subcommand("cache", "List or remove the models that were converted on the way");
  c->require_subcommand(1);

  auto json = std::make_shared<bool>(false);
  CLI::App* ls = c->add_subcommand("list", "Converted models with their size, last use and source, the last used first");
  ls->add_flag("--json", *json, "As a JSON array");
  ls->callback([json, &selected] { selected = [json] { return list_cache(*json); }; });

  auto which = std::make_shared<std::vector<std::string>>();
  auto all = std::make_shared<bool>(false);
  CLI::App* rm = c->add_subcommand("rm", "Remove converted models; they are made again when they are needed");
  rm->add_option("NAME", *which, "Name as in the list, model file, or the folder it was made from");
  rm->add_flag("--all", *all, "All of them, and what killed conversions left");
  rm->callback([which, all, &selected] { selected = [which, all] { return remove(*which, *all); }; });
}

}  // namespace flexgen::tools
