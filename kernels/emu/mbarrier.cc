// SPDX-License-Identifier: Apache-2.0
// See mbarrier.h.
#include "kernels/emu/mbarrier.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/emu/block.h"
#include "kernels/emu/symbols.h"

namespace flexgen::emu {

void MBarriers::begin_block() {
  barriers_.clear();
  loads_.clear();
}

// The index of the barrier at p, which must be one still
size_t MBarriers::find(const void* p, Location where) {
  const size_t offset = block_.shared.offset(p);
  for (size_t i = 0; i < barriers_.size(); ++i) {
    if (barriers_[i].offset != offset) continue;
    uint64_t found = 0;
    std::memcpy(&found, p, sizeof found);
    if (found != cookie(i))
      block_.stop(Problem::race, {where},
                  fmt::format("the mbarrier in {} was overwritten. Keep its memory for it alone", block_.shared.describe(offset, 8)));
    if (block_.race()) block_.access_shared(p, 8, Access::read, {where});  // its initialisation happened before
    return i;
  }
  block_.stop(Problem::uninitialised, {where},
              fmt::format("{}, are no initialised mbarrier. Initialise it and let the threads meet first", block_.shared.describe(offset, 8)));
}

void MBarriers::init(const void* p, uint32_t arrivals, Location where) {
  if (!block_.shared.contains(p) || block_.shared.offset(p) % 8 != 0)
    block_.stop(Problem::alignment, {where}, fmt::format("an mbarrier at {}: must be in shared memory, at a multiple of 8", p));
  if (arrivals == 0 || arrivals >= 1u << 20)
    block_.stop(Problem::divergence, {where}, fmt::format("an mbarrier of {} arrivals: allowed 1 to {}", arrivals, (1u << 20) - 1));
  if (block_.race()) block_.access_shared(p, 8, Access::write, {where});
  const size_t offset = block_.shared.offset(p);
  size_t i = 0;
  while (i < barriers_.size() && barriers_[i].offset != offset) ++i;
  if (i == barriers_.size()) {
    if (i == kMost) block_.stop(Problem::launch, {where}, fmt::format("more than {} mbarriers in a block, which the emulator does not do", kMost));
    barriers_.emplace_back();
  } else if (!barriers_[i].waiting.empty()) {
    block_.stop(Problem::race, {where}, "an mbarrier that threads wait for is initialised again. Initialise it once");
  }
  barriers_[i] = {};
  barriers_[i].offset = offset;
  barriers_[i].arrivals = barriers_[i].missing = arrivals;
  barriers_[i].init = where;
  const uint64_t mark = cookie(i);
  std::memcpy(const_cast<void*>(p), &mark, sizeof mark);
}

void MBarriers::complete_where_due(size_t i) {
  MBarrier& b = barriers_[i];
  if (b.missing != 0 || b.bytes != 0) return;
  ++b.phase;
  b.missing = b.arrivals;
  ++block_.statistics.mbarrier_phases;
  if (block_.race()) block_.races.clocks().give(b.arriving, b.complete);
  for (const uint32_t t : b.waiting) block_.wake(t);
  b.waiting.clear();
}

void MBarriers::arrive(const void* p, uint32_t expected_bytes, Location where) {
  const size_t i = find(p, where);
  MBarrier& b = barriers_[i];
  if (b.missing == 0)
    block_.stop(
        Problem::divergence, {where},
        fmt::format("an arrival beyond the {} of the mbarrier's phase, which still waits for {} bytes. Wait for the phase before the next arrival",
                    b.arrivals, b.bytes));
  b.bytes += expected_bytes;
  --b.missing;
  if (block_.race()) block_.races.clocks().give(block_.thread_index(), b.arriving);
  complete_where_due(i);
}

// Waits for the phase as long as a card may; now and then gives up at once, as a card may too
bool MBarriers::try_wait(const void* p, uint32_t parity, Location where) {
  constexpr uint32_t kGivesUp = 8;  // once in so many calls
  const size_t i = find(p, where);
  if (parity > 1) block_.stop(Problem::divergence, {where}, fmt::format("parity {}: allowed 0 and 1", parity));
  if (block_.random(kGivesUp) == 0) return false;
  const auto passed = [&] { return (barriers_[i].phase & 1) != parity; };
  if (!passed()) {
    barriers_[i].wait = where;
    barriers_[i].waiting.push_back(block_.thread_index());
    block_.sleep();
    if (!passed()) return false;  // a phase may have gone by and another begun
  }
  if (block_.race()) block_.races.clocks().take(block_.thread_index(), barriers_[i].complete);
  return true;
}

void MBarriers::load(const BoxCopy& copy, const void* barrier) {
  const size_t i = find(barrier, copy.where);
  if (block_.race()) {
    block_.report(block_.races.engine_will_write(block_.thread_index(), copy.offset, copy.bytes, {copy.where}), Access::write, copy.bytes,
                  {copy.where});
    // the engine completes bytes on the barrier: its initialisation must be fenced
    block_.report(block_.races.fenced_for_engine(block_.thread_index(), barriers_[i].offset, 8), Access::write, 8, {copy.where});
  }
  if (block_.options().poison) std::memset(static_cast<std::byte*>(block_.shared.dynamic_array()) + copy.offset, 0xFF, copy.bytes);
  loads_.push_back({copy, i});
  ++block_.statistics.tma_copies;
  if (block_.lands_early()) land_one();
}

void MBarriers::land_one() {
  const bool any_order = block_.options().order == Order::random || block_.options().order == Order::priority;
  const size_t which = any_order ? block_.random(static_cast<uint32_t>(loads_.size())) : 0;
  const Load load = loads_[which];
  loads_.erase(loads_.begin() + static_cast<std::ptrdiff_t>(which));
  copy_box_to_shared(load.copy, static_cast<std::byte*>(block_.shared.dynamic_array()));
  MBarrier& b = barriers_[load.barrier];
  if (block_.race()) {
    const Clocks::Actor engine = block_.engine(static_cast<uint32_t>(load.barrier));
    block_.races.engine_wrote(engine, ++b.time, load.copy.offset, load.copy.bytes, {load.copy.where});
    block_.races.clocks().give(engine, b.time, b.arriving);
  }
  b.bytes -= static_cast<int64_t>(load.copy.bytes);
  complete_where_due(load.barrier);
}

Location MBarriers::where() const {
  for (const MBarrier& b : barriers_)
    if (!b.waiting.empty()) return b.wait;
  return loads_.empty() ? Location{} : loads_.front().copy.where;
}

std::string MBarriers::who_waits() const {
  std::string text;
  for (const MBarrier& b : barriers_)
    if (!b.waiting.empty())
      text += fmt::format(
          "; {} threads wait at {} for the mbarrier that was initialised at {}, of whose phase {} {} of {} arrivals and {} bytes are missing",
          b.waiting.size(), line_text(b.wait, nullptr), line_text(b.init, nullptr), b.phase, b.missing, b.arrivals, b.bytes);
  return text;
}

std::string MBarriers::what_flies() const {
  if (loads_.empty()) return "";
  return fmt::format("{} TMA loads are in flight, one of them issued at {}", loads_.size(), line_text(loads_.front().copy.where, nullptr));
}

}  // namespace flexgen::emu
