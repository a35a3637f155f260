// SPDX-License-Identifier: Apache-2.0
// Reads rows of a stored tensor, whatever its strides, into dense row-major order and in bounded memory. A contiguous tensor costs
// nothing extra; a column-major one is read in strips of many rows, one read a column, and never twice.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "flexgen/base/bytes.h"
#include "flexgen/base/error.h"
#include "flexgen/format/checkpoint.h"
#include "flexgen/format/stored_tensor.h"
#include "flexgen/io/file.h"

namespace flexgen {

// Rows are the first dimension of a matrix; the elements of a vector are rows of one.
// Holds references to the checkpoint and the tensor. thread: one at a time
class RowReader {
 public:
  // t has a dtype and at most 2 dimensions; buffer_bytes bounds the memory used for tensors that are not contiguous
  RowReader(const Checkpoint& checkpoint, const StoredTensor& t, size_t buffer_bytes = 32_MiB)
      : file_(checkpoint.file(t.file)),
        t_(t),
        contiguous_(t.contiguous()),
        element_(size_of(*t.dtype)),
        buffer_bytes_(std::max<size_t>(buffer_bytes, 64_KiB)) {
    FG_CHECK(t.shape.size() <= 2, "{} has {} dimensions", t.name, t.shape.size());
    rows_ = t.shape.empty() ? 1 : t.shape[0];
    cols_ = t.shape.size() < 2 ? 1 : t.shape[1];
    row_stride_ = t.shape.empty() ? 1 : t.strides[0];
    col_stride_ = t.shape.size() < 2 ? 1 : t.strides[1];
  }

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  size_t row_bytes() const { return static_cast<size_t>(cols_) * element_; }

  // dst: n_rows * row_bytes() bytes, in the stored dtype
  void read(int64_t first_row, int64_t n_rows, std::span<std::byte> dst) {
    FG_CHECK(first_row >= 0 && n_rows >= 0 && first_row <= rows_ && n_rows <= rows_ - first_row, "rows {} + {} of {}", first_row, n_rows, rows_);
    FG_CHECK(dst.size() == static_cast<size_t>(n_rows) * row_bytes(), "{} bytes for {} rows of {}", dst.size(), n_rows, row_bytes());
    if (dst.empty()) return;
    if (contiguous_) return file_.read(t_.offset + static_cast<uint64_t>(first_row) * row_bytes(), dst);
    if (row_stride_ >= col_stride_ || row_bytes() * static_cast<size_t>(n_rows) >= strip_bytes())
      return gather({first_row, n_rows, 0, cols_}, dst.data());
    while (n_rows > 0) {
      if (first_row < strip_first_ || first_row >= strip_first_ + strip_rows_) load_strip(first_row);
      const int64_t n = std::min(n_rows, strip_first_ + strip_rows_ - first_row);
      const size_t bytes = static_cast<size_t>(n) * row_bytes();
      std::memcpy(dst.data(), strip_.data() + static_cast<size_t>(first_row - strip_first_) * row_bytes(), bytes);
      dst = dst.subspan(bytes);
      first_row += n;
      n_rows -= n;
    }
  }

 private:
  struct Box {
    int64_t row, rows, col, cols;
  };

  size_t strip_bytes() const { return buffer_bytes_ / 4 * 3; }
  size_t span_bytes() const { return buffer_bytes_ / 4; }

  void load_strip(int64_t first_row) {
    const auto fit = static_cast<int64_t>(std::max<size_t>(strip_bytes() / row_bytes(), 1));
    strip_first_ = first_row;
    strip_rows_ = std::min(fit, rows_ - first_row);
    strip_.resize(static_cast<size_t>(strip_rows_) * row_bytes());
    gather({strip_first_, strip_rows_, 0, cols_}, strip_.data());
  }

