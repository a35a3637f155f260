// SPDX-License-Identifier: Apache-2.0
// Where the sweep gets its weights from: row blocks on request. The sweep says at its beginning in which order it will go through the
// matrices, so whoever answers may keep everything in memory or read ahead from slower tiers.
#pragma once

#include <cstdint>
#include <span>

#include "flexgen/model/program.h"
#include "flexgen/tensor/view.h"

namespace flexgen {

// The matrices that a sweep goes through, each from its first row block to its last: all of `body` once, then all of `head` as often as
// head_passes says. The next sweep begins with the same body.
struct SweepOrder {
  std::span<const TensorRef> body, head;
  size_t head_passes = 0;
};

class WeightStream {
 public:
  virtual ~WeightStream() = default;

  // A sweep begins. One that was broken off is forgotten.
  virtual void begin_sweep(const SweepOrder&) = 0;

  // Called now and then between acquiring and releasing, so that reading ahead does not stop while something else is computed for long
  virtual void advance() {}

  // Blocks that may be acquired at a time without giving up reading ahead
  virtual size_t at_once() const = 0;

  // row blocks that the matrix is stored in
  virtual size_t n_blocks(TensorRef) const = 0;

  // Blocks [first, last) of a matrix; waits until they are there. Valid until released. In the announced order, but what is held may be
  // acquired again.
  virtual WeightView acquire(TensorRef, size_t first, size_t last) = 0;
  virtual void release(TensorRef, size_t first, size_t last) = 0;

  // At least the blocks that hold the given rows of a matrix: an embedding reads only what it needs. Valid until release_rows.
  virtual WeightView acquire_rows(TensorRef, std::span<const int32_t> rows) = 0;
  virtual void release_rows(TensorRef) = 0;

  // A vector (bias, norm), in f32; resident for the stream's lifetime
  virtual const float* vector(TensorRef) const = 0;
};

}  // namespace flexgen
