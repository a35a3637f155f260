// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

namespace flexgen::bench {
namespace {

std::string key(const Row& row) { return row.name + "|" + row.kernel + "|" + row.role; }

std::string percent(std::optional<double> share) { return share ? fmt::format("{:.0f} %", 100 * *share) : "-"; }

}  // namespace

std::string time_text(double s) {
  return s < 1e-3 ? fmt::format("{:.2f} us", s * 1e6) : s < 1 ? fmt::format("{:.3f} ms", s * 1e3) : fmt::format("{:.3f} s", s);
}

Report::Report(const Results& results, const Json& last_known) : r_(results) {
  for (const Row& row : r_.rows)
    if (row.group == "ceilings" && row.name.starts_with("memory ")) bandwidth_ = std::max(bandwidth_, row.bytes / row.seconds);
  if (!last_known.is_object() || last_known.value("card", Json::object()).value("name", "") != r_.card.value("name", "?")) return;
  for (const Json& row : last_known.value("rows", Json::array())) {
    const double seconds = row.value("seconds", 0.0);
    if (seconds > 0) last_rows_[row.value("name", "") + "|" + row.value("kernel", "") + "|" + row.value("role", "")] = seconds;
  }
}

const Row* Report::find(const std::string& name, const std::string& role) const {
  const auto at = std::find_if(r_.rows.begin(), r_.rows.end(), [&](const Row& row) { return row.name == name && row.role == role; });
  return at == r_.rows.end() ? nullptr : &*at;
}

std::optional<double> Report::of_bandwidth(const Row& row) const {
  if (bandwidth_ == 0 || row.bytes == 0 || row.name.find("device") != std::string::npos || row.name.starts_with("both")) return std::nullopt;
  return row.bytes / row.seconds / bandwidth_;
}

std::optional<double> Report::of_cublaslt(const Row& row) const {
  if (row.kernel == "cublaslt") return std::nullopt;
  for (const Row& other : r_.rows)
    if (other.kernel == "cublaslt" && other.name == row.name) return other.seconds / row.seconds;
  return std::nullopt;
}

std::optional<double> Report::change(const Row& row) const {
  if (!last_rows_.contains(key(row))) return std::nullopt;
  return last_rows_[key(row)].get<double>() / row.seconds - 1;
}

int Report::losses() const {
  return static_cast<int>(std::count_if(r_.rows.begin(), r_.rows.end(), [&](const Row& row) { return lost(row); }));
}

std::string Report::line(const Row& row) const {
  std::string s = fmt::format("{:<34} {:<22} {:<9} {:>10} +-{:>4.1f} %", row.name, row.kernel, row.role, time_text(row.seconds),
                              100 * (row.most - row.least) / 2 / row.seconds);
  if (row.bytes > 0) s += fmt::format(" {:>7.0f} GB/s {:>5}", row.bytes / row.seconds * 1e-9, percent(of_bandwidth(row)));
  if (row.flops > 0) s += fmt::format(" {:>6.1f} TFLOP/s", row.flops / row.seconds * 1e-12);
  if (const std::optional<double> share = of_cublaslt(row)) s += fmt::format("  {} of cuBLASLt", percent(share));
  if (lost(row)) s += fmt::format("  LOSS {:.0f} %", -100 * *change(row));
  return s;
}

// A layer's four matrices together, by model, format and tokens
std::string Report::layers() const {
  struct Sum {
    double chosen = 0, rounded = 0, ordered = 0, lt = 0, best = 0, bytes = 0, flops = 0;
    int n = 0, n_lt = 0, n_best = 0;
    std::set<std::string> kernels;
  };
  std::map<std::string, Sum> sums;
  std::vector<std::string> order;
  for (const Row& row : r_.rows) {
    if (row.group != "linear" || row.role != "chosen") continue;
    std::string layer = row.name;
    for (const char* matrix : {" qkv", " out", " fc1", " fc2"})
      if (const size_t at = layer.find(matrix); at != std::string::npos) layer.erase(at, 4);
    if (!sums.contains(layer)) order.push_back(layer);
    Sum& sum = sums[layer];
    const Row *const rounded = find(row.name, "rounded"), *const ordered = find(row.name, "one_order"), *const lt = find(row.name, "cublaslt");
    const double alone = rounded ? rounded->seconds : row.seconds;
    ++sum.n, sum.chosen += row.seconds, sum.bytes += row.bytes, sum.flops += row.flops, sum.rounded += alone;
    sum.ordered += ordered ? ordered->seconds : row.seconds;
    if (lt) ++sum.n_lt, sum.lt += lt->seconds;
    double best = alone;
    bool any = false;
    for (const Row& other : r_.rows)
      if (other.role == "variant" && other.name == row.name) best = std::min(best, other.seconds), any = true;
    sum.best += best, sum.n_best += any;
    sum.kernels.insert(row.kernel);
  }
  std::string s;
  if (!order.empty())
    s += "\nA layer's matrices together: as chosen; in one order; without rounding x; the best of all kernels tried\n";
  for (const std::string& layer : order) {
    const Sum& sum = sums[layer];
    s += fmt::format("{:<22} {:>10} {:>6.1f} TFLOP/s {:>5.0f} GB/s {:>5}  one order {:>5.2f}x", layer, time_text(sum.chosen),
                     sum.flops / sum.chosen * 1e-12, sum.bytes / sum.chosen * 1e-9,
                     bandwidth_ > 0 ? percent(sum.bytes / sum.chosen / bandwidth_) : "-", sum.ordered / sum.chosen);
    if (sum.n_lt == sum.n) s += fmt::format("  alone {} of cuBLASLt", percent(sum.lt / sum.rounded));
    if (sum.n_best == sum.n) s += fmt::format("  best {:.2f}x", sum.best / sum.rounded);
    std::string kernels;
    for (const std::string& k : sum.kernels) kernels += (kernels.empty() ? "" : ", ") + k;
    s += "  " + kernels + "\n";
  }
  return s;
}

std::string Report::summary() const {
  std::string s = "\nCeilings\n";
  if (r_.rows.empty()) s += "not measured\n";
  for (const char* group : {"ceilings", "attention", "other"}) {
    if (std::string_view(group) != "ceilings" && std::any_of(r_.rows.begin(), r_.rows.end(), [&](const Row& row) { return row.group == group; }))
      s += fmt::format("\n{}\n", std::string_view(group) == "attention" ? "Attention" : "Other kernels");
    for (const Row& row : r_.rows) {
      if (row.group != group) continue;
      const Row* const chosen = row.role == "variant" ? find(row.name, "chosen") : nullptr;
      if (!chosen || row.seconds < chosen->seconds) s += line(row) + "\n";  // other kernels only where they would have been better
    }
    if (std::string_view(group) == "ceilings") s += layers();
  }
  if (losses() > 0) s += fmt::format("\n{} rows are more than {:.0f} % slower than the last known ones:\n", losses(), 100 * kLoss);
  for (const Row& row : r_.rows)
    if (lost(row)) s += line(row) + "\n";
  std::map<std::string, int> skipped;
  for (const Skipped& k : r_.skipped) ++skipped[k.reason];
  if (!skipped.empty()) s += "\nSkipped\n";
  for (const auto& [reason, n] : skipped) {
    const auto first = std::find_if(r_.skipped.begin(), r_.skipped.end(), [&](const Skipped& k) { return k.reason == reason; });
    s += n == 1 ? fmt::format("{}: {}\n", first->name, reason) : fmt::format("{} and {} more: {}\n", first->name, n - 1, reason);
  }
  bool any = false;
  for (const Check& c : r_.checks) {
    if (c.failed == 0) continue;
    if (!std::exchange(any, true)) s += "\nFailed\n";
    s += fmt::format("{}: {}\n", c.name, c.message.substr(0, 300));
  }
  return s;
}

Json Report::json() const {
  Json j{{"schema", 1}, {"card", r_.card}, {"passed", r_.passed()}, {"failed", r_.failed()}, {"bandwidth", bandwidth_}, {"rows", Json::array()}};
  const auto set = [](Json& row, const char* name, std::optional<double> value) {
    if (value) row[name] = *value;
  };
  for (const Row& row : r_.rows) {
    Json& out = j["rows"].emplace_back(row);
    set(out, "of_bandwidth", of_bandwidth(row)), set(out, "of_cublaslt", of_cublaslt(row)), set(out, "change", change(row));
  }
  j["checks"] = r_.checks, j["skipped"] = r_.skipped;
  return j;
}

}  // namespace flexgen::bench