  // The elements of box to dst, which is dense with rows of cols_ elements and begins at (box.row, 0). One read where the stretch of
  // file that the box spans fits the buffer and is not mostly other data, or one a column where columns
  // are contiguous; else the box is halved across its longer stride.
  void gather(Box box, std::byte* dst) {
    const int64_t first_row = box.row;
    std::vector<Box> todo{box};
    while (!todo.empty()) {
      box = todo.back();
      todo.pop_back();
      const size_t extent = static_cast<size_t>((box.rows - 1) * row_stride_ + (box.cols - 1) * col_stride_ + 1) * element_;
      const size_t wanted = static_cast<size_t>(box.rows) * static_cast<size_t>(box.cols) * element_;
      std::byte* to = dst + (static_cast<size_t>(box.row - first_row) * static_cast<size_t>(cols_) + static_cast<size_t>(box.col)) * element_;
      if (extent <= span_bytes() && (extent <= 64_KiB || extent / 4 <= wanted)) {
        span_.resize(extent);
        file_.read(place_of(box), span_);
        spread(box, row_stride_, col_stride_, to);
        continue;
      }
      if (row_stride_ == 1 && wanted <= span_bytes()) {  // whole runs of columns, side by side, so that the spreading stays in the cache
        span_.resize(wanted);
        const size_t run = static_cast<size_t>(box.rows) * element_;
        for (int64_t c = 0; c < box.cols; ++c)
          file_.read(place_of({box.row, box.rows, box.col + c, 1}), std::span(span_).subspan(static_cast<size_t>(c) * run, run));
        spread(box, 1, box.rows, to);
        continue;
      }
      const bool by_rows = box.cols == 1 || (box.rows > 1 && row_stride_ >= col_stride_);
      Box a = box, b = box;
      if (by_rows) {
        a.rows = box.rows / 2;
        b.row += a.rows, b.rows -= a.rows;
      } else {
        a.cols = box.cols / 2;
        b.col += a.cols, b.cols -= a.cols;
      }
      todo.push_back(b);
      todo.push_back(a);  // lower addresses first
    }
  }

  uint64_t place_of(const Box& box) const { return t_.offset + static_cast<uint64_t>(box.row * row_stride_ + box.col * col_stride_) * element_; }

  // span_, which holds box with these strides, to dst (dense rows of cols_ elements)
  void spread(const Box& box, int64_t row_stride, int64_t col_stride, std::byte* dst) const {
    element_ == 4 ? spread_as<uint32_t>(box, row_stride, col_stride, dst) : spread_as<uint16_t>(box, row_stride, col_stride, dst);
  }
  // in tiles small enough for the first cache on both sides
  template <typename T>
  void spread_as(const Box& box, int64_t row_stride, int64_t col_stride, std::byte* dst) const {
    constexpr int64_t kTile = 32;
    for (int64_t r0 = 0; r0 < box.rows; r0 += kTile)
      for (int64_t c0 = 0; c0 < box.cols; c0 += kTile)
        for (int64_t r = r0; r < std::min(r0 + kTile, box.rows); ++r)
          for (int64_t c = c0; c < std::min(c0 + kTile, box.cols); ++c)
            std::memcpy(dst + static_cast<size_t>(r * cols_ + c) * sizeof(T),
                        span_.data() + static_cast<size_t>(r * row_stride + c * col_stride) * sizeof(T), sizeof(T));
  }

  const File& file_;
  const StoredTensor& t_;
  bool contiguous_;
  size_t element_;  // bytes
  size_t buffer_bytes_;
  int64_t rows_ = 0, cols_ = 0, row_stride_ = 0, col_stride_ = 0;
  std::vector<std::byte> span_;   // a stretch of the file
  std::vector<std::byte> strip_;  // rows [strip_first_, strip_first_ + strip_rows_), dense
  int64_t strip_first_ = 0, strip_rows_ = 0;
};

// Rows [first_row, first_row + n_rows) of t into dst, in the stored dtype. Many rows a call: a column-major tensor is read in runs
// of n_rows elements (a RowReader kept between calls does not mind).
inline void read_rows(const Checkpoint& checkpoint, const StoredTensor& t, int64_t first_row, int64_t n_rows, std::span<std::byte> dst) {
  RowReader(checkpoint, t).read(first_row, n_rows, dst);
}

}  // namespace flexgen
