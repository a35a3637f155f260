// SPDX-License-Identifier: Apache-2.0
// embed: a block copies one token's row.
#pragma once

#include "kernels/cuda/api/embed.h"
#include "kernels/cuda/core/element.h"
#include "kernels/cuda/core/scalar.h"
#include "kernels/cuda/core/vocab.h"

namespace flexgen::cuda {

// A row by its index in the whole table; one of the blocks holds it
template <class Element>
FG_DEVICE const Element* table_row(const RowBlocks& table, int row, int width) {
  int low = 0, high = table.n - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.range[middle].column <= row) low = middle;
    else high = middle - 1;
  }
  return static_cast<const Element*>(table.range[low].data) + static_cast<int64_t>(row - table.range[low].column) * width;
}

// Grid: n_tok. kWidth divides the width, and all rows are aligned to as many elements.
template <class Element, int kWidth>
FG_KERNEL(kEmbedThreads) embed_kernel(EmbedArguments a) {
  const int token = static_cast<int>(blockIdx.x);
  const Element* const from = table_row<Element>(a.tokens, a.ids != nullptr ? a.ids[token] : token, a.width);
  const Element* const position = a.position_ids != nullptr ? table_row<Element>(a.positions, a.position_ids[token], a.width) : nullptr;
  float* const to = a.y + token * a.y_stride;
  for (int c = static_cast<int>(threadIdx.x) * kWidth; c < a.width; c += kEmbedThreads * kWidth) {
    const Elements<Element, kWidth> in = load_elements<kWidth>(from + c);
    Elements<float, kWidth> out;
    FG_UNROLL for (int e = 0; e < kWidth; ++e) out.at[e] = to_float(in.at[e]);
    if (a.accumulate) {
      const Elements<float, kWidth> old = load_elements<kWidth>(to + c);
      FG_UNROLL for (int e = 0; e < kWidth; ++e) out.at[e] = add(old.at[e], out.at[e]);
    }
    if (position != nullptr) {
      const Elements<Element, kWidth> also = load_elements<kWidth>(position + c);
      FG_UNROLL for (int e = 0; e < kWidth; ++e) out.at[e] = add(out.at[e], to_float(also.at[e]));
    }
    store_elements(to + c, out);
  }
}

}  // namespace flexgen::cuda
