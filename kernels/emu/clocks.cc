// SPDX-License-Identifier: Apache-2.0
// See clocks.h.
#include "kernels/emu/clocks.h"

#include <algorithm>

namespace flexgen::emu {

void Clocks::begin_block(uint32_t threads, uint32_t actors) {
  actors_ = actors;
  views_.clear();
  unused_.clear();
  steps_.fill({});
  threads_.assign(threads, State{});
  View* nothing = make_view();
  for (State& t : threads_) use(t, nothing);
}

Clocks::View* Clocks::make_view() {
  View* v = nullptr;
  if (unused_.empty()) {
    v = &views_.emplace_back();
  } else {
    v = unused_.back();
    unused_.pop_back();
  }
  v->seen.assign(actors_, 0);
  v->fenced.assign(actors_, 0);
  return v;
}

void Clocks::use(State& state, View* view) {
  ++view->users;
  if (state.view != nullptr) release(state.view);
  state.view = view;
}

void Clocks::release(View* view) {
  if (--view->users == 0) unused_.push_back(view);
}

Clocks::View* Clocks::known_step(View* from, const void* what, uint64_t version) const {
  for (const Step& s : steps_)
    if (s.from == from && s.what == what && s.version == version) return s.to;
  return nullptr;
}

// Holds both views, so that neither address comes to mean another view while the step is kept
void Clocks::remember_step(View* from, const void* what, uint64_t version, View* to) {
  Step& s = steps_[next_step_++ % kSteps];
  ++from->users;
  ++to->users;
  if (s.from != nullptr) {
    release(s.from);
    release(s.to);
  }
  s = {from, what, version, to};
}

void Clocks::give(Actor thread, Knowledge& to) {
  State& state = threads_[thread];
  to.seen.resize(actors_);
  to.fenced.resize(actors_);
  raise(to.seen, state.view->seen);
  raise(to.fenced, state.view->fenced);
  to.seen[thread] = state.now++;
  to.fenced[thread] = std::max(to.fenced[thread], state.fenced);
  ++to.version;
}

void Clocks::give(Actor engine, Time time, Knowledge& to) {
  to.seen.resize(actors_);
  to.fenced.resize(actors_);
  to.seen[engine] = std::max(to.seen[engine], time);
  ++to.version;
}

void Clocks::give(const Knowledge& from, Knowledge& to) {
  if (from.seen.empty()) return;
  to.seen.resize(actors_);
  to.fenced.resize(actors_);
  raise(to.seen, from.seen);
  raise(to.fenced, from.fenced);
  ++to.version;
}

void Clocks::take(Actor thread, const Knowledge& from) {
  if (from.seen.empty()) return;
  State& state = threads_[thread];
  View* to = known_step(state.view, &from, from.version);
  if (to == nullptr) {
    to = make_view();
    to->seen = state.view->seen;
    to->fenced = state.view->fenced;
    raise(to->seen, from.seen);
    raise(to->fenced, from.fenced);
    remember_step(state.view, &from, from.version, to);
  }
  use(state, to);
}

void Clocks::take(Actor thread, Actor engine, Time time) {
  State& state = threads_[thread];
  if (state.view->seen[engine] >= time) return;
  View* to = known_step(state.view, &threads_, uint64_t{engine} << 32 | time);
  if (to == nullptr) {
    to = make_view();
    to->seen = state.view->seen;
    to->fenced = state.view->fenced;
    to->seen[engine] = time;
    remember_step(state.view, &threads_, uint64_t{engine} << 32 | time, to);
  }
  use(state, to);
}

void Clocks::fence(Actor thread) {
  State& state = threads_[thread];
  state.fenced = state.now++;
  View* to = known_step(state.view, this, 0);
  if (to == nullptr) {
    to = make_view();
    to->seen = to->fenced = state.view->seen;
    remember_step(state.view, this, 0, to);
  }
  use(state, to);
}

void Clocks::raise(std::vector<Time>& to, const std::vector<Time>& from) {
  for (size_t i = 0; i < to.size(); ++i) to[i] = std::max(to[i], from[i]);
}

void Clocks::meet(std::span<const Actor> threads) {
  distinct_.clear();
  for (const Actor t : threads)
    if (std::find(distinct_.begin(), distinct_.end(), threads_[t].view) == distinct_.end()) distinct_.push_back(threads_[t].view);
  View* all = make_view();
  for (const View* v : distinct_) {
    raise(all->seen, v->seen);
    raise(all->fenced, v->fenced);
  }
  for (const Actor t : threads) {
    State& state = threads_[t];
    all->seen[t] = state.now;
    all->fenced[t] = std::max(all->fenced[t], state.fenced);
    ++state.now;
  }
  for (const Actor t : threads) use(threads_[t], all);
}

}  // namespace flexgen::emu
