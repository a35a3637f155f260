// SPDX-License-Identifier: Apache-2.0
// The global buffers that kernels may touch in race mode. Registered by tests from any thread; a launch works on the list as it was
// when the launch began.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace flexgen::emu {

struct GlobalBuffer {
  uintptr_t begin = 0;
  size_t bytes = 0;
  std::string name;
};

using GlobalBuffers = std::vector<GlobalBuffer>;  // by address

std::shared_ptr<const GlobalBuffers> global_buffers();

// The buffer that holds all these bytes, or nullptr
const GlobalBuffer* buffer_of(const GlobalBuffers& buffers, uintptr_t begin, size_t bytes);

// Says how far bytes [begin, begin + bytes) are from the nearest buffer
std::string describe_global(const GlobalBuffers& buffers, uintptr_t begin, size_t bytes);

}  // namespace flexgen::emu
