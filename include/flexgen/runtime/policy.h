// SPDX-License-Identifier: Apache-2.0
// What the user decides about where things lie and how they move; the names and meanings are FlexGen's where it has one
// (flexllmgen/flex_opt.py, class Policy).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "flexgen/tensor/dtype.h"

namespace flexgen {

// When the hash of a weight block is compared: the first time it is read, every time, or never. Spilled cache pages always are.
enum class Verify : uint8_t { first, always, off };

// Where something lies: in a GPU's memory, in the host's, or in a file. Without a GPU the host's memory is the device's.
enum class Tier : uint8_t { device, host, disk };
inline constexpr size_t kTiers = 3;

// Shares, each 0 to 1; what device and host leave is on disk. Without a GPU the device's share lies in host memory.
struct TierShare {
  double device = 0, host = 1;

  double memory() const { return device + host < 1 ? device + host : 1; }
};

struct Policy {
  // --percent; without it the plan fills the memory there is
  struct Shares {
    TierShare weights, cache, activations;
  };
  std::optional<Shares> shares;
  uint64_t memory_bytes = 0;         // budget of the whole process; 0: what is free
  int64_t gpu_batch_size = 16;       // sequences of a micro-batch
  int64_t num_gpu_batches = 4;       // micro-batches of a block
  int64_t micro_batch_tokens = 512;  // tokens of a micro-batch; longer prompts are cut
  DType kv_dtype = DType::f16;
  bool overlap = true;               // off: everything is read when it is needed
  uint64_t look_ahead_bytes = 0;     // of weights; 0: 24 MiB, a device's 256 MiB, less for a small model
  bool sep_layer = true;             // attention and MLP hand over separately; off: hidden states stay in memory for a whole layer
  bool pin_weight = true;            // host weights in page-locked memory, where there is a device
  uint64_t device_bytes = 0;         // with a device: budget of its memory; 0: what is free
  bool cpu_cache_compute = false;    // with a device: cache pages in host memory are attended there, and only what comes of it moves
  bool deterministic = false;        // with a device: no result depends on the placement; on a CPU it never does
  Verify verify = Verify::first;
};

}  // namespace flexgen
