// SPDX-License-Identifier: Apache-2.0
// The primitives of kernels/cuda/core/hopper.h and wgmma.h (sm_90a) as the emulator does them. PTX ISA: "mbarrier", "cp.async.bulk.tensor",
// "Asynchronous Warpgroup Level Matrix Instructions", "fence.proxy".
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/core/tensor_map.h"
#include "kernels/emu/device.h"
#include "kernels/emu/location.h"

namespace flexgen::emu {

// What the driver does on a card. Throws std::invalid_argument for a matrix that it refuses.
cuda::TensorMap encode(const cuda::TensorTile& tile);

void barrier_init(uint64_t* barrier, uint32_t arrivals, Location where);
void barrier_init_fence();
void barrier_arrive(uint64_t* barrier, uint32_t expected_bytes, Location where);
bool barrier_try_wait(uint64_t* barrier, uint32_t parity, Location where);
void fence_async_proxy();

void tma_load(void* shared, const cuda::TensorMap* map, int column, int row, uint64_t* barrier, Location where);
void tma_store(const cuda::TensorMap* map, int column, int row, const void* shared, Location where);
void tma_store_commit();
void tma_store_wait(uint32_t groups);

uint64_t matrix_descriptor(const void* shared, Location where);
void wgmma_fence(Location where);
void wgmma_commit(Location where);
void wgmma_wait(uint32_t groups, Location where);
// d: n / 2 accumulators of this lane; a: 64 x 16, b: n x 16, both with k next to each other, by their descriptors
void wgmma(MatrixType type, int n, float* d, uint64_t a, uint64_t b, bool accumulate, Location where);

void set_registers(int registers, bool raise, Location where);

}  // namespace flexgen::emu
