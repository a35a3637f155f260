// SPDX-License-Identifier: Apache-2.0
// Joins what items of attention have seen, in the order of their positions: merge() of ops/attention_partial.h, operation by operation.
#pragma once

#include "kernels/cuda/api/attention.h"
#include "kernels/cuda/core/contract.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

// One (token, head) in a warp: a lane has columns lane, lane + 32, ...
class MergeWarp {
 public:
  FG_DEVICE MergeWarp(int lane, int head_dim) : lane_(lane), head_dim_(head_dim) {}

  // What the others are merged to; `at` counts (token, head) pairs
  FG_DEVICE void start(const PartArrays& part, int64_t at) {
    maximum_ = part.maximum[at];
    sum_ = part.sum[at];
    FG_UNROLL for (int i = 0; i < kColumns; ++i)
      if (lane_ + kWarp * i < head_dim_) o_[i] = part.o[at * head_dim_ + lane_ + kWarp * i];
  }

  // The next part
  FG_DEVICE void take(const PartArrays& part, int64_t at) {
    const float maximum = part.maximum[at], sum = part.sum[at];
    if (maximum == -INFINITY && sum == 0) return;  // no position
    const float larger = maximum_ < maximum ? maximum : maximum_;
    const float before = exp_exact(add(maximum_, -larger)), now = exp_exact(add(maximum, -larger));
    maximum_ = larger;
    sum_ = fmaf(sum, now, multiply(sum_, before));
    FG_UNROLL for (int i = 0; i < kColumns; ++i)
      if (lane_ + kWarp * i < head_dim_) o_[i] = fmaf(part.o[at * head_dim_ + lane_ + kWarp * i], now, multiply(o_[i], before));
  }

  FG_DEVICE void store_result(float* y) const {
    FG_UNROLL for (int i = 0; i < kColumns; ++i)
      if (lane_ + kWarp * i < head_dim_) y[lane_ + kWarp * i] = o_[i] / sum_;
  }

  FG_DEVICE void store_part(const PartArrays& to, int64_t at) const {
    FG_UNROLL for (int i = 0; i < kColumns; ++i)
      if (lane_ + kWarp * i < head_dim_) to.o[at * head_dim_ + lane_ + kWarp * i] = o_[i];
    if (lane_ == 0) {
      to.maximum[at] = maximum_;
      to.sum[at] = sum_;
    }
  }

 private:
  static constexpr int kColumns = kLargestHead / kWarp;
  int lane_, head_dim_;
  float o_[kColumns] = {};
  float maximum_ = -INFINITY, sum_ = 0;
};

// Grid: (n_items * max_tok, ceil(H / kMergeHeads))
FG_KERNEL(kMergeThreads) attention_merge_kernel(MergeArguments a) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, head = static_cast<int>(blockIdx.y) * kMergeHeads + static_cast<int>(threadIdx.x) / kWarp;
  const MergeItem item = a.items != nullptr ? a.items[blockIdx.x / a.max_tok] : MergeItem{0, a.max_tok, 0, 0};
  const int token = static_cast<int>(blockIdx.x % a.max_tok);
  if (token >= item.n_tok || head >= a.n_heads) return;
  const int64_t row = item.first_row + token, at = row * a.n_heads + head;

  MergeWarp merged(lane, a.head_dim);
  if (a.before.o != nullptr) merged.start(a.before, at);
  FG_UNROLL_BY(4) for (int p = 0; p < item.n_parts; ++p)
    merged.take(a.parts, (item.first_part + static_cast<int64_t>(p) * item.n_tok + token) * a.n_heads + head);
  for (int i = 0; i < a.n_after; ++i) merged.take(a.after[i], at);
  if (a.y != nullptr) merged.store_result(a.y + row * a.y_stride + static_cast<int64_t>(head) * a.head_dim);
  else merged.store_part(a.merged, at);
}

}  // namespace flexgen::cuda
