// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/api/attention_plan.h"

#include <map>

#include "support/errors.h"
#include "support/operands.h"

using namespace flexgen;
using namespace flexgen::testing;

namespace {

int64_t seen(const cuda::PlannedSpan& s) { return std::min(s.end, s.first_position + s.n_tok); }

// Everything that a plan promises, for any plan
void check_plan(const std::vector<cuda::PlannedSpan>& spans, const cuda::PlanRequest& request, const cuda::AttentionPlan& plan) {
  std::map<std::pair<int32_t, int32_t>, std::map<int32_t, const cuda::AttentionItem*>> by_rows;  // (span, first row) -> items by position
  for (const cuda::AttentionItem& item : plan.items) {
    CHECK(item.begin % cuda::kPositionBlock == 0);
    CHECK(item.begin < item.end);
    CHECK(by_rows[{item.span, item.first_row}].emplace(item.begin, &item).second);
  }
  size_t merges = 0;
  int64_t part_rows = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    const cuda::PlannedSpan& s = spans[i];
    const bool sees = seen(s) > s.begin;
    std::vector<int32_t> parts;  // part_row of each item of the first rows, from the span's first part
    bool complete = false;
    for (int32_t row = 0; row < s.n_tok * request.group; row += request.rows) {
      const auto items = by_rows.find({static_cast<int32_t>(i), row});
      CHECK((items != by_rows.end()) == sees);
      if (!sees) continue;
      int64_t at = s.begin;
      std::vector<int32_t> these;
      for (const auto& [begin, item] : items->second) {
        CHECK(begin == at);  // no position twice, none left out
        at = item->end;
        these.push_back(item->part_row);
      }
      CHECK(at == seen(s));
      if (row == 0) parts = these;
      CHECK(these == parts);  // the same for all rows of the span
      complete = these == std::vector<int32_t>{-1};
      by_rows.erase(items);
    }
    CHECK(complete == (sees && parts.size() == 1));
    if (complete || (!sees && !request.every_span)) continue;
    REQUIRE(merges < plan.merges.size());
    const cuda::MergeItem& merge = plan.merges[merges++];
    CHECK((merge.first_row == s.first_row && merge.n_tok == s.n_tok && merge.first_part == part_rows && merge.n_tok <= plan.max_merge_tok));
    const int64_t blocks = sees ? (seen(s) - s.begin + 31) / 32 : 0;
    CHECK(merge.n_parts == (request.split == cuda::Split::every_block ? blocks : static_cast<int64_t>(parts.size())));
    int64_t next = 0;
    const auto first_items = plan.items;
    for (size_t p = 0; p < parts.size(); ++p) {
      CHECK(parts[p] == part_rows + next * s.n_tok);
      for (const cuda::AttentionItem& item : plan.items)
        if (item.span == static_cast<int32_t>(i) && item.first_row == 0 && item.part_row == parts[p])
          next += request.split == cuda::Split::every_block ? (item.end - item.begin + 31) / 32 : 1;
    }
    CHECK(next == merge.n_parts);
    part_rows += next * s.n_tok;
  }
  CHECK(merges == plan.merges.size());
  CHECK(part_rows == plan.part_rows);
  CHECK(part_rows <= request.most_part_rows);
  CHECK(by_rows.empty());
}

}  // namespace

TEST_CASE("an attention plan covers each position once, in whole blocks, for every row", "[cuda]") {
  Random random(71);
  for (int round = 0; round < 300; ++round) {
    std::vector<cuda::PlannedSpan> spans;
    int32_t row = 0;
    for (int64_t n = random.between(1, 6); n > 0; --n) {
      cuda::PlannedSpan s;
      s.first_position = random.below(2) ? random.below(3000) : random.below(70);
      s.n_tok = static_cast<int32_t>(random.below(3) ? 1 : random.between(1, 200)), s.first_row = row;
      if (random.below(3) == 0) s.begin = random.below(100) * 32;
      if (random.below(3) == 0) s.end = s.begin + random.below(2000);
      row += s.n_tok;
      spans.push_back(s);
    }
    cuda::PlanRequest request;
    request.group = static_cast<int32_t>(random.between(1, 8)), request.kv_heads = static_cast<int32_t>(random.between(1, 32));
    request.rows = static_cast<int32_t>(1 << random.below(7)), request.resident = random.between(1, 2000);
    request.split = std::vector{cuda::Split::none, cuda::Split::balanced, cuda::Split::every_block}[static_cast<size_t>(random.below(3))];
    request.every_span = random.below(2) != 0;
    if (random.below(2)) request.most_part_rows = random.below(500);
    CAPTURE(round);
    check_plan(spans, request, cuda::plan_attention(spans, request));
  }
}

