// SPDX-License-Identifier: Apache-2.0
// Plain C++, for any CPU.
#include "kernels/cpu/vec_portable.h"
// the kernels are templates over its V
#include "kernels/cpu/table.h"

namespace flexgen::cpu {

constinit const Kernels kPortable = make_kernels<portable::V>();

}  // namespace flexgen::cpu
