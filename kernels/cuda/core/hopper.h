// SPDX-License-Identifier: Apache-2.0
// The vocabulary of sm_90a beside vocab.h: barriers in shared memory that count arrivals and bytes, copies of boxes by the tensor memory
// accelerator, the fence between ordinary stores and these engines, registers moved between warps. wgmma.h has the matrix products.
//
// The names of PTX's operations stand at each function; its chapters "mbarrier", "cp.async.bulk.tensor" and "fence" are the contract.
// A kernel that uses them is compiled for sm_90a only: guard its body with FG_HOPPER.
#pragma once

#include "kernels/cuda/core/tensor_map.h"
#include "kernels/cuda/core/vocab.h"

#ifndef __CUDACC__
#include "kernels/emu/hopper.h"
#endif

// 1 where the instructions below exist: in the emulator, and on a card when compiled for sm_90a
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FG_HOPPER 1
#else
#define FG_HOPPER 0
#endif

// A kernel's argument whose address may be given to the accelerator: FG_GRID_CONSTANT TensorMap map
#ifdef __CUDACC__
#define FG_GRID_CONSTANT const __grid_constant__
#else
#define FG_GRID_CONSTANT const
#endif

namespace flexgen::cuda {

#ifdef __CUDACC__

// mbarrier.init: `arrivals` complete a phase. By one thread; then barrier_init_fence() by it and a barrier of the block.
FG_DEVICE void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
FG_DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// mbarrier.arrive
FG_DEVICE void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// mbarrier.arrive.expect_tx: the phase also waits for so many bytes of copies
FG_DEVICE void barrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

// mbarrier.try_wait.parity: has the phase of this parity ended? The first phase has parity 0; the one before it counts as ended.
FG_DEVICE bool barrier_try_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t ended;
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
               : "=r"(ended)
               : "r"(shared_address(barrier)), "r"(parity)
               : "memory");
  return ended != 0;
}

// fence.proxy.async: what this thread wrote to shared memory with ordinary stores, and cp.async, is seen by TMA and wgmma behind the
// next barrier
FG_DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// cp.async.bulk.tensor.2d: the box whose first element is (row, column), to shared memory at a multiple of 1024 (128 without swizzle).
// By one thread. Completes box_rows * box_columns * element_bytes of the barrier, what lies outside of the matrix as zeros included.
FG_DEVICE void tma_load(void* shared, const TensorMap* map, int column, int row, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
      : "memory");
}
// The same back; what lies outside of the matrix is not stored. Ordinary stores to the box need fence_async_proxy() first.
FG_DEVICE void tma_store(const TensorMap* map, int column, int row, const void* shared) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(shared_address(shared)), "r"(column),
               "r"(row)
               : "memory");
}
FG_DEVICE void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all but kGroups groups of this thread have read their shared memory, which may then be overwritten
template <int kGroups>
FG_DEVICE void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kGroups) : "memory");
}
FG_DEVICE void tma_prefetch(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// setmaxnreg: registers of each thread of this group of four warps, a multiple of 8 from 24 to 256. The kernel must be declared with
// FG_KERNEL(threads, blocks), which fixes the registers at entry
template <int kRegisters>
FG_DEVICE void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
FG_DEVICE void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#else

inline void barrier_init(uint64_t* barrier, uint32_t arrivals, emu::Location where = emu::Location::here()) {
  emu::barrier_init(barrier, arrivals, where);
}
inline void barrier_init_fence() { emu::barrier_init_fence(); }
inline void barrier_arrive(uint64_t* barrier, emu::Location where = emu::Location::here()) { emu::barrier_arrive(barrier, 0, where); }
inline void barrier_arrive_expect(uint64_t* barrier, uint32_t bytes, emu::Location where = emu::Location::here()) {
  emu::barrier_arrive(barrier, bytes, where);
}
inline bool barrier_try_wait(uint64_t* barrier, uint32_t parity, emu::Location where = emu::Location::here()) {
  return emu::barrier_try_wait(barrier, parity, where);
}
inline void fence_async_proxy() { emu::fence_async_proxy(); }

inline void tma_load(void* shared, const TensorMap* map, int column, int row, uint64_t* barrier, emu::Location where = emu::Location::here()) {
  emu::tma_load(shared, map, column, row, barrier, where);
}
inline void tma_store(const TensorMap* map, int column, int row, const void* shared, emu::Location where = emu::Location::here()) {
  emu::tma_store(map, column, row, shared, where);
}
inline void tma_store_commit() { emu::tma_store_commit(); }
template <int kGroups>
inline void tma_store_wait() {
  emu::tma_store_wait(kGroups);
}
inline void tma_prefetch(const TensorMap*) {}

template <int kRegisters>
inline void raise_registers(emu::Location where = emu::Location::here()) {
  emu::set_registers(kRegisters, true, where);
}
template <int kRegisters>
inline void lower_registers(emu::Location where = emu::Location::here()) {
  emu::set_registers(kRegisters, false, where);
}

#endif

// Until the phase of this parity has ended
#ifdef __CUDACC__
FG_DEVICE void barrier_wait(uint64_t* barrier, uint32_t parity) {
  while (!barrier_try_wait(barrier, parity)) {
  }
}
#else
inline void barrier_wait(uint64_t* barrier, uint32_t parity, emu::Location where = emu::Location::here()) {
  while (!emu::barrier_try_wait(barrier, parity, where)) {
  }
}
#endif

}  // namespace flexgen::cuda
