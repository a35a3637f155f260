// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/api/attention_plan.h"

#include <algorithm>

#include "flexgen/base/error.h"
#include "flexgen/ops/ops.h"

namespace flexgen::cuda {
namespace {

static_assert(kPositionBlock == kAttentionBlock);

// [E] Blocks that wait for a multiprocessor even out what the items' lengths leave; more of them cost parts.
constexpr int64_t kWaves = 4;
// [E] A part of 128 positions reads 512 D bytes of an f16 cache and writes and reads again 8 D: 1.6 %.
constexpr int64_t kLeastPart = 4;  // blocks of positions

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t seen_end(const PlannedSpan& s) { return std::max(s.begin, std::min(s.end, s.first_position + s.n_tok)); }
int64_t blocks_of(const PlannedSpan& s) { return ceil_div(seen_end(s) - s.begin, kPositionBlock); }

// Parts have at most `part` blocks
int64_t parts_of(const PlannedSpan& s, int64_t part) { return std::max<int64_t>(1, ceil_div(blocks_of(s), part)); }

int64_t blocks_of_launch(std::span<const PlannedSpan> spans, const PlanRequest& r, int64_t part) {
  int64_t n = 0;
  for (const PlannedSpan& s : spans) n += ceil_div(int64_t{s.n_tok} * r.group, r.rows) * parts_of(s, part) * r.kv_heads;
  return n;
}

int64_t part_rows_of(std::span<const PlannedSpan> spans, const PlanRequest& r, int64_t part) {
  int64_t n = 0;
  for (const PlannedSpan& s : spans)
    if (parts_of(s, part) > 1) n += s.n_tok * (r.split == Split::every_block ? blocks_of(s) : parts_of(s, part));
  return n;
}

int64_t balanced_part(std::span<const PlannedSpan> spans, const PlanRequest& r, int64_t longest) {
  int64_t low = std::min(kLeastPart, longest), high = longest;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (blocks_of_launch(spans, r, middle) <= kWaves * r.resident && part_rows_of(spans, r, middle) <= r.most_part_rows) high = middle;
    else low = middle + 1;
  }
  return low;
}

}  // namespace

AttentionPlan plan_attention(std::span<const PlannedSpan> spans, const PlanRequest& r) {
  FG_CHECK(r.group > 0 && r.kv_heads > 0 && r.rows > 0 && r.resident > 0, "group {}, {} KV heads, {} rows, {} blocks at once", r.group, r.kv_heads,
           r.rows, r.resident);
  int64_t longest = 1;
  for (const PlannedSpan& s : spans) {
    FG_CHECK(s.n_tok > 0 && s.first_position >= 0 && s.first_position + s.n_tok <= std::numeric_limits<int32_t>::max() &&
                 s.begin >= 0 && s.begin % kPositionBlock == 0 && s.begin <= s.end,
             "tokens [{}, {} + {}), positions [{}, {})", s.first_position, s.first_position, s.n_tok, s.begin, s.end);
    longest = std::max(longest, blocks_of(s));
  }
  const int64_t chunk = r.split == Split::none ? longest : balanced_part(spans, r, longest);  // most blocks of an item

  AttentionPlan plan;
  std::vector<int64_t> cost;  // of an item: positions that its rows see
  for (size_t i = 0; i < spans.size(); ++i) {
    const PlannedSpan& s = spans[i];
    const int64_t blocks = blocks_of(s);
    if (blocks == 0 && !r.every_span) continue;
    const int64_t chunks = ceil_div(blocks, chunk), rows = int64_t{s.n_tok} * r.group;
    const bool complete = chunks == 1;
    const int64_t n_parts = complete ? 0 : r.split == Split::every_block ? blocks : chunks;
    if (!complete) {
      plan.merges.push_back({s.first_row, s.n_tok, static_cast<int32_t>(plan.part_rows), static_cast<int32_t>(n_parts)});
      plan.max_merge_tok = std::max(plan.max_merge_tok, s.n_tok);
    }
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t first = blocks * c / chunks, last = blocks * (c + 1) / chunks;
      AttentionItem item;
      item.span = static_cast<int32_t>(i);
      item.begin = static_cast<int32_t>(s.begin + first * kPositionBlock);
      item.end = static_cast<int32_t>(std::min(s.begin + last * kPositionBlock, seen_end(s)));
      if (!complete) item.part_row = static_cast<int32_t>(plan.part_rows + (r.split == Split::every_block ? first : c) * s.n_tok);
      for (int64_t row = 0; row < rows; row += r.rows) {
        item.first_row = static_cast<int32_t>(row);
        const int64_t last_token = (std::min(row + r.rows, rows) - 1) / r.group;
        cost.push_back(std::min<int64_t>(item.end, s.first_position + last_token + 1) - item.begin);
        plan.items.push_back(item);
      }
    }
    plan.part_rows += n_parts * s.n_tok;
    FG_CHECK(plan.part_rows <= std::numeric_limits<int32_t>::max(), "{} rows of parts", plan.part_rows);
  }
  std::vector<size_t> order(plan.items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return cost[a] > cost[b]; });
  std::vector<AttentionItem> sorted;
  sorted.reserve(order.size());
  for (const size_t i : order) sorted.push_back(plan.items[i]);
  plan.items = std::move(sorted);
  return plan;
}

int64_t most_items(int64_t tokens, int64_t spans, const PlanRequest& r) {
  const int64_t uncut = std::min(tokens * r.group, spans + tokens * r.group / r.rows);
  return std::max(uncut, kWaves * r.resident / r.kv_heads);
}

}  // namespace flexgen::cuda
