// SPDX-License-Identifier: Apache-2.0
// embed on the device: rows that lie anywhere, each known by its address, so that a table may lie in any number of pieces.
#pragma once

#include <cstddef>
#include <cstdint>

#include "flexgen/tensor/dtype.h"

namespace flexgen::cuda {

// y[t] = the row at rows[t], each element converted exactly; y[t] += with accumulate
struct EmbedArguments {
  const void* const* rows = nullptr;  // [n_tok] of the device
  DType dtype = DType::f16;           // f16, bf16 or f32
  size_t row_alignment = 1;           // bytes: what divides every row's address
  float* y = nullptr;                 // [n_tok, width]
  int64_t y_stride = 0;
  int32_t n_tok = 0;
  int32_t width = 0;
  bool accumulate = false;
};

inline constexpr int kEmbedThreads = 128;

// Returns 0 or a cudaError_t
int embed(const EmbedArguments& a, void* stream);

}  // namespace flexgen::cuda
