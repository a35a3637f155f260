// SPDX-License-Identifier: Apache-2.0
// A trace file (tools/trace_file.h) read again, from anybody: checked event by event while it is read, so that memory depends on the
// number of events alone, which is limited. Other fields than the known ones are skipped.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flexgen/base/trace.h"
#include "flexgen/format/json.h"
#include "flexgen/io/file.h"
#include "tools/trace_file.h"

namespace flexgen::tools {

struct TimelineEvent {
  uint32_t name = 0;  // of Timeline::names
  int32_t layer = -1, micro_batch = -1;
  uint64_t bytes = 0;
  int64_t start_ns = 0, end_ns = 0;
};

// Events of one row: by time, none begins before the one before it has ended
struct TimelineRow {
  TraceEvent::Kind kind = TraceEvent::Kind::compute;
  std::string name;
  std::vector<TimelineEvent> events;
};

struct Timeline {
  std::vector<TimelineRow> rows;  // in the order of their kinds, then as in the file
  std::vector<std::string> names;
  uint64_t dropped = 0;  // events that were not recorded
  int64_t end_ns = 0;    // of the last event; the first begins at 0
};

struct TimelineLimits {
  size_t events = 8'000'000;  // twice what a trace records: 40 bytes each
  size_t rows = 1024;
  size_t names = 4096;
  size_t depth = 32;
};

namespace detail {

// nlohmann-json's events of a trace file
class TimelineReader {
 public:
  TimelineReader(const std::string& source, const TimelineLimits& limits, const size_t& taken) : source_(source), limits_(limits), taken_(taken) {}

  Timeline take() {
    if (!has_events_) refuse("traceEvents is missing, so this is no trace of flexgen generate --trace");
    std::vector<TimelineRow> rows;
    for (size_t k = 0; k < kTraceKinds.size(); ++k)
      for (TimelineRow& r : timeline_.rows)
        if (static_cast<size_t>(r.kind) == k) rows.push_back(std::move(r));
    timeline_.rows = std::move(rows);
    for (TimelineRow& r : timeline_.rows) {
      std::sort(r.events.begin(), r.events.end(),
                [](const TimelineEvent& a, const TimelineEvent& b) { return std::pair(a.start_ns, a.end_ns) < std::pair(b.start_ns, b.end_ns); });
      for (size_t i = 1; i < r.events.size(); ++i)
        if (r.events[i].start_ns < r.events[i - 1].end_ns)
          refuse("row '{}': the event at {:.3f} us begins before the one before it has ended", r.name,
                 static_cast<double>(r.events[i].start_ns) / 1e3);
      if (!r.events.empty()) timeline_.end_ns = std::max(timeline_.end_ns, r.events.back().end_ns);
    }
    return std::move(timeline_);
  }

  bool null() { return other("null"); }
  bool boolean(bool) { return other("true or false"); }
  bool number_integer(int64_t v) { return number(static_cast<double>(v)); }
  bool number_unsigned(uint64_t v) { return number(static_cast<double>(v)); }
  bool number_float(double v, const std::string&) { return number(v); }
  bool binary(nlohmann::json::binary_t&) { return false; }

  bool string(std::string& v) {
    if (where_ == Where::event && key_ == Key::ph) event_.phase = v.size() == 1 ? v[0] : '?';
    else if (where_ == Where::event && key_ == Key::name) event_.name = checked_name(v);
    else if (where_ == Where::args && key_ == Key::name) event_.row_name = checked_name(v);
    else if (where_ == Where::args && key_ == Key::reason) checked_name(v);
    else return other("a string");
    return note();
  }

