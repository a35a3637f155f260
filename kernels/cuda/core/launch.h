// SPDX-License-Identifier: Apache-2.0
// Launches of kernels: on a card under nvcc, in the emulator under g++. Host code; kernels do not include it.
#pragma once

#include <cstddef>
#include <type_traits>

#include "kernels/cuda/core/qualifiers.h"
#ifndef __CUDACC__
#include "kernels/emu/launcher.h"
#endif

namespace flexgen::cuda {

using Stream = void*;  // a cudaStream_t; nullptr is the default stream

#ifndef __CUDACC__
// Does the compiler call the emulator at each load and store? (g++ and clang++ with -fsanitize=thread)
#if defined(__SANITIZE_THREAD__)
static constexpr bool kHooked = true;
#elif defined(__has_feature)
static constexpr bool kHooked = __has_feature(thread_sanitizer);
#else
static constexpr bool kHooked = false;
#endif
#endif

inline constexpr size_t kLargestArguments = 4096;                 // bytes, of all arguments of a kernel
inline constexpr size_t kSharedWithoutAsking = size_t{48} << 10;  // bytes of dynamic shared memory; more needs an attribute

// Returns a CUDA error code (0: launched). Asynchronous on a card; in the emulator the kernel has run, or emu::Error was thrown, unless
// an emu::Launcher has it.
template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_bytes, Stream stream, const Arguments&... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= kLargestArguments);
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "arguments are copied to the card");
#ifdef __CUDACC__
  if (dynamic_bytes > kSharedWithoutAsking) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(dynamic_bytes));
    if (error != cudaSuccess) return static_cast<int>(error);
  }
  kernel<<<grid, block, dynamic_bytes, static_cast<cudaStream_t>(stream)>>>(static_cast<Parameters>(arguments)...);
  return static_cast<int>(cudaGetLastError());
#else
  const auto call = [kernel, ... values = static_cast<Parameters>(arguments)]() __attribute__((no_sanitize("thread"))) { kernel(values...); };
  using Call = decltype(call);
  emu::launch(stream, [=] {
    emu::run(
        {grid, block, dynamic_bytes}, [](void* context) __attribute__((no_sanitize("thread"))) { (*static_cast<Call*>(context))(); },
        const_cast<void*>(static_cast<const void*>(&call)), reinterpret_cast<const void*>(kernel), kHooked);
  });
  return 0;
#endif
}

}  // namespace flexgen::cuda
