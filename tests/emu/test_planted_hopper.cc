// SPDX-License-Identifier: Apache-2.0
// Bugs planted in a GEMM of sm_90a with roles, TMA, mbarriers and wgmma, and which way of running finds each; the tables are the promise.
// Nothing may be found in the kernel without a bug.
#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "emu/planted.h"
#include "emu/small_hopper_gemm.h"
#include "kernels/emu/hopper.h"
#include "support/catch.h"

namespace {

using namespace flexgen;
using namespace flexgen::testing;
using emu::Problem;

constexpr int kM = 70, kK = 264;  // tails, and more steps than stages

float element(int row, int column, int salt) { return static_cast<float>((row * 7 + column * 13 + salt * 5 + row * column % 3) % 5 - 2); }

template <typename T>
T* aligned(std::vector<T>& storage, size_t bytes) {
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(storage.data()) + bytes - 1) / bytes * bytes);
}

// [kM, n]; small integers: exact in any order
template <int kN>
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

template <HopperBug kBug, typename T = __half, int kColumns = 64>
bool run_gemm(emu::Session& session) {
  constexpr int kN = kColumns + 20;  // a tail of columns; rows of out are multiples of 16 bytes
  const size_t margin = 64;
  std::vector<T> a_storage(static_cast<size_t>(kM * kK) + margin), w_storage(static_cast<size_t>(kN * kK) + margin);
  std::vector<float> out_storage(static_cast<size_t>(kM * kN) + margin, -77.0f);
  T *a = aligned(a_storage, 64), *w = aligned(w_storage, 64);
  float* out = aligned(out_storage, 64);
  for (int i = 0; i < kM; ++i)
    for (int k = 0; k < kK; ++k) a[i * kK + k] = T(element(i, k, 1));
  for (int j = 0; j < kN; ++j)
    for (int k = 0; k < kK; ++k) w[j * kK + k] = T(element(j, k, 2));
  session.add(a, static_cast<size_t>(kM * kK) * sizeof(T), "a");
  session.add(w, static_cast<size_t>(kN * kK) * sizeof(T), "w");
  session.add(out, static_cast<size_t>(kM * kN) * sizeof(float), "out");
  const auto map = [](const void* data, int rows, int columns, uint32_t bytes, uint32_t box_rows, uint32_t box_columns) {
    return emu::encode({data, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), static_cast<uint64_t>(columns) * bytes, bytes, box_rows,
                        box_columns, true});
  };
  using Tile = HopperGemm;
  cuda::launch(small_hopper_gemm<T, kColumns, kBug>, dim3((kN + kColumns - 1) / kColumns), dim3(Tile::kThreads), Tile::shared_bytes<kColumns>(),
               nullptr, map(a, kM, kK, 2, Tile::kRows, Tile::kDepth), map(w, kN, kK, 2, kColumns, Tile::kDepth),
               map(out, kM, kN, 4, Tile::kRows, Tile::kOutColumns), (kM + Tile::kRows - 1) / Tile::kRows, (kK + Tile::kDepth - 1) / Tile::kDepth);
  return std::equal(out, out + kM * kN, reference<kN>().begin());
}

template <HopperBug kBug>
PlantedBug planted(const char* name, Finds naive, Finds hostile, Finds race) {
  return {name, run_gemm<kBug>, std::move(naive), std::move(hostile), std::move(race)};
}

TEST_CASE("the GEMM with roles is right, whatever its width and type") {
  const auto all = [](const char* name, auto run) { check({name, run, kMissed, kMissed, kMissed}); };
  all("64, f16", run_gemm<HopperBug::none>);
  all("64, bf16", run_gemm<HopperBug::none, __nv_bfloat16>);
  const emu::Options race{.race = true};
  const auto at_128 = run_gemm<HopperBug::none, __half, 128>, at_256 = run_gemm<HopperBug::none, __nv_bfloat16, 256>;
  CHECK(attempt({}, at_128).right);
  CHECK(attempt(race, at_128).right);
  CHECK(attempt({}, at_256).right);
  const Outcome last = attempt(race, at_256);
  INFO(last.message);
  CHECK(last.right);
  CHECK(last.statistics.wgmma == 2 * 2 * 5 * 4 * 4);  // blocks, row tiles, steps, products, warps
  CHECK(last.statistics.tma_copies == 2 * 2 * (5 * 2 + 8));
}

