// SPDX-License-Identifier: Apache-2.0
// The vocabulary that kernels are written in: copies, matrix instructions, launch. nvcc sees inline PTX, g++ sees the emulator
// (kernels/emu), so that each kernel is one source that is proven on a CPU. Everything else in a kernel is CUDA's own names.
//
// T is __half or __nv_bfloat16 (from sm_80). Lane layouts are those of the PTX ISA, "Warp-level matrix instructions".
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/core/qualifiers.h"
#include "kernels/cuda/core/types.h"

namespace flexgen::cuda {

#ifdef __CUDACC__

// A pointer into shared memory as PTX takes it
FG_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 16 bytes from global to shared memory, both 16-byte aligned, that arrive until wait_copies(). valid == false writes zeros and reads
// nothing; the address must be one that may be formed. On sm_75 a plain load and store. cp.async.cg bypasses the first-level cache.
FG_DEVICE void copy_async_16(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
#else
  *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
#endif
}

// The copies that this thread issued since its last commit become a group
FG_DEVICE void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most kGroups groups of this thread are in flight. Other threads see the bytes after a barrier.
template <int kGroups>
FG_DEVICE void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

// Four 8x8 matrices of 16-bit values: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, aligned) and gets of matrix i
// in r[i] row l / 4, columns 2 * (l % 4) and the next; transposed: column l / 4, rows 2 * (l % 4) and the next.
FG_DEVICE void load_matrix_x4(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}
FG_DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}

// d[16, 8] += a[16, 8] * b[8, 8], f16
FG_DEVICE void mma_m16n8k8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(b0));
}

// d[16, 8] += a[16, 16] * b[16, 8]. With g = lane / 4, t = lane % 4: a[i] is row g + 8 * (i & 1), columns 2t + 8 * (i >> 1) and the
// next; b0 is column g, rows 2t and 2t + 1, b1 8 rows further down; d[i] is row g + 8 * (i >> 1), column 2t + (i & 1).
template <typename T>
FG_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(kIsHalf<T> || kIsBfloat<T>);
#if __CUDA_ARCH__ >= 800
  if constexpr (kIsBfloat<T>) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#else
  static_assert(kIsHalf<T>, "mma of bf16 needs sm_80");
  mma_m16n8k8(d, a[0], a[1], b0);
  mma_m16n8k8(d, a[2], a[3], b1);
#endif
}

// One access of 1, 2, 4, 8 or 16 bytes, aligned to its size. On a card what * does; the emulator sees one access where g++ might make
// several, so that its counts of requests are a card's.
template <typename V>
FG_DEVICE V load(const V* p) {
  return *p;
}
template <typename V>
FG_DEVICE void store(V* p, std::type_identity_t<V> value) {
  *p = value;
}

// 2^x to within 2 units in the last place; subnormal results are 0
FG_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// bar.sync and bar.arrive: `id` 1 to 15 (0 is __syncthreads), `threads` in multiples of 32, those that only arrive included
FG_DEVICE void named_barrier_sync(uint32_t id, uint32_t threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
FG_DEVICE void named_barrier_arrive(uint32_t id, uint32_t threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

#else

namespace detail {
template <typename T>
inline constexpr emu::MatrixType kMatrixType = kIsBfloat<T> ? emu::MatrixType::bf16 : emu::MatrixType::f16;
}

inline void copy_async_16(void* shared, const void* global, bool valid, emu::Location where = emu::Location::here()) {
  emu::copy_async(shared, global, 16, valid, where);
}
inline void commit_copies() { emu::commit_copies(); }
template <int kGroups>
inline void wait_copies() {
  emu::wait_copies(kGroups);
}

inline void load_matrix_x4(uint32_t (&r)[4], const void* shared, emu::Location where = emu::Location::here()) {
  emu::load_matrix_x4(r, shared, false, where);
}
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* shared, emu::Location where = emu::Location::here()) {
  emu::load_matrix_x4(r, shared, true, where);
}

inline void mma_m16n8k8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0, emu::Location where = emu::Location::here()) {
  const uint32_t a[2] = {a0, a1};
  emu::mma_k8(d, a, b0, where);
}
template <typename T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, emu::Location where = emu::Location::here()) {
  static_assert(kIsHalf<T> || kIsBfloat<T>);
  emu::mma_k16(detail::kMatrixType<T>, d, a, b0, b1, where);
}

template <typename V>
inline V load(const V* p, emu::Location where = emu::Location::here()) {
  V value;
  emu::load_value(&value, p, sizeof(V), where);
  return value;
}
template <typename V>
inline void store(V* p, std::type_identity_t<V> value, emu::Location where = emu::Location::here()) {
  emu::store_value(p, &value, sizeof(V), where);
}

inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return std::fabs(y) < 0x1p-126f ? 0.0f : y;
}

inline void named_barrier_sync(uint32_t id, uint32_t threads, emu::Location where = emu::Location::here()) {
  emu::barrier(id, threads, emu::BarrierOperation::sync, 0, where);
}
inline void named_barrier_arrive(uint32_t id, uint32_t threads, emu::Location where = emu::Location::here()) {
  emu::barrier(id, threads, emu::BarrierOperation::arrive, 0, where);
}

#endif

}  // namespace flexgen::cuda
