// SPDX-License-Identifier: Apache-2.0
// Attention in parts: what a token's query has seen of some positions, and how that merges with what it sees of later ones. The parts
// may come from different devices; merged in the order of their positions they give what attention over all of them gives.
//
// Bits: parts of one block of kAttentionBlock positions each, merged one by one, are the contract's `attention` (ops/ops.h), and so is
// any first part followed by parts of one block each, or as `before` of attention. Longer later parts round differently, by less than
// 1e-6 of the values' size.
#pragma once

#include <cstdint>
#include <limits>

#include "flexgen/base/error.h"
#include "flexgen/ops/math.h"
#include "flexgen/ops/ops.h"

namespace flexgen {

// One (token, head): o[D] = sum of exp(score - maximum) v, sum = sum of exp(score - maximum). Of no position: 0, -infinity, 0
struct AttentionPartial {
  float* o = nullptr;        // [D]
  float* maximum = nullptr;
  float* sum = nullptr;
};

inline void clear(const AttentionPartial& p, int64_t head_dim) {
  for (int64_t d = 0; d < head_dim; ++d) p.o[d] = 0;
  *p.maximum = -std::numeric_limits<float>::infinity();
  *p.sum = 0;
}

// Merges `next`, whose positions are behind, into `sofar`: the contract's merge, in which `next` stands for a block
inline void merge(const AttentionPartial& sofar, const AttentionPartial& next, int64_t head_dim) {
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  if (*next.maximum == kNothing && *next.sum == 0) return;  // no position: -infinity less -infinity is not a number
  const auto exp = [](float x) { return math::exp(math::Lane{x}).v; };
  const float larger = *sofar.maximum < *next.maximum ? *next.maximum : *sofar.maximum;
  const float a = exp(*sofar.maximum - larger), b = exp(*next.maximum - larger);
  *sofar.maximum = larger;
  *sofar.sum = std::fma(*next.sum, b, *sofar.sum * a);
  for (int64_t d = 0; d < head_dim; ++d) sofar.o[d] = std::fma(next.o[d], b, sofar.o[d] * a);
}

// y[D] of all positions, those merged so far
inline void finish(const AttentionPartial& sofar, int64_t head_dim, float* y) {
  for (int64_t d = 0; d < head_dim; ++d) y[d] = sofar.o[d] / *sofar.sum;
}

inline AttentionPartial at(const AttentionPartials& p, int64_t token, int64_t head, int64_t head_dim) {
  return {p.o.row(token) + head * head_dim, p.maximum.row(token) + head, p.sum.row(token) + head};
}

inline void merge(const AttentionPartials& sofar, const AttentionPartials& next, int64_t head_dim) {
  FG_CHECK(sofar.o.rows == next.o.rows && sofar.o.cols == next.o.cols && sofar.maximum.cols * head_dim == sofar.o.cols,
           "parts of {} x {} and {} x {}, {} heads of {}", sofar.o.rows, sofar.o.cols, next.o.rows, next.o.cols, sofar.maximum.cols, head_dim);
  for (int64_t t = 0; t < sofar.o.rows; ++t)
    for (int64_t h = 0; h < sofar.maximum.cols; ++h) merge(at(sofar, t, h, head_dim), at(next, t, h, head_dim), head_dim);
}

inline void finish(const AttentionPartials& sofar, int64_t head_dim, MatView<float> y) {
  for (int64_t t = 0; t < sofar.o.rows; ++t)
    for (int64_t h = 0; h < sofar.maximum.cols; ++h) finish(at(sofar, t, h, head_dim), head_dim, y.row(t) + h * head_dim);
}

}  // namespace flexgen
