// SPDX-License-Identifier: Apache-2.0
// Compiled for its instruction set (CMakeLists.txt); called only where the CPU has it.
#if defined(__x86_64__)

#include "kernels/cpu/vec_avx512.h"
// the kernels are templates over its V
#include "kernels/cpu/table.h"

namespace flexgen::cpu {

constinit const Kernels kAvx512 = make_kernels<avx512::V>();

}  // namespace flexgen::cpu

#endif
