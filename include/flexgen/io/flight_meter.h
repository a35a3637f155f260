// SPDX-License-Identifier: Apache-2.0
// How much is in flight, over time: what an engine's statistics say of busy times and of bytes in flight.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "flexgen/base/trace.h"
#include "flexgen/io/io_engine.h"

namespace flexgen {

// thread: one at a time
class FlightMeter {
 public:
  void begin(IoRequest::Op op, size_t bytes) {
    pass();
    ++in_flight_[op == IoRequest::Op::write];
    bytes_ += bytes;
  }
  void end(IoRequest::Op op, size_t bytes) {
    pass();
    --in_flight_[op == IoRequest::Op::write];
    bytes_ -= bytes;
  }

  size_t bytes() const { return bytes_; }  // now
  // the times until now
  void add_to(IoStatistics& s) const {
    FlightMeter now = *this;
    now.pass();
    s.busy_s += now.busy_s_;
    s.reading_s += now.reading_s_;
    s.writing_s += now.writing_s_;
    s.byte_seconds += now.byte_seconds_;
  }

 private:
  // what has passed since the last call, in which nothing began or ended
  void pass() {
    const int64_t now_ns = monotonic_ns();
    const double passed = static_cast<double>(now_ns - changed_ns_) * 1e-9;
    changed_ns_ = now_ns;
    if (in_flight_[0] + in_flight_[1] > 0) busy_s_ += passed;
    if (in_flight_[0] > 0) reading_s_ += passed;
    if (in_flight_[1] > 0) writing_s_ += passed;
    byte_seconds_ += passed * static_cast<double>(bytes_);
  }

  std::array<int, 2> in_flight_{};  // that are read, written
  size_t bytes_ = 0;
  int64_t changed_ns_ = 0;
  double busy_s_ = 0, reading_s_ = 0, writing_s_ = 0, byte_seconds_ = 0;
};

}  // namespace flexgen
