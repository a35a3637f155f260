// SPDX-License-Identifier: Apache-2.0
// What flexgen-bench overlap has measured: runs by compute, ratio and scheme, as a table and as JSON.
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bench/overlap_times.h"
#include "flexgen/base/bytes.h"

namespace flexgen::bench {

// seconds that reading and computing take alone
struct Solo {
  double io_s = 0, io_cpu_s = 0, compute_s = 0;
};

// One run; seconds where nothing else is said
struct Measured {
  Solo solo;
  double total_s = 0, fill_s = 0, first_layer_s = 0, wait_s = 0, verify_s = 0, disk_s = 0, bytes_in_flight = 0, cpu_s = 0, others_cpu_s = 0;
  Percentiles read_s, layer_s;
  SlotShares slots;
  uint64_t bytes = 0;
  uint64_t short_transfers = 0, retries = 0, context_switches = 0;

  double predicted_s() const { return std::max(solo.io_s, solo.compute_s); }
  double efficiency() const { return predicted_s() / total_s; }
  double sustained() const { return static_cast<double>(bytes) / (total_s - fill_s); }  // bytes/s
  double of_solo() const { return sustained() / (static_cast<double>(bytes) / solo.io_s); }
};

class OverlapResults {
 public:
  using Json = nlohmann::ordered_json;
  using Key = std::tuple<std::string, double, std::string>;  // compute, ratio, scheme

  void add(const Key& key, const Measured& m) { results_[key].push_back(m); }

  // medians over the runs, a line for each key
  void print() const {
    fmt::print("{:7} {:>5} {:8} {:>5} {:>11} {:>5} {:>7} {:>7} {:>7} {:>6} {:>6} {:>6} {:>9} {:>6} {:>15} {:>8}\n", "compute", "ratio", "scheme", "E",
               "range", "E'", "total s", "io s", "comp s", "stall", "fill", "disk", "in flight", "GB/s", "p50/p99/max ms", "CPU s/GB");
    for (const auto& [key, all] : results_) {
      const auto& [compute, ratio, scheme] = key;
      const auto of = [&all = all](auto&& fn) { return median(values(all, fn)); };  // clang 14 captures no binding by itself
      const auto e = values(all, [](const Measured& m) { return m.efficiency(); });
      const auto h = hidden(key, all);
      fmt::print(
          "{:7} {:>5} {:8} {:>5.2f} {:>11} {:>5} {:>7.2f} {:>7.2f} {:>7.2f} {:>5.1f}% {:>5.1f}% {:>5.1f}% {:>9} {:>6.2f} {:>15} {:>8.3f}\n", compute,
          ratio, scheme, median(e), fmt::format("{:.2f}-{:.2f}", *std::min_element(e.begin(), e.end()), *std::max_element(e.begin(), e.end())),
          h ? fmt::format("{:.2f}", *h) : "", of([](const Measured& m) { return m.total_s; }), of([](const Measured& m) { return m.solo.io_s; }),
          of([](const Measured& m) { return m.solo.compute_s; }), 100 * of([](const Measured& m) { return m.wait_s / m.total_s; }),
          100 * of([](const Measured& m) { return m.fill_s / m.total_s; }), 100 * of([](const Measured& m) { return m.disk_s / m.total_s; }),
          format_bytes(static_cast<uint64_t>(of([](const Measured& m) { return m.bytes_in_flight; }))),
          of([](const Measured& m) { return m.sustained() * 1e-9; }), milliseconds(all, &Measured::read_s),
          of([](const Measured& m) { return m.solo.io_cpu_s / static_cast<double>(m.bytes) * 1e9; }));
    }
  }

  // what the ring was full of, how long layers took, what else there was; a line for each key
  void print_flow() const {
    fmt::print("{:7} {:>5} {:8} {:>6} {:>7} {:>6} {:>6} {:>8} {:>8} {:>20} {:>11} {:>6} {:>7}\n", "compute", "ratio", "scheme", "free", "filling",
               "ready", "in use", "of solo", "1st ms", "layer p50/p99/max ms", "switches/GB", "short", "retries");
    for (const auto& [key, all] : results_) {
      const auto& [compute, ratio, scheme] = key;
      const auto of = [&all = all](auto&& fn) { return median(values(all, fn)); };
      fmt::print("{:7} {:>5} {:8} {:>5.1f}% {:>6.1f}% {:>5.1f}% {:>5.1f}% {:>8.2f} {:>8.1f} {:>20} {:>11.0f} {:>6.0f} {:>7.0f}\n", compute, ratio,
                 scheme, 100 * of([](const Measured& m) { return m.slots.free; }), 100 * of([](const Measured& m) { return m.slots.filling; }),
                 100 * of([](const Measured& m) { return m.slots.ready; }), 100 * of([](const Measured& m) { return m.slots.in_use; }),
                 of([](const Measured& m) { return m.of_solo(); }), of([](const Measured& m) { return m.first_layer_s * 1e3; }),
                 milliseconds(all, &Measured::layer_s),
                 of([](const Measured& m) { return static_cast<double>(m.context_switches) / static_cast<double>(m.bytes) * 1e9; }),
                 of([](const Measured& m) { return static_cast<double>(m.short_transfers); }),
                 of([](const Measured& m) { return static_cast<double>(m.retries); }));
    }
  }

