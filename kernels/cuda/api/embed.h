// SPDX-License-Identifier: Apache-2.0
// embed on the device: rows of a table that may lie in pieces, with a second table for positions in the same pass.
#pragma once

#include <cstdint>

#include "flexgen/tensor/dtype.h"
#include "kernels/cuda/core/linear_arguments.h"

namespace flexgen::cuda {

// y[t] = tokens[ids[t]] + positions[position_ids[t]], each element converted exactly, one addition; y[t] += with accumulate. This is
// y = tokens[...] followed by y += positions[...] of ops/ops.h, bit for bit. Rows are found by their index in the whole table
// (RowRange::column), so the blocks may cover any part of it that holds all ids.
struct EmbedArguments {
  RowBlocks tokens;
  RowBlocks positions;                    // not used where position_ids is null
  const int32_t* ids = nullptr;           // [n_tok] of the device; null: token t is row t, as for gathered rows
  const int32_t* position_ids = nullptr;  // [n_tok] of the device, OPT's offset of 2 included; or null
  DType dtype = DType::f16;               // of both tables: f16, bf16 or f32
  float* y = nullptr;                     // [n_tok, width]
  int64_t y_stride = 0;
  int32_t n_tok = 0;
  int32_t width = 0;
  bool accumulate = false;
};

inline constexpr int kEmbedThreads = 128;

// Returns 0 or a cudaError_t
int embed(const EmbedArguments& a, void* stream);

}  // namespace flexgen::cuda
