// SPDX-License-Identifier: Apache-2.0
// The functions of the CUDA runtime that kernels/cuda/runtime/cuda_device.cc calls, for tests that link them instead of the real ones:
// any of them fails as told, and all calls are kept.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace flexgen::testing {

struct FakeCudart {
  std::vector<cudaDeviceProp> cards;
  cudaError_t count_error = cudaSuccess;  // of cudaGetDeviceCount
  int driver_version = 13000;
  uint64_t free_bytes = 0;
  float milliseconds = 0;  // of cudaEventElapsedTime
  std::map<std::string, cudaError_t> fail;  // functions, every time they are called
  cudaError_t last_error = cudaSuccess;     // as cudaGetLastError has it
  std::vector<std::string> calls;           // "cudaEventQuery(2) on card 0": its number, size or flags, and the thread's card, -1: none yet

  std::mutex mutex;  // of calls and last_error

  // with two cards, which the test may change
  static FakeCudart& get();
  void reset();
  size_t count(const std::string& call) const;  // of exactly these
};

}  // namespace flexgen::testing
