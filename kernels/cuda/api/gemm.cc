// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/api/gemm.h"

#include <algorithm>
#include <limits>

#include "flexgen/base/checked.h"
#include "kernels/cuda/api/linear_kernels.h"
#include "kernels/cuda/runtime/cublaslt.h"

namespace flexgen::cuda {
namespace {

constexpr size_t kAlignment = 256;  // of the parts of the workspace

constexpr size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
bool is_aligned(const void* p, size_t to) { return reinterpret_cast<uintptr_t>(p) % to == 0; }

// The next blocks of the list that one launch takes
RowBlocks take(std::span<const RowBlock>& blocks) {
  RowBlocks w;
  for (; !blocks.empty() && w.n < kMaxRowBlocks; blocks = blocks.subspan(1)) {
    const RowBlock& b = blocks.front();
    w.range[w.n++] = {b.data, w.rows, static_cast<int32_t>(b.first_row)};
    w.rows += static_cast<int32_t>(b.rows);
  }
  return w;
}

void check_call(const LinearCall& call) {
  const LinearArgs& a = call.args;
  check(a);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - 1024;  // room for the last tile
  FG_CHECK(a.x.rows <= kMost && a.x.cols <= kMost && a.w.rows <= kMost, "{} tokens, {} x {} weights", a.x.rows, a.w.rows, a.w.cols);
  for (const RowBlock& b : a.w.blocks) FG_CHECK(is_aligned(b.data, 16), "row block of row {} is not 16-byte aligned", b.first_row);
  FG_CHECK(is_aligned(call.workspace.data(), kAlignment), "the workspace is not {}-byte aligned", kAlignment);
}

// One launch: the rows of w
class Launch {
 public:
  Launch(const Card& card, const LinearCall& call, const RowBlocks& w, void* stream)
      : call_(call), a_(call.args), w_(w), stream_(stream),
        choice_(chosen(card, {a_.x.rows, w.rows, a_.x.cols, a_.w.dtype, is_aligned(a_.x.data, 16) && a_.x.stride % 4 == 0})) {}

  // x_ready: an earlier launch rounded x into the workspace; set when this one did
  int operator()(bool& x_ready) const {
    if (!call_.cublaslt || call_.forced) return by_own(x_ready);
    const bool few_tokens = !choice_.rounded_x && choice_.kernel != LinearKernel::f32_32;
    const std::optional<int> error = few_tokens ? std::nullopt : by_cublaslt(x_ready);
    if (ProductCounts* const n = call_.products) ++(error ? n->library : few_tokens ? n->few_tokens : n->unfit);
    return error ? *error : by_own(x_ready);
  }

 private:
  int by_own(bool& x_ready) const {
    switch (linear_kernel(choice_.kernel).family) {
      case LinearFamily::gemm: return gemm(x_ready);
      case LinearFamily::gemv: return gemv();
      case LinearFamily::f32: return f32();
    }
    return 0;
  }
  LinearChoice chosen(const Card& card, const LinearShape& shape) const {
    return call_.forced ? cut(call_.forced->kernel, shape, call_.forced->pieces_of_k) : choose(card, shape, call_.arithmetic);
  }
  LinearOutput output() const { return {a_.y.data, a_.y.stride, a_.bias, a_.activation, a_.accumulate}; }
  int32_t tokens() const { return static_cast<int32_t>(a_.x.rows); }
  int32_t cols() const { return static_cast<int32_t>(a_.x.cols); }

  // The workspace behind the rounded x, of at least so many bytes
  std::span<std::byte> behind_x(size_t bytes) const {
    const size_t x_bytes = choice_.rounded_x ? aligned(rounded_x_bytes(a_.x.rows, a_.x.cols)) : 0;
    FG_CHECK(x_bytes + bytes <= call_.workspace.size(), "workspace of {} bytes, {} needed", call_.workspace.size(), x_bytes + bytes);
    return call_.workspace.subspan(x_bytes);
  }
  int round_once(bool& x_ready) const {
    if (x_ready) return 0;
    const int error = round_x(a_.x, a_.w.dtype, call_.workspace.data(), stream_);
    x_ready = error == 0;
    return error;
  }