TEST_CASE("bugs planted in a GEMM with roles") {
  const Finds hangs = stops(Problem::deadlock), unordered = stops(Problem::race, Problem::in_flight, Problem::uninitialised),
              overruns = stops(Problem::divergence);
  const std::vector<PlantedBug> bugs = {
      // name, what a fixed order finds with copies that land at once and no poison; what hostile orders find; what race mode finds
      planted<HopperBug::full_never_waited_for>("products begin before the tiles are there", kSomething, kSomething, unordered),
      planted<HopperBug::try_wait_ignored>("a wait that may give up is not repeated", kLuck, kLuck, unordered),
      planted<HopperBug::empty_never_waited_for>("tiles loaded over those in use", kSomething, kSomething,
                                                 stops(Problem::divergence, Problem::race, Problem::in_flight)),
      planted<HopperBug::empty_signalled_before_the_wait>("a stage given back before wgmma has read it", kMissed, kLuck, stops(Problem::race)),
      planted<HopperBug::wrong_parity>("wrong parity", hangs, hangs, hangs),
      planted<HopperBug::too_few_bytes_expected>("128 bytes too few expected", hangs, kSomething,
                                                 stops(Problem::deadlock, Problem::in_flight, Problem::race)),
      planted<HopperBug::too_many_bytes_expected>("128 bytes too many expected", hangs, hangs, hangs),
      planted<HopperBug::no_bytes_expected>("no bytes expected", kSomething, kSomething,
                                            stops(Problem::in_flight, Problem::race, Problem::deadlock, Problem::uninitialised)),
      planted<HopperBug::empty_counts_one_too_many>("a barrier that counts one arrival too many", hangs, hangs, hangs),
      planted<HopperBug::barriers_not_fenced>("mbarriers not fenced after their initialisation", kMissed, kMissed, stops(Problem::unfenced)),
      planted<HopperBug::no_barrier_after_init>("mbarriers used before they are initialised", kLuck, kLuck,
                                                stops(Problem::race, Problem::uninitialised, Problem::unfenced)),
      planted<HopperBug::wgmma_not_fenced>("wgmma without its fence", stops(Problem::unfenced), stops(Problem::unfenced), stops(Problem::unfenced)),
      planted<HopperBug::wgmma_not_waited_for>("wgmma not waited for", kWrong, kWrong, stops(Problem::race)),
      planted<HopperBug::wgmma_not_committed>("wgmma not committed", kWrong, kWrong, stops(Problem::race)),
      planted<HopperBug::descriptor_wrong>("a descriptor 16 values of k off", kWrong, kWrong, kWrong),
      planted<HopperBug::first_product_accumulates>("accumulators of the last tile kept", kWrong, kWrong, kWrong),
      planted<HopperBug::result_not_fenced>("no fence between stores and a TMA store", kMissed, kMissed, stops(Problem::unfenced)),
      planted<HopperBug::result_not_complete>("a TMA store before all threads wrote", kLuck, kLuck,
                                              stops(Problem::race, Problem::uninitialised, Problem::unfenced)),
      planted<HopperBug::store_not_waited_for>("a TMA store not waited for", stops(Problem::in_flight), kSomething,
                                               stops(Problem::in_flight, Problem::race)),
      planted<HopperBug::overwritten_while_stored>("the result overwritten while it is stored", kMissed, kLuck, stops(Problem::race)),
      planted<HopperBug::one_warp_skips_wgmma>("one warp of a group skips a wgmma", overruns, overruns, overruns),
      planted<HopperBug::box_unaligned>("a box that is not aligned to 1024", stops(Problem::alignment), stops(Problem::alignment),
                                        stops(Problem::alignment)),
  };
  for (const PlantedBug& bug : bugs) check(bug);
}

TEST_CASE("what only luck can show in a result, some hostile order does show") {
  const auto found = [](auto run) {
    for (const emu::Options& way : hostile_ways())
      if (!attempt(way, run).right) return true;
    return false;
  };
  CHECK(found(run_gemm<HopperBug::empty_signalled_before_the_wait>));
  CHECK(found(run_gemm<HopperBug::overwritten_while_stored>));
  CHECK(found(run_gemm<HopperBug::result_not_complete>));
}

TEST_CASE("a deadlock report counts what an mbarrier waits for") {
  const Outcome o = attempt({.order = emu::Order::fifo}, run_gemm<HopperBug::too_many_bytes_expected>);
  REQUIRE(o.problem == Problem::deadlock);
  CHECK_THAT(o.message,
             Catch::Matches("small_hopper_gemm\\.h:[0-9]+: kernel flexgen::testing::small_hopper_gemm<.*>, block \\([01],0,0\\), 129 of 256 threads "
                            "left: no thread can go on; "
                            "128 threads wait at small_hopper_gemm\\.h:[0-9]+ for the mbarrier that was initialised at small_hopper_gemm\\.h:[0-9]+, "
                            "of whose phase 0 0 of 1 arrivals and 128 bytes are missing.*"));
}

