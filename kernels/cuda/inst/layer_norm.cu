// SPDX-License-Identifier: Apache-2.0
// Launch of layer_norm.
#include "kernels/cuda/api/layer_norm.h"

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/src/layer_norm.cuh"

namespace flexgen::cuda {

int layer_norm(const NormArguments& a, void* stream) {
  if (a.rows == 0) return 0;
  return launch(a.rounded_type == DType::bf16 ? layer_norm_kernel<__nv_bfloat16> : layer_norm_kernel<__half>, dim3(static_cast<unsigned>(a.rows)),
                dim3(kNormThreads), norm_shared_bytes(a.cols), stream, a);
}

}  // namespace flexgen::cuda
