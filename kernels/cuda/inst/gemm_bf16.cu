// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/inst/linear_tiles.h"

namespace flexgen::cuda {

int launch_gemm_bf16(const LinearChoice& choice, const GemmArguments& a, void* stream) { return launch_async_tile<__nv_bfloat16>(choice, a, stream); }

}  // namespace flexgen::cuda
