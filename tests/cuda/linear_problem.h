// SPDX-License-Identifier: Apache-2.0
// A linear layer: operands with poison beside them, known to the place to the element, its runs, and its reference in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "cuda/place.h"
#include "flexgen/ops/ref/linear.h"
#include "kernels/cuda/api/gemm.h"
#include "support/compare.h"
#include "support/operands.h"

namespace flexgen::testing {

// Small integers, whose sums are exact in any order
struct Integers {
  Random random;
  float operator()() { return static_cast<float>(random.between(-2, 2)); }
};
struct Normals {
  std::mt19937 engine;
  std::normal_distribution<float> normal;
  float operator()() { return normal(engine); }
};

class LinearProblem {
 public:
  Activation activation = Activation::none;
  bool with_bias = true, accumulate = false;
  std::vector<int64_t> pieces;  // row blocks, as BlockedWeight::cut takes them

  // x_padding elements between the lines of x, x_offset in front: multiples of 4 keep them aligned to 16 bytes
  template <typename Fn>
  LinearProblem(DType dtype, int64_t tokens, int64_t rows, int64_t cols, Fn&& value, int64_t x_padding = 4, int64_t x_offset = 0)
      : pieces{rows}, w_(dtype, rows, cols, value), dtype_(dtype), t_(tokens), n_(rows), k_(cols),
        x_stride_((cols + 3) / 4 * 4 + x_padding), x_offset_(x_offset) {
    x_.assign(static_cast<size_t>(x_offset + t_ * x_stride_ + 16), std::nanf(""));
    for (int64_t t = 0; t < t_; ++t)
      for (int64_t k = 0; k < k_; ++k) x_[static_cast<size_t>(x_offset_ + t * x_stride_ + k)] = value();
    for (int64_t i = 0; i < n_; ++i) bias_.push_back(value());
    for (int64_t i = 0; i < t_ * n_; ++i) before_.push_back(value());
  }

  MatView<const float> x() const { return {x_.data() + x_offset_, t_, k_, x_stride_}; }
  int64_t tokens() const { return t_; }
  int64_t rows() const { return n_; }
  int64_t cols() const { return k_; }
  DType dtype() const { return dtype_; }
  const BlockedWeight& weights() const { return w_; }
  float bias(int64_t n) const { return with_bias ? bias_[static_cast<size_t>(n)] : 0.0f; }
  float before(int64_t i) const { return accumulate ? before_[static_cast<size_t>(i)] : 0.0f; }

  // launch(args, workspace, stream) with y [T, N] poisoned (or what `accumulate` adds to) and a workspace of so many bytes. Gives back y;
  // what lies between and behind its rows must have stayed as it was.
  template <typename Fn>
  std::vector<float> run(Place& place, size_t workspace_bytes, Fn&& launch, int64_t y_padding = 4) {
    const int64_t stride = n_ + y_padding;
    std::vector<float> y(static_cast<size_t>(t_ * stride + 16), GuardedMatrix::sentinel());
    if (accumulate)
      for (int64_t i = 0; i < t_ * n_; ++i) y[static_cast<size_t>(i / n_ * stride + i % n_)] = before_[static_cast<size_t>(i)];
    const auto lines = [&](int64_t line_stride, int64_t width) { return static_cast<size_t>(t_ == 0 ? 0 : (t_ - 1) * line_stride + width); };
    const float* const x_there = place.input(x_.data() + x_offset_, lines(x_stride_, k_), "x");
    const float* const bias_there = place.input(bias_, "bias");
    float* const y_there = place.output(y.data(), lines(stride, n_), "y");
    const WeightView view = w_.cut(pieces);
    std::vector<RowBlock> blocks(view.blocks.begin(), view.blocks.end());
    for (RowBlock& b : blocks) b.data = place.input(b.data, static_cast<size_t>(b.rows * k_) * size_of(dtype_), "row block");
    Workspace workspace(workspace_bytes);
    std::byte* const workspace_there = place.output(workspace.data(), workspace_bytes, "workspace");
    const LinearArgs args{{x_there, t_, k_, x_stride_},   {view.dtype, n_, k_, blocks}, with_bias ? bias_there : nullptr,
                          {y_there, t_, n_, stride}, activation,                   accumulate};
    REQUIRE(place.run([&](void* stream) { return launch(args, std::span(workspace_there, workspace_bytes), stream); }) == 0);
    std::vector<float> values;
    for (int64_t t = 0; t < t_; ++t) values.insert(values.end(), y.begin() + t * stride, y.begin() + t * stride + n_);
    for (size_t i = 0; i < y.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      if (at / stride >= t_ || at % stride >= n_) CHECK(GuardedMatrix::is_sentinel(y[i]));
    }
    return values;
  }
  template <typename Fn>
  std::vector<float> run(const Way& way, size_t workspace_bytes, Fn&& launch, int64_t y_padding = 4) {
    return run(*open(way), workspace_bytes, launch, y_padding);
  }

