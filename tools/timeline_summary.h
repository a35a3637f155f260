// SPDX-License-Identifier: Apache-2.0
// What a timeline says in numbers: how long each kind of work was going on, how much of it at the same time as other work, where the
// computing waited and for what.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tools/timeline.h"

namespace flexgen::tools {

// A part of a timeline
struct TimeWindow {
  int64_t from_ns = 0, to_ns = 0;

  int64_t length() const { return to_ns - from_ns; }
  // of an event: how long it was going on inside
  int64_t inside(int64_t start_ns, int64_t end_ns) const { return std::max<int64_t>(0, std::min(end_ns, to_ns) - std::max(start_ns, from_ns)); }
};

struct TimelineSummary {
  struct Row {
    std::string name;
    size_t events = 0;
    int64_t busy_ns = 0;
    uint64_t bytes = 0;  // an event that lies partly inside counts in proportion
  };
  // Several rows of one kind at the same time count once in busy_ns, each in sum_ns.
  struct Kind {
    int64_t busy_ns = 0, sum_ns = 0;
    uint64_t bytes = 0;
  };
  int64_t elapsed_ns = 0;
  std::vector<Row> rows;
  std::array<Kind, kTraceKinds.size()> kinds;
  std::map<std::string, int64_t> wait_ns;  // by reason
  int64_t reading_hidden_ns = 0;           // reading while anything was computed or verified
  int64_t disk_ns = 0;                     // reading or writing

  const Kind& kind(TraceEvent::Kind k) const { return kinds[static_cast<size_t>(k)]; }
  double share(int64_t ns) const { return elapsed_ns > 0 ? static_cast<double>(ns) / static_cast<double>(elapsed_ns) : 0; }
  double hidden_share() const {
    const int64_t reading = kind(TraceEvent::Kind::read).busy_ns;
    return reading > 0 ? static_cast<double>(reading_hidden_ns) / static_cast<double>(reading) : 0;
  }
};

namespace detail {

// Times when anything was going on: disjoint, in order
using Stretches = std::vector<std::pair<int64_t, int64_t>>;

inline Stretches merged(Stretches all) {
  std::sort(all.begin(), all.end());
  Stretches out;
  for (const auto& [start, end] : all) {
    if (out.empty() || start > out.back().second) out.push_back({start, end});
    else out.back().second = std::max(out.back().second, end);
  }
  return out;
}
inline int64_t total(const Stretches& s) {
  int64_t n = 0;
  for (const auto& [start, end] : s) n += end - start;
  return n;
}
inline int64_t overlap(const Stretches& a, const Stretches& b) {
  int64_t n = 0;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    n += std::max<int64_t>(0, std::min(a[i].second, b[j].second) - std::max(a[i].first, b[j].first));
    (a[i].second < b[j].second ? i : j)++;
  }
  return n;
}

}  // namespace detail

inline TimelineSummary summarize(const Timeline& t, const TimeWindow& w) {
  TimelineSummary s;
  s.elapsed_ns = w.length();
  std::array<detail::Stretches, kTraceKinds.size()> busy;
  for (const TimelineRow& row : t.rows) {
    auto& r = s.rows.emplace_back(TimelineSummary::Row{row.name});
    auto& kind = s.kinds[static_cast<size_t>(row.kind)];
    for (const TimelineEvent& e : row.events) {
      const int64_t inside = w.inside(e.start_ns, e.end_ns), length = e.end_ns - e.start_ns;
      if (inside == 0 && (length > 0 || e.start_ns < w.from_ns || e.start_ns >= w.to_ns)) continue;
      const uint64_t bytes = inside == length
                                 ? e.bytes
                                 : static_cast<uint64_t>(static_cast<double>(e.bytes) * static_cast<double>(inside) / static_cast<double>(length));
      ++r.events;
      r.busy_ns += inside;
      r.bytes += bytes;
      kind.bytes += bytes;
      if (row.kind == TraceEvent::Kind::wait) s.wait_ns[t.names[e.name]] += inside;
      if (inside > 0) busy[static_cast<size_t>(row.kind)].push_back({std::max(e.start_ns, w.from_ns), std::min(e.end_ns, w.to_ns)});
    }
    kind.sum_ns += r.busy_ns;
  }
  for (size_t k = 0; k < busy.size(); ++k) {
    busy[k] = detail::merged(std::move(busy[k]));
    s.kinds[k].busy_ns = detail::total(busy[k]);
  }
  const auto of = [&](TraceEvent::Kind k) -> const detail::Stretches& { return busy[static_cast<size_t>(k)]; };
  const auto both = [&](TraceEvent::Kind a, TraceEvent::Kind b) {
    detail::Stretches all = of(a);
    all.insert(all.end(), of(b).begin(), of(b).end());
    return detail::merged(std::move(all));
  };
  s.reading_hidden_ns = detail::overlap(of(TraceEvent::Kind::read), both(TraceEvent::Kind::compute, TraceEvent::Kind::verify));
  s.disk_ns = detail::total(both(TraceEvent::Kind::read, TraceEvent::Kind::write));
  return s;
}

inline nlohmann::ordered_json to_json(const TimelineSummary& s, const Timeline& t, const TimeWindow& w) {
  const auto seconds = [](int64_t ns) { return static_cast<double>(ns) * 1e-9; };
  nlohmann::ordered_json out{
      {"from_s", seconds(w.from_ns)}, {"to_s", seconds(w.to_ns)}, {"elapsed_s", seconds(s.elapsed_ns)}, {"dropped_events", t.dropped}};
  auto& rows = out["rows"] = nlohmann::ordered_json::array();
  for (const auto& r : s.rows)
    rows.push_back({{"row", r.name}, {"events", r.events}, {"busy_s", seconds(r.busy_ns)}, {"busy_share", s.share(r.busy_ns)}, {"bytes", r.bytes}});
  auto& kinds = out["kinds"] = nlohmann::ordered_json::object();
  for (size_t k = 0; k < kTraceKinds.size(); ++k)
    kinds[std::string(kTraceKinds[k])] = {{"busy_s", seconds(s.kinds[k].busy_ns)},
                                          {"busy_share", s.share(s.kinds[k].busy_ns)},
                                          {"sum_s", seconds(s.kinds[k].sum_ns)},
                                          {"bytes", s.kinds[k].bytes}};
  auto& waits = out["wait_s"] = nlohmann::ordered_json::object();
  for (const auto& [reason, ns] : s.wait_ns) waits[reason] = seconds(ns);
  out["disk_busy_s"] = seconds(s.disk_ns);
  out["reading_hidden_s"] = seconds(s.reading_hidden_ns);
  out["reading_hidden_share"] = s.hidden_share();
  return out;
}

}  // namespace flexgen::tools
