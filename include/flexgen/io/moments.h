// SPDX-License-Identifier: Apache-2.0
// Moments in the work of one stream, for others to wait for: the n-th has happened when all that the stream was given before it has been
// done. Events are used again. thread: any
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "flexgen/memory/device.h"

namespace flexgen {

class Moments {
 public:
  struct Moment {
    DeviceEvent event;
    uint64_t number = 0;  // later moments have larger ones
    size_t users = 0;
  };

  Moments(Device& device, Device::Stream stream) : device_(device), stream_(stream) {}

  // now, for so many users. Throws what the device throws
  Moment* record(size_t users) {
    std::lock_guard lock(mutex_);
    if (free_.empty()) free_.push_back(&all_.emplace_back(Moment{DeviceEvent(device_)}));
    Moment* const m = free_.back();
    device_.record(m->event, stream_);
    free_.pop_back();
    m->number = ++last_;
    m->users = users;
    return m;
  }
  // by each user, once
  void release(Moment* m) {
    std::lock_guard lock(mutex_);
    if (--m->users == 0) free_.push_back(m);
  }

 private:
  Device& device_;
  const Device::Stream stream_;
  std::mutex mutex_;
  std::deque<Moment> all_;
  std::vector<Moment*> free_;
  uint64_t last_ = 0;
};

}  // namespace flexgen
