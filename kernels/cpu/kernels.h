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

// linear for more than a few tokens. Packed x of n tokens is [ceil(K / kBlockK)] K blocks, each of its whole vectors of all tokens.
inline constexpr int64_t kBlockK = 384;
inline constexpr int64_t kPanelRows = 12;    // weight rows of a panel: one K block of them in f32 and a tile's tokens lie in L1
inline constexpr int64_t kGroupRows = 48;    // rows whose sums are finished together: whole panels, whole vectors
inline constexpr int64_t kTileRows = 96;     // most weight rows of a linear task
inline constexpr int64_t kTileTokens = 64;   // most tokens of a linear task: their partial sums, 384 KiB, and a pass of x lie in L2
inline constexpr int64_t kPassFloats = 288 * 1024;  // elements of x over which panels pass: they stay in L2
inline constexpr int64_t kFewTokens = 6;     // up to here linear_few: weights straight from memory into the registers

// Rows of W times tokens
struct LinearTask {
  const float* x = nullptr;     // linear_few: [n_tok, K]; linear_tile: packed
  int64_t x_stride = 0;         // floats between tokens; linear_few
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
  return static_cast<size_t>(kPanelRows * kBlockK + kTileRows * n_tok * kLanes) * sizeof(float);
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
  void (*pack_tokens)(const float* x, int64_t x_stride, int64_t n_tok, int64_t n_k, float* packed);  // one K block
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
