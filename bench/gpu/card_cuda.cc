// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <utility>

#include "bench/gpu/card.h"
#include "kernels/cuda/runtime/cuda_device.h"

namespace flexgen::bench {
namespace {

int attribute(cudaDeviceAttr what, int index) {
  int value = 0;
  check_launch(cudaDeviceGetAttribute(&value, what, index), "cudaDeviceGetAttribute");
  return value;
}

std::string version(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

}  // namespace

void check_launch(int error, const char* what) {
  if (error != 0) fail(Fault::gpu, "{}: {}", what, cuda::error_text(error));
}

OpenedCard open_card(int index, std::string& why_not) {
  OpenedCard opened;
  const size_t cards = cuda::cuda_devices(&why_not).size();
  if (index < 0 || static_cast<size_t>(index) >= cards) {
    if (cards > 0) why_not = fmt::format("{} cards, cuda:{} asked for", cards, index);
    return opened;
  }
  opened.device = cuda::open_cuda_device(index);
  check_launch(cuda::use_card(index), "use_card");
  const DeviceInfo& info = opened.device->info();
  int driver = 0, runtime = 0;
  check_launch(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check_launch(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  opened.l2_bytes = static_cast<size_t>(attribute(cudaDevAttrL2CacheSize, index));
  opened.description = {{"name", info.name},
                        {"arch", info.arch},
                        {"multiprocessors", info.multiprocessors},
                        {"shared_bytes", info.shared_bytes},
                        {"l2_bytes", opened.l2_bytes},
                        {"total_bytes", info.total_bytes},
                        {"free_bytes", opened.device->free_bytes()},
                        {"most_clock_mhz", attribute(cudaDevAttrClockRate, index) / 1000},
                        {"most_memory_clock_mhz", attribute(cudaDevAttrMemoryClockRate, index) / 1000},
                        {"memory_bus_bits", attribute(cudaDevAttrGlobalMemoryBusWidth, index)},
                        {"ecc", attribute(cudaDevAttrEccEnabled, index) != 0},
                        {"driver_cuda", version(driver)},
                        {"runtime_cuda", version(runtime)}};
  return opened;
}

struct Recording::Graph {
  cudaStream_t stream = nullptr;
  cudaGraphExec_t executable = nullptr;
};

Recording::Recording(Device::Stream stream, const std::function<void()>& launches) : graph_(std::make_unique<Graph>()) {
  graph_->stream = static_cast<cudaStream_t>(stream);
  cudaGraph_t recorded = nullptr;
  check_launch(cudaStreamBeginCapture(graph_->stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  try {
    launches();
  } catch (...) {
    cudaStreamEndCapture(graph_->stream, &recorded);
    if (recorded) cudaGraphDestroy(recorded);
    throw;
  }
  check_launch(cudaStreamEndCapture(graph_->stream, &recorded), "cudaStreamEndCapture");
  const cudaError_t error = cudaGraphInstantiate(&graph_->executable, recorded, 0);
  cudaGraphDestroy(recorded);
  check_launch(error, "cudaGraphInstantiate");
}
Recording::~Recording() {
  if (graph_->executable) cudaGraphExecDestroy(graph_->executable);
}
void Recording::replay() { check_launch(cudaGraphLaunch(graph_->executable, graph_->stream), "cudaGraphLaunch"); }

}  // namespace flexgen::bench