TEST_CASE("a balanced plan fills the card with even parts and no more of them than that takes", "[cuda]") {
  const auto plan_of = [](std::vector<int64_t> lengths, int64_t resident) {
    std::vector<cuda::PlannedSpan> spans;
    for (int64_t n : lengths) spans.push_back({n - 1, static_cast<int32_t>(spans.size()), 1});
    return cuda::plan_attention(spans, {1, 32, 1, resident, cuda::Split::balanced, false});
  };
  // one sequence of 8192 with 32 heads: 64 parts of the least size, 128 positions
  cuda::AttentionPlan one = plan_of({8192}, 1056);
  CHECK(one.items.size() == 64);
  for (const cuda::AttentionItem& i : one.items) CHECK(i.end - i.begin == 128);
  // 256 sequences of 2048 are many times what runs at once: nothing is cut
  CHECK(plan_of(std::vector<int64_t>(256, 2048), 1056).merges.empty());
  // one long sequence among short ones is cut, the longest items come first
  std::vector<int64_t> mixed(63, 64);
  mixed.push_back(16384);
  const cuda::AttentionPlan uneven = plan_of(mixed, 1056);
  CHECK(uneven.merges.size() == 1);
  CHECK(uneven.items.front().span == 63);
  CHECK(uneven.items.size() * 32 <= 4 * 1056);
  int64_t last = 1 << 30;
  for (const cuda::AttentionItem& i : uneven.items) {
    CHECK(i.end - i.begin <= last);
    last = i.end - i.begin;
  }
}

TEST_CASE("what a plan may take of the workspace and of arguments is known before", "[cuda]") {
  // one sequence of 8192 in parts of a block each would be 256 of them
  const std::vector<cuda::PlannedSpan> one{{8191, 0, 1}};
  cuda::PlanRequest request{1, 32, 1, 1056, cuda::Split::every_block, false, 256};
  CHECK(cuda::plan_attention(one, request).part_rows == 256);
  request.most_part_rows = 255;
  const cuda::AttentionPlan whole = cuda::plan_attention(one, request);
  CHECK((whole.part_rows == 0 && whole.items.size() == 1 && whole.merges.empty()));
  request.split = cuda::Split::balanced, request.most_part_rows = 20;  // fewer, longer parts
  CHECK(cuda::plan_attention(one, request).part_rows > 15);
  CHECK(cuda::plan_attention(one, request).part_rows <= 20);

  Random random(72);
  for (int round = 0; round < 200; ++round) {
    std::vector<cuda::PlannedSpan> spans;
    int64_t tokens = 0;
    for (int64_t n = random.between(1, 20); n > 0; --n) {
      spans.push_back({random.below(5000), static_cast<int32_t>(tokens), static_cast<int32_t>(random.below(2) ? 1 : random.between(1, 50))});
      tokens += spans.back().n_tok;
    }
    cuda::PlanRequest r{static_cast<int32_t>(random.between(1, 8)), static_cast<int32_t>(random.between(1, 32)), 4 << random.below(5),
                        random.between(1, 2000), random.below(2) ? cuda::Split::balanced : cuda::Split::every_block, false};
    const auto most = [&](const cuda::PlanRequest& least) { return cuda::most_items(tokens, static_cast<int64_t>(spans.size()), least); };
    const auto n = static_cast<int64_t>(cuda::plan_attention(spans, r).items.size());
    CHECK(n <= most(r));
    r.rows = 4, r.resident = 2000;
    CHECK(n <= most(r));
  }
}

TEST_CASE("an attention plan refuses what is no batch", "[cuda]") {
  const cuda::PlannedSpan none{0, 0, 0}, odd{100, 0, 1, 16, 64}, huge{int64_t{1} << 31, 0, 1};
  CHECK_FAULT(cuda::plan_attention(std::span(&none, 1), {}), Fault::internal, "tokens [0, 0 + 0)");
  CHECK_FAULT(cuda::plan_attention(std::span(&odd, 1), {}), Fault::internal, "positions [16, 64)");
  CHECK_FAULT(cuda::plan_attention(std::span(&huge, 1), {}), Fault::internal, "tokens [2147483648, 2147483648 + 1)");
  CHECK_FAULT(cuda::plan_attention({}, {1, 1, 1, 0, cuda::Split::none, false}), Fault::internal, "0 blocks at once");
}
