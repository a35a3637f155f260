// SPDX-License-Identifier: Apache-2.0
// Lengths of time as people write them: "1.2s", "300 ms", "15us"; a bare number is in seconds.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "flexgen/base/error.h"

namespace flexgen::tools {

// nanoseconds. option: what messages call it. throws Fault::usage
inline int64_t parse_time_ns(std::string_view text, std::string_view option) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  const double scale = unit.empty() || unit == "s" ? 1e9 : unit == "ms" ? 1e6 : unit == "us" ? 1e3 : unit == "ns" ? 1 : 0;
  if (error != std::errc{} || !(value >= 0) || scale == 0 || !(value * scale < 4e15))
    fail(Fault::usage, "{}: found '{}', allowed a time such as 1.2s, 300ms or 15us", option, printable(text));
  return std::llround(value * scale);
}

}  // namespace flexgen::tools
