// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/api/gemm.h"

#include <algorithm>
#include <limits>

#include "flexgen/base/checked.h"
#include "kernels/cuda/api/linear_kernels.h"

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
    switch (linear_kernel(choice_.kernel).family) {
      case LinearFamily::gemm: return gemm(x_ready);
      case LinearFamily::gemv: return gemv();
      case LinearFamily::f32: return f32();
    }
    return 0;
  }

 private:
  LinearChoice chosen(const Card& card, const LinearShape& shape) const {
    return call_.forced ? cut(call_.forced->kernel, shape, call_.forced->pieces_of_k) : choose(card, shape, call_.arithmetic);
  }
  LinearOutput output() const { return {a_.y.data, a_.y.stride, a_.bias, a_.activation, a_.accumulate}; }
  int32_t tokens() const { return static_cast<int32_t>(a_.x.rows); }
  int32_t cols() const { return static_cast<int32_t>(a_.x.cols); }

  int gemm(bool& x_ready) const {
    const size_t x_bytes = aligned(rounded_x_bytes(a_.x.rows, a_.x.cols));
    const size_t needed = x_bytes + choice_.partial_bytes;
    FG_CHECK(needed <= call_.workspace.size(), "workspace of {} bytes, {} needed", call_.workspace.size(), needed);
    std::byte* const workspace = call_.workspace.data();
    if (!x_ready) {
      if (const int error = round_x(a_.x, a_.w.dtype, workspace, stream_)) return error;
      x_ready = true;
    }
    GemmArguments g;
    g.x = workspace;
    g.x_stride = padded_cols(a_.x.cols);
    g.w = w_;
    g.out = output();
    g.partial = choice_.partial_bytes != 0 ? reinterpret_cast<float*>(workspace + x_bytes) : nullptr;
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

size_t linear_workspace(int64_t tokens, int64_t rows, int64_t cols, DType weights, Arithmetic arithmetic) {
  if (weights == DType::f32 || arithmetic == Arithmetic::f32 || cols % 8 != 0) return 0;
  const size_t x = aligned(rounded_x_bytes(tokens, cols));
  // splits are at most 16, and given up where their sums pass the limit
  return arithmetic == Arithmetic::fast ? x + std::min(kMostPartialBytes, static_cast<size_t>(tokens * rows) * sizeof(float) * 16) : x;
}

int round_x(MatView<const float> x, DType to_type, void* to, void* stream) {
  if (x.rows == 0 || x.cols == 0) return 0;
  return launch_convert(to_type, {x.data, x.stride, to, padded_cols(x.cols), x.rows, x.cols}, stream);
}

}  // namespace flexgen::cuda
