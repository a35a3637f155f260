// SPDX-License-Identifier: Apache-2.0
// A timeline in a terminal: one line a row, each column shaded by the share of its time that was busy; a time axis; a table and a
// sentence of what to conclude.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/base/bytes.h"
#include "tools/timeline_summary.h"

namespace flexgen::tools {

struct ChartStyle {
  size_t width = 100;   // columns in all
  bool ascii = false;
  bool colour = false;  // ANSI
};

// "0", "250 ms", "1.5 s": a time on an axis whose steps are step_ns, so with just as many digits as those need
inline std::string axis_label(int64_t ns, int64_t step_ns) {
  if (ns == 0) return "0";
  const auto [unit, name] = ns >= 1'000'000'000 ? std::pair(1e9, "s")
                            : ns >= 1'000'000   ? std::pair(1e6, "ms")
                            : ns >= 1'000       ? std::pair(1e3, "us")
                                                : std::pair(1.0, "ns");
  int digits = 0;
  for (double s = static_cast<double>(step_ns) / unit; digits < 9 && std::abs(s - std::round(s)) > 1e-6; s *= 10) ++digits;
  return fmt::format("{:.{}f} {}", static_cast<double>(ns) / unit, digits, name);
}

// 1, 2 or 5 times a power of ten: the smallest step with at most `most` of them in the window
inline int64_t axis_step(const TimeWindow& w, size_t most) {
  const int64_t least = std::max<int64_t>(1, w.length() / static_cast<int64_t>(std::max<size_t>(1, most)));
  for (int64_t power = 1;; power *= 10)
    for (const int64_t m : {1, 2, 5})
      if (m * power >= least) return m * power;
}

// share of each of n equal parts of the window that the row was busy in, 0 to 1
inline std::vector<double> busy_shares(const TimelineRow& row, const TimeWindow& w, size_t n) {
  std::vector<double> out(n);
  const double part = static_cast<double>(w.length()) / static_cast<double>(n);
  if (part <= 0) return out;
  for (const TimelineEvent& e : row.events) {
    const double start = static_cast<double>(std::max(e.start_ns, w.from_ns) - w.from_ns),
                 end = static_cast<double>(std::min(e.end_ns, w.to_ns) - w.from_ns);
    if (end <= start) continue;
    for (auto i = static_cast<size_t>(start / part); i < n && static_cast<double>(i) * part < end; ++i)
      out[i] += (std::min(end, static_cast<double>(i + 1) * part) - std::max(start, static_cast<double>(i) * part)) / part;
  }
  for (double& share : out) share = std::clamp(share, 0.0, 1.0);
  return out;
}

namespace detail {

inline std::string_view ansi(TraceEvent::Kind k) {
  constexpr std::array<std::string_view, kTraceKinds.size()> kColours{"\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[34m",
                                                                            "\x1b[35m", "\x1b[36m", "\x1b[95m"};
  return kColours[static_cast<size_t>(k)];
}

// 0 is blank; anything more shows
inline std::string_view shade(double share, bool ascii) {
  constexpr std::array<std::string_view, 5> kBlocks{" ", "░", "▒", "▓", "█"}, kAscii{" ", ".", ":", "=", "#"};
  const size_t level = share <= 0 ? 0 : share > 0.95 ? 4 : share > 0.6 ? 3 : share > 0.25 ? 2 : 1;
  return (ascii ? kAscii : kBlocks)[level];
}

inline std::string axis(const TimeWindow& w, size_t columns, size_t margin, bool ascii) {
  const int64_t step = axis_step(w, std::max<size_t>(1, columns / 14));
  std::string line(margin, ' '), labels(margin, ' ');
  std::vector<bool> tick(columns);
  size_t used = 0;
  for (int64_t t = (w.from_ns + step - 1) / step * step; t < w.to_ns; t += step) {
    const auto at = static_cast<size_t>(static_cast<double>(t - w.from_ns) / static_cast<double>(w.length()) * static_cast<double>(columns));
    if (at >= columns) break;
    tick[at] = true;
    const std::string label = axis_label(t, step);
    if (at < used || at + label.size() > columns) continue;
    labels.resize(margin + at, ' ');
    labels += label;
    used = at + label.size() + 1;
  }
  for (const bool t : tick) line += t ? (ascii ? "+" : "┴") : (ascii ? "-" : "─");
  return line + "\n" + labels + "\n";
}

}  // namespace detail

inline std::string timeline_chart(const Timeline& t, const TimeWindow& w, const ChartStyle& style) {
  size_t margin = 0;
  for (const TimelineRow& r : t.rows) margin = std::max(margin, r.name.size());
  margin += 3;
  const size_t columns = std::max<size_t>(10, style.width > margin ? style.width - margin : 0);
  std::string out;
  for (const TimelineRow& r : t.rows) {
    out += fmt::format("{:>{}} {} ", r.name, margin - 3, style.ascii ? "|" : "│");
    if (style.colour) out += detail::ansi(r.kind);
    for (const double share : busy_shares(r, w, columns)) out += detail::shade(share, style.ascii);
    if (style.colour) out += "\x1b[0m";
    out += "\n";
  }
  return out + detail::axis(w, columns, margin, style.ascii);
}

inline std::string rate_text(uint64_t bytes, int64_t ns) {
  return bytes == 0 || ns == 0 ? "" : fmt::format("{:.2f} GB/s", static_cast<double>(bytes) / static_cast<double>(ns));
}

inline std::string timeline_table(const TimelineSummary& s) {
  std::string out = fmt::format("  {:<13} {:>8} {:>10} {:>6} {:>11} {:>11}\n", "row", "events", "busy s", "share", "bytes", "rate");
  const auto line = [&](std::string_view name, const std::string& events, int64_t busy_ns, uint64_t bytes) {
    std::string text = fmt::format("  {:<13} {:>8} {:>10.3f} {:>5.1f}% {:>11} {:>11}", name, events, static_cast<double>(busy_ns) * 1e-9,
                                   100 * s.share(busy_ns), bytes > 0 ? format_bytes(bytes) : "", rate_text(bytes, busy_ns));
    while (text.back() == ' ') text.pop_back();
    out += text + "\n";
  };
  std::array<size_t, kTraceKinds.size()> n_rows{};
  for (const auto& r : s.rows) {
    line(r.name, with_commas(r.events), r.busy_ns, r.bytes);
    for (size_t k = 0; k < kTraceKinds.size(); ++k) n_rows[k] += r.name.starts_with(kTraceKinds[k]);
  }
  for (size_t k = 0; k < kTraceKinds.size(); ++k)
    if (n_rows[k] > 1) line(fmt::format("{}, all", kTraceKinds[k]), "", s.kinds[k].busy_ns, s.kinds[k].bytes);
  return out;
}

// What to conclude, a sentence a line
inline std::string timeline_conclusion(const TimelineSummary& s) {
  using Kind = TraceEvent::Kind;
  const auto seconds = [](int64_t ns) { return fmt::format("{:.3f} s", static_cast<double>(ns) * 1e-9); };
  const auto percent = [](double share) { return fmt::format("{:.1f}%", 100 * share); };
  std::string out = fmt::format("{} in all: computing {}, disk busy {}.\n", seconds(s.elapsed_ns), percent(s.share(s.kind(Kind::compute).busy_ns)),
                                percent(s.share(s.disk_ns)));
  if (const int64_t reading = s.kind(Kind::read).busy_ns; reading > 0)
    out += fmt::format("{} of the reading was hidden behind computing: {} of {}, {:.1f} reads in flight on average.\n", percent(s.hidden_share()),
                       seconds(s.reading_hidden_ns), seconds(reading), static_cast<double>(s.kind(Kind::read).sum_ns) / static_cast<double>(reading));
  std::string copies;
  for (const auto& [kind, way] : {std::pair(Kind::copy_in, "to the device"), std::pair(Kind::copy_out, "from the device")})
    if (const auto& k = s.kind(kind); k.busy_ns > 0)
      copies += fmt::format("{}{} {} at {}", copies.empty() ? "Copying " : ", ", way, percent(s.share(k.busy_ns)), rate_text(k.bytes, k.busy_ns));
  if (!copies.empty()) out += copies + ".\n";
  std::string waits;
  std::vector<std::pair<int64_t, std::string>> reasons;
  for (const auto& [reason, ns] : s.wait_ns) reasons.push_back({ns, reason});
  std::sort(reasons.rbegin(), reasons.rend());
  for (const auto& [ns, reason] : reasons)
    waits += fmt::format("{}{} for {} ({})", waits.empty() ? "" : ", ", seconds(ns), reason, percent(s.share(ns)));
  out += waits.empty() ? "Nothing waited.\n" : "Waited " + waits + ".\n";
  return out;
}

}  // namespace flexgen::tools
