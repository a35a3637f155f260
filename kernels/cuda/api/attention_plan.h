// SPDX-License-Identifier: Apache-2.0
// How attention over a batch is cut into blocks of a launch: on the host, once a step, for all layers. Every sequence's positions are
// cut into parts of whole blocks of positions, so that short batches of long sequences fill the card too; what the parts have seen is
// merged in the order of their positions (attention_merge). Balanced as FlashInfer does it (scheduler.cuh): the smallest part for which
// the batch is still a few waves.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace flexgen::cuda {

inline constexpr int32_t kPositionBlock = 32;  // kAttentionBlock of ops/ops.h

// What one block of a launch attends, for each KV head: rows [first_row, first_row + rows of the kernel) of a span's n_tok * group rows
// (row r is token r / group, query head r % group of the KV head), positions [begin, end) of those that they see.
struct AttentionItem {
  int32_t span = 0;
  int32_t first_row = 0;
  int32_t begin = 0;      // a multiple of kPositionBlock
  int32_t end = 0;        // behind begin; a multiple of kPositionBlock or the end of the span's range
  int32_t part_row = -1;  // of the workspace, of the item's first part and the span's first token; -1: complete, the result goes to y
};

// The parts of a span, in the order of their positions: part p of token t is row first_part + p * n_tok + t of the workspace
struct MergeItem {
  int32_t first_row = 0;   // of y
  int32_t n_tok = 0;
  int32_t first_part = 0;
  int32_t n_parts = 0;
};

// A span as the plan sees it: positions [begin, end) of those that its tokens see lie in pages of this device
struct PlannedSpan {
  int64_t first_position = 0;  // of the first token
  int32_t first_row = 0;
  int32_t n_tok = 0;
  int64_t begin = 0;           // a multiple of kPositionBlock
  int64_t end = std::numeric_limits<int64_t>::max();

  bool operator==(const PlannedSpan&) const = default;
};

enum class Split {
  none,         // one item sees all positions of its rows
  balanced,     // as the batch and the card suggest; what an item has seen is a part
  every_block,  // items likewise, but each block of positions is a part, so that the batch and the card do not show in the result
};

struct PlanRequest {
  int32_t group = 1;         // query heads of a KV head
  int32_t kv_heads = 1;
  int32_t rows = 1;          // of an item, of the kernel
  int64_t resident = 1;      // blocks of the kernel that the card runs at once, >= 1
  Split split = Split::balanced;
  bool every_span = false;   // a span that sees nothing has a merge of no parts: there is more than this device's positions
  int64_t most_part_rows = std::numeric_limits<int64_t>::max();  // of the workspace
};

struct AttentionPlan {
  std::vector<AttentionItem> items;  // the longest first
  std::vector<MergeItem> merges;     // of the spans with parts, in their order
  int64_t part_rows = 0;             // of the workspace
  int32_t max_merge_tok = 0;         // largest n_tok of merges
};

// Each position of a span's range that one of its tokens sees is in exactly one part, and in one item for each row of the span. A span
// without such positions has no items, and a merge of no parts if every_span is set.
AttentionPlan plan_attention(std::span<const PlannedSpan> spans, const PlanRequest& request);

// Items of any plan for at most so many tokens and spans, whose requests have at least so many rows and at most so much resident
int64_t most_items(int64_t tokens, int64_t spans, const PlanRequest& request);

}  // namespace flexgen::cuda
