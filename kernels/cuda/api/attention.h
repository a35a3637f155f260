// SPDX-License-Identifier: Apache-2.0
// Attention over paged KV caches on the device: which kernel, its arguments, its launch.
//
// attention_decode  CUDA cores, any head size up to 256, f16 and f32 caches. Its arithmetic is the contract of ops/ops.h: with
//                   Split::every_block the result has the bits of the CPU backends, which is also how the rest of a sequence may be
//                   attended on the CPU (ops/attention_partial.h). For decoding, and where exactness is asked for.
// attention_prefill tensor cores, f16 caches, head sizes that are multiples of 16: q and the probabilities are rounded to f16, sums are
//                   f32. The query heads of a KV head are rows of one tile, so it also decodes where groups are large.
// attention_merge   joins parts, those of the host included.
// Items that see all there is of their rows take up what was seen before and need no merge.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/api/attention_plan.h"
#include "kernels/cuda/api/paged_kv.h"

namespace flexgen::cuda {

// What items have seen: for each row of the plan's part_rows and each query head o[D], maximum, sum (ops/attention_partial.h)
struct PartArrays {
  float* o = nullptr;        // [part_rows, H, D]; null: there are none
  float* maximum = nullptr;  // [part_rows, H]
  float* sum = nullptr;      // [part_rows, H]
};

struct AttentionArguments {
  const float* q = nullptr;              // [T, H * D], 4-byte aligned
  float* y = nullptr;                    // [T, H * D]; must not overlap q
  int64_t q_stride = 0;                  // elements between tokens
  int64_t y_stride = 0;
  PagedLayout layout;
  int32_t n_heads = 0;                   // H, a multiple of layout.n_heads
  float scale = 1;
  RotaryTable rotary;                    // of q
  const float* alibi_slopes = nullptr;   // [H], or null: score += slope * (position of the key - position of the query)
  const PagedSpan* spans = nullptr;
  const AttentionItem* items = nullptr;  // [n_items], device memory
  int32_t n_items = 0;
  bool part_per_block = false;           // the plan was made with Split::every_block
  PartArrays parts;                      // where items have a part_row
  PartArrays before;                     // the others start from these, a part for each row of q; or null
  PartArrays whole;                      // and leave what they have seen here, a part for each row of q, undivided; null: in y
};

// Parts of one device or of several, in the order of their positions: `before`, those of the workspace, `after`. All but the workspace's
// have one part for each row of y. The bound is of a kernel's arguments, which are 4 KiB; there are no more tiers than three.
inline constexpr int32_t kMostAfter = 31;
struct MergeArguments {
  PartArrays parts;
  PartArrays before;                     // [T, H, D], [T, H]: what the others are merged to; or null
  PartArrays after[kMostAfter];
  int32_t n_after = 0;
  float* y = nullptr;                    // [T, H * D]: all merged and divided; or null
  int64_t y_stride = 0;
  PartArrays merged;                     // [T, H, D], [T, H]: merged, not divided; where y is null
  int32_t n_heads = 0;
  int32_t head_dim = 0;
  const MergeItem* items = nullptr;      // [n_items], device memory; null: rows [0, max_tok), without parts of the workspace
  int32_t n_items = 0;
  int32_t max_tok = 0;                   // the plan's max_merge_tok
};

inline constexpr int kInvalidValue = 1;    // cudaErrorInvalidValue: no kernel for these arguments
inline constexpr int kDecodeThreads = 32;  // a block is a warp
inline constexpr int kDecodeBlocks = 8;    // of a multiprocessor, for which registers suffice
inline constexpr int kMergeThreads = 128;
inline constexpr int kMergeHeads = kMergeThreads / 32;  // of a block: a warp takes one
inline constexpr int32_t kLargestHead = 256;

// Rows that one item of attention_decode serves at once
constexpr int32_t decode_rows(int64_t rows) { return rows >= 3 ? 4 : rows == 2 ? 2 : 1; }

// Geometry of a warp's shared memory in attention_decode: a ring of tiles of K or V rows, then q and p
struct DecodeTile {
  int32_t width;       // D up to the next multiple of 16
  int32_t stride;      // bytes between rows: an odd number of 16-byte chunks, so that 8 rows meet 8 different groups of banks
  int32_t rows;        // positions of a tile
  size_t bytes;        // of a tile
};
inline constexpr int kDecodeRing = 3;
constexpr DecodeTile decode_tile(int32_t head_dim, size_t element) {
  DecodeTile t{};
  t.width = (head_dim + 15) / 16 * 16;
  t.stride = static_cast<int32_t>((static_cast<size_t>(t.width) * element / 16 | 1) * 16);
  t.rows = static_cast<size_t>(head_dim) * element > 512 ? kPositionBlock / 2 : kPositionBlock;
  t.bytes = static_cast<size_t>(t.stride * t.rows);
  return t;
}
constexpr size_t decode_shared_bytes(int32_t head_dim, size_t element, int32_t rows) {
  const DecodeTile t = decode_tile(head_dim, element);
  return kDecodeRing * t.bytes + static_cast<size_t>(rows * (t.width + kPositionBlock)) * sizeof(float);
}

// Tiles of attention_prefill: query rows of a block, positions of a step
enum class PrefillTiles : uint8_t { rows_128_keys_64, rows_64_keys_64, rows_64_keys_32, rows_16_keys_32 };
struct PrefillTilesRow {
  PrefillTiles tiles;
  int32_t rows;
  int32_t keys;
};
inline constexpr PrefillTilesRow kPrefillTiles[] = {
    {PrefillTiles::rows_128_keys_64, 128, 64},
    {PrefillTiles::rows_64_keys_64, 64, 64},
    {PrefillTiles::rows_64_keys_32, 64, 32},
    {PrefillTiles::rows_16_keys_32, 16, 32},
};
// D as attention_prefill computes it; 0: it does not
constexpr int32_t prefill_head(int32_t head_dim) {
  if (head_dim % 8 != 0 || head_dim <= 0) return 0;
  for (int32_t head : {64, 80, 96, 128, 256})
    if (head_dim <= head) return head;
  return 0;
}
// queries, two tiles of K and two of V, all f16
constexpr size_t prefill_shared_bytes(int32_t head, int32_t rows, int32_t keys) {
  return static_cast<size_t>(head) * static_cast<size_t>(rows + 4 * keys) * 2;
}

// Each returns 0 or a cudaError_t; kInvalidValue where there is no such kernel
int attention_decode(const AttentionArguments& a, int32_t rows, void* stream);  // rows: the plan's, of decode_rows
int attention_prefill(const AttentionArguments& a, PrefillTiles tiles, void* stream);
int attention_merge(const MergeArguments& a, void* stream);

}  // namespace flexgen::cuda
