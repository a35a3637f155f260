// SPDX-License-Identifier: Apache-2.0
// What the kernels of the linear layer receive, by value. Plain data, for host code as well; every pointer is a device address.
#pragma once

#include <cstdint>

#include "flexgen/ops/activation.h"

namespace flexgen::cuda {

// A weight matrix, or some rows of it: up to kMaxRowBlocks runs of rows at their own addresses. The covered rows are counted through
// ("packed rows"), so that tiles may span blocks; each packed row knows its column of y.
inline constexpr int32_t kMaxRowBlocks = 64;  // of one launch

struct RowRange {
  const void* data = nullptr;  // row-major, K elements a row
  int32_t start = 0;           // packed index of its first row
  int32_t column = 0;          // of y, of its first row
};
struct RowBlocks {
  RowRange range[kMaxRowBlocks];
  int32_t n = 0;               // ranges, at least 1 in a launch
  int32_t rows = 0;            // packed rows, at least 1
};

// y (+)= act(sum + bias)
struct LinearOutput {
  float* y = nullptr;           // [T, N]
  int64_t stride = 0;           // elements between tokens
  const float* bias = nullptr;  // [N], or null
  Activation activation = Activation::none;
  bool accumulate = false;
};

// kernels/cuda/src/convert.cuh: x f32 [T, K] -> 16-bit floats [T, padded], zeros from K on
struct ConvertArguments {
  const float* x = nullptr;
  int64_t x_stride = 0;         // elements between tokens
  void* to = nullptr;           // 16-byte aligned
  int64_t padded = 0;           // elements between tokens of `to`: a multiple of 8
  int64_t tokens = 0;
  int64_t cols = 0;             // K
};

// kernels/cuda/src/gemm.cuh
struct GemmArguments {
  const void* x = nullptr;      // [T, x_stride] in the weights' type, 16-byte aligned lines, zeros from K up to a multiple of 8
  int64_t x_stride = 0;         // elements between tokens, a multiple of 8
  RowBlocks w;                  // 16-byte aligned lines
  LinearOutput out;
  float* partial = nullptr;     // [splits, T, w.rows], or null: the sums are complete and go to `out`
  int32_t tokens = 0;           // T
  int32_t cols = 0;             // K, a multiple of 8
  int32_t split_cols = 0;       // K of one split, a multiple of the tile's depth; >= K without splits
};

// kernels/cuda/src/split_k.cuh
struct AddPartialsArguments {
  const float* partial = nullptr;  // [splits, T, w.rows]
  int32_t splits = 0;
  int32_t tokens = 0;
  RowBlocks w;                  // for the columns of y
  LinearOutput out;
};

// kernels/cuda/src/gemv.cuh
struct GemvArguments {
  const float* x = nullptr;     // [T, K], 16-byte aligned lines
  int64_t x_stride = 0;         // a multiple of 4
  RowBlocks w;                  // 16-byte aligned lines
  LinearOutput out;
  int32_t tokens = 0;           // T, at most the kernel's
  int32_t cols = 0;             // K, a multiple of 8
  int32_t warps_along_k = 1;    // 1, 2 or 4
};

// kernels/cuda/src/gemm_f32.cuh: no alignment but the elements'
struct GemmF32Arguments {
  const float* x = nullptr;     // [T, K]
  int64_t x_stride = 0;
  RowBlocks w;
  LinearOutput out;
  int32_t tokens = 0;
  int32_t cols = 0;             // K
};

}  // namespace flexgen::cuda
