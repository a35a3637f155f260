// SPDX-License-Identifier: Apache-2.0
// The memory that frames are cut from, as those see it who move bytes in it themselves: the host's, or a device's, where bytes move in the
// order of the stream that computes with them.
#pragma once

#include <cstring>
#include <span>

#include "flexgen/base/error.h"
#include "flexgen/memory/device.h"

namespace flexgen {

// thread: the one that gives the stream work
class FrameSpace {
 public:
  FrameSpace() = default;                                                                          // the host's
  FrameSpace(Device* device, Device::Stream stream) : device_(device), stream_(stream) {}  // the device outlives this; null: the host's

  bool on_device() const { return device_ != nullptr; }

  // Within this memory; work that comes later on the stream sees it.
  void copy(std::byte* to, const std::byte* from, size_t bytes) const {
    if (device_) {
      device_->copy(to, from, bytes, stream_);
    } else {
      std::memcpy(to, from, bytes);
    }
  }
  // From the host, pinned for a device, and done when this returns
  void fill(std::byte* to, std::span<const std::byte> from) const {
    copy(to, from.data(), from.size());
    if (device_) device_->synchronize_stream(stream_);
  }

 private:
  Device* device_ = nullptr;
  Device::Stream stream_ = nullptr;
};

}  // namespace flexgen
