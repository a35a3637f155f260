// SPDX-License-Identifier: Apache-2.0
// A timeline as an SVG chart that stands alone: rows with names, a colour for each kind, a time axis, and tooltips. Events of two pixels
// and more are drawn one by one; what is narrower melts into stripes whose strength is the share that was busy, so that the file stays
// small however many events there are.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>

#include "tools/timeline_chart.h"

namespace flexgen::tools {

namespace detail {

inline std::string xml_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&apos;"; break;
      default: out += c;
    }
  return out;
}

class TimelineSvg {
 public:
  TimelineSvg(const Timeline& t, const TimeWindow& w, std::string_view title)
      : t_(t), w_(w), scale_(kWidth / static_cast<double>(std::max<int64_t>(1, w.length()))) {
    const TimelineSummary s = summarize(t, w);
    lay_out();
    const double height = bottom_ + 84;
    out_ = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
                       "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"12\" fill=\"#24292f\">\n"
                       "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
                       kLeft + kWidth + kRight, height);
    text(kMargin, 30, "font-size=\"17\" font-weight=\"600\"", title);
    double y = 50;
    const std::string conclusion = timeline_conclusion(s);
    for (size_t at = 0; at < conclusion.size(); y += 17) {
      const size_t end = conclusion.find('\n', at);
      text(kMargin, y, "fill=\"#57606a\"", std::string_view(conclusion).substr(at, end - at));
      at = end + 1;
    }
    legend(s);
    axis();
    for (size_t i = 0; i < t.rows.size(); ++i) row(i, s.rows[i]);
    out_ += "</svg>\n";
  }

  std::string take() { return std::move(out_); }

 private:
  static constexpr double kMargin = 24, kLeft = 110, kWidth = 1200, kRight = 84, kTop = 148, kRow = 24, kGap = 10, kDrawn = 2;
  static constexpr std::array<std::string_view, kTraceKinds.size()> kColour{"#2da44e", "#d1242f", "#bf8700", "#0969da",
                                                                             "#8250df", "#1b7c83", "#bf3989"};
  static constexpr std::array<std::string_view, kTraceKinds.size()> kMeaning{"computing", "waiting",    "verifying",  "reading",
                                                                              "writing",   "copying in", "copying out"};

  void text(double x, double y, std::string_view attributes, std::string_view content) {
    out_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, attributes, xml_escaped(content));
  }

  // rows of a kind close together, kinds apart
  void lay_out() {
    double y = kTop;
    for (size_t i = 0; i < t_.rows.size(); ++i) {
      if (i > 0 && t_.rows[i].kind != t_.rows[i - 1].kind) y += kGap;
      top_.push_back(y);
      y += kRow;
    }
    bottom_ = y + 6;
  }

  void legend(const TimelineSummary& s) {
    double x = kLeft;
    for (size_t k = 0; k < kTraceKinds.size(); ++k) {
      if (s.kinds[k].sum_ns == 0) continue;
      out_ += fmt::format("<rect x=\"{:.1f}\" y=\"113\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{}\"/>\n", x, kColour[k]);
      const std::string label = fmt::format("{} {:.1f}%", kMeaning[k], 100 * s.share(s.kinds[k].busy_ns));
      text(x + 18, 123, "", label);
      x += 18 + 7.2 * static_cast<double>(label.size()) + 22;
    }
  }

  void axis() {
    const int64_t step = axis_step(w_, 12);
    for (int64_t t = (w_.from_ns + step - 1) / step * step; t <= w_.to_ns; t += step) {
      const double x = kLeft + static_cast<double>(t - w_.from_ns) * scale_;
      out_ += fmt::format("<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"#d8dee4\"/>\n", x, kTop - 8, bottom_);
      text(x, bottom_ + 18, "text-anchor=\"middle\" fill=\"#57606a\"", axis_label(t, step));
    }
    out_ += fmt::format("<line x1=\"{0:.1f}\" y1=\"{2:.1f}\" x2=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"#8c959f\"/>\n", kLeft, kLeft + kWidth, bottom_);
    text(kLeft + kWidth / 2, bottom_ + 42, "text-anchor=\"middle\" fill=\"#57606a\"",
         "time since the first event; darker is busier where events are too short to draw");
  }

  void row(size_t i, const TimelineSummary::Row& numbers) {
    const TimelineRow& row = t_.rows[i];
    const double y = top_[i];
    const std::string_view colour = kColour[static_cast<size_t>(row.kind)];
    out_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"#f6f8fa\"/>\n", kLeft, y, kWidth, kRow - 4);
    text(kLeft - 10, y + 14.5, "text-anchor=\"end\"", row.name);
    text(kLeft + kWidth + 8, y + 14.5, "fill=\"#57606a\"",
         fmt::format("{:.1f}%", 100 * static_cast<double>(numbers.busy_ns) / static_cast<double>(std::max<int64_t>(1, w_.length()))));
    out_ += fmt::format("<g fill=\"{}\">\n", colour);
    stripes(row, y);
    for (const TimelineEvent& e : row.events) event(row, e, y);
    out_ += "</g>\n";
  }

  bool is_drawn(const TimelineEvent& e) const { return static_cast<double>(w_.inside(e.start_ns, e.end_ns)) * scale_ >= kDrawn; }

  void event(const TimelineRow& row, const TimelineEvent& e, double y) {
    if (!is_drawn(e)) return;
    const double x = kLeft + static_cast<double>(std::max(e.start_ns, w_.from_ns) - w_.from_ns) * scale_;
    const double width = static_cast<double>(w_.inside(e.start_ns, e.end_ns)) * scale_;
    std::string about = t_.names[e.name];
    if (row.kind == TraceEvent::Kind::wait) about = "waited for " + about;
    if (e.layer >= 0) about += fmt::format(", layer {}", e.layer);
    if (e.micro_batch >= 0) about += fmt::format(", micro-batch {}", e.micro_batch);
    about += fmt::format("\n{:.3f} ms from {:.3f} ms on", static_cast<double>(e.end_ns - e.start_ns) / 1e6, static_cast<double>(e.start_ns) / 1e6);
    if (e.bytes > 0) about += fmt::format("\n{}, {}", format_bytes(e.bytes), rate_text(e.bytes, e.end_ns - e.start_ns));
    // half a pixel less, so that neighbours can be told apart
    out_ += fmt::format("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\"{}><title>{}</title></rect>\n", x, y, width - 0.5,
                        kRow - 4, width > 8 ? " rx=\"2\"" : "", xml_escaped(about));
    std::string label = e.layer >= 0 && width > 90 ? fmt::format("{} {}", t_.names[e.name], e.layer) : t_.names[e.name];
    if (width > 6.8 * static_cast<double>(label.size()) + 10)
      out_ +=
          fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"11\" fill=\"#ffffff\" text-anchor=\"middle\" pointer-events=\"none\">{}</text>\n",
                      x + width / 2, y + 14, xml_escaped(label));
  }

  // What is too narrow: a pixel's share in eight steps, neighbours of one step together
  void stripes(const TimelineRow& row, double y) {
    TimelineRow narrow{row.kind, row.name, {}};
    for (const TimelineEvent& e : row.events)
      if (!is_drawn(e)) narrow.events.push_back(e);
    const auto n = static_cast<size_t>(kWidth);
    const std::vector<double> shares = busy_shares(narrow, w_, n);
    std::vector<size_t> counts(n);
    for (const TimelineEvent& e : narrow.events)
      if (e.start_ns >= w_.from_ns && e.start_ns < w_.to_ns)
        ++counts[std::min(n - 1, static_cast<size_t>(static_cast<double>(e.start_ns - w_.from_ns) * scale_))];
    const auto step = [&](size_t i) { return static_cast<size_t>(std::ceil(shares[i] * 8)); };
    for (size_t first = 0; first < n;) {
      size_t last = first, count = 0;
      double busy = 0;
      for (; last < n && step(last) == step(first); ++last) count += counts[last], busy += shares[last];
      if (step(first) > 0)
        out_ += fmt::format(
            "<rect x=\"{:.0f}\" y=\"{:.1f}\" width=\"{}\" height=\"{:.1f}\" fill-opacity=\"{:.2f}\"><title>{} short events, {:.0f}% "
            "busy</title></rect>\n",
            kLeft + static_cast<double>(first), y, last - first, kRow - 4, 0.2 + 0.1 * static_cast<double>(step(first)), count,
            100 * busy / static_cast<double>(last - first));
      first = last;
    }
  }

  const Timeline& t_;
  const TimeWindow& w_;
  const double scale_;  // pixels a nanosecond
  std::vector<double> top_;
  double bottom_ = 0;
  std::string out_;
};

}  // namespace detail

inline std::string timeline_svg(const Timeline& t, const TimeWindow& w, std::string_view title) { return detail::TimelineSvg(t, w, title).take(); }

}  // namespace flexgen::tools
