// SPDX-License-Identifier: Apache-2.0
// sample: a block takes one row. The top_k tokens are found by their bits, a byte at a time; all that follows is about those few, one a
// thread. Sums, whose order shows in their bits, are the first thread's.
#pragma once

#include "kernels/cuda/api/sample.h"
#include "kernels/cuda/core/types.h"
#include "kernels/cuda/src/likeliest.cuh"

namespace flexgen::cuda {

// exp_nonpositive of engine/softmax.h, operation by operation
FG_DEVICE double exp_nonpositive_exact(double x) {
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33, kRound = 0x1.8p52, kLog2E = 0x1.71547652b82fep0;
  const double clamped = x > -708.0 ? x : -708.0;
  const double shifted = add(multiply(clamped, kLog2E), kRound);
  const double n = add(shifted, -kRound);
  const double r = add(add(clamped, -multiply(n, kLn2High)), -multiply(n, kLn2Low));
  double p = 1.0 / 6227020800;
  p = add(multiply(p, r), 1.0 / 479001600);
  p = add(multiply(p, r), 1.0 / 39916800);
  p = add(multiply(p, r), 1.0 / 3628800);
  p = add(multiply(p, r), 1.0 / 362880);
  p = add(multiply(p, r), 1.0 / 40320);
  p = add(multiply(p, r), 1.0 / 5040);
  p = add(multiply(p, r), 1.0 / 720);
  p = add(multiply(p, r), 1.0 / 120);
  p = add(multiply(p, r), 1.0 / 24);
  p = add(multiply(p, r), 1.0 / 6);
  p = add(multiply(p, r), 0.5);
  p = add(add(multiply(p, multiply(r, r)), r), 1.0);
  const uint64_t exponent = (bits<uint64_t>(shifted) + 1023) << 52;
  return x > -708.0 ? multiply(p, bits<double>(exponent)) : 0.0;
}

class SampleBlock {
 public:
  static constexpr int kMost = kMostDrawn, kWarps = kSampleThreads / kWarp;

  struct Shared {
    int counts[256];
    int of_warp[kWarps];
    Likeliest likeliest;
    uint32_t floor;  // key of the top_k-th score
    int left;        // of the top_k, with a longer common prefix
    float score[kMost];
    int id[kMost];
    double weight[kMost];
    int order[kMost];
    int keep[kMost];
  };

  FG_DEVICE SampleBlock(const SampleArguments& a, Shared& shared)
      : draw_(a.draws[blockIdx.x]), logits_(a.logits + blockIdx.x * a.stride), vocabulary_(a.vocabulary), shared_(shared),
        thread_(static_cast<int>(threadIdx.x)) {}

  // Of the first thread
  FG_DEVICE int run() {
    const Likeliest found = likeliest_of_row<kSampleThreads>(logits_, vocabulary_);
    if (thread_ == 0) shared_.likeliest = found;
    __syncthreads();
    if (shared_.likeliest.not_finite != kNoId) return ~shared_.likeliest.not_finite;
    find_floor();
    const int n = gather();
    if (n > kMost) return kNotDrawn;
    if (thread_ < n) {
      const double largest = to_double(scaled(shared_.likeliest.value));
      shared_.weight[thread_] = exp_nonpositive_exact(add(to_double(shared_.score[thread_]), -largest));
      shared_.keep[thread_] = 1;
    }
    __syncthreads();
    if (draw_.top_p < 1.0) keep_top_p(n);
    return thread_ == 0 ? drawn(n) : 0;
  }

 private:
  FG_DEVICE static double to_double(float v) { return static_cast<double>(v); }

  FG_DEVICE float scaled(float v) const {
    if (draw_.temperature == 1.0f) return v;
    constexpr float kLargest = 3.402823466e+38f;
    const float s = v / draw_.temperature;
    return s < -kLargest ? -kLargest : s > kLargest ? kLargest : s;
  }
  // Ordered as the scores are; equal where they are equal, zeros of both signs too
  FG_DEVICE static uint32_t key_of(float score) {
    const uint32_t u = __float_as_uint(add(score, 0.0f));
    return u >> 31 ? ~u : u | 0x80000000u;
  }

