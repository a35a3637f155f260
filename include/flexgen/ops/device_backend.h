// SPDX-License-Identifier: Apache-2.0
// A backend whose operations run on a device: what it needs besides operands, and the queue through which it gets work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "flexgen/memory/device.h"
#include "flexgen/ops/backend.h"
#include "flexgen/ops/draw.h"

namespace flexgen {

// The most that one call will ask for
struct DeviceDemand {
  int64_t tokens = 0;        // T
  int64_t sequences = 0;     // spans
  int64_t pages = 0;         // of K and V together, of all spans
  int64_t widest_rows = 0;   // N of the widest matrix
  int64_t widest_cols = 0;   // K of the widest matrix
  DType weights = DType::f16;
  int64_t n_heads = 0;       // H
  KvLayout layout;
  int64_t logits = 0;        // rows that tokens are drawn from
};

// Matrix products of a queue whose backend shares them with a library (--gemm cublaslt), as launches: of some row blocks each
struct ProductCounts {
  uint64_t library = 0;     // computed by it
  uint64_t few_tokens = 0;  // by our own kernels, which read weights as fast as memory gives them
  uint64_t unfit = 0;       // by our own kernels: operands do not fit the library, or it has no kernel for them
};

// Work of one thread for one stream. Made by a DeviceBackend; its memory is free when it has gone, which waits for the stream.
class DeviceQueue {
 public:
  virtual ~DeviceQueue() = default;
  virtual Device& device() = 0;
  virtual Device::Stream stream() const = 0;

  // A token from each row of logits, which need not come to the host then. logits: [rows, V] and ids: [rows], of the device; draws: [rows],
  // may go when the call returns. ids[r]: the token; ~id of the first logit that is not finite where one is; kNotDrawn
  virtual void draw(const MatView<const float>& logits, std::span<const Draw> draws, int32_t* ids) = 0;

  // So far. All 0 where no library has a share
  virtual ProductCounts products() const { return {}; }
};

class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;
  virtual Device& device() = 0;
  // Their Queue::device is one of make_queue's. Fault::gpu where a launch fails
  virtual const Backend& operations() const = 0;

  // Bytes that a queue needs for calls within the demand: of the device's memory, 256-byte aligned, and of pinned host memory, on 4 KiB
  virtual size_t workspace_bytes(const DeviceDemand&) const = 0;
  virtual size_t arguments_bytes(const DeviceDemand&) const = 0;
  virtual std::unique_ptr<DeviceQueue> make_queue(const DeviceDemand&, Device::Stream, std::span<std::byte> workspace,
                                                  std::span<std::byte> arguments) = 0;
};

}  // namespace flexgen
