// SPDX-License-Identifier: Apache-2.0
// How many threads are worth starting: the CPUs this process may run on, within the quota of every cgroup it is in.
#pragma once

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace flexgen::tools {

namespace detail {

inline std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// CPUs that one cgroup may use on average: quota / period; nullopt without a quota
inline std::optional<double> quota(const std::string& quota_text, const std::string& period_text) {
  double quota_us = 0, period_us = 0;
  const auto read = [](const std::string& text, double& value) {
    return std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc{} && value > 0;
  };
  if (!read(quota_text, quota_us) || !read(period_text, period_us)) return std::nullopt;  // "max", "-1", or no such file
  return quota_us / period_us;
}

}  // namespace detail

// CPUs that the quotas of the process's cgroups leave, rounded up; nullopt without any. root holds proc/ and sys/fs/cgroup/
inline std::optional<int> quota_cpus(const std::string& root = "/") {
  std::optional<double> least;
  const auto take = [&](std::optional<double> q) {
    if (q) least = std::min(*q, least.value_or(*q));
  };
  std::ifstream groups(root + "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
    std::string path = line.substr(second + 1);
    for (;;) {
      const std::string folder = root + (v2 ? "sys/fs/cgroup" : "sys/fs/cgroup/cpu") + (path == "/" ? "" : path);
      if (v2) {
        const std::string max = detail::first_line(folder + "/cpu.max");  // "200000 100000"
        const size_t space = max.find(' ');
        if (space != std::string::npos) take(detail::quota(max.substr(0, space), max.substr(space + 1)));
      } else {
        take(detail::quota(detail::first_line(folder + "/cpu.cfs_quota_us"), detail::first_line(folder + "/cpu.cfs_period_us")));
      }
      if (path.empty() || path == "/") break;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
  if (!least) return std::nullopt;
  return std::max(1, static_cast<int>(*least + 0.999));
}

// at least 1
inline int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // more CPUs than the set has room for: no limit is known, and 64 threads are a sane default there
  const int allowed = ::sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 64;
  return std::max(1, std::min(allowed, quota_cpus().value_or(allowed)));
}

}  // namespace flexgen::tools