  // The bytes of the top_k-th largest key, from the highest
  FG_DEVICE void find_floor() {
    if (thread_ == 0) shared_.floor = 0, shared_.left = draw_.top_k;
    if (draw_.top_k >= vocabulary_) {
      __syncthreads();
      return;
    }
    FG_UNROLL_BY(1) for (int shift = 24; shift >= 0; shift -= 8) {
      if (thread_ < 256) shared_.counts[thread_] = 0;
      __syncthreads();
      const uint32_t prefix = shared_.floor;
      for (int id = thread_; id < vocabulary_; id += kSampleThreads) {
        const uint32_t key = key_of(scaled(logits_[id]));
        if (shift == 24 || (key ^ prefix) >> (shift + 8) == 0) atomicAdd(&shared_.counts[key >> shift & 255], 1);
      }
      __syncthreads();
      if (thread_ == 0) {
        int digit = 255;
        for (; shared_.counts[digit] < shared_.left; --digit) shared_.left -= shared_.counts[digit];
        shared_.floor |= static_cast<uint32_t>(digit) << shift;
      }
      __syncthreads();
    }
  }

  // The tokens from the floor on, by id; how many there are, though no more than kMost are kept
  FG_DEVICE int gather() {
    const int lane = thread_ % kWarp, warp = thread_ / kWarp;
    const uint32_t floor = shared_.floor;
    int n = 0;
    for (int first = 0; first < vocabulary_; first += kSampleThreads) {
      const int id = first + thread_;
      const float score = id < vocabulary_ ? scaled(logits_[id]) : 0.0f;
      const bool is_one = id < vocabulary_ && key_of(score) >= floor;
      const unsigned mask = __ballot_sync(kFullWarp, is_one);
      if (lane == 0) shared_.of_warp[warp] = __popc(mask);
      __syncthreads();
      int at = n + __popc(mask & ((1u << lane) - 1));
      for (int w = 0; w < kWarps; ++w) {
        const int of_warp = shared_.of_warp[w];
        if (w < warp) at += of_warp;
        n += of_warp;
      }
      if (is_one && at < kMost) {
        shared_.id[at] = id;
        shared_.score[at] = score;
      }
      __syncthreads();
    }
    return n;
  }

  // Those that stand where the larger ones, of equal ones the higher ids, hold less than top_p together
  FG_DEVICE void keep_top_p(int n) {
    if (thread_ < n) {
      const float score = shared_.score[thread_];
      int before = 0;
      for (int i = 0; i < n; ++i) before += shared_.score[i] > score || (shared_.score[i] == score && i > thread_);
      shared_.order[before] = thread_;
      shared_.keep[thread_] = 0;
    }
    __syncthreads();
    if (thread_ != 0) return;
    double total = 0, larger = 0;
    for (int i = 0; i < n; ++i) total = add(total, shared_.weight[i]);
    const double limit = multiply(draw_.top_p, total);
    for (int i = 0; i < n && (i == 0 || larger < limit); ++i) {
      shared_.keep[shared_.order[i]] = 1;
      larger = add(larger, shared_.weight[shared_.order[i]]);
    }
  }

  // By the first thread alone
  FG_DEVICE int drawn(int n) const {
    const auto stays = [&](int i) { return shared_.keep[i] != 0 && !(draw_.min_p > 0.0 && shared_.weight[i] < draw_.min_p); };
    double total = 0, sum = 0;
    for (int i = 0; i < n; ++i)
      if (stays(i)) total = add(total, shared_.weight[i]);
    const double target = multiply(draw_.uniform, total);
    int last = 0;
    for (int i = 0; i < n; ++i) {
      if (!stays(i)) continue;
      sum = add(sum, shared_.weight[i]);
      if (sum > target) return shared_.id[i];
      if (shared_.weight[i] > 0) last = i;
    }
    return shared_.id[last];
  }

  const Draw draw_;
  const float* const logits_;
  const int vocabulary_;
  Shared& shared_;
  const int thread_;
};

// Grid: rows
FG_KERNEL(kSampleThreads) sample_kernel(SampleArguments a) {
  FG_SHARED(SampleBlock::Shared, shared, 1);
  const int id = SampleBlock(a, shared[0]).run();
  if (threadIdx.x == 0) a.ids[blockIdx.x] = id;
}

}  // namespace flexgen::cuda
