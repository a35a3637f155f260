// SPDX-License-Identifier: Apache-2.0
// Matrix products of a group of four warps on sm_90a: d[64, N] += a[64, 16] * b[N, 16]^T, N = 64, 128 or 256, both operands f16 or bf16 in
// shared memory with 128-byte swizzle (tile.h, swizzled<64>) and k next to each other, fp32 accumulators in registers. PTX ISA,
// "Asynchronous Warpgroup Level Matrix Instructions".
//
// d[j][i] of a lane: rows as in mma (row 16 * warp + lane / 4 + 8 * (i >> 1)), column 8 * j + 2 * (lane % 4) + (i & 1).
// Order: wgmma_fence(), products, wgmma_commit(), wgmma_wait<groups>(d). In between neither operands nor accumulators may be touched.
#pragma once

#include "kernels/cuda/core/hopper.h"

namespace flexgen::cuda {

#ifdef __CUDACC__

// Of a tile in shared memory with rows of 64 values, whose first row lies at a multiple of 1024 bytes. Advance in k by 16 values with
// wgmma_advance(descriptor, 1).
FG_DEVICE uint64_t matrix_descriptor(const void* shared) {
  constexpr uint64_t kStride = 1024;  // bytes from 8 rows to the next 8
  constexpr uint64_t kSwizzle128 = 1;
  const uint64_t address = shared_address(shared);
  return ((address & 0x3FFFF) >> 4) | uint64_t{1} << 16 | (kStride >> 4) << 32 | kSwizzle128 << 62;
}

FG_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FG_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Until at most kGroups committed groups are in flight. The accumulators are named so that the compiler reads none of them earlier.
template <int kGroups, int kTiles>
FG_DEVICE void wgmma_wait(float (&d)[kTiles][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
  FG_UNROLL
  for (int j = 0; j < kTiles; ++j) asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])::"memory");
}

#define FG_D(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define FG_D4(j) FG_D(j), FG_D(j + 1), FG_D(j + 2), FG_D(j + 3)
#define FG_D16(j) FG_D4(j), FG_D4(j + 4), FG_D4(j + 8), FG_D4(j + 12)

#define FG_R0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FG_R1 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FG_R2 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define FG_R3 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FG_R4 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define FG_R5 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FG_R6 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define FG_R7 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FG_REGISTERS_N64 FG_R0 ", " FG_R1
#define FG_REGISTERS_N128 FG_REGISTERS_N64 ", " FG_R2 ", " FG_R3
#define FG_REGISTERS_N256 FG_REGISTERS_N128 ", " FG_R4 ", " FG_R5 ", " FG_R6 ", " FG_R7
// n: columns; type: of the operands; a, b, scale: the numbers of the operands behind the accumulators
#define FG_WGMMA(n, type, registers, a, b, scale)                                                                                              \
  "{ .reg .pred p; setp.ne.b32 p, %" scale ", 0; wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" registers "}, %" a ", %" b \
  ", p, 1, 1, 0, 0; }"

// d = a * b^T + (accumulate ? d : 0)
template <typename T>
FG_DEVICE void wgmma(float (&d)[8][4], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (kIsBfloat<T>) {
    asm volatile(FG_WGMMA("64", "bf16", FG_REGISTERS_N64, "32", "33", "34") : FG_D4(0), FG_D4(4) : "l"(a), "l"(b), "r"(accumulate) : "memory");
  } else {
    asm volatile(FG_WGMMA("64", "f16", FG_REGISTERS_N64, "32", "33", "34") : FG_D4(0), FG_D4(4) : "l"(a), "l"(b), "r"(accumulate) : "memory");
  }
}
template <typename T>
FG_DEVICE void wgmma(float (&d)[16][4], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (kIsBfloat<T>) {
    asm volatile(FG_WGMMA("128", "bf16", FG_REGISTERS_N128, "64", "65", "66") : FG_D16(0) : "l"(a), "l"(b), "r"(accumulate) : "memory");
  } else {
    asm volatile(FG_WGMMA("128", "f16", FG_REGISTERS_N128, "64", "65", "66") : FG_D16(0) : "l"(a), "l"(b), "r"(accumulate) : "memory");
  }
}
template <typename T>
FG_DEVICE void wgmma(float (&d)[32][4], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (kIsBfloat<T>) {
    asm volatile(FG_WGMMA("256", "bf16", FG_REGISTERS_N256, "128", "129", "130")
                 : FG_D16(0), FG_D16(16)
                 : "l"(a), "l"(b), "r"(accumulate)
                 : "memory");
  } else {
    asm volatile(FG_WGMMA("256", "f16", FG_REGISTERS_N256, "128", "129", "130") : FG_D16(0), FG_D16(16) : "l"(a), "l"(b), "r"(accumulate) : "memory");
  }
}

#undef FG_WGMMA
#undef FG_REGISTERS_N64
#undef FG_REGISTERS_N128
#undef FG_REGISTERS_N256
#undef FG_R0
#undef FG_R1
#undef FG_R2
#undef FG_R3
#undef FG_R4
#undef FG_R5
#undef FG_R6
#undef FG_R7
#undef FG_D16
#undef FG_D4
#undef FG_D

#else

inline uint64_t matrix_descriptor(const void* shared, emu::Location where = emu::Location::here()) { return emu::matrix_descriptor(shared, where); }
inline void wgmma_fence(emu::Location where = emu::Location::here()) { emu::wgmma_fence(where); }
inline void wgmma_commit(emu::Location where = emu::Location::here()) { emu::wgmma_commit(where); }
template <int kGroups, int kTiles>
inline void wgmma_wait(float (&)[kTiles][4], emu::Location where = emu::Location::here()) {
  emu::wgmma_wait(kGroups, where);
}
template <typename T, int kTiles>
inline void wgmma(float (&d)[kTiles][4], uint64_t a, uint64_t b, int accumulate, emu::Location where = emu::Location::here()) {
  static_assert(kTiles == 8 || kTiles == 16 || kTiles == 32);
  emu::wgmma(detail::kMatrixType<T>, kTiles * 8, &d[0][0], a, b, accumulate != 0, where);
}

#endif

// The descriptor `steps` steps of 16 values of k further on, within the tile's 64
FG_DEVICE uint64_t wgmma_advance(uint64_t descriptor, int steps) {
  constexpr int kStepBytes = 32;
  return descriptor + static_cast<uint64_t>(steps * (kStepBytes >> 4));
}

}  // namespace flexgen::cuda
