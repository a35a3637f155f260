// SPDX-License-Identifier: Apache-2.0
// Reference of embed: one table row a token, found among the row blocks.
#pragma once

#include "flexgen/ops/backend.h"
#include "flexgen/tensor/half.h"

namespace flexgen::ref {

inline void embed(const EmbedArgs& a, Queue) {
  for (int64_t t = 0; t < a.y.rows; ++t) {
    const int64_t id = a.ids[static_cast<size_t>(t)];
    const RowBlock& block = row_block(a.table, id);
    for (int64_t i = 0; i < a.y.cols; ++i) {
      const float value = load_element(a.table.dtype, block.data, static_cast<size_t>((id - block.first_row) * a.table.cols + i));
      float& y = a.y.row(t)[i];
      y = a.accumulate ? y + value : value;
    }
  }
}

}  // namespace flexgen::ref
