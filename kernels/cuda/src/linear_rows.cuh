// SPDX-License-Identifier: Apache-2.0
// What the kernels of the linear layer share: finding a packed weight row, and the epilogue y (+)= act(sum + bias).
#pragma once

#include "kernels/cuda/core/linear_arguments.h"
#include "kernels/cuda/core/scalar.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

// The range that holds a packed row of [0, w.rows)
FG_DEVICE int find_range(const RowBlocks& w, int row) {
  int low = 0, high = w.n - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (w.range[middle].start <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}
template <class T>
FG_DEVICE const T* weight_row(const RowBlocks& w, int row, int64_t cols) {
  const int i = find_range(w, row);
  return static_cast<const T*>(w.range[i].data) + (row - w.range[i].start) * cols;
}
FG_DEVICE int output_column(const RowBlocks& w, int row) {
  const int i = find_range(w, row);
  return w.range[i].column + (row - w.range[i].start);
}

FG_DEVICE float finished(const LinearOutput& o, int column, float sum) {
  if (o.bias != nullptr) sum = add(sum, o.bias[column]);
  return activate(o.activation, sum);
}
FG_DEVICE void store(const LinearOutput& o, int64_t token, int column, float sum) {
  float* const to = o.y + token * o.stride + column;
  const float value = finished(o, column, sum);
  *to = o.accumulate ? add(*to, value) : value;
}
FG_DEVICE bool aligned_16(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

// Four sums of one token whose columns column[0..3] need not be neighbours; -1 marks columns that are not there, which come last
FG_DEVICE void store_4(const LinearOutput& o, int64_t token, const int* column, float4 sum) {
  if (column[0] < 0) return;
  float* const to = o.y + token * o.stride + column[0];
  if (column[3] == column[0] + 3 && aligned_16(to)) {
    float4 v = make_float4(finished(o, column[0], sum.x), finished(o, column[1], sum.y), finished(o, column[2], sum.z),
                           finished(o, column[3], sum.w));
    if (o.accumulate) {
      const float4 y = *reinterpret_cast<const float4*>(to);
      v = make_float4(add(y.x, v.x), add(y.y, v.y), add(y.z, v.z), add(y.w, v.w));
    }
    *reinterpret_cast<float4*>(to) = v;
    return;
  }
  const float s[4] = {sum.x, sum.y, sum.z, sum.w};
  FG_UNROLL for (int i = 0; i < 4; ++i)
    if (column[i] >= 0) store(o, token, column[i], s[i]);
}

}  // namespace flexgen::cuda