  // the same with every run
  Json lines() const {
    Json lines = Json::array();
    for (const auto& [key, all] : results_) {
      const auto& [compute, ratio, scheme] = key;
      Json runs = Json::array();
      for (const Measured& m : all)
        runs.push_back({{"efficiency", m.efficiency()},
                        {"predicted_s", m.predicted_s()},
                        {"total_s", m.total_s},
                        {"solo_io_s", m.solo.io_s},
                        {"solo_compute_s", m.solo.compute_s},
                        {"solo_io_cpu_s_per_gb", m.solo.io_cpu_s / static_cast<double>(m.bytes) * 1e9},
                        {"fill_s", m.fill_s},
                        {"first_layer_s", m.first_layer_s},
                        {"stall_disk_s", m.wait_s},
                        {"stall_verify_s", m.verify_s},
                        {"disk_busy_s", m.disk_s},
                        {"bytes_in_flight", m.bytes_in_flight},
                        {"slots", {{"free", m.slots.free}, {"filling", m.slots.filling}, {"ready", m.slots.ready}, {"in_use", m.slots.in_use}}},
                        {"sustained_bytes_per_s", m.sustained()},
                        {"sustained_of_solo", m.of_solo()},
                        {"read_p50_ms", m.read_s.p50 * 1e3},
                        {"read_p99_ms", m.read_s.p99 * 1e3},
                        {"read_max_ms", m.read_s.max * 1e3},
                        {"layer_p50_ms", m.layer_s.p50 * 1e3},
                        {"layer_p99_ms", m.layer_s.p99 * 1e3},
                        {"layer_max_ms", m.layer_s.max * 1e3},
                        {"context_switches", m.context_switches},
                        {"cpu_s", m.cpu_s},
                        {"others_cpu_s", m.others_cpu_s},
                        {"short_transfers", m.short_transfers},
                        {"retries", m.retries}});
      const double efficiency = median(values(all, [](const Measured& m) { return m.efficiency(); }));
      Json line{{"compute", compute}, {"ratio", ratio}, {"scheme", scheme}, {"efficiency", efficiency}};
      if (const auto h = hidden(key, all)) line["hidden"] = *h;
      line["runs"] = runs;
      lines.push_back(line);
    }
    return lines;
  }

 private:
  static double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v.empty() ? 0 : v[v.size() / 2];
  }
  template <typename Fn>
  static std::vector<double> values(const std::vector<Measured>& all, Fn&& fn) {
    std::vector<double> out;
    for (const Measured& m : all) out.push_back(fn(m));
    return out;
  }
  static std::string milliseconds(const std::vector<Measured>& all, Percentiles Measured::*which) {
    const auto of = [&](double Percentiles::*p) { return 1e3 * median(values(all, [&](const Measured& m) { return (m.*which).*p; })); };
    return fmt::format("{:.1f}/{:.1f}/{:.1f}", of(&Percentiles::p50), of(&Percentiles::p99), of(&Percentiles::max));
  }
  // of what could be hidden beside sync; nullopt where sync was not measured
  std::optional<double> hidden(const Key& key, const std::vector<Measured>& all) const {
    const auto sync = results_.find({std::get<0>(key), std::get<1>(key), "sync"});
    if (sync == results_.end()) return std::nullopt;
    const double total = median(values(sync->second, [](const Measured& m) { return m.total_s; }));
    const double longest = median(values(all, [](const Measured& m) { return std::max(m.solo.io_s, m.solo.compute_s); }));
    if (total <= longest) return std::nullopt;
    return (total - median(values(all, [](const Measured& m) { return m.total_s; }))) / (total - longest);
  }

  std::map<Key, std::vector<Measured>> results_;
};

}  // namespace flexgen::bench
