// SPDX-License-Identifier: Apache-2.0
// Faults to be made on purpose, as text: comma-separated
//   [read:|write:]KIND=P         each attempt with probability P
//   [read:|write:]KIND@N         the N-th attempt, from 1, once
//   [read:|write:]KIND@N+        the N-th attempt and all after it
//   seed=S                       another sequence of random faults
//   reorder=N                    results come in groups of N, shuffled
// with KIND one of short, eagain, eintr, eio, enospc (writes only), flip (one bit), misdirect (reads only), and delay, which takes a time
// behind a colon: "short=0.01,delay=0.001:50ms,read:eio@7+".
#pragma once

#include <array>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "flexgen/base/error.h"

namespace flexgen {

struct FaultRule {
  enum class Kind : uint8_t { short_transfer, eagain, eintr, eio, enospc, flip, misdirect, delay };
  Kind kind = Kind::eio;
  bool reads = true, writes = true;       // attempts it counts and strikes
  double probability = 0;                 // where nth is 0
  uint64_t nth = 0;                       // from 1
  bool lasting = false;                   // all from nth on
  std::chrono::nanoseconds delay{0};
};

struct FaultSpec {
  std::vector<FaultRule> rules;
  uint64_t seed = 1;
  uint64_t reorder = 0;
};

namespace detail {

template <typename T>
std::optional<T> whole_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "50ms", "2s", "100us"; at most an hour
inline std::optional<std::chrono::nanoseconds> time_span(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  const double scale = unit == "us" ? 1e3 : unit == "ms" ? 1e6 : unit == "s" ? 1e9 : 0;
  if (error != std::errc{} || scale == 0 || !(value >= 0 && value * scale <= 3.6e12)) return std::nullopt;
  return std::chrono::nanoseconds(static_cast<int64_t>(value * scale));
}

inline FaultRule parse_fault_rule(std::string_view item) {
  struct Word {
    std::string_view text;
    FaultRule::Kind kind;
    bool reads, writes;
  };
  using enum FaultRule::Kind;
  static constexpr std::array<Word, 8> kWords{{{"short", short_transfer, true, true},
                                               {"eagain", eagain, true, true},
                                               {"eintr", eintr, true, true},
                                               {"eio", eio, true, true},
                                               {"enospc", enospc, false, true},
                                               {"flip", flip, true, true},
                                               {"misdirect", misdirect, true, false},
                                               {"delay", delay, true, true}}};
  const auto bad = [&](std::string_view what, std::string_view found, std::string_view allowed) {
    fail(Fault::usage, "--fault: {} in '{}': found '{}', allowed {}", what, printable(item), printable(found), allowed);
  };
  FaultRule rule;
  std::string_view rest = item;
  const bool read = rest.starts_with("read:"), write = rest.starts_with("write:");
  if (read) rest.remove_prefix(5);
  if (write) rest.remove_prefix(6);
  const size_t sign = std::min(rest.find_first_of("=@"), rest.size());
  const std::string_view word = rest.substr(0, sign);
  const Word* found = nullptr;
  for (const Word& w : kWords)
    if (w.text == word) found = &w;
  if (!found) bad("the kind", word, "short, eagain, eintr, eio, enospc, flip, misdirect, delay, seed or reorder");
  rule.kind = found->kind;
  rule.reads = found->reads && !write;
  rule.writes = found->writes && !read;
  if (!rule.reads && !rule.writes) bad("the direction", read ? "read:" : "write:", found->reads ? "read: alone" : "write: alone");
  if (sign == rest.size()) bad("the measure", "", "=PROBABILITY, @N or @N+");
  std::string_view measure = rest.substr(sign + 1);
  if (rule.kind == FaultRule::Kind::delay) {
    const size_t colon = std::min(measure.find(':'), measure.size());
    const std::string_view time = colon < measure.size() ? measure.substr(colon + 1) : "";
    const auto span = time_span(time);
    if (!span) bad("the time", time, "a number with us, ms or s, at most an hour, as in delay=0.001:50ms");
    rule.delay = *span;
    measure = measure.substr(0, colon);
  }
  if (rest[sign] == '=') {
    const auto p = whole_number<double>(measure);
    if (!p || !(*p >= 0 && *p <= 1)) bad("the probability", measure, "0 to 1");
    rule.probability = *p;
  } else {
    rule.lasting = measure.ends_with('+');
    const auto n = whole_number<uint64_t>(measure.substr(0, measure.size() - (rule.lasting ? 1 : 0)));
    if (!n || *n == 0) bad("the number", measure, "1 or more, with + for all after it");
    rule.nth = *n;
  }
  return rule;
}

}  // namespace detail

// throws Fault::usage
inline FaultSpec parse_fault_spec(std::string_view text) {
  FaultSpec spec;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string_view item = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    const bool seed = item.starts_with("seed="), reorder = item.starts_with("reorder=");
    if (!seed && !reorder) {
      spec.rules.push_back(detail::parse_fault_rule(item));
      continue;
    }
    const auto value = detail::whole_number<uint64_t>(item.substr(item.find('=') + 1));
    if (!value)
      fail(Fault::usage, "--fault: the number in '{}': found '{}', allowed 0 or more", printable(item), printable(item.substr(item.find('=') + 1)));
    (seed ? spec.seed : spec.reorder) = *value;
  }
  return spec;
}

}  // namespace flexgen
