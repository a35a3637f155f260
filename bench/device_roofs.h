// SPDX-License-Identifier: Apache-2.0
// What a card gives to code that does nothing else: its link to host memory, and our own matrix product on it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bench/harness.h"
#include "flexgen/memory/arena.h"
#include "flexgen/memory/device.h"
#include "flexgen/ops/device_backend.h"
#include "flexgen/tensor/half.h"

namespace flexgen::bench {

// bytes/s of pinned copies of 64 MiB to the card, median of 20; throws Fault::gpu, Fault::space
inline double link_rate(Device& device) {
  constexpr size_t kBytes = 64_MiB;
  constexpr int kRuns = 20;
  const Arena host(kBytes, &device);
  const DeviceMemory memory(device, kBytes);
  const DeviceStream stream(device);
  const DeviceEvent begin(device, true), end(device, true);
  std::vector<double> seconds;
  for (int i = 0; i < kRuns; ++i) {
    device.record(begin, stream);
    device.copy(memory.data(), host.memory().data(), kBytes, stream);
    device.record(end, stream);
    device.synchronize(end);
    seconds.push_back(device.seconds_between(begin, end));
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return static_cast<double>(kBytes) / seconds[kRuns / 2];
}

// FLOP/s of the card's linear with n_tok tokens and a matrix of that shape, another one each time until the card's cache must have
// forgotten it; median of 20. Small numbers of tokens are bound by the card's memory, which is then what this shows.
inline double product_rate(DeviceBackend& backend, DType dtype, int64_t rows, int64_t cols, int64_t n_tok) {
  constexpr int kRuns = 20;
  Device& device = backend.device();
  const size_t bytes = round_up<size_t>(static_cast<size_t>(rows * cols) * size_of(dtype), 256);
  const size_t copies = std::clamp<size_t>(256_MiB / bytes, 2, 16);
  DeviceDemand demand;
  demand.tokens = n_tok;
  demand.widest_rows = rows, demand.widest_cols = cols, demand.weights = dtype;
  demand.sequences = demand.pages = demand.n_heads = 1;
  demand.layout = {DType::f16, 1, 64, kAttentionBlock};
  const size_t workspace = round_up<size_t>(backend.workspace_bytes(demand), 256),
               x_bytes = round_up<size_t>(static_cast<size_t>(n_tok * cols) * sizeof(float), 256),
               y_bytes = static_cast<size_t>(n_tok * rows) * sizeof(float);
  // random content: zeros would run cooler, and faster, than weights do
  const Arena host(std::max(bytes, x_bytes) + round_up<size_t>(backend.arguments_bytes(demand), 4096), &device);
  std::span<std::byte> left = host.memory();
  const std::span<std::byte> content = left.first(round_up<size_t>(std::max(bytes, x_bytes), 4096));
  const DeviceMemory weights(device, bytes * copies), x(device, x_bytes), y(device, y_bytes), space(device, workspace);
  const DeviceStream stream(device);
  uint64_t state = 1;
  const auto fill = [&](DType type, size_t n) {
    for (size_t i = 0; i < n; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      store_element(type, content.data(), i, static_cast<float>(static_cast<int64_t>(state >> 40) - (1 << 23)) * 0x1p-27f);
    }
  };
  fill(dtype, static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < copies; ++i) device.copy(weights.data() + i * bytes, content.data(), bytes, stream);
  device.synchronize_stream(stream);
  fill(DType::f32, static_cast<size_t>(n_tok * cols));
  device.copy(x.data(), content.data(), x_bytes, stream);
  device.synchronize_stream(stream);

  const std::unique_ptr<DeviceQueue> queue = backend.make_queue(demand, stream, space.memory(), left.subspan(content.size()));
  const DeviceEvent begin(device, true), end(device, true);
  std::vector<double> seconds;
  for (int i = 0; i < kRuns + 3; ++i) {
    const RowBlock block{weights.data() + static_cast<size_t>(i) % copies * bytes, 0, rows};
    device.record(begin, stream);
    linear(backend.operations(),
           {{reinterpret_cast<const float*>(x.data()), n_tok, cols, cols},
            {dtype, rows, cols, {&block, 1}},
            nullptr,
            {reinterpret_cast<float*>(y.data()), n_tok, rows, rows},
            Activation::none,
            false},
           {nullptr, queue.get()});
    device.record(end, stream);
    device.synchronize(end);
    if (i >= 3) seconds.push_back(device.seconds_between(begin, end));  // the first ones load kernels
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return 2.0 * static_cast<double>(rows * cols) * static_cast<double>(n_tok) / seconds[kRuns / 2];
}

}  // namespace flexgen::bench
