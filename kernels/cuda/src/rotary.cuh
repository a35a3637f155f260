// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding of one element, for the kernels that store keys and load queries.
#pragma once

#include "kernels/cuda/api/paged_kv.h"
#include "kernels/cuda/core/scalar.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

// Element d of a head at a position: x cos - partner sin for the first of a pair, x cos + partner sin for the second
FG_DEVICE float rotated(const RotaryTable& t, const float* head, int d, int64_t position) {
  if (t.cos_sin == nullptr || d >= t.dim) return head[d];
  const int half = t.dim / 2;
  const bool second = t.neighbours ? (d & 1) != 0 : d >= half;
  const int pair = t.neighbours ? d / 2 : second ? d - half : d;
  const int partner = t.neighbours ? d ^ 1 : second ? d - half : d + half;
  const float* const angle = t.cos_sin + (position * half + pair) * 2;
  const float product = multiply(head[partner], angle[1]);
  return fmaf(head[d], angle[0], second ? product : -product);
}

}  // namespace flexgen::cuda
