// SPDX-License-Identifier: Apache-2.0
// Where the sweep gets its weights from. It asks for the rows it is about to use, in the order of the file, and gives them back when
// every micro-batch has used them; who answers may keep everything in memory or read ahead of the sweep from slower tiers.
#pragma once

#include <cstdint>
#include <span>

#include "flexgen/model/program.h"
#include "flexgen/tensor/view.h"

namespace flexgen {

class WeightStream {
 public:
  virtual ~WeightStream() = default;

  // row blocks that the matrix is stored in
  virtual size_t n_blocks(TensorRef) const = 0;

  // Blocks [first, last) of a matrix; waits until they are there. Valid until released.
  virtual WeightView acquire(TensorRef, size_t first, size_t last) = 0;
  virtual void release(TensorRef, size_t first, size_t last) = 0;

  // At least the blocks that hold the given rows of a matrix: an embedding reads only what it needs. Valid until release_rows.
  virtual WeightView acquire_rows(TensorRef, std::span<const int32_t> rows) = 0;
  virtual void release_rows(TensorRef) = 0;

  // A vector (bias, norm), in f32; resident for the stream's lifetime
  virtual const float* vector(TensorRef) const = 0;
};

}  // namespace flexgen
