// SPDX-License-Identifier: Apache-2.0
// The operations of ops/backend.h on a card: operands at addresses that the card reads and writes, work given to the queue's stream. A
// call allocates nothing and waits for nothing, unless the host is a whole ring of arguments ahead (api/argument_ring.h).
//
// Beyond the contracts of ops/ops.h:
// - Row blocks of linear are 16-byte aligned, and so are pages.
// - Parts of attention have no gaps: the stride of o is H * D, that of maximum and sum H. At most 1 + kMostAfter are merged.
// - Calls of linear that go on down the rows of one matrix, with the same x and y and no other operation in between, are one product: x is
//   rounded for all of them once and must not change before the last.
#pragma once

#include <memory>

#include "flexgen/ops/device_backend.h"
#include "kernels/cuda/api/choose.h"

namespace flexgen::cuda {

class CublasLt;

struct CudaBackendOptions {
  Arithmetic arithmetic = Arithmetic::fast;  // one_order: --deterministic; f32: the bits of the CPU backends
  std::shared_ptr<CublasLt> cublaslt = {};   // computes what it can of linear, with Arithmetic::fast; null: our own kernels all
};

// The device is one of CUDA's, or for tests one whose streams the emulator's launches go to; it outlives the backend, which outlives its
// queues.
std::unique_ptr<DeviceBackend> make_cuda_backend(Device& device, const CudaBackendOptions& options = {});

}  // namespace flexgen::cuda
