// SPDX-License-Identifier: Apache-2.0
// Launch of sample.
#include "kernels/cuda/api/sample.h"

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/src/sample.cuh"

namespace flexgen::cuda {

int sample(const SampleArguments& a, void* stream) {
  if (a.rows == 0) return 0;
  return launch(sample_kernel, dim3(static_cast<unsigned>(a.rows)), dim3(kSampleThreads), 0, stream, a);
}

}  // namespace flexgen::cuda
