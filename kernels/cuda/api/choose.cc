// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/api/choose.h"

#include <algorithm>

namespace flexgen::cuda {
namespace {

constexpr int64_t kMostBlocksY = 65535;
constexpr int kMostSplits = 16;
constexpr int64_t kLeastSplitSteps = 4;     // a split is worth at least these steps of K
constexpr double kMemoryClocks = 800;       // [E] from a load's issue to its data
constexpr double kSecondPassClocks = 4000;  // [E] launch of add_partials
constexpr int kGemvWarps = 4;               // of a block
constexpr int kGemvRowsOfWarp = 4;
constexpr int64_t kGemvPiece = 256;         // elements of K that a warp takes at once

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

const CardRow& card_row(int arch) {
  const CardRow* best = kCards;
  for (const CardRow& row : kCards)
    if (row.arch <= arch) best = &row;
  return *best;
}

// Clocks of a gemm with this tile and this many splits: the multiprocessor that has most tiles, or the memory if that takes longer.
// The memory is at its full speed when the loads in flight cover its latency.
double gemm_clocks(const Card& card, const LinearKernelRow& tile, const LinearShape& s, int64_t splits) {
  const CardRow& speed = card_row(card.arch);
  const int64_t blocks = ceil_div(s.tokens, tile.tokens) * ceil_div(s.rows, tile.rows) * splits;
  const int64_t k = ceil_div(ceil_div(s.cols, tile.depth), splits) * tile.depth;
  const double products = static_cast<double>(ceil_div(blocks, card.multiprocessors)) * tile.tokens * tile.rows * static_cast<double>(k);
  constexpr size_t kReserved = 1024;  // shared memory of each block that CUDA keeps for itself
  const auto resident = static_cast<int64_t>((card.shared_bytes + kReserved) / (tile.shared_bytes + kReserved));
  const auto running = static_cast<double>(std::min(blocks, std::max<int64_t>(resident, 1) * card.multiprocessors));
  const double in_flight = running * (tile.stages - 1) * tile.rows * tile.depth * 2;
  const double share = std::min(1.0, in_flight / (kMemoryClocks * speed.bytes * card.multiprocessors));
  const double card_bytes = speed.bytes * card.multiprocessors;
  const double memory = static_cast<double>(s.rows) * static_cast<double>(s.cols) * 2 / (card_bytes * share);
  const double second_pass =
      splits == 1 ? 0 : kSecondPassClocks + 2 * static_cast<double>(splits * s.tokens * s.rows) * sizeof(float) / card_bytes;
  return std::max(products / (speed.products * tile.rate), memory) + second_pass;
}

LinearChoice gemm_choice(const Card& card, const LinearShape& s, bool may_reorder) {
  LinearChoice best;
  double least = -1;
  for (const LinearKernelRow& tile : kLinearKernels) {
    if (tile.family != LinearFamily::gemm || !can_run(card, tile, s.weights) || (tile.most_tokens != 0 && s.tokens > tile.most_tokens)) continue;
    if (!tile.mma_chain && !may_reorder) continue;
    const int64_t steps = ceil_div(s.cols, tile.depth);
    for (int splits = 1; splits <= (may_reorder ? kMostSplits : 1); ++splits) {
      const LinearChoice choice = cut(tile.kernel, s, splits);
      if (splits > 1 && (steps / splits < kLeastSplitSteps || choice.partial_bytes > kMostPartialBytes)) break;
      const double clocks = gemm_clocks(card, tile, s, choice.splits());
      if (least >= 0 && clocks >= least) continue;
      least = clocks;
      best = choice;
    }
  }
  return best;
}

LinearChoice gemv_choice(const Card& card, const LinearShape& s) {
  LinearKernel kernel = LinearKernel::gemv_8;
  for (LinearKernel smaller : {LinearKernel::gemv_4, LinearKernel::gemv_2, LinearKernel::gemv_1})
    if (s.tokens <= linear_kernel(smaller).most_tokens) kernel = smaller;
  // more warps for few rows, as long as each has two pieces of K
  const int64_t warps = ceil_div(s.rows, kGemvRowsOfWarp);
  int along = 1;
  while (along < kGemvWarps && warps * along < int64_t{16} * card.multiprocessors && s.cols >= 4 * along * kGemvPiece) along *= 2;
  return cut(kernel, s, along);
}

LinearChoice f32_choice(const LinearShape& s) {
  return cut(s.tokens == 1 ? LinearKernel::f32_1 : s.tokens <= 4 ? LinearKernel::f32_4 : LinearKernel::f32_32, s);
}

constexpr bool in_order() {
  for (size_t i = 0; i < kLinearKernelCount; ++i)
    if (static_cast<size_t>(kLinearKernels[i].kernel) != i) return false;
  return sizeof kLinearKernels / sizeof kLinearKernels[0] == kLinearKernelCount;
}
static_assert(in_order(), "linear_kernel() finds a row by its number");

}  // namespace

const LinearKernelRow& linear_kernel(LinearKernel kernel) { return kLinearKernels[static_cast<size_t>(kernel)]; }

bool can_run(const Card& card, const LinearKernelRow& row, DType weights) {
  return (row.cards & detail::card_bit(card.arch)) != 0 && (row.weights & detail::weight_bit(weights)) != 0 && row.shared_bytes <= card.shared_bytes;
}

LinearChoice cut(LinearKernel kernel, const LinearShape& s, int pieces_of_k) {
  const LinearKernelRow& row = linear_kernel(kernel);
  LinearChoice c;
  c.kernel = kernel;
  switch (row.family) {
    case LinearFamily::gemm: {
      const int64_t steps = std::max<int64_t>(ceil_div(s.cols, row.depth), 1);
      const int64_t split_steps = ceil_div(steps, pieces_of_k), splits = ceil_div(steps, split_steps);
      c.grid_x = static_cast<uint32_t>(ceil_div(s.tokens, row.tokens) * ceil_div(s.rows, row.rows));
      c.grid_z = static_cast<uint32_t>(splits);
      c.split_cols = static_cast<int32_t>(split_steps * row.depth);
      c.rounded_x = true;
      c.partial_bytes = splits > 1 ? static_cast<size_t>(splits * s.tokens * s.rows) * sizeof(float) : 0;
      break;
    }
    case LinearFamily::gemv:
      c.warps_along_k = pieces_of_k;
      c.grid_x = static_cast<uint32_t>(ceil_div(s.rows, int64_t{kGemvWarps} / pieces_of_k * kGemvRowsOfWarp));
      break;
    case LinearFamily::f32:
      c.grid_x = static_cast<uint32_t>(ceil_div(s.rows, row.rows));
      c.grid_y = static_cast<uint32_t>(std::min(ceil_div(s.tokens, row.tokens), kMostBlocksY));
      break;
  }
  return c;
}

LinearChoice choose(const Card& card, const LinearShape& s, Arithmetic arithmetic) {
  const bool tensor_cores = s.weights == DType::f16 || (s.weights == DType::bf16 && card.arch >= 80);
  if (arithmetic == Arithmetic::f32 || !tensor_cores || s.cols % 8 != 0) return f32_choice(s);
  if (arithmetic == Arithmetic::fast && s.aligned_x && s.tokens <= card_row(card.arch).gemv_tokens) return gemv_choice(card, s);
  return gemm_choice(card, s, arithmetic == Arithmetic::fast);
}

}  // namespace flexgen::cuda
