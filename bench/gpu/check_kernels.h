// SPDX-License-Identifier: Apache-2.0
// Kernels of gpu_check's own: the card's memory at its fastest, operands made where they are needed, and plain references for shapes that
// a CPU would take minutes for. Each returns 0 or a CUDA error code and allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "flexgen/tensor/dtype.h"
#include "kernels/cuda/api/paged_kv.h"

namespace flexgen::bench {

// --- memory. bytes: a multiple of 16; addresses too

// sums gets one number for each of memory_blocks() blocks, so that no read can be left out
int read_memory(const void* from, size_t bytes, int multiprocessors, uint32_t* sums, void* stream);
int copy_memory(void* to, const void* from, size_t bytes, int multiprocessors, void* stream);
int write_memory(void* to, size_t bytes, int multiprocessors, uint32_t value, void* stream);
constexpr int memory_blocks(int multiprocessors) { return multiprocessors * 8; }

int nothing(void* stream);  // a launch that does nothing

// to[i] = scale * u(seed, i), u in (-1, 1) and never 0: the same on every card
int fill_random(DType, void* to, int64_t n, float scale, uint64_t seed, void* stream);
float random_value(uint64_t seed, uint64_t i);  // u

// --- references: one chain of f32 operations an element, in the order of k or of positions

// Token i of y and magnitude is token i * token_step of x.
//   y[i, n] = sum_k x[t, k] w[n, k],  magnitude[i, n] = sum_k |x[t, k] w[n, k]|
// round_x: x is read as the weights' type
struct ReferenceProduct {
  const float* x = nullptr;    // [T, K]
  const void* w = nullptr;     // [N, K], contiguous
  DType dtype = DType::f16;
  float* y = nullptr;          // [ceil(T / token_step), N], contiguous
  float* magnitude = nullptr;  // likewise
  int64_t x_stride = 0;
  int32_t tokens = 0, rows = 0, cols = 0;
  int32_t token_step = 1;
  bool round_x = false;
};
int reference_product(const ReferenceProduct&, void* stream);

// Causal attention over paged caches, softmax in two passes over the positions. Token i of y is token i * token_step of the spans laid end
// to end.
struct ReferenceAttention {
  const float* q = nullptr;                // [T, H * D], contiguous
  float* y = nullptr;                      // [ceil(T / token_step), H * D], contiguous
  cuda::PagedLayout layout;
  int32_t n_heads = 0;
  float scale = 1;
  const cuda::PagedSpan* spans = nullptr;  // each of n_tok tokens
  int32_t n_spans = 0;
  int32_t n_tok = 0;                       // of each span
  int32_t token_step = 1;
};
int reference_attention(const ReferenceAttention&, void* stream);

// --- comparison, as tests/support/compare.h does it: an element is right where |got - want| <= c * magnitude + rel * |want|, and NaN never
struct Difference {
  double error, size;  // sums of (got - want)^2 and want^2; error is not finite where an element is not
  uint64_t wrong;      // elements beyond the tolerance
};
struct Comparison {
  const float* got = nullptr;        // [rows, cols], got_stride elements between rows
  const float* want = nullptr;       // [rows, cols], contiguous
  const float* magnitude = nullptr;  // like want, or null: 1
  int64_t got_stride = 0;
  int64_t rows = 0, cols = 0;
  float c = 0, rel = 0;
};
inline constexpr int kCompareBlocks = 256;
int compare(const Comparison&, Difference* parts, void* stream);  // parts [kCompareBlocks]: to be added

}  // namespace flexgen::bench