  bool start_object(size_t) {
    deeper();
    if (depth_ == 1) where_ = Where::root;
    else if (where_ == Where::events) where_ = Where::event, event_ = {}, known_ = {};
    else if (where_ == Where::event && key_ == Key::args) note(), where_ = Where::args, known_args_ = {};
    else if (where_ == Where::root && key_ == Key::other_data) note(), where_ = Where::other_data, known_args_ = {};
    else if (is_skipped()) skip();
    else other("an object");
    return true;
  }
  bool end_object() {
    --depth_;
    if (where_ == Where::skipped) return unskip();
    if (where_ == Where::event) finish_event(), where_ = Where::events;
    else if (where_ == Where::args) where_ = Where::event;
    else if (where_ == Where::other_data) where_ = Where::root;
    return true;
  }
  bool start_array(size_t) {
    deeper();
    if (depth_ == 1) refuse("found a list, allowed an object with traceEvents");
    if (where_ == Where::root && key_ == Key::trace_events) note(), where_ = Where::events, has_events_ = true;
    else if (is_skipped()) skip();
    else other("a list");
    return true;
  }
  bool end_array() {
    --depth_;
    if (where_ == Where::skipped) return unskip();
    where_ = Where::root;
    return true;
  }

  bool key(const std::string& k) {
    if (where_ == Where::skipped) return true;
    key_ = Key::unknown;
    const auto& keys = keys_of(where_);
    for (const auto& [name, key] : keys)
      if (k == name) key_ = key;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& e) {
    fail(Fault::checkpoint, "{}: {}", source_, flexgen::detail::parse_error_text(position, e));
  }

 private:
  enum class Where : uint8_t { outside, root, other_data, events, event, args, skipped };
  enum class Key : uint8_t { unknown, trace_events, other_data, ph, tid, ts, dur, name, args, layer, micro_batch, bytes, reason, dropped, count };

  // An event while its fields come
  struct Event {
    char phase = 0;
    double tid = -1, ts = -1, dur = -1;
    std::string name, row_name;
    TimelineEvent values;
  };

  static const std::vector<std::pair<std::string_view, Key>>& keys_of(Where where) {
    static const std::vector<std::pair<std::string_view, Key>> kNone, kRoot{{"traceEvents", Key::trace_events}, {"otherData", Key::other_data}},
        kOther{{"dropped", Key::dropped}},
        kEvent{{"ph", Key::ph}, {"tid", Key::tid}, {"ts", Key::ts}, {"dur", Key::dur}, {"name", Key::name}, {"args", Key::args}},
        kArgs{{"layer", Key::layer}, {"micro_batch", Key::micro_batch}, {"bytes", Key::bytes}, {"reason", Key::reason}, {"name", Key::name}};
    switch (where) {
      case Where::root: return kRoot;
      case Where::other_data: return kOther;
      case Where::event: return kEvent;
      case Where::args: return kArgs;
      default: return kNone;
    }
  }
  static std::string_view text(Key k) {
    for (const Where w : {Where::root, Where::other_data, Where::event, Where::args})
      for (const auto& [name, key] : keys_of(w))
        if (key == k) return name;
    return "";
  }

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> form, Args&&... args) const {
    const bool inside = where_ == Where::event || where_ == Where::args || where_ == Where::events;
    fail(Fault::checkpoint, "{}: {}{}", source_, inside ? fmt::format("event {} near byte {}: ", n_seen_, taken_ == 0 ? 0 : taken_ - 1) : "",
         fmt::format(form, std::forward<Args>(args)...));
  }

  void deeper() {
    if (++depth_ > limits_.depth) refuse("JSON is nested deeper than {} levels", limits_.depth);
  }
  bool is_skipped() const { return where_ == Where::skipped || (key_ == Key::unknown && where_ != Where::events && where_ != Where::outside); }
  // until the object or list that has just begun ends
  void skip() {
    if (where_ != Where::skipped) before_skip_ = where_, skip_depth_ = depth_, where_ = Where::skipped;
  }
  bool unskip() {
    if (depth_ < skip_depth_) where_ = before_skip_;
    return true;
  }

  // the key's value is taken: it must be the first
  bool note() {
    auto& known = where_ == Where::root ? known_root_ : where_ == Where::event ? known_ : known_args_;
    if (std::exchange(known[static_cast<size_t>(key_)], true)) refuse("'{}' is given twice", text(key_));
    return true;
  }

