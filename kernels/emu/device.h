// SPDX-License-Identifier: Apache-2.0
// The primitives of kernels/cuda/core/vocab.h as the emulator does them. Only that header includes this one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/emu/location.h"

namespace flexgen::emu {

enum class MatrixType { f16, bf16 };

// cp.async of 16 bytes; valid == false fills with zeros and does not read. On sm_75 a plain load and store.
void copy_async(void* shared, const void* global, uint32_t bytes, bool valid, Location where);
void commit_copies();
void wait_copies(uint32_t groups);  // until at most this many committed groups of the calling thread are in flight

// ldmatrix.x4: lane l gives the address of row l % 8 of matrix l / 8
void load_matrix_x4(uint32_t* registers, const void* row, bool transposed, Location where);

// mma.sync with fp32 accumulators: d[4] += a * b
void mma_k8(float* d, const uint32_t* a, uint32_t b0, Location where);  // m16n8k8, a[2], f16
// m16n8k16, a[4]; on sm_75 two of the former, which takes f16 only
void mma_k16(MatrixType type, float* d, const uint32_t* a, uint32_t b0, uint32_t b1, Location where);

// One load or store of a whole value, where g++ might split it
void load_value(void* value, const void* p, size_t bytes, Location where);
void store_value(void* p, const void* value, size_t bytes, Location where);

// An atomic operation is about to change *p
void check_atomic(const void* p, size_t bytes, Location where);

}  // namespace flexgen::emu
