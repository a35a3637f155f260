// SPDX-License-Identifier: Apache-2.0
// Launch of argmax.
#include "kernels/cuda/api/argmax.h"

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/src/argmax.cuh"

namespace flexgen::cuda {

int argmax(const ArgmaxArguments& a, void* stream) {
  if (a.rows == 0) return 0;
  return launch(argmax_kernel, dim3(static_cast<unsigned>(a.rows)), dim3(kArgmaxThreads), 0, stream, a);
}

}  // namespace flexgen::cuda
