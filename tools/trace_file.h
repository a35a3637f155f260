// SPDX-License-Identifier: Apache-2.0
// A trace as a file that Perfetto (ui.perfetto.dev) and chrome://tracing open: the "Trace Event Format" of Chrome, JSON object form.
// One process, one named row for each kind of event; events of one kind that overlap, such as reads in flight, lie in rows of their own
// ("read 1", "read 2"), so that every row is a sequence. Times in microseconds since the first event.
//
//   {"otherData": {"format": "flexgen trace 1", "events": 2, "dropped": 0},
//    "traceEvents": [
//     {"ph":"M","pid":1,"tid":1,"name":"thread_name","args":{"name":"compute"}},
//     {"ph":"X","pid":1,"tid":1,"ts":0.000,"dur":12.345,"name":"qkv","args":{"layer":0,"micro_batch":1}},
//     {"ph":"X","pid":1,"tid":2,"ts":12.345,"dur":3.200,"name":"disk","args":{"layer":0,"reason":"disk"}}, ...
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <iterator>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include "flexgen/base/trace.h"

namespace flexgen::tools {

inline constexpr std::string_view kTraceFormat = "flexgen trace 1";

// In the order of the rows. Index: TraceEvent::Kind
inline constexpr std::array<std::string_view, 7> kTraceKinds{"compute", "wait", "verify", "read", "write", "copy_in", "copy_out"};

namespace detail {

inline std::string json_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (static_cast<unsigned char>(c) < 0x20) out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else out += c;
  }
  return out;
}

// For each event the first row that is free when it begins, as few rows as there are events at a time. events: by beginning
inline std::vector<uint32_t> sub_rows(const std::vector<const TraceEvent*>& events, uint32_t& n_rows) {
  using Busy = std::pair<int64_t, uint32_t>;  // until when, row
  std::priority_queue<Busy, std::vector<Busy>, std::greater<>> busy;
  std::priority_queue<uint32_t, std::vector<uint32_t>, std::greater<>> free;
  std::vector<uint32_t> rows;
  rows.reserve(events.size());
  n_rows = 0;
  for (const TraceEvent* e : events) {
    for (; !busy.empty() && busy.top().first <= e->start_ns; busy.pop()) free.push(busy.top().second);
    uint32_t row = n_rows;
    if (free.empty()) ++n_rows;
    else row = free.top(), free.pop();
    busy.push({e->end_ns, row});
    rows.push_back(row);
  }
  return rows;
}

inline void append_event(std::string& out, const TraceEvent& e, size_t tid, int64_t origin_ns) {
  const auto put = std::back_inserter(out);
  const int64_t at = e.start_ns - origin_ns, length = e.end_ns - e.start_ns;
  fmt::format_to(put, "{{\"ph\":\"X\",\"pid\":1,\"tid\":{},\"ts\":{}.{:03},\"dur\":{}.{:03},\"name\":\"{}\",\"args\":{{", tid, at / 1000, at % 1000,
                 length / 1000, length % 1000, json_escaped(e.what));
  std::string_view comma = "";
  const auto arg = [&](std::string_view name, const auto& value) { fmt::format_to(put, "{}\"{}\":{}", comma, name, value), comma = ","; };
  if (e.layer >= 0) arg("layer", e.layer);
  if (e.micro_batch >= 0) arg("micro_batch", e.micro_batch);
  if (e.bytes > 0) arg("bytes", e.bytes);
  if (e.kind == TraceEvent::Kind::wait) arg("reason", fmt::format("\"{}\"", json_escaped(e.what)));
  out += "}}";
}

}  // namespace detail

// Hands out the file's text in pieces of about a MiB. No event may be added meanwhile; beside the trace it needs 12 bytes an event.
inline void write_trace(const Trace& trace, const std::function<void(std::string_view)>& put) {
  std::array<std::vector<const TraceEvent*>, kTraceKinds.size()> kinds;
  int64_t origin = INT64_MAX;
  size_t n_events = 0;
  trace.for_each([&](const TraceEvent& e) {
    kinds[static_cast<size_t>(e.kind)].push_back(&e);
    origin = std::min(origin, e.start_ns);
    ++n_events;
  });
  std::string text =
      fmt::format("{{\"displayTimeUnit\":\"ms\",\"otherData\":{{\"format\":\"{}\",\"events\":{},\"dropped\":{}}},\n\"traceEvents\":[\n", kTraceFormat,
                  n_events, trace.dropped());
  text += "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"flexgen\"}}";
  size_t first_row = 1;
  for (size_t k = 0; k < kinds.size(); ++k) {
    auto& events = kinds[k];
    if (events.empty()) continue;
    std::stable_sort(events.begin(), events.end(), [](const TraceEvent* a, const TraceEvent* b) { return a->start_ns < b->start_ns; });
    uint32_t n_rows = 0;
    const std::vector<uint32_t> rows = detail::sub_rows(events, n_rows);
    for (size_t r = 0; r < n_rows; ++r) {
      const std::string name = n_rows == 1 ? std::string(kTraceKinds[k]) : fmt::format("{} {}", kTraceKinds[k], r + 1);
      text += fmt::format(",\n{{\"ph\":\"M\",\"pid\":1,\"tid\":{0},\"name\":\"thread_name\",\"args\":{{\"name\":\"{1}\"}}}}"
                          ",\n{{\"ph\":\"M\",\"pid\":1,\"tid\":{0},\"name\":\"thread_sort_index\",\"args\":{{\"sort_index\":{0}}}}}",
                          first_row + r, name);
    }
    for (size_t i = 0; i < events.size(); ++i) {
      text += ",\n";
      detail::append_event(text, *events[i], first_row + rows[i], origin);
      if (text.size() >= 1 << 20) put(text), text.clear();
    }
    first_row += n_rows;
  }
  text += "\n]}\n";
  put(text);
}

}  // namespace flexgen::tools
