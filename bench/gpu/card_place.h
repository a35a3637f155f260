// SPDX-License-Identifier: Apache-2.0
// The cases of tests/cuda on a card: their operands are copied into one block of its memory, with guard bytes between them, each launch is
// made twice from the same bytes, and both must leave the same: nothing written beside the outputs, and the same bits in them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "cuda/place.h"
#include "flexgen/memory/arena.h"
#include "flexgen/memory/device.h"
#include "kernels/cuda/api/choose.h"

namespace flexgen::bench {

inline cuda::Card card_of(const DeviceInfo& d) { return {d.arch, d.multiprocessors, d.shared_bytes}; }

class CardPlaces {
 public:
  static constexpr size_t kBytes = size_t{96} << 20;  // of all operands of a case

  explicit CardPlaces(Device& device, size_t bytes = kBytes)
      : device_(device), memory_(device, bytes), staging_(2 * bytes, &device), stream_(device) {}

  // One at a time, gone before this
  std::unique_ptr<testing::Place> open() const;

  Device& device() const { return device_; }
  Device::Stream stream() const { return stream_; }
  std::span<std::byte> there() const { return memory_.memory(); }
  // Host memory of the same size: what was sent, and what came back
  std::span<std::byte> sent() const { return staging_.memory().first(memory_.size()); }
  std::span<std::byte> returned() const { return staging_.memory().subspan(memory_.size(), memory_.size()); }

 private:
  Device& device_;
  DeviceMemory memory_;
  Arena staging_;
  DeviceStream stream_;
};

// Cases of this program run there from now on (card_ways.cc); nullptr: nowhere
void run_cases_on(const CardPlaces*);

}  // namespace flexgen::bench
