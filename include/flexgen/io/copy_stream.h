// SPDX-License-Identifier: Apache-2.0
// Copies on one stream of a device: each begins after a moment in the work of another stream, they run one after the other, and a thread
// that waits for them tells their ends in that order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "flexgen/base/trace.h"
#include "flexgen/io/belt.h"
#include "flexgen/io/device_failure.h"
#include "flexgen/io/moments.h"
#include "flexgen/memory/device.h"

namespace flexgen {

struct DeviceCopy {
  std::byte* to = nullptr;  // one on the device, one in pinned host memory
  const std::byte* from = nullptr;
  size_t bytes = 0;
  Moments::Moment* after = nullptr;

  // when it has ended
  bool done = false;                 // false: the device has failed, and may touch both memories as long as the stream lives
  int64_t start_ns = 0, end_ns = 0;  // on the monotonic clock, as far as the host can tell: the length is the device's, the end is when it was seen

  Device::Event begin = nullptr, end = nullptr;  // the stream's. begin: null where it begins as the copy before ends
};

struct CopyStatistics {
  uint64_t bytes = 0;
  double busy_s = 0;  // the stream copied, by the device's clock
};

class CopyStream {
 public:
  // ended is called by a thread of its own and must not throw. All of them outlive this, as do copies that were given.
  CopyStream(Device& device, DeviceFailure& failure, std::function<void(DeviceCopy&)> ended)
      : device_(device), failure_(failure), stream_(device), ended_(std::move(ended)), belt_([this](DeviceCopy* copy) { see(*copy); }) {}

  // Its end will be told, whatever happens. thread: any
  void give(DeviceCopy& copy) {
    std::lock_guard lock(mutex_);
    copy.done = false;
    if (!failure_.seen()) try {
        start(copy);
      } catch (...) {
        failure_.keep_caught();
      }
    belt_.push(&copy);
  }

  CopyStatistics statistics() const {  // thread: any
    std::lock_guard lock(mutex_);
    return statistics_;
  }

 private:
  // mutex_ is held
  void start(DeviceCopy& copy) {
    bool follows = last_given_ && !device_.done(last_given_);
    if (copy.after->number > waited_) {
      device_.wait(copy.after->event, stream_);
      waited_ = copy.after->number;
      follows = false;
    }
    copy.begin = follows ? nullptr : event();
    const Device::Event end = event();
    if (copy.begin) device_.record(copy.begin, stream_);
    device_.copy(copy.to, copy.from, copy.bytes, stream_);
    device_.record(end, stream_);
    copy.end = last_given_ = end;
    copy.done = true;
  }

  Device::Event event() {
    if (free_.empty()) return events_.emplace_back(device_, /*timed=*/true);
    const Device::Event e = free_.back();
    free_.pop_back();
    return e;
  }

  // thread: the belt's
  void see(DeviceCopy& copy) {
    if (copy.done) try {
        device_.synchronize(copy.end);
        const double seconds = device_.seconds_between(copy.begin ? copy.begin : last_seen_, copy.end);
        copy.end_ns = monotonic_ns();
        copy.start_ns = std::max(last_end_ns_, copy.end_ns - static_cast<int64_t>(seconds * 1e9));
        last_end_ns_ = copy.end_ns;
        std::lock_guard lock(mutex_);
        statistics_.bytes += copy.bytes;
        statistics_.busy_s += seconds;
        if (copy.begin) free_.push_back(copy.begin);
        if (last_seen_) free_.push_back(last_seen_);
        last_seen_ = copy.end;  // the next one may begin with it
      } catch (...) {
        failure_.keep_caught();
        copy.done = false;
      }
    ended_(copy);
  }

  Device& device_;
  DeviceFailure& failure_;
  const DeviceStream stream_;
  const std::function<void(DeviceCopy&)> ended_;

  mutable std::mutex mutex_;  // also of the stream: one gives it work at a time
  std::deque<DeviceEvent> events_;
  std::vector<Device::Event> free_;
  Device::Event last_given_ = nullptr;
  uint64_t waited_ = 0;  // the moment that everything given from now on is after
  CopyStatistics statistics_;

  // the belt's
  Device::Event last_seen_ = nullptr;
  int64_t last_end_ns_ = 0;

  Belt<DeviceCopy*> belt_;  // ends first: its thread uses all of the above
};

}  // namespace flexgen
