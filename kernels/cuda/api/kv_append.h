// SPDX-License-Identifier: Apache-2.0
// kv_append on the device, as ops/ops.h has it: rounds k and v to the cache's format and stores them in their pages.
#pragma once

#include <cstdint>

#include "kernels/cuda/api/paged_kv.h"

namespace flexgen::cuda {

struct KvAppendArguments {
  const float* k = nullptr;            // [T, Hk * D], rows k_stride floats apart
  const float* v = nullptr;            // likewise
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  PagedLayout layout;
  RotaryTable rotary;                  // of k
  const PagedSpan* spans = nullptr;    // [n_spans], device memory
  int32_t n_spans = 0;
  int32_t max_tok = 0;                 // the largest n_tok among them
};

inline constexpr int kAppendThreads = 256;
inline constexpr int32_t kAppendTokens = 4;  // of a span, for one block

// Returns 0 or a cudaError_t; nothing is launched for no tokens
int kv_append(const KvAppendArguments& a, void* stream);

}  // namespace flexgen::cuda
