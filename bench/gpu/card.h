// SPDX-License-Identifier: Apache-2.0
// The card as gpu_check gets it. A program is linked with the one of CUDA (card_cuda.cc) or with the emulator's (card_emulated.cc).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "bench/gpu/results.h"
#include "flexgen/memory/device.h"

namespace flexgen::bench {

struct OpenedCard {
  std::unique_ptr<Device> device;
  size_t l2_bytes = 0;  // of its second-level cache
  Json description;     // of card, driver and clocks
};

// A null device where there is none, and why_not says so in one line
OpenedCard open_card(int index, std::string& why_not);

// Launches recorded once and replayed as one, so that the gaps between small kernels vanish. Replays run on the stream.
class Recording {
 public:
  Recording(Device::Stream, const std::function<void()>& launches);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  void replay();

 private:
  struct Graph;
  std::unique_ptr<Graph> graph_;
};

void check_launch(int error, const char* what);  // Fault::gpu, with the name of the error, where it is not 0

}  // namespace flexgen::bench