  // a value of no use
  bool other(std::string_view found) {
    if (where_ == Where::outside) refuse("found {}, allowed an object with traceEvents", found);
    if (where_ == Where::events) refuse("found {}, allowed an object", found);
    if (!is_skipped()) refuse("{}: found {}, which it cannot be", text(key_), found);
    return true;
  }

  bool number(double v) {
    const auto whole = [&](double limit) {
      if (!(v >= 0 && v <= limit) || v != std::floor(v)) refuse("{}: found {}, allowed a whole number from 0 to {:.0f}", text(key_), v, limit);
      return v;
    };
    const auto time = [&] {
      if (!(v >= 0 && v <= kMostMicroseconds)) refuse("{}: found {}, allowed microseconds from 0 to {:.0f}", text(key_), v, kMostMicroseconds);
      return v;
    };
    constexpr double kInt = INT32_MAX, kBytes = 9007199254740992.0;  // 2^53
    if (where_ == Where::event && key_ == Key::tid) event_.tid = whole(kInt);
    else if (where_ == Where::event && key_ == Key::ts) event_.ts = time();
    else if (where_ == Where::event && key_ == Key::dur) event_.dur = time();
    else if (where_ == Where::args && key_ == Key::layer) event_.values.layer = static_cast<int32_t>(whole(kInt));
    else if (where_ == Where::args && key_ == Key::micro_batch) event_.values.micro_batch = static_cast<int32_t>(whole(kInt));
    else if (where_ == Where::args && key_ == Key::bytes) event_.values.bytes = static_cast<uint64_t>(whole(kBytes));
    else if (where_ == Where::other_data && key_ == Key::dropped) timeline_.dropped = static_cast<uint64_t>(whole(kBytes));
    else return other("a number");
    return note();
  }

  const std::string& checked_name(const std::string& v) const {
    if (v.empty() || v.size() > 64 || printable(v) != v) refuse("{}: found '{}', allowed 1 to 64 bytes of text", text(key_), printable(v));
    return v;
  }

  void finish_event() {
    const auto need = [&](Key k) {
      if (!known_[static_cast<size_t>(k)]) refuse("{} is missing", text(k));
    };
    need(Key::ph);
    need(Key::name);
    if (event_.phase == 'M') {
      if (event_.name == "process_name" || event_.name == "thread_sort_index") return ++n_seen_, void();
      if (event_.name != "thread_name") refuse("name: found '{}', allowed process_name, thread_name or thread_sort_index", event_.name);
      need(Key::tid);
      add_row();
    } else if (event_.phase == 'X') {
      for (const Key k : {Key::tid, Key::ts, Key::dur}) need(k);
      add_event();
    } else {
      refuse("ph: found another phase, allowed M or X");
    }
    ++n_seen_;
  }

  // "read" or "read 2"
  void add_row() {
    const std::string& name = event_.row_name;
    if (name.empty()) refuse("args.name is missing");
    const size_t space = name.find(' ');
    const std::string_view kind = std::string_view(name).substr(0, space),
                           digits = space == name.npos ? "1" : std::string_view(name).substr(space + 1);
    const auto at = std::find(kTraceKinds.begin(), kTraceKinds.end(), kind);
    if (at == kTraceKinds.end() || digits.empty() || digits.size() > 6 || digits.find_first_not_of("0123456789") != digits.npos)
      refuse("row name: found '{}', allowed {}, perhaps with a number", name, fmt::join(kTraceKinds, ", "));
    if (timeline_.rows.size() == limits_.rows) refuse("found more than {} rows", limits_.rows);
    if (!row_of_tid_.emplace(event_.tid, timeline_.rows.size()).second) refuse("row {} is named twice", event_.tid);
    timeline_.rows.push_back({static_cast<TraceEvent::Kind>(at - kTraceKinds.begin()), name, {}});
  }

