// SPDX-License-Identifier: Apache-2.0
// The switch between fibers: own assembly on x86-64; elsewhere boost.context where CMake finds it, else ucontext, which asks the
// operating system at each switch and makes the emulator's tests take twice as long. FLEXGEN_EMU_BOOST and FLEXGEN_EMU_UCONTEXT choose.
#pragma once

#include <cstddef>

#if !defined(FLEXGEN_EMU_BOOST) && !defined(FLEXGEN_EMU_UCONTEXT) && !defined(__x86_64__)
#define FLEXGEN_EMU_UCONTEXT 1
#endif
#if defined(FLEXGEN_EMU_UCONTEXT)
#include <ucontext.h>
#endif

namespace flexgen::emu {

struct Fiber {
#if defined(FLEXGEN_EMU_UCONTEXT)
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
};

// A fiber that begins with entry(), which must never return, on the stack [stack, stack + bytes)
void prepare_fiber(Fiber& fiber, std::byte* stack, size_t bytes, void (*entry)());

// Stops here, which becomes `from`, and goes on where `to` stopped. Both belong to this thread of the CPU.
void switch_fiber(Fiber& from, Fiber& to);

}  // namespace flexgen::emu
