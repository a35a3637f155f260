// SPDX-License-Identifier: Apache-2.0
// Shuffles, votes and matches: lanes bring a value and leave with one. Loads, stores and atomics of whole values. See cuda_names.h.
#include <fmt/format.h>

#include "kernels/emu/block.h"
#include "kernels/emu/cuda_names.h"

namespace flexgen::emu {
namespace {

struct ShuffleArgument {
  uint64_t value;
  int source;
  uint64_t result;
};

void shuffle_for_warp(void* const* arguments, uint32_t lanes, Location where) {
  for (uint32_t i = 0; i < 32; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    auto& lane = *static_cast<ShuffleArgument*>(arguments[i]);
    if (lane.source < 0) {
      lane.result = lane.value;
      continue;
    }
    if ((lanes >> lane.source & 1) == 0)
      running_block()->stop(
          Problem::divergence, {where},
          fmt::format("lane {} reads lane {} in a shuffle of lanes {:#010x}. Put both into the mask, or read another lane", i, lane.source, lanes));
    lane.result = static_cast<const ShuffleArgument*>(arguments[lane.source])->value;
  }
}

struct VoteArgument {
  bool predicate;
  uint32_t result;
};

void vote_for_warp(void* const* arguments, uint32_t lanes, Location) {
  uint32_t votes = 0;
  for (uint32_t i = 0; i < 32; ++i)
    if ((lanes >> i & 1) != 0 && static_cast<const VoteArgument*>(arguments[i])->predicate) votes |= 1u << i;
  for (uint32_t i = 0; i < 32; ++i)
    if ((lanes >> i & 1) != 0) static_cast<VoteArgument*>(arguments[i])->result = votes;
}

struct MatchArgument {
  uint64_t value;
  uint32_t result;
};

void match_for_warp(void* const* arguments, uint32_t lanes, Location) {
  for (uint32_t i = 0; i < 32; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    auto& lane = *static_cast<MatchArgument*>(arguments[i]);
    lane.result = 0;
    for (uint32_t j = 0; j < 32; ++j)
      if ((lanes >> j & 1) != 0 && static_cast<const MatchArgument*>(arguments[j])->value == lane.value) lane.result |= 1u << j;
  }
}

}  // namespace

uint64_t shuffle(uint32_t mask, uint64_t bits, int bytes, int source, Location where) {
  ShuffleArgument argument{bits, source, 0};
  meet(WarpOperation::shuffle, bytes, mask, &argument, shuffle_for_warp, where);
  return argument.result;
}

uint32_t vote(uint32_t mask, bool predicate, Location where) {
  VoteArgument argument{predicate, 0};
  meet(WarpOperation::vote, 0, mask, &argument, vote_for_warp, where);
  return argument.result;
}

uint32_t match(uint32_t mask, uint64_t bits, int bytes, Location where) {
  MatchArgument argument{bits, 0};
  meet(WarpOperation::match, bytes, mask, &argument, match_for_warp, where);
  return argument.result;
}

void load_value(void* value, const void* p, size_t bytes, Location where) {
  const Inside inside;
  Block& b = inside.block;
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0)
    b.stop(Problem::alignment, {where}, fmt::format("a load of {} bytes at {}: must be a multiple", bytes, p));
  if (b.race()) b.access(p, bytes, Access::read, {where});
  std::memcpy(value, p, bytes);
}

void store_value(void* p, const void* value, size_t bytes, Location where) {
  const Inside inside;
  Block& b = inside.block;
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0)
    b.stop(Problem::alignment, {where}, fmt::format("a store of {} bytes at {}: must be a multiple", bytes, p));
  if (b.race()) b.access(p, bytes, Access::write, {where});
  std::memcpy(p, value, bytes);
}

void check_atomic(const void* p, size_t bytes, Location where) {
  const Inside inside;
  Block& b = inside.block;
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0)
    b.stop(Problem::alignment, {where}, fmt::format("an atomic of {} bytes at {}: must be a multiple", bytes, p));
  if (b.race()) b.access(p, bytes, Access::atomic, {where});
}

}  // namespace flexgen::emu