  void add_event() {
    const auto row = row_of_tid_.find(event_.tid);
    if (row == row_of_tid_.end()) refuse("tid: found {}, allowed a row that was named before", event_.tid);
    if (++n_events_ > limits_.events) refuse("found more than {} events", with_commas(limits_.events));
    TimelineEvent& e = event_.values;
    const auto [at, is_new] = names_.try_emplace(event_.name, static_cast<uint32_t>(timeline_.names.size()));
    if (is_new) {
      if (timeline_.names.size() == limits_.names) refuse("found more than {} different names", limits_.names);
      timeline_.names.push_back(event_.name);
    }
    e.name = at->second;
    e.start_ns = std::llround(event_.ts * 1e3);
    e.end_ns = e.start_ns + std::llround(event_.dur * 1e3);
    timeline_.rows[row->second].events.push_back(e);
  }

  static constexpr double kMostMicroseconds = 4e12;  // 46 days: in nanoseconds exact in a double

  const std::string& source_;
  const TimelineLimits& limits_;
  const size_t& taken_;
  Timeline timeline_;
  std::map<double, size_t> row_of_tid_;
  std::map<std::string, uint32_t, std::less<>> names_;

  Where where_ = Where::outside, before_skip_ = Where::outside;
  Key key_ = Key::unknown;
  size_t depth_ = 0, skip_depth_ = 0, n_seen_ = 0, n_events_ = 0;
  bool has_events_ = false;
  Event event_;
  std::array<bool, static_cast<size_t>(Key::count)> known_root_{}, known_{}, known_args_{};
};

// Characters of a file, a MiB at a time; counts those taken
class FileChars {
 public:
  FileChars(const File& file, size_t& taken) : file_(file), taken_(taken), buffer_(1 << 20) {}
  bool at_end() const { return position_ == file_.size(); }
  char get() {
    if (position_ >= first_ + filled_) {
      first_ = position_;
      filled_ = static_cast<size_t>(std::min<uint64_t>(buffer_.size(), file_.size() - first_));
      file_.read(first_, std::as_writable_bytes(std::span(buffer_).first(filled_)));
    }
    return buffer_[static_cast<size_t>(position_ - first_)];
  }
  void next() { ++position_, ++taken_; }

  class Iterator {
   public:
    using difference_type = std::ptrdiff_t;
    using value_type = char;
    using pointer = const char*;
    using reference = char;
    using iterator_category = std::input_iterator_tag;

    explicit Iterator(FileChars* chars = nullptr) : chars_(chars) {}
    char operator*() const { return chars_->get(); }
    Iterator& operator++() {
      chars_->next();
      return *this;
    }
    bool at_end() const { return !chars_ || chars_->at_end(); }
    bool operator==(const Iterator& o) const { return at_end() == o.at_end(); }
    bool operator!=(const Iterator& o) const { return at_end() != o.at_end(); }

   private:
    FileChars* chars_;
  };

 private:
  const File& file_;
  size_t& taken_;
  std::vector<char> buffer_;
  uint64_t position_ = 0, first_ = 0;
  size_t filled_ = 0;
};

}  // namespace detail

// throws Fault::checkpoint where it is no trace
inline Timeline parse_timeline(std::string_view text, const std::string& source, TimelineLimits limits = {}) {
  size_t taken = 0;
  detail::TimelineReader reader(source, limits, taken);
  nlohmann::json::sax_parse(flexgen::detail::CountingChar{text.data(), &taken}, flexgen::detail::CountingChar{text.data() + text.size(), &taken},
                            &reader);
  return reader.take();
}

inline Timeline read_timeline(const std::string& path, TimelineLimits limits = {}) {
  const File file = File::open(path);
  size_t taken = 0;
  detail::FileChars chars(file, taken);
  detail::TimelineReader reader(path, limits, taken);
  nlohmann::json::sax_parse(detail::FileChars::Iterator(&chars), detail::FileChars::Iterator(), &reader);
  return reader.take();
}

}  // namespace flexgen::tools
