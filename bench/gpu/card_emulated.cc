// SPDX-License-Identifier: Apache-2.0
// gpu_check in the emulator: everything but the card. Its times mean nothing.
#include "bench/gpu/card.h"
#include "cuda/emulated_device.h"
#include "kernels/cuda/runtime/cublaslt.h"

namespace flexgen::bench {

void check_launch(int error, const char* what) {
  if (error != 0) fail(Fault::gpu, "{}: error {}", what, error);
}

OpenedCard open_card(int index, std::string& why_not) {
  if (index != 0) {
    why_not = fmt::format("1 card, cuda:{} asked for", index);
    return {};
  }
  OpenedCard opened;
  opened.device = std::make_unique<testing::EmulatedDevice>();
  opened.l2_bytes = size_t{64} << 10;
  opened.description = {{"name", opened.device->info().name}, {"arch", opened.device->info().arch}};
  return opened;
}

struct Recording::Graph {
  std::function<void()> launches;
};
Recording::Recording(Device::Stream, const std::function<void()>& launches) : graph_(std::make_unique<Graph>(Graph{launches})) {}
Recording::~Recording() = default;
void Recording::replay() { graph_->launches(); }

}  // namespace flexgen::bench

namespace flexgen::cuda {  // of which there is none either

struct CublasLt::Library {};
CublasLt::CublasLt(std::unique_ptr<Library> library) : library_(std::move(library)) {}
CublasLt::~CublasLt() = default;
std::unique_ptr<CublasLt> CublasLt::open(std::string& why_not, std::span<const char* const>) {
  why_not = "the emulator has none";
  return nullptr;
}
std::string CublasLt::version() const { return ""; }
int CublasLt::start() { return 1; }
int CublasLt::multiply(const LtProduct&, std::span<std::byte>, void*) { return 1; }
std::string CublasLt::error(int) const { return ""; }

}  // namespace flexgen::cuda
