// SPDX-License-Identifier: Apache-2.0
// argmax: a block takes one row.
#pragma once

#include "kernels/cuda/api/argmax.h"
#include "kernels/cuda/src/likeliest.cuh"

namespace flexgen::cuda {

// Grid: rows
FG_KERNEL(kArgmaxThreads) argmax_kernel(ArgmaxArguments a) {
  const Likeliest best = likeliest_of_row<kArgmaxThreads>(a.logits + blockIdx.x * a.stride, a.vocabulary);
  if (threadIdx.x == 0) a.ids[blockIdx.x] = best.not_finite != kNoId ? ~best.not_finite : best.id;
}

}  // namespace flexgen::cuda
