// SPDX-License-Identifier: Apache-2.0
// Bugs planted in a GEMM, and which way of running finds each; the table in the first test is the promise. Nothing may be found in the
// kernel without a bug.
#include <algorithm>
#include <utility>
#include <vector>

#include "emu/planted.h"
#include "emu/small_gemm.h"
#include "support/catch.h"

namespace {

using namespace flexgen;
using namespace flexgen::testing;
using emu::Problem;

constexpr int kM = 77, kN = 75, kK = 200;  // tails everywhere, and more steps than stages

float element(int row, int column, int salt) { return static_cast<float>((row * 7 + column * 13 + salt * 5 + row * column % 3) % 5 - 2); }

// [kM, kN]; small integers: exact in any order
const std::vector<float>& reference() {
  static const std::vector<float> out = [] {
    std::vector<float> sums;
    for (int i = 0; i < kM; ++i)
      for (int j = 0; j < kN; ++j) {
        float sum = 0;
        for (int k = 0; k < kK; ++k) sum += element(i, k, 1) * element(j, k, 2);
        sums.push_back(sum);
      }
    return sums;
  }();
  return out;
}

template <typename T, GemmBug kBug>
bool run_gemm(emu::Session& session) {
  GuardedBuffer<T> a(session, kM * kK, T(3.0f), "a"), w(session, kN * kK, T(3.0f), "w");
  GuardedBuffer<float> out(session, kM * kN, -1234.0f, "out");
  for (int i = 0; i < kM; ++i)
    for (int k = 0; k < kK; ++k) a[static_cast<size_t>(i * kK + k)] = T(element(i, k, 1));
  for (int j = 0; j < kN; ++j)
    for (int k = 0; k < kK; ++k) w[static_cast<size_t>(j * kK + k)] = T(element(j, k, 2));
  const size_t bytes = kBug == GemmBug::half_the_shared_memory ? SmallGemm::kSharedBytes / 2 : SmallGemm::kSharedBytes;
  cuda::launch(small_gemm<T, kBug>, SmallGemm::grid(kM, kN), dim3(SmallGemm::kThreads), bytes, nullptr,
               GemmArguments<T>{a.data(), w.data(), out.data(), kM, kN, kK});
  return std::equal(reference().begin(), reference().end(), out.data()) && out.margin_is(-1234.0f);
}

template <GemmBug kBug, typename T = __half>
PlantedBug planted(const char* name, Finds naive, Finds hostile, Finds race) {
  return {name, run_gemm<T, kBug>, std::move(naive), std::move(hostile), std::move(race)};
}

TEST_CASE("bugs planted in a GEMM") {
  const std::vector<PlantedBug> bugs = {
      // name, what a fixed order finds with copies that land at once and no poison; what hostile orders find; what race mode finds
      planted<GemmBug::none>("none, f16", kMissed, kMissed, kMissed),
      planted<GemmBug::none, __nv_bfloat16>("none, bf16", kMissed, kMissed, kMissed),
      planted<GemmBug::no_barrier_after_wait>("no barrier after the wait", kWrong, kWrong,
                                              stops(Problem::uninitialised, Problem::in_flight, Problem::race)),
      planted<GemmBug::refill_of_the_stage_being_read>("refill of the stage being read", kWrong, kWrong, stops(Problem::in_flight, Problem::race)),
      planted<GemmBug::wait_one_group_too_lax>("wait one group too lax", kMissed, kWrong, stops(Problem::in_flight)),
      planted<GemmBug::copies_never_committed>("copies never committed", kMissed, kWrong, stops(Problem::in_flight)),
      planted<GemmBug::barrier_in_divergent_branch>("one warp skips the barrier", kWrong, kWrong,
                                                    stops(Problem::race, Problem::in_flight, Problem::uninitialised)),
      planted<GemmBug::epilogue_rows_swapped>("rows swapped in the epilogue", kWrong, kWrong, kWrong),
      planted<GemmBug::b_lanes_swapped>("lanes of b's ldmatrix swapped", kWrong, kWrong, kWrong),
      planted<GemmBug::accumulators_not_cleared>("accumulators not cleared", kWrong, kWrong, kWrong),
      planted<GemmBug::half_the_shared_memory>("half the shared memory asked for", kMissed, kMissed, stops(Problem::out_of_bounds)),
      planted<GemmBug::no_row_guard>("reads past the end of a and w", kMissed, kMissed, stops(Problem::out_of_bounds)),
      planted<GemmBug::no_column_guard>("writes past the end of out", kWrong, kWrong, stops(Problem::out_of_bounds)),
      planted<GemmBug::unaligned_ldmatrix>("unaligned ldmatrix", stops(Problem::alignment), stops(Problem::alignment), stops(Problem::alignment)),
      planted<GemmBug::unaligned_copy>("unaligned cp.async", stops(Problem::alignment), stops(Problem::alignment), stops(Problem::alignment)),
      planted<GemmBug::mma_by_half_a_warp>("mma by half a warp", stops(Problem::deadlock), stops(Problem::deadlock), stops(Problem::deadlock)),
      planted<GemmBug::no_swizzle>("no swizzle: right, but slow", kMissed, kMissed, kMissed),
  };
  for (const PlantedBug& bug : bugs) check(bug);
}

TEST_CASE("a missing swizzle shows in the count of bank conflicts") {
  const Outcome good = attempt({}, run_gemm<__half, GemmBug::none>), slow = attempt({}, run_gemm<__half, GemmBug::no_swizzle>);
  CHECK(good.statistics.ldmatrix > 0);
  CHECK(good.statistics.ldmatrix_conflicts == 0);
  CHECK(slow.statistics.ldmatrix == good.statistics.ldmatrix);
  CHECK(slow.statistics.ldmatrix_conflicts == slow.statistics.ldmatrix * 4 * 6);  // rows of 64 bytes: four in each of two bank groups
}

TEST_CASE("the GEMM on a card of compute capability 7.5") {
  emu::Options options{.sm = 75};
  CHECK(attempt(options, run_gemm<__half, GemmBug::none>).right);
  const Outcome bf16 = attempt(options, run_gemm<__nv_bfloat16, GemmBug::none>);
  REQUIRE(bf16.problem == Problem::unsupported);
  CHECK_THAT(bf16.message, Catch::Contains("mma of bf16 on sm_75"));
}

TEST_CASE("a report names kernel, block, thread, both lines and what to do") {
  const Outcome o = attempt({.order = emu::Order::fifo, .async = emu::Async::late, .race = true}, run_gemm<__half, GemmBug::wait_one_group_too_lax>);
  REQUIRE(o.problem == Problem::in_flight);
  CHECK_THAT(o.message,
             Catch::Matches(
                 "small_gemm\\.h:[0-9]+: kernel flexgen::testing::small_gemm<__half, .*>, block \\([0-9],[0-9],0\\), thread \\([0-9]+,0,0\\): "
                 "reads bytes \\[[0-9]+, [0-9]+\\) of dynamic shared memory, which has 24576, while the copy that thread \\([0-9]+,0,0\\) issued at "
                 "small_gemm\\.h:[0-9]+ is in flight\\. Wait for it first.*"));
}

}  // namespace
