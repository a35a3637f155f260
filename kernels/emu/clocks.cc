// SPDX-License-Identifier: Apache-2.0
// See clocks.h.
#include "kernels/emu/clocks.h"

#include <algorithm>

namespace flexgen::emu {

void Clocks::begin_block(uint32_t threads, uint32_t actors) {
  actors_ = actors;
  views_.clear();
  unused_.clear();
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
  if (state.view != nullptr && --state.view->users == 0) unused_.push_back(state.view);
  state.view = view;
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
