// SPDX-License-Identifier: Apache-2.0
// Runs a test's launches under several schedules of the emulator, or once with its race checks where this is the build for them.
#pragma once

#include <vector>

#include "kernels/emu/emulator.h"
#include "support/catch.h"

namespace flexgen::testing {

inline std::vector<emu::Options> schedules(int sm = 90) {
#if FLEXGEN_RACE
  emu::Options race;
  race.sm = sm;
  race.race = true;
  return {race};
#else
  std::vector<emu::Options> all(3);
  for (emu::Options& o : all) o.sm = sm;
  all[0].seed = 1;
  all[1].seed = 2;
  all[2].order = emu::Order::lifo;
  all[2].async = emu::Async::late;
  return all;
#endif
}

// fn(session) registers its buffers, launches and checks
template <typename Fn>
void under_schedules(Fn&& fn) {
  for (const emu::Options& options : schedules()) {
    CAPTURE(static_cast<int>(options.order), options.seed, options.race);
    emu::Session session(options);
    fn(session);
  }
}

// The same with the first of them alone, for cases that are many or large
template <typename Fn>
void under_one_schedule(Fn&& fn) {
  emu::Session session(schedules().front());
  fn(session);
}

}  // namespace flexgen::testing
