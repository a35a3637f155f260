// SPDX-License-Identifier: Apache-2.0
// How kernels are declared: CUDA's qualifiers under nvcc, plain C++ and the emulator under g++.
#pragma once

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define FG_DEVICE __device__ __forceinline__
// FG_KERNEL(threads of a block) or FG_KERNEL(threads, blocks of a multiprocessor for which registers suffice)
#define FG_KERNEL(...) __global__ void __launch_bounds__(__VA_ARGS__)
#define FG_PRAGMA(text) _Pragma(#text)
#define FG_UNROLL FG_PRAGMA(unroll)
#define FG_UNROLL_BY(n) FG_PRAGMA(unroll n)
// T name[N] in shared memory, for the block
#define FG_SHARED(T, name, N) __shared__ __align__(128) T name[N]
// T* name: the shared memory whose bytes the launch gives, aligned to 1024
#define FG_DYNAMIC_SHARED(T, name)                                        \
  extern __shared__ __align__(1024) unsigned char fg_dynamic_shared[];    \
  T* const name = reinterpret_cast<T*>(fg_dynamic_shared)

#else

#include "kernels/emu/cuda_names.h"

#define FG_DEVICE inline
#define FG_KERNEL(...) void
#define FG_UNROLL
#define FG_UNROLL_BY(n)
#define FG_SHARED(T, name, N)                \
  static constexpr char name##_key = 0;      \
  T* const name = static_cast<T*>(::flexgen::emu::static_shared(&name##_key, #name, sizeof(T) * (N), 128, ::flexgen::emu::Location::here()))
#define FG_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::flexgen::emu::dynamic_shared())

#endif
