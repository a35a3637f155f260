// SPDX-License-Identifier: Apache-2.0
// What one instruction set provides: the inner loops on raw pointers, for one thread. driver.cc, compiled for the baseline, cuts
// operations into these tasks, hands out scratch and runs them on the pool. So files with vector flags see no std template and no
// inline function that the linker could keep for everyone; tests/check_isa_symbols.cmake looks for strays.
#pragma once

#include <cstddef>
#include <cstdint>

#include "flexgen/ops/ops.h"

namespace flexgen::cpu {

inline constexpr int64_t kLanes = 16;  // partial sums of a dot product

// K block of linear: the packed x of n tokens is [ceil(K / kBlockK)][n][kBlockK], zeros behind K.
// Chosen with one thread of an AVX-512 CPU with 48 KiB of L1 and 2 MiB of L2, f16 weights from memory, 64 tokens, as shares of the
// FMA peak measured in the same run (the tile alone, from L1, reaches 0.9):
//   kBlockK 256: 0.53-0.59, 384: 0.52-0.65, 512: 0.57-0.65, 1024: 0.55. Smaller blocks load and store the sums too often, larger
//     ones leave L1. With x pinned to L1 512 gives 0.83: what is missing is the way of x from L2.
//   kTileRows 64: 0.56-0.60, 128: 0.58-0.62: a K block of x comes from L3 half as often.
inline constexpr int64_t kBlockK = 512;
inline constexpr int64_t kSubRows = 16;      // weight rows of a panel: one K block of them in f32 lies in L1 for all tokens
inline constexpr int64_t kTileRows = 128;    // most weight rows of a linear task
inline constexpr int64_t kTileTokens = 96;   // most tokens of a linear task: their partial sums, 768 KiB, and x's K block lie in L2
inline constexpr int64_t kFewTokens = 6;     // up to here linear_few: weights straight from memory into the registers

// Rows of W times tokens
struct LinearTask {
  const float* x = nullptr;     // linear_few: [n_tok, K]; linear_tile: packed, of the first token
  int64_t x_stride = 0;         // floats; linear_few: between tokens; linear_tile: between K blocks
  int64_t n_tok = 0;
  const std::byte* w = nullptr; // [n_rows, K]
  DType dtype = DType::f32;
  int64_t n_rows = 0;
  int64_t k = 0;
  const float* bias = nullptr;  // [n_rows], or null
  float* y = nullptr;           // [n_tok, n_rows]
  int64_t y_stride = 0;
  Activation activation = Activation::none;
  bool accumulate = false;
  std::byte* scratch = nullptr; // 64-byte aligned; linear_tile: linear_scratch bytes
};
constexpr size_t linear_scratch(int64_t n_tok) {
  return static_cast<size_t>(kSubRows * kBlockK + kTileRows * n_tok * kLanes) * sizeof(float);
}

// The query heads of one KV head for tokens [first_tok, first_tok + n_tok) of one span
struct AttentionTask {
  const float* q = nullptr;     // row of the first token, first of the group's heads
  int64_t q_stride = 0;         // between tokens
  const AttentionPartials* before = nullptr;  // what was seen in front of `begin`, or null: row `before_row`, from head `first_head` on
  int64_t before_row = 0;       // of the first token
  int64_t first_head = 0;
  float* y = nullptr;           // o not divided, where a part is asked for
  int64_t y_stride = 0;
  float* maximum = nullptr;     // a part: [n_tok, group], state_stride between tokens; null: everything, divided
  float* sum = nullptr;
  int64_t state_stride = 0;
  int64_t n_tok = 0;
  int64_t group = 0;            // query heads per KV head
  int64_t first_position = 0;   // of the first token
  int64_t begin = 0;            // positions [begin, end) of those that a token sees; begin a multiple of kAttentionBlock
  int64_t end = 0;
  int64_t head_dim = 0;
  int64_t page_tokens = 0;
  int64_t page_offset = 0;      // elements from a page's start to the KV head
  DType dtype = DType::f32;
  std::byte* const* k_pages = nullptr;
  std::byte* const* v_pages = nullptr;
  float scale = 1;
  std::byte* scratch = nullptr; // 64-byte aligned, attention_scratch bytes
};
inline constexpr int64_t kAttentionRows = 16;  // most (token, head) pairs of a task, unless one token's group has more
// per row: q, o (whole vectors of D), p, maximum and sum; then K and V of one block in f32
constexpr size_t attention_scratch(int64_t rows, int64_t head_dim) {
  const int64_t width = (head_dim + kLanes - 1) / kLanes * kLanes;
  return static_cast<size_t>(rows * (2 * width + kAttentionBlock + kLanes) + 2 * kAttentionBlock * width) * sizeof(float);
}

// Parts of one token
struct MergeTask {
  const AttentionPartials* parts = nullptr;
  int64_t n_parts = 0;          // at least 1
  int64_t token = 0;            // row of the parts
  int64_t n_heads = 0;
  int64_t head_dim = 0;
  float* y = nullptr;           // [n_heads, head_dim]
};

struct Kernels {
  void (*pack_row)(const float* x, int64_t k, float* packed, int64_t block_stride);  // one token
  void (*linear_tile)(const LinearTask&);
  void (*linear_few)(const LinearTask&);                                             // n_tok <= kFewTokens
  void (*layer_norm_row)(const float* x, const float* gamma, const float* beta, float* y, int64_t n, float eps);
  void (*load_row)(DType dtype, const std::byte* from, float* to, int64_t n, bool accumulate);
  void (*store_row)(DType dtype, const float* from, std::byte* to, int64_t n);       // f32 or f16
  void (*attention)(const AttentionTask&);
  void (*merge_parts)(const MergeTask&);
};

// Defined in the files of the instruction sets that this build has
extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

}  // namespace flexgen::cpu