  // What choose() picks for the card
  std::vector<float> linear(const Way& way, const cuda::Card& card, cuda::Arithmetic arithmetic) {
    const size_t bytes = cuda::linear_workspace(t_, n_, k_, dtype_, arithmetic);
    return run(way, bytes, [&](const LinearArgs& args, std::span<std::byte> workspace, void* stream) {
      return cuda::linear(card, {.args = args, .arithmetic = arithmetic, .workspace = workspace}, stream);
    });
  }
  // This kernel, whatever choose() would pick
  std::vector<float> linear(const Way& way, cuda::LinearKernel kernel, int pieces_of_k = 1, int64_t y_padding = 4) {
    const cuda::ForcedKernel forced{kernel, pieces_of_k};
    return run(way, cuda::linear_workspace(t_, n_, k_, dtype_, cuda::Arithmetic::fast),
               [&](const LinearArgs& args, std::span<std::byte> workspace, void* stream) {
                 return cuda::linear(card_of(way.sm), {.args = args, .forced = forced, .workspace = workspace}, stream);
               },
               y_padding);
  }

  // The double reference, of x as the kernel reads it: as it is, or rounded to the weights' type
  struct Reference {
    std::vector<float> y;
    std::vector<double> magnitude;  // sum |x| |w| + |bias|, of an element
  };
  Reference reference(bool rounded_x) const {
    Reference r;
    std::byte element[4];
    std::vector<double> line(static_cast<size_t>(k_));
    for (int64_t t = 0; t < t_; ++t) {
      for (int64_t k = 0; k < k_; ++k) {
        float v = x().row(t)[k];
        if (rounded_x) store_element(dtype_, element, 0, v), v = load_element(dtype_, element, 0);
        line[static_cast<size_t>(k)] = static_cast<double>(v);
      }
      for (int64_t n = 0; n < n_; ++n) {
        double sum = static_cast<double>(bias(n)), magnitude = std::abs(sum);
        for (int64_t k = 0; k < k_; ++k) {
          const double product = line[static_cast<size_t>(k)] * static_cast<double>(w_.at(n, k));
          sum += product;
          magnitude += std::abs(product);
        }
        r.y.push_back(static_cast<float>(ref::activate(activation, sum) + static_cast<double>(before(t * n_ + n))));
        r.magnitude.push_back(magnitude);
      }
    }
    return r;
  }
  // "" or what differs: |error| <= 4 sqrt(K) 2^-24 sum |x||w|, times the largest derivative of an activation, and a few roundings of
  // the result behind it; and relative L2 below 1e-5
  std::string compare(const std::vector<float>& got, bool rounded_x) const {
    const Reference want = reference(rounded_x);
    const double c = 1.13 * 4 * std::sqrt(static_cast<double>(std::max<int64_t>(k_, 1))) * 0x1p-24;
    const std::string each = difference(got, want.y, [&](size_t i) {
      return Tolerance{c * want.magnitude[i] + std::abs(static_cast<double>(before(static_cast<int64_t>(i)))) * 0x1p-24 + 0x1p-149, 0x1p-22};
    });
    if (!each.empty()) return each;
    double error = 0, norm = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double g = static_cast<double>(got[i]), w = static_cast<double>(want.y[i]);
      error += (g - w) * (g - w);
      norm += w * w;
    }
    return error <= 1e-10 * norm ? "" : fmt::format("relative L2 error {:.3g}", std::sqrt(error / norm));
  }

 private:
  // 256-byte aligned, full of NaN
  class Workspace {
   public:
    explicit Workspace(size_t bytes) : memory_(bytes + 256, std::byte{0xFF}) {}
    std::byte* data() { return memory_.data() + (256 - reinterpret_cast<uintptr_t>(memory_.data()) % 256) % 256; }

   private:
    std::vector<std::byte> memory_;
  };

  BlockedWeight w_;
  DType dtype_;
  int64_t t_, n_, k_, x_stride_, x_offset_;
  std::vector<float> x_, bias_, before_;
};

}  // namespace flexgen::testing
