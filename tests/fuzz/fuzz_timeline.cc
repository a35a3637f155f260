// SPDX-License-Identifier: Apache-2.0
// Trace files. What is accepted is summed up and drawn: shares stay between 0 and 1, rows are in order, the SVG stays well-formed text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "tools/timeline.h"
#include "tools/timeline_chart.h"
#include "tools/timeline_svg.h"

namespace {

using namespace flexgen::tools;

void use(const Timeline& t, const TimeWindow& w) {
  const TimelineSummary s = summarize(t, w);
  for (const auto& kind : s.kinds)
    if (kind.busy_ns < 0 || kind.busy_ns > w.length() || kind.sum_ns < kind.busy_ns) std::abort();
  for (const auto& row : s.rows)
    if (row.busy_ns < 0 || row.busy_ns > w.length()) std::abort();
  if (s.hidden_share() < 0 || s.hidden_share() > 1) std::abort();
  if (to_json(s, t, w).dump().empty() || timeline_table(s).empty() || timeline_conclusion(s).empty()) std::abort();
  const std::string chart = timeline_chart(t, w, {.width = 60, .ascii = true}), svg = timeline_svg(t, w, "<&>");
  for (const char c : chart)
    if (c != '\n' && (c < ' ' || c > '~')) std::abort();
  size_t open = 0, close = 0;
  for (const char c : svg) open += c == '<', close += c == '>';
  if (open != close || !svg.ends_with("</svg>\n") || svg.size() > 2000 + t.rows.size() * 400'000) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const Timeline t = parse_timeline({reinterpret_cast<const char*>(data), size}, "trace.json", {.events = 2000, .rows = 20, .names = 100});
    for (const TimelineRow& row : t.rows)
      for (size_t i = 0; i < row.events.size(); ++i) {
        const TimelineEvent& e = row.events[i];
        if (e.start_ns > e.end_ns || e.end_ns > t.end_ns || e.name >= t.names.size() || (i > 0 && e.start_ns < row.events[i - 1].end_ns))
          std::abort();
      }
    use(t, {0, t.end_ns});
    use(t, {t.end_ns / 3, t.end_ns / 2 + 1});
  } catch (const flexgen::Error& e) {
    if (e.fault() != flexgen::Fault::checkpoint || std::string_view(e.what()).empty()) std::abort();
  }
  return 0;
}
