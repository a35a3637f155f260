// SPDX-License-Identifier: Apache-2.0
// Bugs planted in an attention kernel, and which way of running finds each; the table is the promise. Nothing may be found in the
// kernel without a bug.
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "emu/planted.h"
#include "emu/small_attention.h"
#include "support/catch.h"

namespace {

using namespace flexgen;
using namespace flexgen::testing;
using emu::Problem;

constexpr int kQueries = 70, kKeys = 100, kHead = SmallAttention::kHead;  // the last block has 6 queries: idle rows in every lane group
constexpr float kScale = 0.125f;

std::vector<double> reference(const std::vector<__half>& q, const std::vector<__half>& k, const std::vector<__half>& v) {
  std::vector<double> out(size_t{kQueries} * kHead, 0.0);
  const auto at = [](const std::vector<__half>& x, int row, int d) {
    return static_cast<double>(__half2float(x[static_cast<size_t>(row * kHead + d)]));
  };
  for (int i = 0; i < kQueries; ++i) {
    double total = 0;
    for (int j = 0; j <= i + kKeys - kQueries; ++j) {
      double s = 0;
      for (int d = 0; d < kHead; ++d) s += at(q, i, d) * at(k, j, d);
      const double p = std::exp(s * static_cast<double>(kScale));
      total += p;
      for (int d = 0; d < kHead; ++d) out[static_cast<size_t>(i * kHead + d)] += p * at(v, j, d);
    }
    for (int d = 0; d < kHead; ++d) out[static_cast<size_t>(i * kHead + d)] /= total;
  }
  return out;
}

template <AttentionBug kBug>
bool run_attention(emu::Session& session) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const auto fill = [&](int rows) {
    std::vector<__half> x(static_cast<size_t>(rows * kHead));
    for (__half& h : x) h = __float2half(normal(random));
    return x;
  };
  const std::vector<__half> q = fill(kQueries), k = fill(kKeys), v = fill(kKeys);
  session.add(q, "q");
  session.add(k, "k");
  session.add(v, "v");
  GuardedBuffer<float> out(session, size_t{kQueries} * kHead, -99.0f, "out");
  cuda::launch(small_attention<kBug>, dim3((kQueries + SmallAttention::kQueryRows - 1) / SmallAttention::kQueryRows), dim3(SmallAttention::kThreads),
               SmallAttention::kSharedBytes, nullptr,
               AttentionArguments{q.data(), k.data(), v.data(), out.data(), kQueries, kKeys, kScale * 1.4426950408889634f});
  static const std::vector<double> want = reference(q, k, v);  // the same input each time
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = static_cast<double>(out[i]) - want[i];
    error += d * d;
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm) < 5e-4 && out.margin_is(-99.0f);  // the probabilities are rounded to f16; NaN is not right
}

template <AttentionBug kBug>
PlantedBug planted(const char* name, Finds naive, Finds hostile, Finds race) {
  return {name, run_attention<kBug>, std::move(naive), std::move(hostile), std::move(race)};
}

TEST_CASE("bugs planted in attention") {
  const Finds unordered = stops(Problem::race, Problem::in_flight, Problem::uninitialised);
  const std::vector<PlantedBug> bugs = {
      // name, what a fixed order finds with copies that land at once and no poison; what hostile orders find; what race mode finds
      planted<AttentionBug::none>("none", kMissed, kMissed, kMissed),
      planted<AttentionBug::barrier_skipped_by_one_warp>("barrier skipped by one warp", stops(Problem::divergence, Problem::deadlock),
                                                         stops(Problem::divergence, Problem::deadlock),
                                                         stops(Problem::divergence, Problem::deadlock, Problem::race, Problem::in_flight)),
      planted<AttentionBug::no_barrier_before_keys>("no barrier before the keys", kWrong, kWrong, unordered),
      planted<AttentionBug::no_barrier_before_values>("no barrier before the values", kMissed, kWrong, unordered),
      planted<AttentionBug::one_buffer_for_keys>("keys refilled while being read", kWrong, kWrong, unordered),
      planted<AttentionBug::mask_off_by_one>("mask off by one", kWrong, kWrong, kWrong),
      planted<AttentionBug::shuffle_distance_wrong>("shuffle over 4 lanes for 2", kWrong, kWrong, kWrong),
      planted<AttentionBug::sum_not_rescaled>("sum not rescaled", kWrong, kWrong, kWrong),
      planted<AttentionBug::shuffle_in_divergent_branch>("shuffle of all lanes in a branch of some", stops(Problem::deadlock),
                                                         stops(Problem::deadlock), stops(Problem::deadlock)),
  };
  for (const PlantedBug& bug : bugs) check(bug);
}

}  // namespace
