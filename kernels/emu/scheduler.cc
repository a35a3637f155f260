// SPDX-License-Identifier: Apache-2.0
// Who runs next, and where threads wait for each other. See block.h.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "kernels/emu/block.h"

namespace flexgen::emu {
namespace {
constexpr uint32_t kPriorityChangesEvery = 2000;  // switches, on average

const char* name(WarpOperation operation) {
  switch (operation) {
    case WarpOperation::sync:
      return "__syncwarp";
    case WarpOperation::shuffle:
      return "a shuffle";
    case WarpOperation::vote:
      return "a vote";
    case WarpOperation::match:
      return "a match";
    case WarpOperation::matrix_load:
      return "ldmatrix";
    case WarpOperation::mma:
      return "mma";
    case WarpOperation::wgmma:
      return "wgmma or setmaxnreg";
  }
  return "a warp operation";
}

std::string line_of(const Location& where) {
  if (where.file == nullptr) return "an unknown line";
  const std::string_view file = where.file;
  return fmt::format("{}:{}", file.substr(file.rfind('/') + 1), where.line);
}

}  // namespace

uint32_t Block::random(uint32_t n) {  // xorshift64
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 7;
  random_state_ ^= random_state_ << 17;
  return static_cast<uint32_t>((random_state_ >> 11) % n);
}

uint32_t Block::pick_lane(uint32_t ready) {
  switch (options().order) {
    case Order::fifo:
      return static_cast<uint32_t>(std::countr_zero(ready));
    case Order::lifo:
      return 31 - static_cast<uint32_t>(std::countl_zero(ready));
    default: {
      const uint32_t first = random(32);
      return (static_cast<uint32_t>(std::countr_zero(std::rotr(ready, static_cast<int>(first)))) + first) % 32;
    }
  }
}

// The next thread to run, no longer ready; nothing where all wait
std::optional<uint32_t> Block::pick() {
  const auto n = static_cast<uint32_t>(warps_.size());
  std::optional<uint32_t> best;
  switch (options().order) {
    case Order::fifo:
      for (uint32_t i = 0; i < n && !best; ++i)
        if (warps_[i].ready != 0) best = i;
      break;
    case Order::lifo:
      for (uint32_t i = n; i-- > 0 && !best;)
        if (warps_[i].ready != 0) best = i;
      break;
    case Order::random: {
      const uint32_t first = random(n);
      for (uint32_t i = 0; i < n && !best; ++i)
        if (warps_[(first + i) % n].ready != 0) best = (first + i) % n;
      break;
    }
    case Order::priority:
      for (uint32_t i = 0; i < n; ++i)
        if (warps_[i].ready != 0 && (!best || warps_[i].priority > warps_[*best].priority)) best = i;
      if (best && random(kPriorityChangesEvery) == 0) warps_[*best].priority = random(1u << 30);
      break;
  }
  if (!best) return std::nullopt;
  const uint32_t lane = pick_lane(warps_[*best].ready);
  warps_[*best].ready &= ~(1u << lane);
  return *best * 32 + lane;
}

void Block::go_to(Fiber& from, uint32_t thread) {
  current_ = thread;
  switch_fiber(from, threads_[thread].fiber);
}

// The next thread to run. Copies under way land now and then, and when all threads wait
std::optional<uint32_t> Block::next() {
  constexpr uint32_t kLandsEvery = 16;  // switches, on average
  if (!mbarriers.idle() && options().async == Async::random && random(kLandsEvery) == 0) mbarriers.land_one();
  for (;;) {
    if (const auto thread = pick()) return thread;
    if (mbarriers.idle()) return std::nullopt;
    mbarriers.land_one();
  }
}

// The calling thread waits, and is not ready, or is done
void Block::yield() {
  const uint32_t me = current_;
  ++statistics.switches;
  if (const auto next = this->next()) {
    if (*next != me) go_to(threads_[me].fiber, *next);
  } else {
    switch_fiber(threads_[me].fiber, scheduler_);
  }
}

void Block::complete(Warp& warp, uint32_t warp_index, Meeting& meeting, MeetingBody body) {
  ++statistics.meetings;
  const uint32_t lanes = meeting.present;
  meeting.present = 0;
  if (meeting.operation == WarpOperation::sync && race()) {
    std::array<Clocks::Actor, 32> members;
    size_t n = 0;
    for (uint32_t i = 0; i < 32; ++i)
      if (lanes >> i & 1) members[n++] = warp_index * 32 + i;
    races.clocks().meet({members.data(), n});
  }
  if (body != nullptr) body(warp.arguments.data(), lanes, meeting.where);
  warp.ready |= lanes;
}

void Block::meet(WarpOperation operation, int variant, uint32_t mask, void* argument, MeetingBody body, Location where) {
  Warp& w = warp();
  mask &= w.exist;
  if ((mask & lane_bit()) == 0)
    stop(Problem::divergence, {where},
         fmt::format("{} with mask {:#010x}, which leaves out the calling lane {}. Give a mask that holds every lane that comes here",
                     name(operation), mask, current_ % 32));
  if (operation != WarpOperation::sync && (mask & ~w.live) != 0)
    stop(Problem::divergence, {where},
         fmt::format("{} with mask {:#010x}, of which lanes {:#010x} returned from the kernel. Keep them in the kernel, or leave them out",
                     name(operation), mask, mask & ~w.live));
  Meeting* meeting = nullptr;
  for (Meeting& m : w.meetings)
    if (m.present != 0 && m.wanted == mask && m.operation == operation && m.variant == variant && m.where.line == where.line) meeting = &m;
  if (meeting == nullptr) {
    for (Meeting& m : w.meetings)
      if (m.present == 0) meeting = &m;
    if (meeting == nullptr)
      stop(Problem::divergence, {where}, "the warp's lanes are in 9 different operations at once. Bring them together with __syncwarp");
    *meeting = {mask, 0, operation, variant, where};
  }
  meeting->present |= lane_bit();
  w.arguments[current_ % 32] = argument;
  if (meeting->present != (mask & w.live)) return yield();
  complete(w, current_ / 32, *meeting, body);
  w.ready &= ~lane_bit();
}

void Block::make_ready(const Barrier& b) {
  for (size_t i = 0; i < warps_.size(); ++i) warps_[i].ready |= b.waiting[i];
}

void Block::complete(Barrier& b) {
  ++statistics.barriers;
  switch (b.operation) {
    case BarrierOperation::all:
      b.result = b.true_predicates == b.arrived;
      break;
    case BarrierOperation::any:
      b.result = b.true_predicates > 0;
      break;
    default:
      b.result = static_cast<int>(b.true_predicates);
      break;
  }
  if (race()) races.clocks().meet(b.members);
  make_ready(b);
  b.arrived = b.true_predicates = 0;
  b.members.clear();
  std::fill(b.waiting.begin(), b.waiting.end(), 0);
  std::fill(b.present.begin(), b.present.end(), 0);
}

int Block::barrier(uint32_t id, uint32_t threads, BarrierOperation operation, int predicate, Location where) {
  if (id >= kBarriers) stop(Problem::divergence, {where}, fmt::format("barrier {}: found, allowed 0 to {}", id, kBarriers - 1));
  if (threads % 32 != 0 || threads > n_threads_)
    stop(Problem::divergence, {where},
         fmt::format("barrier {} for {} threads: allowed are multiples of 32 up to the block's {}", id, threads, n_threads_));
  Barrier& b = barriers_[id];
  const bool named = threads != 0;  // its sync and arrive sides are different lines by nature
  if (b.arrived == 0) {
    b.where = where;
    b.wanted = threads;
    b.operation = operation;
  } else if (!named && b.where != where) {
    stop(Problem::divergence, {where},
         fmt::format("this barrier is not the one at {} where other threads of the block wait. Every thread must come to the same barrier",
                     line_of(b.where)));
  } else if (b.wanted != threads) {
    stop(Problem::divergence, {where},
         fmt::format("barrier {} for {} threads, while others wait in it for {}. Give the same number everywhere", id, threads, b.wanted));
  }
  uint32_t& present = b.present[current_ / 32];
  if ((present & lane_bit()) != 0)
    stop(Problem::divergence, {where},
         fmt::format("this thread is already in barrier {}, which waits for {} more. Let it wait for the others before it arrives again", id,
                     b.wanted - b.arrived));
  present |= lane_bit();
  ++b.arrived;
  b.true_predicates += predicate != 0;
  b.members.push_back(current_);
  const bool last = b.arrived == (b.wanted != 0 ? b.wanted : live_);
  if (operation == BarrierOperation::arrive) {
    if (last) complete(b);
    return 0;
  }
  if (last) {
    complete(b);
  } else {
    b.waiting[current_ / 32] |= lane_bit();
    yield();
  }
  return b.result;
}

// The calling thread returned from the kernel: those who wait for all living threads wait for one less
void Block::leave_kernel() {
  Warp& w = warp();
  w.live &= ~lane_bit();
  --live_;
  Barrier& all = barriers_[0];
  if (all.arrived > 0 && all.wanted == 0 && all.arrived == live_) complete(all);
  for (Meeting& m : w.meetings) {
    if (m.present == 0 || m.present != (m.wanted & w.live)) continue;
    if (m.operation != WarpOperation::sync)
      stop(Problem::divergence, {m.where},
           fmt::format("a lane returned from the kernel while lanes {:#010x} wait for it in {}. Let it take part, or leave it out of the mask",
                       m.present, name(m.operation)));
    complete(w, current_ / 32, m, nullptr);
  }
  yield();
}

std::string Block::who_waits() const {
  std::string text;
  for (uint32_t i = 0; i < kBarriers; ++i)
    if (const Barrier& b = barriers_[i]; b.arrived > 0)
      text += fmt::format("; {} of {} threads are in the barrier at {}", b.arrived, b.wanted != 0 ? b.wanted : live_, line_of(b.where));
  text += mbarriers.who_waits();
  constexpr int kShown = 4;
  int shown = 0;
  for (size_t i = 0; i < warps_.size(); ++i)
    for (const Meeting& m : warps_[i].meetings)
      if (m.present != 0 && shown++ < kShown)
        text += fmt::format("; warp {} lanes {:#010x} of {:#010x} are in {} at {}", i, m.present, m.wanted, name(m.operation), line_of(m.where));
  if (shown > kShown) text += fmt::format("; and {} more", shown - kShown);
  return text;
}

}  // namespace flexgen::emu
