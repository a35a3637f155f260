// SPDX-License-Identifier: Apache-2.0
// A linear layer in host memory that the emulator runs as if it were a card's: operands with poison beside them, registered to the
// element, so that race mode sees every access beyond; and the ways in which each kernel is run.
#pragma once

#include <algorithm>
#include <random>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/cuda/api/gemm.h"
#include "flexgen/ops/ref/linear.h"
#include "kernels/emu/emulator.h"

#include "support/catch.h"
#include "support/compare.h"
#include "support/operands.h"

namespace flexgen::testing {

// Plain builds meet three hostile orders, race mode, whose verdict does not hang on the order, one
inline std::vector<emu::Options> ways(int sm = 90) {
#if FLEXGEN_RACE
  return {{.order = emu::Order::random, .seed = 3, .race = true, .sm = sm}};
#else
  return {{.order = emu::Order::random, .seed = 1, .sm = sm},
          {.order = emu::Order::random, .seed = 2, .sm = sm},
          {.order = emu::Order::lifo, .async = emu::Async::late, .sm = sm}};
#endif
}

inline cuda::Card card_of(int arch, int multiprocessors = 0) {
  const size_t shared = arch == 75 ? 64 : arch == 80 ? 163 : arch == 90 ? 227 : 99;
  const int sms = arch == 75 ? 40 : arch == 80 ? 108 : arch == 86 ? 82 : arch == 89 ? 128 : 132;
  return {arch, multiprocessors ? multiprocessors : sms, shared << 10};
}

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

  // launch(args, stream) with y [T, N] poisoned (or what `accumulate` adds to), all operands registered. Gives back y; what lies between
  // and behind its rows must have stayed as it was.
  template <typename Fn>
  std::vector<float> run(const emu::Options& options, Fn&& launch, int64_t y_padding = 4) {
    const int64_t stride = n_ + y_padding;
    std::vector<float> y(static_cast<size_t>(t_ * stride + 16), GuardedMatrix::sentinel());
    if (accumulate)
      for (int64_t i = 0; i < t_ * n_; ++i) y[static_cast<size_t>(i / n_ * stride + i % n_)] = before_[static_cast<size_t>(i)];
    emu::Session session(options);
    const auto add = [&](const auto* data, int64_t count, const char* name) {
      if (count > 0) session.add(data, static_cast<size_t>(count) * sizeof *data, name);
    };
    add(x_.data() + x_offset_, t_ == 0 ? 0 : (t_ - 1) * x_stride_ + k_, "x");
    add(bias_.data(), n_, "bias");
    add(y.data(), t_ == 0 ? 0 : (t_ - 1) * stride + n_, "y");
    const WeightView view = w_.cut(pieces);
    for (const RowBlock& b : view.blocks) add(b.data, b.rows * k_ * static_cast<int64_t>(size_of(dtype_)), "row block");
    LinearArgs args{x(), view, with_bias ? bias_.data() : nullptr, {y.data(), t_, n_, stride}, activation, accumulate};
    REQUIRE(launch(session, args) == 0);
    std::vector<float> values;
    for (int64_t t = 0; t < t_; ++t) values.insert(values.end(), y.begin() + t * stride, y.begin() + t * stride + n_);
    for (size_t i = 0; i < y.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      if (at / stride >= t_ || at % stride >= n_) CHECK(GuardedMatrix::is_sentinel(y[i]));
    }
    return values;
  }

  // What choose() picks for the card
  std::vector<float> linear(const emu::Options& options, const cuda::Card& card, cuda::Arithmetic arithmetic) {
    return run(options, [&](emu::Session& session, const LinearArgs& args) {
      Workspace workspace(session, cuda::linear_workspace(t_, n_, k_, dtype_, arithmetic));
      return cuda::linear(card, {.args = args, .arithmetic = arithmetic, .workspace = workspace.bytes()}, nullptr);
    });
  }
  // This kernel, whatever choose() would pick
  std::vector<float> linear(const emu::Options& options, cuda::LinearKernel kernel, int pieces_of_k = 1, int64_t y_padding = 4) {
    const cuda::ForcedKernel forced{kernel, pieces_of_k};
    return run(options, [&](emu::Session& session, const LinearArgs& args) {
      Workspace workspace(session, cuda::linear_workspace(t_, n_, k_, dtype_, cuda::Arithmetic::fast));
      return cuda::linear(card_of(options.sm), {.args = args, .forced = forced, .workspace = workspace.bytes()}, nullptr);
    }, y_padding);
  }

  // 256-byte aligned, full of NaN
  class Workspace {
   public:
    Workspace(emu::Session& session, size_t bytes) : bytes_(bytes), memory_(bytes + 256, std::byte{0xFF}) {
      if (bytes > 0) session.add(data(), bytes, "workspace");
    }
    std::byte* data() { return memory_.data() + (256 - reinterpret_cast<uintptr_t>(memory_.data()) % 256) % 256; }
    std::span<std::byte> bytes() { return {data(), bytes_}; }

   private:
    size_t bytes_;
    std::vector<std::byte> memory_;
  };

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
  BlockedWeight w_;
  DType dtype_;
  int64_t t_, n_, k_, x_stride_, x_offset_;
  std::vector<float> x_, bias_, before_;
};

}  // namespace flexgen::testing
