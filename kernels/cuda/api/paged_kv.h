// SPDX-License-Identifier: Apache-2.0
// The KV cache as kernels see it: flexgen::KvSpan and KvLayout (ops/ops.h) with addresses of the device. Spans and page tables lie in
// device memory and stay unchanged until the launches that were given them are done.
#pragma once

#include <cstdint>

#include "flexgen/tensor/dtype.h"

namespace flexgen::cuda {

// The consecutive tokens of one sequence in a batch. Page i holds positions [i * page_tokens, (i + 1) * page_tokens) as
// [Hk, page_tokens, D] and is 16-byte aligned; pages lie anywhere in memory that the device can address.
struct PagedSpan {
  int64_t first_position = 0;  // absolute, of the first token
  int32_t first_row = 0;       // of q, k, v and y
  int32_t n_tok = 0;
  void* const* k_pages = nullptr;
  void* const* v_pages = nullptr;
};

struct PagedLayout {
  DType dtype = DType::f16;    // f16 or f32
  int32_t n_heads = 0;         // Hk
  int32_t head_dim = 0;        // D
  int32_t page_tokens = 0;     // a multiple of kAttentionBlock
};

// Rotary position embedding, or none where cos_sin is null. q and k arrive as the projections gave them: kv_append turns k while it
// stores it, once for all later reads and for attention on the host too; attention turns q while it loads it, which costs no pass over
// memory. Element i of a head and its partner (i + dim/2, or i + 1 with neighbours) turn by the pair's angle.
struct RotaryTable {
  const float* cos_sin = nullptr;  // [positions, dim / 2, 2] of the device
  int32_t dim = 0;                 // elements of a head that turn, even, at most D; the others stay as they are
  bool neighbours = false;         // pairs (2i, 2i + 1) as in GPT-J; otherwise (i, i + dim / 2) as in GPT-NeoX and Llama
};

}  // namespace flexgen::cuda
