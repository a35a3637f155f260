// SPDX-License-Identifier: Apache-2.0
// Second pass of a GEMM that was split over K: y (+)= act(p[0] + p[1] + ... + bias), the splits added in order, so that the result does
// not depend on which finished first. Grid: (ceil(rows / kAddThreads), T up to 65535, strided beyond); a thread owns one column.
#pragma once

#include "kernels/cuda/src/linear_rows.cuh"

namespace flexgen::cuda {

inline constexpr int kAddThreads = 128;

template <int Threads>
FG_KERNEL(Threads) add_partials(AddPartialsArguments a) {
  const int row = static_cast<int>(blockIdx.x) * Threads + static_cast<int>(threadIdx.x);
  if (row >= a.w.rows) return;
  const int column = output_column(a.w, row);
  const int64_t split_stride = static_cast<int64_t>(a.tokens) * a.w.rows;
  for (int64_t t = blockIdx.y; t < a.tokens; t += gridDim.y) {
    const float* const p = a.partial + t * a.w.rows + row;
    float sum = p[0];
    for (int s = 1; s < a.splits; ++s) sum = add(sum, p[s * split_stride]);
    store(a.out, t, column, sum);
  }
}

}  // namespace flexgen::cuda
