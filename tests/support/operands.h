// SPDX-License-Identifier: Apache-2.0
// Operands for tests of operations: seeded values with planted outliers, matrices with guard bands, weights in row blocks, KV pages.
// What lies beside the operands is poison: NaN or infinity beside inputs, a NaN pattern beside outputs that must survive.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "flexgen/ops/ops.h"
#include "flexgen/tensor/half.h"

namespace flexgen::testing {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  uint64_t next() {  // splitmix64
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  // in (-1, 1); now and then an outlier of up to 64, a zero of either sign, or a subnormal
  float value() {
    const float f = static_cast<float>(static_cast<int64_t>(next() >> 40) - (1 << 23)) * 0x1p-23f;
    switch (below(97)) {
      case 0: return f * 64;
      case 1: return std::copysign(0.0f, f);
      case 2: return f * 0x1p-130f;
      default: return f;
    }
  }

 private:
  uint64_t state_;
};

// [rows, cols] with a stride, an unaligned start and bands before, behind and between the rows
class GuardedMatrix {
 public:
  GuardedMatrix(int64_t rows, int64_t cols, int64_t padding, float fill) : rows_(rows), cols_(cols), stride_(cols + padding) {
    data_.assign(static_cast<size_t>(2 * kBand + rows * stride_), fill);
  }
  // poison everywhere, also inside: an output
  static GuardedMatrix output(int64_t rows, int64_t cols, int64_t padding = 3) { return {rows, cols, padding, sentinel()}; }
  static GuardedMatrix input(int64_t rows, int64_t cols, Random& random, int64_t padding = 5) {
    GuardedMatrix m(rows, cols, padding, random.below(2) ? std::numeric_limits<float>::infinity() : std::nanf(""));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) m.view().row(r)[c] = random.value();
    return m;
  }

  MatView<float> view() { return {data_.data() + kBand, rows_, cols_, stride_}; }
  std::vector<float> values() {
    std::vector<float> v;
    for (int64_t r = 0; r < rows_; ++r) v.insert(v.end(), view().row(r), view().row(r) + cols_);
    return v;
  }
  // of an output: nothing outside the matrix was written
  bool intact() {
    for (size_t i = 0; i < data_.size(); ++i) {
      const int64_t at = static_cast<int64_t>(i) - kBand;
      const bool inside = at >= 0 && at < rows_ * stride_ && at % stride_ < cols_;
      if (!inside && !is_sentinel(data_[i])) return false;
    }
    return true;
  }
  static float sentinel() { return std::bit_cast<float>(0x7FC0BEEFu); }
  static bool is_sentinel(float f) { return std::bit_cast<uint32_t>(f) == 0x7FC0BEEFu; }

 private:
  static constexpr int64_t kBand = 37;
  int64_t rows_, cols_, stride_;
  std::vector<float> data_;
};

// [rows, cols] in blocks of the given numbers of rows, each block its own allocation, infinities around it
class BlockedWeight {
 public:
  BlockedWeight(DType dtype, int64_t rows, int64_t cols, Random& random) : BlockedWeight(dtype, rows, cols, [&] { return random.value(); }) {}
  // value() is called once an element, row by row
  template <typename Fn>
  BlockedWeight(DType dtype, int64_t rows, int64_t cols, Fn&& value)
      : dtype_(dtype), rows_(rows), cols_(cols), values_(static_cast<size_t>(rows * cols)) {
    std::byte rounded[4];
    for (float& v : values_) store_element(dtype, rounded, 0, value()), v = load_element(dtype, rounded, 0);
  }
  // the rows of [first, first + n) for each n in turn; a negative n leaves a gap of -n rows
  WeightView cut(const std::vector<int64_t>& pieces) {
    storage_.clear(), blocks_.clear();
    int64_t row = 0;
    for (int64_t n : pieces) {
      if (n > 0) {
        constexpr size_t kBand = 24;  // elements
        const size_t size = size_of(dtype_), count = static_cast<size_t>(n * cols_);
        std::vector<std::byte>& bytes = storage_.emplace_back((count + 2 * kBand) * size);
        for (size_t i = 0; i < count + 2 * kBand; ++i) store_element(dtype_, bytes.data(), i, INFINITY);
        for (size_t i = 0; i < count; ++i) store_element(dtype_, bytes.data(), kBand + i, values_[static_cast<size_t>(row * cols_) + i]);
        blocks_.push_back({bytes.data() + kBand * size, row, n});
      }
      row += std::abs(n);
    }
    return {dtype_, rows_, cols_, blocks_};
  }
  WeightView whole() { return cut({rows_}); }
  float at(int64_t row, int64_t col) const { return values_[static_cast<size_t>(row * cols_ + col)]; }

 private:
  DType dtype_;
  int64_t rows_, cols_;
  std::vector<float> values_;  // what the stored elements are exactly
  std::vector<std::vector<std::byte>> storage_;
  std::vector<RowBlock> blocks_;
};

// The cache of one sequence: pages for n positions, everything NaN until it is written
class PagedCache {
 public:
  PagedCache(const KvLayout& layout, int64_t n_positions) {
    const int64_t pages = (n_positions + layout.page_tokens - 1) / layout.page_tokens;
    for (std::vector<std::vector<std::byte>>* side : {&k_, &v_})
      for (int64_t p = 0; p < pages; ++p) side->emplace_back(layout.page_bytes(), std::byte{0xFF});
    for (auto& p : k_) k_pages_.push_back(p.data());
    for (auto& p : v_) v_pages_.push_back(p.data());
  }
  KvSpan span(int64_t first_row, int64_t n_tok, int64_t first_position) const {
    return {first_row, n_tok, first_position, k_pages_.data(), v_pages_.data()};
  }
  bool operator==(const PagedCache& o) const { return k_ == o.k_ && v_ == o.v_; }

 private:
  std::vector<std::vector<std::byte>> k_, v_;
  std::vector<std::byte*> k_pages_, v_pages_;
};

}  // namespace flexgen::testing
