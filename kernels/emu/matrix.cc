// SPDX-License-Identifier: Apache-2.0
// ldmatrix and mma.sync, by the lane layouts of the PTX ISA, "Warp-level matrix instructions". See device.h.
#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>

#include "kernels/emu/block.h"
#include "kernels/emu/device.h"
#include "kernels/emu/number.h"

namespace flexgen::emu {
namespace {

constexpr uint32_t kFullWarp = 0xFFFFFFFFu;

void require_full_warp(uint32_t lanes, Location where, const char* what) {
  if (lanes != kFullWarp)
    running_block()->stop(Problem::divergence, {where}, fmt::format("{} with lanes {:#010x}: all 32 lanes of the warp must execute it", what, lanes));
}

struct LoadArgument {
  uint32_t* registers;
  const void* row;
};

// Eight rows of 16 bytes go through the 32 banks in one pass where each covers four banks of its own
void count_conflicts(Statistics& statistics, const std::array<const uint16_t*, 8>& rows) {
  uint32_t taken = 0;
  for (const uint16_t* row : rows) {
    const uint32_t banks = 1u << (reinterpret_cast<uintptr_t>(row) / 16 % 8);
    if ((taken & banks) != 0) ++statistics.ldmatrix_conflicts;
    taken |= banks;
  }
}

template <bool kTransposed>
void load_for_warp(void* const* arguments, uint32_t lanes, Location where) {
  require_full_warp(lanes, where, "ldmatrix");
  const Inside inside;
  Block& b = inside.block;
  ++b.statistics.ldmatrix;
  for (size_t matrix = 0; matrix < 4; ++matrix) {
    std::array<const uint16_t*, 8> rows;
    for (size_t i = 0; i < 8; ++i) rows[i] = static_cast<const uint16_t*>(static_cast<LoadArgument*>(arguments[matrix * 8 + i])->row);
    count_conflicts(b.statistics, rows);
    for (size_t lane = 0; lane < 32; ++lane) {
      const size_t r = lane / 4, c = lane % 4 * 2;
      const uint32_t low = kTransposed ? rows[c][r] : rows[r][c];
      const uint32_t high = kTransposed ? rows[c + 1][r] : rows[r][c + 1];
      static_cast<LoadArgument*>(arguments[lane])->registers[matrix] = low | high << 16;
    }
  }
}

struct MmaArgument {
  float* d;
  const uint32_t* a;
  uint32_t b0, b1;
};

// With g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type"):
//   a[i]: row g + 8 * (i & 1), columns 2t + 8 * (i >> 1) and the next one; k8 has a[0] and a[1]
//   b0, b1: column g, rows 2t and 2t + 1, for b1 8 further down
//   d[i]: row g + 8 * (i >> 1), column 2t + (i & 1)
template <MatrixType kType, int kK>
void mma_for_warp(void* const* arguments, uint32_t lanes, Location where) {
  require_full_warp(lanes, where, "mma");
  Block& block = *running_block();
  ++block.statistics.mma;
  float a[16][kK], b[kK][8], sum[16][8] = {};
  for (size_t lane = 0; lane < 32; ++lane) {
    const auto& x = *static_cast<const MmaArgument*>(arguments[lane]);
    const size_t g = lane / 4, t = lane % 4 * 2;
    for (size_t i = 0; i < kK / 4; ++i) {
      float* to = &a[g + (i & 1) * 8][t + (i >> 1) * 8];
      to[0] = to_float<kType>(static_cast<uint16_t>(x.a[i]));
      to[1] = to_float<kType>(static_cast<uint16_t>(x.a[i] >> 16));
    }
    for (size_t i = 0; i < kK / 8; ++i) {
      const uint32_t pair = i == 0 ? x.b0 : x.b1;
      b[t + i * 8][g] = to_float<kType>(static_cast<uint16_t>(pair));
      b[t + i * 8 + 1][g] = to_float<kType>(static_cast<uint16_t>(pair >> 16));
    }
  }
  for (size_t r = 0; r < 16; ++r)
    for (size_t k = 0; k < kK; ++k)
      for (size_t c = 0; c < 8; ++c) sum[r][c] += a[r][k] * b[k][c];
  for (size_t lane = 0; lane < 32; ++lane) {
    float* d = static_cast<const MmaArgument*>(arguments[lane])->d;
    for (size_t i = 0; i < 4; ++i) d[i] += sum[lane / 4 + (i >> 1) * 8][lane % 4 * 2 + (i & 1)];
  }
}

}  // namespace

void load_matrix_x4(uint32_t* registers, const void* row, bool transposed, Location where) {
  const Inside inside;
  Block& b = inside.block;
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    b.stop(Problem::alignment, {where}, fmt::format("ldmatrix of a row at {}: must be a multiple of 16", row));
  if (!b.shared.contains(row))
    b.stop(Problem::out_of_bounds, {where}, "ldmatrix of a row that is not in shared memory. Give an address in an array of FG_SHARED");
  if (b.race()) b.access_shared(row, 16, Access::read, {where});
  LoadArgument argument{registers, row};
  b.meet(WarpOperation::matrix_load, transposed, kFullWarp, &argument, transposed ? load_for_warp<true> : load_for_warp<false>, where);
}

void mma_k8(float* d, const uint32_t* a, uint32_t b0, Location where) {
  const Inside inside;
  MmaArgument argument{d, a, b0, 0};
  inside.block.meet(WarpOperation::mma, 8, kFullWarp, &argument, mma_for_warp<MatrixType::f16, 8>, where);
}

void mma_k16(MatrixType type, float* d, const uint32_t* a, uint32_t b0, uint32_t b1, Location where) {
  const Inside inside;
  Block& b = inside.block;
  if (b.options().sm < 80) {
    if (type == MatrixType::bf16)
      b.stop(Problem::unsupported, {where}, fmt::format("mma of bf16 on sm_{}, which has f16 only. Use a card from sm_80", b.options().sm));
    mma_k8(d, a, b0, where);
    return mma_k8(d, a + 2, b1, where);
  }
  MmaArgument argument{d, a, b0, b1};
  b.meet(WarpOperation::mma, type == MatrixType::bf16 ? 17 : 16, kFullWarp, &argument,
         type == MatrixType::bf16 ? mma_for_warp<MatrixType::bf16, 16> : mma_for_warp<MatrixType::f16, 16>, where);
}

}  // namespace flexgen::emu