TEST_CASE("sm_80 has none of it") {
  const Outcome o = attempt({.sm = 80}, run_gemm<HopperBug::none>);
  REQUIRE(o.problem == Problem::unsupported);
  CHECK_THAT(o.message, Catch::Contains("an mbarrier with transactions on sm_80, which lacks it"));
}

template <int kProducer, int kConsumer>
FG_KERNEL(384, 1)
move_registers() {
  if (threadIdx.x < 128) {
    cuda::lower_registers<kProducer>();
  } else {
    cuda::raise_registers<kConsumer>();
  }
}

TEST_CASE("setmaxnreg within the register file") {
  const auto run = [](auto kernel) {
    return attempt({}, [kernel](emu::Session&) {
      cuda::launch(kernel, dim3(1), dim3(384), 0, nullptr);
      return true;
    });
  };
  CHECK(run(move_registers<40, 232>).right);
  const Outcome too_many = run(move_registers<40, 240>);
  REQUIRE(too_many.problem == Problem::launch);
  CHECK_THAT(too_many.message, Catch::Contains("520 registers a thread in all: there are 512"));
  const Outcome odd = run(move_registers<36, 232>);
  REQUIRE(odd.problem == Problem::launch);
  CHECK_THAT(odd.message, Catch::Contains("setmaxnreg of 36: allowed are multiples of 8 from 24 to 256"));
}

// A box of out[6, 40] f32 through TMA and back, one added on the way by ordinary code
FG_KERNEL(32) add_one(FG_GRID_CONSTANT cuda::TensorMap in, FG_GRID_CONSTANT cuda::TensorMap out, int row, int column) {
  FG_DYNAMIC_SHARED(float, box);
  FG_SHARED(uint64_t, full, 1);
  const int lane = static_cast<int>(threadIdx.x);
  if (lane == 0) {
    cuda::barrier_init(full, 1);
    cuda::barrier_init_fence();
    cuda::barrier_arrive_expect(full, 8 * 8 * 4);
    cuda::tma_load(box, &in, column, row, full);
  }
  __syncwarp();
  cuda::barrier_wait(full, 0);
  for (int i = lane; i < 64; i += 32) box[i] += 1;
  cuda::fence_async_proxy();
  __syncwarp();
  if (lane == 0) {
    cuda::tma_store(&out, column, row, box);
    cuda::tma_store_commit();
    cuda::tma_store_wait<0>();
  }
}

TEST_CASE("a box at a corner of the matrix: zeros come in, nothing goes out") {
  for (const auto& options : race_ways()) {
    emu::Session session(options);
    std::vector<float> in_storage(6 * 40 + 64), out_storage(6 * 40 + 64, -5.0f);
    float *in = aligned(in_storage, 64), *out = aligned(out_storage, 64);
    for (int i = 0; i < 240; ++i) in[i] = static_cast<float>(i);
    session.add(in, 960, "in");
    session.add(out, 960, "out");
    const auto map = [](const void* p) { return emu::encode({p, 6, 40, 160, 4, 8, 8, false}); };
    cuda::launch(add_one, dim3(1), dim3(32), 256, nullptr, map(in), map(out), 3, -2);
    for (int r = 0; r < 6; ++r)
      for (int c = 0; c < 40; ++c) CHECK(out[r * 40 + c] == (r >= 3 && c < 6 ? in[r * 40 + c] + 1 : -5.0f));
  }
}

TEST_CASE("matrices that the driver refuses") {
  alignas(64) static float data[64];
  const cuda::TensorTile good{data, 4, 16, 64, 4, 4, 16, false};
  CHECK_NOTHROW(emu::encode(good));
  const auto message = [&](auto change) {
    cuda::TensorTile t = good;
    change(t);
    try {
      emu::encode(t);
    } catch (const std::invalid_argument& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK_THAT(message([](auto& t) { t.data = data + 1; }), Catch::Contains("must be a multiple of 16"));
  CHECK_THAT(message([](auto& t) { t.rows = 0; }), Catch::Contains("an empty matrix"));
  CHECK_THAT(message([](auto& t) { t.element_bytes = 3; }), Catch::Contains("elements of 3 bytes: allowed 2 and 4"));
  CHECK_THAT(message([](auto& t) { t.row_bytes = 72; }), Catch::Contains("72 bytes from row to row: must be a multiple of 16"));
  CHECK_THAT(message([](auto& t) { t.box_rows = 257; }), Catch::Contains("a box of 257 x 16: allowed 1 to 256 each"));
  CHECK_THAT(message([](auto& t) { t.box_columns = 3; }), Catch::Contains("a row of 12 bytes in the box: must be a multiple of 16"));
  CHECK_THAT(message([](auto& t) { t.swizzled = true; }), Catch::Contains("a row of 64 bytes in the box: must be 128 with this swizzle"));
}

}  // namespace