  // For tokens enough to be bound by arithmetic, where our own choice is a product in tiles: the library's error or ours; nullopt where
  // its matrices or epilogues do not fit, or it has no kernel.
  std::optional<int> by_cublaslt(bool& x_ready) const {
    if (!(choice_.rounded_x || a_.w.dtype == DType::f32) || !one_matrix()) return std::nullopt;
    const bool relu = a_.activation == Activation::relu;
    if (!(a_.activation == Activation::none || (relu && !a_.accumulate))) return std::nullopt;
    const int64_t first = w_.range[0].column;
    LtProduct p;
    p.x = choice_.rounded_x ? static_cast<const void*>(call_.workspace.data()) : a_.x.data;
    p.x_stride = choice_.rounded_x ? padded_cols(a_.x.cols) : a_.x.stride;
    p.w = w_.range[0].data;
    p.y = a_.y.data + first, p.y_stride = a_.y.stride;
    p.tokens = a_.x.rows, p.rows = w_.rows, p.cols = a_.x.cols;
    p.weights = a_.w.dtype;
    p.bias = a_.bias ? a_.bias + first : nullptr;
    p.relu = relu, p.accumulate = a_.accumulate;
    for (const void* operand : {p.x, static_cast<const void*>(p.y), static_cast<const void*>(p.bias)})
      if (!is_aligned(operand, 16)) return std::nullopt;
    const std::span<std::byte> workspace = behind_x(CublasLt::kWorkspace).first(CublasLt::kWorkspace);
    if (choice_.rounded_x)
      if (const int error = round_once(x_ready)) return error;
    const int status = call_.cublaslt->multiply(p, workspace, stream_);
    if (status == CublasLt::kNotSupported) return std::nullopt;
    if (status != 0)
      fail(Fault::gpu, "linear: cuBLASLt {}: {} tokens x {} rows x {} columns of {}: {}. Use --gemm own", call_.cublaslt->version(), p.tokens, p.rows,
           p.cols, name(p.weights), call_.cublaslt->error(status));
    return 0;
  }
  // Do the blocks lie one after the other, in memory and in y?
  bool one_matrix() const {
    const auto row_bytes = static_cast<size_t>(a_.x.cols) * size_of(a_.w.dtype);
    const RowRange& head = w_.range[0];
    return std::all_of(w_.range, w_.range + w_.n, [&](const RowRange& r) {
      return r.data == static_cast<const std::byte*>(head.data) + static_cast<size_t>(r.start) * row_bytes && r.column == head.column + r.start;
    });
  }

  int gemm(bool& x_ready) const {
    const std::span<std::byte> partial = behind_x(choice_.partial_bytes);
    if (const int error = round_once(x_ready)) return error;
    GemmArguments g;
    g.x = call_.workspace.data();
    g.x_stride = padded_cols(a_.x.cols);
    g.w = w_;
    g.out = output();
    g.partial = choice_.partial_bytes != 0 ? reinterpret_cast<float*>(partial.data()) : nullptr;
    g.tokens = tokens();
    g.cols = cols();
    g.split_cols = choice_.split_cols;
    if (const int error = (a_.w.dtype == DType::f16 ? launch_gemm_f16 : launch_gemm_bf16)(choice_, g, stream_)) return error;
    if (g.partial == nullptr) return 0;
    return launch_add_partials({g.partial, static_cast<int32_t>(choice_.splits()), g.tokens, w_, g.out}, stream_);
  }
  int gemv() const {
    return launch_gemv(choice_, a_.w.dtype, {a_.x.data, a_.x.stride, w_, output(), tokens(), cols(), choice_.warps_along_k}, stream_);
  }
  int f32() const { return launch_gemm_f32(choice_, a_.w.dtype, {a_.x.data, a_.x.stride, w_, output(), tokens(), cols()}, stream_); }

  const LinearCall& call_;
  const LinearArgs& a_;
  const RowBlocks& w_;
  void* stream_;
  LinearChoice choice_;
};

}  // namespace

int linear(const Card& card, const LinearCall& call, void* stream) {
  check_call(call);
  if (call.args.x.rows == 0) return 0;
  bool of_this_call = false;
  bool& x_ready = call.x_ready ? *call.x_ready : of_this_call;
  for (std::span<const RowBlock> left = call.args.w.blocks; !left.empty();) {
    const RowBlocks w = take(left);
    if (const int error = Launch(card, call, w, stream)(x_ready)) return error;
  }
  return 0;
}

size_t linear_workspace(int64_t tokens, int64_t rows, int64_t cols, DType weights, Arithmetic arithmetic, bool cublaslt) {
  const size_t library = cublaslt ? CublasLt::kWorkspace : 0;
  if (weights == DType::f32 || arithmetic == Arithmetic::f32 || cols % 8 != 0) return library;
  const size_t x = aligned(rounded_x_bytes(tokens, cols));
  // splits are at most 16, and given up where their sums pass the limit
  const size_t sums = arithmetic == Arithmetic::fast ? std::min(kMostPartialBytes, static_cast<size_t>(tokens * rows) * sizeof(float) * 16) : 0;
  return x + std::max(sums, library);
}

int round_x(MatView<const float> x, DType to_type, void* to, void* stream) {
  if (x.rows == 0 || x.cols == 0) return 0;
  return launch_convert(to_type, {x.data, x.stride, to, padded_cols(x.cols), x.rows, x.cols}, stream);
}

}  // namespace flexgen::cuda
