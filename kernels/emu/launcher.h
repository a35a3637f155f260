// SPDX-License-Identifier: Apache-2.0
// Who runs launches. On a card a launch is work for a stream and its arguments are copied when it is given; here it runs at once unless
// a test says who has streams.
#pragma once

#include <functional>

namespace flexgen::emu {

// Gets the stream of a launch and the kernel with its arguments, to be called once or never
using GiveLaunch = std::function<void(void* stream, std::function<void()> kernel)>;

// Gets all launches of the process while it lives; one at a time
class Launcher {
 public:
  explicit Launcher(GiveLaunch give);
  ~Launcher();
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;
};

// To the launcher; without one the kernel has run, or emu::Error was thrown. For flexgen::cuda::launch
void launch(void* stream, std::function<void()> kernel);

}  // namespace flexgen::emu
