// SPDX-License-Identifier: Apache-2.0
// Byte counts as people write them: "12GiB", "512 MiB", "4096", "1.5GB".
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "flexgen/base/error.h"

namespace flexgen {

constexpr uint64_t operator""_KiB(unsigned long long n) { return n << 10; }
constexpr uint64_t operator""_MiB(unsigned long long n) { return n << 20; }
constexpr uint64_t operator""_GiB(unsigned long long n) { return n << 30; }

// KiB/MiB/GiB/TiB are powers of 1024; kB/KB/MB/GB/TB powers of 1000; K, M, G, T alone mean KiB and so on; no unit means bytes.
// throws Fault::usage
inline uint64_t parse_bytes(std::string_view text, std::string_view option = "size") {
  const auto bad = [&]() -> uint64_t {
    fail(Fault::usage, "{}: found '{}', allowed a number with B, KiB, MiB, GiB, TiB, kB, MB, GB or TB. Write for example 12GiB", option,
         printable(text));
  };
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || !std::isfinite(value) || value < 0) return bad();
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  double scale = 1;
  if (!unit.empty() && unit != "B") {
    const char prefix = static_cast<char>(unit[0] | 0x20);
    const std::string_view rest = unit.substr(1);
    const double base = rest.empty() || rest == "iB" ? 1024.0 : rest == "B" ? 1000.0 : 0.0;
    const size_t power = std::string_view("kmgt").find(prefix);
    if (base == 0.0 || power == std::string_view::npos) return bad();
    scale = std::pow(base, static_cast<double>(power + 1));
  }
  if (value * scale > 9e18) return bad();
  return static_cast<uint64_t>(std::llround(value * scale));
}

// 3 significant digits with a binary unit: "512 B", "12.0 GiB"
inline std::string format_bytes(uint64_t bytes) {
  constexpr std::array<std::string_view, 6> kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double v = static_cast<double>(bytes);
  size_t u = 0;
  while (v >= 1024 && u + 1 < kUnits.size()) v /= 1024, ++u;
  return fmt::format("{:.{}f} {}", v, v < 10 ? 2 : v < 100 ? 1 : 0, kUnits[u]);
}

// 1234567 -> "1,234,567": numbers in messages
inline std::string with_commas(uint64_t n) {
  std::string s = std::to_string(n);
  for (size_t i = s.size(); i > 3; i -= 3) s.insert(i - 3, 1, ',');
  return s;
}

}  // namespace flexgen
