// SPDX-License-Identifier: Apache-2.0
// CUDA's own names, for kernels that g++ compiles: qualifiers, indices, barriers, shuffles and votes, atomics, arithmetic. A kernel
// gets them through kernels/cuda/core/vocab.h. Arrays in shared memory are FG_SHARED and FG_DYNAMIC_SHARED, never __shared__.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/emu/device.h"
#include "kernels/emu/place.h"
#include "kernels/emu/warp.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __align__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static_assert(false, "shared arrays are FG_SHARED and FG_DYNAMIC_SHARED");

#define threadIdx (::flexgen::emu::place().thread)
#define blockIdx (::flexgen::emu::place().block)
#define blockDim (::flexgen::emu::place().block_dim)
#define gridDim (::flexgen::emu::place().grid_dim)
#define warpSize 32

// ---- barriers

inline void __syncthreads(flexgen::emu::Location where = flexgen::emu::Location::here()) {
  flexgen::emu::barrier(0, 0, flexgen::emu::BarrierOperation::sync, 0, where);
}
inline int __syncthreads_and(int predicate, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::barrier(0, 0, flexgen::emu::BarrierOperation::all, predicate, where);
}
inline int __syncthreads_or(int predicate, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::barrier(0, 0, flexgen::emu::BarrierOperation::any, predicate, where);
}
inline int __syncthreads_count(int predicate, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::barrier(0, 0, flexgen::emu::BarrierOperation::count, predicate, where);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  flexgen::emu::meet(flexgen::emu::WarpOperation::sync, 0, mask, nullptr, nullptr, where);
}
inline void __threadfence() {}  // memory is sequentially consistent here
inline void __threadfence_block() {}

// ---- shuffles and votes

namespace flexgen::emu {

// What lane `source` brings, or the lane's own value where source is negative
uint64_t shuffle(uint32_t mask, uint64_t bits, int bytes, int source, Location where);
uint32_t vote(uint32_t mask, bool predicate, Location where);
uint32_t match(uint32_t mask, uint64_t bits, int bytes, Location where);

template <typename T>
T shuffle_value(uint32_t mask, T value, int source, Location where) {
  static_assert((sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8) && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(mask, bits, sizeof(T), source, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline int lane() { return static_cast<int>(place().lane); }

}  // namespace flexgen::emu

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::shuffle_value(mask, value, (flexgen::emu::lane() & ~(width - 1)) | (source & (width - 1)), where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  const int lane = flexgen::emu::lane(), source = lane ^ lanes;
  return flexgen::emu::shuffle_value(mask, value, source / width > lane / width ? -1 : source, where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  const int lane = flexgen::emu::lane(), source = lane + static_cast<int>(lanes);
  return flexgen::emu::shuffle_value(mask, value, source / width != lane / width ? -1 : source, where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  const int lane = flexgen::emu::lane(), source = lane - static_cast<int>(lanes);
  return flexgen::emu::shuffle_value(mask, value, source < (lane & ~(width - 1)) ? -1 : source, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::vote(mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::vote(mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::vote(mask, predicate == 0, where) == 0;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return flexgen::emu::match(mask, bits, sizeof(T), where);
}

// ---- atomics: real ones, since several OS threads may run blocks

namespace flexgen::emu {

template <typename T, typename Fn>
T atomic_update(T* p, Location where, Fn&& fn) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  check_atomic(p, sizeof(T), where);
  auto* bits = reinterpret_cast<Bits*>(p);
  Bits old = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(bits, &old, std::bit_cast<Bits>(static_cast<T>(fn(std::bit_cast<T>(old)))), true, __ATOMIC_SEQ_CST,
                                      __ATOMIC_SEQ_CST)) {
  }
  return std::bit_cast<T>(old);
}

}  // namespace flexgen::emu

template <typename T>
T atomicAdd(T* p, std::type_identity_t<T> v, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::atomic_update(p, where, [v](T old) { return old + v; });
}
template <typename T>
T atomicSub(T* p, std::type_identity_t<T> v, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::atomic_update(p, where, [v](T old) { return old - v; });
}
template <typename T>
T atomicMax(T* p, std::type_identity_t<T> v, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::atomic_update(p, where, [v](T old) { return old > v ? old : v; });
}
template <typename T>
T atomicMin(T* p, std::type_identity_t<T> v, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::atomic_update(p, where, [v](T old) { return old < v ? old : v; });
}
template <typename T>
T atomicOr(T* p, std::type_identity_t<T> v, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::atomic_update(p, where, [v](T old) { return old | v; });
}
template <typename T>
T atomicAnd(T* p, std::type_identity_t<T> v, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::atomic_update(p, where, [v](T old) { return old & v; });
}
template <typename T>
T atomicExch(T* p, std::type_identity_t<T> v, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::atomic_update(p, where, [v](T) { return v; });
}
template <typename T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  return flexgen::emu::atomic_update(p, where, [expected, v](T old) { return old == expected ? v : old; });
}

// ---- arithmetic

template <typename T>
T __ldg(const T* p, flexgen::emu::Location where = flexgen::emu::Location::here()) {
  T value;
  flexgen::emu::load_value(&value, p, sizeof(T), where);
  return value;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline uint64_t min(uint64_t a, uint64_t b) { return a < b ? a : b; }
inline uint64_t max(uint64_t a, uint64_t b) { return a > b ? a : b; }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {  // one rounding: the fp32 product of two f16 is exact
  return __floats2half2_rn(std::fma(__low2float(a), __low2float(b), __low2float(c)), std::fma(__high2float(a), __high2float(b), __high2float(c)));
}
