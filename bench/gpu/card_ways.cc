// SPDX-License-Identifier: Apache-2.0
// The one way in which gpu_check runs the cases of tests/cuda
#include "bench/gpu/card_place.h"

namespace flexgen::bench {
namespace {

const CardPlaces* g_places = nullptr;

const CardPlaces& places() {
  FG_CHECK(g_places != nullptr, "no device to run cases on");
  return *g_places;
}

}  // namespace

void run_cases_on(const CardPlaces* places) { g_places = places; }

}  // namespace flexgen::bench

namespace flexgen::testing {

std::vector<Way> ways(int sm) { return {{"on the card", 0, sm}}; }
std::unique_ptr<Place> open(const Way&) { return bench::places().open(); }

cuda::Card card_of(int, int multiprocessors) {
  cuda::Card card = bench::card_of(bench::places().device().info());
  if (multiprocessors > 0) card.multiprocessors = multiprocessors;
  return card;
}
bool runs_here(const cuda::LinearKernelRow& kernel, DType weights) { return cuda::can_run(card_of(0), kernel, weights); }

}  // namespace flexgen::testing
