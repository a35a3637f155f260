// SPDX-License-Identifier: Apache-2.0
// The machine's roofs, measured where the results are: what its FMA units and its memory give to code that does nothing else.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "flexgen/base/thread_pool.h"

namespace flexgen::bench {

// FLOP/s of f32 FMA over all threads: independent accumulators in registers of that instruction set, no memory. "avx512", "avx2", or
// anything else for what std::fma gives in plain code. Median of 5 runs of about 10 ms.
double fma_peak(ThreadPool& pool, std::string_view isa);

// bytes/s that all threads read from `memory`, each its own contiguous part, with one addition per 64 bits. Median of 5 passes.
// It is DRAM's only if memory is much larger than the last-level cache.
double read_bandwidth(ThreadPool& pool, std::span<const std::byte> memory);

// Bytes of the last-level cache that CPU 0 sees, or 0 where the system does not say. A virtual machine sees its host's, which others share.
uint64_t last_level_cache();

}  // namespace flexgen::bench
