// SPDX-License-Identifier: Apache-2.0
// A card as the runtime sees it: memory, streams of work, and events between them; no CUDA type. kernels/cuda/runtime has the real one,
// tests/support/fake_device.h one that delays and reorders whatever it may.
//
// Work on a stream runs in the order in which it was given, work on different streams in any. An event that was recorded on a stream has
// happened when all that was given to the stream before has been done; one that was never recorded has happened.
//
// Errors of the card are Fault::gpu. They may show in any later call, and a card that had one answers every call with it: the process
// has to end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "flexgen/base/error.h"
#include "flexgen/memory/arena.h"

namespace flexgen {

struct DeviceInfo {
  int index = 0;              // "cuda:<index>"
  std::string name;           // as the driver has it
  int arch = 0;               // compute capability: 75, 80, 86, 89, 90, ...
  int multiprocessors = 0;
  size_t shared_bytes = 0;    // most shared memory that a block may ask for
  uint64_t total_bytes = 0;   // of memory
};

// thread: any, but a stream has one that gives it work at a time
class Device : public HostPinner {
 public:
  using Stream = void*;  // a cudaStream_t of the real one; what launches take
  using Event = void*;

  virtual const DeviceInfo& info() const = 0;
  virtual uint64_t free_bytes() = 0;  // now, of memory

  // At a multiple of 256, content undefined. Fault::space where the card has no such memory
  virtual std::byte* allocate(size_t bytes) = 0;
  virtual void release(std::byte*) noexcept = 0;

  virtual Stream create_stream() = 0;
  virtual void destroy(Stream) noexcept = 0;  // waits for its work
  virtual Event create_event(bool timed = false) = 0;  // timed: for seconds_between, a little slower
  virtual void destroy_event(Event) noexcept = 0;

  // Work for a stream. from and to: one on the device, the other in pinned host memory or on the device too. Both stay as they are until
  // the copy is done: the source unchanged, the target untouched.
  virtual void copy(std::byte* to, const std::byte* from, size_t bytes, Stream) = 0;
  virtual void record(Event, Stream) = 0;
  virtual void wait(Event, Stream) = 0;  // what is given to the stream from now on runs after the event, as recorded last

  // Waits of the host
  virtual bool done(Event) = 0;
  virtual void synchronize(Event) = 0;
  virtual void synchronize_stream(Stream) = 0;
  virtual double seconds_between(Event from, Event to) = 0;  // timed ones that have happened

  // A named stretch of this thread's time in a profiler of the card
  virtual void push_range(const char* what) = 0;
  virtual void pop_range() = 0;
};

// Owners. The device outlives them.

class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(Device& device, size_t bytes) : device_(&device), memory_(bytes > 0 ? device.allocate(bytes) : nullptr, bytes) {}
  DeviceMemory(DeviceMemory&& o) noexcept : device_(o.device_), memory_(std::exchange(o.memory_, {})) {}
  DeviceMemory& operator=(DeviceMemory&& o) noexcept {
    DeviceMemory old(std::move(o));
    std::swap(device_, old.device_);
    std::swap(memory_, old.memory_);
    return *this;
  }
  ~DeviceMemory() {
    if (!memory_.empty()) device_->release(memory_.data());
  }

  std::span<std::byte> memory() const { return memory_; }
  std::byte* data() const { return memory_.data(); }
  size_t size() const { return memory_.size(); }  // bytes

 private:
  Device* device_ = nullptr;
  std::span<std::byte> memory_;
};

class DeviceStream {
 public:
  explicit DeviceStream(Device& device) : device_(device), stream_(device.create_stream()) {}
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;
  ~DeviceStream() { device_.destroy(stream_); }

  operator Device::Stream() const { return stream_; }

 private:
  Device& device_;
  Device::Stream stream_;
};

class DeviceEvent {
 public:
  explicit DeviceEvent(Device& device, bool timed = false) : device_(&device), event_(device.create_event(timed)) {}
  DeviceEvent(DeviceEvent&& o) noexcept : device_(o.device_), event_(std::exchange(o.event_, nullptr)) {}
  DeviceEvent& operator=(DeviceEvent&& o) noexcept {
    std::swap(device_, o.device_);
    std::swap(event_, o.event_);
    return *this;
  }
  ~DeviceEvent() {
    if (event_) device_->destroy_event(event_);
  }

  operator Device::Event() const { return event_; }

 private:
  Device* device_;
  Device::Event event_;
};

class DeviceRange {
 public:
  DeviceRange(Device* device, const char* what) : device_(device) {
    if (device_) device_->push_range(what);
  }
  DeviceRange(const DeviceRange&) = delete;
  DeviceRange& operator=(const DeviceRange&) = delete;
  ~DeviceRange() {
    if (device_) device_->pop_range();
  }

 private:
  Device* device_;
};

}  // namespace flexgen
