// SPDX-License-Identifier: Apache-2.0
// Timing: warm up, repeat, report the median with its spread; and what every result must say about the build and the machine.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "tools/interrupt.h"

namespace flexgen::bench {

inline constexpr int kRepetitions = 20;

struct Timing {
  double median = 0, min = 0, max = 0;  // seconds
  int repetitions = 0;
};

inline double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// fn(i) for i in [0, repetitions), after one run that is not counted. throws Fault::interrupted
template <typename Fn>
Timing measure(Fn&& fn, int repetitions = kRepetitions) {
  fn(repetitions);
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    tools::check_interrupted();
    const double start = seconds_now();
    fn(i);
    times.push_back(seconds_now() - start);
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back(), repetitions};
}

// the first line "key : value" of a file of /proc, or ""
inline std::string proc_value(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, key.size(), key) == 0) {
      const size_t at = line.find_first_not_of(" \t:", key.size());
      return at == std::string::npos ? "" : line.substr(at);
    }
  return "";
}

}  // namespace flexgen::bench
