// SPDX-License-Identifier: Apache-2.0
// Tiles in shared memory: where a 16-byte chunk lies so that ldmatrix meets no bank conflict, rings of stages, the order in which
// blocks take output tiles. Pure functions, the same on both sides.
#pragma once

#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

inline constexpr int kChunkBytes = 16;  // one row of an 8x8 matrix of 16-bit values; one cp.async

// Element offset of 16-byte chunk `chunk` of row `row` in a tile of rows of kColumns 16-bit values without padding. Any 8 rows that
// begin at a multiple of 8 have one logical chunk in 8 different groups of 4 banks: 2, 4 or 8 rows already lie in different groups,
// as many as the chunks of a row have factors of two, and the others' chunks change places. With 64 columns it is the 128-byte swizzle
// of TMA and wgmma (PTX ISA, "Shared memory matrix layout"), whose tiles must begin at a multiple of 1024 bytes.
template <int kColumns>
FG_DEVICE int swizzled(int row, int chunk) {
  static_assert(kColumns % 16 == 0, "a row must hold a multiple of 32 bytes");
  constexpr int kChunks = kColumns / 8;
  if constexpr (kChunks % 8 == 0) {
    return row * kColumns + ((chunk ^ (row & 7)) * 8);
  } else if constexpr (kChunks % 4 == 0) {
    return row * kColumns + ((chunk ^ ((row >> 1) & 3)) * 8);
  } else {
    return row * kColumns + ((chunk ^ ((row >> 2) & 1)) * 8);
  }
}

// Stages of a ring are filled and read in turn: stage of step i, and how often the ring went round (the parity of its mbarriers)
template <int kStages>
struct StageRing {
  int stage = 0;
  uint32_t parity = 0;

  FG_DEVICE void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

struct TileIndex {
  int row;
  int column;
};

// Output tiles in bands of kBand tile rows, column by column within a band: blocks that run at the same time share rows of A and
// columns of W in the second-level cache. index in [0, rows * columns).
template <int kBand>
FG_DEVICE TileIndex tile_of(int index, int rows, int columns) {
  const int band = index / (kBand * columns);
  const int first = band * kBand;
  const int height = rows - first < kBand ? rows - first : kBand;
  const int within = index - band * kBand * columns;
  return {first + within % height, within / height};
}

}  // namespace flexgen::cuda
