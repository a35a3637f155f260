// SPDX-License-Identifier: Apache-2.0
// kv_append: a block takes a few tokens of one span, for K or for V. Rows of k and v are read as they lie; a head of a token is a run
// of D elements in its page.
#pragma once

#include "kernels/cuda/api/kv_append.h"
#include "kernels/cuda/core/element.h"
#include "kernels/cuda/core/vocab.h"
#include "kernels/cuda/src/rotary.cuh"

namespace flexgen::cuda {

// Grid: (n_spans * ceil(max_tok / kAppendTokens), 2): y is 0 for K, 1 for V. kWidth divides D, and rows are aligned to as many floats.
template <class Element, int kWidth>
FG_KERNEL(kAppendThreads) kv_append_kernel(KvAppendArguments a) {
  const int tiles = (a.max_tok + kAppendTokens - 1) / kAppendTokens;
  const PagedSpan span = a.spans[blockIdx.x / tiles];
  const int first = static_cast<int>(blockIdx.x % tiles) * kAppendTokens;
  const int n_tok = min(kAppendTokens, span.n_tok - first);
  const bool is_key = blockIdx.y == 0;
  const float* const from = is_key ? a.k : a.v;
  const int64_t stride = is_key ? a.k_stride : a.v_stride;
  void* const* const pages = is_key ? span.k_pages : span.v_pages;
  const RotaryTable rotary = is_key ? a.rotary : RotaryTable{};
  const int head_dim = a.layout.head_dim, page_tokens = a.layout.page_tokens;
  const int pieces = a.layout.n_heads * head_dim / kWidth;  // of a token

  for (int i = static_cast<int>(threadIdx.x); i < n_tok * pieces; i += kAppendThreads) {
    const int token = i / pieces, element = i % pieces * kWidth, head = element / head_dim, d = element % head_dim;
    const int64_t position = span.first_position + first + token;
    const int64_t page = position / page_tokens;
    const int in_page = static_cast<int>(position - page * page_tokens);
    const float* const row = from + (span.first_row + first + token) * stride + head * head_dim;
    Elements<Element, kWidth> out;
    if (rotary.cos_sin == nullptr) {
      const Elements<float, kWidth> in = load_elements<kWidth>(row + d);
      FG_UNROLL for (int e = 0; e < kWidth; ++e) out.at[e] = from_float<Element>(in.at[e]);
    } else {
      FG_UNROLL for (int e = 0; e < kWidth; ++e) out.at[e] = from_float<Element>(rotated(rotary, row, d + e, position));
    }
    store_elements(static_cast<Element*>(pages[page]) + (static_cast<int64_t>(head) * page_tokens + in_page) * head_dim + d, out);
  }
}

}  // namespace flexgen::cuda
