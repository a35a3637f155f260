// SPDX-License-Identifier: Apache-2.0
// A card whose kernels run in the emulator when its streams get to them: the fake card's lateness, and the emulator's orders, for launches,
// copies and events alike. One at a time in a process.
#pragma once

#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "flexgen/ops/device_backend.h"
#include "kernels/emu/emulator.h"
#include "support/emulated_launches.h"

namespace flexgen::testing {

emu::Options emulation(const FakeDeviceOptions&);  // of the program: in race mode, or in a hostile order

class EmulatedCard {
 public:
  explicit EmulatedCard(FakeDeviceOptions options = {}) : device_(with_arch(options)), session_(emulation(options)) {
    stream_ = device_.create_stream();
  }
  EmulatedCard(const EmulatedCard&) = delete;
  EmulatedCard& operator=(const EmulatedCard&) = delete;
  ~EmulatedCard() {
    queues_.clear();
    for (std::byte* p : memory_) device_.release(p);
    device_.destroy(stream_);
  }

  FakeDevice& device() { return device_; }
  Device::Stream stream() const { return stream_; }

  // On the card, with these values
  template <typename T>
  T* upload(std::span<const T> values) {
    const size_t bytes = std::max<size_t>(values.size_bytes(), 1);
    std::byte* const there = room(bytes).data();
    write(there, std::as_bytes(values));
    return reinterpret_cast<T*>(there);
  }
  template <typename T>
  T* upload(const std::vector<T>& values) {
    return upload(std::span<const T>(values));
  }
  template <typename T>
  std::vector<T> download(const T* there, size_t n) {
    device_.synchronize_stream(stream_);
    const std::vector<std::byte> bytes = device_.peek(reinterpret_cast<const std::byte*>(there), n * sizeof(T));
    std::vector<T> values(n);
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

  // Memory of the card, and pinned memory of the host
  std::span<std::byte> room(size_t bytes) { return {memory_.emplace_back(device_.allocate(bytes)), bytes}; }
  std::span<std::byte> pinned(size_t bytes) { return pinned_.emplace_back(device_, bytes).memory; }

  // With exactly what the demand says, on the card's stream
  DeviceQueue& queue(DeviceBackend& backend, const DeviceDemand& demand) {
    const std::span<std::byte> workspace = room(backend.workspace_bytes(demand)), arguments = pinned(backend.arguments_bytes(demand));
    return *queues_.emplace_back(backend.make_queue(demand, stream_, workspace, arguments));
  }

 private:
  struct Pinned {
    Pinned(Device& d, size_t bytes) : device(d), memory(bytes) { device.pin(memory); }
    ~Pinned() { device.unpin(memory); }
    Pinned(const Pinned&) = delete;
    Pinned& operator=(const Pinned&) = delete;

    Device& device;
    std::vector<std::byte> memory;
  };

  static FakeDeviceOptions with_arch(FakeDeviceOptions o) {
    o.info.multiprocessors = 4;  // so that small batches are cut, and not into more than a test has time for
    return o;
  }
  void write(std::byte* there, std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    Pinned from(device_, bytes.size());
    std::memcpy(from.memory.data(), bytes.data(), bytes.size());
    device_.copy(there, from.memory.data(), bytes.size(), stream_);
    device_.synchronize_stream(stream_);
  }

  FakeDevice device_;
  EmulatedLaunches launches_{device_};
  emu::Session session_;
  Device::Stream stream_ = nullptr;
  std::vector<std::byte*> memory_;
  std::deque<Pinned> pinned_;
  std::vector<std::unique_ptr<DeviceQueue>> queues_;  // go first
};

}  // namespace flexgen::testing
