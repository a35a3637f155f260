// SPDX-License-Identifier: Apache-2.0
// Kernels on the fake card: launches are work of its streams, run by the emulator when their turn comes, and its allocations are the
// emulator's global memory, so that race mode finds what a kernel does beside them. An emu::Error comes out of the wait that makes the
// kernel run, and of every call behind it.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <utility>

#include "kernels/emu/emulator.h"
#include "kernels/emu/launcher.h"
#include "support/fake_device.h"

namespace flexgen::testing {

// Made before the card's first allocation; gone after the last
class EmulatedLaunches {
 public:
  explicit EmulatedLaunches(FakeDevice& device)
      : device_(device), launcher_([&device](void* stream, std::function<void()> kernel) { device.run(stream, std::move(kernel)); }) {
    const auto enter = [n = 0](std::byte* p, size_t bytes) mutable { emu::register_global(p, bytes, "allocation " + std::to_string(++n)); };
    device_.watch(enter, [](std::byte* p) { emu::unregister_global(p); });
  }
  ~EmulatedLaunches() { device_.watch(nullptr, nullptr); }

 private:
  FakeDevice& device_;
  emu::Launcher launcher_;
};

}  // namespace flexgen::testing
