// SPDX-License-Identifier: Apache-2.0
// What happened when: events with a beginning and an end, from any thread, for a timeline. Nobody looks at them while the engine runs.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <vector>

namespace flexgen {

// One stretch of time. Its row in the timeline follows from its kind.
struct TraceEvent {
  enum class Kind : uint8_t { compute, wait, verify, read, write };
  Kind kind = Kind::compute;
  const char* what = "";        // "fc1", "attend", "weights", "kv"; for a wait what it waited for: "disk", "slot". Lives for ever
  int32_t layer = -1;           // -1: none
  int32_t micro_batch = -1;     // -1: all
  uint64_t bytes = 0;           // moved or hashed
  int64_t start_ns = 0, end_ns = 0;  // on the monotonic clock
};

inline int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Trace {
 public:
  // thread: any
  void add(const TraceEvent& e) {
    std::lock_guard lock(mutex_);
    events_.push_back(e);
  }
  // thread: any
  std::vector<TraceEvent> events() const {
    std::lock_guard lock(mutex_);
    return events_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<TraceEvent> events_;
};

// Records from its construction to its end, where there is a trace at all.
class TraceSpan {
 public:
  TraceSpan(Trace* trace, TraceEvent::Kind kind, const char* what, int32_t layer = -1, int32_t micro_batch = -1, uint64_t bytes = 0) : trace_(trace) {
    if (trace_) event_ = {kind, what, layer, micro_batch, bytes, monotonic_ns(), 0};
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;
  ~TraceSpan() {
    if (!trace_) return;
    event_.end_ns = monotonic_ns();
    trace_->add(event_);
  }

 private:
  Trace* trace_;
  TraceEvent event_;
};

}  // namespace flexgen
