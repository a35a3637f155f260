// SPDX-License-Identifier: Apache-2.0
// The emulator runs what CUDA promises: indices, barriers, warp operations, atomics, copies, matrix instructions, in every order.
#include "kernels/emu/emulator.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cuda/core/launch.h"
#include "kernels/cuda/core/tile.h"
#include "kernels/cuda/core/vocab.h"
#include "support/catch.h"

namespace {

using namespace flexgen;
using cuda::launch;

const std::vector<emu::Options> kWays = {
    {.order = emu::Order::fifo, .async = emu::Async::early, .poison = false},
    {.order = emu::Order::fifo, .async = emu::Async::late},
    {.order = emu::Order::lifo, .async = emu::Async::late},
    {.order = emu::Order::random, .seed = 1},
    {.order = emu::Order::random, .seed = 2, .os_threads = 2},
    {.order = emu::Order::priority, .seed = 3},
    {.order = emu::Order::random, .seed = 4, .race = true},
};

FG_KERNEL(64) where_am_i(int* out) {
  const int block = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  out[block * 60 + thread] += block * 1000 + thread;
}

TEST_CASE("every thread of every block runs once") {
  for (const auto& options : kWays) {
    emu::Session session(options);
    std::vector<int> out(2 * 3 * 2 * 60, 0);
    session.add(out);
    CHECK(launch(where_am_i, dim3(2, 3, 2), dim3(5, 4, 3), 0, nullptr, out.data()) == 0);
    for (size_t i = 0; i < out.size(); ++i) CHECK(out[i] == static_cast<int>(i / 60 * 1000 + i % 60));
    CHECK(session.statistics().blocks == 12);
  }
}

// Sum of x, a histogram and the count of positive numbers, with every means that a kernel has to share something
FG_KERNEL(128) reduce(const float* x, float* sum, int* histogram, unsigned* positive, int n) {
  FG_SHARED(float, part, 32);
  FG_SHARED(int, bins, 8);
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32, warps = static_cast<int>(blockDim.x) / 32;
  if (t < 8) bins[t] = 0;
  __syncthreads();
  float s = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x) + t; i < n; i += static_cast<int>(gridDim.x * blockDim.x)) {
    s += x[i];
    atomicAdd(&bins[i % 8], 1);
    if (x[i] > 0) atomicAdd(positive, 1u);
  }
  for (int d = 16; d > 0; d /= 2) s += __shfl_down_sync(~0u, s, d);
  if (lane < 16) s += 0 * __shfl_xor_sync(0xFFFFu, s, 1);  // half a warp may meet alone
  if (lane == 0) part[warp] = s;
  __syncthreads();
  if (t < 32) {
    s = t < warps ? part[t] : 0;
    for (int d = 16; d > 0; d /= 2) s += __shfl_xor_sync(~0u, s, d);
    __syncwarp();
    part[lane] = s;
    __syncwarp();
    if (t == 0) atomicAdd(sum, part[31]);
  }
  __syncthreads();
  if (t < 8) atomicAdd(&histogram[t], bins[t]);
}

TEST_CASE("barriers, shuffles, atomics and shared memory, no false alarm") {
  std::vector<float> x(5000);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i % 97) - 48) * 0.25f;
  const float want = std::accumulate(x.begin(), x.end(), 0.0f);
  const auto positive = static_cast<unsigned>(std::count_if(x.begin(), x.end(), [](float v) { return v > 0; }));
  for (const auto& options : kWays) {
    emu::Session session(options);
    std::vector<float> sum(1, 0.0f);
    std::vector<int> histogram(8, 0);
    std::vector<unsigned> count(1, 0);
    session.add(x);
    session.add(sum);
    session.add(histogram);
    session.add(count);
    launch(reduce, dim3(3), dim3(128), 0, nullptr, x.data(), sum.data(), histogram.data(), count.data(), static_cast<int>(x.size()));
    CHECK(sum[0] == want);  // multiples of 1/4: exact in any order
    CHECK(count[0] == positive);
    for (const int h : histogram) CHECK(h == 625);
  }
}

}  // namespace
