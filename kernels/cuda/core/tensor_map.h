// SPDX-License-Identifier: Apache-2.0
// Matrices as the tensor memory accelerator of sm_90 takes them: a description that host code fills in, and the 128 opaque bytes that
// the kernel gets. On a card the driver encodes one into the other (cuTensorMapEncodeTiled), in tests the emulator does.
#pragma once

#include <cstdint>

namespace flexgen::cuda {

// A row-major matrix of which a kernel loads or stores boxes
struct TensorTile {
  const void* data = nullptr;  // multiple of 16
  uint64_t rows = 0;
  uint64_t columns = 0;        // elements
  uint64_t row_bytes = 0;      // from row to row, multiple of 16
  uint32_t element_bytes = 0;  // 2 or 4
  uint32_t box_rows = 0;       // up to 256
  uint32_t box_columns = 0;    // elements; a row of the box is 128 bytes where swizzled, else a multiple of 16
  bool swizzled = true;        // 16-byte chunk c of row r of the box lies at chunk c ^ (r % 8): tile.h, swizzled<64>
};

struct alignas(64) TensorMap {
  uint64_t words[16];  // a CUtensorMap
};

}  // namespace flexgen::cuda
