// SPDX-License-Identifier: Apache-2.0
// Happens-before between the threads of a block, by vector clocks (FastTrack, PLDI 2009). Each actor has a clock of its own: threads,
// copy engines, matrix units. A thread's view says up to which time it knows what each actor did. Threads that met in a
// barrier share one view, so that a barrier costs one vector and not one per thread.
//
// A view also says up to which time generic writes are fenced for the asynchronous proxy (PTX ISA, "Proxy-preserved base causality
// order"): fence.proxy.async turns what its thread sees into what it sees as fenced.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace flexgen::emu {

class Clocks {
 public:
  using Actor = uint32_t;
  using Time = uint32_t;

  // Actors [0, threads) are threads; the others only have times that threads learn of through merge().
  void begin_block(uint32_t threads, uint32_t actors);

  Time now(Actor thread) const { return threads_[thread].now; }

  // Does what `actor` did at `time` happen before what `thread` does now?
  bool ordered(Actor actor, Time time, Actor thread) const { return actor == thread || threads_[thread].view->seen[actor] >= time; }
  // ... with a proxy fence on the way?
  bool fenced(Actor actor, Time time, Actor thread) const {
    return actor == thread ? threads_[thread].fenced >= time : threads_[thread].view->fenced[actor] >= time;
  }

  // All of these know what each of them did before
  void meet(std::span<const Actor> threads);

  // What a barrier in memory passes on from those who arrive to those who wait
  struct Knowledge {
    std::vector<Time> seen, fenced;
    uint64_t version = 0;  // changes whenever it grows
  };
  void give(Actor thread, Knowledge& to);
  void give(Actor engine, Time time, Knowledge& to);  // what an engine did until then
  void give(const Knowledge& from, Knowledge& to);
  void take(Actor thread, const Knowledge& from);
  void take(Actor thread, Actor engine, Time time);  // learns what that engine did until then
  void fence(Actor thread);                          // fence.proxy.async

 private:
  struct View {
    int users = 0;
    std::vector<Time> seen, fenced;
  };
  // Threads of a warp or a block mostly take the same step from the same view: the last results are kept
  struct Step {
    View* from = nullptr;
    const void* what = nullptr;
    uint64_t version = 0;
    View* to = nullptr;
  };
  View* known_step(View* from, const void* what, uint64_t version) const;
  void remember_step(View* from, const void* what, uint64_t version, View* to);
  void release(View* view);
  static constexpr size_t kSteps = 8;
  struct State {
    View* view = nullptr;
    Time now = 1;
    Time fenced = 0;  // own writes up to this time
  };

  View* make_view();
  void use(State& state, View* view);
  static void raise(std::vector<Time>& to, const std::vector<Time>& from);

  uint32_t actors_ = 0;
  std::vector<State> threads_;
  std::deque<View> views_;
  std::vector<View*> unused_;
  std::vector<const View*> distinct_;  // scratch of meet()
  std::array<Step, kSteps> steps_;
  size_t next_step_ = 0;
};

}  // namespace flexgen::emu
