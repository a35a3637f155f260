// SPDX-License-Identifier: Apache-2.0
// flexgen trace: looks at a timeline that generate --trace wrote, in the terminal, as an SVG, or as numbers.
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "tools/command.h"
#include "tools/small_file.h"
#include "tools/standard_output.h"
#include "tools/time_text.h"
#include "tools/timeline.h"
#include "tools/timeline_chart.h"
#include "tools/timeline_summary.h"
#include "tools/timeline_svg.h"

namespace flexgen::tools {

namespace {

constexpr const char* kTraceExamples =
    "Rows: compute, wait, verify, read, write, and copy_in and copy_out for a GPU's memory; reads and writes that overlap have a row\n"
    "each. The file also opens in ui.perfetto.dev.\n"
    "\n"
    "Examples:\n"
    "  flexgen generate --model m.flex --memory 6GiB --prompt-file prompts.txt --trace run.json\n"
    "  flexgen trace run.json\n"
    "  flexgen trace run.json --from 1.2s --to 1.4s --svg run.svg\n"
    "\n";

struct TraceOptions {
  std::string file, svg, from, to;
  std::optional<int64_t> width;
  bool ascii = false, json = false;
};

size_t terminal_width() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40) return size.ws_col;
  return 100;
}

// The locale's character set, as the environment names it
bool has_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"})
    if (const char* value = std::getenv(name); value && *value) {
      const std::string_view v = value;
      return v.find("UTF-8") != v.npos || v.find("utf8") != v.npos || v.find("UTF8") != v.npos || v.find("utf-8") != v.npos;
    }
  return false;
}

TimeWindow window(const TraceOptions& o, const Timeline& t) {
  TimeWindow w{o.from.empty() ? 0 : parse_time_ns(o.from, "--from"), o.to.empty() ? t.end_ns : parse_time_ns(o.to, "--to")};
  if (w.from_ns >= t.end_ns && t.end_ns > 0)
    fail(Fault::usage, "--from: found {}, but the trace ends after {:.6g} s", o.from, static_cast<double>(t.end_ns) * 1e-9);
  if (w.to_ns <= w.from_ns && t.end_ns > 0) fail(Fault::usage, "--to: found {}, allowed a time after --from", o.to);
  w.to_ns = std::min(w.to_ns, t.end_ns);
  return w;
}

int trace(const TraceOptions& o) {
  if (o.width && (*o.width < 40 || *o.width > 1000)) fail(Fault::usage, "--width: found {}, allowed 40 to 1000 columns", *o.width);
  const Timeline t = read_timeline(o.file);
  const TimeWindow w = window(o, t);
  std::optional<SmallFile> svg;
  if (!o.svg.empty()) svg.emplace(o.svg);
  StandardOutput out;
  const TimelineSummary s = summarize(t, w);
  if (o.json) {
    out.write(to_json(s, t, w).dump() + "\n");
  } else if (t.rows.empty()) {
    out.write("The trace has no events.\n");
  } else {
    const bool terminal = StandardOutput::is_terminal();
    const ChartStyle style{.width = o.width ? static_cast<size_t>(*o.width) : terminal_width(),
                           .ascii = o.ascii || (terminal && !has_utf8()),
                           .colour = terminal && !std::getenv("NO_COLOR")};
    out.write(timeline_chart(t, w, style) + "\n" + timeline_table(s) + "\n" + timeline_conclusion(s));
  }
  if (t.dropped > 0) fmt::print(stderr, "note: {} more events were not recorded: the trace was full\n", with_commas(t.dropped));
  out.flush();
  if (svg) svg->commit(timeline_svg(t, w, o.file.substr(o.file.rfind('/') + 1)));
  return 0;
}

}  // namespace

void add_trace(CLI::App& program, Selected& selected) {
  auto o = std::make_shared<TraceOptions>();
  CLI::App* c = program.add_subcommand("trace", "Look at a timeline of generate --trace: chart, SVG, numbers");
  c->footer(kTraceExamples);
  c->add_option("FILE", o->file, "The trace")->required();
  c->add_option("--svg", o->svg, "Write the chart as an SVG to this file")->type_name("FILE");
  c->add_option("--from", o->from, "Show from this time on, as in 1.2s or 300ms")->type_name("TIME");
  c->add_option("--to", o->to, "Show up to this time")->type_name("TIME");
  c->add_option("--width", o->width, "Columns of the chart [the terminal's, else 100]")->type_name("N");
  c->add_flag("--ascii", o->ascii, "Draw with ASCII characters");
  c->add_flag("--json", o->json, "Print the numbers as JSON instead of the chart");
  c->callback([o, &selected] { selected = [o] { return trace(*o); }; });
}

}  // namespace flexgen::tools
