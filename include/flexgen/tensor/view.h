// SPDX-License-Identifier: Apache-2.0
// Views: where numbers lie, never who owns them. A matrix of activations is one strided array; a weight matrix is a list of row
// blocks, each with its own address, because resident rows are used in place and streamed rows from a slot; the KV cache of a
// sequence is a list of pages.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "flexgen/base/error.h"
#include "flexgen/tensor/dtype.h"

namespace flexgen {

// [rows, cols], row-major
template <typename T>
struct MatView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements between rows, >= cols

  T* row(int64_t r) const { return data + r * stride; }
  // columns [first, first + n) of the same rows
  MatView columns(int64_t first, int64_t n) const { return {data + first, rows, n, stride}; }
  MatView rows_from(int64_t first, int64_t n) const { return {data + first * stride, n, cols, stride}; }
  operator MatView<const T>() const { return {data, rows, cols, stride}; }
};

// Whole rows of a weight matrix, contiguous, row-major
struct RowBlock {
  const std::byte* data = nullptr;
  int64_t first_row = 0;  // in the matrix
  int64_t rows = 0;
};

// A weight matrix W [N, K] (y = x W^T), or some of its rows: the blocks may cover [0, N) or a part of it
struct WeightView {
  DType dtype = DType::f32;
  int64_t rows = 0;  // N
  int64_t cols = 0;  // K
  std::span<const RowBlock> blocks;  // ordered by first_row, disjoint
};

// The block that holds a row; one of them must
inline const RowBlock& row_block(const WeightView& w, int64_t row) {
  const auto after = std::upper_bound(w.blocks.begin(), w.blocks.end(), row, [](int64_t r, const RowBlock& b) { return r < b.first_row; });
  FG_CHECK(after != w.blocks.begin() && row < (after - 1)->first_row + (after - 1)->rows, "row {} of {} is in no block", row, w.rows);
  return *(after - 1);
}

}  // namespace flexgen
