// SPDX-License-Identifier: Apache-2.0
// How long operations took and when, whoever computes. A host backend is timed by the clock. A device only gets work from the host: events
// on its stream tell when that ran, and they are read at the end of a sweep, when it has been waited for.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "flexgen/base/trace.h"
#include "flexgen/ops/device_backend.h"

namespace flexgen {

// thread: one at a time
class ComputeClock {
 public:
  // queue: null for host backends; it and trace, which may be null, outlive this
  ComputeClock(DeviceQueue* queue, Trace* trace) : queue_(queue), trace_(trace) {
    if (queue_) anchor_.emplace(queue_->device(), true);
  }

  // work() gives all of an operation to the backend, and does not wait for anything else. The event's times are filled in.
  template <typename Work>
  void time(TraceEvent event, Work&& work) {
    if (!queue_) {
      event.start_ns = monotonic_ns();
      work();
      event.end_ns = monotonic_ns();
      return add(event);
    }
    if (n_ == 0) set_anchor();
    if (n_ == spans_.size()) spans_.push_back({{}, DeviceEvent(queue_->device(), true), DeviceEvent(queue_->device(), true)});
    Span& span = spans_[n_++];
    span.event = event;
    const DeviceRange range(&queue_->device(), event.what);
    queue_->device().record(span.begin, queue_->stream());
    work();
    queue_->device().record(span.end, queue_->stream());
  }

  // Everything that was given to the backend has been done.
  void collect() {
    for (size_t i = 0; i < n_; ++i) {
      Span& span = spans_[i];
      span.event.start_ns = at(span.begin);
      span.event.end_ns = at(span.end);
      add(span.event);
    }
    n_ = 0;
  }
  // The sweep was broken off.
  void forget() noexcept { n_ = 0; }

  double seconds() const { return seconds_; }  // of all operations since this was made

 private:
  struct Span {
    TraceEvent event;
    DeviceEvent begin, end;
  };

  // an event whose time is known on the host's clock
  void set_anchor() {
    queue_->device().record(*anchor_, queue_->stream());
    queue_->device().synchronize(*anchor_);
    anchor_ns_ = monotonic_ns();
  }
  int64_t at(Device::Event e) { return anchor_ns_ + static_cast<int64_t>(queue_->device().seconds_between(*anchor_, e) * 1e9); }

  void add(const TraceEvent& event) {
    seconds_ += static_cast<double>(event.end_ns - event.start_ns) * 1e-9;
    if (trace_) trace_->add(event);
  }

  DeviceQueue* queue_;
  Trace* trace_;
  std::optional<DeviceEvent> anchor_;
  int64_t anchor_ns_ = 0;
  std::vector<Span> spans_;
  size_t n_ = 0;  // of spans_, in this sweep
  double seconds_ = 0;
};

}  // namespace flexgen
