// SPDX-License-Identifier: Apache-2.0
// What g++ -fsanitize=thread calls for each load and store of a kernel. This is their only implementation: libtsan is not linked.
// Outside of kernels, in the tests' own code, they do nothing but what the program means.
#include <cstddef>
#include <cstdint>

#include "kernels/emu/block.h"

namespace {

using flexgen::emu::Access;

inline void hook(const void* p, size_t bytes, Access kind, const void* pc) {
  flexgen::emu::Block* b = flexgen::emu::running_block();
  if (b == nullptr || b->inside || !b->race()) return;
  const flexgen::emu::Inside inside;
  b->access(p, bytes, kind, {{}, pc});
}

}  // namespace

// The names are the compiler's
extern "C" {

#define FLEXGEN_HOOKS(n)                                                                                               \
  void __tsan_read##n(void* p) { hook(p, n, Access::read, __builtin_return_address(0)); }                              \
  void __tsan_write##n(void* p) { hook(p, n, Access::write, __builtin_return_address(0)); }                            \
  void __tsan_unaligned_read##n(void* p) { hook(p, n, Access::read, __builtin_return_address(0)); }                    \
  void __tsan_unaligned_write##n(void* p) { hook(p, n, Access::write, __builtin_return_address(0)); }                  \
  void __tsan_volatile_read##n(void* p) { hook(p, n, Access::read, __builtin_return_address(0)); }                     \
  void __tsan_volatile_write##n(void* p) { hook(p, n, Access::write, __builtin_return_address(0)); }
FLEXGEN_HOOKS(1)
FLEXGEN_HOOKS(2)
FLEXGEN_HOOKS(4)
FLEXGEN_HOOKS(8)
FLEXGEN_HOOKS(16)
#undef FLEXGEN_HOOKS

void __tsan_read_range(void* p, size_t bytes) { hook(p, bytes, Access::read, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t bytes) { hook(p, bytes, Access::write, __builtin_return_address(0)); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// Atomic operations of the tests' own code; those of kernels go through check_atomic()
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}
#define FLEXGEN_ATOMICS(n, T)                                                                                                             \
  T __tsan_atomic##n##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }                                    \
  void __tsan_atomic##n##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }                                    \
  T __tsan_atomic##n##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }                          \
  T __tsan_atomic##n##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }                          \
  T __tsan_atomic##n##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }                          \
  T __tsan_atomic##n##_fetch_and(volatile T* p, T v, int) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }                          \
  T __tsan_atomic##n##_fetch_or(volatile T* p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }                            \
  T __tsan_atomic##n##_fetch_xor(volatile T* p, T v, int) { return __atomic_fetch_xor(p, v, __ATOMIC_SEQ_CST); }                          \
  int __tsan_atomic##n##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) {                                             \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                        \
  }                                                                                                                                       \
  int __tsan_atomic##n##_compare_exchange_weak(volatile T* p, T* expected, T v, int, int) {                                               \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                        \
  }
FLEXGEN_ATOMICS(8, uint8_t)
FLEXGEN_ATOMICS(16, uint16_t)
FLEXGEN_ATOMICS(32, uint32_t)
FLEXGEN_ATOMICS(64, uint64_t)
#undef FLEXGEN_ATOMICS
}
