// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/inst/linear_tiles.h"

namespace flexgen::cuda {

int launch_gemm_f16(const LinearChoice& choice, const GemmArguments& a, void* stream) {
  switch (choice.kernel) {
    case LinearKernel::held_128x128: return launch_tile<__half, Held128x128, LinearKernel::held_128x128>(choice, a, stream);
    case LinearKernel::held_64x64: return launch_tile<__half, Held64x64, LinearKernel::held_64x64>(choice, a, stream);
    case LinearKernel::held_16x64: return launch_tile<__half, Held16x64, LinearKernel::held_16x64>(choice, a, stream);
    default: return launch_async_tile<__half>(choice, a, stream);
  }
}

}  // namespace flexgen::cuda
