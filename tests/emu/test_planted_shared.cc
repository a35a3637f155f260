// SPDX-License-Identifier: Apache-2.0
// Bugs planted in small kernels, one idea each, and which way of running finds it; the tables are the promise. Kernels beside them that
// look alike but are right must pass everywhere.
#include <cstring>
#include <utility>
#include <vector>

#include "emu/planted.h"
#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/core/vocab.h"
#include "support/catch.h"

namespace {

using namespace flexgen;
using namespace flexgen::testing;
using emu::Problem;

constexpr int kThreads = 96;

enum class Bug {
  none,
  no_syncthreads,
  no_syncwarp,
  overrun_write,
  overrun_read,
  uninitialised,
  plain_counter,
  atomic_read_too_early,
  overwritten_too_early,
  barriers_on_two_lines,
  mask_without_caller,
  shuffle_outside_mask,
  shuffle_after_return,
  barrier_misses_a_warp,
  named_barrier_counts_too_many,
  named_barrier_counts_differ,
  box_never_waited_for,
  nibbles_of_one_byte,
  global_read_overrun,
  global_write_overrun,
  global_atomic_overrun,
  unaligned_atomic,
  vote_in_branch,
};

// Each thread hands its number to the next, within the warp and then within the block: out[t] = (t + 1) % 32 + 100 * ((t + 33) % 96)
template <Bug kBug>
FG_KERNEL(kThreads)
exchange(int* out, int n) {
  FG_SHARED(int, lanes, kThreads);
  FG_SHARED(int, all, kThreads);
  FG_SHARED(int, counter, 1);
  const int t = static_cast<int>(threadIdx.x), warp = t / 32 * 32;
  if (t == 0) *counter = 0;

  lanes[kBug == Bug::overrun_write && t == 95 ? kThreads : t] = t % 32;
  if constexpr (kBug != Bug::no_syncwarp) __syncwarp();
  const int from_lane = lanes[warp + (t + 1) % 32];

  if (kBug != Bug::uninitialised || t != 50) all[t] = t;
  if constexpr (kBug == Bug::barriers_on_two_lines) {
    if (t < 64) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if constexpr (kBug == Bug::barrier_misses_a_warp) {
    if (t < 64) __syncthreads();
  } else if constexpr (kBug != Bug::no_syncthreads) {
    __syncthreads();
  }
  const int from_block = all[kBug == Bug::overrun_read && t == 3 ? kThreads + 2 : (t + 33) % kThreads];

  if constexpr (kBug == Bug::plain_counter) {
    *counter += 1;
  } else {
    atomicAdd(counter, 1);
  }
  if constexpr (kBug != Bug::atomic_read_too_early) __syncthreads();
  const int count = *counter;
  if (kBug == Bug::overwritten_too_early && t == 0) *counter = 0;

  if (t < n || kBug == Bug::global_write_overrun) out[t] = count == kThreads ? from_lane + 100 * from_block : -1;
  if (kBug == Bug::global_read_overrun && t == 7 && out[n] == 12345) out[0] = 0;
  if (kBug == Bug::global_atomic_overrun && t == 7) atomicAdd(&out[n], 0);
  if (kBug == Bug::unaligned_atomic && t == 7) atomicAdd(reinterpret_cast<int*>(reinterpret_cast<char*>(out) + 2), 0);
}

template <Bug kBug>
bool run_exchange(emu::Session& session) {
  const int n = kBug == Bug::global_write_overrun ? kThreads - 6 : kThreads;
  GuardedBuffer<int> out(session, static_cast<size_t>(n), -7, "out");
  cuda::launch(exchange<kBug>, dim3(1), dim3(kThreads), 0, nullptr, out.data(), n);
  for (int t = 0; t < n; ++t)
    if (out[static_cast<size_t>(t)] != (t + 1) % 32 + 100 * ((t + 33) % kThreads)) return false;
  return out.margin_is(-7);
}

template <Bug kBug>
PlantedBug planted(const char* name, Finds naive, Finds hostile, Finds race) {
  return {name, run_exchange<kBug>, std::move(naive), std::move(hostile), std::move(race)};
}

TEST_CASE("bugs planted in an exchange through shared memory") {
  const std::vector<PlantedBug> bugs = {
      planted<Bug::none>("none", kMissed, kMissed, kMissed),
      planted<Bug::no_syncthreads>("no __syncthreads", kWrong, kWrong, stops(Problem::race, Problem::uninitialised)),
      planted<Bug::no_syncwarp>("no __syncwarp", kWrong, kWrong, stops(Problem::race, Problem::uninitialised)),
      planted<Bug::overrun_write>("write behind a static array", kLuck, kWrong, stops(Problem::out_of_bounds, Problem::uninitialised)),
      planted<Bug::overrun_read>("read behind a static array", kWrong, kWrong, stops(Problem::out_of_bounds)),
      planted<Bug::uninitialised>("shared memory that nobody wrote", kWrong, kWrong, stops(Problem::uninitialised)),
      planted<Bug::plain_counter>("a counter without atomics", kMissed, kMissed, stops(Problem::race)),
      planted<Bug::atomic_read_too_early>("a counter read before all counted", kWrong, kWrong, stops(Problem::race)),
      planted<Bug::overwritten_too_early>("written while others may still read", kLuck, kLuck, stops(Problem::race)),
      planted<Bug::barriers_on_two_lines>("two barriers for one", stops(Problem::divergence), stops(Problem::divergence), stops(Problem::divergence)),
      planted<Bug::barrier_misses_a_warp>("a warp misses a barrier", stops(Problem::divergence), stops(Problem::divergence),
                                          stops(Problem::divergence, Problem::race, Problem::uninitialised)),
      planted<Bug::global_write_overrun>("write behind a global buffer", kWrong, kWrong, stops(Problem::out_of_bounds)),
      planted<Bug::global_read_overrun>("read behind a global buffer", kMissed, kMissed, stops(Problem::out_of_bounds)),
      planted<Bug::global_atomic_overrun>("atomic behind a global buffer", kMissed, kMissed, stops(Problem::out_of_bounds)),
      planted<Bug::unaligned_atomic>("unaligned atomic", stops(Problem::alignment), stops(Problem::alignment), stops(Problem::alignment)),
  };
  for (const PlantedBug& bug : bugs) check(bug);
}

// Sums of 16 lanes each, by threads of two warps of which some have nothing to do
template <Bug kBug>
FG_KERNEL(64)
half_warp_sums(int* out, int active) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  if constexpr (kBug == Bug::shuffle_after_return) {
    if (t >= active) return;
  }
  int sum = t < active ? t : 0;
  const unsigned half = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
  const unsigned mask = kBug == Bug::mask_without_caller && lane == 20 ? 0x0000FFFFu : half;
  for (int d = 8; d > 0; d /= 2) sum += __shfl_xor_sync(mask, sum, d);
  if constexpr (kBug == Bug::shuffle_outside_mask) sum += __shfl_xor_sync(half, sum, 16);
  if constexpr (kBug == Bug::vote_in_branch) {
    if (lane < 3 && __any_sync(~0u, sum > 1000000)) sum = 0;
  }
  if (lane % 16 == 0) out[t / 16] = sum;
}

template <Bug kBug>
bool run_half_warps(emu::Session& session) {
  constexpr int kActive = 50;
  GuardedBuffer<int> out(session, 4, -7, "out");
  cuda::launch(half_warp_sums<kBug>, dim3(1), dim3(64), 0, nullptr, out.data(), kActive);
  for (int i = 0; i < 4; ++i) {
    int want = 0;
    for (int t = i * 16; t < i * 16 + 16 && t < kActive; ++t) want += t;
    if (out[static_cast<size_t>(i)] != want) return false;
  }
  return true;
}

TEST_CASE("bugs planted in warp operations") {
  const Finds diverges = stops(Problem::divergence), either = stops(Problem::divergence, Problem::deadlock);
  const std::vector<PlantedBug> bugs = {
      {"none", run_half_warps<Bug::none>, kMissed, kMissed, kMissed},
      {"a mask that leaves out its caller", run_half_warps<Bug::mask_without_caller>, diverges, diverges, diverges},
      {"a lane outside the mask is read", run_half_warps<Bug::shuffle_outside_mask>, diverges, diverges, diverges},
      {"lanes returned before a shuffle", run_half_warps<Bug::shuffle_after_return>, either, either, either},
      {"a vote of all lanes in a branch of some", run_half_warps<Bug::vote_in_branch>, either, either, either},
  };
  for (const PlantedBug& bug : bugs) check(bug);
}

// Warp 0 fills a buffer, warp 1 empties it, by two named barriers in turn; warp 2 has no part in it
template <Bug kBug>
FG_KERNEL(kThreads)
produce_consume(int* out, int rounds) {
  constexpr uint32_t kFull = 1, kEmpty = 2, kBoth = 64;
  FG_SHARED(int, box, 32);
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  if (warp == 0) {
    for (int i = 0; i < rounds; ++i) {
      if (kBug != Bug::box_never_waited_for && i > 0) cuda::named_barrier_sync(kEmpty, kBoth);
      box[lane] = i * 100 + lane;
      cuda::named_barrier_arrive(kFull, kBug == Bug::named_barrier_counts_differ ? kBoth + 32 : kBoth);
    }
  } else if (warp == 1) {
    for (int i = 0; i < rounds; ++i) {
      cuda::named_barrier_sync(kFull, kBug == Bug::named_barrier_counts_too_many ? kBoth + 32 : kBoth);
      out[i * 32 + lane] = box[31 - lane];
      if (kBug != Bug::box_never_waited_for && i + 1 < rounds) cuda::named_barrier_arrive(kEmpty, kBoth);
    }
  }
}

template <Bug kBug>
bool run_produce_consume(emu::Session& session) {
  constexpr int kRounds = 5;
  GuardedBuffer<int> out(session, kRounds * 32, -7, "out");
  cuda::launch(produce_consume<kBug>, dim3(2), dim3(kThreads), 0, nullptr, out.data(), kRounds);
  for (int i = 0; i < kRounds * 32; ++i)
    if (out[static_cast<size_t>(i)] != i / 32 * 100 + 31 - i % 32) return false;
  return true;
}

TEST_CASE("bugs planted in named barriers") {
  const Finds diverges = stops(Problem::divergence, Problem::deadlock);
  const std::vector<PlantedBug> bugs = {
      {"none", run_produce_consume<Bug::none>, kMissed, kMissed, kMissed},
      {"the two sides count differently", run_produce_consume<Bug::named_barrier_counts_differ>, diverges, diverges, diverges},
      {"the box is filled again while it may be full", run_produce_consume<Bug::box_never_waited_for>, kLuck, kLuck,
       stops(Problem::divergence, Problem::race)},
      {"a count that nobody reaches", run_produce_consume<Bug::named_barrier_counts_too_many>, diverges, diverges, diverges},
  };
  for (const PlantedBug& bug : bugs) check(bug);
}

// Threads write neighbouring bytes and halves, which is right, and two nibbles of one byte, which is not
template <Bug kBug>
FG_KERNEL(64)
neighbours(unsigned char* out) {
  FG_SHARED(unsigned char, bytes, 64);
  FG_SHARED(unsigned short, halves, 64);
  const int t = static_cast<int>(threadIdx.x);
  bytes[t] = 0;
  __syncthreads();
  if constexpr (kBug == Bug::nibbles_of_one_byte) {
    bytes[t / 2] = static_cast<unsigned char>(bytes[t / 2] | (t % 16) << (t % 2 * 4));
  } else {
    bytes[t] = static_cast<unsigned char>(t);
  }
  halves[t] = static_cast<unsigned short>(t * 3);
  __syncthreads();
  out[t] = static_cast<unsigned char>(bytes[63 - t] + halves[63 - t]);
}

template <Bug kBug>
bool run_neighbours(emu::Session& session) {
  GuardedBuffer<unsigned char> out(session, 64, 7, "out");
  cuda::launch(neighbours<kBug>, dim3(1), dim3(64), 0, nullptr, out.data());
  if (kBug != Bug::none) return true;
  for (int t = 0; t < 64; ++t)
    if (out[static_cast<size_t>(t)] != (63 - t) * 4) return false;
  return true;
}

TEST_CASE("bytes of one word belong to different threads") {
  check({"none", run_neighbours<Bug::none>, kMissed, kMissed, kMissed});
  check({"two nibbles of one byte", run_neighbours<Bug::nibbles_of_one_byte>, kMissed, kMissed, stops(Problem::race)});
}

FG_KERNEL(32) nothing() {}
FG_KERNEL(32) much_static(int* out) {
  FG_SHARED(int, large, 20000);
  large[threadIdx.x] = 1;
  out[threadIdx.x] = large[threadIdx.x];
}

TEST_CASE("race mode and counts refuse a kernel whose loads and stores they would not see") {
  const auto message = [](const emu::Options& options, bool hooked) {
    const Outcome o = attempt(options, [hooked](emu::Session&) {
      emu::run(
          {dim3(1), dim3(32), 0}, [](void*) {}, nullptr, reinterpret_cast<const void*>(nothing), hooked);
      return true;
    });
    if (o.problem) CHECK(*o.problem == Problem::launch);
    return o.message;
  };
  CHECK(message({}, false) == "");
  CHECK(message({.race = true, .count = true}, true) == "");
  CHECK_THAT(message({.race = true}, false),
             Catch::Contains("nothing: race mode would not see its loads and stores. Compile it with -fsanitize=thread"));
  CHECK_THAT(message({.count = true}, true), Catch::Contains("nothing: counts need race mode. Set Options::race too"));
}

TEST_CASE("launches that no card takes") {
  const auto message = [](int sm, dim3 grid, dim3 block, size_t bytes) {
    const Outcome o = attempt({.sm = sm}, [&](emu::Session&) {
      cuda::launch(nothing, grid, block, bytes, nullptr);
      return true;
    });
    if (o.problem) CHECK(*o.problem == Problem::launch);
    return o.message;
  };
  CHECK(message(90, dim3(1), dim3(1024), size_t{227} << 10) == "");
  CHECK_THAT(message(90, dim3(1), dim3(1025), 0), Catch::Contains("nothing: block of 1025 threads: allowed 1 to 1024"));
  CHECK_THAT(message(90, dim3(1), dim3(1, 1, 65), 0), Catch::Contains("block of 65 threads in z: allowed up to 64"));
  CHECK_THAT(message(90, dim3(0), dim3(32), 0), Catch::Contains("grid of 0 x 1 x 1 blocks: allowed 1 to"));
  CHECK_THAT(message(90, dim3(1, 65536), dim3(32), 0), Catch::Contains("grid of 1 x 65536 x 1 blocks: allowed 1 to"));
  CHECK_THAT(message(86, dim3(1), dim3(32), size_t{100} << 10),
             Catch::Contains("102400 bytes of dynamic shared memory: sm_86 has 101376 for a block"));
  CHECK_THAT(message(70, dim3(1), dim3(32), 0), Catch::Contains("sm_70: found, allowed 75, 80, 86, 89, 90"));

  const auto with_static = [](size_t dynamic_bytes) {
    return attempt({.sm = 86}, [&](emu::Session&) {
      std::vector<int> out(32);
      cuda::launch(much_static, dim3(1), dim3(32), dynamic_bytes, nullptr, out.data());
      return out[31] == 1;
    });
  };
  CHECK(with_static(0).right);
  const Outcome too_much = with_static(size_t{40} << 10);
  REQUIRE(too_much.problem == Problem::launch);
  CHECK_THAT(too_much.message, Catch::Contains("large of 80000 bytes does not fit the 101376 bytes of shared memory that a block has on sm_86"));
}

}  // namespace
