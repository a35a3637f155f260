// SPDX-License-Identifier: Apache-2.0
// A device whose memory is the host's and whose kernels run in the emulator: all that it is given is done at once, in order. For programs
// that need a card to be tried without one; tests/support/fake_device.h is the one that delays and reorders.
#pragma once

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>

#include "flexgen/memory/device.h"
#include "kernels/emu/emulator.h"

namespace flexgen::testing {

class EmulatedDevice final : public Device {
 public:
  explicit EmulatedDevice(uint64_t bytes = uint64_t{1} << 30) : info_{0, "emulated", 90, 4, size_t{227} << 10, bytes} {}

  const DeviceInfo& info() const override { return info_; }
  uint64_t free_bytes() override { return info_.total_bytes - used_; }

  std::byte* allocate(size_t bytes) override {
    if (bytes > free_bytes()) fail(Fault::space, "{} bytes of device memory", bytes);
    auto* const p = static_cast<std::byte*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
    std::memset(p, 0xFF, bytes);
    emu::register_global(p, bytes, "device memory");
    sizes_[p] = bytes, used_ += bytes;
    return p;
  }
  void release(std::byte* p) noexcept override {
    emu::unregister_global(p);
    used_ -= sizes_.at(p), sizes_.erase(p);
    std::free(p);
  }
  void pin(std::span<std::byte>) override {}
  void unpin(std::span<std::byte>) noexcept override {}

  Stream create_stream() override { return &info_; }
  void destroy(Stream) noexcept override {}
  Event create_event(bool) override { return new std::chrono::steady_clock::time_point; }
  void destroy_event(Event e) noexcept override { delete static_cast<std::chrono::steady_clock::time_point*>(e); }

  void copy(std::byte* to, const std::byte* from, size_t bytes, Stream) override { std::memcpy(to, from, bytes); }
  void record(Event e, Stream) override { *static_cast<std::chrono::steady_clock::time_point*>(e) = std::chrono::steady_clock::now(); }
  void wait(Event, Stream) override {}
  bool done(Event) override { return true; }
  void synchronize(Event) override {}
  void synchronize_stream(Stream) override {}
  double seconds_between(Event from, Event to) override {
    const auto at = [](Event e) { return *static_cast<std::chrono::steady_clock::time_point*>(e); };
    return std::chrono::duration<double>(at(to) - at(from)).count();
  }
  void push_range(const char*) override {}
  void pop_range() override {}

 private:
  DeviceInfo info_;
  std::map<std::byte*, size_t> sizes_;
  uint64_t used_ = 0;
};

}  // namespace flexgen::testing
