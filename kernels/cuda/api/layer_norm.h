// SPDX-License-Identifier: Apache-2.0
// layer_norm and rms_norm on the device, with the addition of the residual before and the rounding for the matrix kernels behind.
#pragma once

#include <cstddef>
#include <cstdint>

#include "flexgen/tensor/dtype.h"

namespace flexgen::cuda {

// s[t] = x[t] + residual[t];  y[t] = norm(s[t]). layer_norm has the arithmetic, and so the bits, of ops/ops.h:
//   mean = sum(s) / E;  d = s - mean;  scale = 1 / sqrt(dot(d, d) / E + eps);  y = fma(d * scale, gamma, beta)
// rms is the same with 0 for the mean.
struct NormArguments {
  const float* x = nullptr;         // [rows, cols]
  const float* residual = nullptr;  // [rows, cols], or null
  const float* gamma = nullptr;     // [cols], or null: 1
  const float* beta = nullptr;      // [cols], or null: 0
  float* sum = nullptr;             // [rows, cols]: s; or null. May be x or residual
  float* y = nullptr;               // [rows, cols], or null. May be x or residual
  void* rounded = nullptr;          // [rows, cols]: y to nearest even in rounded_type; or null
  int64_t x_stride = 0;             // elements between rows
  int64_t residual_stride = 0;
  int64_t sum_stride = 0;
  int64_t y_stride = 0;
  int64_t rounded_stride = 0;
  DType rounded_type = DType::f16;  // f16 or bf16
  int32_t rows = 0;
  int32_t cols = 0;                 // E
  float eps = 1e-5f;
  bool rms = false;
};

inline constexpr int kNormThreads = 256;
constexpr size_t norm_shared_bytes(int32_t cols) { return static_cast<size_t>((cols + 15) / 16 * 16) * sizeof(float); }  // the row

// Returns 0 or a cudaError_t. A row must fit in a block's shared memory: E up to 16384 on every card
int layer_norm(const NormArguments& a, void* stream);

}  // namespace flexgen::cuda
