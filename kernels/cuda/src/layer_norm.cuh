// SPDX-License-Identifier: Apache-2.0
// layer_norm and rms_norm: a block holds one row in shared memory. The contract adds a row in 16 sequences, so one warp walks them and
// the others wait: E/16 dependent additions, twice. Rows of other blocks hide that where there are many.
#pragma once

#include "kernels/cuda/api/layer_norm.h"
#include "kernels/cuda/core/contract.h"
#include "kernels/cuda/core/element.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

// Grid: rows; dynamic shared memory: the row, zeros up to a multiple of 16
template <class Rounded>
FG_KERNEL(kNormThreads) layer_norm_kernel(NormArguments a) {
  FG_DYNAMIC_SHARED(float, row);
  FG_SHARED(float, result, 2);  // mean, scale
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 16;
  const int64_t r = blockIdx.x;
  const int padded = (a.cols + 15) / 16 * 16;

  const float* const x = a.x + r * a.x_stride;
  for (int c = thread; c < padded; c += kNormThreads) {
    float v = 0;
    if (c < a.cols) {
      v = x[c];
      if (a.residual != nullptr) v = add(v, a.residual[r * a.residual_stride + c]);
      if (a.sum != nullptr) a.sum[r * a.sum_stride + c] = v;
    }
    row[c] = v;
  }
  __syncthreads();

  if (thread < kWarp) {
    float mean = 0;
    if (!a.rms) {
      float sum = 0;
      FG_UNROLL_BY(8) for (int c = lane; c < padded; c += 16) sum = add(sum, row[c]);
      mean = add_16_lanes(sum) / static_cast<float>(a.cols);
    }
    float squares = 0;
    FG_UNROLL_BY(8) for (int c = lane; c < padded; c += 16) {
      const float d = c < a.cols ? add(row[c], -mean) : 0.0f;
      squares = fmaf(d, d, squares);
    }
    const float variance = add_16_lanes(squares) / static_cast<float>(a.cols);
    if (thread == 0) {
      result[0] = mean;
      result[1] = 1.0f / sqrtf(add(variance, a.eps));
    }
  }
  __syncthreads();

  const float mean = result[0], scale = result[1];
  for (int c = thread; c < a.cols; c += kNormThreads) {
    const float gamma = a.gamma != nullptr ? a.gamma[c] : 1.0f, beta = a.beta != nullptr ? a.beta[c] : 0.0f;
    const float y = fmaf(multiply(add(row[c], -mean), scale), gamma, beta);
    if (a.y != nullptr) a.y[r * a.y_stride + c] = y;
    if (a.rounded != nullptr) static_cast<Rounded*>(a.rounded)[r * a.rounded_stride + c] = from_float<Rounded>(y);
  }
}

}  // namespace flexgen::cuda
