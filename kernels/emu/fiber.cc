// SPDX-License-Identifier: Apache-2.0
// See fiber.h.
#include "kernels/emu/fiber.h"

#include <cstdlib>

#if defined(FLEXGEN_EMU_BOOST)
#include <boost/context/detail/fcontext.hpp>
#endif

namespace flexgen::emu {

#if defined(FLEXGEN_EMU_UCONTEXT)

void prepare_fiber(Fiber& fiber, std::byte* stack, size_t bytes, void (*entry)()) {
  if (getcontext(&fiber.context) != 0) std::abort();
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}

void switch_fiber(Fiber& from, Fiber& to) {
  if (swapcontext(&from.context, &to.context) != 0) std::abort();
}

#elif defined(FLEXGEN_EMU_BOOST)

namespace {
namespace bc = boost::context::detail;
thread_local void (*starting)() = nullptr;

// whoever resumes a fiber tells it where the one that it left has stopped
void remember(bc::transfer_t from) { static_cast<Fiber*>(from.data)->stack_pointer = from.fctx; }

void begin(bc::transfer_t from) {
  remember(from);
  starting();
}
}  // namespace

void prepare_fiber(Fiber& fiber, std::byte* stack, size_t bytes, void (*entry)()) {
  starting = entry;  // one entry a thread of the CPU: the scheduler's
  fiber.stack_pointer = bc::make_fcontext(stack + bytes, bytes, begin);
}

void switch_fiber(Fiber& from, Fiber& to) { remember(bc::jump_fcontext(to.stack_pointer, &from)); }

#else

// void flexgen_emu_switch(void** save, void* to): pushes what the System V ABI says a call preserves, changes stacks, pops the same.
// The control words of SSE and x87 stay as they are: kernels do not change them.
asm(R"(.text
.globl flexgen_emu_switch
.type flexgen_emu_switch,@function
flexgen_emu_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size flexgen_emu_switch, .-flexgen_emu_switch
)");
extern "C" void flexgen_emu_switch(void** save, void* to);

void prepare_fiber(Fiber& fiber, std::byte* stack, size_t bytes, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  auto** top = reinterpret_cast<void**>(stack + bytes) - 2;  // at entry, rsp + 8 is a multiple of 16, as after a call
  *top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
}

void switch_fiber(Fiber& from, Fiber& to) { flexgen_emu_switch(&from.stack_pointer, to.stack_pointer); }

#endif

}  // namespace flexgen::emu
