// SPDX-License-Identifier: Apache-2.0
// What kernels ask of the emulator's scheduler: operations in which lanes of a warp meet, barriers of the block, a launch.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>

#include "kernels/emu/location.h"

namespace flexgen::emu {

enum class WarpOperation { sync, shuffle, vote, match, matrix_load, mma, wgmma };
enum class BarrierOperation { sync, arrive, all, any, count };

// Computes an operation for all lanes that take part. arguments[i] is what lane i brought, on its stack.
using MeetingBody = void (*)(void* const* arguments, uint32_t lanes, Location where);

// The calling lane waits for all lanes of mask that did not return from the kernel. Lanes meet where operation, variant, mask and
// line are the same; the last to come runs body for all. Only WarpOperation::sync orders memory, as in CUDA.
void meet(WarpOperation operation, int variant, uint32_t mask, void* argument, MeetingBody body, Location where);

// bar.sync id, threads: threads == 0 means all that live. Returns what __syncthreads_and, _or and _count return.
int barrier(uint32_t id, uint32_t threads, BarrierOperation operation, int predicate, Location where);

// Shared arrays of the block; `key` is one address for each array of each kernel
void* static_shared(const void* key, const char* name, size_t bytes, size_t alignment, Location where);
void* dynamic_shared();

using KernelBody = void (*)(void* context);
struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t dynamic_bytes = 0;
};
// body(context) is the kernel with its arguments; it runs once for each CUDA thread. kernel: its address, for messages. hooked: it was
// compiled with -fsanitize=thread, as race mode needs.
void run(const LaunchShape& shape, KernelBody body, void* context, const void* kernel, bool hooked);

}  // namespace flexgen::emu
