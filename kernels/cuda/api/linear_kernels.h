// SPDX-License-Identifier: Apache-2.0
// The compiled kernels of the linear layer (kernels/cuda/inst). Each launches on the stream and returns a CUDA error code, 0 for none;
// none allocates or waits. The choice must be one that choose() makes for the card that the stream belongs to.
#pragma once

#include "flexgen/tensor/dtype.h"
#include "kernels/cuda/api/choose.h"
#include "kernels/cuda/core/linear_arguments.h"

namespace flexgen::cuda {

int launch_convert(DType to, const ConvertArguments& arguments, void* stream);
int launch_gemm_f16(const LinearChoice& choice, const GemmArguments& arguments, void* stream);
int launch_gemm_bf16(const LinearChoice& choice, const GemmArguments& arguments, void* stream);
int launch_add_partials(const AddPartialsArguments& arguments, void* stream);
int launch_gemv(const LinearChoice& choice, DType weights, const GemvArguments& arguments, void* stream);
int launch_gemm_f32(const LinearChoice& choice, DType weights, const GemmF32Arguments& arguments, void* stream);

}  // namespace flexgen::cuda
